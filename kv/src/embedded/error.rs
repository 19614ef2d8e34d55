//! What a call of the library can fail with, by who must act.
//!
//! **Invariant.** Every error but [`Error::Unknown`] says *certainly not done*.

use crate::txn;

/// The result of every call of the library.
pub type Result<T> = std::result::Result<T, Error>;

/// One reason. Its text is a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Change the call: as it is it can never succeed.
    #[error("{0}")]
    Invalid(String),

    /// Begin the transaction again: another one was faster. [`Db::transaction`](super::Db::transaction) does so by
    /// itself, and answers this only when it has lost again and again.
    #[error("{0}")]
    Conflict(String),

    /// Begin the transaction again and be quicker, or let versions live longer ([`Settings`](super::Settings)): what
    /// this one would have to see may be gone.
    #[error("{0}")]
    TooOld(String),

    /// Call again later: nobody could serve the call in time.
    #[error("not done in time: {0}")]
    Busy(String),

    /// Look what is there: the call may have been done, or not, or may still be.
    #[error("{0}")]
    Unknown(String),

    /// Mend the surroundings: the database cannot be opened as things are (path, ports, configuration).
    #[error("{0}")]
    Open(String),

    /// Nobody can act: what lies on disk cannot be read.
    #[error("{0}")]
    Damaged(String),
}

impl Error {
    /// Whether the same transaction may succeed if it is begun again.
    pub fn is_worth_another_attempt(&self) -> bool {
        matches!(self, Error::Conflict(_) | Error::Busy(_))
    }
}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Error {
        use skerry_raftstore::Error as StoreError;
        let text = error.to_string();
        match error {
            crate::Error::Unknown(_) => Error::Unknown(text),
            crate::Error::Startup(_) => Error::Open(text),
            crate::Error::Store(StoreError::DirectoryLocked(path)) => Error::Open(format!(
                "{} is open already, in this process or in another one: close it there first",
                path.display()
            )),
            crate::Error::Store(
                StoreError::DirectoryUnusable { .. }
                | StoreError::DirectoryMismatch { .. }
                | StoreError::Config(_),
            ) => Error::Open(text),
            crate::Error::Store(_) => Error::Damaged(text),
            crate::Error::Stopping => Error::Busy(text),
            other if is_redirect(&other) => Error::Busy(text),
            _ => Error::Invalid(text),
        }
    }
}

impl From<txn::Error> for Error {
    fn from(error: txn::Error) -> Error {
        let text = error.to_string();
        match error {
            txn::Error::Other(error) => Error::from(*error),
            txn::Error::Locked { .. }
            | txn::Error::WriteConflict(_)
            | txn::Error::TxnLockNotFound { .. }
            | txn::Error::CommitTsExpired { .. } => Error::Conflict(text),
            txn::Error::TooOld { .. } => Error::TooOld(text),
            _ => Error::Invalid(text),
        }
    }
}

/// Whether the call would be served elsewhere, or here a little later.
pub(super) fn is_redirect(error: &crate::Error) -> bool {
    use crate::Error::*;
    matches!(
        error,
        StoreNotMatch { .. }
            | NotLeader { .. }
            | RegionNotFound(_)
            | PeerNotMatch { .. }
            | EpochNotMatch { .. }
            | KeyNotInRegion { .. }
            | StaleCommand
            | NotNow(_)
            | ServerIsBusy(_)
    )
}
