//! Transactional keys: where locks and versions of a user's key lie in the engine.
//!
//! ```text
//! user key        what a client sends; of API V2 with mode and keyspace
//! lock            'z' memcomparable(user key)
//! version         'z' memcomparable(user key)  inverted timestamp (8 bytes, big-endian)
//! ```
//!
//! The part behind `z` is what boundaries of regions are compared with. Since the encoding ends by itself, all versions
//! of a key stand together, newest first, directly behind the place where its lock would be.

use bytes::Bytes;
use skerry_proto::codec;
use skerry_proto::types::Ts;
use skerry_raftstore::engine::KeyRange;
use skerry_raftstore::keys;

use crate::error::Result;

/// Bytes of a timestamp in a key.
const TS_BYTES: usize = 8;

/// A user's key as it lies in the engine, without a timestamp: the key of its lock.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// The key of what a client calls `user`.
    pub fn of(user: &[u8]) -> Key {
        Key(keys::data_key(&codec::encode_bytes(user)))
    }

    /// The key that these bytes of family `lock` are, or these bytes of a version without its timestamp.
    pub(crate) fn from_engine(bytes: &[u8]) -> Key {
        Key(Bytes::copy_from_slice(bytes))
    }

    /// As it lies in the engine.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same, shared: the key of its lock, and of its latch.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// What a client calls it.
    pub fn user_key(&self) -> Result<Bytes> {
        let encoded = keys::region_key(&self.0).ok_or_else(|| damaged("no data prefix"))?;
        match codec::decode_bytes(encoded) {
            Ok((user, [])) => Ok(user.into()),
            Ok(_) => Err(damaged("bytes behind its end")),
            Err(error) => Err(damaged(&error.to_string())),
        }
    }

    /// Where the version of this timestamp lies.
    pub fn at(&self, ts: Ts) -> Bytes {
        let mut bytes = Vec::with_capacity(self.0.len() + TS_BYTES);
        bytes.extend_from_slice(&self.0);
        bytes.extend_from_slice(&codec::encode_u64_descending(ts.get()));
        bytes.into()
    }

    /// Where all versions lie: from the newest possible one to the first key behind the oldest.
    pub fn versions(&self) -> KeyRange {
        KeyRange { start: self.at(Ts::MAX), end: self.behind() }
    }

    /// The first possible key behind all versions. No version of another key is before it.
    pub fn behind(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.0.len() + TS_BYTES + 1);
        bytes.extend_from_slice(&self.0);
        bytes.extend_from_slice(&[0xFF; TS_BYTES]);
        bytes.push(0);
        bytes.into()
    }

    /// The timestamp of a version, if it is one of this key.
    pub fn ts_of(&self, version: &[u8]) -> Option<Ts> {
        let suffix = version.strip_prefix(&self.0[..])?;
        let bytes: [u8; TS_BYTES] = suffix.try_into().ok()?;
        Some(Ts::from(!u64::from_be_bytes(bytes)))
    }
}

/// The key of a version, as bytes, and its timestamp.
pub fn split_version(version: &[u8]) -> Result<(&[u8], Ts)> {
    let (key, ts) = version
        .split_last_chunk::<TS_BYTES>()
        .ok_or_else(|| damaged("shorter than a timestamp"))?;
    Ok((key, Ts::from(!u64::from_be_bytes(*ts))))
}

/// Shows the user key: what people know it by.
impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.user_key() {
            Ok(user) => write!(formatter, "\"{}\"", user.escape_ascii()),
            Err(_) => write!(formatter, "damaged key \"{}\"", self.0.escape_ascii()),
        }
    }
}

fn damaged(reason: &str) -> crate::Error {
    let (what, reason) = ("a transactional key".to_string(), reason.to_string());
    skerry_raftstore::Error::Damaged { what, reason }.into()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_comes_back_and_damage_is_named() {
        let key = Key::of(b"x\0\0\0account");
        assert_eq!(&key.user_key().unwrap()[..], b"x\0\0\0account");
        let refused = |bytes: &[u8]| Key::from_engine(bytes).user_key().unwrap_err().to_string();
        assert!(refused(b"\x01\x01").contains("no data prefix"));
        assert!(refused(&key.at(Ts::from(3))).contains("bytes behind its end"));
        assert!(split_version(b"short").is_err());
    }

    proptest! {
        #[test]
        fn versions_of_a_key_stand_together_newest_first(
            a in vec(0..3_u8, 0..12), b in vec(0..3_u8, 0..12), x in any::<u64>(), y in any::<u64>(),
        ) {
            let (one, other) = (Key::of(&a), Key::of(&b));
            let (x, y) = (Ts::from(x), Ts::from(y));
            prop_assert_eq!(one.at(x).cmp(&other.at(y)), a.cmp(&b).then(y.cmp(&x)));
            prop_assert_eq!(one.versions().contains(&other.at(y)), a == b);
            prop_assert_eq!(one.ts_of(&other.at(y)), (a == b).then_some(y));
            let version = one.at(x);
            prop_assert_eq!(split_version(&version).unwrap(), (one.as_bytes(), x));
            prop_assert!(one.as_bytes() < &one.at(Ts::MAX)[..]);
        }
    }
}
