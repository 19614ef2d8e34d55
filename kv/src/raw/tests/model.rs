//! Random operations on the raw API and on the simplest thing that could have the same answers: an
//! ordered map from keys to a value and the second in which it ends. Afterwards the power goes, and
//! the map must still be right.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Put(Vec<(String, String, u64)>, bool),
    Delete(Vec<String>, bool),
    DeleteRange(String, String),
    Cas(String, Option<String>, Option<(String, u64)>),
    Get(String),
    BatchGet(Vec<String>),
    Ttl(String),
    Scan(Vec<(String, String)>, u32, bool, bool),
    Pass(u64),
}

/// Few keys, all in the first region, so that operations meet; one contains a zero and one is
/// another's prefix.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a".to_string()),
        Just("a\0".to_string()),
        Just("ab".to_string()),
        Just("b".to_string()),
        Just("b1234567".to_string()),
        Just("c".to_string()),
        Just("fff".to_string()),
    ]
}

/// Ends of ranges: keys, open, and one in another region.
fn end() -> impl Strategy<Value = String> {
    prop_oneof![4 => key(), 1 => Just(String::new()), 1 => Just("m".to_string())]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("x".to_string()), Just("y".to_string())]
}

fn ttl() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 1 => 1..5_u64, 1 => Just(u64::MAX)]
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let swap = prop::option::of((value(), ttl()));
    prop_oneof![
        4 => (vec((key(), value(), ttl()), 1..4), any::<bool>()).prop_map(|(p, c)| Put(p, c)),
        2 => (vec(key(), 1..3), any::<bool>()).prop_map(|(keys, c)| Delete(keys, c)),
        1 => (key(), end()).prop_map(|(from, to)| DeleteRange(from, to)),
        4 => (key(), prop::option::of(value()), swap).prop_map(|(k, e, s)| Cas(k, e, s)),
        2 => key().prop_map(Get),
        2 => vec(key(), 0..6).prop_map(BatchGet),
        2 => key().prop_map(Ttl),
        4 => (vec((key(), end()), 1..3), 0..9_u32, any::<bool>(), any::<bool>())
            .prop_map(|(ranges, limit, reverse, keys)| Scan(ranges, limit, reverse, keys)),
        3 => (0..2_500_u64).prop_map(Pass),
    ]
}

/// Keys with their value and the second in which it ends.
#[derive(Default)]
struct Model {
    pairs: BTreeMap<String, (String, u64)>,
    now: u64,
}

impl Model {
    fn put(&mut self, key: &str, value: &str, ttl: u64) {
        let end = if ttl == 0 { u64::MAX } else { self.now.saturating_add(ttl) };
        self.pairs.insert(key.to_string(), (value.to_string(), end));
    }

    fn get(&self, key: &str) -> Option<&String> {
        self.pairs.get(key).map(|(value, _)| value)
    }

    fn inside(from: &str, to: &str, key: &str) -> bool {
        key >= from && (to.is_empty() || key < to)
    }

    fn scan(&self, from: &str, to: &str, limit: u32, reverse: bool) -> Vec<(String, String)> {
        let inside = self.pairs.iter().filter(|(key, _)| Model::inside(from, to, key));
        let pairs = inside.map(|(key, (value, _))| (key.clone(), value.clone()));
        let mut pairs: Vec<_> = pairs.collect();
        if reverse {
            pairs.reverse();
        }
        pairs.truncate(limit as usize);
        pairs
    }
}

/// The real store beside the model.
struct Pair {
    world: World,
    model: Model,
    context: RequestContext,
}

impl Pair {
    fn new(version: ApiVersion) -> Pair {
        let world = World::new(version, RawLimits::default());
        let context = world.context(1);
        Pair { world, model: Model { now: 1_000, ..Model::default() }, context }
    }

    fn user_pairs(&self, pairs: &[KvPair]) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("keys are text");
        pairs.iter().map(|pair| (text(self.world.user_key(&pair.key)), text(&pair.value))).collect()
    }

    fn write(&mut self, operation: &Operation) {
        let (raw, context) = (&self.world.raw, &self.context);
        let permit = self.world.permit();
        match operation {
            Operation::Put(pairs, for_cas) => {
                let put = |(key, value, ttl): &(String, String, u64)| Put {
                    key: self.world.key(key),
                    value: value.clone().into(),
                    ttl_seconds: *ttl,
                };
                let puts = pairs.iter().map(put).collect();
                let ordering = Ordering::from_wire(*for_cas);
                block_on(raw.put(context, "", puts, ordering, permit)).expect("written");
                for (key, value, ttl) in pairs {
                    self.model.put(key, value, *ttl);
                }
            }
            Operation::Delete(keys, for_cas) => {
                let wire = keys.iter().map(|key| self.world.key(key)).collect();
                let ordering = Ordering::from_wire(*for_cas);
                block_on(raw.delete(context, "", wire, ordering, permit)).expect("written");
                for key in keys {
                    self.model.pairs.remove(key);
                }
            }
            Operation::DeleteRange(from, to) => {
                let (start, end) = self.world.range(from, to);
                block_on(raw.delete_range(context, "", (&start, &end), permit)).expect("written");
                self.model.pairs.retain(|key, _| !Model::inside(from, to, key));
            }
            Operation::Cas(key, expect, swap) => {
                let wire_swap = match swap {
                    Some((value, ttl)) => {
                        Swap::Put { value: value.clone().into(), ttl_seconds: *ttl }
                    }
                    None => Swap::Delete,
                };
                let expected = expect.clone().map(Bytes::from);
                let request =
                    CompareAndSwap { key: self.world.key(key), expected, swap: wire_swap };
                let swapped =
                    block_on(raw.compare_and_swap(context, "", request, permit)).expect("no error");
                let previous = self.model.get(key).cloned();
                let succeeded = previous == *expect;
                assert_eq!(swapped, Swapped { succeeded, previous: previous.map(Bytes::from) });
                match swap {
                    Some((value, ttl)) if succeeded => self.model.put(key, value, *ttl),
                    None if succeeded => drop(self.model.pairs.remove(key)),
                    _ => {}
                }
            }
            _ => unreachable!("a read"),
        }
    }

    /// A range as far as it is walked: clients of version 2 always say where it ends.
    fn walked<'a>(
        &self,
        ranges: &'a [(String, String)],
        at: usize,
        reverse: bool,
    ) -> (&'a str, &'a str) {
        let (from, to) = (&ranges[at].0[..], &ranges[at].1[..]);
        let next = ranges.get(at + 1).filter(|_| self.world.version == ApiVersion::V1);
        match next.map(|(from, to)| (&from[..], &to[..])) {
            Some((next, _)) if !reverse && to.is_empty() && from < next => (from, next),
            Some((_, next)) if reverse && from.is_empty() && !next.is_empty() => {
                if to.is_empty() || next < to { (next, to) } else { (from, to) }
            }
            _ => (from, to),
        }
    }

    fn read(&mut self, operation: &Operation) {
        let (raw, context, model) = (&self.world.raw, &self.context, &self.model);
        match operation {
            Operation::Get(key) => {
                let got = block_on(raw.get(context, "", &self.world.key(key))).expect("read");
                assert_eq!(got.as_deref(), model.get(key).map(|value| value.as_bytes()));
            }
            Operation::BatchGet(keys) => {
                let wire = keys.iter().map(|key| self.world.key(key)).collect();
                let got = block_on(raw.batch_get(context, "", wire)).expect("read");
                let wanted =
                    keys.iter().filter_map(|key| Some((key.clone(), model.get(key)?.clone())));
                assert_eq!(self.user_pairs(&got), wanted.collect::<Vec<_>>());
            }
            Operation::Ttl(key) => {
                let got = block_on(raw.key_ttl(context, "", &self.world.key(key))).expect("read");
                let left = |end: u64| if end == u64::MAX { None } else { Some(end - model.now) };
                let wanted = model.pairs.get(key).map(|(_, end)| left(*end));
                // The end of time is what a pair without an end has in the model.
                let got = got.map(|seconds| (1..10).contains(&seconds).then_some(seconds));
                assert_eq!(got, wanted);
            }
            Operation::Scan(ranges, limit, reverse, key_only) => {
                let wire = |(from, to): &(String, String)| {
                    let (start, end) = self.world.range(from, to);
                    if *reverse { (end, start) } else { (start, end) }
                };
                let scan = Scan {
                    ranges: ranges.iter().map(wire).collect(),
                    limit: *limit,
                    key_only: *key_only,
                    reverse: *reverse,
                };
                let got = block_on(raw.scan(context, "", scan)).expect("read");
                let each = (0..ranges.len()).map(|at| self.walked(ranges, at, *reverse));
                let mut wanted: Vec<_> =
                    each.flat_map(|(from, to)| model.scan(from, to, *limit, *reverse)).collect();
                if *key_only {
                    wanted.iter_mut().for_each(|(_, value)| value.clear());
                }
                assert_eq!(self.user_pairs(&got), wanted);
            }
            _ => unreachable!("a write"),
        }
    }

    fn apply(&mut self, operation: &Operation) {
        use Operation::*;
        match operation {
            Pass(milliseconds) => {
                self.world.clock.advance_ms(*milliseconds);
                self.model.now = value::now_seconds(&self.world.clock);
                let now = self.model.now;
                self.model.pairs.retain(|_, (_, end)| *end > now);
            }
            Put(..) | Delete(..) | DeleteRange(..) | Cas(..) => self.write(operation),
            Get(_) | BatchGet(_) | Ttl(_) | Scan(..) => self.read(operation),
        }
    }

    /// What a restart after power loss finds.
    fn after_crash(&self) -> Vec<(String, String)> {
        let engine = Arc::new(self.world.engine.crash(0));
        let storage = LocalStorage::start(
            engine.clone(),
            StoreId::new(STORE),
            World::regions(self.world.version),
            LocalLimits::default(),
        );
        let after = World::over(self.world.version, RawLimits::default(), engine, storage);
        after.clock.set_wall_ms(self.world.clock.wall_ms());
        let ranges = vec![after.range("", "")];
        let scan = Scan { ranges, limit: u32::MAX, ..Scan::default() };
        self.user_pairs(&block_on(after.raw.scan(&self.context, "", scan)).expect("read"))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_raw_api_is_a_map_with_expiry(
        second in any::<bool>(),
        operations in vec(operation(), 1..60),
    ) {
        let version = if second { ApiVersion::V2 } else { ApiVersion::V1 };
        let mut pair = Pair::new(version);
        for operation in &operations {
            pair.apply(operation);
        }
        prop_assert_eq!(pair.after_crash(), pair.model.scan("", "", u32::MAX, false));
    }
}
