//! The machine: what it is, and whether it is quiet enough to be believed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skerry_raftstore::time::{Clock, SystemClock, cores};
use skerry_tests::wait::let_pass;

use super::Result;

/// How long it is watched at a time.
const WATCHED: Duration = Duration::from_secs(3);
/// Looks before it counts as busy: what has just been compiled may still be written to the disk.
pub const LOOKS: u32 = 10;
/// The part of all cores that others may use.
const BUSY_MAX: f64 = 0.1;

/// What was measured, and on what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The day, as in `2026-11-21`.
    pub day: String,
    /// Of the source.
    pub commit: String,
    /// Cores that may be used.
    pub cores: usize,
    /// MiB.
    pub memory: u64,
    /// The name of the processor.
    pub processor: String,
    /// The release of the kernel.
    pub kernel: String,
    /// Programs with their versions.
    pub programs: Vec<(String, String)>,
}

/// Asks the system and the programs.
pub fn describe(skerry: &Path) -> Result<Machine> {
    let skerry_version = first_line(Command::new(skerry).arg("--version"));
    let skerry_version = skerry_version.ok_or_else(|| {
        format!("{} cannot be run: `cargo build --workspace` makes it", skerry.display())
    })?;
    let absent = || "not installed".to_string();
    let programs = [
        ("skerry", Some(skerry_version)),
        ("etcd", first_line(Command::new("etcd").arg("--version"))),
        ("redis", first_line(Command::new("redis-server").arg("--version"))),
    ];
    let programs = programs
        .into_iter()
        .map(|(name, version)| (name.to_string(), version.unwrap_or_else(absent)))
        .collect();
    let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = commit.ok().filter(|it| it.status.success()).map(|it| it.stdout);
    let commit = commit.map(|text| String::from_utf8_lossy(&text).trim().to_string());
    let number = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
    let memory = field("/proc/meminfo", "MemTotal:").and_then(|text| number(&text));
    Ok(Machine {
        day: day(SystemClock.wall_ms() / 86_400_000),
        commit: commit.unwrap_or_else(|| "unknown".to_string()),
        cores: cores(),
        memory: memory.unwrap_or(0) >> 10,
        processor: field("/proc/cpuinfo", "model name\t:").unwrap_or_default(),
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
            .map_or_else(|_| String::new(), |text| text.trim().to_string()),
        programs,
    })
}

fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Redis goes on with how it was built.
    Some(text.lines().next()?.split(" sha=").next()?.trim().to_string())
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().to_string())
}

/// The calendar day of so many days since 1970, by the method of Howard Hinnant.
fn day(days: u64) -> String {
    // Years begin in March here: the leap day is the last of a year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Waits until others hardly use the processors, for so many looks. Refuses a machine on which they do not stop, and a
/// scratch directory in memory, where a sync costs nothing.
pub fn wait_until_quiet(scratch: &Path, looks: u32) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if filesystem(&mounts, scratch) == Some("tmpfs") {
        return Err(format!("{} is in memory, not on a disk", scratch.display()));
    }
    let mut busy = 1.0;
    for _ in 0..looks {
        let before = processors(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
        let_pass(WATCHED);
        let after = processors(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
        busy = match (before, after) {
            (Some(before), Some(after)) => share(before, after),
            // Nobody says: believe it.
            _ => return Ok(()),
        };
        if busy <= BUSY_MAX {
            return Ok(());
        }
    }
    Err(format!("the machine is busy: others use {:.0}% of its processors", busy * 100.0))
}

/// The file system that a path is on.
fn filesystem<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        path.starts_with(place).then_some((place.len(), kind))
    });
    mounts.max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

/// Ticks that processors worked, and all ticks, since the system started.
fn processors(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> =
        line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let all: u64 = ticks.iter().take(8).sum();
    // Idle, and waiting for the disk.
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((all - idle, all))
}

fn share(before: (u64, u64), after: (u64, u64)) -> f64 {
    let (worked, all) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    worked as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let days = [0, 59, 11_016, 20_778].map(day);
        assert_eq!(days, ["1970-01-01", "1970-03-01", "2000-02-29", "2026-11-21"]);
    }

    #[test]
    fn the_busy_part_counts_no_waiting() {
        let before = processors("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1\n").expect("ticks");
        let after = processors("cpu  20 0 20 130 30 0 0 0 0 0\n").expect("ticks");
        assert_eq!(share(before, after), 0.2);
        assert_eq!(processors("nothing"), None);
    }

    #[test]
    fn the_longest_mount_above_a_path_holds_it() {
        let mounts = "/dev/vda / ext4 rw 0 0\nshm /dev/shm tmpfs rw 0 0\n";
        assert_eq!(filesystem(mounts, Path::new("/dev/shm/x")), Some("tmpfs"));
        assert_eq!(filesystem(mounts, Path::new("/var/tmp")), Some("ext4"));
    }
}
