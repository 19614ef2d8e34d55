//! What was acknowledged survives power loss: the power of a process that writes to the real engines is
//! cut at random moments, again and again on the same files, and it must find everything when it starts.
//! `SKERRY_POWER_LOSS_POINTS` sets how often for each engine.
//!
//! And the test can fail: the same process, told not to sync, is caught losing what it acknowledged.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use skerry_tests::power_loss::{Chance, PowerCut, points};

/// Cuts in one directory, one after another.
const CUTS_OF_A_STORE: u64 = 6;
/// Acknowledged writes before a cut, at most: enough to fill several files.
const WRITES_MAX: u64 = 700;
/// Operations on files while an engine opens, roughly.
const OPERATIONS_OF_OPENING: u64 = 200;
/// And for one record: a write and the two halves of a sync.
const OPERATIONS_OF_A_WRITE: u64 = 3;
/// Cuts that each engine suffers in an ordinary run.
const POINTS: u64 = 24;

/// By thread, the number of the last record.
type Progress = BTreeMap<u64, u64>;

/// The writer, running.
struct Writer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stderr: std::path::PathBuf,
}

impl Writer {
    /// Starts it over `directory`, in an environment that may let its power be cut.
    fn start<E>(arguments: &[&str], directory: &Path, writes: &str, environment: E) -> Writer
    where
        E: IntoIterator<Item = (&'static str, OsString)>,
    {
        let stderr = directory.with_extension("stderr");
        let mut command = Command::new(env!("CARGO_BIN_EXE_power_loss_writer"));
        command.arg(arguments[0]).arg(directory).arg(writes).args(&arguments[1..]);
        command.envs(environment);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(fs::File::create(&stderr).expect("a file for stderr"));
        let mut child = command.spawn().expect("the writer starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Writer { child, lines, stderr }
    }

    fn next_line(&mut self) -> Option<String> {
        self.lines.next().map(|line| line.expect("lines are text"))
    }

    /// Reads up to `ready`; answers what it found. Nothing if it was killed before that; its last words if
    /// it gave up.
    fn found(&mut self) -> Result<Option<Progress>, String> {
        let mut progress = Progress::new();
        while let Some(line) = self.next_line() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["opening"] => {}
                ["found", thread, last] => {
                    progress.insert(number(thread), number(last));
                }
                ["ready"] => return Ok(Some(progress)),
                _ => panic!("not a line of the writer: {line:?}"),
            }
        }
        let status = self.child.wait().expect("it ended");
        if status.signal() == Some(libc::SIGKILL) {
            return Ok(None);
        }
        Err(fs::read_to_string(&self.stderr).expect("stderr"))
    }

    /// Reads `count` acknowledgements into `progress` or as many as it gives, then kills it and reads those
    /// that were on the way.
    fn kill_after(mut self, count: u64, progress: &mut Progress) {
        for _ in 0..count {
            let Some(line) = self.next_line() else { break };
            acknowledge(&line, progress);
        }
        self.child.kill().expect("kill");
        while let Some(line) = self.next_line() {
            acknowledge(&line, progress);
        }
        let status = self.child.wait().expect("it is dead");
        let last_words = fs::read_to_string(&self.stderr).expect("stderr");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "it gave up: {last_words}");
    }
}

fn acknowledge(line: &str, progress: &mut Progress) {
    let ["acknowledged", thread, last] = line.split(' ').collect::<Vec<_>>()[..] else {
        panic!("not an acknowledgement: {line:?}");
    };
    progress.insert(number(thread), number(last));
}

fn number(word: &str) -> u64 {
    word.parse().expect("a number")
}

/// Lets the writer live, lose power, and live again, `cuts` times; says what it lost.
fn lose_power_repeatedly(engine: &str, seed: u64, cuts: u64) -> Result<(), String> {
    let ground = tempfile::tempdir().expect("a directory");
    let directory = ground.path().join("store");
    fs::create_dir(&directory).expect("create");
    let mut chance = Chance::of(seed);
    let mut acknowledged = Progress::new();
    for life in 0..cuts {
        let Some(cut) = PowerCut::over(&directory) else { return Ok(()) };
        // It dies by its own hand at some operation, often while it is still opening; or by ours.
        let (operation, writes) = match chance.below(4) {
            0 => (chance.below(OPERATIONS_OF_OPENING), u64::MAX),
            1 | 2 => (chance.below(OPERATIONS_OF_A_WRITE * WRITES_MAX), u64::MAX),
            _ => (u64::MAX >> 1, chance.below(WRITES_MAX)),
        };
        let environment = cut.dying_at(operation);
        let mut writer = Writer::start(&[engine], &directory, "1000000", environment);
        if let Some(found) = writer.found().map_err(|words| format!("life {life}: {words}"))? {
            check(&acknowledged, &found).map_err(|loss| format!("life {life}: {loss}"))?;
            acknowledged = found;
            writer.kill_after(writes, &mut acknowledged);
        }
        let loss = cut.cut(chance.below(u64::MAX));
        println!("{engine} {seed}, life {life}: {loss}, {acknowledged:?} acknowledged");
    }
    let mut writer = Writer::start(&[engine], &directory, "5", []);
    let found = writer.found().map_err(|words| format!("at the end: {words}"))?;
    check(&acknowledged, &found.expect("nobody kills it"))
        .map_err(|loss| format!("at the end: {loss}"))?;
    while writer.next_line().is_some() {}
    assert!(writer.child.wait().expect("it ends").success());
    Ok(())
}

fn check(acknowledged: &Progress, found: &Progress) -> Result<(), String> {
    for (thread, last) in acknowledged {
        let present = found[thread];
        if present < *last {
            return Err(format!(
                "record {last} of thread {thread} is lost, the last one is {present}"
            ));
        }
    }
    Ok(())
}

fn nothing_acknowledged_is_lost(engine: &str) {
    let points = points(POINTS);
    for seed in 0..points.div_ceil(CUTS_OF_A_STORE) {
        let cuts = CUTS_OF_A_STORE.min(points - seed * CUTS_OF_A_STORE);
        if let Err(loss) = lose_power_repeatedly(engine, seed, cuts) {
            panic!("{engine} lost what it had acknowledged (seed {seed}): {loss}");
        }
    }
}

#[test]
fn the_data_engine_keeps_what_it_acknowledged() {
    nothing_acknowledged_is_lost("data");
}

#[test]
fn the_log_on_raft_engine_keeps_what_it_acknowledged() {
    nothing_acknowledged_is_lost("raft-engine");
}

#[test]
fn the_log_on_rocks_keeps_what_it_acknowledged() {
    nothing_acknowledged_is_lost("rocks-log");
}

#[test]
fn a_log_that_is_moved_at_every_start_keeps_what_it_acknowledged() {
    nothing_acknowledged_is_lost("moving-log");
}

#[test]
fn without_syncing_each_engine_is_caught() {
    for engine in ["data", "raft-engine", "rocks-log"] {
        let ground = tempfile::tempdir().expect("a directory");
        let directory = ground.path().join("store");
        fs::create_dir(&directory).expect("create");
        let Some(cut) = PowerCut::over(&directory) else { return };
        let arguments = [engine, "--without-sync"];
        let mut writer = Writer::start(&arguments, &directory, "1000000", cut.environment());
        let found = writer.found().expect("an empty store opens");
        let mut acknowledged = found.expect("nobody kills it");
        writer.kill_after(20, &mut acknowledged);
        println!("{engine}: {}", cut.cut_to_what_was_synced());
        let mut writer = Writer::start(&arguments, &directory, "0", []);
        // Either it forgot without noticing, or it noticed and refused to start.
        let found = writer.found().map(|found| found.expect("nobody kills it"));
        let is_caught =
            found.is_err() || found.is_ok_and(|found| check(&acknowledged, &found).is_err());
        assert!(is_caught, "{engine} does not sync and lost nothing: the test cannot see losses");
    }
}

#[test]
fn a_cut_leaves_exactly_what_was_synced() {
    let ground = tempfile::tempdir().expect("a directory");
    let directory = ground.path().join("store");
    fs::create_dir(&directory).expect("create");
    let Some(cut) = PowerCut::over(&directory) else { return };
    let mut writer = Writer::start(&["files"], &directory, "0", cut.environment());
    writer.found().expect("it changes files");
    writer.child.kill().expect("kill");
    writer.child.wait().expect("it is dead");
    let loss = cut.cut_to_what_was_synced();
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or("(gone)".into());
    // A name that came or went after the last sync of its directory did not.
    assert_eq!(read("kept"), "(gone)");
    assert_eq!(read("kept-for-good"), "synced");
    assert_eq!((read("renamed"), read("renamed-too-late")), ("one".into(), "(gone)".into()));
    assert_eq!(read("shrunk"), "long before");
    assert_eq!(read("regrown"), "abcd\0\0");
    assert_eq!(read("new"), "(gone)");
    // The directory's own name was synced, and nothing in it.
    assert!(directory.join("folder").is_dir());
    assert_eq!((read("folder/inside"), read("folder/unnamed")), ("(gone)".into(), "(gone)".into()));
    assert_eq!(loss.names, 5, "{loss}");
}
