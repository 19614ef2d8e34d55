//! How a raw value lies in the engine: what the user wrote, when it ends, and a byte of flags.
//!
//! ```text
//! user value ‖ expiry: 8 bytes, big-endian, seconds since 1970 ‖ flags: bit 0 = has an expiry
//! ```
//!
//! Every value has the nine bytes, with API V1 as with V2, so that a TTL works for every client and
//! the form never has to be guessed. Without an expiry its eight bytes are zero.
//!
//! **Invariant.** A pair has *expired* when its second has come: `expiry <= now`. From then on
//! every read path treats it as not there, whether or not its bytes have been removed yet. Decoding
//! is strict: other bytes than an encoder writes are damage and are reported, never guessed at.
//!
//! Expiry is measured against the wall clock of the store, because a TTL must outlive a restart. A
//! clock that is set back lengthens lives by as much, and can show a pair again whose bytes are
//! still there.

use bytes::Bytes;
use skerry_raftstore::time::Clock;

use crate::error::Result;

/// Bytes after the user's value.
const SUFFIX_BYTES: usize = 9;
/// The one flag there is.
const HAS_EXPIRY: u8 = 1;

/// A value as it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredValue {
    /// What the user wrote.
    pub user: Bytes,
    /// The second since 1970 in which it ends; none for one that stays.
    pub expiry: Option<u64>,
}

impl StoredValue {
    /// A value that ends `ttl_seconds` after `now_seconds`; 0 for one that stays. A TTL beyond the
    /// end of time counts as the end of time.
    pub fn new(user: Bytes, ttl_seconds: u64, now_seconds: u64) -> StoredValue {
        let expiry = (ttl_seconds > 0).then(|| now_seconds.saturating_add(ttl_seconds));
        StoredValue { user, expiry }
    }

    /// The bytes for the engine, in one allocation.
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.user.len() + SUFFIX_BYTES);
        bytes.extend_from_slice(&self.user);
        bytes.extend_from_slice(&self.expiry.unwrap_or(0).to_be_bytes());
        bytes.push(if self.expiry.is_some() { HAS_EXPIRY } else { 0 });
        bytes.into()
    }

    /// Reads what [`StoredValue::encode`] wrote, without copying the user's part.
    pub fn decode(stored: Bytes) -> Result<StoredValue> {
        let expiry = split(&stored)?.1;
        let user = stored.slice(..stored.len() - SUFFIX_BYTES);
        Ok(StoredValue { user, expiry })
    }

    /// What a read at `now_seconds` sees of it.
    pub fn live_at(self, now_seconds: u64) -> Option<StoredValue> {
        is_live(self.expiry, now_seconds).then_some(self)
    }

    /// Seconds left at `now_seconds`; 0 for a value that stays.
    pub fn ttl_at(&self, now_seconds: u64) -> u64 {
        self.expiry.map_or(0, |expiry| expiry.saturating_sub(now_seconds))
    }
}

/// The user's part and the expiry of a stored value, borrowed: for scans, which copy only what they
/// answer.
pub fn split(stored: &[u8]) -> Result<(&[u8], Option<u64>)> {
    let damaged = |reason: String| skerry_raftstore::Error::Damaged {
        what: "a raw value".to_string(),
        reason,
    };
    let Some((user, suffix)) = stored.split_last_chunk::<SUFFIX_BYTES>() else {
        return Err(damaged(format!("it has {} bytes, fewer than its suffix", stored.len())).into());
    };
    let [expiry @ .., flags] = *suffix;
    match (flags, u64::from_be_bytes(expiry)) {
        (0, 0) => Ok((user, None)),
        (HAS_EXPIRY, expiry) if expiry > 0 => Ok((user, Some(expiry))),
        (flags, expiry) => {
            Err(damaged(format!("flags {flags:#04x} do not go with expiry {expiry}")).into())
        }
    }
}

/// The second in which a stored value ends. For whoever removes the expired: none if it stays, and
/// none if the bytes are damaged, because what cannot be read must be found and not cleared away.
pub fn expiry_of(stored: &[u8]) -> Option<u64> {
    split(stored).ok().and_then(|(_, expiry)| expiry)
}

/// Whether a pair with that expiry is still there.
pub fn is_live(expiry: Option<u64>, now_seconds: u64) -> bool {
    expiry.is_none_or(|expiry| expiry > now_seconds)
}

/// The second of the wall clock, against which expiry is measured.
pub fn now_seconds(clock: &dyn Clock) -> u64 {
    clock.wall_ms() / 1_000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_on_disk_are_what_they_were() {
        let hexadecimal = |value: StoredValue| {
            value.encode().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
        };
        let user = Bytes::from_static(b"v");
        assert_eq!(
            hexadecimal(StoredValue::new(user.clone(), 0, 1_000)),
            "76 00 00 00 00 00 00 00 00 00"
        );
        assert_eq!(hexadecimal(StoredValue::new(user, 10, 1_000)), "76 00 00 00 00 00 00 03 f2 01");
    }

    #[test]
    fn a_value_ends_with_its_second() {
        let value = StoredValue::new(Bytes::from_static(b"v"), 2, 100);
        assert_eq!(value.ttl_at(100), 2);
        assert_eq!(value.ttl_at(101), 1);
        assert!(value.clone().live_at(101).is_some());
        assert!(value.live_at(102).is_none());
        assert!(StoredValue::new(Bytes::new(), u64::MAX, 100).live_at(u64::MAX - 1).is_some());
    }

    #[test]
    fn damage_is_reported_and_never_cleared_away() {
        for damaged in [
            &b""[..],
            b"12345678",
            b"v\0\0\0\0\0\0\0\0\x01",
            b"v\0\0\0\0\0\0\0\x01\0",
            b"v\0\0\0\0\0\0\0\x01\x03",
        ] {
            assert!(split(damaged).is_err(), "{damaged:?}");
            assert!(StoredValue::decode(Bytes::copy_from_slice(damaged)).is_err());
            assert_eq!(expiry_of(damaged), None);
        }
    }

    proptest! {
        #[test]
        fn values_come_back(user: Vec<u8>, ttl: u64, now in 1..u64::MAX) {
            let value = StoredValue::new(user.into(), ttl, now);
            let stored = value.encode();
            prop_assert_eq!(expiry_of(&stored), value.expiry);
            prop_assert_eq!(StoredValue::decode(stored).unwrap(), value);
        }

        #[test]
        fn what_the_engine_may_remove_no_reader_shows_again(
            ttl: u64, written in 0..1_000_u64, now: u64,
        ) {
            let value = StoredValue::new(Bytes::new(), ttl, written);
            if expiry_of(&value.encode()).is_some_and(|expiry| expiry < now) {
                prop_assert!(value.clone().live_at(now).is_none());
                prop_assert!(value.live_at(u64::MAX).is_none());
            }
        }

        #[test]
        fn what_can_be_decoded_is_what_would_be_encoded(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            if let Ok(value) = StoredValue::decode(bytes.clone()) {
                prop_assert_eq!(value.encode(), bytes);
            }
        }
    }
}
