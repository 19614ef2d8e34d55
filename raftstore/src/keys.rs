//! Every key that the store itself makes: one table, then the functions that encode and decode it.
//!
//! | name | bytes | value | family |
//! | --- | --- | --- | --- |
//! | data key | `z`, key of the region | what the family says | `default`, `lock`, `write`, `raw` |
//! | named raw key | `x` or `y`, key of the region | a raw value | `raw` |
//! | region state | `01 01`, region id (8 bytes) | `raft_serverpb.RegionLocalState` | `raft` |
//! | apply state | `01 02`, region id | `raft_serverpb.RaftApplyState` | `raft` |
//! | raft state of an accepted snapshot | `01 03`, region id | `raft_serverpb.RaftLocalState` | `raft` |
//! | incarnation of the store | `01 04` | how often it was started (8 bytes) | `raft` |
//! | prepared first region | `01 05` | `metapb.Region`; there until the cluster has it or another | `raft` |
//!
//! *Key of the region* is what region boundaries are compared with: the user's key, encoded or not
//! as the API version says. Region ids are big-endian so that a scan meets regions in the order of
//! their ids.
//!
//! Raw clients of API version 1 may name a column family. `lock` (`x`) and `write` (`y`) are maps of their
//! own in family `raw`, never the families of that name, which belong to transactions ([`DataSpace`]).
//!
//! **Invariant.** The first byte tells local keys (`01`) from data (`x` to `z`), and local keys come
//! first. Nobody else puts key bytes together, and a key on disk never changes its meaning.

use bytes::Bytes;

/// One of the maps of user data that a region consists of. Each has its own first byte, whose successor ends
/// it, so `z` and `{` bound the main one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataSpace {
    /// Everything but what follows.
    #[default]
    Main,
    /// Raw pairs that clients keep in what they call `lock`.
    RawLock,
    /// Raw pairs that clients keep in what they call `write`.
    RawWrite,
}

impl DataSpace {
    /// All of them: what a region holds in family `raw`.
    pub const ALL: [DataSpace; 3] = [DataSpace::Main, DataSpace::RawLock, DataSpace::RawWrite];

    const fn prefix(self) -> u8 {
        match self {
            DataSpace::Main => b'z',
            DataSpace::RawLock => b'x',
            DataSpace::RawWrite => b'y',
        }
    }

    /// The map that a data key is in; nothing when these bytes are no data key.
    pub fn of(data_key: &[u8]) -> Option<DataSpace> {
        let first = *data_key.first()?;
        DataSpace::ALL.into_iter().find(|space| space.prefix() == first)
    }

    /// Where the engine keeps `key` of this map.
    pub fn key(self, key: &[u8]) -> Bytes {
        let mut bytes = Vec::with_capacity(1 + key.len());
        bytes.push(self.prefix());
        bytes.extend_from_slice(key);
        bytes.into()
    }

    /// First data key of a range of this map, and the first one behind it. An empty `end`, as of the last
    /// region, ends with the map and not with the family.
    pub fn range(self, start: &[u8], end: &[u8]) -> (Bytes, Bytes) {
        let behind = || Bytes::copy_from_slice(&[self.prefix() + 1]);
        (self.key(start), if end.is_empty() { behind() } else { self.key(end) })
    }
}

/// First byte of everything the store keeps about itself.
const LOCAL_PREFIX: u8 = 0x01;

/// Second byte of local keys.
const REGION_STATE: u8 = 0x01;
const APPLY_STATE: u8 = 0x02;
const SNAPSHOT_RAFT_STATE: u8 = 0x03;
const INCARNATION: u8 = 0x04;
const PREPARED_REGION: u8 = 0x05;

/// How often the store was started.
pub const STORE_INCARNATION: &[u8] = &[LOCAL_PREFIX, INCARNATION];

/// The first region of a cluster that this store has offered to found.
pub const PREPARED_FIRST_REGION: &[u8] = &[LOCAL_PREFIX, PREPARED_REGION];

/// Where the engine keeps `key`.
pub fn data_key(key: &[u8]) -> Bytes {
    DataSpace::Main.key(key)
}

/// The key of the region inside a data key; nothing when these bytes are no data key.
pub fn region_key(data_key: &[u8]) -> Option<&[u8]> {
    DataSpace::of(data_key).map(|_| &data_key[1..])
}

/// First data key of a range, and the first one behind it. An empty `end`, as of the last region,
/// ends with the data and not with the family.
pub fn data_range(start: &[u8], end: &[u8]) -> (Bytes, Bytes) {
    DataSpace::Main.range(start, end)
}

/// What this store knows of one region.
pub fn region_state(region_id: u64) -> Bytes {
    of_region(REGION_STATE, region_id)
}

/// How far a region is applied.
pub fn apply_state(region_id: u64) -> Bytes {
    of_region(APPLY_STATE, region_id)
}

/// The raft state that came with a snapshot, kept until the snapshot is installed.
pub fn snapshot_raft_state(region_id: u64) -> Bytes {
    of_region(SNAPSHOT_RAFT_STATE, region_id)
}

fn of_region(kind: u8, region_id: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(10);
    bytes.extend_from_slice(&[LOCAL_PREFIX, kind]);
    bytes.extend_from_slice(&region_id.to_be_bytes());
    bytes.into()
}

/// The region that a region-state key belongs to; nothing when these bytes are no such key.
pub fn region_of_state(key: &[u8]) -> Option<u64> {
    let id = key.strip_prefix(&[LOCAL_PREFIX, REGION_STATE])?;
    Some(u64::from_be_bytes(id.try_into().ok()?))
}

/// All region-state keys: the first possible one, and the first key behind them.
pub fn region_states() -> (Bytes, Bytes) {
    let (first, behind) = (&[LOCAL_PREFIX, REGION_STATE], &[LOCAL_PREFIX, REGION_STATE + 1]);
    (Bytes::from_static(first), Bytes::from_static(behind))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use proptest::prelude::*;

    use super::*;

    /// What a script may ask; every answer is bytes in hexadecimal.
    #[derive(goldenscript::Command)]
    enum Command {
        /// data_key KEY
        DataKey(String),
        /// data_range START END
        DataRange(String, String),
        /// region_state ID
        RegionState(u64),
        /// region_states
        RegionStates,
    }

    struct Runner;

    impl goldenscript::Runner for Runner {
        type Command = Command;

        fn run(
            &mut self,
            command: &Command,
            _: &goldenscript::Context,
        ) -> Result<String, Box<dyn Error>> {
            let range = |(start, end)| format!("{}\n{}", hexadecimal(&start), hexadecimal(&end));
            Ok(match command {
                Command::DataKey(key) => hexadecimal(&data_key(key.as_bytes())),
                Command::DataRange(start, end) => {
                    range(data_range(start.as_bytes(), end.as_bytes()))
                }
                Command::RegionState(id) => hexadecimal(&region_state(*id)),
                Command::RegionStates => range(region_states()),
            })
        }
    }

    fn hexadecimal(bytes: &Bytes) -> String {
        let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        pairs.join(" ")
    }

    #[test]
    fn keys_on_disk_are_what_they_were() -> std::io::Result<()> {
        goldenscript::run(&mut Runner, "src/scripts/keys")
    }

    #[test]
    fn keys_of_another_kind_are_not_mistaken() {
        assert_eq!(region_key(&region_state(1)), None);
        assert_eq!(region_key(b""), None);
        assert_eq!(region_of_state(&data_key(b"12345678")), None);
        assert_eq!(region_of_state(&region_state(1)[..9]), None);
    }

    proptest! {
        #[test]
        fn a_key_comes_back_from_its_data_key_and_keeps_its_place(a: Vec<u8>, b: Vec<u8>) {
            let data = data_key(&a);
            prop_assert_eq!(region_key(&data), Some(&a[..]));
            prop_assert_eq!(data.cmp(&data_key(&b)), a.cmp(&b));
        }

        #[test]
        fn a_data_range_holds_exactly_the_keys_of_its_range(
            start: Vec<u8>, end: Vec<u8>, key: Vec<u8>,
        ) {
            let (first, behind) = data_range(&start, &end);
            let inside = key >= start && (end.is_empty() || key < end);
            let data = data_key(&key);
            prop_assert_eq!(data >= first && data < behind, inside);
            let local = region_state(u64::MAX);
            prop_assert!(!(local >= first && local < behind));
        }

        #[test]
        fn region_states_scan_in_the_order_of_ids(a: u64, b: u64) {
            prop_assert_eq!(region_of_state(&region_state(a)), Some(a));
            prop_assert_eq!(region_state(a).cmp(&region_state(b)), a.cmp(&b));
            let (first, behind) = region_states();
            prop_assert!(region_state(a) >= first && region_state(a) < behind);
            prop_assert!(behind < data_key(b""), "local keys come before data");
        }
    }
}
