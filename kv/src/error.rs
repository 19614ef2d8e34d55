//! What can go wrong in a request or at the start of a process, arranged by who must act.
//!
//! * **The client redirects**: it asked the wrong store, or its picture of a region is old. Leaves
//!   as a `region_error`; client libraries look the region up again and repeat.
//! * **The client waits and repeats**: also a `region_error`.
//! * **The application changes its request**: it can never succeed as it is. Leaves as the `error`
//!   text of a raw reply.
//! * **Nobody knows** ([`Error::Unknown`]): the request may or may not have happened, or may still
//!   happen. It leaves as a gRPC status and never as a region error, which clients would take as
//!   proof that nothing happened and repeat a compare-and-swap on.
//! * **The operator acts**: the message is a full sentence for a terminal.
//!
//! **Invariant.** Every variant but [`Error::Unknown`] says *certainly not done*. The conversions
//! to the wire are in this file and nowhere else.

use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::{errorpb, metapb};

use crate::storage::ApiVersion;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// One error of a request or of the process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redirect: the request was meant for another store.
    #[error("the request is for store {requested}, this is store {actual}")]
    StoreNotMatch {
        /// The store of the request's peer; 0 if the request names none.
        requested: u64,
        /// The store that was asked.
        actual: u64,
    },

    /// Redirect: another replica leads the region.
    #[error("region {region_id} is led by another replica")]
    NotLeader {
        /// The region.
        region_id: u64,
        /// Whom to ask instead, if one is known.
        leader: Option<metapb::Peer>,
    },

    /// Redirect: this store has no such region.
    #[error("region {0} is not on this store")]
    RegionNotFound(u64),

    /// Redirect: the region is here, but as another replica than the request names.
    #[error("the request is for peer {requested}, the peer on this store is {actual}")]
    PeerNotMatch {
        /// The peer of the request.
        requested: u64,
        /// The peer on this store.
        actual: u64,
    },

    /// Redirect: the region was split or merged since the client looked it up.
    #[error("the region's version is not that of the request")]
    EpochNotMatch {
        /// The regions that now cover what the client believed to be one.
        current: Vec<Arc<metapb::Region>>,
    },

    /// Redirect: a key to be read or written, or the start of a range, lies outside the region.
    /// Never answered for the far end of a range: that is clamped.
    #[error("a key is not in region {}", .region.id)]
    KeyNotInRegion {
        /// The key in the form in which boundaries are written.
        key: Bytes,
        /// The region as it is.
        region: Arc<metapb::Region>,
    },

    /// Repeat: leadership changed since the view was taken on which the request rests.
    #[error("the term of the request has passed")]
    StaleCommand,

    /// Repeat soon: the region is between two states, such as two leaders. Not *busy*, which common clients hand
    /// to the application: they repeat this one by themselves.
    #[error("not now: {0}")]
    NotNow(&'static str),

    /// Repeat later: the request waited for room until its deadline. Common clients hand this to
    /// the application, so nothing short of the deadline answers it.
    #[error("the store is busy: {0}")]
    ServerIsBusy(&'static str),

    /// Repeat later: the store is shutting down and takes nothing new.
    #[error("the store is stopping")]
    Stopping,

    /// Change the request: one write may not be larger than one entry of the raft log.
    #[error(
        "a write of {bytes} bytes is over the limit of {bytes_max} bytes (setting storage.entry-size-max)"
    )]
    EntryTooLarge {
        /// The region of the write.
        region_id: u64,
        /// Bytes of its keys and values.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },

    /// Change the request: client and cluster speak different API versions.
    #[error(
        "the request is {request}, this cluster was bootstrapped with {cluster}: use {}",
        cluster.client_hint()
    )]
    ApiVersionNotMatch {
        /// What the request says, for example "API V1".
        request: &'static str,
        /// What the cluster was bootstrapped with.
        cluster: ApiVersion,
    },

    /// Change the request: a key without a single byte.
    #[error("the key is empty: a key must have at least one byte (0-byte keys are refused)")]
    EmptyKey,

    /// Change the request: a key over the limit.
    #[error("a key of {bytes} bytes is over the limit of {bytes_max} bytes")]
    KeyTooLong {
        /// Bytes of the key as the client sent it.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },

    /// Change the request: a key that cannot be a raw key of API V2.
    #[error(
        "a raw key of API V2 starts with 'r' and three bytes of keyspace id; this one starts \
         with {0}"
    )]
    KeyMode(String),

    /// Change the request: a range of API V2 that leaves its keyspace.
    #[error(
        "a raw range of API V2 starts in a keyspace and ends in it or at its upper bound; this \
         one goes from {start} to {end}"
    )]
    RangeMode {
        /// The prefix of the lower bound.
        start: String,
        /// The prefix of the upper bound.
        end: String,
    },

    /// Change the request: a column family that raw requests cannot name here.
    #[error(
        "column family {family:?} is not served: there is \"default\" (or \"\"), and with API V1 \"lock\" and \"write\""
    )]
    UnknownFamily {
        /// The name in the request.
        family: String,
    },

    /// Change the request: TTLs that do not fit the pairs.
    #[error("{ttls} TTLs for {pairs} pairs: give none, one for all, or one for each")]
    TtlCount {
        /// How many TTLs came.
        ttls: usize,
        /// How many pairs came.
        pairs: usize,
    },

    /// Change the request: an answer so large that it would endanger the store. It is refused and
    /// not cut, because clients take a short answer as the end of the region.
    #[error("the answer would be over {bytes_max} bytes: ask for fewer pairs at a time")]
    ReplyTooLarge {
        /// The limit.
        bytes_max: usize,
    },

    /// Change the request: a checksum of an unknown kind.
    #[error("checksum algorithm {0} is not known: the only one is 0 (Crc64_Xor)")]
    UnknownAlgorithm(i32),

    /// Change the request: an administrator's command that makes no sense for the region as it is.
    #[error("{0}")]
    Admin(String),

    /// Nobody knows: the request was accepted and its end was not seen.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),

    /// The operator must act, or nobody can (see [`skerry_raftstore::Error`]).
    #[error(transparent)]
    Store(#[from] skerry_raftstore::Error),

    /// The operator must act before the process can start. A full sentence.
    #[error("{0}")]
    Startup(String),
}

/// How an error leaves the store.
#[derive(Debug)]
pub enum Leaving {
    /// In the reply's `region_error`.
    Region(Box<errorpb::Error>),
    /// In the reply's `error`.
    Text(String),
    /// As a gRPC status: the outcome is unknown.
    Unknown(String),
    /// As a gRPC status: not done, and this store will not do it.
    Unavailable(String),
    /// As a gRPC status: not done, the store's data could not be read.
    Damaged(String),
}

impl Error {
    /// Whether the request may have happened. `false` is a promise that it did not and will not.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Error::Unknown(_))
    }

    /// The way out for this error.
    pub fn leaving(self) -> Leaving {
        let text = self.to_string();
        match self {
            Error::Unknown(_) => Leaving::Unknown(text),
            Error::Stopping | Error::Startup(_) => Leaving::Unavailable(text),
            Error::Store(_) => Leaving::Damaged(text),
            other => match other.region_error() {
                Some(region_error) => Leaving::Region(Box::new(region_error)),
                None => Leaving::Text(text),
            },
        }
    }

    /// The wire form of those errors that make a client redirect, wait or give up on a region.
    fn region_error(&self) -> Option<errorpb::Error> {
        let mut wire = errorpb::Error { message: self.to_string(), ..Default::default() };
        match self {
            &Error::StoreNotMatch { requested, actual } => {
                let (request_store_id, actual_store_id) = (requested, actual);
                wire.store_not_match =
                    Some(errorpb::StoreNotMatch { request_store_id, actual_store_id });
            }
            &Error::NotLeader { region_id, leader } => {
                wire.not_leader = Some(errorpb::NotLeader { region_id, leader });
            }
            // Only the message: clients look the region up again and repeat.
            Error::NotNow(_) => {}
            &Error::RegionNotFound(region_id) => {
                wire.region_not_found = Some(errorpb::RegionNotFound { region_id });
            }
            &Error::PeerNotMatch { requested, actual } => {
                let (request_peer_id, store_peer_id) = (requested, actual);
                wire.mismatch_peer_id =
                    Some(errorpb::MismatchPeerId { request_peer_id, store_peer_id });
            }
            Error::EpochNotMatch { current } => {
                let current_regions = current.iter().map(|region| (**region).clone()).collect();
                wire.epoch_not_match = Some(errorpb::EpochNotMatch { current_regions });
            }
            Error::KeyNotInRegion { key, region } => {
                wire.key_not_in_region = Some(errorpb::KeyNotInRegion {
                    key: key.clone(),
                    region_id: region.id,
                    start_key: region.start_key.clone(),
                    end_key: region.end_key.clone(),
                });
            }
            Error::StaleCommand => wire.stale_command = Some(errorpb::StaleCommand {}),
            Error::ServerIsBusy(reason) => {
                let reason = reason.to_string();
                wire.server_is_busy = Some(errorpb::ServerIsBusy { reason, ..Default::default() });
            }
            &Error::EntryTooLarge { region_id, bytes, .. } => {
                let entry_size = bytes as u64;
                wire.raft_entry_too_large =
                    Some(errorpb::RaftEntryTooLarge { region_id, entry_size });
            }
            _ => return None,
        }
        Some(wire)
    }
}
