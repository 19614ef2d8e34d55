//! Two engines, one random sequence of operations, the same answers. The memory engine is the
//! model: it is small enough to be believed.

use super::*;
use crate::time::splitmix64;

/// Keys are few, so that operations meet.
const KEYS: u64 = 300;

/// A stream of choices from one seed.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = splitmix64(self.0);
        self.0 % limit
    }

    fn family(&mut self) -> ColumnFamily {
        ColumnFamily::ALL[self.below(ColumnFamily::ALL.len() as u64) as usize]
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.below(KEYS);
        let mut key = format!("k{:02}", number / 4).into_bytes();
        // Neighbours that differ by one zero byte, or only in length.
        key.extend(std::iter::repeat_n(0, (number % 4) as usize));
        key
    }

    fn value(&mut self) -> Vec<u8> {
        let length = if self.below(10) == 0 { self.below(4_000) } else { self.below(20) };
        let byte = self.below(256) as u8;
        vec![byte; length as usize]
    }

    /// Often short, sometimes open at an end, sometimes reversed.
    fn range(&mut self) -> KeyRange {
        let start = if self.below(8) == 0 { Vec::new() } else { self.key() };
        let end = match self.below(8) {
            0 => Vec::new(),
            1..4 => self.key(),
            _ => [&start[..], b"\x01"].concat(),
        };
        KeyRange::new(start, end)
    }

    fn batch(&mut self) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for _ in 0..self.below(12) {
            let family = self.family();
            match self.below(20) {
                0 => batch.delete_range(family, self.range()),
                1..6 => batch.delete(family, self.key()),
                _ => batch.put(family, self.key(), self.value()),
            }
        }
        batch
    }
}

/// Two machines and the views taken of both.
struct Mirror {
    views: Vec<(Arc<dyn View>, Arc<dyn View>)>,
    model: MemoryMachine,
    rocks: RocksMachine,
    files: TempDir,
    tables: u64,
}

impl Mirror {
    fn new() -> Mirror {
        Mirror {
            views: Vec::new(),
            model: MemoryMachine::default(),
            rocks: RocksMachine::new(),
            files: tempfile::tempdir().expect("temporary directory"),
            tables: 0,
        }
    }

    /// One random operation on both.
    fn step(&mut self, choices: &mut Choices) {
        match choices.below(1_000) {
            0..550 => self.write(choices.batch(), choices.below(50) == 0),
            550..700 => self.compare_gets(choices),
            700..800 => self.compare_walk(choices),
            800..850 => self.take_view(),
            850..900 => self.compare_and_release_view(choices),
            900..925 => self.ingest(choices),
            925..940 => self.destroy(choices.family(), &choices.range()),
            940..960 => self.rocks.rocks().flush(choices.family()),
            960..970 => self.rocks.rocks().settle(choices.family()),
            970..973 => self.kill(),
            _ => self.compare_all(),
        }
    }

    fn write(&mut self, batch: WriteBatch, synced: bool) {
        let durability = if synced { Durability::Synced } else { Durability::Buffered };
        self.model.engine().write(batch.clone(), durability).expect("write");
        self.rocks.engine().write(batch, durability).expect("write");
    }

    fn compare_gets(&self, choices: &mut Choices) {
        for _ in 0..10 {
            let (family, key) = (choices.family(), choices.key());
            let expected = self.model.engine().get(family, &key).expect("get");
            let found = self.rocks.engine().get(family, &key).expect("get");
            assert_eq!(found, expected, "{family} {key:?}");
        }
    }

    fn compare_walk(&self, choices: &mut Choices) {
        let (family, range) = (choices.family(), choices.range());
        let (left, right) = (self.model.engine().view(), self.rocks.engine().view());
        let mut left = left.cursor(family, &range).expect("cursor");
        let mut right = right.cursor(family, &range).expect("cursor");
        let mut stands = false;
        for _ in 0..30 {
            let key = choices.key();
            let choice = choices.below(if stands { 8 } else { 4 });
            let movement = |cursor: &mut dyn Cursor| match choice {
                0 => cursor.seek(&key),
                1 => cursor.seek_for_previous(&key),
                2 => cursor.seek_to_first(),
                3 => cursor.seek_to_last(),
                4 | 5 => cursor.next(),
                _ => cursor.previous(),
            };
            stands = movement(&mut *left).expect("move");
            assert_eq!(movement(&mut *right).expect("move"), stands, "{family} {range:?} {choice}");
            if stands {
                assert_eq!((right.key(), right.value()), (left.key(), left.value()));
                assert!(range.contains(left.key()), "{range:?}");
            }
        }
    }

    fn take_view(&mut self) {
        self.views.push((self.model.engine().view(), self.rocks.engine().view()));
    }

    fn compare_and_release_view(&mut self, choices: &mut Choices) {
        if !self.views.is_empty() {
            let oldest = choices.below(self.views.len() as u64) as usize;
            let (left, right) = self.views.swap_remove(oldest);
            compare_views(&*left, &*right);
        }
    }

    fn ingest(&mut self, choices: &mut Choices) {
        let family = choices.family();
        let range = choices.range();
        let deleted = (choices.below(2) == 0 && !range.is_empty()).then_some(range);
        let keys: std::collections::BTreeSet<Vec<u8>> =
            (0..choices.below(20)).map(|_| choices.key()).collect();
        if deleted.is_none() && keys.is_empty() {
            return;
        }
        let pairs: Vec<(Vec<u8>, Vec<u8>)> =
            keys.into_iter().map(|key| (key, choices.value())).collect();
        self.tables += 1;
        let machines: [(&dyn Machine, &str); 2] = [(&self.model, "model"), (&self.rocks, "rocks")];
        for (machine, name) in machines {
            let path = self.files.path().join(format!("{}.{name}", self.tables));
            let mut writer = machine.engine().table_writer(family, &path).expect("writer");
            if let Some(range) = &deleted {
                writer.delete_range(range).expect("delete_range");
            }
            for (key, value) in &pairs {
                writer.put(key, value).expect("put");
            }
            writer.finish().expect("finish");
            machine.engine().ingest(family, &[path]).expect("ingest");
        }
    }

    fn destroy(&mut self, family: ColumnFamily, range: &KeyRange) {
        // Older views may see the range or not, so there must be none.
        self.views.clear();
        self.model.engine().destroy_range(family, range).expect("destroy");
        self.rocks.engine().destroy_range(family, range).expect("destroy");
        self.compare_all();
    }

    fn kill(&mut self) {
        self.views.clear();
        self.model.kill();
        self.rocks.kill();
        self.compare_all();
    }

    fn compare_all(&self) {
        compare_views(&*self.model.engine().view(), &*self.rocks.engine().view());
    }
}

/// Every pair of every family: up, down, and one by one.
fn compare_views(left: &dyn View, right: &dyn View) {
    for family in ColumnFamily::ALL {
        let up = pairs(left, family, false);
        assert_eq!(pairs(right, family, false), up, "{family}");
        let mut down = pairs(right, family, true);
        down.reverse();
        assert_eq!(down, up, "{family} backwards");
        for (key, value) in up {
            assert_eq!(
                right.get(family, &key).expect("get"),
                Some(value.into()),
                "{family} {key:?}"
            );
        }
    }
}

fn pairs(view: &dyn View, family: ColumnFamily, reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut cursor = view.cursor(family, &KeyRange::default()).expect("cursor");
    let mut stands = if reverse { cursor.seek_to_last() } else { cursor.seek_to_first() };
    let mut pairs = Vec::new();
    while stands.expect("move") {
        pairs.push((cursor.key().to_vec(), cursor.value().to_vec()));
        stands = if reverse { cursor.previous() } else { cursor.next() };
    }
    pairs
}

#[test]
fn rocks_does_what_the_model_does_whatever_is_asked() {
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            // A failure names its thread, and so its seed.
            let thread = std::thread::Builder::new().name(format!("seed {seed}"));
            let run = move || {
                let mut choices = Choices(seed);
                let mut mirror = Mirror::new();
                for _ in 0..2_000 {
                    mirror.step(&mut choices);
                }
                mirror.compare_all();
            };
            thread.spawn_scoped(scope, run).expect("start a thread");
        }
    });
}
