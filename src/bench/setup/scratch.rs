//! The temporary directory of the bench's Postgres. It is removed even if this process is killed: a shell waits for the
//! end of a pipe that only this process holds open, then until Postgres has ended, and removes the directory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::bench::BenchError;
use crate::bench::error::Doing as _;

/// The shell script that removes the directory `$1`. If the bench runs as root, the files of Postgres may be elsewhere,
/// and the directory then has a link to them.
const SWEEPER: &str = r#"
read -r _
tries=0
while [ -e "$1/postgres/data/postmaster.pid" ] || [ -e "$1/postgres/cluster/data/postmaster.pid" ]; do
    sleep 0.1; tries=$((tries + 1)); [ "$tries" -lt 600 ] || break
done
[ -L "$1/postgres/cluster" ] && rm -rf "$(readlink "$1/postgres/cluster")"
rm -rf "$1"
"#;

/// Creates the directory `path` in `parent`.
fn make(parent: &Path, path: &Path) -> std::io::Result<PathBuf> {
    fs::create_dir_all(parent)?;
    fs::create_dir(path)?;
    let path = path.canonicalize()?;
    // If the bench runs as root, Postgres runs as another user, who must be able to enter the directory.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The directory, and the process that removes it.
#[derive(Debug)]
pub(in crate::bench) struct Scratch {
    path: PathBuf,
    sweeper: Child,
}

impl Scratch {
    /// Creates the directory in `parent`, which is created if it is missing, or in the system's temporary directory.
    pub(in crate::bench) fn new(parent: Option<&Path>) -> Result<Self, BenchError> {
        use std::os::unix::process::CommandExt as _;
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = parent.join(format!("postrider-bench-{}-{:08x}", std::process::id(), rand::random::<u32>()));
        let path = make(&parent, &path).or_else(|error| {
            let why = format!("cannot create the directory {}: {error}", path.display());
            BenchError::refused(why, "choose another with --dir")
        })?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SWEEPER, "postrider-sweeper"]).arg(&path).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let sweeper = command.spawn().doing("start /bin/sh")?;
        Ok(Self { path, sweeper })
    }

    pub(in crate::bench) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory for Postgres.
    pub(in crate::bench) fn postgres(&self) -> PathBuf {
        self.path.join("postgres")
    }

    /// Waits until Postgres has ended and the directory is removed.
    pub(in crate::bench) fn remove(mut self) -> Result<(), BenchError> {
        drop(self.sweeper.stdin.take());
        self.sweeper.wait().map(drop).doing(format!("remove {}", self.path.display()))
    }
}
