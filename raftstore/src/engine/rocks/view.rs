//! Views and cursors over RocksDB, and the list of who holds a view.
//!
//! A view keeps the database open and pins one of its snapshots; both live in one self-referencing
//! cell, so that the snapshot cannot outlive the database. Cursors borrow the view.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;
use rocksdb::{ColumnFamily as Handle, DB, DBRawIterator, ReadOptions, Snapshot};
use self_cell::self_cell;

use crate::engine::{ColumnFamily, Cursor, KeyRange, View};
use crate::time::fatal;
use crate::{Error, Result};

/// The handle of a family.
pub(super) fn handle(database: &DB, family: ColumnFamily) -> &Handle {
    database.cf_handle(family.name()).expect("every family was opened with the database")
}

/// What a read does that meets a block whose checksum is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenDamaged {
    /// It says so, and other keys are read on.
    Tell,
    /// It ends the process: others have the data, and as long as this store leads nobody asks them.
    End,
}

impl WhenDamaged {
    fn judge(self, operation: &'static str, path: &Path, error: rocksdb::Error) -> Error {
        let error = Error::engine(operation, path, error);
        if self == WhenDamaged::End && matches!(error, Error::Damaged { .. }) {
            fatal(&format!("{error}; let the cluster replace this store by a new one"));
        }
        error
    }
}

/// Copies a value out of RocksDB: the one copy of a read.
pub(super) fn get(
    database: &DB,
    family: ColumnFamily,
    key: &[u8],
    options: &ReadOptions,
    damage: WhenDamaged,
) -> Result<Option<Bytes>> {
    let value = database.get_pinned_cf_opt(handle(database, family), key, options);
    let value = value.map_err(|error| damage.judge("get", database.path(), error))?;
    Ok(value.map(|value| Bytes::copy_from_slice(&value)))
}

/// A snapshot, and read options that name it.
struct Moment<'a> {
    /// Pins every value that was current at the moment.
    snapshot: Snapshot<'a>,
    /// For gets: made once, because making options costs as much as a read from memory. They hold a
    /// plain pointer to the snapshot, so they must not leave this struct.
    options: ReadOptions,
}

self_cell!(
    struct Pinned {
        owner: Arc<DB>,
        #[covariant]
        dependent: Moment,
    }
);

/// The state of one moment (contract, 5).
pub(super) struct RocksView {
    pinned: Pinned,
    /// Whom to tell when it goes.
    holders: Arc<Holders>,
    /// What it is called there.
    ticket: u64,
    damage: WhenDamaged,
}

impl RocksView {
    /// Takes the present state. Entered among the holders first, so that `close` cannot miss a view that
    /// is just being taken.
    pub(super) fn new(database: Arc<DB>, holders: Arc<Holders>, damage: WhenDamaged) -> RocksView {
        let ticket = holders.enter();
        let pinned = Pinned::new(database, |database| {
            let snapshot = database.snapshot();
            let mut options = ReadOptions::default();
            options.set_snapshot(&snapshot);
            Moment { snapshot, options }
        });
        RocksView { pinned, holders, ticket, damage }
    }
}

impl Drop for RocksView {
    fn drop(&mut self) {
        self.holders.leave(self.ticket);
    }
}

impl View for RocksView {
    fn get(&self, family: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>> {
        let options = &self.pinned.borrow_dependent().options;
        get(self.pinned.borrow_owner(), family, key, options, self.damage)
    }

    fn cursor(&self, family: ColumnFamily, range: &KeyRange) -> Result<Box<dyn Cursor + '_>> {
        Ok(self.cursor_for(Walk::Anywhere, family, range))
    }

    fn cursor_of_versions(
        &self,
        family: ColumnFamily,
        range: &KeyRange,
    ) -> Result<Box<dyn Cursor + '_>> {
        Ok(self.cursor_for(Walk::AtOneKey, family, range))
    }

    fn cursor_once(&self, family: ColumnFamily, range: &KeyRange) -> Result<Box<dyn Cursor + '_>> {
        Ok(self.cursor_for(Walk::Once, family, range))
    }
}

/// What a cursor is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// It moves among different keys.
    Anywhere,
    /// It stays at one key, and asks the filters over keys without their timestamps (`options::user_key`).
    AtOneKey,
    /// It moves among different keys, and leaves the block cache to others.
    Once,
}

impl RocksView {
    fn cursor_for(
        &self,
        walk: Walk,
        family: ColumnFamily,
        range: &KeyRange,
    ) -> Box<dyn Cursor + '_> {
        let database: &DB = self.pinned.borrow_owner();
        let mut options = ReadOptions::default();
        options.set_total_order_seek(walk != Walk::AtOneKey);
        options.fill_cache(walk != Walk::Once);
        // RocksDB wants bounds that are not reversed.
        let end = if range.is_empty() { &range.start } else { &range.end };
        options.set_iterate_lower_bound(&range.start[..]);
        if !end.is_empty() {
            options.set_iterate_upper_bound(&end[..]);
        }
        let snapshot = &self.pinned.borrow_dependent().snapshot;
        let iterator = snapshot.raw_iterator_cf_opt(handle(database, family), options);
        Box::new(RocksCursor { iterator, path: database.path(), damage: self.damage })
    }
}

/// An iterator whose bounds RocksDB keeps: it then skips files and blocks outside of them.
struct RocksCursor<'a> {
    /// Owns its read options, and with them the bytes of the bounds.
    iterator: DBRawIterator<'a>,
    /// For messages.
    path: &'a Path,
    damage: WhenDamaged,
}

impl RocksCursor<'_> {
    /// Whether the last movement ended on a pair; an invalid iterator may also mean a failed read.
    fn standing(&self) -> Result<bool> {
        if self.iterator.valid() {
            return Ok(true);
        }
        let status = self.iterator.status();
        status.map(|()| false).map_err(|error| self.damage.judge("scan", self.path, error))
    }

    /// The binding would take the movement for nothing to do.
    fn assert_standing(&self) {
        assert!(self.iterator.valid(), "a cursor was moved that stands nowhere");
    }
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<bool> {
        self.iterator.seek(key);
        self.standing()
    }

    fn seek_for_previous(&mut self, key: &[u8]) -> Result<bool> {
        self.iterator.seek_for_prev(key);
        self.standing()
    }

    fn seek_to_first(&mut self) -> Result<bool> {
        self.iterator.seek_to_first();
        self.standing()
    }

    fn seek_to_last(&mut self) -> Result<bool> {
        self.iterator.seek_to_last();
        self.standing()
    }

    fn next(&mut self) -> Result<bool> {
        self.assert_standing();
        self.iterator.next();
        self.standing()
    }

    fn previous(&mut self) -> Result<bool> {
        self.assert_standing();
        self.iterator.prev();
        self.standing()
    }

    fn key(&self) -> &[u8] {
        self.iterator.key().expect("a cursor was read that stands nowhere")
    }

    fn value(&self) -> &[u8] {
        self.iterator.value().expect("a cursor was read that stands nowhere")
    }
}

/// Who holds views: a ticket for each, with the thread that took it. The mutex is held for a map
/// operation only, much shorter than the one RocksDB takes for the snapshot itself.
#[derive(Default)]
pub(super) struct Holders {
    tickets: Mutex<Tickets>,
    empty: Condvar,
}

#[derive(Default)]
struct Tickets {
    /// The last ticket given out.
    last: u64,
    /// The thread that took each view still held. Its handle is shared, so that entering copies no name.
    held: BTreeMap<u64, Thread>,
}

impl Holders {
    /// How many views are held.
    pub(super) fn count(&self) -> usize {
        self.lock().held.len()
    }

    /// Waits until no view is held; when that takes longer than `timeout`, says which threads took
    /// those that are left.
    pub(super) fn wait_until_empty(&self, timeout: Duration) -> std::result::Result<(), String> {
        let held = |tickets: &mut Tickets| !tickets.held.is_empty();
        let waited = self.empty.wait_timeout_while(self.lock(), timeout, held);
        let (tickets, _) = waited.expect("nothing panics while it holds this lock");
        if tickets.held.is_empty() {
            return Ok(());
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for thread in tickets.held.values() {
            *counts.entry(thread.name().unwrap_or("without a name")).or_default() += 1;
        }
        let names: Vec<String> =
            counts.iter().map(|(thread, count)| format!("{count} by thread {thread}")).collect();
        Err(format!("views are still held after {timeout:?}: {}", names.join(", ")))
    }

    fn enter(&self) -> u64 {
        let thread = std::thread::current();
        let mut tickets = self.lock();
        tickets.last += 1;
        let ticket = tickets.last;
        tickets.held.insert(ticket, thread);
        ticket
    }

    fn leave(&self, ticket: u64) {
        let mut tickets = self.lock();
        tickets.held.remove(&ticket);
        if tickets.held.is_empty() {
            self.empty.notify_all();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tickets> {
        self.tickets.lock().expect("nothing panics while it holds this lock")
    }
}
