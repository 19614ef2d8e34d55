//! What people are shown of stores and of regions that are not as they should be. Nothing is changed here.

use std::collections::BTreeSet;
use std::sync::Arc;

use skerry_proto::types::{RegionId, StoreId};

use super::Cluster;
use super::store_life::Leaving;
use crate::Result;
use crate::moment::Moment;
use crate::operator::limits::Way;
use crate::region_tree::RegionRecord;
use crate::stores::{Liveness, StoreRecord};

/// From how many MiB on a region counts as too large: half as much again as stores make their parts.
const OVERSIZED_MIB: u64 = 144;

/// Up to how many MiB it counts as small.
const UNDERSIZED_MIB: u64 = 20;

/// A store as balance sees it.
#[derive(Clone, Debug)]
pub struct StoreLook {
    /// What is known of it.
    pub record: StoreRecord,
    /// How it stands.
    pub liveness: Liveness,
    /// By what its leaders are compared with those of others.
    pub leader_score: f64,
    /// By what its replicas are.
    pub region_score: f64,
    /// Replicas of usual size that may come in a minute.
    pub add_limit: u32,
    /// Those that may go.
    pub remove_limit: u32,
    /// How far it is with being emptied, if it is.
    pub leaving: Option<Leaving>,
}

/// What may be wrong with a region, in PD's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fewer replicas than wanted.
    MissPeer,
    /// More.
    ExtraPeer,
    /// A replica that its leader has not heard from.
    DownPeer,
    /// A replica that lags behind.
    PendingPeer,
    /// A replica without a vote.
    LearnerPeer,
    /// A replica on a store that is being emptied.
    OfflinePeer,
    /// Next to nothing in it.
    EmptyRegion,
    /// Larger than stores with the usual configuration let a region become.
    OversizedRegion,
    /// So small that it could be joined with its neighbour.
    UndersizedRegion,
}

impl Fault {
    /// Reads a name.
    pub fn parse(text: &str) -> Option<Fault> {
        Some(match text {
            "miss-peer" => Fault::MissPeer,
            "extra-peer" => Fault::ExtraPeer,
            "down-peer" => Fault::DownPeer,
            "pending-peer" => Fault::PendingPeer,
            "learner-peer" => Fault::LearnerPeer,
            "offline-peer" => Fault::OfflinePeer,
            "empty-region" => Fault::EmptyRegion,
            "oversized-region" => Fault::OversizedRegion,
            "undersized-region" => Fault::UndersizedRegion,
            _ => return None,
        })
    }
}

impl Cluster {
    /// One store.
    pub fn look(&self, id: StoreId, now: Moment) -> Result<StoreLook> {
        let (record, picture) = (self.store(id)?, self.picture(now));
        Ok(StoreLook {
            record: record.clone(),
            liveness: picture.liveness(id),
            leader_score: picture.leader_score(id, 0),
            region_score: picture.region_score(id, 0),
            add_limit: picture.rate(id, Way::Add),
            remove_limit: picture.rate(id, Way::Remove),
            leaving: self.leaving(id, now)?,
        })
    }

    /// All stores, by id.
    pub fn looks(&self, now: Moment) -> Result<Vec<StoreLook>> {
        self.stores()?.map(|record| self.look(record.id(), now)).collect()
    }

    /// The regions that have a replica on a store, by id.
    pub fn regions_on(&self, id: StoreId) -> Result<Vec<Arc<RegionRecord>>> {
        self.store(id)?;
        let regions: BTreeSet<RegionId> = self.regions.on(id).replicas.iter().collect();
        Ok(regions.into_iter().filter_map(|id| self.regions.get(id)).cloned().collect())
    }

    /// The regions that are not as they should be, by id.
    pub fn regions_with(&self, fault: Fault, now: Moment) -> Result<Vec<Arc<RegionRecord>>> {
        self.settings()?;
        let picture = self.picture(now);
        let has_fault = |record: &&Arc<RegionRecord>| {
            let peers = &record.region.peers;
            match fault {
                Fault::MissPeer => peers.len() < picture.replicas_max,
                Fault::ExtraPeer => peers.len() > picture.replicas_max,
                Fault::DownPeer => !record.down_peers.is_empty(),
                Fault::PendingPeer => !record.pending_peers.is_empty(),
                Fault::LearnerPeer => peers.iter().any(|peer| peer.is_learner()),
                Fault::OfflinePeer => {
                    peers.iter().any(|peer| picture.liveness(peer.store()) == Liveness::Offline)
                }
                Fault::EmptyRegion => record.is_next_to_empty(),
                Fault::OversizedRegion => record.size_mib >= OVERSIZED_MIB,
                Fault::UndersizedRegion => {
                    record.leader.is_some() && record.size_mib <= UNDERSIZED_MIB
                }
            }
        };
        Ok(self.regions.iter().filter(has_fault).cloned().collect())
    }
}
