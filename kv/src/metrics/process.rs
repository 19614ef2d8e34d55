//! What the kernel knows of this process, and of others that this user has started: memory, age, processor time.
//!
//! Where the system does not say, a reading is missing or 0; nobody here depends on one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skerry_raftstore::time::{Clock, SystemClock};

use super::Reading;

/// Threads by the beginning of their names, with what they do. The first thread of a process, which has its name, is
/// `main`, and whoever is not here is `other`.
const THREAD_KINDS: [(&str, &str); 8] = [
    ("skerry-edge", "edge"),
    ("raft-", "raft"),
    ("log-writer", "log"),
    ("apply-", "apply"),
    ("read-", "read"),
    ("background", "background"),
    ("store-", "store"),
    ("rocksdb", "rocksdb"),
];

/// Memory, files, age and processor time of this process.
pub(super) fn readings() -> Vec<Reading> {
    let uptime = SystemClock.monotonic().saturating_sub(started());
    let mut readings = vec![Reading {
        value: uptime.as_secs_f64(),
        ..Reading::new("process_uptime_seconds", "How long the process has run.", 0)
    }];
    if let Some(bytes) = resident_bytes() {
        let (name, help) =
            ("process_resident_memory_bytes", "Memory of the process that is in RAM.");
        readings.push(Reading::new(name, help, bytes));
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        let help = "Files and connections that the process has open.";
        readings.push(Reading::new("process_open_fds", help, files.count() as u64));
    }
    readings.extend(thread_seconds().into_iter().map(|(kind, value)| Reading {
        label: Some(("kind", kind)),
        value,
        ..Reading::new(
            "skerry_thread_cpu_seconds_total",
            "Processor time of threads, by what they do.",
            0,
        )
    }));
    readings
}

/// Memory of this process that is in RAM, where the system says so.
pub fn resident_bytes() -> Option<u64> {
    resident("self")
}

/// Memory of another process that is in RAM, where the system says so.
pub fn resident_bytes_of(process: u32) -> Option<u64> {
    resident(&process.to_string())
}

fn resident(process: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Clock ticks of the kernel in a second, in which it counts the time of processes.
const KERNEL_TICKS: f64 = 100.0;

/// Time on processors that a process has taken, this one if none is named, in seconds; 0 where the system does not
/// say so.
pub fn cpu_seconds(process: Option<u32>) -> f64 {
    let process = process.map_or("self".to_string(), |process| process.to_string());
    seconds_in(&PathBuf::from(format!("/proc/{process}/stat")))
}

fn seconds_in(stat: &Path) -> f64 {
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    // The name of the process ends so, and may hold anything.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    // In user mode and in the kernel: fields 14 and 15, counted from 1 and with the two before these.
    let ticks = fields.split(' ').skip(11).take(2);
    ticks.map(|ticks| ticks.parse().unwrap_or(0.0)).sum::<f64>() / KERNEL_TICKS
}

/// Bytes that a process has had written to disks, where the system says so.
pub fn written_bytes(process: u32) -> Option<u64> {
    let counts = std::fs::read_to_string(format!("/proc/{process}/io")).ok()?;
    let count = counts.lines().find_map(|line| line.strip_prefix("write_bytes:"))?;
    count.trim().parse().ok()
}

/// When this was first asked, which `main` does at once: the reading uptimes are measured from.
pub fn started() -> Duration {
    static STARTED: std::sync::OnceLock<Duration> = std::sync::OnceLock::new();
    *STARTED.get_or_init(|| SystemClock.monotonic())
}

/// Time on processors that the threads of this process have taken, by what they do, in seconds. What threads took that
/// have ended is not in it.
pub fn thread_seconds() -> BTreeMap<&'static str, f64> {
    let mut seconds = BTreeMap::new();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return seconds };
    for task in tasks.flatten().map(|task| task.path()) {
        let kind = thread_kind(&task);
        *seconds.entry(kind).or_default() += seconds_in(&task.join("stat"));
    }
    seconds
}

fn thread_kind(task: &Path) -> &'static str {
    if task.ends_with(std::process::id().to_string()) {
        return "main";
    }
    let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    let kind = THREAD_KINDS.iter().find(|(beginning, _)| name.starts_with(beginning));
    kind.map_or("other", |(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_raftstore::time::spawn;

    #[test]
    fn threads_count_for_what_they_do_while_they_live() {
        let (done, told) = std::sync::mpsc::sync_channel(1);
        let (end, ends) = std::sync::mpsc::sync_channel::<()>(1);
        let thread = spawn("apply-7", move || {
            let own = || seconds_in(Path::new("/proc/thread-self/stat"));
            while own() < 0.05 {}
            done.send(()).expect("the test listens");
            let _ = ends.recv();
        });
        told.recv().expect("the thread works");
        let seconds = thread_seconds();
        assert!(seconds["apply"] >= 0.05, "{seconds:?}");
        assert!(seconds.contains_key("main"), "{seconds:?}");
        drop(end);
        thread.join().expect("the thread ends");
    }
}
