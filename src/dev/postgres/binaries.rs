//! Finds `initdb` and `postgres` on this machine.
//!
//! Searches PATH, then `pg_config --bindir`, then the directories in which distributions keep versions side by side,
//! the newest version first.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use super::PostgresError;

/// The oldest supported major version.
const OLDEST: u32 = 15;

/// Directories with one subdirectory per version, each with the prefix of the subdirectories' names and the directory
/// of the binaries in them.
const VERSIONED: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("/usr/libexec", "postgresql", ""),
];

/// One installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    /// The directory of its programs.
    dir: PathBuf,
    /// The major version.
    major: u32,
}

impl Binaries {
    /// Returns the first installation that can run the cluster: of exactly the `required` major version, or, if that is
    /// `None`, of version 15 or newer.
    pub(super) fn find(required: Option<u32>) -> Result<Self, PostgresError> {
        let found: Vec<Self> = candidates().iter().filter_map(|dir| Self::in_dir(dir)).collect();
        choose(found, required)
    }

    /// Returns the path of a program.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn in_dir(dir: &Path) -> Option<Self> {
        let postgres = dir.join("postgres");
        if !dir.join("initdb").is_file() || !postgres.is_file() {
            return None;
        }
        let output = Command::new(postgres).arg("--version").output().ok()?;
        let major = major(&String::from_utf8_lossy(&output.stdout))?;
        Some(Self { dir: dir.to_owned(), major })
    }
}

fn choose(found: Vec<Binaries>, required: Option<u32>) -> Result<Binaries, PostgresError> {
    let is_suitable = |binaries: &&Binaries| required.map_or(binaries.major >= OLDEST, |major| binaries.major == major);
    if let Some(suitable) = found.iter().find(is_suitable) {
        return Ok(suitable.clone());
    }
    let wanted = match required {
        Some(major) => format!("Postgres {major}, which created the data in this directory,"),
        None => format!("Postgres {OLDEST} or newer"),
    };
    Err(match found.into_iter().max_by_key(|binaries| binaries.major) {
        Some(newest) => PostgresError::WrongVersion { found: newest.major, dir: newest.dir, wanted },
        None => PostgresError::NotFound { wanted },
    })
}

/// Returns the major version in `postgres (PostgreSQL) 15.18 (Debian …)` or `… 19devel`.
fn major(version: &str) -> Option<u32> {
    let number = version.split(") ").nth(1)?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).map_or(number, |end| &number[..end]);
    digits.parse().ok()
}

fn candidates() -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        dirs.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    for (parent, prefix, inside) in VERSIONED {
        dirs.extend(versions(Path::new(parent), prefix).into_iter().map(|dir| dir.join(inside)));
    }
    // An empty entry in PATH would mean the current directory.
    dirs.retain(|dir| dir.is_absolute());
    dirs
}

/// Returns the directories in `parent` whose name is `prefix` and a version, the highest version first.
fn versions(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    let number = |name: &OsStr| -> Option<u32> {
        let version = name.to_str()?.strip_prefix(prefix)?.trim_start_matches(['@', '-']);
        // Homebrew links its default version without a number, and old versions have two numbers.
        version.split('.').next()?.parse().ok().or(version.is_empty().then_some(0))
    };
    let mut found: Vec<_> = entries.flatten().filter_map(|e| Some((number(&e.file_name())?, e.path()))).collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation(major: u32) -> Binaries {
        Binaries { dir: PathBuf::from(format!("/pg/{major}")), major }
    }

    #[test]
    fn major_version_is_parsed() {
        assert_eq!(major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19devel\n"), Some(19));
        assert_eq!(major("postgres (PostgreSQL) 17\n"), Some(17));
        assert_eq!(major("something else"), None);
    }

    #[test]
    fn first_suitable_installation_is_used() {
        assert_eq!(
            choose(vec![installation(14), installation(16), installation(17)], None).expect("one"),
            installation(16)
        );
        assert_eq!(choose(vec![installation(16), installation(15)], Some(15)).expect("one"), installation(15));
    }

    #[test]
    fn unsuitable_versions_are_named_in_the_error() {
        let old = choose(vec![installation(13), installation(14)], None).expect_err("too old").to_string();
        assert_eq!(old, "found only Postgres 14 (/pg/14); Postgres 15 or newer is needed");
        let other = choose(vec![installation(16)], Some(15)).expect_err("another").to_string();
        assert!(other.contains("Postgres 15, which created the data"), "{other}");
        let none = choose(vec![], None).expect_err("nothing").hint().expect("a fix");
        assert!(none.contains("apt install postgresql") && !none.contains('\n'), "{none}");
    }

    #[test]
    fn the_newest_version_comes_first() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["postgresql@9.6", "postgresql@15", "postgresql@17", "postgresql", "other"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        let found = versions(dir.path(), "postgresql");
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["postgresql@17", "postgresql@15", "postgresql@9.6", "postgresql"]);
    }
}
