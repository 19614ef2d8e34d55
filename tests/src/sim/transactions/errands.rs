//! What clients of transactions do: a bank, lists that grow, and pairs that lean on each other.
//!
//! | errand | reads | writes |
//! | --- | --- | --- |
//! | transfer | two accounts | both, so that their total stays |
//! | audit | all accounts, one of them twice | nothing: the total must be what it was at the beginning |
//! | append | one or two lists | their values with one entry more |
//! | blind write | nothing, but a pessimistic one locks the first | one to three lists anew |
//! | skew | two lists | one of them; now and then it holds the other by a lock |
//! | removal | a list | removes it |
//! | index | the first list | that list, and an entry of an index that nobody reads, without locking it |
//! | prophecy | a list, at a timestamp that nobody was given | nothing, and must not move commits there |
//! | knot | some strings, which it locks one after the other, with pauses and long patience | the same |
//!
//! Every value has a part that occurs nowhere else, so that a read tells whose write it saw. Keys are spread over the
//! letters, so that regions are cut between them.

use bytes::Bytes;
use skerry_kv::mvcc::{Key, ReadRules};
use skerry_kv::txn::Error;
use skerry_kv::txn::get::Get;
use skerry_kv::txn::prewrite::Change;
use skerry_proto::types::Ts;
use skerry_raftstore::time::splitmix64;

use super::client::{Came, Client};
use super::percolator::{Stop, Style, Txn};
use crate::sim::chance::Chance;
use crate::sim::clients::KEYS;
use crate::sim::trace::{MILLISECOND, Moment, SECOND};

/// What every account has at the beginning.
const BALANCE: u64 = 100;

/// Entries of the index.
const ENTRIES: u64 = 2;

/// Keys that are there to be tied.
const STRINGS: u64 = 3;

/// Of a hundred transactions, those that ask for what is to come.
const PROPHETS: u64 = 1;

/// How long whoever ties them waits for others: long enough that only who looks for circles breaks one in a second.
const LONG_PATIENCE: (Moment, Moment) = (2 * SECOND, 4 * SECOND);

/// Bytes after which a list begins anew. Long values lie elsewhere than short ones.
const LIST_BYTES_MAX: usize = 330;

/// What clients of a seed are like.
#[derive(Clone, Debug)]
pub(super) struct Manner {
    pub(super) accounts: Vec<Key>,
    pub(super) lists: Vec<Key>,
    entries: Vec<Key>,
    strings: Vec<Key>,
    /// Of a hundred transactions, those that tie knots.
    knotted: u64,
    /// Of a hundred transactions, those that write an entry of the index.
    indexed: u64,
    /// The longest pause between two errands.
    pause_max: Moment,
    /// Of a hundred transactions, those that lock in advance.
    pessimistic: u64,
}

impl Manner {
    pub(super) fn of_seed(seed: u64) -> Manner {
        let mut chance = Chance::new(seed, "errands");
        let accounts = chance.between(3, 6);
        let lists = chance.between(2, 8);
        let all = accounts + lists + ENTRIES + STRINGS;
        let step = KEYS / all;
        let mut keys: Vec<Key> =
            (0..all).map(|number| Key::of(&crate::sim::clients::key(number * step))).collect();
        chance.shuffle(&mut keys);
        let mut lists = keys.split_off(accounts as usize);
        let strings = lists.split_off(lists.len() - STRINGS as usize);
        let entries = lists.split_off(lists.len() - ENTRIES as usize);
        Manner {
            accounts: keys,
            lists,
            entries,
            strings,
            knotted: chance.pick(&[2, 5, 12]).expect("there are several"),
            indexed: chance.pick(&[5, 20, 50]).expect("there are several"),
            pause_max: chance.pick(&[5, 40, 120]).expect("there are several") * MILLISECOND,
            pessimistic: chance.pick(&[20, 50, 80]).expect("there are several"),
        }
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        let all = self.accounts.iter().chain(&self.lists).chain(&self.entries);
        all.chain(&self.strings).cloned().collect()
    }
}

/// What a client is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Errand {
    Open,
    Transfer,
    Audit,
    Append,
    BlindWrite,
    Skew,
    Removal,
    Index,
    Prophecy,
    Knot,
}

/// A client's draws in one of its lives.
pub(super) fn chance_of(seed: u64, number: usize, life: u64) -> Chance {
    Chance::new(splitmix64(seed ^ life << 32) ^ number as u64, "transactions")
}

/// A life: one errand after the other, for as long as the run is busy.
pub(super) async fn live(mut client: Client, manner: Manner) {
    let mut again = None;
    loop {
        let pause = client.chance.between(MILLISECOND, manner.pause_max);
        client.outbox.pause(pause).await;
        if !client.shared.is_busy.get() {
            continue;
        }
        let errand = match client.chance.below(100) {
            _ if again.is_some() || client.chance.percent(manner.knotted) => Errand::Knot,
            _ if client.chance.percent(manner.indexed) => Errand::Index,
            _ if client.chance.percent(PROPHETS) => Errand::Prophecy,
            // Somebody has to open the bank; that it is open already does no harm.
            0..5 => Errand::Open,
            5..35 => Errand::Transfer,
            35..50 => Errand::Audit,
            50..65 => Errand::Append,
            65..85 => Errand::BlindWrite,
            85..95 => Errand::Skew,
            _ => Errand::Removal,
        };
        let is_pessimistic = errand == Errand::Knot || client.chance.percent(manner.pessimistic);
        let style = match client.chance.below(3) {
            0 => Style::TwoPhases,
            1 => Style::Async,
            _ => Style::OnePhase,
        };
        let mut txn = Txn::begin(&mut client, is_pessimistic, style).await;
        let told = format!("{} begins: {errand:?}, {is_pessimistic}, {style:?}", txn.start_ts);
        client.tell(told);
        let outcome = run(&mut client, &manner, errand, &mut txn).await;
        // Who was refused for the sake of others tries again when they have ended.
        again =
            Some(errand).filter(|errand| *errand == Errand::Knot && outcome == Err(Stop::Refused));
        let told = format!("{} ends: {outcome:?}", txn.start_ts);
        client.tell(told);
        match outcome {
            Ok(()) => client.ended.set(client.ended.get() + 1),
            Err(Stop::Idle) => {
                client.ended.set(client.ended.get() + 1);
                client.roll_back(&txn).await;
            }
            Err(Stop::Refused) => {
                client.count("txn: refused");
                client.ended.set(client.ended.get() + 1);
                client.roll_back(&txn).await;
            }
            Err(Stop::Unknown) => {
                // Nothing may be undone: it may be committed, here or by whoever finds its locks.
                client.count("txn: of unknown outcome");
            }
        }
        client.current.set(Ts::ZERO);
    }
}

/// The last client: ends all locks that others have left, and reads everything.
pub(super) async fn close(mut client: Client, manner: Manner) {
    let keys = manner.keys();
    let mut txn = Txn::begin(&mut client, false, Style::TwoPhases).await;
    while client.sweep(&mut txn, &keys).await > 0 {
        client.outbox.pause(SECOND / 2).await;
    }
    let mut last = Txn::begin(&mut client, false, Style::TwoPhases).await;
    for key in &keys {
        while client.read(&mut last, key).await.is_err() {}
    }
    client.ended.set(client.ended.get() + 1);
}

async fn run(
    client: &mut Client,
    manner: &Manner,
    errand: Errand,
    txn: &mut Txn,
) -> Result<(), Stop> {
    match errand {
        Errand::Audit => return audit(client, manner, txn).await,
        Errand::Prophecy => return prophesy(client, manner, txn).await,
        Errand::Open => open(client, manner, txn).await?,
        Errand::Transfer => transfer(client, manner, txn).await?,
        Errand::Append => append(client, manner, txn).await?,
        Errand::BlindWrite => {
            let keys = client.some(&manner.lists, 3);
            if txn.is_pessimistic {
                // The others are written without a lock, as entries of an index are.
                client.lock(txn, &keys[..1]).await?;
            }
            for key in keys {
                let value = client.value("");
                txn.change(key, Change::Put(value.into()));
            }
        }
        Errand::Skew => skew(client, manner, txn).await?,
        Errand::Removal => {
            let key = client.some(&manner.lists, 1).remove(0);
            if client.see(txn, std::slice::from_ref(&key)).await?[0].is_none() {
                return Err(Stop::Idle);
            }
            txn.change(key, Change::Delete);
        }
        Errand::Index => index(client, manner, txn).await?,
        Errand::Knot => knot(client, manner, txn).await?,
    }
    if txn.is_pessimistic && client.chance.percent(10) {
        client.heart_beat(txn).await;
    }
    if client.chance.percent(10) {
        let span = client.chance.below(SECOND / 2);
        client.outbox.pause(span).await;
    }
    if txn.is_pessimistic && client.chance.percent(40) {
        client.begin_statement(txn).await;
    }
    client.commit(txn).await
}

async fn open(client: &mut Client, manner: &Manner, txn: &mut Txn) -> Result<(), Stop> {
    let found = client.see(txn, &manner.accounts).await?;
    if found.iter().any(Option::is_some) {
        return Err(Stop::Idle);
    }
    for key in &manner.accounts {
        let value = client.balance(BALANCE);
        txn.change(key.clone(), Change::Put(value));
    }
    Ok(())
}

async fn transfer(client: &mut Client, manner: &Manner, txn: &mut Txn) -> Result<(), Stop> {
    let keys = {
        let mut keys = manner.accounts.clone();
        client.chance.shuffle(&mut keys);
        keys.truncate(2);
        keys
    };
    let found = client.see(txn, &keys).await?;
    let [Some(from), Some(to)] = &found[..] else { return Err(Stop::Idle) };
    let (from, to) = (amount(from), amount(to));
    let moved = client.chance.below(20).min(from);
    for (key, amount) in keys.into_iter().zip([from - moved, to + moved]) {
        let value = client.balance(amount);
        txn.change(key, Change::Put(value));
    }
    Ok(())
}

/// The total of all accounts is what it was when the bank opened.
async fn audit(client: &mut Client, manner: &Manner, txn: &mut Txn) -> Result<(), Stop> {
    let mut keys = manner.accounts.clone();
    client.chance.shuffle(&mut keys);
    let mut found = Vec::new();
    for key in &keys {
        found.push(client.read(txn, key).await?);
    }
    let open = found.iter().flatten().count();
    let total: u64 = found.iter().flatten().map(|value| amount(value)).sum();
    if (open, total) != (0, 0) && (open, total) != (keys.len(), BALANCE * keys.len() as u64) {
        let start_ts = txn.start_ts;
        client.is_wrong(format!("at {start_ts} {open} accounts of {keys:?} have {total}"));
    }
    if client.chance.percent(40) {
        let span = client.chance.below(3 * SECOND);
        client.outbox.pause(span).await;
        client.read(txn, &keys[0]).await?;
        client.count("txn: snapshot read again later");
    }
    Ok(())
}

/// Nobody sees what is committed above such a read, should it be let in: the history shows it.
async fn prophesy(client: &mut Client, manner: &Manner, txn: &Txn) -> Result<(), Stop> {
    let key = client.some(&manner.lists, 1).remove(0);
    let ahead_ms = client.chance.between(60_000, 600_000);
    let at = Ts::compose(txn.start_ts.physical_ms() + ahead_ms, 0);
    let came = client.one(&key, |outbox, to| {
        let (context, get) = (to.context(), Get { key: key.clone(), rules: ReadRules::at(at) });
        outbox.send("get", to, move |server| {
            let (store, get) = (server.store(), get.clone());
            Box::pin(async move { store.read(&context, get).await })
        })
    });
    if let Came::Error(Error::NotGiven { .. }) = came.await {
        client.count("txn: read at a timestamp that nobody was given refused");
    }
    Err(Stop::Idle)
}

async fn append(client: &mut Client, manner: &Manner, txn: &mut Txn) -> Result<(), Stop> {
    let keys = client.some(&manner.lists, 2);
    let found = client.see(txn, &keys).await?;
    for (key, before) in keys.into_iter().zip(found) {
        let before = before.filter(|before| before.len() < LIST_BYTES_MAX).unwrap_or_default();
        let before = String::from_utf8(before.to_vec()).expect("clients write text");
        let value = client.value(&before);
        txn.change(key, Change::Put(value.into()));
    }
    // A statement may write what it has not locked.
    if txn.is_pessimistic && client.chance.percent(40) {
        let key = client.some(&manner.lists, 1).remove(0);
        let value = client.value("");
        txn.change(key, Change::Put(value.into()));
    }
    Ok(())
}

async fn skew(client: &mut Client, manner: &Manner, txn: &mut Txn) -> Result<(), Stop> {
    let keys = {
        let mut keys = manner.lists.clone();
        client.chance.shuffle(&mut keys);
        keys.truncate(2);
        keys
    };
    let mut found = Vec::new();
    for key in &keys {
        found.push(client.read(txn, key).await?);
    }
    let value = client.value("");
    if client.chance.percent(50) && !txn.is_pessimistic {
        txn.change(keys[1].clone(), Change::Lock);
    }
    txn.change(keys[0].clone(), Change::Put(value.into()));
    Ok(())
}

/// A row that everybody wants, and an entry for it in an index. Who holds the row writes the entry as of now, without a
/// lock of its own.
async fn index(client: &mut Client, manner: &Manner, txn: &mut Txn) -> Result<(), Stop> {
    let row = manner.lists[..1].to_vec();
    client.see(txn, &row).await?;
    if client.chance.percent(50) {
        let span = client.chance.below(SECOND / 2);
        client.outbox.pause(span).await;
    }
    if txn.is_pessimistic {
        client.begin_statement(txn).await;
    }
    for key in row.into_iter().chain(client.some(&manner.entries, 1)) {
        let value = client.value("");
        txn.change(key, Change::Put(value.into()));
    }
    Ok(())
}

/// Keys of several regions that each client locks in an order of its own, and slowly: whoever meets another half way
/// waits for it in a circle.
async fn knot(client: &mut Client, manner: &Manner, txn: &mut Txn) -> Result<(), Stop> {
    let mut keys = manner.strings.clone();
    client.chance.shuffle(&mut keys);
    keys.truncate(client.chance.between(2, STRINGS) as usize);
    txn.patience = LONG_PATIENCE;
    for key in keys {
        client.lock(txn, std::slice::from_ref(&key)).await?;
        let span = client.chance.below(300 * MILLISECOND);
        client.outbox.pause(span).await;
        let value = client.value("");
        txn.change(key, Change::Put(value.into()));
    }
    Ok(())
}

impl Client {
    /// One to `most` of the keys.
    fn some(&mut self, keys: &[Key], most: u64) -> Vec<Key> {
        let mut keys = keys.to_vec();
        self.chance.shuffle(&mut keys);
        keys.truncate(self.chance.between(1, most) as usize);
        keys
    }

    /// What keys hold that are going to be written: optimistic transactions read them, pessimistic ones lock them, one
    /// after the other or all at once.
    async fn see(&mut self, txn: &mut Txn, keys: &[Key]) -> Result<Vec<Option<Bytes>>, Stop> {
        if txn.is_pessimistic && self.chance.percent(30) {
            return self.lock(txn, keys).await;
        }
        let mut found = Vec::new();
        for key in keys {
            found.push(match txn.is_pessimistic {
                true => self.lock(txn, std::slice::from_ref(key)).await?.remove(0),
                false => self.read(txn, key).await?,
            });
        }
        Ok(found)
    }

    /// A value that occurs once: `before` and a new entry.
    fn value(&mut self, before: &str) -> String {
        self.values.set(self.values.get() + 1);
        format!("{before}c{}-{} ", self.number, self.values.get())
    }

    /// A balance that occurs once. Some are long.
    fn balance(&mut self, amount: u64) -> Bytes {
        let width = if self.chance.percent(10) { 300 } else { 0 };
        let mark = self.value("");
        format!("{amount} {mark:width$}").into()
    }
}

/// The balance that a value says.
fn amount(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).expect("clients write text");
    let digits = text.split(' ').next().expect("there is a first part");
    digits.parse().expect("it is a number")
}
