//! The directory in which the bench's Postgres lives meanwhile. It is removed with us, by whatever end: a shell waits for a
//! pipe to close that only we hold, then for Postgres to have ended.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::BenchError;
use super::error::Doing as _;

/// `$1` is the directory. As root, Postgres's files may be elsewhere, with a link to them.
const SWEEPER: &str = r#"
read -r _
tries=0
while [ -e "$1/postgres/data/postmaster.pid" ] || [ -e "$1/postgres/cluster/data/postmaster.pid" ]; do
    sleep 0.1; tries=$((tries + 1)); [ "$tries" -lt 600 ] || break
done
[ -L "$1/postgres/cluster" ] && rm -rf "$(readlink "$1/postgres/cluster")"
rm -rf "$1"
"#;

/// The directory, and who removes it.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    sweeper: Child,
}

impl Scratch {
    /// Makes it in `parent`, where it is made if need be; without one in the system's temporary directory.
    pub(super) fn new(parent: Option<&Path>) -> Result<Self, BenchError> {
        use std::os::unix::process::CommandExt as _;
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = parent.join(format!("postrider-bench-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        let doing = format!("make the directory {}: choose another with --dir", path.display());
        fs::create_dir_all(&parent).and_then(|()| fs::create_dir(&path)).doing(&doing)?;
        let path = path.canonicalize().doing(&doing)?;
        // Started as root, Postgres belongs to another user, who has to get there.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).doing(doing)?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SWEEPER, "postrider-sweeper"]).arg(&path).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let sweeper = command.spawn().doing("start /bin/sh")?;
        Ok(Self { path, sweeper })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where Postgres is to live.
    pub(super) fn postgres(&self) -> PathBuf {
        self.path.join("postgres")
    }

    /// Removes it, once Postgres has ended, and waits for that.
    pub(super) fn remove(mut self) -> Result<(), BenchError> {
        drop(self.sweeper.stdin.take());
        self.sweeper.wait().map(drop).doing(format!("remove {}", self.path.display()))
    }
}
