//! What can be wrong with bytes that claim to be one of our encodings.
//! Whoever received the bytes must act: refuse the request, or report damage.

use thiserror::Error;

/// An encoding that is not one. Bytes from clients and from disk end here; nothing in this crate
/// panics on them.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The bytes end before the encoding does.
    #[error("encoding breaks off after {length} bytes")]
    Truncated {
        /// How many bytes there were.
        length: usize,
    },

    /// A group of eight ends with a marker byte that no encoder writes.
    #[error("group at offset {offset} ends with marker {marker:#04x}")]
    InvalidMarker {
        /// Where the group begins.
        offset: usize,
        /// The byte found.
        marker: u8,
    },

    /// The padding of a last group is not zero. Accepting it would give one key two encodings.
    #[error("group at offset {offset} is padded with other bytes than zero")]
    InvalidPadding {
        /// Where the group begins.
        offset: usize,
    },

    /// Keyspace numbers have three bytes in keys.
    #[error("keyspace {id} does not fit into three bytes")]
    KeyspaceTooLarge {
        /// The number asked for.
        id: u32,
    },
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
