//! What goes wrong in runs with transactions beyond the faults of every run, and how such a run ends.
//!
//! * *Scheduler crash*: it loses power, and nobody gets timestamps or hears of regions until it is back.
//! * *Jump*: the clock by which it gives timestamps shows something else, so that locks outlive or do not reach their
//!   time.
//! * *Hang*: the executor of a leader stands still, with views in its hands; followers lead meanwhile, and hand back
//!   before it goes on. What was computed before must not be written then.
//! * *Ignorant heir*: while a prewrite is on its way, its region goes to the store that has heard of the fewest reads.
//!   What that one commits by a shortcut must lie above what the former leader has let others read.
//!
//! When everything has healed, clients must get on and end what they have begun; then the last client ends all locks.

use skerry_proto::metapb::{Peer, Region};
use skerry_proto::raft_cmdpb::TransferLeaderRequest;
use skerry_proto::raft_cmdpb::admin_request::Command;
use skerry_proto::types::Ts;

use super::{Happening, Transactions};
use crate::sim::invariants::Broken;
use crate::sim::scheduler::Step;
use crate::sim::trace::{MILLISECOND, Moment, SECOND};
use crate::sim::world::World;

/// How often something happens to the scheduler or to an executor, out of a thousand tenths of a second.
const CRASHES: u64 = 6;
const HANGS: u64 = 25;
const JUMPS: u64 = 4;
const INTERVAL: Moment = 100 * MILLISECOND;

/// How long an executor takes to hang: it still takes requests, and their views are the last that it gets.
const DROWSY: Moment = 400 * MILLISECOND;

/// How long before its end the leadership is handed back.
const BACK_BEFORE: Moment = 300 * MILLISECOND;

/// How long a healed cluster may take for each step of the end.
pub(super) const END_MAX: Moment = 40 * SECOND;

/// The voters of a region but its leader.
fn heirs(region: &Region, leader: Peer) -> Vec<Peer> {
    let others = region.peers.iter().filter(|peer| peer.id != leader.id && !peer.is_learner());
    others.copied().collect()
}

impl World {
    /// A tenth of a second has passed.
    pub(super) fn disturb_transactions(&mut self) -> Result<(), Broken> {
        if !self.is_dangerous {
            return Ok(());
        }
        self.plan_happening(self.now + INTERVAL, Happening::Disturb);
        if self.chance.below(1_000) < CRASHES && !self.scheduler.is_away(self.now) {
            let lasts = self.chance.between(50 * MILLISECOND, 2 * SECOND);
            self.scheduler.crash(self.now, lasts);
            self.trace.count("fault: scheduler crash");
            self.trace.tell(self.now, "scheduler", || "loses power".to_string());
        }
        if self.chance.below(1_000) < JUMPS {
            self.scheduler.jump();
        }
        if self.chance.below(1_000) < HANGS {
            self.hang();
        }
        Ok(())
    }

    /// The executor of a store that leads hangs; followers lead meanwhile what it led, and hand back before the
    /// executor goes on. What was computed before must not be written then.
    fn hang(&mut self) {
        let mut leaders = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let is_awake = node.is_awake(self.now) && node.server.is_some();
            let led = self.invariants.shown(number).filter(|status| status.is_leader && is_awake);
            let led: Vec<_> = led.map(|status| (status.region.clone(), status.peer)).collect();
            if !led.is_empty() {
                leaders.push((number, led));
            }
        }
        let Some((node, led)) = self.chance.pick(&leaders) else { return };
        // Clients that wait for it must have time to look elsewhere.
        let lasts = self.chance.between(2_000 * MILLISECOND, 3_000 * MILLISECOND);
        let server = self.nodes[node].server.as_mut().expect("looked at above");
        server.drowsy_until = self.now + DROWSY;
        server.hangs_until = self.now + lasts;
        self.trace.count("fault: executor hangs");
        for (region, leader) in led {
            let Some(heir) = self.chance.pick(&heirs(&region, leader)) else { continue };
            self.trace.tell(self.now, self.nodes[node].id, || {
                format!(
                    "its executor hangs for {} ms, {region} goes to {heir}",
                    lasts / MILLISECOND
                )
            });
            let (away, back) = (self.now + DROWSY, self.now + lasts - BACK_BEFORE);
            self.plan_happening(away, Happening::HandOver { region: region.id, heir });
            self.plan_happening(back, Happening::HandOver { region: region.id, heir: leader });
        }
    }

    /// A region goes to the replica whose store knows least of what was read.
    pub(super) fn hand_to_ignorant(&mut self, region: u64) {
        let regions = self.led_regions();
        let Some(region) = regions.into_iter().find(|led| led.id == region) else { return };
        let ignorance = |heir: &Peer| {
            let node = self.node_of(heir.store_id)?;
            let server = self.nodes[node].server.as_ref()?;
            self.nodes[node].is_awake(self.now).then(|| (server.max_ts(), heir.id))
        };
        let known = region.peers.iter().filter(|peer| !peer.is_learner());
        let known = known.filter_map(|peer| Some((ignorance(peer)?, *peer)));
        let Some((_, heir)) = known.min_by_key(|(ignorance, _)| *ignorance) else { return };
        self.trace.count("fault: ignorant heir");
        self.trace.tell(self.now, "!", || format!("{region} goes to {heir}, who has read nothing"));
        self.hand_over(region.id, heir);
    }

    /// Whoever leads a region is to hand over to one of its replicas.
    pub(super) fn hand_over(&mut self, region: u64, heir: Peer) {
        let leads = (0..self.nodes.len()).find_map(|node| {
            let mut shown = self.invariants.shown(node);
            let leader = shown.find(|status| status.region.id == region && status.is_leader)?;
            Some((leader.region.clone(), leader.peer))
        });
        let Some((region, leader)) = leads.filter(|(_, leader)| leader.id != heir.id) else {
            return;
        };
        let request = TransferLeaderRequest { peer: Some(heir), peers: Vec::new() };
        let (region, command) = ((*region).clone(), Command::TransferLeader(request));
        self.plan_step(Step { region, leader, command });
    }

    /// Every client ends a few transactions soon after everything has healed, and the last one closes.
    pub(in crate::sim) fn transactions_must_end(&mut self) -> Result<(), Broken> {
        let Some(dealings) = &self.transactions else { return Ok(()) };
        let goals: Vec<u64> = dealings.ended().iter().map(|ended| ended + 3).collect();
        let what = "clients of transactions get on";
        self.until(what, |dealings| {
            dealings.ended().iter().zip(&goals).all(|(ended, goal)| ended >= goal)
        })?;
        self.dealings().set_busy(false);
        let what = "transactions end, and nobody begins another";
        self.until(what, |dealings| {
            let clients = &dealings.lives[..dealings.lives.len() - 1];
            clients.iter().all(|life| life.current.get() == Ts::ZERO)
        })?;
        let last = self.dealings().lives.len() - 1;
        self.plan_happening(self.now, Happening::Begin { client: last });
        let what = "all locks end, and everything can be read";
        self.until(what, |dealings| dealings.lives[last].ended.get() > 0)?;
        self.must_collect()?;
        self.plan_happening(self.now, Happening::Begin { client: last });
        let what = "everything can be read when all garbage is gone";
        self.until(what, |dealings| dealings.lives[last].ended.get() > 1)
    }

    fn until(&mut self, what: &str, is_so: impl Fn(&Transactions) -> bool) -> Result<(), Broken> {
        let end = self.now + END_MAX;
        while self.now < end {
            self.run_until(self.now + SECOND / 10)?;
            if is_so(self.dealings()) {
                return Ok(());
            }
        }
        let what = format!("not in time: {what}\n{}", self.picture());
        Err(Broken { invariant: "liveness", what })
    }
}
