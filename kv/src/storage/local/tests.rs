//! Stories about the standalone storage: who is refused, who waits, what one sync carries, what a
//! crash leaves. The writer is turned by hand, so that each story has one course.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as StdError;
use std::fmt::Write as _;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};

use futures_executor::block_on;
use skerry_proto::kvrpcpb;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::{KeyRange, TableWriter, View};

use super::*;

/// A memory engine whose disk can be broken.
#[derive(Default)]
struct TestEngine {
    memory: MemoryEngine,
    broken: AtomicBool,
}

impl Engine for TestEngine {
    fn get(&self, family: ColumnFamily, key: &[u8]) -> skerry_raftstore::Result<Option<Bytes>> {
        self.memory.get(family, key)
    }

    fn view(&self) -> Arc<dyn View> {
        self.memory.view()
    }

    fn write(&self, batch: WriteBatch, durability: Durability) -> skerry_raftstore::Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            let reason = "the disk is on fire".to_string();
            return Err(skerry_raftstore::Error::Engine { operation: "write", reason });
        }
        self.memory.write(batch, durability)
    }

    fn destroy_range(
        &self,
        family: ColumnFamily,
        range: &KeyRange,
    ) -> skerry_raftstore::Result<()> {
        self.memory.destroy_range(family, range)
    }

    fn table_writer(
        &self,
        family: ColumnFamily,
        path: &Path,
    ) -> skerry_raftstore::Result<Box<dyn TableWriter>> {
        self.memory.table_writer(family, path)
    }

    fn ingest(&self, family: ColumnFamily, tables: &[PathBuf]) -> skerry_raftstore::Result<()> {
        self.memory.ingest(family, tables)
    }

    fn table_size(&self, family: ColumnFamily, range: &KeyRange) -> skerry_raftstore::Result<u64> {
        self.memory.table_size(family, range)
    }

    fn buffered_size(
        &self,
        family: ColumnFamily,
        range: &KeyRange,
    ) -> skerry_raftstore::Result<u64> {
        self.memory.buffered_size(family, range)
    }

    fn checkpoint(&self, path: &Path) -> skerry_raftstore::Result<()> {
        self.memory.checkpoint(path)
    }
}

/// Regions 1 `["", m)` and 2 `[m, "")` with peers 11 and 12 on store 7.
fn regions() -> Vec<metapb::Region> {
    let region = |id, start_key: &'static str, end_key: &'static str| metapb::Region {
        id,
        start_key: start_key.into(),
        end_key: end_key.into(),
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 3 }),
        peers: vec![metapb::Peer { id: id + 10, store_id: 7, ..Default::default() }],
    };
    vec![region(1, "", "m"), region(2, "m", "")]
}

fn context(region_id: u64) -> kvrpcpb::Context {
    kvrpcpb::Context {
        region_id,
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 3 }),
        peer: Some(metapb::Peer { id: region_id + 10, store_id: 7, ..Default::default() }),
        ..Default::default()
    }
}

fn puts(pairs: &[(String, String)]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (key, value) in pairs {
        batch.put(ColumnFamily::Raw, keys::data_key(key.as_bytes()), value.clone());
    }
    batch
}

#[derive(goldenscript::Command)]
enum Command {
    /// Writes as a client would: waits for room, then for the answer. `write NAME [region=N]
    /// [version=N] [store=N] [peer=N] [term=N] KEY=VALUE...`
    Write {
        name: String,
        #[arg(key)]
        region: Option<u64>,
        #[arg(key)]
        version: Option<u64>,
        #[arg(key)]
        store: Option<u64>,
        #[arg(key)]
        peer: Option<u64>,
        #[arg(key)]
        term: Option<u64>,
        #[arg(key, many)]
        pairs: Vec<(String, String)>,
    },
    /// One round of the writer.
    Round,
    /// The client goes away.
    HangUp(String),
    /// Reads a key: `get KEY [region=N]`
    Get {
        key: String,
        #[arg(key)]
        region: Option<u64>,
    },
    /// Breaks the disk.
    Break,
    /// Stops the storage, the queue being left to the next rounds.
    Stop,
    /// What a crash now would leave.
    Crash,
}

type Write = Pin<Box<dyn Future<Output = Result<()>>>>;

struct Runner {
    engine: Arc<TestEngine>,
    storage: Arc<LocalStorage>,
    writer: Option<Writer>,
    /// Writes that are not answered, by the name of their client.
    waiting: BTreeMap<String, Write>,
}

impl Runner {
    /// Room for three writes of 100 bytes; 20 bytes end a merge.
    fn new() -> Runner {
        let engine = Arc::new(TestEngine::default());
        let limits = LocalLimits {
            pending_commands_max: 3,
            pending_bytes_max: 100,
            merged_bytes_max: 20,
            entry_bytes_max: 60,
        };
        let (storage, writer) =
            LocalStorage::by_hand(engine.clone(), StoreId::new(7), regions(), limits);
        Runner { engine, storage, writer: Some(writer), waiting: BTreeMap::new() }
    }

    /// Polls all clients and says who was answered what.
    fn poll(&mut self, output: &mut String) -> std::fmt::Result {
        let mut polling = Context::from_waker(Waker::noop());
        let mut answered = Vec::new();
        for (name, write) in &mut self.waiting {
            if let Poll::Ready(result) = write.as_mut().poll(&mut polling) {
                answered.push((name.clone(), result));
            }
        }
        for (name, result) in answered {
            self.waiting.remove(&name);
            match result {
                Ok(()) => writeln!(output, "{name}: done")?,
                Err(error) if error.is_unknown() => writeln!(output, "{name}: unknown: {error}")?,
                Err(error) => writeln!(output, "{name}: certainly not done: {error}")?,
            }
        }
        Ok(())
    }

    fn write(&mut self, name: &str, context: kvrpcpb::Context, batch: WriteBatch) {
        let storage = self.storage.clone();
        let write = Box::pin(async move {
            let permit = storage.permits().acquire(batch.byte_size()).await;
            storage.async_write(&RequestContext::from(&context), batch, permit).await
        });
        self.waiting.insert(name.to_string(), write);
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> std::result::Result<String, Box<dyn StdError>> {
        let mut output = String::new();
        match command {
            Command::Write { name, region, version, store, peer, term, pairs } => {
                let mut context = context(region.unwrap_or(1));
                let epoch = context.region_epoch.get_or_insert_default();
                epoch.version = version.unwrap_or(epoch.version);
                let named = context.peer.get_or_insert_default();
                named.store_id = store.unwrap_or(named.store_id);
                named.id = peer.unwrap_or(named.id);
                context.term = term.unwrap_or(0);
                self.write(name, context, puts(pairs));
                self.poll(&mut output)?;
                let line = self.storage.permits().waiting();
                if self.waiting.contains_key(name) && line > 0 {
                    writeln!(output, "{name} waits for room ({line} in line)")?;
                }
            }
            Command::Round => {
                let before = self.storage.counts();
                let writer = self.writer.as_mut().ok_or("the process has ended")?;
                let round = writer.try_round();
                let after = self.storage.counts();
                match round {
                    Ok(true) => {
                        assert_eq!(after.engine_writes, before.engine_writes + 1);
                        let commands = after.commands - before.commands;
                        writeln!(output, "one synced write of {commands} requests")?;
                    }
                    Ok(false) => writeln!(output, "nothing to write")?,
                    Err(error) => {
                        writeln!(output, "the process ends: {error}")?;
                        self.writer = None;
                    }
                }
                self.poll(&mut output)?;
            }
            Command::HangUp(name) => {
                drop(self.waiting.remove(name).ok_or("nobody of that name waits")?);
                self.poll(&mut output)?;
            }
            Command::Get { key, region } => {
                let context = RequestContext::from(&context(region.unwrap_or(1)));
                let key = keys::data_key(key.as_bytes());
                match block_on(self.storage.async_get(&context, ColumnFamily::Raw, &key)) {
                    Ok(value) => writeln!(output, "{value:?}")?,
                    Err(error) => writeln!(output, "certainly not done: {error}")?,
                }
            }
            Command::Break => self.engine.broken.store(true, Ordering::Relaxed),
            Command::Stop => self.storage.stop(),
            Command::Crash => {
                let left = self.engine.memory.crash(0);
                let view = left.view();
                let mut cursor = view.cursor(ColumnFamily::Raw, &KeyRange::default())?;
                let mut stands = cursor.seek_to_first()?;
                while stands {
                    let (key, value) = (&cursor.key()[1..], cursor.value());
                    writeln!(output, "{}={}", key.escape_ascii(), value.escape_ascii())?;
                    stands = cursor.next()?;
                }
            }
        }
        Ok(output)
    }

    fn end_script(&mut self) -> std::result::Result<(), Box<dyn StdError>> {
        assert!(self.waiting.is_empty(), "a script leaves nobody without an answer");
        Ok(())
    }
}

#[test]
fn scripts() -> std::io::Result<()> {
    for script in ["checks", "group_commit", "room", "broken_disk", "stop"] {
        goldenscript::run(&mut Runner::new(), format!("src/storage/scripts/{script}"))?;
    }
    Ok(())
}

#[test]
fn what_was_acknowledged_to_any_of_many_threads_survives_a_crash_at_any_moment() {
    const THREADS: usize = 8;
    const WRITES: usize = 200;
    let engine = Arc::new(MemoryEngine::new());
    let limits = LocalLimits { pending_commands_max: 4, ..LocalLimits::default() };
    let storage = LocalStorage::start(engine.clone(), StoreId::new(7), regions(), limits);
    let acknowledged = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (storage, acknowledged) = (&storage, &acknowledged);
            scope.spawn(move || {
                for number in 0..WRITES {
                    let key = format!("{thread}-{number}");
                    let batch = puts(&[(key.clone(), "v".to_string())]);
                    let context = RequestContext::from(&context(1));
                    block_on(async {
                        let permit = storage.permits().acquire(batch.byte_size()).await;
                        storage.async_write(&context, batch, permit).await
                    })
                    .expect("written");
                    acknowledged.lock().unwrap().insert(key);
                }
            });
        }
        for _ in 0..50 {
            let promised = acknowledged.lock().unwrap().clone();
            let left = engine.crash(0);
            for key in promised {
                let key = keys::data_key(key.as_bytes());
                let found = left.get(ColumnFamily::Raw, &key).expect("readable");
                assert_eq!(found.as_deref(), Some(&b"v"[..]), "{key:?}");
            }
        }
    });
    storage.stop();
    let counts = storage.counts();
    assert_eq!(counts.commands, (THREADS * WRITES) as u64);
    assert!(counts.engine_writes <= counts.commands);
    assert_eq!((engine.unsynced_batches(), storage.unanswered()), (0, 0));
}

#[test]
fn regions_are_listed_in_the_order_of_their_keys() {
    let mut given = regions();
    given.reverse();
    (given[0].id, given[1].id) = (1, 2);
    let engine = Arc::new(MemoryEngine::new());
    let (storage, _writer) =
        LocalStorage::by_hand(engine, StoreId::new(7), given, LocalLimits::default());
    let starts: Vec<_> = storage.regions().iter().map(|region| region.start_key.clone()).collect();
    assert_eq!(starts, ["", "m"]);
}

#[test]
fn a_view_is_clamped_to_its_region_and_shows_one_moment() {
    let engine = Arc::new(MemoryEngine::new());
    let (storage, mut writer) =
        LocalStorage::by_hand(engine, StoreId::new(7), regions(), LocalLimits::default());
    let context = RequestContext::from(&context(2));
    let view = block_on(storage.async_snapshot(&context)).expect("the region is here");
    let whole = view
        .clamp(keys::DataSpace::Main, &skerry_proto::region::KeyBounds::ALL)
        .expect("not empty");
    assert_eq!(whole, KeyRange::new(&b"zm"[..], &b"{"[..]));
    assert!(
        view.clamp(keys::DataSpace::Main, &skerry_proto::region::KeyBounds::new(b"a", b"m"))
            .is_none()
    );
    assert!(view.check_key(b"zm").is_ok() && view.check_key(b"zl").is_err());

    let batch = puts(&[("n".to_string(), "1".to_string())]);
    let permit = block_on(storage.permits().acquire(1));
    let answer = storage.async_write(&context, batch, permit);
    assert!(writer.try_round().expect("the engine works"));
    block_on(answer).expect("written");
    assert_eq!(view.view.get(ColumnFamily::Raw, b"zn").expect("readable"), None);
    let later = block_on(storage.async_snapshot(&context)).expect("the region is here");
    assert!(later.view.get(ColumnFamily::Raw, b"zn").expect("readable").is_some());
    assert_eq!(later.term, STANDALONE_TERM);
}
