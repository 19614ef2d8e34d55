//! Garbage collection in runs with transactions: rounds of the real scheduler, and every store's part in them.
//!
//! 1. A *driver*, as big clients have one, raises the safe point every second or so to a few seconds ago
//!    ([`World::drive_collection`]). The scheduler sees to the round, and may lose power over it.
//! 2. Every store *confers* a few times a second: it tells what it has done and hears what to do
//!    ([`World::confer`]). Some of what is said gets lost.
//! 3. What is to be done is production's [`Part`], a task like any other of the executor. What became of a transaction
//!    it asks leaders elsewhere by [`Questions`], which the world carries.
//! 4. At the end the safe point rises once more over everything that clients have done, and a whole round must succeed.
//!
//! What must be true stands with the other invariants of records: nothing goes that a read at or above the safe point
//! needs, and whoever is committed is not rolled back ([`Records`](crate::sim::invariants::records::Records)).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use skerry_kv::Error as Refused;
use skerry_kv::gc::resolve::{Asked, Elsewhere};
use skerry_kv::mvcc::Key;
use skerry_kv::storage::reply::{Replies, Reply};
use skerry_kv::txn;
use skerry_kv::txn::check_secondary_locks::CheckSecondaryLocks;
use skerry_kv::txn::check_txn_status::CheckTxnStatus;
use skerry_proto::gcpb::ReportResponse;
use skerry_proto::kvrpcpb::{
    CheckSecondaryLocksResponse, CheckTxnStatusRequest, CheckTxnStatusResponse, KeyError,
};
use skerry_proto::types::Ts;
use skerry_raftstore::keys::region_key;

use super::Happening;
use super::post::{Address, Sealed};
use super::resolve::{end_by_keys, end_of};
use super::server::{Going, Server, Told};
use crate::sim::invariants::Broken;
use crate::sim::trace::{MILLISECOND, Moment, SECOND};
use crate::sim::world::World;

/// How often the scheduler looks after the round, and how many of a thousand times the driver raises the safe point.
const INTERVAL: Moment = 100 * MILLISECOND;
const RAISES: u64 = 80;

/// For how long versions stay, at least and at most.
const LIFE_MIN: Moment = 300 * MILLISECOND;
const LIFE_MAX: Moment = 4 * SECOND;

/// Of a hundred conversations, those in which a side does not hear the other.
const UNHEARD: u64 = 6;

/// What a store asks about a transaction, and where the answer goes.
pub(in crate::sim) enum Question {
    /// What became of it.
    Status(Box<CheckTxnStatusRequest>, Reply<CheckTxnStatusResponse>),
    /// Whether its other keys are locked.
    Secondaries(Ts, Vec<Bytes>, Reply<(usize, CheckSecondaryLocksResponse)>),
}

impl Question {
    /// The key at whose leader it is asked.
    fn key(&self) -> Key {
        match self {
            Question::Status(request, _) => Key::of(&request.primary_key),
            Question::Secondaries(_, keys, _) => Key::of(&keys[0]),
        }
    }

    fn refuse(self, why: &'static str) {
        match self {
            Question::Status(_, reply) => reply.answer(Err(Refused::NotNow(why))),
            Question::Secondaries(.., reply) => reply.answer(Err(Refused::NotNow(why))),
        }
    }
}

/// Questions on their way out of a store.
pub(super) struct Questions {
    replies: Arc<Replies>,
    asked: Mutex<Vec<Question>>,
}

impl Questions {
    pub(super) fn new() -> Arc<Questions> {
        Arc::new(Questions { replies: Replies::new(), asked: Mutex::default() })
    }

    pub(super) fn take(&self) -> Vec<Question> {
        std::mem::take(&mut self.asked.lock().expect("no holder panics"))
    }

    fn ask(&self, question: Question) {
        self.asked.lock().expect("no holder panics").push(question);
    }
}

impl Elsewhere for Questions {
    fn check_txn_status(
        &self,
        request: CheckTxnStatusRequest,
    ) -> Asked<'_, CheckTxnStatusResponse> {
        let (reply, answer) = self.replies.pair();
        self.ask(Question::Status(Box::new(request), reply));
        Box::pin(answer)
    }

    fn check_secondary_locks(
        &self,
        start_ts: Ts,
        keys: Vec<Bytes>,
    ) -> Asked<'_, (usize, CheckSecondaryLocksResponse)> {
        let (reply, answer) = self.replies.pair();
        self.ask(Question::Secondaries(start_ts, keys, reply));
        Box::pin(answer)
    }
}

impl World {
    /// A tenth of a second has passed for the scheduler.
    pub(super) fn drive_collection(&mut self) -> Result<(), Broken> {
        self.plan_happening(self.now + INTERVAL, Happening::Collect);
        if self.scheduler.is_away(self.now) {
            return Ok(());
        }
        if self.is_dangerous && self.chance.below(1_000) < RAISES {
            let life = self.chance.between(LIFE_MIN, LIFE_MAX);
            self.raise_safe_point(life)?;
        }
        self.scheduler.tend_collection(self.now);
        self.note_safe_point();
        Ok(())
    }

    /// The safe point shall be what the time was so long ago.
    pub(super) fn raise_safe_point(&mut self, life: Moment) -> Result<Option<Ts>, Broken> {
        let Some(newest) = self.timestamp()? else { return Ok(None) };
        let reach = newest.physical_ms().saturating_sub(life / MILLISECOND);
        let wanted = if life == 0 { newest } else { Ts::compose(reach, 0) };
        self.scheduler.raise_txn_safe_point(wanted, self.now);
        self.trace.tell(self.now, "driver", || format!("wants the safe point at {wanted}"));
        Ok(Some(wanted))
    }

    /// A store tells what it has done of the round and hears what is next, and goes on with it.
    pub(super) fn confer(&mut self, node: usize) {
        let again = self.now + self.chance.between(INTERVAL, 3 * INTERVAL);
        self.plan_happening(again, Happening::Confer { node });
        let (now, life) = (self.now, self.nodes[node].life);
        if self.sleeps(node).is_some() {
            return;
        }
        self.nodes[node].move_clock(now);
        let asked_at = self.nodes[node].shows_at(now);
        let shown = self.invariants.shown(node).filter(|status| status.is_leader);
        let led = shown.map(|status| status.region.clone()).collect();
        let Some(server) = &mut self.nodes[node].server else { return };
        server.work(led);
        let report = server.part().report();
        let is_lost = self.is_dangerous && self.chance.percent(UNHEARD);
        let order = match is_lost || self.scheduler.is_away(now) {
            true => None,
            false => self.scheduler.collection_report(report, now),
        };
        let is_heard = !self.is_dangerous || !self.chance.percent(UNHEARD);
        match order.filter(|_| is_heard) {
            Some(order) => {
                let at = now + self.chance.between(100, 5 * MILLISECOND);
                let order = Box::new(order);
                self.plan_happening(at, Happening::Ordered { node, life, order, asked_at });
            }
            None => server.part().unheard(),
        }
        self.note_safe_point();
        self.look_after_executor(node);
    }

    pub(super) fn ordered(
        &mut self,
        node: usize,
        life: u64,
        order: ReportResponse,
        asked_at: Duration,
    ) {
        if let Some(server) = self.server_of(node, life) {
            let lease = Duration::from_millis(order.lease_ms);
            server.part().heard(order, asked_at, Some(lease));
            self.look_after_executor(node);
        }
    }

    /// Versions below the safe point may be gone from now on.
    fn note_safe_point(&mut self) {
        let safe_point = self.scheduler.safe_point();
        let dealings = self.dealings();
        if dealings.shared.safe_point.replace(safe_point) < safe_point {
            dealings.records.collected_to(safe_point);
            self.trace.count("txn: safe point raised");
            self.trace.tell(self.now, "scheduler", || format!("safe point {safe_point}"));
        }
    }

    /// A store's question goes to the leader of the region of its key.
    pub(super) fn carry_question(&mut self, question: Question) {
        let key = question.key();
        let boundary = region_key(key.as_bytes()).expect("keys of users have the data prefix");
        let found = match self.scheduler.is_away(self.now) {
            true => None,
            false => self.scheduler.look_up(boundary),
        };
        let Some((region, Some(leader))) = found else {
            return question.refuse("nobody is known to lead there");
        };
        let to = Address::of(&region, leader);
        let is_inside = |user: &&Bytes| {
            let key = Key::of(user);
            let boundary = region_key(key.as_bytes()).expect("keys of users have the data prefix");
            region.contains_key(boundary)
        };
        let question = match question {
            Question::Secondaries(start_ts, keys, reply) => {
                let keys = keys.iter().take_while(is_inside).cloned().collect();
                Question::Secondaries(start_ts, keys, reply)
            }
            other => other,
        };
        self.trace.count("txn: collection asked about a transaction");
        let at = self.now + self.chance.between(100, 5 * MILLISECOND);
        self.plan_happening(at, Happening::Inquire { to, question });
    }

    pub(super) fn inquire(&mut self, to: Address, question: Question) {
        let Some(node) = self.node_of(to.store.get()) else { return };
        if let Some(until) = self.sleeps(node) {
            return self.plan_happening(until, Happening::Inquire { to, question });
        }
        let life = self.nodes[node].life;
        let Some(server) = &mut self.nodes[node].server else {
            return question.refuse("nobody is there");
        };
        let going = answer(server, to, question);
        let task = server.begin(None, going);
        let deadline = Happening::Deadline { node, life, task };
        self.plan_happening(self.now + super::DEADLINE, deadline);
        self.look_after_executor(node);
    }

    /// Everything that was ever overwritten goes.
    pub(super) fn must_collect(&mut self) -> Result<(), Broken> {
        let mut wanted = None;
        let end = self.now + super::trouble::END_MAX;
        while self.now < end {
            if wanted.is_none() {
                wanted = self.raise_safe_point(0)?;
            }
            self.run_until(self.now + SECOND / 10)?;
            let (finished, wanted) = (self.scheduler.finished_round(), wanted.unwrap_or(Ts::MAX));
            if finished >= wanted {
                return Ok(());
            }
        }
        let what = format!("no round of garbage collection ends\n{}", self.picture());
        Err(Broken { invariant: "liveness", what })
    }
}

/// The task that answers a question.
fn answer(server: &Server, to: Address, question: Question) -> Going {
    let (store, side, context) = (server.store(), server.side(), to.context());
    match question {
        Question::Status(request, reply) => Box::pin(async move {
            let check = CheckTxnStatus::asked(Key::of(&request.primary_key), &request);
            let permit = store.permits().acquire(super::WRITE_BYTES).await;
            let status = store.write(&context, &check, permit).await;
            if let Ok(status) = &status {
                let end = end_of(status).map(|end| Told::Ended(check.start_ts, end));
                side.borrow_mut().told.extend(end);
            }
            let answer = match status {
                Ok(status) => Ok(status.to_wire(&request.primary_key)),
                Err(error) => about_key(error).map(|error| CheckTxnStatusResponse {
                    error: Some(error),
                    ..CheckTxnStatusResponse::default()
                }),
            };
            Box::new(move || reply.answer(answer)) as Sealed
        }),
        Question::Secondaries(start_ts, keys, reply) => Box::pin(async move {
            let count = keys.len();
            let keys = keys.iter().map(|user| Key::of(user)).collect();
            let check = CheckSecondaryLocks { keys, start_ts };
            let permit = store.permits().acquire(super::WRITE_BYTES).await;
            let locks = store.write(&context, &check, permit).await;
            if let Ok(locks) = &locks {
                let end = end_by_keys(locks).map(|end| Told::Ended(start_ts, end));
                side.borrow_mut().told.extend(end);
            }
            let answer = match locks.and_then(|locks| locks.to_wire()) {
                Ok(locks) => Ok((count, locks)),
                Err(error) => about_key(error).map(|error| {
                    let error = Some(error);
                    (count, CheckSecondaryLocksResponse { error, ..Default::default() })
                }),
            };
            Box::new(move || reply.answer(answer)) as Sealed
        }),
    }
}

/// What a client would be answered about a key; all else is an error of the region.
fn about_key(error: txn::Error) -> Result<KeyError, Refused> {
    match error {
        txn::Error::Other(_) => Err(Refused::NotNow("the region has changed")),
        about_key => Ok(about_key.to_wire().expect("only the variant above has no such form")),
    }
}
