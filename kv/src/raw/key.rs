//! Raw keys: what clients send, what may be sent, and where it lies in the engine.
//!
//! | | API V1 | API V2 |
//! | --- | --- | --- |
//! | a client sends | any bytes | `r`, keyspace id (3 bytes), any bytes |
//! | in the region's form | the same | memcomparable of it |
//! | in the engine | data key of the region's form | data key of the region's form |
//!
//! A *point* key names one pair and must not be empty; with V2 this is said of the part behind the
//! keyspace, which is what the application chose. A *range* of V2 stays within one keyspace: it
//! starts with the prefix of one and ends in it or at its upper bound. Both ends must be given,
//! because "to the end" would mean the end of everybody's data. A V1 range with an empty end has no
//! upper bound.
//!
//! **Invariant.** Both forms order keys as clients do, so ranges need no second look.

use bytes::Bytes;
use skerry_proto::codec::{self, KeyMode};
use skerry_proto::region::KeyBounds;
use skerry_raftstore::keys::{self, DataSpace};

use crate::error::{Error, Result};
use crate::storage::ApiVersion;

/// Bytes of mode and keyspace before an application's key of API V2.
const PREFIX_BYTES: usize = 4;

/// Forms and checks keys as a cluster's API version wants them.
#[derive(Clone, Copy, Debug)]
pub struct KeyForm {
    /// Fixed at bootstrap.
    pub version: ApiVersion,
    /// Bytes of the longest key that is taken, as the client sends it.
    pub key_bytes_max: usize,
    /// The map that a request names by its column family.
    pub space: DataSpace,
}

/// The ends of a range in the form of region boundaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRange {
    /// The first key inside.
    pub start: Bytes,
    /// The first key outside; empty for no bound.
    pub end: Bytes,
}

impl RawRange {
    /// The same, borrowed.
    pub fn bounds(&self) -> KeyBounds<'_> {
        KeyBounds::new(&self.start, &self.end)
    }
}

impl KeyForm {
    /// The form for a request that names a column family. With API V1 each of TiKV's three holds pairs of
    /// its own; V2 has one.
    pub fn in_family(self, family: &str) -> Result<KeyForm> {
        let space = match (family, self.version) {
            ("" | "default", _) => DataSpace::Main,
            ("lock", ApiVersion::V1) => DataSpace::RawLock,
            ("write", ApiVersion::V1) => DataSpace::RawWrite,
            (other, _) => return Err(Error::UnknownFamily { family: other.to_string() }),
        };
        Ok(KeyForm { space, ..self })
    }

    /// The data key of one pair.
    pub fn point(&self, key: &[u8]) -> Result<Bytes> {
        let (bytes, bytes_max) = (key.len(), self.key_bytes_max);
        if bytes > bytes_max {
            return Err(Error::KeyTooLong { bytes, bytes_max });
        }
        match self.version {
            ApiVersion::V1 if key.is_empty() => Err(Error::EmptyKey),
            ApiVersion::V1 => Ok(self.space.key(key)),
            ApiVersion::V2 => match keyspace_of(key) {
                None if key.is_empty() => Err(Error::EmptyKey),
                None => Err(Error::KeyMode(prefix_text(key))),
                Some(_) if key.len() == PREFIX_BYTES => Err(Error::EmptyKey),
                Some(_) => Ok(self.space.key(&codec::encode_bytes(key))),
            },
        }
    }

    /// The range from `start` up to but without `end`. Their length is free: a client that goes on
    /// behind the longest key it may write starts at a longer one.
    pub fn range(&self, start: &[u8], end: &[u8]) -> Result<RawRange> {
        if self.version == ApiVersion::V1 {
            let (start, end) = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
            return Ok(RawRange { start, end });
        }
        let refuse = || Error::RangeMode { start: prefix_text(start), end: prefix_text(end) };
        let keyspace = keyspace_of(start).ok_or_else(refuse)?;
        if keyspace_of(end) != Some(keyspace) && end != upper_bound(keyspace) {
            return Err(refuse());
        }
        let encode = |key| Bytes::from(codec::encode_bytes(key));
        Ok(RawRange { start: encode(start), end: encode(end) })
    }

    /// The key that a client knows a data key by.
    pub fn client_key(&self, data_key: &[u8]) -> Result<Bytes> {
        let damaged = |reason: String| skerry_raftstore::Error::Damaged {
            what: "a raw key".to_string(),
            reason,
        };
        let key = keys::region_key(data_key)
            .ok_or_else(|| damaged("it has no data prefix".to_string()))?;
        match self.version {
            ApiVersion::V1 => Ok(Bytes::copy_from_slice(key)),
            ApiVersion::V2 => match codec::decode_bytes(key) {
                Ok((key, [])) => Ok(key.into()),
                Ok(_) => Err(damaged("bytes follow its encoding".to_string()).into()),
                Err(error) => Err(damaged(error.to_string()).into()),
            },
        }
    }
}

/// Mode and keyspace of a raw key of API V2; none for any other bytes.
fn keyspace_of(key: &[u8]) -> Option<[u8; PREFIX_BYTES]> {
    let prefix = key.first_chunk::<PREFIX_BYTES>()?;
    (prefix[0] == KeyMode::Raw.byte()).then_some(*prefix)
}

/// The first four bytes behind a keyspace, which clients write as the open end of a range.
fn upper_bound(keyspace: [u8; PREFIX_BYTES]) -> [u8; PREFIX_BYTES] {
    // The first byte is 'r', so this cannot run over.
    (u32::from_be_bytes(keyspace) + 1).to_be_bytes()
}

/// The prefix for an error message. Not more: the rest of a key belongs to the user.
fn prefix_text(key: &[u8]) -> String {
    match &key[..key.len().min(PREFIX_BYTES)] {
        [] => "nothing".to_string(),
        prefix => format!("\"{}\"", prefix.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V1: KeyForm =
        KeyForm { version: ApiVersion::V1, key_bytes_max: 16, space: DataSpace::Main };
    const V2: KeyForm =
        KeyForm { version: ApiVersion::V2, key_bytes_max: 16, space: DataSpace::Main };

    #[test]
    fn keys_come_back_from_the_engine() {
        for (form, key) in [(V1, &b"\0a"[..]), (V2, b"r\0\0\0a"), (V2, b"r\xff\xff\xff12345678")] {
            assert_eq!(form.client_key(&form.point(key).unwrap()).unwrap(), key);
        }
        assert!(V2.client_key(b"zplain").is_err());
        assert!(V1.client_key(b"\x01\x01").is_err());
    }

    #[test]
    fn points_are_refused_for_what_they_are() {
        let refused = |form: KeyForm, key: &[u8]| form.point(key).unwrap_err().to_string();
        assert!(matches!(V1.point(b""), Err(Error::EmptyKey)));
        assert!(matches!(V2.point(b""), Err(Error::EmptyKey)));
        assert!(matches!(V2.point(b"r\0\0\0"), Err(Error::EmptyKey)));
        assert!(refused(V2, b"x\0\0\0a").contains(r#"starts with "x\x00\x00\x00""#));
        assert!(refused(V2, b"r\0").contains("three bytes of keyspace id"));
        assert!(refused(V1, &[7; 17]).contains("17 bytes is over the limit of 16"));
    }

    #[test]
    fn ranges_stay_in_their_keyspace() {
        assert!(V2.range(b"r\0\0\0", b"r\0\0\x01").is_ok());
        assert!(V2.range(b"r\0\0\0b", b"r\0\0\0a").is_ok(), "inverted is empty, not wrong");
        assert!(V2.range(b"r\xff\xff\xff", b"s\0\0\0").is_ok());
        for (start, end) in [
            (&b"r\0\0\0"[..], &b""[..]),
            (b"", b"r\0\0\0"),
            (b"r\0\0\0", b"r\0\0\x01a"),
            (b"r\0\0\0", b"r\0\0\x02"),
            (b"r\0\0\0", b"s"),
            (b"x\0\0\0", b"x\0\0\x01"),
        ] {
            assert!(matches!(V2.range(start, end), Err(Error::RangeMode { .. })), "{start:?}");
        }
        assert!(V1.range(b"", b"").is_ok());
        assert!(V1.range(&[7; 17], b"").is_ok(), "the key behind the longest one");
    }

    #[test]
    fn each_version_names_the_other() {
        let text = |form: KeyForm, wire: i32| form.version.check(wire).unwrap_err().to_string();
        assert!(V1.version.check(0).is_ok() && V1.version.check(1).is_ok());
        assert!(V2.version.check(2).is_ok());
        let text_2 = text(V2, 0);
        assert!(text_2.contains("API V1,") && text_2.contains("bootstrapped with API V2"));
        let text_1 = text(V1, 2);
        assert!(text_1.contains("API V2,") && text_1.contains("bootstrapped with API V1"));
        assert!(text(V1, 77).contains("unknown API version"));
    }

    proptest! {
        #[test]
        fn both_forms_keep_the_order_of_clients(a in "[ab\0]{1,9}", b in "[ab\0]{1,9}") {
            for form in [V1, V2] {
                let prefix = if form.version == ApiVersion::V2 { "r\0\0\0" } else { "" };
                let [a, b] = [&a, &b].map(|key| format!("{prefix}{key}").into_bytes());
                let (one, other) = (form.point(&a).unwrap(), form.point(&b).unwrap());
                prop_assert_eq!(one.cmp(&other), a.cmp(&b));
            }
        }
    }
}
