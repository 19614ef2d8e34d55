//! Slow work, done aside: snapshots are built and installed, abandoned ranges removed, growing regions looked
//! at, logs cut, files of snapshots collected. Results come back as messages.
//!
//! **Invariants.**
//!
//! 1. The log is cut only after the data engine has made durable what its entries stand for.
//! 2. Ranges are cleared and snapshots installed one after the other, in the order in which they were asked
//!    for, so that what is cleared for a region that left never hits one that came; and what is cleared is
//!    looked up in the store's meta at that moment. An install that has to wait is kept, and all of these behind
//!    it wait with it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{PeerState, RaftSnapshotData, RegionLocalState};
use skerry_proto::types::RegionId;
use slog::{debug, info};

use self::collection::{Collection, discard};
use self::split_check::SplitCheck;
use crate::Result;
use crate::credits::Credit;
use crate::effects::Effects;
use crate::engine::log::LogOperation;
use crate::engine::{ColumnFamily, Durability, KeyRange, WriteBatch};
use crate::environment::Environment;
use crate::extent::Estimate;
use crate::keys::{self, DataSpace};
use crate::message::{BackgroundTask, LogTask, SnapshotOrder, WorkerMessage};
use crate::planted::Planted;
use crate::snapshot::{self, Activity, Side, SnapshotId};
use crate::state::conf_state;

mod collection;
mod split_check;

/// Of so many ticks of a store one comes here: nothing is in a hurry.
pub const TICKS: u64 = 10;

/// See the module.
pub struct Background {
    environment: Environment,
    /// What must keep its order: installs, and ranges to be cleared. The first may have to wait.
    ordered: VecDeque<BackgroundTask>,
    collection: Collection,
    /// Ticks since files of the log were looked for.
    unpurged_ticks: u64,
}

impl Background {
    /// A worker with nothing to do.
    pub fn new(environment: &Environment) -> Background {
        Background {
            environment: environment.clone(),
            ordered: VecDeque::new(),
            collection: Collection::default(),
            unpurged_ticks: 0,
        }
    }

    /// Does what was asked for. `pause` lets the caller's thread wait, where there is one.
    pub fn round(
        &mut self,
        tasks: Vec<BackgroundTask>,
        pause: &mut dyn FnMut(Duration),
        effects: &mut Effects,
    ) -> Result<()> {
        let mut cuts = Vec::new();
        for task in tasks {
            match task {
                BackgroundTask::Tick => {
                    self.advance(effects)?;
                    self.collection.pass(&self.environment, TICKS);
                    self.purge_log(effects)?;
                }
                BackgroundTask::BuildSnapshot(order) => self.build(*order, pause, effects),
                BackgroundTask::InstallSnapshot { .. } | BackgroundTask::CleanRange { .. } => {
                    self.ordered.push_back(task);
                    self.advance(effects)?;
                }
                BackgroundTask::CheckSplit { region, halve, size } => {
                    self.check_split(&region, halve, size, effects)?;
                }
                BackgroundTask::CompactLog { region_id, serial, first } => {
                    cuts.push((region_id, serial, first));
                }
            }
        }
        self.cut_logs(cuts, effects)
    }

    /// Frees files of the log from time to time. Regions whose few old entries keep many files are asked to cut
    /// their logs.
    fn purge_log(&mut self, effects: &mut Effects) -> Result<()> {
        self.unpurged_ticks += TICKS;
        if self.unpurged_ticks < self.environment.config.log_purge_ticks {
            return Ok(());
        }
        self.unpurged_ticks = 0;
        let regions = self.environment.log.purge()?.into_iter().map(RegionId::new);
        effects.workers.extend(regions.map(|region_id| WorkerMessage::CutLog { region_id }));
        Ok(())
    }

    /// Installs and clears what was asked for, in order, until something has to wait.
    fn advance(&mut self, effects: &mut Effects) -> Result<()> {
        while let Some(task) = self.ordered.pop_front() {
            if let Some(task) = self.try_ordered(task, effects)? {
                self.ordered.push_front(task);
                break;
            }
        }
        Ok(())
    }

    /// Hands back what cannot be done now.
    fn try_ordered(
        &self,
        task: BackgroundTask,
        effects: &mut Effects,
    ) -> Result<Option<BackgroundTask>> {
        match &task {
            BackgroundTask::InstallSnapshot { id, region, serial, .. } => {
                let applying = match self.environment.snapshots.begin(*id, Activity::Applying) {
                    Ok(registration) => registration,
                    Err(busy) => {
                        debug!(self.environment.logger, "an install has to wait";
                            "region" => %region, "because" => %busy);
                        return Ok(Some(task));
                    }
                };
                install_snapshot(&self.environment, *id, region)?;
                drop(applying);
                discard(&self.environment, *id, Side::Receiver);
                effects.workers.push(WorkerMessage::SnapshotInstalled {
                    region_id: region.region_id(),
                    serial: *serial,
                });
            }
            BackgroundTask::CleanRange { range } => clean_range(&self.environment, range)?,
            _ => unreachable!("only installs and ranges keep an order"),
        }
        Ok(None)
    }

    /// A failure is told to who asked, and ends nothing: raft asks again.
    fn build(
        &mut self,
        order: SnapshotOrder,
        pause: &mut dyn FnMut(Duration),
        effects: &mut Effects,
    ) {
        let SnapshotOrder { serial, id, region, .. } = &order;
        self.collection.asked_for(*id);
        let built = self.try_build(&order, pause).map(|data| {
            let data = data.encode_to_vec().into();
            let mut built = raft::eraftpb::Snapshot { data, ..Default::default() };
            let metadata = built.mut_metadata();
            (metadata.index, metadata.term) = (id.index, id.term);
            metadata.set_conf_state(conf_state(region));
            Box::new(built)
        });
        let (region_id, serial) = (region.region_id(), *serial);
        effects.workers.push(WorkerMessage::SnapshotBuilt { region_id, serial, built });
    }

    fn try_build(
        &self,
        order: &SnapshotOrder,
        pause: &mut dyn FnMut(Duration),
    ) -> std::result::Result<RaftSnapshotData, String> {
        let SnapshotOrder { id, region, view, .. } = order;
        let Environment { engine, snapshots, snapshot_rates, .. } = &self.environment;
        let generating = snapshots.begin(*id, Activity::Generating);
        let generating = generating.map_err(|busy| busy.to_string())?;
        let mut limit = |bytes| {
            let wait = snapshot_rates.building.take(bytes);
            if wait > Duration::ZERO {
                pause(wait);
            }
        };
        let (directory, engine) = (snapshots.directory(), engine.as_ref());
        let data = snapshot::build(directory, *id, view.as_ref(), region, engine, &mut limit);
        data.map_err(|error| {
            // The disk may be full: what is half written must not stay.
            drop(generating);
            discard(&self.environment, *id, Side::Sender);
            error.to_string()
        })
    }

    fn check_split(
        &self,
        region: &Arc<metapb::Region>,
        halve: bool,
        size: Estimate,
        effects: &mut Effects,
    ) -> Result<()> {
        let Environment { engine, config, counters, .. } = &self.environment;
        let check = SplitCheck { engine: engine.as_ref(), config, counters, region };
        let (keys, size) = if halve { check.halve()? } else { check.look(size)? };
        effects.workers.push(WorkerMessage::SplitKeys {
            region_id: region.region_id(),
            epoch: region.epoch(),
            keys,
            size,
        });
        Ok(())
    }

    /// One sync of the data engine serves all regions.
    fn cut_logs(
        &self,
        cuts: Vec<(RegionId, crate::message::PeerSerial, u64)>,
        effects: &mut Effects,
    ) -> Result<()> {
        if cuts.is_empty() {
            return Ok(());
        }
        if !self.environment.has(Planted::TruncatePastDurable) {
            self.environment.engine.write(WriteBatch::new(), Durability::Synced)?;
        }
        effects.log.extend(cuts.into_iter().map(|(region_id, serial, first)| LogTask {
            region_id,
            serial,
            number: 0,
            operations: vec![LogOperation::CompactTo(region_id.get(), first)],
            data: None,
            must_sync: false,
            credit: Credit::default(),
        }));
        Ok(())
    }
}

/// Loads an accepted snapshot and notes that the region is whole. May be repeated.
pub fn install_snapshot(
    environment: &Environment,
    id: SnapshotId,
    region: &metapb::Region,
) -> Result<()> {
    let engine = environment.engine.as_ref();
    let directory = environment.snapshots.directory();
    snapshot::install(directory, id, region, engine, environment.planted)?;
    let state = RegionLocalState { state: PeerState::Normal.into(), region: Some(region.clone()) };
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Raft, keys::region_state(region.id), state.encode_to_vec());
    batch.delete(ColumnFamily::Raft, keys::snapshot_raft_state(region.id));
    engine.write(batch, Durability::Synced)
}

/// Removes data that lies in `range` (without data prefix) and in no region here. Views keep what they show.
pub fn clean_range(environment: &Environment, range: &KeyRange) -> Result<()> {
    let meta = environment.meta.lock().expect("no holder panics");
    let gaps = meta.gaps(range);
    drop(meta);
    let view = environment.engine.view();
    let mut batch = WriteBatch::new();
    for gap in gaps {
        for family in ColumnFamily::DATA {
            for space in DataSpace::ALL {
                let (start, end) = space.range(&gap.start, &gap.end);
                let range = KeyRange { start, end };
                // A deletion of nothing would cost every later reader.
                if view.cursor(family, &range)?.seek_to_first()? {
                    batch.delete_range(family, range);
                }
            }
        }
    }
    if !batch.is_empty() {
        info!(environment.logger, "data of no region is removed"; "ranges" => batch.operations().len());
        environment.engine.write(batch, Durability::Buffered)?;
    }
    Ok(())
}
