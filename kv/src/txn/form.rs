//! The form of transactional keys: what a client may send, by API version.
//!
//! With V1 any bytes but none. With V2 `x`, keyspace id (3 bytes), and at least one byte more. Ends of ranges are free:
//! whatever lies outside the region is cut off, and no family of a transaction holds anything else.

use skerry_proto::codec::KeyMode;

use super::error::{Error, Result};
use crate::mvcc::Key;
use crate::storage::ApiVersion;

/// Bytes of mode and keyspace before an application's key of API V2.
const PREFIX_BYTES: usize = 4;

/// Forms and checks keys as a cluster's API version wants them.
#[derive(Clone, Copy, Debug)]
pub struct TxnKeys {
    /// Fixed at bootstrap.
    pub version: ApiVersion,
    /// Bytes of the longest key that is taken, as the client sends it.
    pub key_bytes_max: usize,
}

impl TxnKeys {
    /// The key that a client calls `user`.
    pub fn key(&self, user: &[u8]) -> Result<Key> {
        let (bytes, bytes_max) = (user.len(), self.key_bytes_max);
        if bytes > bytes_max {
            return Err(crate::Error::KeyTooLong { bytes, bytes_max }.into());
        }
        let prefix_bytes = match self.version {
            ApiVersion::V1 => 0,
            ApiVersion::V2 => {
                self.check_mode(user)?;
                PREFIX_BYTES
            }
        };
        if bytes <= prefix_bytes {
            return Err(crate::Error::EmptyKey.into());
        }
        Ok(Key::of(user))
    }

    /// As [`TxnKeys::key`], for many.
    pub fn keys<'a>(&self, users: impl IntoIterator<Item = &'a bytes::Bytes>) -> Result<Vec<Key>> {
        users.into_iter().map(|user| self.key(user)).collect()
    }

    fn check_mode(&self, user: &[u8]) -> Result<()> {
        if user.is_empty() || user.first() == Some(&KeyMode::Transactional.byte()) {
            return Ok(());
        }
        let start = user[..user.len().min(PREFIX_BYTES)].escape_ascii();
        let text = format!(
            "a transactional key of API V2 starts with 'x' and three bytes of keyspace id; this one starts with \
             \"{start}\""
        );
        Err(Error::Invalid(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_takes_its_keys_and_refuses_others_in_words() {
        let of = |version| TxnKeys { version, key_bytes_max: 8 };
        let (one, two) = (of(ApiVersion::V1), of(ApiVersion::V2));
        assert_eq!(one.key(b"r").unwrap(), Key::of(b"r"));
        assert_eq!(two.key(b"x\0\0\x01k").unwrap(), Key::of(b"x\0\0\x01k"));
        let refused = |keys: TxnKeys, user: &[u8]| keys.key(user).unwrap_err().to_string();
        assert!(refused(one, b"").contains("empty"));
        assert!(refused(two, b"x\0\0\x01").contains("empty"));
        assert!(refused(two, b"r\0\0\x01k").contains("starts with 'x'"));
        assert!(refused(one, b"123456789").contains("over the limit"));
    }
}
