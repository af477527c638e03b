//! The machine that was measured.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::db::bench::Server;

/// The facts about the machine; `None` if unknown.
#[derive(Debug, Clone, Serialize)]
pub(in crate::bench) struct Machine {
    /// The processor's name.
    pub cpu: Option<String>,
    /// The number of processors that this process may use.
    pub cores: usize,
    /// Total memory, in MiB.
    pub memory_mib: Option<u64>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The load average of the minute before the run: processes that were running or waiting for a processor or a disk.
    pub load_before: Option<f64>,
    /// The file system of the database directory, if the bench started the database.
    pub file_system: Option<String>,
    /// The server's version.
    pub postgres: String,
    /// The server's settings that affect the figures.
    pub postgres_settings: Vec<String>,
}

impl Machine {
    /// Reads the facts about this machine. `database` is the directory of the bench's Postgres.
    pub(in crate::bench) fn read(server: &Server, database: Option<&Path>) -> Self {
        let read_file = |path: &str| fs::read_to_string(path).ok();
        let field = |path: &str, name: &str| {
            read_file(path)?.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            })
        };
        let memory = field("/proc/meminfo", "MemTotal").and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok());
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_mib: memory.map(|kibibytes| kibibytes >> 10),
            kernel: read_file("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            load_before: read_file("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
            file_system: database.and_then(|path| file_system(&read_file("/proc/mounts")?, path)),
            postgres: server.version.split(" on ").next().unwrap_or_default().to_owned(),
            postgres_settings: server.settings.clone(),
        }
    }

    /// Returns warnings about conditions that make the results misleading.
    pub(in crate::bench) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if cfg!(debug_assertions) {
            warnings.push("this is a debug build, whose results are useless: build with --release".to_owned());
        }
        if let Some("tmpfs" | "ramfs") = self.file_system.as_deref() {
            warnings.push(
                "the database is in memory, where a commit costs nothing: choose a directory on a disk with --dir"
                    .to_owned(),
            );
        }
        let off = |setting: &&String| setting.ends_with(" = off");
        warnings
            .extend(self.postgres_settings.iter().filter(off).map(|setting| format!("Postgres runs with {setting}")));
        warnings
    }
}

/// Returns the type of the file system with the longest mount point that contains the path.
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    let above = mounts.lines().filter_map(mount).filter(|(point, _)| path.starts_with(point));
    above.max_by_key(|(point, _)| point.len()).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_on_its_nearest_mount() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tm xfs rw 0 0\n";
        let kind = |path: &str| file_system(mounts, Path::new(path)).unwrap();
        assert_eq!((kind("/tmp/x"), kind("/var"), kind("/tm/x")), ("tmpfs".into(), "ext4".into(), "xfs".into()));
    }
}
