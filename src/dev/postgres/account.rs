//! The user that Postgres runs as: the user of this process, or another one if this process runs as root, because
//! Postgres refuses to run as root.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use super::PostgresError;

/// The ids of a user and of its primary group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

const PASSWD: &str = "/etc/passwd";

impl Account {
    /// Returns the user that is to run the cluster in the directory `data`; `None` means the user of this process. If the
    /// directory exists, this is its owner, unless that is root: an earlier start may not have run as root.
    pub(super) fn for_cluster(data: &Path) -> Result<Option<Self>, PostgresError> {
        if !is_root() {
            return Ok(None);
        }
        if let Ok(owner) = fs::metadata(data)
            && owner.uid() != 0
        {
            return Ok(Some(Self { uid: owner.uid(), gid: owner.gid() }));
        }
        let passwd = fs::read_to_string(PASSWD).map_err(PostgresError::at(Path::new(PASSWD)))?;
        let account = ["postgres", "nobody"].iter().find_map(|name| look_up(&passwd, name));
        account.map(Some).ok_or(PostgresError::NoAccount)
    }

    /// Returns whether this user can enter a directory. Supplementary groups do not count, because they are dropped.
    pub(super) fn can_enter(self, directory: &fs::Metadata) -> bool {
        let needed = if directory.uid() == self.uid {
            0o100
        } else if directory.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        directory.mode() & needed != 0
    }
}

/// Returns whether this process is root. The standard library does not provide the user id.
fn is_root() -> bool {
    // `/proc/self` belongs to the effective user. On other systems `id` prints it.
    match fs::metadata("/proc/self") {
        Ok(own) => own.uid() == 0,
        Err(_) => Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0"),
    }
}

/// Finds a user in the text of `/etc/passwd`: `name:password:uid:gid:…`. Negative ids, such as that of `nobody` on macOS,
/// are converted as the system does. A user whose uid or gid is 0 is not returned.
fn look_up(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut ids = line.split(':').skip(2).map(|id| {
        let signed = id.parse::<i32>().map(i32::cast_unsigned);
        signed.or_else(|_| id.parse::<u32>()).ok().filter(|id| *id != 0)
    });
    Some(Account { uid: ids.next()??, gid: ids.next()?? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name() {
        let passwd = "root:x:0:0::/:/bin/sh\npostgres2:x:5:5::/:\npostgres:x:101:104:a:/:\nnobody:*:-2:-2:x:/:\n";
        assert_eq!(look_up(passwd, "postgres"), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(look_up(passwd, "nobody"), Some(Account { uid: u32::MAX - 1, gid: u32::MAX - 1 }));
        assert_eq!((look_up(passwd, "root"), look_up(passwd, "other")), (None, None));
    }
}
