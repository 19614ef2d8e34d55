//! What must be true of disks: that each could lose its power now, and that equal replicas hold equal data.

use prost::Message as _;
use skerry_proto::raft_serverpb::{PeerState, RaftApplyState, RegionLocalState};
use skerry_raftstore::engine::{ColumnFamily, KeyRange, View};
use skerry_raftstore::keys::{self, DataSpace};

use super::super::node::Node;
use super::super::trace::Digest;
use super::replicas::{describe, is_whole};
use super::*;

impl Invariants {
    /// Looks at all disks of stores that run.
    pub fn sweep(&mut self, nodes: &[Node]) -> Result<(), Broken> {
        for node in nodes.iter().filter(|node| node.store.is_some()) {
            let view = node.disk().engine().view();
            for status in self.shown[node.number].values() {
                if is_whole(status) && !status.is_ending {
                    log_is_whole(node, status)?;
                }
            }
            for (region, digest, applied) in regions_of(&*view) {
                let known = *self.data.entry((region.id, applied)).or_insert(digest);
                hold(known == digest, SAME_DATA, || {
                    format!("{}: {region} {} at applied index {applied}", node.id, region.bounds())
                })?;
            }
        }
        Ok(())
    }
}

fn log_is_whole(node: &Node, status: &PeerStatus) -> Result<(), Broken> {
    let region_id = status.region.id;
    let bounds = node.disk().log().bounds(region_id).expect("memory is read");
    let told = || format!("{}; its log has {bounds:?}", describe(node, status));
    let applied = apply_state(node.disk().engine().view().as_ref(), region_id);
    let is_whole = match bounds {
        Some(bounds) => {
            bounds.first <= status.truncated + 1
                && status.applied <= bounds.last.max(status.truncated)
        }
        None => status.applied <= status.truncated,
    };
    hold(is_whole, LOG_HAS_NO_GAP, told)?;
    let last = bounds.map_or(0, |bounds| bounds.last);
    let reach = applied.truncated_state.unwrap_or_default().index.max(last);
    hold(applied.applied_index <= reach, APPLIED_IS_LOGGED, told)?;
    let cut = bounds.map_or(0, |bounds| bounds.first - 1);
    let key = keys::apply_state(region_id);
    let durable = node
        .disk()
        .surely(ColumnFamily::Raft, &key)
        .map_or(0, |bytes| RaftApplyState::decode(bytes).expect("a store wrote it").applied_index);
    hold(cut <= durable, CUT_IS_DURABLE, || format!("{}, durably applied is {durable}", told()))
}

fn apply_state(view: &dyn View, region_id: u64) -> RaftApplyState {
    let bytes =
        view.get(ColumnFamily::Raft, &keys::apply_state(region_id)).expect("memory is read");
    bytes.map_or_else(RaftApplyState::default, |bytes| {
        RaftApplyState::decode(bytes).expect("a store wrote it")
    })
}

/// Every region that lies in an engine whole, with a digest of its data and what it has applied.
pub(in crate::sim) fn regions_of(view: &dyn View) -> Vec<(Region, u64, u64)> {
    let (start, end) = keys::region_states();
    let range = KeyRange::new(start, end);
    let mut cursor = view.cursor(ColumnFamily::Raft, &range).expect("memory is read");
    let mut stands = cursor.seek_to_first().expect("memory is read");
    let mut found = Vec::new();
    while stands {
        let state = RegionLocalState::decode(cursor.value()).expect("a store wrote it");
        let region = state.region.clone().unwrap_or_default();
        if state.state() == PeerState::Normal && !region.peers.is_empty() {
            let applied = apply_state(view, region.id).applied_index;
            let digest = digest_of(view, &region);
            found.push((region, digest, applied));
        }
        stands = cursor.next().expect("memory is read");
    }
    found
}

/// A number of a region's shape and of all pairs in its range.
fn digest_of(view: &dyn View, region: &Region) -> u64 {
    let mut digest = Digest::default();
    digest.bytes(&region.encode_to_vec());
    for family in ColumnFamily::DATA {
        for space in DataSpace::ALL {
            let (start, end) = space.range(&region.start_key, &region.end_key);
            let range = KeyRange::new(start, end);
            let mut cursor = view.cursor(family, &range).expect("memory is read");
            let mut stands = cursor.seek_to_first().expect("memory is read");
            while stands {
                digest.bytes(cursor.key());
                digest.bytes(cursor.value());
                stands = cursor.next().expect("memory is read");
            }
        }
    }
    digest.value()
}
