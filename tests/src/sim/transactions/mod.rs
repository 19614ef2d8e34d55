//! Runs with transactions: every store has production's executor above it, and clients commit over several regions
//! while all goes wrong that goes wrong in other runs.
//!
//! ```text
//!   client (a future) ── requests ──► Server: tasks over TxnStore ── commands ──► Store
//!     │  ▲    ▲                          │
//!     │  └────┴── answers ───────────────┘
//!     └── timestamps, look-ups ──► scheduler, whose oracle loses power too
//! ```
//!
//! 1. [`client`] finds regions and speaks to stores, [`percolator`] is a transaction, [`resolve`] what is done about
//!    locks of others, [`errands`] what for. [`server`] is what lies above a store, [`stores`] turns it.
//! 2. Requests are late, arrive twice, or their answers get lost. A client may die whenever something reaches it: what
//!    it was at is dropped, what it has sent arrives, and it begins anew and remembers nothing.
//! 3. Beyond the faults of every run the scheduler loses power, its clock jumps, and the executor of a leader hangs
//!    while the leadership goes to another store and comes back ([`trouble`]).
//! 4. [`Records`](super::invariants::records::Records) are compared with invariants after every step.
//! 5. Old versions are collected all the while ([`garbage`]), so that whoever is slow is refused.
//! 6. Stores tell each other who waits for whose locks ([`deadlocks`]), and circles must not last.
//! 7. At the end a last client ends the locks that others have left and reads everything, once before all garbage is
//!    gone and once after; the history gets from the records how unknown transactions ended, and
//!    [`crate::checker::isolation`] judges it.
//!
//! What it does not do: the wire is not crossed, requests are commands.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use skerry_kv::storage::reply::Reply;
use skerry_proto::gcpb::ReportResponse;
use skerry_proto::metapb::Peer;
use skerry_proto::types::Ts;

use super::chance::Chance;
use super::invariants::circles::Circles;
use super::invariants::records::Records;
use super::invariants::{Broken, CLIENTS_CONTENT, SNAPSHOTS, TOLD_STAYS, hold};
use super::queue::Event;
use super::trace::{MILLISECOND, Moment, SECOND};
use super::world::World;
use crate::checker::isolation::{Checked, check};

mod client;
mod deadlocks;
mod errands;
mod garbage;
mod percolator;
mod post;
mod resolve;
pub mod server;
mod stores;
mod trouble;

use self::client::{Client, Shared};
use self::deadlocks::Talk;
use self::errands::Manner;
use self::garbage::Question;
use self::post::{Address, Outbox, Parcel, Route, Sealed, Slot, Wish};

/// Room that a write asks for.
const WRITE_BYTES: usize = 64;

/// How long a client waits for an answer.
const PATIENCE: Moment = 1_200 * MILLISECOND;

/// How long a store works at a request.
const DEADLINE: Moment = 4 * SECOND;

/// Of a thousand things that reach a client, those that it does not survive.
const DEATHS: u64 = 4;

/// Of a thousand requests, those that are late by up to two seconds, and those that arrive twice.
const LATE: u64 = 40;
const TWICE: u64 = 25;

/// Of a thousand prewrites, those that straggle behind the others of their transaction: others may have given it up
/// when they come, and their client still waits for them.
const STRAGGLERS: u64 = 200;

/// And, up to here, those that a change of leaders overtakes.
const OVERTAKEN: u64 = 300;

/// Something that is going to happen in a run with transactions.
pub(super) enum Happening {
    /// A client begins a life.
    Begin { client: usize },
    /// Something reaches a client.
    Reach { client: usize, life: u64, sealed: Sealed },
    /// A client wants a timestamp.
    Stamp { client: usize, life: u64, slot: Slot<Ts> },
    /// A store wants a timestamp.
    StampStore { reply: Reply<Ts> },
    /// A request reaches a store.
    Arrive { client: usize, life: u64, parcel: Rc<Parcel> },
    /// The threads of an executor go on.
    Poll { node: usize, life: u64 },
    /// A pause in an executor is over.
    Ring { node: usize, life: u64, bell: Slot<()> },
    /// A store gives a request up.
    Deadline { node: usize, life: u64, task: u64 },
    /// Something may go wrong.
    Disturb,
    /// The leadership of a region is to go to a replica.
    HandOver { region: u64, heir: Peer },
    /// The scheduler looks after garbage collection.
    Collect,
    /// A store tells the scheduler what it has done of that.
    Confer { node: usize },
    /// And is told what to do.
    Ordered { node: usize, life: u64, order: Box<ReportResponse>, asked_at: Duration },
    /// It asks another what became of a transaction.
    Inquire { to: Address, question: Question },
    /// Something about deadlocks.
    Talk(Talk),
}

impl std::fmt::Debug for Happening {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a happening of transactions")
    }
}

/// Clients and what is known of what they do.
pub(super) struct Transactions {
    lives: Vec<Life>,
    shared: Rc<Shared>,
    manner: Manner,
    pub(super) records: Records,
    circles: Circles,
    chance: Chance,
}

/// A client, from outside.
struct Life {
    /// How often it was born: what was meant for an earlier life is dropped.
    number: u64,
    /// What it is at, while it lives.
    going: Option<Pin<Box<dyn Future<Output = ()>>>>,
    outbox: Outbox,
    current: Rc<Cell<Ts>>,
    ended: Rc<Cell<u64>>,
    values: Rc<Cell<u64>>,
}

impl Transactions {
    /// So many clients, who have not begun, of so many stores.
    pub(super) fn new(clients: usize, stores: usize, seed: u64) -> Transactions {
        let life = |_| Life {
            number: 0,
            going: None,
            outbox: Outbox::default(),
            current: Rc::default(),
            ended: Rc::default(),
            values: Rc::default(),
        };
        Transactions {
            // The last one closes.
            lives: (0..=clients).map(life).collect(),
            shared: Rc::default(),
            manner: Manner::of_seed(seed),
            records: Records::new(stores),
            circles: Circles::default(),
            chance: Chance::new(seed, "happenings"),
        }
    }

    /// Transactions that each client has ended, but for the one that closes.
    pub(super) fn ended(&self) -> Vec<u64> {
        let clients = &self.lives[..self.lives.len() - 1];
        clients.iter().map(|life| life.ended.get()).collect()
    }

    pub(super) fn set_busy(&self, is_busy: bool) {
        self.shared.is_busy.set(is_busy);
    }

    /// Judges everything that clients saw.
    pub(super) fn check(&self) -> Result<Checked, Broken> {
        let mut history = self.shared.history.borrow().clone();
        for transaction in &mut history {
            let recorded = self.records.commit_of(transaction.start_ts);
            let told = transaction.commit_ts;
            let is_true = told.is_none() || told == recorded;
            hold(is_true, TOLD_STAYS, || format!("recorded is {recorded:?}: {transaction}"))?;
            transaction.commit_ts = recorded;
        }
        let judged = check(&history);
        judged.map_err(|wrong| Broken { invariant: SNAPSHOTS, what: wrong.to_string() })
    }
}

impl World {
    /// The clients of a run with transactions; other runs have none.
    fn dealings(&mut self) -> &mut Transactions {
        self.transactions.as_mut().expect("only runs with transactions have such happenings")
    }

    fn plan_happening(&mut self, at: Moment, happening: Happening) {
        self.queue.plan(at, Event::Transactions(Box::new(happening)));
    }

    /// Plans what every run with transactions begins with.
    pub(super) fn begin_transactions(&mut self) {
        self.dealings().set_busy(true);
        for client in 0..self.dealings().lives.len() - 1 {
            let at = self.chance.between(SECOND, 2 * SECOND);
            self.plan_happening(at, Happening::Begin { client });
        }
        self.plan_happening(5 * SECOND, Happening::Disturb);
        self.plan_happening(SECOND / 2, Happening::Collect);
        self.plan_talk(SECOND, Talk::Look);
        for node in 0..self.nodes.len() {
            self.plan_happening(SECOND / 2, Happening::Confer { node });
        }
    }

    pub(super) fn happens(&mut self, happening: Happening) -> Result<(), Broken> {
        match happening {
            Happening::Begin { client } => self.client_begins(client),
            Happening::Reach { client, life, sealed } => self.reach(client, life, sealed),
            Happening::Stamp { client, life, slot } => match self.timestamp()? {
                Some(ts) => {
                    self.answer_client(client, life, Box::new(move || slot.fill(ts)));
                    Ok(())
                }
                None => {
                    let again = Happening::Stamp { client, life, slot };
                    self.plan_happening(self.now + 20 * MILLISECOND, again);
                    Ok(())
                }
            },
            Happening::StampStore { reply } => {
                match self.timestamp()? {
                    Some(ts) => reply.answer(Ok(ts)),
                    None => {
                        let again = Happening::StampStore { reply };
                        self.plan_happening(self.now + 20 * MILLISECOND, again);
                        return Ok(());
                    }
                }
                (0..self.nodes.len()).for_each(|node| self.look_after_executor(node));
                Ok(())
            }
            Happening::Arrive { client, life, parcel } => self.arrive(client, life, parcel),
            Happening::Poll { node, life } => self.poll(node, life),
            Happening::Ring { node, life, bell } => {
                if let Some(server) = self.server_of(node, life) {
                    server.ring(bell);
                    self.look_after_executor(node);
                }
                Ok(())
            }
            Happening::Deadline { node, life, task } => {
                if let Some(server) = self.server_of(node, life) {
                    server.abandon(task);
                    // What it kept may be what others wait for.
                    self.look_after_executor(node);
                }
                Ok(())
            }
            Happening::Disturb => self.disturb_transactions(),
            Happening::HandOver { region, heir } => {
                self.hand_over(region, heir);
                Ok(())
            }
            Happening::Collect => self.drive_collection(),
            Happening::Confer { node } => {
                self.confer(node);
                Ok(())
            }
            Happening::Ordered { node, life, order, asked_at } => {
                self.ordered(node, life, *order, asked_at);
                Ok(())
            }
            Happening::Inquire { to, question } => {
                self.inquire(to, question);
                Ok(())
            }
            Happening::Talk(talk) => self.talk(talk),
        }
    }

    fn server_of(&mut self, node: usize, life: u64) -> Option<&mut server::Server> {
        let node = self.nodes.get_mut(node).filter(|node| node.life == life)?;
        node.server.as_mut()
    }

    /// A timestamp of the scheduler, if it is there and can give one at once.
    fn timestamp(&mut self) -> Result<Option<Ts>, Broken> {
        let ts = self.scheduler.timestamp(self.now);
        self.scheduler.overseer.verdict()?;
        Ok(ts)
    }

    // ---- Clients ------------------------------------------------------------------------------------

    fn client_begins(&mut self, number: usize) -> Result<(), Broken> {
        let seed = self.settings.seed;
        let dealings = self.dealings();
        let closes = number + 1 == dealings.lives.len();
        let (shared, manner) = (dealings.shared.clone(), dealings.manner.clone());
        let life = &mut dealings.lives[number];
        life.number += 1;
        life.outbox = Outbox::default();
        life.current = Rc::default();
        let client = Client::new(
            number,
            errands::chance_of(seed, number, life.number),
            life.outbox.clone(),
            shared,
            life.current.clone(),
            [life.ended.clone(), life.values.clone()],
        );
        life.going = Some(match closes {
            true => Box::pin(errands::close(client, manner)),
            false => Box::pin(errands::live(client, manner)),
        });
        self.go_on(number)
    }

    /// Something reaches a client, if it still lives and survives it.
    fn reach(&mut self, number: usize, life: u64, sealed: Sealed) -> Result<(), Broken> {
        let (is_dangerous, now) = (self.is_dangerous, self.now);
        let dealings = self.dealings();
        let client = &mut dealings.lives[number];
        if client.number != life || client.going.is_none() {
            return Ok(());
        }
        if is_dangerous && dealings.chance.below(1_000) < DEATHS {
            client.going = None;
            let current = client.current.get();
            dealings.shared.dead.borrow_mut().insert(current);
            let again = now + dealings.chance.between(20 * MILLISECOND, 800 * MILLISECOND);
            self.trace.count("txn: client died");
            self.trace.tell(now, format_args!("t{number}"), || format!("dies over {current}"));
            self.plan_happening(again, Happening::Begin { client: number });
            return Ok(());
        }
        sealed();
        self.go_on(number)
    }

    /// Lets a client go on until it waits, and carries its wishes.
    fn go_on(&mut self, number: usize) -> Result<(), Broken> {
        let steps = self.steps;
        let dealings = self.dealings();
        dealings.shared.now.set(steps);
        let client = &mut dealings.lives[number];
        let Some(going) = &mut client.going else { return Ok(()) };
        let mut context = Context::from_waker(Waker::noop());
        if going.as_mut().poll(&mut context).is_ready() {
            client.going = None;
        }
        let (life, wishes) = (client.number, client.outbox.take());
        let wrong = dealings.shared.wrong.borrow_mut().take();
        for wish in wishes {
            self.carry_wish(number, life, wish);
        }
        let story = wrong.clone().unwrap_or_default();
        hold(wrong.is_none(), CLIENTS_CONTENT, || story)
    }

    fn carry_wish(&mut self, client: usize, life: u64, wish: Wish) {
        match wish {
            Wish::Pause(span, slot) => {
                let sealed: Sealed = Box::new(move || slot.fill(()));
                self.plan_happening(self.now + span, Happening::Reach { client, life, sealed });
            }
            Wish::Stamp(slot) => {
                let at = self.now + self.chance.between(50, 500);
                self.plan_happening(at, Happening::Stamp { client, life, slot });
            }
            Wish::LookUp(key, slot) => {
                let found = match self.scheduler.is_away(self.now) {
                    true => None,
                    false => self.scheduler.look_up(&key),
                };
                let route = found.map(|(region, leader)| Route { region, leader });
                self.answer_client(client, life, Box::new(move || slot.fill(route)));
            }
            Wish::Send(parcel) => self.send_parcel(client, life, parcel),
            Wish::Tell(line) => {
                self.trace.tell(self.now, format_args!("t{client}"), || line);
            }
            Wish::Count(what) => self.trace.count(what),
        }
    }

    fn send_parcel(&mut self, client: usize, life: u64, parcel: Parcel) {
        self.trace.tell(self.now, format_args!("t{client}"), || {
            format!("asks {} for {}", parcel.store, parcel.name)
        });
        let sealed = parcel.give_up.borrow_mut().take().expect("it is sent once");
        let late = self.now + PATIENCE + parcel.waits;
        self.plan_happening(late, Happening::Reach { client, life, sealed });
        let parcel = Rc::new(parcel);
        let mut ways = vec![self.chance.between(100, MILLISECOND)];
        if self.is_dangerous && parcel.name == "prewrite" {
            match self.chance.below(1_000) {
                0..STRAGGLERS => {
                    self.trace.count("txn: prewrite straggles");
                    ways[0] += self.chance.below(PATIENCE - 100 * MILLISECOND);
                }
                STRAGGLERS..OVERTAKEN => {
                    self.hand_to_ignorant(parcel.region);
                    ways[0] += self.chance.below(100 * MILLISECOND);
                }
                _ => {}
            }
        }
        if self.is_dangerous && self.chance.below(1_000) < LATE {
            self.trace.count("txn: request late");
            ways[0] += self.chance.below(2 * SECOND);
        }
        if self.is_dangerous && self.chance.below(1_000) < TWICE {
            self.trace.count("txn: request arrives twice");
            ways.push(self.chance.between(100, SECOND));
        }
        for way in ways {
            let parcel = parcel.clone();
            self.plan_happening(self.now + way, Happening::Arrive { client, life, parcel });
        }
    }

    /// Sends something to a client that only it can open.
    fn answer_client(&mut self, client: usize, life: u64, sealed: Sealed) {
        let at = self.now + self.chance.between(100, MILLISECOND);
        self.plan_happening(at, Happening::Reach { client, life, sealed });
    }
}
