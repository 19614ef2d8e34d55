//! Snapshots from one engine to another, on memory and on RocksDB: what arrives ([`contents`]), what a stopped
//! machine leaves ([`crashes`]), what damage is found ([`damage`]), and who may do what when ([`registry`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::RaftSnapshotData;
use tempfile::TempDir;

use super::*;
use crate::config::RocksConfig;
use crate::engine::memory::MemoryEngine;
use crate::engine::rocks::RocksEngine;
use crate::engine::{ColumnFamily, Durability, Engine, KeyRange, TableWriter, View, WriteBatch};
use crate::{Error, Result};

mod contents;
mod crashes;
mod damage;
mod registry;

const ID: SnapshotId = SnapshotId { region_id: 7, term: 6, index: 120 };

/// Everything in an engine.
type Contents = BTreeMap<(ColumnFamily, Bytes), Bytes>;

/// Which engine a test runs on. Tables of one cannot be read by the other.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Memory,
    Rocks,
}

const KINDS: [Kind; 2] = [Kind::Memory, Kind::Rocks];

/// A store: an engine and a snapshot directory.
struct Store {
    engine: Box<dyn Engine>,
    home: TempDir,
}

impl Store {
    fn new(kind: Kind) -> Store {
        let home = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir(home.path().join("snapshots")).expect("directory");
        let rocks = || RocksEngine::open(&home.path().join("data"), &RocksConfig::small(), None);
        let engine: Box<dyn Engine> = match kind {
            Kind::Memory => Box::new(MemoryEngine::new()),
            Kind::Rocks => Box::new(rocks().expect("open")),
        };
        Store { engine, home }
    }

    /// A store that holds these pairs.
    fn holding(kind: Kind, contents: &Contents) -> Store {
        let store = Store::new(kind);
        let mut batch = WriteBatch::new();
        for ((family, key), value) in contents {
            batch.put(*family, key.clone(), value.clone());
        }
        store.engine.write(batch, Durability::Synced).expect("write");
        store
    }

    fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    fn snapshots(&self) -> std::path::PathBuf {
        self.home.path().join("snapshots")
    }

    fn build(&self, region: &metapb::Region) -> Result<RaftSnapshotData> {
        let view = self.engine.view();
        build(&self.snapshots(), ID, &*view, region, self.engine(), &mut |_| {})
    }

    fn receive(&self, from: &Store, data: &RaftSnapshotData) -> Result<()> {
        copy(&from.snapshots(), &self.snapshots(), ID, data)
    }

    fn install(&self, region: &metapb::Region) -> Result<()> {
        install(&self.snapshots(), ID, region, self.engine(), None)
    }

    fn contents(&self) -> Contents {
        contents_of(self.engine())
    }

    /// Names of all files in the snapshot directory.
    fn names(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.snapshots()).expect("list");
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries.map(|entry| name(entry.expect("entry"))).collect()
    }
}

fn contents_of(engine: &dyn Engine) -> Contents {
    let view = engine.view();
    let mut contents = Contents::new();
    for family in ColumnFamily::ALL {
        let mut cursor = view.cursor(family, &KeyRange::default()).expect("cursor");
        let mut standing = cursor.seek_to_first().expect("seek");
        while standing {
            let pair =
                (Bytes::copy_from_slice(cursor.key()), Bytes::copy_from_slice(cursor.value()));
            contents.insert((family, pair.0), pair.1);
            standing = cursor.next().expect("next");
        }
    }
    contents
}

fn region(start: &'static str, end: &'static str) -> metapb::Region {
    metapb::Region {
        id: ID.region_id,
        start_key: start.into(),
        end_key: end.into(),
        ..metapb::Region::default()
    }
}

/// Whether a pair belongs to a region, said without the functions under test: family `raw` has three spaces,
/// the other families of data have one.
fn is_inside(region: &metapb::Region, family: ColumnFamily, key: &[u8]) -> bool {
    let Some((space, key)) = key.split_first() else { return false };
    let is_data = match family {
        ColumnFamily::Default | ColumnFamily::Lock | ColumnFamily::Write => *space == b'z',
        ColumnFamily::Raw => b"xyz".contains(space),
        ColumnFamily::Raft => false,
    };
    is_data && *region.start_key <= *key && (region.end_key.is_empty() || *key < *region.end_key)
}

/// What a store holds after it has installed `region` from another.
fn expected(region: &metapb::Region, from: &Contents, before: &Contents) -> Contents {
    let inside = |pair: &(&(ColumnFamily, Bytes), &Bytes)| is_inside(region, pair.0.0, &pair.0.1);
    let kept = before.iter().filter(|pair| !inside(pair));
    let loaded = from.iter().filter(inside);
    kept.chain(loaded).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// In every family and space: keys of the region `d` to `m`, and their nearest neighbours on both sides.
fn neighbourhood(value: &str) -> Contents {
    let keys = ["", "c", "c\u{7f}", "d", "d\0", "h", "lz", "m", "m\0", "z"];
    let mut contents = Contents::new();
    for family in ColumnFamily::ALL {
        for space in ["w", "x", "y", "z", "{"] {
            for key in keys {
                let pair =
                    (format!("{space}{key}").into(), format!("{value} {family} {key}").into());
                contents.insert((family, pair.0), pair.1);
            }
        }
    }
    contents
}

/// The files of a snapshot of a region that has something in every part, and nothing else.
fn complete_names(prefix: &str) -> BTreeSet<String> {
    names_for(prefix, &region("", ""), &neighbourhood(""))
}

/// The files of a snapshot of `region` out of these pairs: one for each part that holds something, and the list.
fn names_for(prefix: &str, region: &metapb::Region, from: &Contents) -> BTreeSet<String> {
    let part = |(family, key): &(ColumnFamily, Bytes)| match (family, key[0]) {
        (ColumnFamily::Raw, b'y') => "raw_2".to_string(),
        (ColumnFamily::Raw, b'z') => "raw_3".to_string(),
        _ => family.to_string(),
    };
    let inside = from.keys().filter(|(family, key)| is_inside(region, *family, key));
    let tables = inside.map(|pair| format!("{prefix}_7_6_120_{}.sst", part(pair)));
    tables.chain([format!("{prefix}_7_6_120.meta")]).collect()
}

/// Changes one bit of a file and answers what it was before.
fn flip(path: &Path, place: usize) -> Vec<u8> {
    let good = std::fs::read(path).expect("read");
    let mut bad = good.clone();
    bad[place] ^= 1 << (place % 8);
    std::fs::write(path, bad).expect("write");
    good
}
