//! The store as a library: two threads put, get, update and remove at random; the database is closed and opened again,
//! and everything is as a model in memory says.
//!
//! 1. Each thread works on keys of its own with a model of them ([`work`]): so after every call it knows what the
//!    database must answer, and checks it.
//! 2. At the same time both move money between the same accounts in transactions ([`transfer`]): whatever they do to
//!    each other, the sum stays.
//! 3. The database is closed. A second one in the same directory had been refused; now one opens, and has all of it.
//!
//! Run it: `cargo build --workspace --all-targets && target/debug/examples/embedded`, with the path of a YAML file
//! as an argument to open what that describes (`docs/embedded.md`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;

use skerry_kv::embedded::{Db, Error, Transaction};
use skerry_raftstore::time::splitmix64;

/// Calls of each thread.
const CALLS: u64 = 2_000;
/// Keys of each thread: few, so that each is there and gone many times.
const KEYS: u64 = 50;
/// One call in so many is a transfer.
const CALLS_PER_TRANSFER: u64 = 20;
/// Accounts that both threads share.
const ACCOUNTS: u64 = 5;
/// What each has in the beginning.
const BALANCE: u64 = 100;

/// What a thread believes to be in the database.
type Model = BTreeMap<String, String>;

fn main() -> Result<(), Error> {
    let argument = std::env::args_os().nth(1).map(PathBuf::from);
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let open = || open(argument.as_deref(), home.path());

    let db = open()?;
    println!("opened: {} pairs are there", db.scan("", "", 1_000)?.len());
    db.transaction(|txn| {
        (0..ACCOUNTS).try_for_each(|account| txn.put(name(account), BALANCE.to_string()))
    })?;
    if argument.is_none() {
        let second = open().map(|_| ()).expect_err("the directory is open");
        println!("a second one is refused: {second}");
    }
    let models = thread::scope(|scope| {
        let threads = [1, 2].map(|thread| {
            let db = &db;
            scope.spawn(move || work(db, thread))
        });
        threads.map(|thread| thread.join().expect("a thread that panics has said why"))
    });
    db.close()?;
    println!("closed after {} calls of each thread", CALLS);

    let db = open()?;
    for (thread, model) in (1..).zip(models) {
        assert_eq!(pairs_of(&db, thread)?, model?, "thread {thread}");
    }
    let sum = db.transaction(sum_of)?;
    assert_eq!(sum, ACCOUNTS * BALANCE, "money has come or gone");
    println!("opened again: all pairs are as they were, and the sum of all accounts is {sum}");
    db.close()?;
    println!("embedded: every step was checked");
    Ok(())
}

fn open(config: Option<&Path>, home: &Path) -> Result<Db, Error> {
    match config {
        Some(file) => Db::from_config(file),
        None => Db::open(home.join("db")),
    }
}

/// The life of a thread: random calls on its own keys, each checked against its model, which it hands back.
fn work(db: &Db, thread: u64) -> Result<Model, Error> {
    // What an earlier run has left of its keys.
    let mut model = pairs_of(db, thread)?;
    let mut draw = splitmix64(thread);
    for call in 0..CALLS {
        draw = splitmix64(draw);
        let key = format!("{thread}/{}", draw % KEYS);
        let value = format!("{call}");
        match (draw >> 32) % 4 {
            0 => {
                db.put(&key, value.clone())?;
                model.insert(key, value);
            }
            1 => assert_eq!(db.get(&key)?.map(text), model.get(&key).cloned(), "{key}"),
            2 => assert_eq!(db.remove(&key)?, model.remove(&key).is_some(), "{key}"),
            _ => {
                // What is not there cannot be updated, and stays away.
                let is_there = model.contains_key(&key);
                assert_eq!(db.update(&key, value.clone())?, is_there, "{key}");
                if is_there {
                    model.insert(key, value);
                }
            }
        }
        if call % CALLS_PER_TRANSFER == 0 {
            let (from, to) = ((draw >> 40) % ACCOUNTS, (draw >> 50) % ACCOUNTS);
            db.transaction(|txn| transfer(txn, from, to))?;
        }
    }
    Ok(model)
}

/// Moves one coin, if there is one. Run again from the beginning if the other thread was faster.
fn transfer(txn: &mut Transaction<'_>, from: u64, to: u64) -> Result<(), Error> {
    let rich = balance(txn, from)?;
    if rich == 0 || from == to {
        return Ok(());
    }
    let poor = balance(txn, to)?;
    txn.put(name(from), (rich - 1).to_string())?;
    txn.put(name(to), (poor + 1).to_string())
}

fn balance(txn: &mut Transaction<'_>, account: u64) -> Result<u64, Error> {
    let value = txn.get(name(account))?.expect("accounts are never closed");
    Ok(text(value).parse().expect("balances are numbers"))
}

fn sum_of(txn: &mut Transaction<'_>) -> Result<u64, Error> {
    let accounts = txn.scan("account/", "account0", 100)?;
    Ok(accounts.into_iter().map(|(_, value)| text(value).parse::<u64>().expect("a number")).sum())
}

/// What the database has of a thread's keys.
fn pairs_of(db: &Db, thread: u64) -> Result<Model, Error> {
    let found = db.scan(format!("{thread}/"), format!("{thread}0"), 1_000)?;
    Ok(found.into_iter().map(|(key, value)| (text(key), text(value))).collect())
}

fn name(account: u64) -> String {
    format!("account/{account}")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("this example stores text")
}
