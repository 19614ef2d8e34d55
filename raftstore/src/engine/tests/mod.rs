//! What every data engine must do, told as scripts that run on all of them ([`runner`]), and found
//! out by driving two of them with one random sequence of operations ([`mirror`]).

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::memory::MemoryEngine;
use super::rocks::RocksEngine;
use super::*;
use crate::config::{ByteSize, RocksConfig};

mod mirror;
mod runner;

/// An engine that can be stopped and started, as a script or the mirror wants it.
trait Machine {
    /// The engine as it runs now.
    fn engine(&self) -> &dyn Engine;

    /// Kills the process and starts it again.
    fn kill(&mut self);

    /// Takes the power away when so many of the unsynced batches had reached the medium.
    fn crash(&mut self, surviving: usize);

    /// How many batches a crash could lose.
    fn unsynced(&self) -> usize;

    /// Goes on with the checkpoint in this directory.
    fn open_checkpoint(&mut self, directory: &Path);

    /// Moves what lies in memory into files of the lowest level, where there are such things.
    fn settle(&self);
}

#[derive(Default)]
struct MemoryMachine {
    engine: MemoryEngine,
}

impl Machine for MemoryMachine {
    fn engine(&self) -> &dyn Engine {
        &self.engine
    }

    fn kill(&mut self) {
        self.engine = self.engine.reopen();
    }

    fn crash(&mut self, surviving: usize) {
        self.engine = self.engine.crash(surviving);
    }

    fn unsynced(&self) -> usize {
        self.engine.unsynced_batches()
    }

    fn open_checkpoint(&mut self, directory: &Path) {
        self.engine = MemoryEngine::open_checkpoint(directory).expect("open checkpoint");
    }

    fn settle(&self) {}
}

struct RocksMachine {
    /// Nothing only while it is started again.
    engine: Option<RocksEngine>,
    directory: PathBuf,
    /// Holds the first directory.
    _home: TempDir,
}

impl RocksMachine {
    fn new() -> RocksMachine {
        let home = tempfile::tempdir().expect("temporary directory");
        let directory = home.path().join("data");
        let mut machine = RocksMachine { engine: None, directory, _home: home };
        machine.start();
        machine
    }

    fn start(&mut self) {
        // Small files, so that a test has several.
        let config = RocksConfig {
            write_buffer_size: ByteSize::kib(256),
            write_buffers_total_size: ByteSize::mib(4),
            target_file_size: ByteSize::mib(1),
            ..RocksConfig::small()
        };
        self.engine = Some(RocksEngine::open(&self.directory, &config, None).expect("open"));
    }

    fn rocks(&self) -> &RocksEngine {
        self.engine.as_ref().expect("it runs")
    }
}

impl Machine for RocksMachine {
    fn engine(&self) -> &dyn Engine {
        self.rocks()
    }

    fn kill(&mut self) {
        // RocksDB keeps nothing of its own back: what was written is in the operating system.
        self.engine = None;
        self.start();
    }

    fn crash(&mut self, _: usize) {
        panic!("files that lose what was not synced are the business of the power-loss tests");
    }

    fn unsynced(&self) -> usize {
        panic!("RocksDB does not say");
    }

    fn open_checkpoint(&mut self, directory: &Path) {
        self.engine = None;
        self.directory = directory.to_path_buf();
        self.start();
    }

    fn settle(&self) {
        ColumnFamily::ALL.iter().for_each(|family| self.rocks().settle(*family));
    }
}

/// Both engines, for tests that a script cannot tell.
fn machines() -> [Box<dyn Machine>; 2] {
    [Box::new(MemoryMachine::default()), Box::new(RocksMachine::new())]
}

fn put(engine: &dyn Engine, key: &'static str, value: &'static str) {
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, key, value);
    engine.write(batch, Durability::Buffered).expect("write");
}

#[test]
fn a_cursor_that_stands_nowhere_cannot_be_moved_or_read() {
    for machine in machines() {
        put(machine.engine(), "a", "1");
        let view = machine.engine().view();
        type Use = fn(&mut dyn Cursor);
        let uses: [Use; 4] = [
            |cursor| drop(cursor.next()),
            |cursor| drop(cursor.previous()),
            |cursor| assert!(cursor.key().is_empty()),
            |cursor| assert!(cursor.value().is_empty()),
        ];
        for misuse in uses {
            let range = KeyRange::default();
            let mut cursor = view.cursor(ColumnFamily::Default, &range).expect("cursor");
            assert!(cursor.seek_to_first().expect("seek"));
            assert!(!cursor.next().expect("next"), "there is only one pair");
            let used = std::panic::AssertUnwindSafe(|| misuse(&mut *cursor));
            let panic = std::panic::catch_unwind(used).expect_err("it must panic");
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            assert!(message.contains("stands nowhere"), "{message:?}");
        }
    }
}

#[test]
#[should_panic(expected = "above the end of all keys")]
fn a_reserved_key_is_never_written() {
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Default, vec![0xFF; 9], "");
}

#[test]
fn the_last_possible_key_lies_inside_a_range_without_end() {
    for machine in machines() {
        let engine = machine.engine();
        let last = [&[0xFF; 7][..], &[0xFE], &[0xFF; 40]].concat();
        let family = ColumnFamily::Default;
        let put = || {
            let mut batch = WriteBatch::new();
            batch.put(family, last.clone(), "1");
            engine.write(batch, Durability::Buffered).expect("write");
        };
        put();
        let mut batch = WriteBatch::new();
        batch.delete_range(family, KeyRange::default());
        engine.write(batch, Durability::Buffered).expect("write");
        assert_eq!(engine.get(family, &last).expect("get"), None);
        put();
        machine.settle();
        engine.destroy_range(family, &KeyRange::default()).expect("destroy");
        assert_eq!(engine.get(family, &last).expect("get"), None);
    }
}

#[test]
fn views_and_writers_on_many_threads_see_whole_batches_only() {
    const WRITERS: usize = 4;
    const BATCHES: u32 = 200;
    for machine in machines() {
        let engine = machine.engine();
        let (done, finished) = crossbeam_channel::bounded::<()>(0);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let done = done.clone();
                scope.spawn(move || {
                    for number in 0..BATCHES {
                        let mut batch = WriteBatch::new();
                        for family in ColumnFamily::DATA {
                            batch.put(family, format!("w{writer}"), format!("{number}"));
                        }
                        engine.write(batch, Durability::Buffered).expect("write");
                        let newest = engine.get(ColumnFamily::Raw, format!("w{writer}").as_bytes());
                        assert_eq!(newest.expect("get"), Some(format!("{number}").into()));
                    }
                    drop(done);
                });
            }
            drop(done);
            let mut rounds = 0;
            while rounds == 0 || finished.try_recv() == Err(crossbeam_channel::TryRecvError::Empty)
            {
                let view = engine.view();
                for writer in 0..WRITERS {
                    let key = format!("w{writer}");
                    let read = |family| view.get(family, key.as_bytes()).expect("get");
                    let values = ColumnFamily::DATA.map(read);
                    assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
                }
                rounds += 1;
            }
        });
    }
}
