//! What can go wrong in the scheduler, arranged by who must act, and the wire form of each.
//!
//! A refusal that belongs to the request travels inside a good answer, as `header.error`: clients read
//! its type and some of them its words. Only a caller that talks to the wrong cluster or sends nonsense
//! gets a gRPC status, because no answer to it would mean anything. Errors of the operator never reach
//! the wire: the process has not started, or it ends.

use skerry_proto::pdpb::{self, ErrorType};

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// One error of the scheduler. Display is what a person or a client reads.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Operator: a setting is out of its range or contradicts another.
    #[error("configuration: {0}")]
    Config(String),

    /// Operator: the engine under the scheduler cannot be opened, read or written.
    #[error(transparent)]
    Engine(#[from] skerry_raftstore::Error),

    /// Operator: the port cannot be served.
    #[error("cannot serve the scheduler: {0}")]
    Serve(String),

    /// Caller: it was configured for another cluster.
    #[error("this is cluster {own}, the request is for cluster {asked}")]
    WrongCluster {
        /// The id of this cluster.
        own: u64,
        /// The id in the request; 0 if it names none.
        asked: u64,
    },

    /// Caller: the request lacks what every correct client sends.
    #[error("malformed request: {0}")]
    Malformed(String),

    /// Store: nobody has brought the first region yet; bootstrap, or wait for the one that does.
    #[error("the cluster is not bootstrapped")]
    NotBootstrapped,

    /// Store: another one was first; throw the prepared region away and join.
    #[error("the cluster is already bootstrapped")]
    AlreadyBootstrapped,

    /// Store: it was removed for good and must not come back under this id.
    #[error("store {0} is a tombstone: it was removed from the cluster for good")]
    StoreTombstone(u64),

    /// Operator of the store: its version cannot work with the others.
    #[error("store {store} has version {version:?}, which does not fit the cluster's {cluster}")]
    IncompatibleVersion {
        /// The store that was refused.
        store: u64,
        /// What it called its version.
        version: String,
        /// The lowest version among the stores.
        cluster: String,
    },

    /// Operator of the store: another store has the address.
    #[error("store {store} has address {address} already")]
    AddressInUse {
        /// The store that has it.
        store: u64,
        /// The address both want.
        address: String,
    },

    /// Operator of the store, which is new: the store that has the address spoke a moment ago.
    #[error(
        "store {store} has address {address} already and has been silent for no more than {silent_seconds} s. Put its \
         data directory back; or, if its disk is lost, start this new store again when it has been silent for \
         {patience_seconds} s: then it is said what else can be done"
    )]
    AddressOfSpeakingStore {
        /// The store that has it.
        store: u64,
        /// The address both want.
        address: String,
        /// How long it has been silent.
        silent_seconds: u64,
        /// From when on it counts as silent.
        patience_seconds: u64,
    },

    /// Operator of the store, which is new: the store that has the address is silent. If this is the same machine
    /// with a new disk, the old store must be given up first.
    #[error(
        "store {store} has address {address} and has been silent for {silent_seconds} s; {regions} regions still \
         count on it. Put its data directory back; or, if its disk is lost, say so with `skerry ctl store offline \
         {store} --destroyed` and start this new store again; or wait until it has been silent for \
         {patience_seconds} s and its regions are replicated elsewhere"
    )]
    AddressOfSilentStore {
        /// The store that has it.
        store: u64,
        /// The address both want.
        address: String,
        /// How long it has been silent.
        silent_seconds: u64,
        /// Regions that have a replica there.
        regions: usize,
        /// From when on it counts as dead.
        patience_seconds: u64,
    },

    /// Operator of the store: one of the two replicates nothing, so they cannot share the data.
    #[error(
        "store {alone} is standalone and must be the only one of its cluster, so store {refused} is refused: \
         give it a scheduler of its own"
    )]
    StandaloneStore {
        /// The one that is standalone.
        alone: u64,
        /// The one that wants to register, which may be the same.
        refused: u64,
    },

    /// Store: it must register before it sends heartbeats.
    #[error("store {0} not found")]
    UnknownStore(u64),

    /// Client: no such store, or none any more. Clients recognise a removed store by these words.
    #[error("invalid store ID {0}, not found")]
    NoSuchStore(u64),

    /// Store: what it asks for, or reports, contradicts itself.
    #[error("{0}")]
    InvalidValue(String),

    /// Store: the scheduler knows something newer about this range or region.
    #[error("{0}")]
    StaleRegion(String),

    /// Store: it asks about a region that was never reported.
    #[error("region {0} not found")]
    UnknownRegion(u64),

    /// Client: nothing is being done about the region, or was lately.
    #[error("region {0} has no operator, and had none lately")]
    NoOperator(u64),

    /// Client: no keyspace has this name or number.
    #[error("keyspace {0} not found")]
    UnknownKeyspace(String),

    /// Client: some key of a range lies in no known region. A new cluster heals this by itself as soon as
    /// its stores have reported.
    #[error("no region is known from key {0} on")]
    RangeNotCovered(String),
}

impl Error {
    /// How the error travels inside an answer's header, or `None` if there can be no good answer.
    pub fn to_header(&self) -> Option<pdpb::Error> {
        let kind = match self {
            Error::Config(_) | Error::Engine(_) | Error::Serve(_) => return None,
            Error::WrongCluster { .. } | Error::Malformed(_) => return None,
            Error::NotBootstrapped => ErrorType::NotBootstrapped,
            Error::AlreadyBootstrapped => ErrorType::AlreadyBootstrapped,
            Error::StoreTombstone(_) => ErrorType::StoreTombstone,
            Error::IncompatibleVersion { .. } => ErrorType::IncompatibleVersion,
            Error::AddressInUse { .. } => ErrorType::Unknown,
            Error::AddressOfSpeakingStore { .. } => ErrorType::Unknown,
            Error::AddressOfSilentStore { .. } => ErrorType::Unknown,
            Error::StandaloneStore { .. } => ErrorType::Unknown,
            Error::UnknownStore(_) | Error::NoSuchStore(_) => ErrorType::Unknown,
            Error::InvalidValue(_) => ErrorType::InvalidValue,
            Error::StaleRegion(_) => ErrorType::Unknown,
            Error::UnknownRegion(_) | Error::NoOperator(_) => ErrorType::RegionNotFound,
            Error::UnknownKeyspace(_) => ErrorType::EntryNotFound,
            Error::RangeNotCovered(_) => ErrorType::RegionsNotContainAllKeyRange,
        };
        Some(pdpb::Error { r#type: kind.into(), message: self.to_string() })
    }
}
