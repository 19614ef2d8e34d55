//! What passes between a client of transactions and the world: wishes go out, and what comes back fills slots.
//!
//! A client is a future. It awaits [`Slot`]s only; the world fills one, and then lets the client go on. Nobody wakes
//! anybody: a client is polled when something has come for it, and at no other time.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use skerry_kv::storage::RequestContext;
use skerry_kv::txn;
use skerry_kv::txn::pessimistic_lock::{KeyLocked, PessimisticLock};
use skerry_kv::txn::{ReadCommand, WriteCommand};
use skerry_proto::metapb::{Peer, Region};
use skerry_proto::types::{StoreId, Ts};

use super::server::{Going, Server};
use crate::sim::trace::Moment;

/// A place for one thing that will come.
pub(in crate::sim) struct Slot<T>(Rc<RefCell<Option<T>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Slot<T> {
        Slot(self.0.clone())
    }
}

impl<T> Slot<T> {
    pub(super) fn new() -> Slot<T> {
        Slot(Rc::default())
    }

    /// Puts it there. What comes a second time is not listened to.
    pub(super) fn fill(&self, thing: T) {
        self.0.borrow_mut().get_or_insert(thing);
    }

    /// Waits until it is there.
    pub(super) async fn take(self) -> T {
        poll_fn(|_| match self.0.borrow_mut().take() {
            Some(thing) => Poll::Ready(thing),
            None => Poll::Pending,
        })
        .await
    }
}

/// A region as a client knows it.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) region: Region,
    pub(super) leader: Option<Peer>,
}

/// Something that is done when it reaches its client.
pub(in crate::sim) type Sealed = Box<dyn FnOnce()>;

/// A request on its way to a store.
pub(in crate::sim) struct Parcel {
    /// What it is called in the story.
    pub(super) name: &'static str,
    /// To whom.
    pub(super) store: StoreId,
    /// For which region.
    pub(super) region: u64,
    /// How long it may wait there for others, beyond the time that any request takes.
    pub(super) waits: Moment,
    /// Begins to serve it. It may arrive twice.
    pub(super) begin: Box<dyn Fn(&Server) -> Going>,
    /// Tells the client that no answer came in time.
    pub(super) give_up: RefCell<Option<Sealed>>,
}

/// What a client wants of the world.
pub(super) enum Wish {
    /// To be left alone for a while.
    Pause(Moment, Slot<()>),
    /// A timestamp.
    Stamp(Slot<Ts>),
    /// The region of a key, as boundaries are written, and who leads it.
    LookUp(Vec<u8>, Slot<Option<Route>>),
    /// A request to be carried.
    Send(Parcel),
    /// A line of the story.
    Tell(String),
    /// Something to be counted.
    Count(&'static str),
}

/// What came of a request.
pub(super) enum Heard<T> {
    /// An answer.
    Answer(txn::Result<T>),
    /// Nothing, for so long that nothing will come.
    Silence,
}

/// Where a client puts its wishes.
#[derive(Clone, Default)]
pub(super) struct Outbox(Rc<RefCell<Vec<Wish>>>);

impl Outbox {
    pub(super) fn wish(&self, wish: Wish) {
        self.0.borrow_mut().push(wish);
    }

    pub(super) fn take(&self) -> Vec<Wish> {
        std::mem::take(&mut self.0.borrow_mut())
    }

    /// Does nothing for a while.
    pub(super) async fn pause(&self, span: Moment) {
        let slot = Slot::new();
        self.wish(Wish::Pause(span, slot.clone()));
        slot.take().await;
    }

    /// A new timestamp.
    pub(super) async fn stamp(&self) -> Ts {
        let slot = Slot::new();
        self.wish(Wish::Stamp(slot.clone()));
        slot.take().await
    }

    /// Sends a read.
    pub(super) fn read<C>(
        &self,
        name: &'static str,
        to: &Address,
        command: C,
    ) -> Slot<Heard<C::Answer>>
    where
        C: ReadCommand + Clone + 'static,
    {
        let context = to.context;
        self.send(name, to, move |server| {
            let (store, command) = (server.store(), command.clone());
            Box::pin(async move { store.read(&context, command).await })
        })
    }

    /// Sends a write.
    pub(super) fn write<C>(&self, to: &Address, command: C) -> Slot<Heard<C::Answer>>
    where
        C: WriteCommand + Clone + 'static,
    {
        let context = to.context;
        self.send(command.name(), to, move |server| {
            let (store, command) = (server.store(), command.clone());
            Box::pin(async move {
                let permit = store.permits().acquire(super::WRITE_BYTES).await;
                store.write(&context, &command, permit).await
            })
        })
    }

    /// Asks for locks, and waits at the store for at most `patience`.
    pub(super) fn lock(
        &self,
        to: &Address,
        command: PessimisticLock,
        patience: Moment,
    ) -> Slot<Heard<Vec<KeyLocked>>> {
        let context = to.context;
        let run = move |server: &Server| server.lock(context, command.clone(), patience);
        self.send_to_wait("lock", to, patience, run)
    }

    /// Sends anything.
    pub(super) fn send<T: 'static>(
        &self,
        name: &'static str,
        to: &Address,
        run: impl Fn(&Server) -> Pin<Box<dyn Future<Output = txn::Result<T>>>> + 'static,
    ) -> Slot<Heard<T>> {
        self.send_to_wait(name, to, 0, run)
    }

    /// Sends what may wait for others for so long.
    fn send_to_wait<T: 'static>(
        &self,
        name: &'static str,
        to: &Address,
        waits: Moment,
        run: impl Fn(&Server) -> Pin<Box<dyn Future<Output = txn::Result<T>>>> + 'static,
    ) -> Slot<Heard<T>> {
        let slot = Slot::new();
        let (answered, late) = (slot.clone(), slot.clone());
        let begin = move |server: &Server| {
            let (running, answered) = (run(server), answered.clone());
            Box::pin(async move {
                let answer = running.await;
                Box::new(move || answered.fill(Heard::Answer(answer))) as Sealed
            }) as Going
        };
        let give_up: Sealed = Box::new(move || late.fill(Heard::Silence));
        self.wish(Wish::Send(Parcel {
            name,
            store: to.store,
            region: to.region,
            waits,
            begin: Box::new(begin),
            give_up: RefCell::new(Some(give_up)),
        }));
        slot
    }
}

/// To which store a request goes, and for which region it is.
#[derive(Clone, Copy, Debug)]
pub(in crate::sim) struct Address {
    pub(super) store: StoreId,
    pub(super) region: u64,
    context: RequestContext,
}

impl Address {
    pub(super) fn of(region: &Region, peer: Peer) -> Address {
        let context = RequestContext {
            region_id: region.region_id(),
            epoch: region.epoch(),
            peer_id: peer.peer_id(),
            store_id: peer.store(),
            term: None,
            api_version: 0,
            replica_read: false,
        };
        Address { store: peer.store(), region: region.id, context }
    }

    pub(super) fn context(&self) -> RequestContext {
        self.context
    }
}
