//! One suite for every log engine: golden scripts on each, and a mirror that drives all three with one
//! random sequence and compares. What only one of them does is tested in its own file.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::Entry;
use skerry_proto::raft_serverpb::RaftLocalState;

use super::memory::MemoryLog;
use super::raft_engine::RaftEngineLog;
use super::rocks::RocksLog;
use super::{LogBatch, LogEngine, LogOperation};
use crate::config::{ByteSize, RaftEngineConfig, RocksConfig};
use crate::engine::Durability;
use crate::time::splitmix64;

/// Files so small that a few dozen writes fill one, and a purge has something to do.
pub(super) fn small_files() -> RaftEngineConfig {
    RaftEngineConfig {
        target_file_size: ByteSize(4 << 10),
        purge_threshold: ByteSize(16 << 10),
        ..RaftEngineConfig::default()
    }
}

pub(super) fn entry(index: u64, term: u64, data: impl Into<Bytes>) -> Entry {
    Entry { index, term, data: data.into(), ..Entry::default() }
}

/// One engine under test, and how to open it again.
struct Subject {
    /// Nothing while it is closed.
    log: Option<Arc<dyn LogEngine>>,
    open: Box<dyn Fn() -> Arc<dyn LogEngine>>,
    /// The same engine, where it can crash.
    memory: Option<Arc<MemoryLog>>,
    _directory: Option<tempfile::TempDir>,
}

impl Subject {
    fn memory() -> Subject {
        let memory = Arc::new(MemoryLog::new());
        let log = memory.clone();
        Subject::begin(Box::new(move || log.clone()), Some(memory), None)
    }

    fn raft_engine() -> Subject {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let open = move || -> Arc<dyn LogEngine> {
            Arc::new(RaftEngineLog::open(&path, &small_files()).expect("raft-engine opens"))
        };
        Subject::begin(Box::new(open), None, Some(directory))
    }

    fn rocks() -> Subject {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        let open = move || -> Arc<dyn LogEngine> {
            Arc::new(RocksLog::open(&path, &RocksConfig::small()).expect("RocksDB opens"))
        };
        Subject::begin(Box::new(open), None, Some(directory))
    }

    fn begin(
        open: Box<dyn Fn() -> Arc<dyn LogEngine>>,
        memory: Option<Arc<MemoryLog>>,
        directory: Option<tempfile::TempDir>,
    ) -> Subject {
        Subject { log: Some(open()), open, memory, _directory: directory }
    }

    fn log(&self) -> &dyn LogEngine {
        self.log.as_deref().expect("open between commands")
    }

    fn reopen(&mut self) {
        self.log = None;
        self.log = Some((self.open)());
    }

    /// Everything the log holds, a line for each region.
    fn show(&self) -> crate::Result<String> {
        let mut text = String::new();
        for region in self.log().regions()? {
            write!(text, "region {region}:").expect("strings grow");
            if let Some(bounds) = self.log().bounds(region)? {
                let entries =
                    self.log().entries(region, bounds.first, bounds.last + 1, usize::MAX)?;
                assert_eq!(entries.first().map(|entry| entry.index), Some(bounds.first));
                assert_eq!(entries.last().map(|entry| entry.index), Some(bounds.last));
                write!(text, " {}", line(&entries)).expect("strings grow");
            }
            if let Some(state) = self.log().state(region)? {
                let hard_state = String::from_utf8_lossy(&state.hard_state);
                let last = state.last_index;
                write!(text, " (state {hard_state}, last {last})").expect("strings grow");
            }
            text.push('\n');
        }
        Ok(text)
    }
}

/// Entries as `5@2 6@2`; data that is not the default is shown by its length.
fn line(entries: &[Entry]) -> String {
    let words = entries.iter().map(|entry| {
        let (index, term, length) = (entry.index, entry.term, entry.data.len());
        let extra = if length > 0 { format!("({length} bytes)") } else { String::new() };
        format!("{index}@{term}{extra}")
    });
    words.collect::<Vec<_>>().join(" ")
}

/// What a script may say. Changes gather until `write`.
#[derive(goldenscript::Command)]
enum Command {
    /// append REGION INDEX@TERM... [size=BYTES]
    Append {
        region: u64,
        entries: Vec<String>,
        #[arg(key)]
        size: Option<usize>,
    },
    /// state REGION TEXT last=INDEX
    State {
        region: u64,
        hard_state: String,
        #[arg(key)]
        last: u64,
    },
    /// compact REGION INDEX
    Compact(u64, u64),
    /// clean REGION
    Clean(u64),
    /// write [sync=true]: applies what gathered, as one batch.
    Write {
        #[arg(key, optional)]
        sync: bool,
    },
    /// show: all regions.
    Show,
    /// bounds REGION
    Bounds(u64),
    /// entry REGION INDEX
    Entry(u64, u64),
    /// entries REGION LOW HIGH [bytes=MAX]
    Entries {
        region: u64,
        low: u64,
        high: u64,
        #[arg(key)]
        bytes: Option<usize>,
    },
    /// purge
    Purge,
    /// reopen: closes and opens the log.
    Reopen,
    /// crash survive=BATCHES
    Crash {
        #[arg(key)]
        survive: usize,
    },
}

struct Runner {
    subject: Subject,
    batch: LogBatch,
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let log = self.subject.log();
        match command {
            Command::Append { region, entries, size } => {
                let entries = entries.iter().map(|word| {
                    let (index, term) = word.split_once('@').ok_or("INDEX@TERM")?;
                    let data = vec![b'x'; size.unwrap_or(0)];
                    Ok::<_, Box<dyn Error>>(entry(index.parse()?, term.parse()?, data))
                });
                let entries = entries.collect::<Result<_, _>>()?;
                self.batch.push(LogOperation::Append(*region, entries));
            }
            Command::State { region, hard_state, last } => {
                let hard_state = Bytes::from(hard_state.clone());
                let state = RaftLocalState { hard_state, last_index: *last };
                self.batch.push(LogOperation::State(*region, state));
            }
            Command::Compact(region, index) => {
                self.batch.push(LogOperation::CompactTo(*region, *index));
            }
            Command::Clean(region) => self.batch.push(LogOperation::Clean(*region)),
            Command::Write { sync } => {
                let durability = if *sync { Durability::Synced } else { Durability::Buffered };
                log.write(std::mem::take(&mut self.batch), durability)?;
            }
            Command::Show => return Ok(self.subject.show()?),
            Command::Bounds(region) => {
                let bounds = log.bounds(*region)?;
                return Ok(bounds.map_or("none".into(), |bounds| {
                    format!("{}..={}", bounds.first, bounds.last)
                }));
            }
            Command::Entry(region, index) => {
                let entry = log.entry(*region, *index)?;
                return Ok(entry.map_or("none".into(), |entry| line(&[entry])));
            }
            Command::Entries { region, low, high, bytes } => {
                return Ok(line(&log.entries(
                    *region,
                    *low,
                    *high,
                    bytes.unwrap_or(usize::MAX),
                )?));
            }
            Command::Purge => drop(log.purge()?),
            Command::Reopen => self.subject.reopen(),
            Command::Crash { survive } => {
                self.subject.memory.as_ref().ok_or("only memory crashes")?.crash(*survive);
            }
        }
        Ok(String::new())
    }
}

fn run_scripts(folder: &str, subject: fn() -> Subject) {
    let listed = std::fs::read_dir(folder).expect("the folder of scripts");
    let paths = listed.map(|entry| entry.expect("an entry").path());
    let mut scripts: Vec<PathBuf> = paths.filter(|path| path.is_file()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no script in {folder}");
    for script in scripts {
        println!("{}", script.display());
        let mut runner = Runner { subject: subject(), batch: LogBatch::new() };
        goldenscript::run(&mut runner, &script).expect("the script runs");
    }
}

#[test]
fn scripts_on_memory() {
    run_scripts("src/engine/log/scripts", Subject::memory);
}

#[test]
fn scripts_on_raft_engine() {
    run_scripts("src/engine/log/scripts", Subject::raft_engine);
}

#[test]
fn scripts_on_rocks() {
    run_scripts("src/engine/log/scripts", Subject::rocks);
}

#[test]
fn crash_scripts_on_memory() {
    run_scripts("src/engine/log/scripts/crash", Subject::memory);
}

/// A seeded stream of choices.
struct Chance {
    seed: u64,
}

impl Chance {
    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.seed = splitmix64(self.seed);
        self.seed % limit
    }
}

/// Random changes that respect the contract, given what the log holds.
fn random_batch(chance: &mut Chance, log: &dyn LogEngine) -> LogBatch {
    let mut batch = LogBatch::new();
    // One part for each region, so that what `log` tells of its bounds is still true.
    for region in 1..=4 {
        let bounds = log.bounds(region).expect("bounds");
        match chance.below(12) {
            0..=5 => {
                let first = match bounds {
                    Some(bounds) if chance.below(4) == 0 => {
                        bounds.first + chance.below(bounds.last + 2 - bounds.first)
                    }
                    Some(bounds) => bounds.last + 1,
                    None => 1 + chance.below(50),
                };
                let count = 1 + chance.below(6);
                let term = chance.below(1_000);
                let size = chance.below(200) as usize;
                let data = Bytes::from(vec![b'a' + region as u8; size]);
                let entries = (first..first + count).map(|index| entry(index, term, data.clone()));
                batch.push(LogOperation::Append(region, entries.collect()));
            }
            6 | 7 => {
                let hard_state = Bytes::from(chance.below(1_000_000).to_string());
                let state = RaftLocalState { hard_state, last_index: chance.below(100) };
                batch.push(LogOperation::State(region, state));
            }
            8 | 9 => {
                if let Some(bounds) = bounds {
                    let beyond = bounds.last + 3 - bounds.first;
                    let index = bounds.first + chance.below(beyond);
                    batch.push(LogOperation::CompactTo(region, index));
                }
            }
            10 if chance.below(6) == 0 => batch.push(LogOperation::Clean(region)),
            _ => {}
        }
    }
    batch
}

/// Compares all reads of the two, the bounded ones at a random place.
fn assert_same(chance: &mut Chance, reference: &Subject, other: &Subject, name: &str, step: u64) {
    let expected = reference.show().expect("memory reads");
    assert_eq!(other.show().expect("reads"), expected, "{name} at step {step}");
    for region in 1..=4 {
        let Some(bounds) = reference.log().bounds(region).expect("bounds") else { continue };
        let low = bounds.first + chance.below(bounds.last + 1 - bounds.first);
        let bytes = chance.below(1_000) as usize;
        let expected = reference.log().entries(region, low, bounds.last + 1, bytes);
        let found = other.log().entries(region, low, bounds.last + 1, bytes);
        assert_eq!(
            found.expect("reads"),
            expected.expect("memory reads"),
            "{name} at step {step}, region {region} from {low} in {bytes} bytes"
        );
        let below = bounds.first - 1;
        assert!(other.log().entries(region, below, bounds.last + 1, bytes).is_err());
        assert_eq!(other.log().entry(region, below).expect("reads"), None);
    }
}

#[test]
fn all_three_logs_agree_under_random_operations_and_restarts() {
    for seed in 0..6 {
        println!("seed {seed}");
        let mut chance = Chance { seed };
        let reference = Subject::memory();
        let mut others = [("raft-engine", Subject::raft_engine()), ("rocks", Subject::rocks())];
        for step in 0..150 {
            let batch = random_batch(&mut chance, reference.log());
            let synced = chance.below(20) == 0;
            let durability = if synced { Durability::Synced } else { Durability::Buffered };
            reference.log().write(batch.clone(), durability).expect("memory writes");
            let (purges, reopens) = (chance.below(8) == 0, chance.below(40) == 0);
            for (name, other) in &mut others {
                other.log().write(batch.clone(), durability).expect("writes");
                if purges {
                    other.log().purge().expect("purges");
                }
                if reopens {
                    other.reopen();
                }
                if step % 5 == 0 || reopens {
                    assert_same(&mut chance, &reference, other, name, step);
                }
            }
        }
    }
}

#[test]
fn bytes_written_are_those_of_the_entries_and_little_more() {
    for subject in [Subject::memory(), Subject::raft_engine(), Subject::rocks()] {
        // Random enough that nothing can be compressed away.
        let mut chance = Chance { seed: 1 };
        let data: Vec<u8> = (0..100_000).map(|_| chance.below(256) as u8).collect();
        let mut batch = LogBatch::new();
        batch.push(LogOperation::Append(1, vec![entry(1, 1, data)]));
        let bytes = subject.log().write(batch, Durability::Synced).expect("writes");
        assert!((100_000..101_000).contains(&bytes), "{bytes}");
    }
}

#[test]
fn readers_see_whole_logs_while_one_writes_and_purges() {
    for subject in [Subject::memory(), Subject::raft_engine(), Subject::rocks()] {
        let log = subject.log.clone().expect("open");
        let append = |index| {
            let mut batch = LogBatch::new();
            batch.push(LogOperation::Append(1, vec![entry(index, 1, vec![7; 300])]));
            log.write(batch, Durability::Buffered).expect("writes");
        };
        append(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for index in 2..1_500 {
                    append(index);
                    if index % 50 == 0 {
                        let mut batch = LogBatch::new();
                        batch.push(LogOperation::CompactTo(1, index - 20));
                        log.write(batch, Durability::Buffered).expect("writes");
                        log.purge().expect("purges");
                    }
                }
            });
            scope.spawn(|| {
                loop {
                    let last = log.bounds(1).expect("bounds").expect("never empty").last;
                    // The newest entry is never compacted, only its position changes.
                    let entry = log.entry(1, last).expect("reads");
                    assert!(
                        entry.is_none_or(|entry| entry.index == last && entry.data.len() == 300)
                    );
                    if last == 1_499 {
                        break;
                    }
                }
            });
        });
    }
}

/// What `kill -9` leaves: a copy of the files while the engine has them open.
pub(super) fn copy_as_killed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create");
    for entry in std::fs::read_dir(from).expect("list") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        std::fs::copy(&path, &target).expect("copy");
    }
}
