//! The store as a library: a database in a directory, in this process.
//!
//! ```no_run
//! use skerry_kv::embedded::{Db, Error};
//!
//! # fn main() -> Result<(), Error> {
//! let db = Db::open("./data")?;
//! db.put("apple", "red")?;
//! assert_eq!(db.get("apple")?, Some(b"red".to_vec()));
//! assert!(!db.update("pear", "green")?, "there is no pear to change");
//!
//! // All of it or nothing; run again if another transaction was faster.
//! db.transaction(|txn| {
//!     let count = txn.get("visits")?.map_or(0, |text| text.len());
//!     txn.put("visits", "x".repeat(count + 1))
//! })?;
//! db.close()
//! # }
//! ```
//!
//! # What it is
//!
//! * Calls block, from any thread; `&Db` can be shared. No runtime is needed, and none is in the way: in asynchronous
//!   code make the calls where blocking is allowed (`spawn_blocking`).
//! * [`Db::open`] has one server, without any socket. [`Db::from_config`] may have three or five, which replicate
//!   over gRPC: then each has all data, and TiKV clients can come as well.
//! * There are two kinds of pairs, and they do not see each other: **raw** ones ([`Db::put`]), each changed by itself,
//!   and those of **transactions** ([`Db::transaction`]), of which many change at once.
//!
//! # What it promises
//!
//! 1. What has returned is durable: it survives the death of the process and of the machine.
//! 2. Raw calls on one key happen one after the other, whichever threads make them: a [`Db::get`] sees what was put
//!    before it began, and [`Db::update`] and [`Db::remove`] change what is there at that moment or nothing.
//! 3. Transactions are isolated by snapshots: each reads as of its beginning, and of two that overlap and write
//!    the same key one fails, and is run again.
//! 4. What a transaction sees stays for as long as old versions live, ten minutes unless [`Settings`] say otherwise.
//!    One that is older is refused ([`Error::TooOld`]), when it reads and when it commits.
//! 5. A directory is open once. Dropping a [`Db`] closes it as [`Db::close`] does, but tells nobody what went wrong.
//! 6. A disk that fails to write ends the process: nobody could say what it has kept.
//!
//! # How it is made
//!
//! | file | what it is |
//! | --- | --- |
//! | [`settings`] | the YAML file |
//! | `alone`, `placement` | one server: its store, and its scheduler's pure parts |
//! | `collector` | drops its old versions |
//! | `fleet` | several servers and their scheduler, on a runtime of their own |
//! | `client` | finds the store that leads a region, and calls it until it answers |
//! | `transaction`, `commit`, `resolve` | what a transactional client does |
//! | `wait` | waits on the caller's thread |
//!
//! What it does not do: there is no lock in advance (pessimistic transactions are for clients of the wire).

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use skerry_raftstore::time::SystemClock;
use slog::{Discard, Logger, o};

use self::alone::Alone;
use self::client::{Client, PATIENCE};
use self::fleet::Fleet;
use self::wait::Patience;
use crate::config::Config;
use crate::logging::{self, LogConfig, LogLevel, Logging};
use crate::raw::{CompareAndSwap, Ordering, Put, Scan, Swap};

mod alone;
pub(crate) mod client;
mod collector;
mod commit;
mod error;
mod fleet;
mod placement;
mod resolve;
pub mod settings;
#[cfg(test)]
mod tests;
mod transaction;
mod wait;

pub use error::{Error, Result};
pub use settings::Settings;
pub use transaction::Transaction;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The raw pairs that one request of a scan asks for.
const SCAN_PAIRS_MAX: usize = 10_240;

/// See the head of this file.
pub struct Db {
    /// Taken by the end.
    open: Option<Open>,
}

struct Open {
    client: Client,
    servers: Servers,
    /// Of `debug`; it ends after what it tells of.
    _logging: Option<Logging>,
}

enum Servers {
    Alone(Box<Alone>),
    Fleet(Fleet),
}

impl Db {
    /// Opens the database in `path`, or makes one. A path that is open already is refused.
    pub fn open(path: impl AsRef<Path>) -> Result<Db> {
        Db::with(&Settings::at(path.as_ref()))
    }

    /// Opens what a YAML file describes; its keys are in [`settings`].
    pub fn from_config(file: impl AsRef<Path>) -> Result<Db> {
        Db::with(&Settings::read(file.as_ref())?)
    }

    /// Opens what these settings describe.
    pub fn with(settings: &Settings) -> Result<Db> {
        settings.check().map_err(Error::Invalid)?;
        let logging = settings
            .debug
            .then(|| logging::start(&LogConfig { level: LogLevel::Debug, ..LogConfig::default() }));
        let logger = logging
            .as_ref()
            .map_or_else(|| Logger::root(Discard, o!()), |logging| logging.logger.clone());
        let (client, servers) = match settings.servers {
            1 => {
                fleet::refuse_other_count(&settings.path, 1)?;
                let config = Config { scheduler: settings.scheduler(), ..Config::default() };
                let clock = Arc::new(SystemClock);
                let (alone, client) = Alone::open(&settings.path, &config, clock, &logger)?;
                (client, Servers::Alone(Box::new(alone)))
            }
            _ => {
                let (fleet, client) = Fleet::open(settings, logger)?;
                (client, Servers::Fleet(fleet))
            }
        };
        Ok(Db { open: Some(Open { client, servers, _logging: logging }) })
    }

    /// The value of a raw key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        let key = key.as_ref();
        let value = self.client().at(key, |target| {
            Ok(target.wait(target.member.raw.get(&target.context, "", key))?)
        })?;
        Ok(value.map(Vec::from))
    }

    /// Sets the value of a raw key, whether or not it is there.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Result<()> {
        let (key, value) = (Bytes::copy_from_slice(key.as_ref()), Bytes::from(value.into()));
        self.client().at(&key, |target| {
            let store = &target.member.raw;
            let permit = target.wait(store.permits().acquire(key.len() + value.len()));
            let put = Put { key: key.clone(), value: value.clone(), ttl_seconds: 0 };
            let put = store.put(&target.context, "", vec![put], Ordering::ForCas, permit);
            Ok(target.wait(put)?)
        })
    }

    /// Sets the value of a raw key that is there. `false`: it is not, and nothing was changed.
    pub fn update(&self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Result<bool> {
        let value = Bytes::from(value.into());
        self.swap_what_is_there(key.as_ref(), &Swap::Put { value, ttl_seconds: 0 })
    }

    /// Removes a raw key. `false`: it was not there.
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.swap_what_is_there(key.as_ref(), &Swap::Delete)
    }

    /// At most `limit` raw pairs with keys from `start` up to and without `end`, by key. An empty `end` is no
    /// bound. What is written meanwhile may be in it or not.
    pub fn scan(
        &self,
        start: impl AsRef<[u8]>,
        end: impl AsRef<[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>> {
        let (mut from, end) = (Bytes::copy_from_slice(start.as_ref()), end.as_ref());
        let mut found: Vec<Pair> = Vec::new();
        while found.len() < limit && reaches(&from, end) {
            let wanted = (limit - found.len()).min(SCAN_PAIRS_MAX);
            let (pairs, behind) = self.client().at(&from, |target| {
                let ranges = vec![(from.clone(), Bytes::copy_from_slice(end))];
                let scan = Scan { ranges, limit: wanted as u32, ..Scan::default() };
                let pairs = target.wait(target.member.raw.scan(&target.context, "", scan))?;
                Ok((pairs, target.region.end_key.clone()))
            })?;
            let is_all = pairs.len() < wanted;
            let pairs = pairs.into_iter().map(|pair| (pair.key.into(), pair.value.into()));
            found.extend::<Vec<Pair>>(pairs.collect());
            if is_all && behind.is_empty() {
                break;
            }
            from = match (is_all, found.last()) {
                (false, Some((last, _))) => [last, &[0][..]].concat().into(),
                _ => behind,
            };
        }
        Ok(found)
    }

    /// Runs `work` in a transaction and commits it. If another one was faster, all is done again, after a pause;
    /// so `work` should change nothing but through its transaction. If it fails nothing is written.
    pub fn transaction<T, E: From<Error>>(
        &self,
        mut work: impl FnMut(&mut Transaction<'_>) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let mut patience: Option<Patience> = None;
        loop {
            let mut txn = self.begin();
            let seed = txn.start_ts();
            let done = work(&mut txn)?;
            let error = match txn.commit() {
                Ok(()) => return Ok(done),
                Err(error) if error.is_worth_another_attempt() => error,
                Err(error) => return Err(error.into()),
            };
            if !patience.get_or_insert_with(|| Patience::of(PATIENCE, seed)).pause() {
                return Err(error.into());
            }
        }
    }

    /// Begins a transaction, for who wants to commit it by hand or to read many keys of one moment.
    pub fn begin(&self) -> Transaction<'_> {
        Transaction::begin(self.client())
    }

    /// Closes the database: answers what was accepted and lets go of the directory.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(Open { client, servers, _logging }) = self.open.take() else { return Ok(()) };
        // It holds parts of the servers.
        drop(client);
        match servers {
            Servers::Alone(alone) => Ok(alone.stop()?),
            Servers::Fleet(fleet) => fleet.stop(),
        }
    }

    fn client(&self) -> &Client {
        &self.open.as_ref().expect("only the end takes it").client
    }

    /// Swaps whatever value a key has; `false` if it has none.
    fn swap_what_is_there(&self, key: &[u8], swap: &Swap) -> Result<bool> {
        let mut expected = self.get(key)?.map(Bytes::from);
        while expected.is_some() {
            let key = Bytes::copy_from_slice(key);
            let request =
                CompareAndSwap { key: key.clone(), expected: expected.clone(), swap: swap.clone() };
            let bytes = key.len() + swap_bytes(swap);
            let swapped = self.client().at(&key, |target| {
                let store = &target.member.raw;
                let permit = target.wait(store.permits().acquire(bytes));
                let swap = store.compare_and_swap(&target.context, "", request.clone(), permit);
                Ok(target.wait(swap)?)
            })?;
            if swapped.succeeded {
                return Ok(true);
            }
            // Somebody was faster: what they left is there now.
            expected = swapped.previous;
        }
        Ok(false)
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.end();
    }
}

fn swap_bytes(swap: &Swap) -> usize {
    match swap {
        Swap::Put { value, .. } => value.len(),
        Swap::Delete => 0,
    }
}

/// Whether a range from `from` to `end` may hold a key; an empty `end` is no bound.
fn reaches(from: &[u8], end: &[u8]) -> bool {
    end.is_empty() || from < end
}
