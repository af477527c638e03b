//! CPU time and memory of processes, from `/proc` (Linux only). Times have the resolution of the kernel's ticks, a
//! hundredth of a second, which is enough for runs of seconds.

use std::fs;
use std::time::Duration;

/// Ticks of `/proc` per second, on every Linux that Rust supports.
const TICKS: u64 = 100;
/// Maximum attempts at a consistent measurement of a changing group of processes.
const MAX_TRIES: usize = 10;

/// One process, from `/proc/PID/stat` (proc(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    /// Ticks of this process.
    own: u64,
    /// Ticks of its children that ended and were waited for.
    children: u64,
}

/// CPU time of one process, with all threads and with the children that have ended.
pub(in crate::bench) fn process_time(pid: u32) -> Option<Duration> {
    stat(pid).map(|stat| time(stat.own + stat.children))
}

/// CPU time of a process and its children, including children that have ended.
pub(in crate::bench) fn family_time(parent: u32) -> Option<Duration> {
    let mut found = None;
    for _ in 0..MAX_TRIES {
        let before = stat(parent)?;
        let children: u64 =
            processes().filter_map(stat).filter(|stat| stat.parent == parent).map(|stat| stat.own).sum();
        let after = stat(parent)?;
        found = Some(time(after.own + after.children + children));
        // A child that ended during the measurement may have been counted twice.
        if before.children == after.children {
            break;
        }
    }
    found
}

/// Returns the parent of a process, if the parent's name is `name`.
pub(in crate::bench) fn parent_named(pid: u32, name: &str) -> Option<u32> {
    let parent = stat(pid)?.parent;
    (stat(parent)?.name == name).then_some(parent)
}

/// A process's resident memory in MiB: the maximum so far, and the current value.
pub(in crate::bench) fn memory(pid: u32) -> Option<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some((mebibytes(&text, "VmHWM:")?, mebibytes(&text, "VmRSS:")?))
}

fn mebibytes(text: &str, field: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u32 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(f64::from(kibibytes) / 1_024.0)
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `PID (name) state parent …`; the name may contain any characters, including parentheses.
fn parse(text: &str) -> Option<Stat> {
    let (start, rest) = text.rsplit_once(')')?;
    let name = start.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        name,
        parent: u32::try_from(number(1)?).ok()?,
        own: number(11)? + number(12)?,
        children: number(13)? + number(14)?,
    })
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1_000 / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_stat_line_is_parsed() {
        let line = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 30 4 20 0 1 0 5 6 7";
        let stat = Stat { name: "a) b (c".into(), parent: 7, own: 120, children: 34 };
        assert_eq!(parse(line), Some(stat));
        assert_eq!(parse("42 (a"), None);
        assert_eq!(time(134), Duration::from_millis(1_340));
        assert_eq!(mebibytes("VmRSS:\t  2048 kB\nVmHWM:\t 512 kB\n", "VmHWM:"), Some(0.5));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn family_time_includes_ended_children() {
        let own = std::process::id();
        let before = family_time(own).unwrap();
        let burn = "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done";
        assert!(std::process::Command::new("/bin/sh").args(["-c", burn]).status().unwrap().success());
        assert!(family_time(own).unwrap() >= before + Duration::from_millis(20));
        assert!(memory(own).unwrap().0 > 1.0);
    }
}
