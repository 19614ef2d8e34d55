//! What a raft worker may have under way at other actors: bytes for the log writer, bytes for the apply workers.
//!
//! A [`Credit`] travels with each task that holds entries and gives its bytes back when the task is done, or
//! dropped: none can get lost. While one of the two sums is at its limit the worker takes nothing more from raft
//! ([`Credits::suffice`]); its replicas wait until a result comes back, or until the next tick. So a slow disk keeps
//! no more in memory than the limits and what one Ready holds beyond them; raft itself bounds what waits before that,
//! by not hearing that it is durable.
//!
//! What it does not do: it delays no results and no messages between actors, so that actors cannot wait for each
//! other in a circle.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::RaftConfig;

/// What a task costs besides the bytes of its entries, so that their number is bounded too.
const TASK_BYTES: usize = 256;
/// What an entry costs besides its data.
const ENTRY_BYTES: usize = 64;

/// The limits of one raft worker, and how much of them is taken.
#[derive(Debug)]
pub struct Credits {
    log: Arc<AtomicUsize>,
    log_max: usize,
    apply: Arc<AtomicUsize>,
    apply_max: usize,
}

/// Bytes of one task, given back on drop. The default is none: work that no entries wait for.
#[derive(Debug, Default)]
pub struct Credit {
    bytes: usize,
    taken_from: Option<Arc<AtomicUsize>>,
}

impl Credits {
    /// Nothing is taken.
    pub fn new(config: &RaftConfig) -> Credits {
        Credits {
            log: Arc::default(),
            log_max: config.log_waiting_size_max.length(),
            apply: Arc::default(),
            apply_max: config.apply_waiting_size_max.length(),
        }
    }

    /// Whether another Ready may be taken from raft. What it holds may then exceed the limits.
    pub fn suffice(&self) -> bool {
        self.log.load(Ordering::Relaxed) < self.log_max
            && self.apply.load(Ordering::Relaxed) < self.apply_max
    }

    /// For a task of the log writer.
    pub fn for_log(&self, entries: &[raft::eraftpb::Entry]) -> Credit {
        Credit::take(&self.log, entries)
    }

    /// For a task of an apply worker.
    pub fn for_apply(&self, entries: &[raft::eraftpb::Entry]) -> Credit {
        Credit::take(&self.apply, entries)
    }
}

impl Credit {
    fn take(sum: &Arc<AtomicUsize>, entries: &[raft::eraftpb::Entry]) -> Credit {
        let of_entry = |entry: &raft::eraftpb::Entry| ENTRY_BYTES + entry.data.len();
        let bytes = TASK_BYTES + entries.iter().map(of_entry).sum::<usize>();
        sum.fetch_add(bytes, Ordering::Relaxed);
        Credit { bytes, taken_from: Some(sum.clone()) }
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        if let Some(sum) = &self.taken_from {
            sum.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::Entry;

    use super::*;
    use crate::config::ByteSize;

    #[test]
    fn either_limit_ends_the_credit_until_a_task_is_done_or_dropped() {
        let config = RaftConfig {
            log_waiting_size_max: ByteSize(1_000),
            apply_waiting_size_max: ByteSize(1_000),
            ..RaftConfig::default()
        };
        let credits = Credits::new(&config);
        let entry = Entry { data: vec![0; 700].into(), ..Entry::default() };
        let (small, large) =
            (credits.for_log(&[]), credits.for_apply(std::slice::from_ref(&entry)));
        assert!(!credits.suffice(), "an entry of 700 bytes and what it costs to handle it");
        drop(large);
        assert!(credits.suffice());
        let large = credits.for_log(&[entry]);
        drop(small);
        assert!(!credits.suffice());
        drop(large);
        assert!(credits.suffice());
    }
}
