//! What must be true of a replica, compared with what it was, with the other replicas of its region and
//! with the other regions of its store.

use std::collections::btree_map::Entry;

use skerry_proto::metapb::{Peer, PeerRole, Region};
use skerry_proto::raft_serverpb::{PeerState, RegionLocalState};
use skerry_raftstore::engine::ColumnFamily;
use skerry_raftstore::keys;
use skerry_raftstore::peer::PeerStatus;

use super::super::node::Node;
use super::super::trace::{Digest, Moment, Trace};
use super::*;

impl Invariants {
    pub(super) fn replica_changed(
        &mut self,
        nodes: &[Node],
        number: usize,
        now: Moment,
        before: Option<&PeerStatus>,
        status: &PeerStatus,
    ) -> Result<(), Broken> {
        let node = &nodes[number];
        let same_peer = before.filter(|before| before.peer.id == status.peer.id);
        if let Some(before) = same_peer {
            never_back(node, before, status)?;
        }
        self.is_where_it_belongs(node, status)?;
        if status.is_ending {
            // It acts for its region no more, and what it shows of it may be half old and half new.
            return Ok(());
        }
        // While a snapshot is installed its index is in front, and what follows it waits in raft.
        let ascend = status.is_installing
            || status.truncated <= status.applied
                && status.applied <= status.commit
                && status.commit <= status.last;
        hold(ascend, INDEXES_ASCEND, || describe(node, status))?;
        let is_initialised = !status.region.peers.is_empty();
        if is_initialised && before.is_none_or(|before| before.region != status.region) {
            self.region_changed(node, status)?;
        }
        let was_whole = before.is_some_and(is_whole);
        if is_whole(status) && !was_whole {
            is_born_durably(node, status)?;
        }
        let applied_before = same_peer.map_or(0, |before| before.applied);
        if status.applied > applied_before {
            self.applied_more(node, applied_before, status)?;
        }
        if status.is_leader {
            self.leads(nodes, number, now, same_peer, status)?;
        }
        if status.is_leader && status.is_asleep {
            self.leader_sleeps(nodes, number, status)?;
        }
        self.leases_exclude(nodes, number, now, before, status)
    }

    /// A replica that was shown is shown no more, though its store runs.
    pub(super) fn replica_is_gone(
        &mut self,
        node: &Node,
        before: &PeerStatus,
    ) -> Result<(), Broken> {
        self.destroyed.insert((node.number, before.peer.id));
        let state = surely(node, before.region.id);
        let is_tombstone = state.is_some_and(|state| state.state() == PeerState::Tombstone);
        hold(is_tombstone, TOMBSTONE_DURABLE, || describe(node, before))
    }

    fn is_where_it_belongs(&mut self, node: &Node, status: &PeerStatus) -> Result<(), Broken> {
        let has_risen = self.destroyed.contains(&(node.number, status.peer.id));
        hold(!has_risen, TOMBSTONE_STAYS, || describe(node, status))?;
        let place = (status.region.id, node.number);
        let known = *self.places.entry(status.peer.id).or_insert(place);
        hold(known == place, PEER_HAS_ONE_PLACE, || {
            format!(
                "{}; known in region {} on store number {}",
                describe(node, status),
                known.0,
                known.1
            )
        })
    }

    fn region_changed(&mut self, node: &Node, status: &PeerStatus) -> Result<(), Broken> {
        let region = &status.region;
        let epoch = region.epoch();
        let shape = (region.id, epoch.version, epoch.conf_ver);
        let known = self.shapes.entry(shape).or_insert_with(|| region.clone());
        hold(**known == **region, ONE_SHAPE, || {
            format!(
                "{}: {} {} and elsewhere {} {}",
                node.id,
                region,
                region.bounds(),
                known,
                known.bounds()
            )
        })?;
        let mut stores: Vec<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
        stores.sort_unstable();
        let is_once = stores.windows(2).all(|pair| pair[0] != pair[1]);
        hold(is_once, STORE_ONCE, || describe(node, status))
    }

    /// Compares what was applied with what others have applied there.
    fn applied_more(
        &mut self,
        node: &Node,
        applied_before: u64,
        status: &PeerStatus,
    ) -> Result<(), Broken> {
        let region_id = status.region.id;
        let known = self.applied.entry(region_id).or_default();
        let log = node.disk().log();
        let first = applied_before.max(status.truncated) + 1;
        for index in first..=status.applied {
            let entry = log.entry(region_id, index).expect("memory is read");
            // It may have been compacted since.
            let Some(entry) = entry else { continue };
            let mut digest = Digest::default();
            digest.bytes(&entry.data);
            let (term, digest) = (entry.term, digest.value());
            let mark = EntryMark { term, digest, applied_in: status.term };
            match known.entry(index) {
                Entry::Vacant(vacant) => drop(vacant.insert(mark)),
                Entry::Occupied(first) => hold(first.get().is_same(&mark), SAME_ENTRIES, || {
                    format!(
                        "{}: index {index} has {mark:?}, elsewhere {:?}",
                        describe(node, status),
                        first.get()
                    )
                })?,
            }
        }
        Ok(())
    }

    fn leads(
        &mut self,
        nodes: &[Node],
        number: usize,
        now: Moment,
        before: Option<&PeerStatus>,
        status: &PeerStatus,
    ) -> Result<(), Broken> {
        let node = &nodes[number];
        let leader = *self.leaders.entry((status.region.id, status.term)).or_insert(status.peer.id);
        hold(leader == status.peer.id, ONE_LEADER, || {
            format!("{}, but peer {leader} led in this term", describe(node, status))
        })?;
        let votes = !status.peer.is_learner();
        hold(votes, LEADER_VOTES, || describe(node, status))?;
        let led = before.filter(|before| before.is_leader && before.term == status.term);
        match led {
            Some(before) => {
                hold(before.last <= status.last, LEADER_APPENDS, || describe(node, status))?;
            }
            None => {
                self.begins_to_lead(nodes, number, now, status)?;
            }
        }
        let committed_more = led.is_some_and(|before| before.commit < status.commit);
        match led {
            Some(before) if committed_more => is_on_majority(nodes, node, before, status),
            _ => Ok(()),
        }
    }

    fn begins_to_lead(
        &self,
        nodes: &[Node],
        number: usize,
        now: Moment,
        status: &PeerStatus,
    ) -> Result<(), Broken> {
        let node = &nodes[number];
        let known = self.applied.get(&status.region.id);
        let newest = known
            .and_then(|known| known.iter().rev().find(|(_, mark)| mark.applied_in < status.term));
        if let Some((index, mark)) = newest.filter(|(index, _)| **index > status.truncated) {
            let entry = node.disk().log().entry(status.region.id, *index).expect("memory is read");
            let has = entry.as_ref().is_some_and(|entry| entry.term == mark.term);
            hold(has, LEADER_COMPLETE, || {
                let found = entry.map(|entry| entry.term);
                format!(
                    "{}: index {index} has term {found:?}, applied elsewhere: {}",
                    describe(node, status),
                    mark.term
                )
            })?;
        }
        for other in nodes.iter().filter(|other| other.number != number) {
            let Some(held) = self.shown[other.number].get(&status.region.id) else { continue };
            // Who was elected in an earlier term and learns it late cannot serve anybody.
            let shuts_out = held.term < status.term && holds_lease(other, held, now);
            hold(!shuts_out, LEASE_SHUTS_OUT, || {
                format!("{} while {}", describe(node, status), describe(other, held))
            })?;
        }
        Ok(())
    }

    fn leases_exclude(
        &self,
        nodes: &[Node],
        number: usize,
        now: Moment,
        before: Option<&PeerStatus>,
        status: &PeerStatus,
    ) -> Result<(), Broken> {
        let node = &nodes[number];
        let is_same = before.is_some_and(|before| {
            before.lease == status.lease && before.region.bounds() == status.region.bounds()
        });
        if is_same || !holds_lease(node, status, now) {
            return Ok(());
        }
        for other in nodes {
            for held in self.shown[other.number].values() {
                let is_other = (other.number, held.region.id) != (number, status.region.id);
                let overlaps = held.region.bounds().overlaps(&status.region.bounds());
                // Of the same store what was shown before this turn says nothing.
                let is_both = is_other && other.number != number && overlaps;
                hold(!is_both || !holds_lease(other, held, now), ONE_LEASE, || {
                    format!("{} and {}", describe(node, status), describe(other, held))
                })?;
            }
        }
        Ok(())
    }
}

/// Whether a replica has its region's data and may act for it.
pub(super) fn is_whole(status: &PeerStatus) -> bool {
    !status.region.peers.is_empty() && !status.is_installing
}

fn is_born_durably(node: &Node, status: &PeerStatus) -> Result<(), Broken> {
    let state = surely(node, status.region.id);
    let is_born = state.is_some_and(|state| state.state() == PeerState::Normal);
    hold(is_born, BIRTH_DURABLE, || describe(node, status))
}

/// Numbers that only grow, of one replica in one life of its store.
fn never_back(node: &Node, before: &PeerStatus, status: &PeerStatus) -> Result<(), Broken> {
    let told = |name: &str, from: u64, to: u64| {
        format!("{name} from {from} to {to}: {}", describe(node, status))
    };
    let numbers = [
        (TERM_GROWS, "term", before.term, status.term),
        (COMMIT_GROWS, "commit", before.commit, status.commit),
        (APPLIED_GROWS, "applied", before.applied, status.applied),
        (TRUNCATED_GROWS, "truncated", before.truncated, status.truncated),
    ];
    for (invariant, name, from, to) in numbers {
        hold(from <= to, invariant, || told(name, from, to))?;
    }
    let (from, to) = (before.region.epoch(), status.region.epoch());
    hold(!to.is_stale(&from), EPOCH_GROWS, || {
        format!("{from} to {to}: {}", describe(node, status))
    })?;
    let stays = before.term != status.term || before.vote == 0 || before.vote == status.vote;
    hold(stays, VOTE_STAYS, || told("vote", before.vote, status.vote))
}

/// Whether a majority of the voters has the entry at the leader's commit index on its disk, surely. The peers
/// may have changed in the same turn, after the commit.
fn is_on_majority(
    nodes: &[Node],
    node: &Node,
    before: &PeerStatus,
    status: &PeerStatus,
) -> Result<(), Broken> {
    // Who has applied its own removal has acknowledged what the leader commits by it, and forgets it then.
    let left = |holder: &Node| {
        let state = surely(holder, status.region.id);
        state.is_some_and(|state| state.state() == PeerState::Tombstone)
    };
    let has = |peer: &Peer| {
        let holder = nodes.iter().find(|node| node.id == peer.store());
        let has = |holder| has_durable(holder, status.region.id, status.commit) || left(holder);
        holder.is_some_and(has)
    };
    let is_enough = |region: &Region| {
        let old = [PeerRole::Voter, PeerRole::DemotingVoter];
        let new = [PeerRole::Voter, PeerRole::IncomingVoter];
        [old, new].iter().all(|roles| {
            let voters = region.peers.iter().filter(|peer| roles.contains(&peer.role()));
            let count = voters.clone().count();
            voters.filter(|peer| has(peer)).count() > count / 2
        })
    };
    let enough = is_enough(&status.region) || is_enough(&before.region);
    hold(enough, COMMIT_QUORUM, || describe(node, status))
}

/// Whether the log of a region reaches `index` after a power loss. What was installed by a snapshot counts.
fn has_durable(node: &Node, region_id: u64, index: u64) -> bool {
    let kept = node.disk().kept(region_id);
    let state = kept.state.map_or(0, |state| state.last_index);
    kept.last.unwrap_or(0).max(state) >= index
}

/// What a power loss at this moment would leave of a region's state.
fn surely(node: &Node, region_id: u64) -> Option<RegionLocalState> {
    use prost::Message as _;
    let bytes = node.disk().surely(ColumnFamily::Raft, &keys::region_state(region_id))?;
    Some(RegionLocalState::decode(bytes).expect("a store wrote it"))
}

fn holds_lease(node: &Node, status: &PeerStatus, now: Moment) -> bool {
    // A store that sleeps with a valid lease may wake and serve: it counts.
    let is_running = node.store.is_some();
    is_running && status.is_leader && status.lease.is_some_and(|until| node.shows_at(now) < until)
}

/// Counts what a change of a replica shows, and tells it.
pub(super) fn count_events(
    trace: &mut Trace,
    now: Moment,
    node: &Node,
    before: Option<&PeerStatus>,
    status: &PeerStatus,
) {
    let Some(before) = before else {
        trace.tell(now, node.id, || format!("begins {}", describe(node, status)));
        return;
    };
    let (from, to) = (before.region.epoch(), status.region.epoch());
    let is_known = !before.region.peers.is_empty();
    let events = [
        ("split", is_known && from.version < to.version && !before.is_installing),
        ("conf change", is_known && from.conf_ver < to.conf_ver && !before.is_installing),
        ("snapshot install", before.is_installing && !status.is_installing),
        ("truncation", before.truncated < status.truncated && !before.is_installing),
        ("election", status.is_leader && !before.is_leader),
        ("sleep", status.is_leader && status.is_asleep && !before.is_asleep),
        ("waking", status.is_leader && !status.is_asleep && before.is_asleep),
    ];
    for (name, _) in events.iter().filter(|(_, happened)| *happened) {
        trace.count(name);
    }
    let is_news = status.is_leader != before.is_leader
        || from != to
        || status.is_installing != before.is_installing
        || before.truncated != status.truncated
        || before.is_asleep != status.is_asleep;
    if is_news {
        trace.tell(now, node.id, || describe(node, status));
    }
}

/// A replica on one line.
pub(in crate::sim) fn describe(node: &Node, status: &PeerStatus) -> String {
    let role = if status.is_leader { "leads" } else { "follows" };
    let lease = status.lease.map_or(String::new(), |lease| format!(" lease {}", lease.as_micros()));
    let installing = if status.is_installing { " installing" } else { "" };
    let asleep = if status.is_asleep { " asleep" } else { "" };
    let ending = if status.is_ending { " ending" } else { "" };
    format!(
        "{} {} {} t{} vote {} {role} truncated {} applied {} commit {} last {}{lease}{asleep}{installing}{ending}",
        node.id,
        status.region,
        status.region.bounds(),
        status.term,
        status.vote,
        status.truncated,
        status.applied,
        status.commit,
        status.last,
    )
}
