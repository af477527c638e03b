//! Creates the cluster's files with `initdb`, completely or not at all, and opens existing ones.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::PostgresError;
use super::binaries::Binaries;
use super::error::first_error;
use super::home::{Home, private_file};
use super::process::plain_command;

/// The cluster's superuser.
pub(super) const USER: &str = "postrider";

/// The prefix of the names of incomplete clusters.
const INCOMPLETE: &str = "data.new.";

/// A cluster that can be started.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) binaries: Binaries,
    pub(super) data: PathBuf,
    pub(super) password: String,
}

impl Cluster {
    /// Opens the cluster, creating it first if it does not exist.
    pub(super) async fn open(home: &Home, durable: bool) -> Result<Self, PostgresError> {
        let data = home.data();
        let binaries = Binaries::find(data_version(&data)?)?;
        let password_file = home.dir().join("password");
        let password = if data.exists() {
            fs::read_to_string(&password_file).map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => PostgresError::NoPassword { path: password_file.clone() },
                _ => PostgresError::File { path: password_file.clone(), source },
            })?
        } else {
            create(home, &binaries, &password_file, durable).await?
        };
        Ok(Self { binaries, data, password: password.trim().to_owned() })
    }
}

/// Returns the major version of Postgres that created the data, or `None` if there is no data.
fn data_version(data: &Path) -> Result<Option<u32>, PostgresError> {
    if !data.exists() {
        return Ok(None);
    }
    let path = data.join("PG_VERSION");
    let text = fs::read_to_string(&path).map_err(PostgresError::at(&path))?;
    Ok(text.trim().parse().ok())
}

/// Creates a cluster under a temporary name and renames it once it is complete. Returns the password.
async fn create(
    home: &Home,
    binaries: &Binaries,
    password_file: &Path,
    durable: bool,
) -> Result<String, PostgresError> {
    remove_incomplete(home.dir());
    // An `initdb` whose parent was killed may still run. The random name keeps it out of the new directory.
    let incomplete = home.dir().join(format!("{INCOMPLETE}{:08x}", rand::random::<u32>()));
    let password = write_password(home, password_file)?;
    fs::create_dir(&incomplete)
        .and_then(|()| change_owner(home, &incomplete))
        .map_err(PostgresError::at(&incomplete))?;
    let output = initdb(home, binaries, &incomplete, password_file, durable).output().await;
    let output = output.map_err(PostgresError::at(&binaries.program("initdb")))?;
    if !output.status.success() {
        // Removing the incomplete cluster frees its space, which matters if the disk is full.
        let _ = fs::remove_dir_all(&incomplete);
        let reason = first_error(&String::from_utf8_lossy(&output.stderr));
        return Err(PostgresError::Init { dir: home.dir().to_owned(), reason });
    }
    let rename = fs::rename(&incomplete, home.data()).and_then(|()| fs::File::open(home.dir())?.sync_all());
    rename.map_err(PostgresError::at(&home.data()))?;
    Ok(password)
}

/// Removes incomplete clusters. Files that cannot be removed do no harm.
fn remove_incomplete(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(INCOMPLETE.as_bytes())) {
        let _ = fs::remove_dir_all(entry.path());
    }
}

fn initdb(home: &Home, binaries: &Binaries, data: &Path, password_file: &Path, durable: bool) -> Command {
    let mut command = plain_command(home, &binaries.program("initdb"));
    command
        .args(["--username", USER, "--encoding", "UTF8", "--locale", "C", "--auth", "scram-sha-256"])
        .arg("--no-instructions")
        .arg(if durable { "--data-checksums" } else { "--no-sync" })
        .arg("--pwfile")
        .arg(password_file)
        .arg("--pgdata")
        .arg(data)
        .kill_on_drop(true);
    command
}

fn write_password(home: &Home, path: &Path) -> Result<String, PostgresError> {
    let password = format!("{:032x}", rand::random::<u128>());
    let written =
        private_file(path).and_then(|path| fs::write(path, &password)).and_then(|()| change_owner(home, path));
    written.map_err(PostgresError::at(path))?;
    Ok(password)
}

/// Changes a file's owner to the user that Postgres runs as.
fn change_owner(home: &Home, path: &Path) -> std::io::Result<()> {
    home.account.map_or(Ok(()), |account| chown(path, Some(account.uid), Some(account.gid)))
}
