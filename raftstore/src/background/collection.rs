//! Removing files of snapshots that nobody needs any more.
//!
//! * Files of an activity that goes on are needed; the registry knows.
//! * Received ones are needed while their snapshot is accepted and not installed, and for a while after they came: the
//!   message that announces them may wait in a queue.
//! * Built ones are needed for a while after they were asked for, if the region is still here: raft offers them to a
//!   follower, and another may want the same.
//!
//! Received files go as soon as they are installed. Everything else is looked at from time to time; a start
//! begins without any ([`crate::store::recover`]).
//!
//! What goes too early costs a transfer and nothing else: who sends finds no files and says so, and who accepts
//! looks whether they are there ([`snapshot::Manager::has`](crate::snapshot::Manager::has)).

use std::collections::BTreeMap;

use skerry_proto::types::RegionId;
use slog::{info, warn};

use crate::environment::Environment;
use crate::snapshot::{Side, SnapshotId};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Collection {
    /// Ticks of the store so far.
    ticks: u64,
    /// When it was looked last.
    looked: u64,
    /// Since when files of a snapshot are there, or when they were asked for last.
    since: BTreeMap<(SnapshotId, Side), u64>,
}

impl Collection {
    /// A snapshot is asked for: its files, old or new, are worth keeping from now on.
    pub(super) fn asked_for(&mut self, id: SnapshotId) {
        self.since.insert((id, Side::Sender), self.ticks);
    }

    /// So many ticks have passed. Files that cannot be removed are left for the next time: they cost room only.
    pub(super) fn pass(&mut self, environment: &Environment, ticks: u64) {
        self.ticks += ticks;
        if self.ticks - self.looked < environment.config.snapshot_collect_ticks {
            return;
        }
        self.looked = self.ticks;
        match self.collect(environment) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => info!(environment.logger, "snapshots that nobody needs are removed";
                "snapshots" => ?removed),
            Err(error) => warn!(environment.logger, "snapshots that nobody needs are left";
                "error" => %error),
        }
    }

    fn collect(&mut self, environment: &Environment) -> crate::Result<Vec<(SnapshotId, Side)>> {
        let stored = environment.snapshots.stored()?;
        self.since.retain(|snapshot, _| stored.contains(snapshot));
        for snapshot in stored {
            self.since.entry(snapshot).or_insert(self.ticks);
        }
        environment.snapshots.collect(&|id, side| self.is_needed(environment, id, side))
    }

    fn is_needed(&self, environment: &Environment, id: &SnapshotId, side: Side) -> bool {
        // What has come since the files were listed is new.
        let since = self.since.get(&(*id, side)).copied().unwrap_or(self.ticks);
        let is_new = self.ticks - since < environment.config.snapshot_keep_ticks;
        let region_id = RegionId::new(id.region_id);
        let meta = environment.meta.lock().expect("no holder panics");
        match side {
            Side::Sender => is_new && meta.peer(region_id).is_some(),
            Side::Receiver => is_new || meta.has_accepted(region_id),
        }
    }
}

/// Removes the files of one snapshot now, unless somebody is at it.
pub(super) fn discard(environment: &Environment, id: SnapshotId, side: Side) {
    let is_another = |other: &SnapshotId, other_side| (*other, other_side) != (id, side);
    if let Err(error) = environment.snapshots.collect(&is_another) {
        warn!(environment.logger, "a snapshot is left, though nobody needs it";
            "snapshot" => %id, "error" => %error);
    }
}
