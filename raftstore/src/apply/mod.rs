//! From committed entries to data: one apply worker serves many regions.
//!
//! A round of an apply worker:
//!
//! 1. takes messages; entries of all regions become changes of **one** batch of the data engine, each region's
//!    with its applied index, so that a crash never separates the two;
//! 2. writes the batch; it is synced only if somebody will act on it (a split, a change of peers), because
//!    what is lost is in the log still;
//! 3. answers the waiting clients, now that everybody can see what they wrote;
//! 4. reports to the raft workers.
//!
//! **Invariants.**
//!
//! 1. Entries of a region are applied in order, without a gap, each once.
//! 2. What an entry does depends on the region's state and the entry alone: every replica does the same, also
//!    when it refuses.
//! 3. A refused entry changes nothing but the applied index.
//!
//! What it does not do: it does not know raft, leaders or leases, and an error of the engine is not its to mend.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use skerry_proto::types::RegionId;

use self::answers::Answers;
use self::applier::Applier;
use crate::Result;
use crate::effects::Effects;
use crate::engine::{ColumnFamily, Durability, WriteBatch};
use crate::environment::Environment;
use crate::keys;
use crate::message::{
    Applied, ApplyMessage, ApplyTask, BackgroundTask, PeerSerial, Registration, SnapshotOrder,
};
use crate::planted::Planted;
use crate::snapshot::SnapshotId;

mod admin;
mod answers;
mod applier;

/// Changes of one batch, in bytes; more are written in several.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// See the module.
pub struct ApplyWorker {
    environment: Environment,
    appliers: BTreeMap<RegionId, Applier>,
    batch: WriteBatch,
    /// Whether somebody will act on what the batch holds.
    must_sync: bool,
    answers: Answers,
    /// What was applied and is not reported, one for a region.
    applied: BTreeMap<RegionId, Applied>,
}

impl ApplyWorker {
    /// A worker without regions.
    pub fn new(environment: &Environment) -> ApplyWorker {
        ApplyWorker {
            environment: environment.clone(),
            appliers: BTreeMap::new(),
            batch: WriteBatch::new(),
            must_sync: false,
            answers: Answers::default(),
            applied: BTreeMap::new(),
        }
    }

    /// Turns messages into data.
    pub fn round(&mut self, messages: Vec<ApplyMessage>, effects: &mut Effects) -> Result<()> {
        for message in messages {
            match message {
                ApplyMessage::Register(registration) => self.register(*registration),
                ApplyMessage::Apply(task) => self.apply(*task, effects)?,
                ApplyMessage::Snapshot { region_id, serial } => {
                    self.flush(effects)?;
                    self.order_snapshot(region_id, serial, effects);
                }
                ApplyMessage::Remove { region_id, serial } => {
                    self.flush(effects)?;
                    self.remove(region_id, serial, effects);
                }
            }
        }
        self.flush(effects)
    }

    fn register(&mut self, registration: Registration) {
        let region_id = registration.region.region_id();
        self.appliers.insert(region_id, Applier::new(registration));
    }

    fn apply(&mut self, task: ApplyTask, effects: &mut Effects) -> Result<()> {
        let region_id = task.region_id;
        let serial = task.serial;
        let Some(applier) = self.appliers.get_mut(&region_id).filter(|it| it.serial() == serial)
        else {
            self.answers.abandon(task.proposals);
            return Ok(());
        };
        applier.begin(&task);
        self.answers.expect(region_id, task.proposals);
        let mut report = self.applied.remove(&region_id).unwrap_or_else(|| applier.report());
        for entry in &task.entries {
            if applier.is_removed() {
                break;
            }
            let changes = &mut self.batch;
            let done = applier.apply_entry(entry, &self.environment, changes);
            self.must_sync |= done.must_sync;
            report.written += done.written;
            report.changes.extend(done.change);
            let proposed_at = self.answers.decide(region_id, entry, done.outcome);
            report.proposed_at = report.proposed_at.max(proposed_at);
        }
        if self.environment.has(Planted::ApplyTwice) {
            applier.apply_again(&task.entries[0], &mut self.batch);
        }
        (report.state, report.term) = applier.state();
        self.applied.insert(region_id, report);
        match self.batch.byte_size() >= BATCH_BYTES_MAX {
            true => self.flush(effects),
            false => Ok(()),
        }
    }

    /// Writes, with how far each region is now, answers, reports.
    fn flush(&mut self, effects: &mut Effects) -> Result<()> {
        for (region_id, report) in &self.applied {
            let key = keys::apply_state(region_id.get());
            self.batch.put(ColumnFamily::Raft, key, report.state.encode_to_vec());
        }
        if !self.batch.is_empty() {
            let durability = match std::mem::take(&mut self.must_sync) {
                true => Durability::Synced,
                false => Durability::Buffered,
            };
            self.environment.engine.write(std::mem::take(&mut self.batch), durability)?;
        }
        self.answers.tell();
        effects.applied.extend(std::mem::take(&mut self.applied).into_values());
        Ok(())
    }

    /// Takes a view of a region at its applied index.
    fn order_snapshot(&mut self, region_id: RegionId, serial: PeerSerial, effects: &mut Effects) {
        let Some(applier) = self.appliers.get(&region_id).filter(|it| it.serial() == serial) else {
            return;
        };
        let (state, term) = applier.state();
        effects.background.push(BackgroundTask::BuildSnapshot(Box::new(SnapshotOrder {
            serial,
            id: SnapshotId { region_id: region_id.get(), term, index: state.applied_index },
            region: applier.region().clone(),
            view: self.environment.engine.view(),
        })));
    }

    fn remove(&mut self, region_id: RegionId, serial: PeerSerial, effects: &mut Effects) {
        let mut report = Applied::nothing(region_id, serial);
        if self.appliers.get(&region_id).is_some_and(|it| it.serial() == serial) {
            let applier = self.appliers.remove(&region_id).expect("looked at above");
            self.answers.end(region_id);
            report = applier.report();
        }
        // Also without an applier: a replica whose first snapshot is being installed has none.
        effects.applied.push(Applied { removed: true, ..report });
    }

    /// The regions that are served, for invariants: what is applied of each.
    pub fn applied(&self) -> impl Iterator<Item = (RegionId, u64)> {
        self.appliers.iter().map(|(id, applier)| (*id, applier.state().0.applied_index))
    }

    /// The store stops: what waits here is answered.
    pub fn stop(&mut self) {
        let regions: Vec<RegionId> = self.appliers.keys().copied().collect();
        regions.into_iter().for_each(|region_id| self.answers.end(region_id));
    }
}

/// A message that nobody will take any more: what it decides stays unknown.
pub fn abandon(message: ApplyMessage) {
    if let ApplyMessage::Apply(task) = message {
        for proposal in task.proposals {
            proposal.waiters.unknown("the store stops before the command was applied");
        }
    }
}

/// Which region a message is for.
pub fn region_of(message: &ApplyMessage) -> RegionId {
    match message {
        ApplyMessage::Register(registration) => registration.region.region_id(),
        ApplyMessage::Apply(task) => task.region_id,
        ApplyMessage::Snapshot { region_id, .. } | ApplyMessage::Remove { region_id, .. } => {
            *region_id
        }
    }
}

/// A region, shared.
type Region = Arc<skerry_proto::metapb::Region>;
