//! The transactional half of a store: the executor of production over the simulated store's own queues, turned by hand.
//!
//! ```text
//!    request ──► task ──► TxnStore ──► Gate ──► ReplicatedStorage ──► queue of commands ──► Store
//!                            │           └ holds a view back, as a thread does that loses its core
//!                            └──► Stamps: timestamps from the scheduler
//! ```
//!
//! 1. A request becomes a task: a future that the executor runs, as a thread of tokio would.
//! 2. [`Server::poll`] lets every task that was woken go on, in the order in which they came, until all wait. What they
//!    want - commands for the store, timestamps, pauses - is handed to the world.
//! 3. A view comes a little after it was taken. That is where production's threads may sleep between what a command
//!    sees and what it writes.
//!
//! A task whose deadline passes is dropped, as at the edge. Loss of power drops all of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use skerry_kv::gc::SafePoints;
use skerry_kv::gc::part::{Means, Part};
use skerry_kv::mvcc::{Key, Lock};
use skerry_kv::storage::replicated::Commands;
use skerry_kv::storage::reply::{Replies, Reply};
use skerry_kv::storage::{
    Answer, ApiVersion, Permit, Permits, ReadPool, RegionView, ReplicatedStorage, RequestContext,
    Storage,
};
use skerry_kv::txn::lock_waits::Turn;
use skerry_kv::txn::patience::until_locked;
use skerry_kv::txn::pessimistic_lock::{KeyLocked, PessimisticLock};
use skerry_kv::txn::planted::Planted;
use skerry_kv::txn::{self, Error, Timestamps, TxnLimits, TxnStore};
use skerry_proto::metapb::Region;
use skerry_proto::types::{StoreId, Ts};
use skerry_raftstore::engine::{ColumnFamily, WriteBatch};
use skerry_raftstore::message::Command;
use skerry_raftstore::store::Store;
use skerry_raftstore::time::Clock;

use super::deadlocks::{Deadlocks, Said};
use super::garbage::{Question, Questions};
use super::post::{Sealed, Slot};
use crate::sim::trace::{MILLISECOND, Moment};

/// Room for writes: enough that it is waited for only now and then.
const WRITES_MAX: usize = 8;

/// Between two steps of garbage collection.
const BREATH: Moment = MILLISECOND / 2;

/// What a task is, and how it ends.
pub(super) type Going = Pin<Box<dyn Future<Output = Sealed>>>;

/// See the module.
pub struct Server {
    store: Arc<TxnStore>,
    storage: Arc<ReplicatedStorage>,
    gate: Arc<Gate>,
    queue: Arc<Queue>,
    stamps: Arc<Stamps>,
    questions: Arc<Questions>,
    reads: Arc<ReadPool>,
    /// Its part in finding deadlocks over several stores.
    pub(super) deadlocks: Deadlocks,
    /// Its part in garbage collection, what it leads of what is collected, and whether it is at it.
    part: Rc<Part>,
    led: Arc<Mutex<Vec<Arc<Region>>>>,
    is_working: Rc<Cell<bool>>,
    tasks: BTreeMap<u64, Task>,
    /// Numbers the tasks; never used twice.
    next_task: u64,
    side: Rc<RefCell<Side>>,
    /// Whether the world is going to poll.
    pub(super) is_due: bool,
    /// Until when no thread of the executor does anything, or, while it is drowsy, none that waits for a view.
    pub(super) hangs_until: Moment,
    pub(super) drowsy_until: Moment,
}

struct Task {
    going: Going,
    woken: Arc<Woken>,
    client: Client,
}

/// Whose request it is: the number of a client and of its life. Nobody's, if it is a part of another.
pub(super) type Client = Option<(usize, u64)>;

/// What tasks want of the world, and tell it.
#[derive(Default)]
pub(super) struct Side {
    pub(super) pauses: Vec<(Moment, Slot<()>)>,
    pub(super) told: Vec<Told>,
    /// Who waits for which lock, by the number of the wait.
    waits: BTreeMap<u64, Wait>,
    next_wait: u64,
}

/// A lock request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The transaction that waits.
    pub waiter: Ts,
    /// On this key.
    pub key: Key,
    /// For this one.
    pub holder: Ts,
}

/// What the executor has answered or begun, as far as the invariants want to know.
pub(super) enum Told {
    /// A plain read: the key, its timestamp, and whether and when what it found was committed.
    Read(Key, Ts, Option<Ts>),
    /// A transaction was committed, or (with 0) will never be.
    Ended(Ts, Ts),
    /// Somebody waits for a lock.
    Waits(Wait),
}

/// What a poll has brought about.
pub(super) struct Polled {
    pub(super) ended: Vec<(Client, Sealed)>,
    pub(super) commands: Vec<Command>,
    pub(super) pauses: Vec<(Moment, Slot<()>)>,
    pub(super) told: Vec<Told>,
    pub(super) stamps: Vec<Reply<Ts>>,
    pub(super) questions: Vec<Question>,
    pub(super) said: Said,
}

impl Server {
    /// The executor over a store that has just started.
    pub fn new(
        id: StoreId,
        store: &Store,
        clock: Arc<dyn Clock>,
        planted: Option<Planted>,
    ) -> Server {
        let queue = Arc::new(Queue::default());
        let permits = Permits::new(WRITES_MAX, 1 << 20);
        let storage = ReplicatedStorage::over(id, queue.clone(), store.reader(), permits);
        let gate = Arc::new(Gate {
            inner: storage.clone(),
            replies: Replies::new(),
            held: Mutex::default(),
        });
        let stamps = Arc::new(Stamps {
            clock: clock.clone(),
            replies: Replies::new(),
            asked: Mutex::default(),
        });
        let reads = ReadPool::start(0, WRITES_MAX);
        let limits = TxnLimits {
            key_bytes_max: 100,
            reply_bytes_max: 1 << 20,
            lock_wait: Duration::from_secs(60),
        };
        let executor =
            TxnStore::new(gate.clone(), ApiVersion::V1, limits, stamps.clone(), reads.clone());
        let (deadlocks, telling) = Deadlocks::new(clock.clone(), planted);
        let executor = executor
            .keeping(SafePoints::new(clock))
            .with_planted(planted)
            .detecting(Arc::new(telling));
        let (store, questions) = (Arc::new(executor), Questions::new());
        let led: Arc<Mutex<Vec<Arc<Region>>>> = Arc::default();
        let looked_at = led.clone();
        let part = Part::new(Means {
            store_id: id,
            txn: store.clone(),
            led: Box::new(move || looked_at.lock().expect("no holder panics").clone()),
            elsewhere: questions.clone(),
            // It confers often.
            news: Box::new(|| {}),
        });
        Server {
            store,
            storage,
            gate,
            queue,
            stamps,
            questions,
            reads,
            deadlocks,
            part: Rc::new(part),
            led,
            is_working: Rc::default(),
            tasks: BTreeMap::new(),
            next_task: 0,
            side: Rc::default(),
            is_due: false,
            hangs_until: 0,
            drowsy_until: 0,
        }
    }

    /// What runs commands.
    pub(super) fn store(&self) -> Arc<TxnStore> {
        self.store.clone()
    }

    /// Where tasks put what the world shall know.
    pub(super) fn side(&self) -> Rc<RefCell<Side>> {
        self.side.clone()
    }

    /// Its part in garbage collection.
    pub(super) fn part(&self) -> &Part {
        &self.part
    }

    /// Goes on with garbage collection in the regions that it leads.
    pub(super) fn work(&mut self, led: Vec<Arc<Region>>) {
        *self.led.lock().expect("no holder panics") = led;
        if self.is_working.replace(true) {
            return;
        }
        let (part, side, is_working) =
            (self.part.clone(), self.side.clone(), self.is_working.clone());
        let task = async move {
            part.pass(|_| pause(&side, BREATH)).await;
            is_working.set(false);
            Box::new(|| {}) as Sealed
        };
        self.begin(None, Box::pin(task));
    }

    /// Requests that were dropped without an answer.
    pub(super) fn unanswered(&self) -> u64 {
        self.storage.unanswered()
    }

    /// The highest timestamp that somebody has read at.
    pub(super) fn max_ts(&self) -> Ts {
        self.store.max_ts()
    }

    /// All lock requests that wait here.
    pub(super) fn waits(&self) -> Vec<Wait> {
        self.side.borrow().waits.values().cloned().collect()
    }

    /// The same with their numbers; no number is used twice.
    pub(super) fn numbered_waits(&self) -> Vec<(u64, Wait)> {
        let side = self.side.borrow();
        side.waits.iter().map(|(number, wait)| (*number, wait.clone())).collect()
    }

    /// Begins a task; its number.
    pub(super) fn begin(&mut self, client: Client, going: Going) -> u64 {
        self.next_task += 1;
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        self.tasks.insert(self.next_task, Task { going, woken, client });
        self.next_task
    }

    /// Drops a task that has not ended by its deadline.
    pub(super) fn abandon(&mut self, task: u64) {
        self.tasks.remove(&task);
    }

    /// Whether a task can go on, or has left something to be told.
    pub(super) fn has_woken(&self) -> bool {
        let is_woken = |task: &Task| task.woken.0.load(Ordering::Relaxed);
        !self.gate.lock().is_empty()
            || self.deadlocks.has_words()
            || self.tasks.values().any(is_woken)
    }

    /// When its threads go on, at the earliest.
    pub(super) fn stands_until(&self, now: Moment) -> Moment {
        if now < self.drowsy_until { now } else { now.max(self.hangs_until) }
    }

    /// Lets every task go on that can. `gap` draws how long a view is held back.
    pub(super) fn poll(&mut self, mut gap: impl FnMut() -> Moment) -> Polled {
        let mut ended = Vec::new();
        loop {
            let held = std::mem::take(&mut *self.gate.lock());
            for (answer, reply) in held {
                self.hold_back(answer, reply, gap());
            }
            let woken = |task: &Task| task.woken.0.swap(false, Ordering::Relaxed);
            let numbers: Vec<u64> =
                self.tasks.iter().filter(|(_, task)| woken(task)).map(|(id, _)| *id).collect();
            if numbers.is_empty() && !self.reads.turn() {
                break;
            }
            for number in numbers {
                let Some(task) = self.tasks.get_mut(&number) else { continue };
                let waker = Waker::from(task.woken.clone());
                let poll = task.going.as_mut().poll(&mut Context::from_waker(&waker));
                if let Poll::Ready(sealed) = poll {
                    ended.extend(self.tasks.remove(&number).map(|task| (task.client, sealed)));
                }
            }
        }
        let (pauses, told) = {
            let mut side = self.side.borrow_mut();
            (std::mem::take(&mut side.pauses), std::mem::take(&mut side.told))
        };
        let commands = std::mem::take(&mut *self.queue.lock());
        let stamps = std::mem::take(&mut *self.stamps.lock());
        let (questions, said) = (self.questions.take(), self.deadlocks.take());
        Polled { ended, commands, pauses, told, stamps, questions, said }
    }

    /// A pause is over; whoever made it goes on at the next poll.
    pub(super) fn ring(&mut self, bell: Slot<()>) {
        bell.fill(());
        // Slots wake nobody, so everybody looks.
        self.tasks.values().for_each(|task| task.woken.0.store(true, Ordering::Relaxed));
    }

    /// Gives a view to whoever has asked for it, a little later.
    fn hold_back(&mut self, answer: Answer<RegionView>, reply: Reply<RegionView>, gap: Moment) {
        let side = self.side.clone();
        let task = async move {
            let view = answer.await;
            if gap > 0 {
                pause(&side, gap).await;
            }
            reply.answer(view);
            Box::new(|| {}) as Sealed
        };
        self.begin(None, Box::pin(task));
    }

    /// Asks for locks until they are there or have been waited for long enough: what the edge does with a request.
    pub(super) fn lock(
        &self,
        context: RequestContext,
        command: PessimisticLock,
        patience: Moment,
    ) -> Pin<Box<dyn Future<Output = txn::Result<Vec<KeyLocked>>>>> {
        let (store, side) = (self.store.clone(), self.side.clone());
        Box::pin(async move {
            let (store, command, context) = (&store, &command, &context);
            let ask = |turn: Option<Turn>| async move {
                let permit = store.permits().acquire(super::WRITE_BYTES).await;
                store.lock(context, command, turn, permit).await
            };
            let waits = |locked: &Error| Waiting::begin(&side, command.start_ts, locked);
            until_locked(ask, pause(&side, patience), waits).await
        })
    }
}

/// Does nothing for a while.
async fn pause(side: &Rc<RefCell<Side>>, span: Moment) {
    let slot = Slot::new();
    side.borrow_mut().pauses.push((span, slot.clone()));
    slot.take().await;
}

/// A lock request that waits, for as long as it lives.
struct Waiting {
    side: Rc<RefCell<Side>>,
    number: u64,
}

impl Waiting {
    fn begin(side: &Rc<RefCell<Side>>, waiter: Ts, locked: &Error) -> Waiting {
        let Error::Locked { key, lock } = locked else {
            panic!("whoever waits is told for which lock: {locked}")
        };
        let wait = Wait { waiter, key: Key::of(key), holder: Lock::clone(lock).start_ts };
        let mut open = side.borrow_mut();
        open.next_wait += 1;
        let number = open.next_wait;
        open.waits.insert(number, wait.clone());
        open.told.push(Told::Waits(wait));
        drop(open);
        Waiting { side: side.clone(), number }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.side.borrow_mut().waits.remove(&self.number);
    }
}

/// Notes that a task can go on.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Commands on their way to the store.
#[derive(Default)]
struct Queue(Mutex<Vec<Command>>);

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Command>> {
        self.0.lock().expect("no holder panics")
    }
}

impl Commands for Queue {
    fn command(&self, command: Command) {
        self.lock().push(command);
    }

    /// Transactions do not ask.
    fn regions(&self) -> Vec<Arc<Region>> {
        Vec::new()
    }
}

/// A view that was asked for, and who has asked.
type HeldView = (Answer<RegionView>, Reply<RegionView>);

/// Storage whose views come a little after they were taken.
struct Gate {
    inner: Arc<ReplicatedStorage>,
    replies: Arc<Replies>,
    held: Mutex<Vec<HeldView>>,
}

impl Gate {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<HeldView>> {
        self.held.lock().expect("no holder panics")
    }
}

impl Storage for Gate {
    fn permits(&self) -> &Arc<Permits> {
        self.inner.permits()
    }

    fn async_get(
        &self,
        context: &RequestContext,
        family: ColumnFamily,
        key: &[u8],
    ) -> Answer<Option<Bytes>> {
        self.inner.async_get(context, family, key)
    }

    fn async_snapshot(&self, context: &RequestContext) -> Answer<RegionView> {
        let (reply, answer) = self.replies.pair();
        self.lock().push((self.inner.async_snapshot(context), reply));
        answer
    }

    fn async_write(
        &self,
        context: &RequestContext,
        batch: WriteBatch,
        permit: Permit,
    ) -> Answer<()> {
        self.inner.async_write(context, batch, permit)
    }

    fn regions(&self) -> Vec<Arc<Region>> {
        self.inner.regions()
    }
}

/// Timestamps that the executor has asked the scheduler for.
struct Stamps {
    clock: Arc<dyn Clock>,
    replies: Arc<Replies>,
    asked: Mutex<Vec<Reply<Ts>>>,
}

impl Stamps {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Reply<Ts>>> {
        self.asked.lock().expect("no holder panics")
    }
}

impl Timestamps for Stamps {
    fn newest(&self) -> Pin<Box<dyn Future<Output = Ts> + Send + '_>> {
        let (reply, answer) = self.replies.pair();
        self.lock().push(reply);
        Box::pin(async {
            match answer.await {
                Ok(ts) => ts,
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn passed(&self) -> Duration {
        self.clock.monotonic()
    }
}
