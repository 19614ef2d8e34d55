//! The bytes that locks and records are made of: a fixed head, then tagged fields.
//!
//! ```text
//! format  1 byte, now 1
//! kind    1 byte, a letter
//! ...     the fixed fields of the kind of record
//! tag     1 byte, a letter; then its bytes. Repeated, ascending, until the end
//! ```
//!
//! Numbers are 8 bytes, big-endian. Byte strings have their length before them as a 4-byte number. A format or tag
//! that is not known is refused: it was written by a newer version, and leaving it out could undo a transaction.

#![deny(clippy::indexing_slicing, reason = "input is whatever a disk has kept")]

use bytes::{BufMut, Bytes};
use skerry_proto::types::Ts;

use crate::error::Result;

/// First byte of every lock and record.
pub const FORMAT: u8 = 1;

/// Takes the fields off the bytes of a lock or record, one after the other.
pub struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Begins with `bytes`, which are a `what`, and checks their format.
    pub fn of(what: &'static str, bytes: &'a [u8]) -> Result<Fields<'a>> {
        let mut fields = Fields { what, rest: bytes };
        match fields.byte()? {
            FORMAT => Ok(fields),
            other => Err(fields.damaged(&format!("format {other} is not known"))),
        }
    }

    /// Whether all was taken.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self.rest.split_first().ok_or_else(|| self.damaged("it is cut off"))?;
        self.rest = rest;
        Ok(*first)
    }

    /// A number.
    pub fn number(&mut self) -> Result<u64> {
        let (first, rest) =
            self.rest.split_first_chunk::<8>().ok_or_else(|| self.damaged("it is cut off"))?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*first))
    }

    /// A timestamp.
    pub fn ts(&mut self) -> Result<Ts> {
        self.number().map(Ts::from)
    }

    /// A byte string.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let (length, rest) =
            self.rest.split_first_chunk::<4>().ok_or_else(|| self.damaged("it is cut off"))?;
        let length = u32::from_be_bytes(*length) as usize;
        let (bytes, rest) =
            rest.split_at_checked(length).ok_or_else(|| self.damaged("it is cut off"))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A byte string in an allocation of its own.
    pub fn owned(&mut self) -> Result<Bytes> {
        self.bytes().map(Bytes::copy_from_slice)
    }

    /// The error for a letter that has no meaning.
    pub fn unknown(&self, of: &str, letter: u8) -> crate::Error {
        self.damaged(&format!("{of} '{}' is not known", letter.escape_ascii()))
    }

    fn damaged(&self, reason: &str) -> crate::Error {
        let (what, reason) = (self.what.to_string(), reason.to_string());
        skerry_raftstore::Error::Damaged { what, reason }.into()
    }
}

/// Appends a number.
pub fn put_number(target: &mut Vec<u8>, number: u64) {
    target.put_u64(number);
}

/// Appends a timestamp.
pub fn put_ts(target: &mut Vec<u8>, ts: Ts) {
    target.put_u64(ts.get());
}

/// Appends a byte string. Longer than 4 GiB it cannot have come through any request.
pub fn put_bytes(target: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("requests are far smaller than 4 GiB");
    target.put_u32(length);
    target.extend_from_slice(bytes);
}
