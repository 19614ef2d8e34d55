//! Slow work, done aside: snapshots are built and installed, abandoned ranges removed, growing regions looked
//! at, logs cut. Results come back as messages.
//!
//! **Invariants.**
//!
//! 1. The log is cut only after the data engine has made durable what its entries stand for.
//! 2. Ranges are cleared and snapshots installed one after the other, in the order in which they were asked
//!    for, so that what is cleared for a region that left never hits one that came; and what is cleared is
//!    looked up in the store's meta at that moment.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message as _;
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{PeerState, RegionLocalState};
use skerry_proto::types::RegionId;
use slog::info;

use crate::Result;
use crate::effects::Effects;
use crate::engine::log::LogOperation;
use crate::engine::{ColumnFamily, Durability, KeyRange, WriteBatch};
use crate::environment::Environment;
use crate::keys::{self, DataSpace};
use crate::message::{BackgroundTask, LogTask, SnapshotOrder, WorkerMessage};
use crate::planted::Planted;
use crate::snapshot::{self, SnapshotId};
use crate::state::conf_state;

mod split_check;

/// See the module.
pub struct Background {
    environment: Environment,
    /// Where snapshots lie.
    snapshots: PathBuf,
}

impl Background {
    /// A worker over the store's snapshot directory.
    pub fn new(environment: &Environment, snapshots: &Path) -> Background {
        Background { environment: environment.clone(), snapshots: snapshots.to_path_buf() }
    }

    /// Does what was asked for.
    pub fn round(&mut self, tasks: Vec<BackgroundTask>, effects: &mut Effects) -> Result<()> {
        let mut cuts = Vec::new();
        for task in tasks {
            match task {
                BackgroundTask::BuildSnapshot(order) => self.build(*order, effects),
                BackgroundTask::InstallSnapshot { id, region, serial, .. } => {
                    install_snapshot(&self.environment, &self.snapshots, &id, &region)?;
                    let region_id = region.region_id();
                    effects.workers.push(WorkerMessage::SnapshotInstalled { region_id, serial });
                }
                BackgroundTask::CleanRange { range } => clean_range(&self.environment, &range)?,
                BackgroundTask::CheckSplit { region } => self.check_split(&region, effects)?,
                BackgroundTask::CompactLog { region_id, serial, first } => {
                    cuts.push((region_id, serial, first));
                }
            }
        }
        self.cut_logs(cuts, effects)
    }

    fn build(&self, order: SnapshotOrder, effects: &mut Effects) {
        let SnapshotOrder { serial, id, region, view } = order;
        let engine = self.environment.engine.as_ref();
        let data =
            snapshot::build(&self.snapshots, id, view.as_ref(), &region, engine, &mut |_| {});
        let built = data.map_err(|error| error.to_string()).map(|data| {
            let data = data.encode_to_vec().into();
            let mut built = raft::eraftpb::Snapshot { data, ..Default::default() };
            let metadata = built.mut_metadata();
            (metadata.index, metadata.term) = (id.index, id.term);
            metadata.set_conf_state(conf_state(&region));
            Box::new(built)
        });
        let region_id = region.region_id();
        effects.workers.push(WorkerMessage::SnapshotBuilt { region_id, serial, built });
    }

    fn check_split(&self, region: &Arc<metapb::Region>, effects: &mut Effects) -> Result<()> {
        let (keys, size) = split_check::find_keys(&self.environment, region)?;
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
        }));
        Ok(())
    }
}

/// Loads an accepted snapshot and notes that the region is whole. May be repeated.
pub fn install_snapshot(
    environment: &Environment,
    snapshots: &Path,
    id: &SnapshotId,
    region: &metapb::Region,
) -> Result<()> {
    let engine = environment.engine.as_ref();
    snapshot::install(snapshots, *id, region, engine)?;
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
