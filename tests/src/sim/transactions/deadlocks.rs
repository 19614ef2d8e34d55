//! How stores of the simulated cluster tell the deadlock detector of their waits.
//!
//! What is told and what is answered is production's ([`Telling`], [`Detector`]); here is what lies between, in
//! production a stream of tonic and whoever sees to it (`kv/src/net/deadlocks.rs`):
//!
//! 1. A store that has something to tell and no *line* asks the scheduler who leads the region of the empty key. The
//!    line goes to that store, in the life that it is in.
//! 2. Nothing overtakes on a line. What the network loses is sent again and comes later. Where a link is closed, or a
//!    word would take longer than [`LINE_MAX`], the line is dead; its store notices after that time.
//! 3. A line breaks when its other end is gone, or does not lead that region any more: that one then forgets what it
//!    knew. After a short pause there may be another line. What was to be told meanwhile is forgotten.
//! 4. Every tenth of a second all waits of all stores are looked at
//!    ([`Circles`](crate::sim::invariants::circles::Circles)).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use skerry_kv::storage::reply::{Replies, Reply};
use skerry_kv::txn::deadlock::Detector;
use skerry_kv::txn::planted::Planted;
use skerry_kv::txn::telling::{Courier, Pause, Telling, Watched};
use skerry_proto::deadlock::{DeadlockRequest, DeadlockResponse};
use skerry_raftstore::keys::region_key;
use skerry_raftstore::time::Clock;

use super::Happening;
use crate::sim::invariants::Broken;
use crate::sim::invariants::circles::{Reign, Standing, holder_of};
use crate::sim::trace::{MILLISECOND, Moment};
use crate::sim::world::World;

/// How long a word may take: a line that does not bring it in that time is given up.
const LINE_MAX: Moment = 1_000 * MILLISECOND;

/// Before another line is made.
const PAUSE: Moment = 200 * MILLISECOND;

/// How long it takes until what got lost is sent again.
const AGAIN: (Moment, Moment) = (200 * MILLISECOND, 400 * MILLISECOND);

/// How often all waits are looked at.
const LOOK: Moment = 100 * MILLISECOND;

/// Something that is going to happen to what stores tell each other of waits.
pub(in crate::sim) enum Talk {
    /// A wait is told again.
    Again { node: usize, life: u64, bell: Reply<()> },
    /// A word reaches the other end of a line.
    Hear { line: Ends, word: DeadlockRequest },
    /// An answer comes back.
    Answer { line: Ends, answer: DeadlockResponse },
    /// A line breaks.
    Break { line: Ends },
    /// All waits are looked at.
    Look,
}

/// A line, named so that no other has ever been it: a store in one of its lives, the number of the line there, and the
/// store at the other end, likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Ends {
    from: (usize, u64),
    number: u64,
    to: (usize, u64),
}

/// A store's part in it.
pub(super) struct Deadlocks {
    words: Arc<Words>,
    watched: Arc<Watched>,
    /// What it knows of the waits of all stores, while it is the detector.
    detector: Detector,
    line: Line,
}

/// A store's line to the detector.
#[derive(Default)]
struct Line {
    /// The other end, while there is one.
    to: Option<(usize, u64)>,
    /// Counts the lines of this store.
    number: u64,
    /// Whether words get lost on it; its store does not know yet.
    is_dead: bool,
    /// When the newest word arrives there, and the newest answer here.
    there: Moment,
    here: Moment,
    /// Until when there is no other.
    rests_until: Moment,
}

impl Deadlocks {
    /// Of a store that has just started.
    pub(super) fn new(clock: Arc<dyn Clock>, planted: Option<Planted>) -> (Deadlocks, Telling) {
        let words = Arc::new(Words { clock, replies: Replies::new(), said: Mutex::default() });
        let telling = Telling::new(words.clone());
        let detector = Detector::with_planted(planted);
        let watched = telling.watched();
        (Deadlocks { words, watched, detector, line: Line::default() }, telling)
    }

    /// What it has said.
    pub(super) fn take(&self) -> Said {
        std::mem::take(&mut *self.words.said.lock().expect("no holder panics"))
    }

    /// Whether it has something to say.
    pub(super) fn has_words(&self) -> bool {
        !self.words.said.lock().expect("no holder panics").words.is_empty()
    }
}

/// What a store wants of the world.
#[derive(Default)]
pub(super) struct Said {
    words: Vec<DeadlockRequest>,
    pauses: Vec<(Duration, Reply<()>)>,
}

/// Words on their way out of a store.
struct Words {
    clock: Arc<dyn Clock>,
    replies: Arc<Replies>,
    said: Mutex<Said>,
}

impl Courier for Words {
    fn send(&self, word: DeadlockRequest) {
        self.said.lock().expect("no holder panics").words.push(word);
    }

    fn pause(&self, span: Duration) -> Pause {
        let (bell, rung) = self.replies.pair();
        self.said.lock().expect("no holder panics").pauses.push((span, bell));
        Box::pin(async move {
            if rung.await.is_err() {
                std::future::pending().await
            }
        })
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }
}

impl World {
    pub(super) fn talk(&mut self, talk: Talk) -> Result<(), Broken> {
        match talk {
            Talk::Again { node, life, bell } => {
                if self.server_of(node, life).is_some() {
                    bell.answer(Ok(()));
                    self.look_after_executor(node);
                }
                Ok(())
            }
            Talk::Hear { line, word } => self.hear(line, word),
            Talk::Answer { line, answer } => {
                self.hear_answer(line, answer);
                Ok(())
            }
            Talk::Break { line } => {
                self.break_line(line);
                Ok(())
            }
            Talk::Look => {
                self.plan_talk(self.now + LOOK, Talk::Look);
                self.look_for_circles()
            }
        }
    }

    pub(super) fn plan_talk(&mut self, at: Moment, talk: Talk) {
        self.plan_happening(at, Happening::Talk(talk));
    }

    /// A store has said something.
    pub(super) fn carry_said(&mut self, node: usize, said: Said) {
        let life = self.nodes[node].life;
        for (span, bell) in said.pauses {
            let span = Moment::try_from(span.as_micros()).expect("pauses are short");
            self.plan_talk(self.now + span, Talk::Again { node, life, bell });
        }
        for word in said.words {
            self.carry_word(node, word);
        }
    }

    fn carry_word(&mut self, node: usize, word: DeadlockRequest) {
        let (now, life) = (self.now, self.nodes[node].life);
        let Some(line) = self.line_of(node) else { return };
        if line.is_dead || line.rests_until > now {
            return;
        }
        if line.to.is_none() {
            let found = self.known_detector();
            let line = self.line_of(node).expect("looked at above");
            line.number += 1;
            (line.to, line.there, line.here) = (found, now, now);
            if found.is_none() {
                line.rests_until = now + PAUSE;
                return;
            }
        }
        let line = self.line_of(node).expect("looked at above");
        let (to, number) = (line.to.expect("it was made above"), line.number);
        let ends = Ends { from: (node, life), number, to };
        let way = self.way(node, to.0);
        let line = self.line_of(node).expect("looked at above");
        match way {
            Some(way) => {
                // In this order, like all that is on it.
                line.there = line.there.max(now + way);
                let at = line.there;
                self.plan_talk(at, Talk::Hear { line: ends, word });
            }
            None => {
                line.is_dead = true;
                self.plan_talk(now + LINE_MAX, Talk::Break { line: ends });
            }
        }
    }

    fn line_of(&mut self, node: usize) -> Option<&mut Line> {
        self.nodes[node].server.as_mut().map(|server| &mut server.deadlocks.line)
    }

    /// The detector that the scheduler knows, if it is there.
    fn known_detector(&self) -> Option<(usize, u64)> {
        if self.scheduler.is_away(self.now) {
            return None;
        }
        let (_, leader) = self.scheduler.look_up(b"")?;
        let node = self.node_of(leader?.store_id)?;
        self.nodes[node].server.as_ref().map(|_| (node, self.nodes[node].life))
    }

    /// How long a word takes on a line; nothing if the line does not survive it.
    fn way(&mut self, from: usize, to: usize) -> Option<Moment> {
        if from == to {
            return Some(self.chance.between(20, 200));
        }
        // What arrives is acknowledged.
        if !self.network.is_open(from, to) || !self.network.is_open(to, from) {
            return None;
        }
        let again = self.chance.between(AGAIN.0, AGAIN.1);
        let [way, _] = self.network.send(from, to);
        way.or(Some(again)).filter(|way| *way <= LINE_MAX)
    }

    fn leads_first(&self, node: usize) -> Option<u64> {
        let mut led = self.invariants.shown(node).filter(|status| status.is_leader);
        led.find(|status| status.region.start_key.is_empty()).map(|status| status.term)
    }

    /// A word reaches a store, who may be the detector.
    fn hear(&mut self, line: Ends, word: DeadlockRequest) -> Result<(), Broken> {
        let (node, life) = line.to;
        let now = self.now;
        if let Some(until) = self.sleeps(node) {
            match until <= now + LINE_MAX {
                true => self.plan_talk(until, Talk::Hear { line, word }),
                false => self.plan_talk(now + LINE_MAX, Talk::Break { line }),
            }
            return Ok(());
        }
        let leads = self.leads_first(node).is_some();
        self.nodes[node].move_clock(now);
        let shows = self.nodes[node].shows_at(now);
        let Some(server) = self.server_of(node, life) else {
            self.plan_talk(now + MILLISECOND, Talk::Break { line });
            return Ok(());
        };
        if !leads {
            server.deadlocks.detector.clear();
            self.trace.count("txn: told who is not the detector");
            self.answer_on(line, |line| Talk::Break { line });
            return Ok(());
        }
        let answer = server.deadlocks.detector.take(word, shows);
        self.trace.mix(now, 8, node as u64);
        let Some(answer) = answer else { return Ok(()) };
        self.trace.count("txn: deadlock over stores");
        if answer.wait_chain.len() >= 2 {
            self.trace.count("txn: deadlock over stores, of three or more");
        }
        self.trace.tell(now, self.nodes[node].id, || format!("finds a deadlock: {answer:?}"));
        self.dealings().circles.named(&answer, now)?;
        self.answer_on(line, |line| Talk::Answer { line, answer });
        Ok(())
    }

    /// Sends something back to where a line begins.
    fn answer_on(&mut self, line: Ends, talk: impl FnOnce(Ends) -> Talk) {
        let now = self.now;
        let Some(way) = self.way(line.to.0, line.from.0) else {
            return self.plan_talk(now + LINE_MAX, Talk::Break { line });
        };
        let Some(open) = self.line(line) else { return };
        open.here = open.here.max(now + way);
        let at = open.here;
        self.plan_talk(at, talk(line));
    }

    /// The line with these ends, if there still is one.
    fn line(&mut self, ends: Ends) -> Option<&mut Line> {
        let server = self.server_of(ends.from.0, ends.from.1)?;
        Some(&mut server.deadlocks.line)
            .filter(|line| line.to.is_some() && line.number == ends.number)
    }

    fn hear_answer(&mut self, line: Ends, answer: DeadlockResponse) {
        let node = line.from.0;
        if let Some(until) = self.sleeps(node) {
            return self.plan_talk(until, Talk::Answer { line, answer });
        }
        if self.line(line).is_some()
            && let Some(server) = self.server_of(node, line.from.1)
        {
            server.deadlocks.watched.answered(&answer);
            self.look_after_executor(node);
        }
    }

    fn break_line(&mut self, line: Ends) {
        let now = self.now;
        if let Some(open) = self.line(line) {
            (open.to, open.is_dead, open.rests_until) = (None, false, now + PAUSE);
            self.trace.count("txn: line to the detector broke");
        }
    }

    /// Notes who waits for whom at a store by now.
    pub(super) fn note_waits(&mut self, node: usize) {
        let now = self.now;
        let Some(server) = &self.nodes[node].server else { return };
        let store = server.store();
        if store.waiting() > 0 {
            let edges = store.lock_waits();
            self.dealings().circles.saw(&edges, now);
        }
    }

    /// Looks at all waits of all stores: circles among them must not last.
    fn look_for_circles(&mut self) -> Result<(), Broken> {
        let now = self.now;
        (0..self.nodes.len()).for_each(|node| self.note_waits(node));
        let running = |node: &usize| self.nodes[*node].server.is_some();
        let seats = (0..self.nodes.len()).filter(running).filter_map(|node| {
            let term = self.leads_first(node)?;
            Some((node, self.nodes[node].life, term))
        });
        let seats: Vec<_> = seats.collect();
        // Whoever does not know yet that another leads is no detector to be relied on.
        let seat = match seats[..] {
            [seat] if self.nodes[seat.0].is_awake(now) => Some(seat),
            _ => None,
        };
        let mut lines = Vec::new();
        let mut standing = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(server) = &node.server else {
                lines.push(None);
                continue;
            };
            let line = &server.deadlocks.line;
            let ends_there = seat.is_some_and(|(to, life, _)| line.to == Some((to, life)));
            let lags = |to: usize| self.network.lags(number, to) || self.network.lags(to, number);
            let is_slow = seat.is_some_and(|(to, ..)| lags(to));
            let stands = node.is_awake(now) && server.stands_until(now) == now;
            let is_well = stands && !line.is_dead && !is_slow;
            lines.push((ends_there && is_well).then_some((node.life, line.number)));
            let waits = server.numbered_waits();
            if waits.is_empty() {
                continue;
            }
            let view = node.disk().engine().view();
            for (wait, place) in waits {
                let holder = holder_of(&*view, &place.key);
                // A request that came twice may wait for what the first of them has got.
                let Some(holder) = holder.filter(|holder| *holder != place.waiter) else {
                    continue;
                };
                let boundary = region_key(place.key.as_bytes()).expect("a user's key");
                let mut led = self.invariants.shown(number).filter(|status| status.is_leader);
                let led = led.find(|status| status.region.contains_key(boundary));
                let reign = led.map(|status| Reign(status.region.id, status.term));
                let wait = (number, node.life, wait);
                standing.push(Standing {
                    wait,
                    waiter: place.waiter,
                    key: place.key,
                    holder,
                    reign,
                });
            }
        }
        let circles = &mut self.dealings().circles;
        circles.look(now, seat, lines, standing)
    }
}
