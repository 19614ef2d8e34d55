//! How executors of the simulated stores are turned: requests arrive, tasks go on, and what they want is carried on.

use std::rc::Rc;

use super::post::Parcel;
use super::server::{Polled, Told};
use super::{DEADLINE, Happening};
use crate::sim::handling::ANSWERS_LOST;
use crate::sim::invariants::records::Records;
use crate::sim::invariants::{ANSWERED, Broken, hold};
use crate::sim::trace::MILLISECOND;
use crate::sim::world::World;

impl World {
    pub(super) fn arrive(
        &mut self,
        client: usize,
        life: u64,
        parcel: Rc<Parcel>,
    ) -> Result<(), Broken> {
        let Some(node) = self.node_of(parcel.store.get()) else { return Ok(()) };
        if let Some(until) = self.sleeps(node) {
            self.plan_happening(until, Happening::Arrive { client, life, parcel });
            return Ok(());
        }
        self.trace.mix(self.now, 6, client as u64);
        let node_life = self.nodes[node].life;
        let Some(server) = &mut self.nodes[node].server else { return Ok(()) };
        let going = (parcel.begin)(server);
        let task = server.begin(Some((client, life)), going);
        let deadline = Happening::Deadline { node, life: node_life, task };
        self.plan_happening(self.now + DEADLINE + parcel.waits, deadline);
        self.look_after_executor(node);
        Ok(())
    }

    /// Plans a poll if a task can go on.
    pub(in crate::sim) fn look_after_executor(&mut self, node: usize) {
        let (now, life) = (self.now, self.nodes[node].life);
        let Some(server) = &mut self.nodes[node].server else { return };
        if server.is_due || !server.has_woken() {
            return;
        }
        server.is_due = true;
        let at = server.stands_until(now) + self.chance.between(10, 200);
        self.plan_happening(at, Happening::Poll { node, life });
    }

    pub(super) fn poll(&mut self, node: usize, life: u64) -> Result<(), Broken> {
        let (sleeps, now) = (self.sleeps(node), self.now);
        self.nodes[node].move_clock(now);
        let Some(server) = self.server_of(node, life) else { return Ok(()) };
        let stands = server.stands_until(now);
        if let Some(until) = sleeps.or((stands > now).then_some(stands)) {
            self.plan_happening(until, Happening::Poll { node, life });
            return Ok(());
        }
        server.is_due = false;
        let server = self.nodes[node].server.as_mut().expect("looked at above");
        let dealings = self.transactions.as_mut().expect("an executor is for transactions");
        let chance = &mut dealings.chance;
        let hangs = if now < server.drowsy_until { server.hangs_until - now } else { 0 };
        let polled = server.poll(|| match chance.below(10) {
            _ if hangs > 0 => hangs,
            0..6 => 0,
            6..9 => chance.below(300),
            _ => chance.below(3 * MILLISECOND),
        });
        self.carry_polled(node, life, polled)?;
        self.after(node)
    }

    fn carry_polled(&mut self, node: usize, life: u64, polled: Polled) -> Result<(), Broken> {
        let Polled { ended, commands, pauses, told, stamps, questions, said } = polled;
        if let Some(store) = &mut self.nodes[node].store {
            commands.into_iter().for_each(|command| store.command(command));
        }
        for (span, bell) in pauses {
            self.plan_happening(self.now + span, Happening::Ring { node, life, bell });
        }
        for reply in stamps {
            self.trace.count("txn: fresh timestamp for a store");
            let at = self.now + self.chance.between(100, 5 * MILLISECOND);
            self.plan_happening(at, Happening::StampStore { reply });
        }
        for question in questions {
            self.carry_question(question);
        }
        for told in told {
            self.heed(node, told)?;
        }
        self.note_waits(node);
        self.carry_said(node, said);
        for (client, sealed) in ended {
            let Some((client, life)) = client else {
                sealed();
                (0..self.nodes.len()).for_each(|node| self.look_after_executor(node));
                continue;
            };
            self.trace.mix(self.now, 7, client as u64);
            if self.chance.below(1_000) >= ANSWERS_LOST {
                self.answer_client(client, life, sealed);
            }
        }
        let server = self.nodes[node].server.as_ref().expect("it was polled");
        let (unanswered, max_ts) = (server.unanswered(), server.max_ts());
        hold(unanswered == 0, ANSWERED, || format!("{unanswered} requests of transactions"))?;
        let dealings = self.dealings();
        dealings.records.showed(node, life, max_ts)
    }

    fn heed(&mut self, node: usize, told: Told) -> Result<(), Broken> {
        match told {
            Told::Read(key, at, found) => self.dealings().records.read(&key, at, found),
            Told::Ended(start_ts, commit_ts) => self.dealings().records.told(start_ts, commit_ts),
            Told::Waits(wait) => {
                self.trace.count("txn: waited for a lock");
                let server = self.nodes[node].server.as_ref().expect("it was polled");
                let engine = self.nodes[node].disk().engine();
                Records::waits(&*engine.view(), &wait, &server.waits())
            }
        }
    }

    /// Compares what a store has written to its data engine with the invariants.
    pub(in crate::sim) fn look_at_records(&mut self, node: usize) -> Result<(), Broken> {
        let Some(transactions) = &mut self.transactions else { return Ok(()) };
        let disk = self.nodes[node].disk();
        let written = disk.take_noted();
        if written.is_empty() {
            return Ok(());
        }
        transactions.records.written(&*disk.engine().view(), &written)
    }
}
