//! The user that Postgres runs as: ours, or where we are root, which Postgres refuses, another one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use super::PostgresError;

/// A user by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

const PASSWD: &str = "/etc/passwd";

impl Account {
    /// Whom to become to run the cluster whose data are in `data`; `None` where we stay who we are. Data that are
    /// there already decide: they may be of the same person's start without root.
    pub(super) fn to_become(data: &Path) -> Result<Option<Self>, PostgresError> {
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

    /// Whether this user may pass through a directory; supplementary groups do not count, since none are kept.
    pub(super) fn may_pass(self, directory: &fs::Metadata) -> bool {
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

/// Whether this process is root, by the owner of a directory of its own: the standard library tells no user ids.
fn is_root() -> bool {
    // `/proc/self` belongs to the effective user. Elsewhere `id` says it.
    match fs::metadata("/proc/self") {
        Ok(own) => own.uid() == 0,
        Err(_) => Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0"),
    }
}

/// Finds a user in the text of `/etc/passwd`: `name:password:uid:gid:…`. Negative ids, as for macOS's `nobody`, are
/// taken as the system takes them.
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
