//! The end of a run: everything heals, clients must get on, and all replicas must come to agree.

use std::collections::BTreeMap;

use skerry_proto::metapb::{PeerRole, Region};
use skerry_proto::types::PeerId;
use skerry_raftstore::engine::{ColumnFamily, KeyRange};
use skerry_raftstore::keys::{data_key, region_key};

use super::clients::{KEYS, key};
use super::invariants::{Broken, regions_of};
use super::trace::{MILLISECOND, Moment, SECOND};
use super::world::World;
use crate::checker::{Action, Ending};

/// How long a healed cluster may take until every client has got on.
const GET_ON_MAX: Moment = 30 * SECOND;

/// Operations that a client has to finish in that time.
const GET_ON_OPERATIONS: u64 = 5;

/// How long silent replicas may take to agree.
const AGREE_MAX: Moment = 60 * SECOND;

/// How long more where the scheduler governs: an operator that has no effect times out after a minute.
const GOVERNED_AGREE_MORE: Moment = 90 * SECOND;

/// How often it is looked at.
const LOOK: Moment = 500 * MILLISECOND;

impl World {
    /// Everything that goes wrong is over.
    pub(super) fn heal(&mut self) -> Result<(), Broken> {
        self.trace.tell(self.now, "!", || "everything heals".to_string());
        self.is_dangerous = false;
        self.network.heal();
        self.network.mend();
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            node.set_right(self.now);
            node.paused_until = node.paused_until.min(self.now);
            node.disk().pull_plug_after(u64::MAX);
            node.disk().set_full(false);
            self.start(number)?;
        }
        Ok(())
    }

    /// Every client finishes a few operations soon.
    pub(super) fn must_get_on(&mut self) -> Result<(), Broken> {
        let goals: Vec<u64> =
            self.clients.iter().map(|client| client.acknowledged + GET_ON_OPERATIONS).collect();
        let end = self.now + GET_ON_MAX;
        while self.now < end {
            self.run_until(self.now + LOOK)?;
            let done =
                self.clients.iter().zip(&goals).all(|(client, goal)| client.acknowledged >= *goal);
            if done {
                return Ok(());
            }
        }
        let what = format!("clients do not get on after everything healed\n{}", self.picture());
        Err(Broken { invariant: "liveness", what })
    }

    /// Clients fall silent, and all replicas come to agree.
    pub(super) fn must_agree(&mut self) -> Result<(), Broken> {
        self.is_busy = false;
        let more = if self.settings.governed { GOVERNED_AGREE_MORE } else { 0 };
        let end = self.now + AGREE_MAX + more;
        let mut quarrel = String::new();
        while self.now < end {
            self.run_until(self.now + LOOK)?;
            match self.agreement() {
                Ok(()) => return self.invariants.sweep(&self.nodes),
                Err(why) => quarrel = why,
            }
        }
        let what = format!("replicas do not agree: {quarrel}\n{}", self.picture());
        Err(Broken { invariant: "liveness", what })
    }

    /// Reads every key once more, where its leader has it, into the history.
    pub(super) fn read_everything(&mut self) {
        for number in 0..KEYS {
            let key = key(number);
            self.steps += 1;
            let id = self.history.begin(usize::MAX, key.clone(), Action::Get, self.steps);
            let leader = (0..self.nodes.len()).find(|number| {
                let mut shown = self.invariants.shown(*number);
                shown.any(|status| status.is_leader && status.region.contains_key(&key))
            });
            let leader = leader.expect("replicas have agreed, so every key is led");
            let engine = self.nodes[leader].disk().engine();
            let found = engine.get(ColumnFamily::Raw, &data_key(&key)).expect("memory is read");
            self.history.end(id, Ending::Found(found), self.steps);
        }
    }

    /// Whether every key has one leader, whose followers are where they should be and equal to it, and nothing
    /// else is anywhere.
    fn agreement(&self) -> Result<(), String> {
        if self.settings.governed && self.scheduler.running() > 0 {
            return Err(format!("{} operators have not ended", self.scheduler.running()));
        }
        if let Some(leaving) = self.scheduler.still_leaves(self.now) {
            return Err(leaving);
        }
        let led = self.led_regions();
        tile(led.iter().map(|region| &**region))?;
        let mut expected: BTreeMap<usize, usize> = BTreeMap::new();
        for region in &led {
            let is_enough = self.voters_wanted.is_none_or(|voters| region.peers.len() == voters);
            if !is_enough || region.peers.iter().any(|peer| peer.role() != PeerRole::Voter) {
                return Err(format!("{region} has other voters than it should"));
            }
            for peer in &region.peers {
                let number = self.node_of(peer.store_id).expect("all stores are known");
                *expected.entry(number).or_default() += 1;
                self.is_equal(region, number, peer.peer_id())?;
            }
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let shown = self.invariants.shown(number).count();
            if shown != expected.get(&number).copied().unwrap_or(0) {
                return Err(format!("{} has replicas that belong nowhere", node.id));
            }
            self.has_no_stray_data(number)?;
            self.has_no_stray_files(number)?;
        }
        Ok(())
    }

    fn is_equal(&self, region: &Region, number: usize, peer: PeerId) -> Result<(), String> {
        let find = |number: usize, leads: bool| {
            self.invariants
                .shown(number)
                .find(|status| status.region.id == region.id && (!leads || status.is_leader))
        };
        let leader = (0..self.nodes.len()).find_map(|number| find(number, true));
        let leader = leader.expect("the region came from its leader");
        let Some(own) = find(number, false).filter(|own| own.peer.peer_id() == peer) else {
            return Err(format!("{region} has no replica on {}", self.nodes[number].id));
        };
        let is_done = own.applied == leader.last && *own.region == *leader.region;
        if !is_done || own.is_installing {
            return Err(format!("{region} on {} has not caught up", self.nodes[number].id));
        }
        let digest = |number: usize| {
            let view = self.nodes[number].disk().engine().view();
            regions_of(&*view).into_iter().find(|(found, ..)| found.id == region.id)
        };
        let of_leader = self.node_of(leader.peer.store_id).expect("all stores are known");
        match digest(number) == digest(of_leader) {
            true => Ok(()),
            false => Err(format!("{region} has other data on {}", self.nodes[number].id)),
        }
    }

    fn has_no_stray_data(&self, number: usize) -> Result<(), String> {
        let view = self.nodes[number].disk().engine().view();
        for family in ColumnFamily::DATA {
            let mut cursor = view.cursor(family, &KeyRange::default()).expect("memory is read");
            let mut stands = cursor.seek_to_first().expect("memory is read");
            while stands {
                let key = region_key(cursor.key()).expect("these families hold data");
                if !self.invariants.shown(number).any(|status| status.region.contains_key(key)) {
                    let id = self.nodes[number].id;
                    return Err(format!("{id} has data of no region: {}", key.escape_ascii()));
                }
                stands = cursor.next().expect("memory is read");
            }
        }
        Ok(())
    }

    /// Nobody needs a snapshot any more, so no file of one may be left.
    fn has_no_stray_files(&self, number: usize) -> Result<(), String> {
        let node = &self.nodes[number];
        let files = std::fs::read_dir(node.disk().snapshots()).expect("the directory is there");
        let name = |file: std::io::Result<std::fs::DirEntry>| file.expect("an entry").file_name();
        let mut names: Vec<_> = files.map(name).collect();
        names.sort();
        match names.first() {
            None => Ok(()),
            Some(first) => Err(format!("{} has files that nobody needs: {first:?}", node.id)),
        }
    }

    /// Every replica on a line, for a failure.
    pub fn picture(&self) -> String {
        let mut lines = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            if node.store.is_none() {
                lines.push(format!("  {} is down", node.id));
            }
            let shown = self.invariants.shown(number);
            lines.extend(
                shown.map(|status| format!("  {}", super::invariants::describe(node, status))),
            );
        }
        lines.join("\n")
    }
}

/// Whether regions, in the order of their keys, cover all keys once.
fn tile<'a>(regions: impl Iterator<Item = &'a Region>) -> Result<(), String> {
    let mut reached: Option<&[u8]> = Some(b"");
    for region in regions {
        if reached != Some(&region.start_key[..]) {
            return Err(format!("{region} {} has a gap or an overlap before it", region.bounds()));
        }
        reached = (!region.end_key.is_empty()).then_some(&region.end_key[..]);
    }
    match reached {
        None => Ok(()),
        Some(key) => Err(format!("nobody leads the keys from {} on", key.escape_ascii())),
    }
}
