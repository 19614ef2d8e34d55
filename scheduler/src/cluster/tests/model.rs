//! A region that does what its leader is told, for the scripts of placement.

use std::collections::BTreeSet;

use skerry_proto::pdpb::RegionHeartbeatRequest;

use crate::operator::{Order, Step, ordered};

/// A region as its leader has it.
#[derive(Clone)]
pub(super) struct Truth {
    /// What its leader says.
    pub(super) report: RegionHeartbeatRequest,
    /// Learners that have no data yet.
    pub(super) empty: BTreeSet<u64>,
}

/// Changes a region as its leader is told; false if it could not.
pub(super) fn apply(truth: &mut Truth, order: &Order) -> bool {
    let region = truth.report.region.as_mut().expect("it has one");
    let (kind, changes) = match order {
        Order::Change(change) => (false, std::slice::from_ref(change)),
        Order::ChangeJointly(changes) => (true, &changes[..]),
        Order::Transfer(heir) => {
            truth.report.leader = region.peers.iter().find(|peer| peer.id == heir.id).copied();
            truth.report.term += 1;
            return true;
        }
        Order::Split { .. } => {
            region.region_epoch.as_mut().expect("it has one").version += 1;
            return true;
        }
    };
    let step = match (kind, changes) {
        (true, []) => Step::LeaveJoint,
        (true, [promoted, demoted]) => Step::EnterJoint {
            promote: promoted.peer.expect("named"),
            demote: demoted.peer.expect("named"),
        },
        (_, [change]) => {
            let peer = change.peer.expect("named");
            match change.change_type().as_str_name() {
                "AddLearnerNode" => {
                    truth.empty.insert(peer.id);
                    Step::AddLearner(peer)
                }
                "AddNode" => Step::Promote(peer),
                _ => Step::Remove(peer),
            }
        }
        _ => unreachable!("no step is like that"),
    };
    region.peers = step.applied(&ordered(&region.peers));
    region.region_epoch.as_mut().expect("it has one").conf_ver += 1;
    note_pending(truth);
    true
}

/// Learners without data are reported as pending.
pub(super) fn note_pending(truth: &mut Truth) {
    let peers = truth.report.region.iter().flat_map(|region| &region.peers);
    truth.report.pending_peers =
        peers.filter(|peer| truth.empty.contains(&peer.id)).copied().collect();
}
