//! The record of a version: that a transaction committed a key, or that it never will.
//!
//! A record's bytes, after format and kind (see [`super::record`] for the form):
//!
//! | part | bytes | when |
//! | --- | --- | --- |
//! | start timestamp | 8 | always |
//! | `o` a rollback of the transaction that began at this record's timestamp | | it was rolled back |
//! | `p` protected | | a rollback that must stay |
//! | `v` short value | string | a put with a short value |
//!
//! A rollback stands at its own start timestamp. Another transaction may have committed the key at just that timestamp;
//! then the rollback becomes the note `o` in that commit. A later rollback of the same key may take an unprotected one
//! away: whoever began earlier then meets the later one. A protected one stays until it is garbage.

use bytes::Bytes;
use skerry_proto::types::Ts;

use super::record::{self, Fields};
use crate::error::Result;

/// What a transaction did to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// It wrote a value.
    Put,
    /// It removed the key.
    Delete,
    /// It held the key, and changed nothing.
    Lock,
    /// It was given up.
    Rollback,
}

impl WriteKind {
    const fn letter(self) -> u8 {
        match self {
            WriteKind::Put => b'P',
            WriteKind::Delete => b'D',
            WriteKind::Lock => b'L',
            WriteKind::Rollback => b'R',
        }
    }

    fn of_letter(letter: u8) -> Option<WriteKind> {
        let all = [WriteKind::Put, WriteKind::Delete, WriteKind::Lock, WriteKind::Rollback];
        all.into_iter().find(|kind| kind.letter() == letter)
    }

    /// Whether it decides what a reader sees; the others are passed over.
    pub fn is_data(self) -> bool {
        matches!(self, WriteKind::Put | WriteKind::Delete)
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What was done.
    pub kind: WriteKind,
    /// By which transaction.
    pub start_ts: Ts,
    /// The value of a put, if it is short. A longer one stands in family `default` at `start_ts`.
    pub short_value: Option<Bytes>,
    /// The transaction that began at the timestamp of this record, another one than committed it, was rolled back.
    pub overlapped_rollback: bool,
    /// Of a rollback: no later rollback may take it away.
    pub protected: bool,
}

impl Write {
    /// The record of a commit.
    pub fn new(kind: WriteKind, start_ts: Ts, short_value: Option<Bytes>) -> Write {
        Write { kind, start_ts, short_value, overlapped_rollback: false, protected: false }
    }

    /// The record that the transaction was rolled back.
    pub fn rollback(start_ts: Ts, protected: bool) -> Write {
        Write { protected, ..Write::new(WriteKind::Rollback, start_ts, None) }
    }

    /// As it is kept on disk.
    pub fn encode(&self) -> Bytes {
        let value_bytes = self.short_value.as_ref().map_or(0, Bytes::len);
        let mut bytes = Vec::with_capacity(17 + value_bytes);
        bytes.extend_from_slice(&[record::FORMAT, self.kind.letter()]);
        record::put_ts(&mut bytes, self.start_ts);
        if self.overlapped_rollback {
            bytes.push(b'o');
        }
        if self.protected {
            bytes.push(b'p');
        }
        if let Some(value) = &self.short_value {
            bytes.push(b'v');
            record::put_bytes(&mut bytes, value);
        }
        bytes.into()
    }
}

/// A record that lies in an engine's memory: walks look at many and copy few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteRef<'a> {
    /// As [`Write::kind`].
    pub kind: WriteKind,
    /// As [`Write::start_ts`].
    pub start_ts: Ts,
    /// As [`Write::short_value`].
    pub short_value: Option<&'a [u8]>,
    /// As [`Write::overlapped_rollback`].
    pub overlapped_rollback: bool,
    /// As [`Write::protected`].
    pub protected: bool,
}

impl<'a> WriteRef<'a> {
    /// From what is kept on disk.
    pub fn decode(bytes: &'a [u8]) -> Result<WriteRef<'a>> {
        let mut fields = Fields::of("a commit record", bytes)?;
        let letter = fields.byte()?;
        let kind = WriteKind::of_letter(letter).ok_or_else(|| fields.unknown("kind", letter))?;
        let start_ts = fields.ts()?;
        let (overlapped_rollback, protected) = (false, false);
        let mut write =
            WriteRef { kind, start_ts, short_value: None, overlapped_rollback, protected };
        while !fields.is_empty() {
            match fields.byte()? {
                b'o' => write.overlapped_rollback = true,
                b'p' => write.protected = true,
                b'v' => write.short_value = Some(fields.bytes()?),
                other => return Err(fields.unknown("field", other)),
            }
        }
        Ok(write)
    }

    /// A copy that lives on.
    pub fn to_owned(self) -> Write {
        Write {
            kind: self.kind,
            start_ts: self.start_ts,
            short_value: self.short_value.map(Bytes::copy_from_slice),
            overlapped_rollback: self.overlapped_rollback,
            protected: self.protected,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn any_write() -> impl Strategy<Value = Write> {
        let kind = prop_oneof![
            Just(WriteKind::Put),
            Just(WriteKind::Delete),
            Just(WriteKind::Lock),
            Just(WriteKind::Rollback)
        ];
        let value = prop::option::of(vec(any::<u8>(), 0..255).prop_map(Bytes::from));
        (kind, any::<u64>(), value, any::<bool>(), any::<bool>()).prop_map(
            |(kind, start_ts, short_value, overlapped_rollback, protected)| Write {
                overlapped_rollback,
                protected,
                ..Write::new(kind, Ts::from(start_ts), short_value)
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_comes_back(write in any_write()) {
            let bytes = write.encode();
            prop_assert_eq!(WriteRef::decode(&bytes).unwrap().to_owned(), write);
        }

        #[test]
        fn garbage_is_refused_and_never_panics(garbage in vec(any::<u8>(), 0..80)) {
            let _ = WriteRef::decode(&garbage);
        }
    }

    #[test]
    fn what_a_newer_version_wrote_is_refused_by_name() {
        let mut bytes = Write::rollback(Ts::from(5), true).encode().to_vec();
        bytes.push(b'z');
        assert!(WriteRef::decode(&bytes).unwrap_err().to_string().contains("field 'z'"));
        assert!(WriteRef::decode(b"").unwrap_err().to_string().contains("cut off"));
    }
}
