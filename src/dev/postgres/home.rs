//! The cluster's directory: its real path, its permissions, and its lock.
//!
//! ```text
//! DIR/lock           locked by the running process, contains its pid
//! DIR/password       of the superuser, mode 0600
//! DIR/data           the cluster; data.new.… while it is created
//! DIR/postgres.log   of this start; postgres.log.old of the one before
//! DIR/cluster        a link to the directory with the files above, if they are elsewhere
//! ```

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::PostgresError;
use super::account::Account;
use crate::domain::key::hex;

/// The parent directory of clusters that cannot be in the requested directory.
const ELSEWHERE: &str = "/var/lib/postrider";

/// How long to wait for the lock while another process that uses the directory ends.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A directory that the account can enter.
#[derive(Debug)]
pub(super) struct Home {
    /// The cluster's directory: an absolute path without symbolic links.
    dir: PathBuf,
    /// The user that Postgres runs as, if it is not the user of this process.
    pub(super) account: Option<Account>,
}

/// The lock on a directory. It excludes other processes until it is dropped or this process ends.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "held, not read")] File);

impl Home {
    /// Creates `dir` if it is missing, and determines where the cluster is.
    pub(super) fn open(dir: &Path) -> Result<Self, PostgresError> {
        let dir = create(dir)?;
        let link = dir.join("cluster");
        let home = if link.exists() { create(&link)? } else { dir };
        let account = Account::for_cluster(&home.join("data"))?;
        match account {
            Some(account) if !reachable(&home, account)? => Self::elsewhere(&home, account),
            _ => Self { dir: home, account }.made_accessible(),
        }
    }

    /// Creates a directory that is named after a hash of the requested path, and a link to it in the requested directory.
    fn elsewhere(requested: &Path, account: Account) -> Result<Self, PostgresError> {
        let name = hex(&Sha256::digest(requested.as_os_str().as_encoded_bytes()));
        let dir = create(&Path::new(ELSEWHERE).join(name.get(..16).unwrap_or(&name)))?;
        let link = requested.join("cluster");
        // A link to a cluster that was removed is replaced.
        let _ = fs::remove_file(&link);
        symlink(&dir, &link).map_err(PostgresError::at(&link))?;
        Self { dir, account: Some(account) }.made_accessible()
    }

    /// Changes the directory's permissions so that the account can enter it. Other users cannot list it.
    fn made_accessible(self) -> Result<Self, PostgresError> {
        if let Some(account) = self.account {
            let own = fs::metadata(&self.dir).map_err(PostgresError::at(&self.dir))?;
            if !account.can_enter(&own) {
                let wider = Permissions::from_mode(own.permissions().mode() | 0o011);
                fs::set_permissions(&self.dir, wider).map_err(PostgresError::at(&self.dir))?;
            }
        }
        Ok(self)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("postgres.log")
    }

    /// Creates an empty log. The previous log is renamed to `postgres.log.old`.
    pub(super) fn new_log(&self) -> Result<File, PostgresError> {
        let log = self.log();
        // At the first start there is no log to rename.
        let _ = fs::rename(&log, self.dir.join("postgres.log.old"));
        private_file(&log).and_then(|path| OpenOptions::new().append(true).open(path)).map_err(PostgresError::at(&log))
    }

    /// Locks the directory for this process. A process that was just killed may still hold the lock for a moment.
    pub(super) async fn lock(&self) -> Result<Lock, PostgresError> {
        let path = self.dir.join("lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(PostgresError::at(&path))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => tokio::time::sleep(POLL_INTERVAL).await,
                Err(TryLockError::WouldBlock) => return Err(self.in_use(&mut file)),
                Err(TryLockError::Error(source)) => return Err(PostgresError::File { path, source }),
            }
        }
        let pid = format!("{}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(PostgresError::at(&path))?;
        Ok(Lock(file))
    }

    fn in_use(&self, file: &mut File) -> PostgresError {
        let mut pid = String::new();
        // The pid is only for the error's text, and may be missing.
        let _ = file.read_to_string(&mut pid);
        PostgresError::InUse { dir: self.dir.clone(), pid: pid.trim().to_owned() }
    }
}

/// Creates an empty file that only its owner can read, and replaces an existing one.
pub(super) fn private_file(path: &Path) -> std::io::Result<&Path> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(path)
}

fn create(dir: &Path) -> Result<PathBuf, PostgresError> {
    fs::create_dir_all(dir).and_then(|()| dir.canonicalize()).map_err(PostgresError::at(dir))
}

/// Returns whether the account can enter every parent directory.
fn reachable(dir: &Path, account: Account) -> Result<bool, PostgresError> {
    for parent in dir.ancestors().skip(1) {
        let metadata = fs::metadata(parent).map_err(PostgresError::at(parent))?;
        if !account.can_enter(&metadata) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn directory_is_locked_by_one_process_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home { dir: dir.path().to_owned(), account: None };
        let first = home.lock().await.expect("the first");
        let second = home.lock().await.expect_err("the second").to_string();
        assert!(
            second.starts_with("another postrider dev is running in ")
                && second.contains(&std::process::id().to_string())
        );
        drop(first);
        home.lock().await.expect("the third");
    }

    #[test]
    fn inaccessible_parent_directory_is_detected() {
        let dir = tempfile::tempdir().expect("a directory");
        let inside = create(&dir.path().join("a/b")).expect("a directory");
        let other_user = Account { uid: 4_000_001, gid: 4_000_001 };
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("a mode");
        assert!(!reachable(&inside, other_user).expect("a result"));
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).expect("a mode");
        assert!(reachable(&inside, other_user).expect("a result"));
    }
}
