//! Creates the cluster's files with `initdb`, completely or not at all, and opens existing ones.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::PostgresError;
use super::binaries::Binaries;
use super::error::complaint;
use super::home::{Home, private_file};
use super::process::plain_command;

/// The cluster's superuser.
pub(super) const USER: &str = "postrider";

/// The prefix of the names of incomplete clusters.
const UNFINISHED: &str = "data.new.";

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
        let binaries = Binaries::find(made_by(&data)?)?;
        let password_file = home.dir().join("password");
        let password = if data.exists() {
            fs::read_to_string(&password_file).map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => PostgresError::NoPassword { path: password_file.clone() },
                _ => PostgresError::File { path: password_file.clone(), source },
            })?
        } else {
            make(home, &binaries, &password_file, durable).await?
        };
        Ok(Self { binaries, data, password: password.trim().to_owned() })
    }
}

/// The major version that created the data, if there is any.
fn made_by(data: &Path) -> Result<Option<u32>, PostgresError> {
    if !data.exists() {
        return Ok(None);
    }
    let path = data.join("PG_VERSION");
    let text = fs::read_to_string(&path).map_err(PostgresError::at(&path))?;
    Ok(text.trim().parse().ok())
}

/// Creates a cluster under a temporary name and renames it once it is complete. Returns the password.
async fn make(home: &Home, binaries: &Binaries, password_file: &Path, durable: bool) -> Result<String, PostgresError> {
    sweep(home.dir());
    // An `initdb` whose parent was killed may still run: it must not find its directory again.
    let unfinished = home.dir().join(format!("{UNFINISHED}{:08x}", rand::random::<u32>()));
    let password = write_password(home, password_file)?;
    fs::create_dir(&unfinished).and_then(|()| give(home, &unfinished)).map_err(PostgresError::at(&unfinished))?;
    let output = initdb(home, binaries, &unfinished, password_file, durable).output().await;
    let output = output.map_err(PostgresError::at(&binaries.program("initdb")))?;
    if !output.status.success() {
        // Frees the space that an incomplete cluster takes on a full disk.
        let _ = fs::remove_dir_all(&unfinished);
        let reason = complaint(&String::from_utf8_lossy(&output.stderr));
        return Err(PostgresError::Init { dir: home.dir().to_owned(), reason });
    }
    let rename = fs::rename(&unfinished, home.data()).and_then(|()| fs::File::open(home.dir())?.sync_all());
    rename.map_err(PostgresError::at(&home.data()))?;
    Ok(password)
}

/// Removes incomplete clusters. Files that cannot be removed do no harm.
fn sweep(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes())) {
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
    let written = private_file(path).and_then(|path| fs::write(path, &password)).and_then(|()| give(home, path));
    written.map_err(PostgresError::at(path))?;
    Ok(password)
}

/// Gives a file to the user that Postgres runs as.
fn give(home: &Home, path: &Path) -> std::io::Result<()> {
    home.account.map_or(Ok(()), |account| chown(path, Some(account.uid), Some(account.gid)))
}
