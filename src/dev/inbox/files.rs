//! The inbox's directory: `NNNNNN.eml` and `NNNNNN.json`, each written to a temporary file and then renamed.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{InboxError, Summary};

/// Mode of every file: the owner reads and writes.
const PRIVATE: u32 = 0o600;

/// The files of one inbox. All methods block, so they must not be called on an async thread.
#[derive(Debug, Clone)]
pub(super) struct Files {
    dir: Arc<Path>,
}

impl Files {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir: dir.into() }
    }

    fn path(&self, n: u64, extension: &str) -> PathBuf {
        self.dir.join(format!("{n:06}.{extension}"))
    }

    /// Returns the summary of every complete message, and deletes the files of incomplete ones.
    pub(super) fn load(&self) -> io::Result<BTreeMap<u64, Summary>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let (mut summaries, mut bodies) = (BTreeMap::new(), HashSet::new());
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
            let (Some(n), Some(extension)) = (number, path.extension().and_then(|extension| extension.to_str())) else {
                continue;
            };
            if matches!(extension, "eml" | "json") {
                make_private(&path)?;
            }
            match extension {
                "eml" => bodies.extend([n]),
                "json" => summaries.extend(read_summary(&path, n)?.map(|summary| (n, summary))),
                "new" => remove(&path)?,
                _ => {}
            }
        }
        summaries.retain(|n, _| bodies.contains(n));
        for n in bodies.into_iter().filter(|n| !summaries.contains_key(n)) {
            self.remove(n)?;
        }
        Ok(summaries)
    }

    /// Writes a message. It exists once the last file has been renamed.
    pub(super) fn write(&self, summary: &Summary, data: &[u8]) -> io::Result<()> {
        let n = summary.n;
        let written = self.put(n, "eml", data).and_then(|()| self.put(n, "json", &serde_json::to_vec(summary)?));
        if written.is_err() {
            // Removes what was written, for instance before the disk was full. Errors of the removal are ignored: the
            // first error is returned.
            let _ = remove(&self.path(n, "new")).and_then(|()| self.remove(n));
        }
        written
    }

    fn put(&self, n: u64, extension: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.path(n, "new");
        write_private(&temporary, bytes)?;
        fs::rename(&temporary, self.path(n, extension))
    }

    /// Returns the message as received.
    pub(super) fn eml(&self, n: u64) -> Result<Vec<u8>, InboxError> {
        match fs::read(self.path(n, "eml")) {
            // The message was deleted after its summary was read.
            Err(error) if error.kind() == ErrorKind::NotFound => Err(InboxError::NoMessage { n }),
            other => Ok(other?),
        }
    }

    /// Deletes a message, the summary first, so that a message never exists in part.
    pub(super) fn remove(&self, n: u64) -> io::Result<()> {
        remove(&self.path(n, "json"))?;
        remove(&self.path(n, "eml"))
    }
}

/// Reads a stored summary; `None` if it is invalid or belongs to another message.
fn read_summary(path: &Path, n: u64) -> io::Result<Option<Summary>> {
    let summary = serde_json::from_slice::<Summary>(&fs::read(path)?);
    Ok(summary.ok().filter(|summary| summary.n == n))
}

/// Writes a file that only its owner can read: a message may contain a password reset link.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(path)?;
    file.write_all(bytes)
}

/// Removes the permissions of other users from a file that an earlier version wrote.
fn make_private(path: &Path) -> io::Result<()> {
    let is_open = fs::metadata(path)?.permissions().mode() & 0o077 != 0;
    if is_open { fs::set_permissions(path, Permissions::from_mode(PRIVATE)) } else { Ok(()) }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
