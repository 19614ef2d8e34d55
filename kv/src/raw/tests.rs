//! Stories about the raw API, told once and run with API V1 and with V2: the scripts name keys as
//! an application does, and the runner forms them as client libraries do for each version.
//!
//! The store has three regions, cut at `g` and `p` (ids 1, 2, 3), over an engine in memory, and a
//! clock that is moved by hand and begins at second 1,000.

use std::error::Error as StdError;
use std::fmt::Write as _;

use bytes::Bytes;
use futures_executor::block_on;
use skerry_proto::codec;
use skerry_proto::kvrpcpb::{self, KvPair};
use skerry_proto::metapb;
use skerry_proto::types::StoreId;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, KeyRange, WriteBatch};
use skerry_raftstore::keys;
use skerry_raftstore::time::ManualClock;

use super::*;
use crate::error::Leaving;
use crate::storage::{LocalLimits, LocalStorage, Permit};

mod model;
mod races;

/// Mode and keyspace of the DEFAULT keyspace, as clients write it before every raw key of V2.
const PREFIX: &[u8] = b"r\0\0\0";
/// What they write for the end of the keyspace.
const PREFIX_END: &[u8] = b"r\0\0\x01";
const STORE: u64 = 7;

/// A store with three regions and everything around it.
struct World {
    version: ApiVersion,
    clock: ManualClock,
    engine: Arc<MemoryEngine>,
    storage: Arc<LocalStorage>,
    raw: RawStore,
}

impl World {
    fn new(version: ApiVersion, limits: RawLimits) -> World {
        let engine = Arc::new(MemoryEngine::new());
        let storage = LocalStorage::start(
            engine.clone(),
            StoreId::new(STORE),
            World::regions(version),
            LocalLimits::default(),
        );
        World::over(version, limits, engine, storage)
    }

    fn over(
        version: ApiVersion,
        limits: RawLimits,
        engine: Arc<MemoryEngine>,
        storage: Arc<LocalStorage>,
    ) -> World {
        let clock = ManualClock::at(1_000_000);
        let raw = RawStore::new(storage.clone(), version, Arc::new(clock.clone()), limits);
        World { version, clock, engine, storage, raw }
    }

    fn regions(version: ApiVersion) -> Vec<metapb::Region> {
        let boundary = |cut: &'static str| match version {
            _ if cut.is_empty() => Bytes::new(),
            ApiVersion::V1 => Bytes::from_static(cut.as_bytes()),
            ApiVersion::V2 => codec::encode_bytes(&[PREFIX, cut.as_bytes()].concat()).into(),
        };
        let region = |id, start, end| metapb::Region {
            id,
            start_key: boundary(start),
            end_key: boundary(end),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
            peers: vec![metapb::Peer { id: id + 10, store_id: STORE, ..Default::default() }],
        };
        vec![region(1, "", "g"), region(2, "g", "p"), region(3, "p", "")]
    }

    /// The context of a client that knows everything.
    fn context(&self, region_id: u64) -> RequestContext {
        RequestContext::from(&kvrpcpb::Context {
            region_id,
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
            peer: Some(metapb::Peer { id: region_id + 10, store_id: STORE, ..Default::default() }),
            api_version: match self.version {
                ApiVersion::V1 => kvrpcpb::ApiVersion::V1.into(),
                ApiVersion::V2 => kvrpcpb::ApiVersion::V2.into(),
            },
            ..Default::default()
        })
    }

    /// The context for the region in which `user` lies.
    fn context_for(&self, user: &str) -> RequestContext {
        self.context(1 + u64::from(user >= "g") + u64::from(user >= "p"))
    }

    fn key(&self, user: &str) -> Bytes {
        match self.version {
            ApiVersion::V1 => Bytes::copy_from_slice(user.as_bytes()),
            ApiVersion::V2 => [PREFIX, user.as_bytes()].concat().into(),
        }
    }

    /// A range as client libraries send it: the whole keyspace if it has no ends.
    fn range(&self, from: &str, to: &str) -> (Bytes, Bytes) {
        let end = match self.version {
            ApiVersion::V2 if to.is_empty() => Bytes::from_static(PREFIX_END),
            _ => self.key(to),
        };
        (self.key(from), end)
    }

    fn user_key<'a>(&self, wire: &'a [u8]) -> &'a [u8] {
        match self.version {
            ApiVersion::V1 => wire,
            ApiVersion::V2 => wire.strip_prefix(PREFIX).expect("every answer is in the keyspace"),
        }
    }

    fn permit(&self) -> Permit {
        block_on(self.raw.permits().acquire(1))
    }

    /// What lies in the engine, expired or not.
    fn dump(&self) -> String {
        let view = self.engine.view();
        let mut cursor = view.cursor(ColumnFamily::Raw, &KeyRange::default()).expect("cursor");
        let mut stands = cursor.seek_to_first().expect("readable");
        let mut output = String::new();
        while stands {
            let wire = self.raw.keys.client_key(cursor.key()).expect("a raw key");
            let (user, expiry) = value::split(cursor.value()).expect("a raw value");
            let key = self.user_key(&wire).escape_ascii();
            write!(output, "{key}={}", user.escape_ascii()).expect("strings take everything");
            match expiry {
                Some(expiry) => writeln!(output, " until {expiry}"),
                None => writeln!(output),
            }
            .expect("strings take everything");
            stands = cursor.next().expect("readable");
        }
        output
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.raw.stop();
        self.storage.stop();
        assert_eq!((self.storage.unanswered(), self.raw.latches.key_count()), (0, 0));
    }
}

/// What a script may ask. Where `region` is left out the client asks the region of the first key.
#[derive(goldenscript::Command)]
enum Command {
    Get {
        key: String,
        #[arg(key)]
        region: Option<u64>,
    },
    BatchGet {
        keys: Vec<String>,
        #[arg(key)]
        region: Option<u64>,
    },
    /// One pair is a RawPut, more are a RawBatchPut.
    Put {
        #[arg(key, optional)]
        ttl: u64,
        #[arg(key)]
        region: Option<u64>,
        #[arg(key, many)]
        pairs: Vec<(String, String)>,
    },
    Delete {
        keys: Vec<String>,
        #[arg(key)]
        region: Option<u64>,
    },
    /// Ranges are written `from..to`. Of a reverse scan too `from` is the lower bound.
    Scan {
        #[arg(pos, many)]
        ranges: Vec<String>,
        #[arg(key)]
        limit: Option<u32>,
        #[arg(key, optional)]
        reverse: bool,
        #[arg(key, optional)]
        key_only: bool,
        #[arg(key)]
        region: Option<u64>,
    },
    DeleteRange {
        range: String,
        #[arg(key)]
        region: Option<u64>,
    },
    Ttl(String),
    /// `expect` left out: the key must not be there. `to` left out: the key is removed.
    Cas {
        key: String,
        #[arg(key)]
        expect: Option<String>,
        #[arg(key)]
        to: Option<String>,
        #[arg(key, optional)]
        ttl: u64,
    },
    Checksum {
        ranges: Vec<String>,
        #[arg(key)]
        algorithm: Option<i32>,
    },
    /// Lets milliseconds pass.
    Pass(u64),
    /// What lies in the engine, expired or not.
    Dump,
    /// What the following commands say of themselves, until the next `client`.
    Client {
        #[arg(key)]
        api_version: Option<i32>,
        #[arg(key)]
        family: Option<String>,
        #[arg(key)]
        store: Option<u64>,
        #[arg(key)]
        epoch: Option<u64>,
        /// Sends keys as they are written in the script.
        #[arg(key, optional)]
        plain: bool,
    },
}

/// Overrides of the command `client`.
#[derive(Default)]
struct Client {
    api_version: Option<i32>,
    family: String,
    store: Option<u64>,
    epoch: Option<u64>,
    plain: bool,
}

struct Runner {
    world: World,
    client: Client,
}

impl Runner {
    fn new(version: ApiVersion) -> Runner {
        // Small limits, so that scripts can reach them.
        let limits = RawLimits { key_bytes_max: 24, reply_bytes_max: 600, ..RawLimits::default() };
        Runner { world: World::new(version, limits), client: Client::default() }
    }

    fn context(&self, first_key: &str, region: Option<u64>) -> RequestContext {
        let mut context = match region {
            Some(region) => self.world.context(region),
            None => self.world.context_for(first_key),
        };
        context.api_version = self.client.api_version.unwrap_or(context.api_version);
        context.store_id = self.client.store.map_or(context.store_id, StoreId::new);
        context.epoch.version = self.client.epoch.unwrap_or(context.epoch.version);
        context
    }

    fn key(&self, key: &str) -> Bytes {
        if self.client.plain { Bytes::copy_from_slice(key.as_bytes()) } else { self.world.key(key) }
    }

    fn keys(&self, keys: &[String]) -> Vec<Bytes> {
        keys.iter().map(|key| self.key(key)).collect()
    }

    fn range(&self, text: &str) -> (Bytes, Bytes) {
        let (from, to) = text.split_once("..").expect("a range is written from..to");
        if self.client.plain { (self.key(from), self.key(to)) } else { self.world.range(from, to) }
    }

    fn pair(&self, pair: &KvPair) -> String {
        let key = if self.client.plain { &pair.key } else { self.world.user_key(&pair.key) };
        format!("{}={}", key.escape_ascii(), pair.value.escape_ascii())
    }

    fn pairs(&self, pairs: &[KvPair]) -> String {
        if pairs.is_empty() {
            return "nothing".to_string();
        }
        pairs.iter().map(|pair| self.pair(pair)).collect::<Vec<_>>().join(" ")
    }

    fn run(&mut self, command: &Command) -> Result<String> {
        let (raw, family) = (&self.world.raw, self.client.family.as_str());
        Ok(match command {
            Command::Get { key, region } => {
                let context = self.context(key, *region);
                match block_on(raw.get(&context, family, &self.key(key)))? {
                    Some(value) => format!("\"{}\"", value.escape_ascii()),
                    None => "not found".to_string(),
                }
            }
            Command::BatchGet { keys, region } => {
                let context = self.context(&keys[0], *region);
                self.pairs(&block_on(raw.batch_get(&context, family, self.keys(keys)))?)
            }
            Command::Put { ttl, region, pairs } => {
                let context = self.context(&pairs[0].0, *region);
                let put = |(key, value): &(String, String)| Put {
                    key: self.key(key),
                    value: value.clone().into(),
                    ttl_seconds: *ttl,
                };
                let puts = pairs.iter().map(put).collect();
                let permit = self.world.permit();
                block_on(raw.put(&context, family, puts, Ordering::Plain, permit))?;
                "done".to_string()
            }
            Command::Delete { keys, region } => {
                let context = self.context(&keys[0], *region);
                let (keys, permit) = (self.keys(keys), self.world.permit());
                block_on(raw.delete(&context, family, keys, Ordering::ForCas, permit))?;
                "done".to_string()
            }
            Command::Scan { ranges, limit, reverse, key_only, region } => {
                let from = ranges[0].split("..").next().unwrap_or_default();
                let context = self.context(from, *region);
                let turn = |(low, high)| if *reverse { (high, low) } else { (low, high) };
                let scan = Scan {
                    ranges: ranges.iter().map(|range| turn(self.range(range))).collect(),
                    limit: limit.unwrap_or(10),
                    key_only: *key_only,
                    reverse: *reverse,
                };
                self.pairs(&block_on(raw.scan(&context, family, scan))?)
            }
            Command::DeleteRange { range, region } => {
                let from = range.split("..").next().unwrap_or_default();
                let context = self.context(from, *region);
                let (start, end) = self.range(range);
                let permit = self.world.permit();
                block_on(raw.delete_range(&context, family, (&start, &end), permit))?;
                "done".to_string()
            }
            other => self.run_more(other)?,
        })
    }

    fn run_more(&mut self, command: &Command) -> Result<String> {
        let (raw, family) = (&self.world.raw, self.client.family.as_str());
        Ok(match command {
            Command::Ttl(key) => {
                let context = self.context(key, None);
                match block_on(raw.key_ttl(&context, family, &self.key(key)))? {
                    Some(0) => "for ever".to_string(),
                    Some(seconds) => format!("{seconds} s"),
                    None => "not found".to_string(),
                }
            }
            Command::Cas { key, expect, to, ttl } => {
                let context = self.context(key, None);
                let swap = match to {
                    Some(to) => Swap::Put { value: to.clone().into(), ttl_seconds: *ttl },
                    None => Swap::Delete,
                };
                let expected = expect.clone().map(Bytes::from);
                let request = CompareAndSwap { key: self.key(key), expected, swap };
                let permit = self.world.permit();
                let swapped = block_on(raw.compare_and_swap(&context, family, request, permit))?;
                let done = if swapped.succeeded { "swapped" } else { "not swapped" };
                match swapped.previous {
                    Some(previous) => format!("{done}, it was \"{}\"", previous.escape_ascii()),
                    None => format!("{done}, it was not there"),
                }
            }
            Command::Checksum { ranges, algorithm } => {
                let from = ranges[0].split("..").next().unwrap_or_default();
                let context = self.context(from, None);
                let ranges = ranges.iter().map(|range| self.range(range)).collect();
                let sum = block_on(raw.checksum(&context, algorithm.unwrap_or(0), ranges))?;
                let (pairs, bytes) = (sum.total_pairs, sum.total_bytes);
                format!("{:016x} of {pairs} pairs, {bytes} bytes", sum.checksum)
            }
            Command::Pass(milliseconds) => {
                self.world.clock.advance_ms(*milliseconds);
                String::new()
            }
            Command::Dump => self.world.dump(),
            Command::Client { api_version, family, store, epoch, plain } => {
                self.client = Client {
                    api_version: *api_version,
                    family: family.clone().unwrap_or_default(),
                    store: *store,
                    epoch: *epoch,
                    plain: *plain,
                };
                String::new()
            }
            _ => unreachable!("the commands above are all"),
        })
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> std::result::Result<String, Box<dyn StdError>> {
        Ok(match Runner::run(self, command) {
            Ok(output) => output,
            Err(error) => match error.leaving() {
                Leaving::Region(error) => format!("region error: {}", error.message),
                Leaving::Text(text) => format!("error: {text}"),
                other => format!("status: {other:?}"),
            },
        })
    }
}

#[test]
fn scripts_with_both_versions() -> std::io::Result<()> {
    for script in [
        "put_get_delete",
        "batches",
        "scan",
        "scan_reverse",
        "batch_scan",
        "delete_range",
        "compare_and_swap",
        "ttl",
        "checksum",
        "regions",
        "limits",
    ] {
        for version in [ApiVersion::V1, ApiVersion::V2] {
            goldenscript::run(&mut Runner::new(version), format!("src/raw/scripts/{script}"))?;
        }
    }
    Ok(())
}

#[test]
fn scripts_of_one_version() -> std::io::Result<()> {
    goldenscript::run(&mut Runner::new(ApiVersion::V1), "src/raw/scripts/only_v1")?;
    goldenscript::run(&mut Runner::new(ApiVersion::V1), "src/raw/scripts/only_v1_families")?;
    goldenscript::run(&mut Runner::new(ApiVersion::V2), "src/raw/scripts/only_v2")
}

#[test]
fn a_batch_of_a_hundred_thousand_keys_is_answered_in_the_order_of_the_request() {
    const KEYS: usize = 100_000;
    let world = World::new(ApiVersion::V2, RawLimits::default());
    let name = |number: usize| format!("{:06}", (number * 7_919) % KEYS);
    // Every second key is there.
    let mut batch = WriteBatch::new();
    for number in (0..KEYS).step_by(2) {
        let key = world.raw.keys.point(&world.key(&format!("{number:06}"))).expect("a key");
        let value = value::StoredValue::new(Bytes::from(number.to_string()), 0, 0).encode();
        batch.put(ColumnFamily::Raw, key, value);
    }
    world.engine.write(batch, Durability::Synced).expect("written");
    let keys = (0..KEYS).map(|number| world.key(&name(number))).collect();
    let pairs = block_on(world.raw.batch_get(&world.context(1), "", keys)).expect("100,000 keys");
    let wanted: Vec<Bytes> = (0..KEYS)
        .map(name)
        .filter(|name| name.parse::<usize>().expect("a number") % 2 == 0)
        .map(|name| world.key(&name))
        .collect();
    assert_eq!(pairs.iter().map(|pair| pair.key.clone()).collect::<Vec<_>>(), wanted);
}

/// Puts so many pairs, of which those chosen have expired; answers the numbers that a scan finds.
fn scan_of_many(
    version: ApiVersion,
    expired: fn(usize) -> bool,
    limit: u32,
    reverse: bool,
) -> Vec<usize> {
    const PAIRS: usize = 5_000;
    let world = World::new(version, RawLimits::default());
    let mut batch = WriteBatch::new();
    for number in 0..PAIRS {
        let key = world.raw.keys.point(&world.key(&format!("{number:05}"))).expect("a key");
        let value = value::StoredValue::new(Bytes::new(), u64::from(expired(number)), 900);
        batch.put(ColumnFamily::Raw, key, value.encode());
    }
    world.engine.write(batch, Durability::Synced).expect("written");
    let (start, end) = world.range("", "");
    let ranges = vec![if reverse { (end, start) } else { (start, end) }];
    let scan = Scan { ranges, limit, key_only: true, reverse };
    let pairs = block_on(world.raw.scan(&world.context(1), "", scan)).expect("a scan");
    let number = |pair: &KvPair| String::from_utf8_lossy(world.user_key(&pair.key)).parse();
    pairs.iter().map(|pair| number(pair).expect("a number")).collect()
}

#[test]
fn a_scan_of_many_slices_misses_nothing_and_repeats_nothing() {
    for version in [ApiVersion::V1, ApiVersion::V2] {
        let expired = |number| number % 3 == 2;
        let mut wanted: Vec<usize> = (0..5_000).filter(|&number| !expired(number)).collect();
        assert_eq!(scan_of_many(version, expired, u32::MAX, false), wanted);
        wanted.reverse();
        assert_eq!(scan_of_many(version, expired, u32::MAX, true), wanted);
    }
}

#[test]
fn a_scan_crosses_a_desert_of_expired_pairs() {
    let desert = |number| (100..4_900).contains(&number);
    let found = scan_of_many(ApiVersion::V2, desert, 150, false);
    assert_eq!(found, (0..100).chain(4_900..4_950).collect::<Vec<_>>());
    let found = scan_of_many(ApiVersion::V2, desert, 150, true);
    assert_eq!(found, (4_900..5_000).rev().chain((50..100).rev()).collect::<Vec<_>>());
}

#[test]
fn values_of_a_megabyte_and_empty_ones_come_back() {
    let world = World::new(ApiVersion::V1, RawLimits::default());
    let context = world.context(2);
    let megabyte = Bytes::from(vec![7; 1 << 20]);
    for value in [megabyte, Bytes::new()] {
        let put = Put { key: "k".into(), value: value.clone(), ttl_seconds: 0 };
        block_on(world.raw.put(&context, "", vec![put], Ordering::Plain, world.permit()))
            .expect("written");
        assert_eq!(block_on(world.raw.get(&context, "", b"k")).expect("read"), Some(value));
    }
    let put = Put { key: "k".into(), value: vec![7; 9 << 20].into(), ttl_seconds: 0 };
    let refused = block_on(world.raw.put(&context, "", vec![put], Ordering::Plain, world.permit()));
    assert!(matches!(refused, Err(crate::Error::EntryTooLarge { region_id: 2, .. })));
}

#[test]
fn whatever_is_read_through_a_view_is_counted() {
    let world = World::new(ApiVersion::V1, RawLimits::default());
    let context = world.context(1);
    let puts =
        ["a", "b", "c"].map(|key| Put { key: key.into(), value: "value".into(), ttl_seconds: 0 });
    block_on(world.raw.put(&context, "", puts.to_vec(), Ordering::Plain, world.permit()))
        .expect("written");
    let reads = block_on(world.storage.async_snapshot(&context)).expect("the region is here").reads;
    reads.take();
    let keys = vec!["a".into(), "c".into(), "d".into()];
    block_on(world.raw.batch_get(&context, "", keys)).expect("read");
    assert_eq!(reads.take().keys, 3, "also what is not there was looked for");
    let scan = Scan { ranges: vec![world.range("", "")], limit: 2, ..Scan::default() };
    block_on(world.raw.scan(&context, "", scan)).expect("read");
    let read = reads.take();
    assert_eq!(read.keys, 2);
    assert!(read.bytes >= 2 * "a".len() as u64 + 2 * "value".len() as u64, "{read:?}");
    block_on(world.raw.checksum(&context, 0, vec![world.range("", "")])).expect("read");
    assert_eq!(reads.take().keys, 3);
}

#[test]
fn damage_in_the_engine_is_told_to_the_reader_and_to_nobody_else() {
    let world = World::new(ApiVersion::V1, RawLimits::default());
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Raw, keys::data_key(b"bad"), &b"short"[..]);
    world.engine.write(batch, Durability::Synced).expect("written");
    let context = world.context(1);
    let read = block_on(world.raw.get(&context, "", b"bad"));
    assert!(matches!(read.expect_err("damaged").leaving(), Leaving::Damaged(_)));
    let scan = Scan { ranges: vec![world.range("", "")], limit: 1, ..Scan::default() };
    assert!(block_on(world.raw.scan(&context, "", scan)).is_err());
    assert_eq!(block_on(world.raw.get(&context, "", b"fine")).expect("read"), None);
}
