//! Entries that change the region itself. Region states are written in the batch of the entry.
//!
//! **Invariants.** A split writes all parts or none. A child that was here before and is gone is not born again
//! and its state is not touched; a child is promised in the store's meta before anybody can see that it is
//! born, so that no message creates another replica of it.

use std::sync::Arc;

use prost::Message as _;
use raft::eraftpb::ConfChangeV2;
use skerry_proto::metapb;
use skerry_proto::raft_cmdpb::{
    BatchSplitRequest, ChangePeerV2Request, CompactLogRequest, RaftCmdRequest, RaftRequestHeader,
    admin_request,
};
use skerry_proto::raft_serverpb::{PeerState, RaftTruncatedState, RegionLocalState};

use super::Region;
use super::applier::{Applier, Done};
use crate::engine::{ColumnFamily, WriteBatch};
use crate::environment::Environment;
use crate::keys;
use crate::message::Change;
use crate::planted::Planted;
use crate::region;
use crate::reply::Refusal;
use crate::state::initial_apply_state;

/// Changes the peers of the region.
pub(super) fn change_peers(
    applier: &mut Applier,
    command: &RaftCmdRequest,
    change: ConfChangeV2,
    environment: &Environment,
    batch: &mut WriteBatch,
) -> Done {
    let header = command.header.as_ref().expect("every command has a header");
    let request = command.admin_request.as_ref().and_then(|admin| admin.command.as_ref());
    let Some(admin_request::Command::ChangePeerV2(request)) = request else {
        panic!("{} has a change of peers without a request", applier.region);
    };
    let epoch = header.region_epoch.unwrap_or_default();
    if epoch.conf_ver != applier.region.epoch().conf_ver {
        return Done::refused(Refusal::EpochNotMatch(vec![applier.region.clone()]));
    }
    match region::change_peers(&applier.region, request) {
        Err(reason) => Done::refused(Refusal::Admin(reason)),
        Ok(mut region) => {
            if environment.has(Planted::ConfChangeTwice) && !batch.is_empty() {
                let mut epoch = region.epoch();
                epoch.conf_ver += 1;
                region.region_epoch = Some(epoch);
            }
            if environment.has(Planted::JointLeftEarly) && region::is_joint(&region) {
                let leave = ChangePeerV2Request::default();
                region = region::change_peers(&region, &leave).expect("it is joint");
            }
            let region = applier.set_region(region);
            match region.peer_by_id(applier.peer.peer_id()) {
                Some(_) => write_state(batch, &region),
                None => write_tombstone(batch, &region, applier.peer),
            }
            Done::changed(vec![region.clone()], Change::Peers { region, change }, true)
        }
    }
}

/// Cuts the region.
pub(super) fn split(
    applier: &mut Applier,
    header: &RaftRequestHeader,
    request: &BatchSplitRequest,
    environment: &Environment,
    batch: &mut WriteBatch,
) -> Done {
    if header.region_epoch.unwrap_or_default() != applier.region.epoch() {
        return Done::refused(Refusal::EpochNotMatch(vec![applier.region.clone()]));
    }
    if let Err(reason) = region::check_split(&applier.region, request) {
        return Done::refused(Refusal::Admin(reason));
    }
    // Whoever reads by the old range must have seen all of it; whoever comes later must not.
    environment.registry.invalidate(applier.region.region_id());
    let parent = applier.region.region_id();
    let mut parts: Vec<Region> = Vec::new();
    let (mut children, mut gone) = (Vec::new(), Vec::new());
    for part in region::split(&applier.region, request) {
        let part: Region = Arc::new(part);
        parts.push(part.clone());
        if part.region_id() == parent {
            continue;
        }
        children.push(part.clone());
        match may_be_born(&part, environment) {
            true => {
                write_state(batch, &part);
                let state = initial_apply_state().encode_to_vec();
                batch.put(ColumnFamily::Raft, keys::apply_state(part.id), state);
            }
            false => gone.push(part.region_id()),
        }
    }
    let derived = parts.iter().find(|part| part.region_id() == parent).expect("one keeps the id");
    let region = applier.set_region(metapb::Region::clone(derived));
    write_state(batch, &region);
    Done::changed(parts, Change::Split { region, children, gone }, true)
}

/// Whether a child was never here; if so it is promised.
fn may_be_born(child: &Region, environment: &Environment) -> bool {
    let own = child.peer_on_store(environment.store_id).map(metapb::Peer::peer_id);
    let own = own.expect("children have the parent's stores");
    let mut meta = environment.meta.lock().expect("no holder panics");
    let region_id = child.region_id();
    if meta.region(region_id).is_some() || meta.peer(region_id).is_some_and(|peer| peer > own) {
        return false;
    }
    meta.promise(region_id, own);
    drop(meta);
    let key = keys::region_state(child.id);
    let stored = environment.engine.get(ColumnFamily::Raft, &key);
    let stored = stored.unwrap_or_else(|error| crate::time::fatal(&error.to_string()));
    // The tombstone of a replica with a smaller id is of one that a message had brought too early.
    let is_gone = stored.is_some_and(|bytes| {
        let state = RegionLocalState::decode(bytes).expect("the store has written it");
        let region = state.region.unwrap_or_default();
        let former = region.peer_on_store(environment.store_id).map(metapb::Peer::peer_id);
        former.is_none_or(|former| former >= own)
    });
    if is_gone {
        let mut meta = environment.meta.lock().expect("no holder panics");
        meta.break_promise(region_id);
    }
    !is_gone
}

/// Moves the beginning of the log.
pub(super) fn compact_log(applier: &mut Applier, request: &CompactLogRequest) -> Done {
    let truncated = applier.state.truncated_state.unwrap_or_default();
    if request.compact_index <= truncated.index {
        return Done::refused(Refusal::Admin("these entries are gone already".to_string()));
    }
    let (index, term) = (request.compact_index, request.compact_term);
    assert!(index < applier.state.applied_index, "{} cuts what is not applied", applier.region);
    applier.state.truncated_state = Some(RaftTruncatedState { index, term });
    let region = applier.region.clone();
    Done::changed(vec![region], Change::Compacted { first: index + 1 }, false)
}

/// The state of a region that this replica has just left: a start before its burial must find that it is no
/// member, and who it was.
fn write_tombstone(batch: &mut WriteBatch, region: &Region, own: metapb::Peer) {
    let mut region = metapb::Region::clone(region);
    region.peers.push(own);
    let key = keys::region_state(region.id);
    let state = RegionLocalState { state: PeerState::Tombstone.into(), region: Some(region) };
    batch.put(ColumnFamily::Raft, key, state.encode_to_vec());
}

fn write_state(batch: &mut WriteBatch, region: &Region) {
    let state = RegionLocalState {
        state: PeerState::Normal.into(),
        region: Some(metapb::Region::clone(region)),
    };
    batch.put(ColumnFamily::Raft, keys::region_state(region.id), state.encode_to_vec());
}
