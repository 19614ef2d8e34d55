//! How faults of the plan come over the simulated world, and how they end.

use super::faults::Fault;
use super::handling::part_of;
use super::invariants::Broken;
use super::queue::Event;
use super::trace::{MILLISECOND, Moment};
use super::world::World;

/// How many times slower a slow disk is.
const SLOWNESS: u64 = 40;

/// Of a hundred starts, those that lose power before they are done.
const STARTS_CUT: u64 = 10;

impl World {
    /// Something goes wrong, and the next thing is planned.
    pub(super) fn fault(&mut self) -> Result<(), Broken> {
        if !self.is_dangerous {
            return Ok(());
        }
        let (fault, lasts) = self.plan.next_fault();
        let pause = self.plan.pause();
        self.queue.plan(self.now + pause, Event::Fault);
        if !self.comes_over(fault, lasts) {
            return Ok(());
        }
        self.trace.count(fault.name());
        self.trace.mix(self.now, 4, lasts);
        self.trace.tell(self.now, "!", || format!("{fault:?} for {} ms", lasts / MILLISECOND));
        Ok(())
    }

    /// Whether the fault found somebody to come over.
    fn comes_over(&mut self, fault: Fault, lasts: Moment) -> bool {
        let end = self.now + lasts;
        match fault {
            Fault::PowerLoss(node) | Fault::Kill(node) | Fault::PowerLossAtWrite(node, _)
                if !self.nodes[node].is_awake(self.now) =>
            {
                return false;
            }
            Fault::PowerLoss(node) => self.lose_power_until(node, end),
            Fault::PowerLossAtWrite(node, writes) => {
                self.nodes[node].disk().pull_plug_after(writes);
                return true;
            }
            Fault::Kill(node) => {
                self.nodes[node].kill();
                self.invariants.stopped(node);
                self.queue.plan(end, Event::Start { node });
            }
            Fault::Blackout => {
                for node in 0..self.nodes.len() {
                    let stagger = self.plan.stagger();
                    if self.nodes[node].store.is_some() {
                        self.lose_power_until(node, end + stagger);
                    }
                }
            }
            Fault::Pause(node) => {
                if !self.nodes[node].is_awake(self.now) {
                    return false;
                }
                self.nodes[node].paused_until = end;
            }
            Fault::Partition(shape) => {
                self.network.cut(shape);
                self.queue.plan(end, Event::Over(fault));
            }
            Fault::Spoil => {
                self.network.spoil();
                self.queue.plan(end, Event::Over(fault));
            }
            Fault::Drift => {
                for node in &mut self.nodes {
                    node.drift(self.now, &mut self.chance);
                }
            }
            Fault::Stall(node, part) => {
                if self.nodes[node].store.is_none() {
                    return false;
                }
                let stalled = self.nodes[node].stalled.iter_mut().enumerate();
                stalled
                    .filter(|(actor, _)| part_of(&self.config, *actor) == part)
                    .for_each(|(_, until)| *until = end);
            }
            Fault::SlowDisk(node) => {
                self.nodes[node].disk_slowness = SLOWNESS;
                self.queue.plan(end, Event::Over(fault));
            }
            Fault::FullDisk(node) => {
                self.nodes[node].disk().set_full(true);
                self.queue.plan(end, Event::Over(fault));
            }
            Fault::Doze => return self.doze(end),
            Fault::Rival => return self.raise_rival(end),
            Fault::DeafLeader => return self.deafen(end),
            Fault::Echo => return self.echo(end),
        }
        true
    }

    pub(super) fn fault_is_over(&mut self, fault: Fault) {
        self.trace.tell(self.now, "!", || format!("{fault:?} is over"));
        match fault {
            Fault::Partition(_) => self.network.heal(),
            Fault::Spoil => self.network.mend(),
            Fault::SlowDisk(node) => self.nodes[node].disk_slowness = 1,
            Fault::FullDisk(node) => self.nodes[node].disk().set_full(false),
            _ => {}
        }
    }

    /// A store loses power, as planned, in the middle of something.
    pub(super) fn lose_power(&mut self, node: usize) {
        let end = self.now + self.chance.between(100 * MILLISECOND, 3_000 * MILLISECOND);
        self.lose_power_until(node, end);
    }

    fn lose_power_until(&mut self, node: usize, end: Moment) {
        self.lose_power_now(node);
        self.queue.plan(end, Event::Start { node });
    }

    pub(super) fn lose_power_now(&mut self, node: usize) {
        let id = self.nodes[node].id;
        self.trace.tell(self.now, id, || "loses power".to_string());
        self.trace.count("power loss");
        self.nodes[node].lose_power(&mut self.chance);
        self.letters.lock().expect("no holder panics").clear();
        self.invariants.stopped(node);
    }

    /// A store starts, or loses power while it does.
    pub(super) fn start(&mut self, node: usize) -> Result<(), Broken> {
        if self.nodes[node].store.is_some() {
            return Ok(());
        }
        let seed = self.settings.seed;
        if self.is_dangerous && self.chance.percent(STARTS_CUT) {
            let writes = self.chance.below(4);
            self.nodes[node].disk().pull_plug_after(writes);
        }
        if !self.nodes[node].start(&self.config, seed, self.now, &mut self.chance) {
            self.trace.count("power loss at start");
            self.lose_power(node);
            return Ok(());
        }
        self.nodes[node].disk().pull_plug_after(u64::MAX);
        let (id, life) = (self.nodes[node].id, self.nodes[node].life);
        self.trace.tell(self.now, id, || "starts".to_string());
        if life > 1 {
            self.trace.count("restart");
        }
        let first = self.chance.between(0, self.config.tick_ms * MILLISECOND);
        self.queue.plan(self.now + first, Event::Tick { node, life });
        self.after(node)
    }
}
