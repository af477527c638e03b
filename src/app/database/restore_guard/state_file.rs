//! The memory of this machine: the newest mark of each installation that a process on it has seen, one small file per
//! installation. A file is replaced as a whole, under a lock that the processes of the machine share, and never by an older
//! mark.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::domain::installation::restore::Mark;

/// The directory of the files.
#[derive(Debug, Clone)]
pub(in crate::app) struct StateFiles {
    dir: PathBuf,
}

impl StateFiles {
    /// Returns the files in a directory; `None` if the path is empty or there is no such directory.
    pub fn open(dir: &Path) -> Option<Self> {
        dir.is_dir().then(|| Self { dir: dir.to_owned() })
    }

    fn path(&self, installation: Uuid) -> PathBuf {
        self.dir.join(format!("restore-guard-{installation}.json"))
    }

    /// Reads the mark stored for an installation; `None` if there is none. Fails if the file exists and is not readable.
    pub fn read(&self, installation: Uuid) -> io::Result<Option<Mark>> {
        match fs::read(self.path(installation)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Remembers a mark, unless the file has a newer one, or another process is writing to it: a later mark follows soon.
    pub fn write(&self, mark: &Mark) -> io::Result<()> {
        let path = self.path(mark.installation);
        let lock = File::create(path.with_extension("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // A file that cannot be read is replaced: this process knows the newest state.
        if let Ok(Some(known)) = self.read(mark.installation)
            && (known.epoch, known.number) >= (mark.epoch, mark.number)
        {
            return Ok(());
        }
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(mark).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    fn mark(epoch: i64, number: i64) -> Mark {
        let (installation, epoch) = (Uuid::nil(), DateTime::UNIX_EPOCH + TimeDelta::seconds(epoch));
        Mark { installation, epoch, number, at: epoch, timeline: Some(1), lsn: None, event_seq: 3, branch: None }
    }

    #[test]
    fn newest_mark_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let files = StateFiles::open(dir.path()).unwrap();
        assert_eq!(files.read(Uuid::nil()).unwrap(), None);
        for (written, remembered) in
            [(mark(0, 5), mark(0, 5)), (mark(0, 4), mark(0, 5)), (mark(9, 1), mark(9, 1)), (mark(0, 6), mark(9, 1))]
        {
            files.write(&written).unwrap();
            assert_eq!(files.read(Uuid::nil()).unwrap(), Some(remembered));
        }
        assert_eq!(files.read(Uuid::max()).unwrap(), None, "another installation");
    }

    #[test]
    fn file_of_a_version_without_branches_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let files = StateFiles::open(dir.path()).unwrap();
        let mut file = serde_json::to_value(mark(0, 5)).unwrap();
        assert!(file.as_object_mut().unwrap().remove("branch").is_some());
        fs::write(files.path(Uuid::nil()), file.to_string()).unwrap();
        assert_eq!(files.read(Uuid::nil()).unwrap(), Some(mark(0, 5)));
    }

    #[test]
    fn file_that_another_process_writes_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let files = StateFiles::open(dir.path()).unwrap();
        let lock = File::create(files.path(Uuid::nil()).with_extension("lock")).unwrap();
        lock.lock().unwrap();
        files.write(&mark(0, 1)).unwrap();
        assert_eq!(files.read(Uuid::nil()).unwrap(), None);
        drop(lock);
        files.write(&mark(0, 2)).unwrap();
        assert_eq!(files.read(Uuid::nil()).unwrap(), Some(mark(0, 2)));
    }

    #[test]
    fn damaged_file_is_reported_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let files = StateFiles::open(dir.path()).unwrap();
        fs::write(files.path(Uuid::nil()), "{").unwrap();
        assert!(files.read(Uuid::nil()).is_err());
        files.write(&mark(0, 1)).unwrap();
        assert_eq!(files.read(Uuid::nil()).unwrap(), Some(mark(0, 1)));
        assert!(StateFiles::open(Path::new("")).is_none() && StateFiles::open(Path::new("/no/such")).is_none());
    }
}
