//! The encoding of keys that keeps their order, and the prefixes of API version 2.
//!
//! A key is cut into groups of eight bytes. The last group (always shorter than eight, possibly
//! empty) is filled up with zeros. Each group is followed by a marker: 0xff if another group
//! follows, otherwise 0xff less the number of zeros filled in.
//!
//! ```text
//! key            encoded
//! (empty)        00 00 00 00 00 00 00 00 f7
//! "ab"           61 62 00 00 00 00 00 00 f9
//! "abcdefgh"     61 62 63 64 65 66 67 68 ff  00 00 00 00 00 00 00 00 f7
//! ```
//!
//! Three properties follow, and the rest of the system leans on them:
//!
//! * **Order.** Encoded keys compare as the keys do.
//! * **Self-delimiting.** The end can be seen from the bytes alone, so a timestamp can follow a key
//!   and all versions of a key stand together, before those of every longer key.
//! * **One to one.** A key has one encoding: decoding refuses any other padding or marker.
//!
//! Regions of transactional and of version-2 data have encoded keys as boundaries. This file does
//! not know what is inside a key beyond the version-2 prefix.

#![deny(clippy::indexing_slicing, reason = "input is whatever a client or a disk sent")]

use crate::error::{Error, Result};
use crate::types::KeyspaceId;

/// Key bytes per group.
const GROUP: usize = 8;
/// Bytes per encoded group: the key's and the marker.
const ENCODED_GROUP: usize = GROUP + 1;
/// Marker of a group that is followed by another.
const MARKER_FULL: u8 = 0xff;

/// How many bytes the encoding of a key of `length` bytes has.
pub const fn encoded_length(length: usize) -> usize {
    (length / GROUP + 1) * ENCODED_GROUP
}

/// The encoding of a key, in an allocation of exactly its size.
pub fn encode_bytes(key: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(encoded_length(key.len()));
    encode_bytes_into(key, &mut encoded);
    encoded
}

/// Appends the encoding of a key to `target`.
pub fn encode_bytes_into(key: &[u8], target: &mut Vec<u8>) {
    target.reserve(encoded_length(key.len()));
    let mut groups = key.chunks_exact(GROUP);
    for group in &mut groups {
        target.extend_from_slice(group);
        target.push(MARKER_FULL);
    }
    let last = groups.remainder();
    let padding = GROUP - last.len();
    target.extend_from_slice(last);
    target.resize(target.len() + padding, 0);
    target.push(MARKER_FULL - padding as u8);
}

/// The key at the start of `encoded`, and the bytes that follow its encoding.
pub fn decode_bytes(encoded: &[u8]) -> Result<(Vec<u8>, &[u8])> {
    let mut key = Vec::with_capacity(encoded.len() / ENCODED_GROUP * GROUP);
    let mut rest = encoded;
    loop {
        let offset = encoded.len() - rest.len();
        let Some((group, after)) = rest.split_first_chunk::<ENCODED_GROUP>() else {
            return Err(Error::Truncated { length: encoded.len() });
        };
        let [bytes @ .., marker] = group;
        rest = after;
        if *marker == MARKER_FULL {
            key.extend_from_slice(bytes);
            continue;
        }
        let padding = usize::from(MARKER_FULL - marker);
        let Some((bytes, zeros)) =
            GROUP.checked_sub(padding).and_then(|middle| bytes.split_at_checked(middle))
        else {
            return Err(Error::InvalidMarker { offset, marker: *marker });
        };
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(Error::InvalidPadding { offset });
        }
        key.extend_from_slice(bytes);
        return Ok((key, rest));
    }
}

/// Eight bytes that sort from the largest number to the smallest: what follows a key when its
/// newest version shall come first.
pub const fn encode_u64_descending(value: u64) -> [u8; 8] {
    (!value).to_be_bytes()
}

/// The number at the start of `encoded`, and the bytes that follow it.
pub fn decode_u64_descending(encoded: &[u8]) -> Result<(u64, &[u8])> {
    match encoded.split_first_chunk::<8>() {
        Some((bytes, rest)) => Ok((!u64::from_be_bytes(*bytes), rest)),
        None => Err(Error::Truncated { length: encoded.len() }),
    }
}

/// The first key behind all keys that begin with `prefix`. Empty if there is no such key, which as
/// the end of a range means just that.
pub fn next_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if last < 0xff {
            next.push(last + 1);
            break;
        }
    }
    next
}

/// First byte of every key of API version 2: which kind of client it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyMode {
    /// Pairs without transactions.
    Raw,
    /// Versions of transactions.
    Transactional,
}

impl KeyMode {
    /// The byte in the key.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Raw => b'r',
            Self::Transactional => b'x',
        }
    }
}

/// What every key of a keyspace begins with: the mode and three bytes of number. Clients write it,
/// it is in all requests and answers, and it stands inside the encoding.
pub const fn keyspace_prefix(mode: KeyMode, keyspace: KeyspaceId) -> [u8; 4] {
    let [_, high, middle, low] = keyspace.get().to_be_bytes();
    [mode.byte(), high, middle, low]
}

/// Start and end of a keyspace as region boundaries. Regions have to end at both: a client that
/// scans a whole keyspace stops only at a region that ends where the keyspace does.
pub fn keyspace_bounds(mode: KeyMode, keyspace: KeyspaceId) -> (Vec<u8>, Vec<u8>) {
    let prefix = keyspace_prefix(mode, keyspace);
    (encode_bytes(&prefix), encode_bytes(&next_prefix(&prefix)))
}

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;
    use std::fmt::Write as _;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Keys of few different bytes, so that common prefixes, zeros and 0xff are frequent.
    fn any_key() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(0), Just(1), Just(0xf7), Just(0xff), any::<u8>()], 0..40)
    }

    proptest! {
        #[test]
        fn order_is_kept(a in any_key(), b in any_key()) {
            prop_assert_eq!(encode_bytes(&a).cmp(&encode_bytes(&b)), a.cmp(&b));
        }

        #[test]
        fn versions_sort_by_key_and_then_from_new_to_old(
            a in any_key(), b in any_key(), x in any::<u64>(), y in any::<u64>(),
        ) {
            let version = |key: &[u8], ts| {
                let mut encoded = encode_bytes(key);
                encoded.extend(encode_u64_descending(ts));
                encoded
            };
            let expected = a.cmp(&b).then(y.cmp(&x));
            prop_assert_eq!(version(&a, x).cmp(&version(&b, y)), expected);
        }

        #[test]
        fn decoding_finds_the_key_and_what_follows(key in any_key(), suffix in any_key()) {
            let mut encoded = encode_bytes(&key);
            prop_assert_eq!(encoded.len(), encoded_length(key.len()));
            prop_assert_eq!(encoded.capacity(), encoded.len());
            encoded.extend_from_slice(&suffix);
            prop_assert_eq!(decode_bytes(&encoded), Ok((key, suffix.as_slice())));
        }

        #[test]
        fn what_can_be_decoded_is_what_would_be_encoded(garbage in any_key()) {
            if let Ok((key, rest)) = decode_bytes(&garbage) {
                let mut again = encode_bytes(&key);
                again.extend_from_slice(rest);
                prop_assert_eq!(again, garbage);
            }
        }

        #[test]
        fn a_truncated_encoding_is_refused(key in any_key(), cut in 1..=9usize) {
            let encoded = encode_bytes(&key);
            let (shorter, _) = encoded.split_at(encoded.len() - cut);
            prop_assert_eq!(
                decode_bytes(shorter),
                Err(Error::Truncated { length: shorter.len() })
            );
        }

        #[test]
        fn numbers_come_back(value in any::<u64>(), suffix in any_key()) {
            let mut encoded = encode_u64_descending(value).to_vec();
            encoded.extend_from_slice(&suffix);
            prop_assert_eq!(decode_u64_descending(&encoded), Ok((value, suffix.as_slice())));
        }

        #[test]
        fn a_prefix_and_its_next_enclose_what_begins_with_it(
            prefix in vec(0xfd..=0xff_u8, 0..4), key in vec(0xfd..=0xff_u8, 0..6),
        ) {
            let next = next_prefix(&prefix);
            let before_end = next.is_empty() || key < next;
            prop_assert_eq!(key >= prefix && before_end, key.starts_with(&prefix));
        }

        #[test]
        fn a_keyspace_holds_its_keys_and_no_others(
            a in 0..=KeyspaceId::MAX.get(), b in 0..=KeyspaceId::MAX.get(), key in any_key(),
        ) {
            let (a, b) = (KeyspaceId::try_from(a).unwrap(), KeyspaceId::try_from(b).unwrap());
            let (start, end) = keyspace_bounds(KeyMode::Raw, a);
            let inside = |mode, keyspace| {
                let encoded = encode_bytes(&[&keyspace_prefix(mode, keyspace), &key[..]].concat());
                start <= encoded && encoded < end
            };
            prop_assert!(inside(KeyMode::Raw, a));
            prop_assert_eq!(inside(KeyMode::Raw, b), a == b);
            prop_assert!(!inside(KeyMode::Transactional, a));
        }
    }

    // Golden script: src/scripts/codec.
    #[test]
    fn golden_encodings() {
        let recorded = goldenscript::run(&mut CodecRunner, "src/scripts/codec");
        recorded.expect("the script is as recorded");
    }

    #[derive(goldenscript::Command)]
    enum CodecCommand {
        /// Encodes each key.
        Encode(Vec<String>),
        /// Decodes a key, given as hexadecimal bytes.
        Decode { hex: String },
        /// Encodes each number so that larger ones come first.
        Descending(Vec<u64>),
        /// Shows the first key behind a prefix, given as hexadecimal bytes.
        NextPrefix { hex: String },
        /// Shows the boundaries of a keyspace for both modes.
        Keyspace { id: u32 },
    }

    /// Runs the commands of the golden script.
    struct CodecRunner;

    impl goldenscript::Runner for CodecRunner {
        type Command = CodecCommand;

        fn run(
            &mut self,
            command: &CodecCommand,
            _context: &goldenscript::Context,
        ) -> std::result::Result<String, Box<dyn StdError>> {
            let mut out = String::new();
            match command {
                CodecCommand::Encode(keys) => {
                    for key in keys {
                        writeln!(out, "{key:?} → {}", hex(&encode_bytes(key.as_bytes())))?;
                    }
                }
                CodecCommand::Decode { hex: text } => match decode_bytes(&unhex(text)?) {
                    Ok((key, rest)) => {
                        writeln!(
                            out,
                            "{:?} + {} bytes",
                            String::from_utf8_lossy(&key),
                            rest.len()
                        )?;
                    }
                    Err(error) => writeln!(out, "error: {error}")?,
                },
                CodecCommand::Descending(numbers) => {
                    for number in numbers {
                        writeln!(out, "{number} → {}", hex(&encode_u64_descending(*number)))?;
                    }
                }
                CodecCommand::NextPrefix { hex: text } => match &next_prefix(&unhex(text)?)[..] {
                    [] => writeln!(out, "{text} → none")?,
                    next => writeln!(out, "{text} → {}", hex(next))?,
                },
                CodecCommand::Keyspace { id } => {
                    let keyspace = KeyspaceId::try_from(*id)?;
                    for mode in [KeyMode::Raw, KeyMode::Transactional] {
                        let (start, end) = keyspace_bounds(mode, keyspace);
                        writeln!(out, "{mode:?}: {} .. {}", hex(&start), hex(&end))?;
                    }
                }
            }
            Ok(out)
        }
    }

    /// Bytes as pairs of digits, in groups of nine as the encoding has them.
    fn hex(bytes: &[u8]) -> String {
        let mut out = String::new();
        for (position, byte) in bytes.iter().enumerate() {
            let separator = match position {
                0 => "",
                _ if position % ENCODED_GROUP == 0 => "  ",
                _ => " ",
            };
            write!(out, "{separator}{byte:02x}").expect("writing to a string cannot fail");
        }
        out
    }

    fn unhex(text: &str) -> std::result::Result<Vec<u8>, std::num::ParseIntError> {
        text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16)).collect()
    }
}
