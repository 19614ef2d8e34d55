//! Histories drawn as a grid of keys and times, and what reads see of them (`scripts/`).
//!
//! A cell `put 5 v` in column 7 is a record committed at 7 by the transaction that began at 5.

use std::error::Error as StdError;
use std::fmt::Write as _;

use bytes::Bytes;
use skerry_proto::types::Ts;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::{Durability, Engine, KeyRange};
use skerry_raftstore::keys::data_range;

use super::*;
use crate::error::Result;

pub(crate) mod drawing;
mod model;

use drawing::{cell, draw, show_lock, text};

/// The range of data keys between two user keys; an empty `to` is no bound.
fn range_of(from: &str, to: &str) -> KeyRange {
    let encode = |user: &str| match user {
        "" => Vec::new(),
        user => skerry_proto::codec::encode_bytes(user.as_bytes()),
    };
    let (start, end) = data_range(&encode(from), &encode(to));
    KeyRange { start, end }
}

#[derive(goldenscript::Command)]
enum Command {
    /// A committed put of `key=value`; `long` pads the value beyond what a record holds.
    Put {
        start: u64,
        commit: u64,
        #[arg(key, optional)]
        long: bool,
        #[arg(key, many)]
        pairs: Vec<(String, String)>,
    },
    /// A committed delete.
    Delete { key: String, start: u64, commit: u64 },
    /// A committed record that changed nothing.
    Hold { key: String, start: u64, commit: u64 },
    /// A rollback.
    Rollback {
        key: String,
        start: u64,
        #[arg(key, optional)]
        protected: bool,
    },
    /// A lock for `put`, `delete`, `lock` or `pessimistic`.
    Lock {
        kind: String,
        key: String,
        start: u64,
        #[arg(key, optional)]
        value: String,
        #[arg(key, optional)]
        primary: String,
        #[arg(key, optional)]
        min_commit: u64,
        #[arg(key, optional)]
        asynchronous: bool,
    },
    /// Puts of values `1`, `2`... to one key, committed at 10, 20...
    History { key: String, versions: u64 },
    /// Draws all there is.
    Draw,
    /// Reads keys.
    Get {
        keys: Vec<String>,
        #[arg(key)]
        at: Option<u64>,
        #[arg(key, optional)]
        committed_only: bool,
        #[arg(key)]
        resolved: Option<u64>,
        #[arg(key)]
        committed: Option<u64>,
        #[arg(key, optional)]
        cost: bool,
    },
    /// Walks a range, written `from..to`.
    Scan {
        range: String,
        #[arg(key)]
        at: Option<u64>,
        #[arg(key, optional)]
        reverse: bool,
        #[arg(key, optional)]
        key_only: bool,
        #[arg(key)]
        limit: Option<usize>,
        #[arg(key)]
        committed: Option<u64>,
        #[arg(key, optional)]
        cost: bool,
    },
    /// What a key's records say about a transaction.
    Record { key: String, start: u64 },
}

#[derive(Default)]
struct Runner {
    engine: MemoryEngine,
}

impl Runner {
    fn write(&self, changes: Changes) {
        self.engine.write(changes.into_batch(), Durability::Buffered).expect("memory takes it");
    }

    fn record(&self, key: &str, commit: u64, kind: WriteKind, start: u64, value: Option<Bytes>) {
        let (key, mut changes) = (Key::of(key.as_bytes()), Changes::new());
        let short = value.and_then(|value| changes.place_value(&key, Ts::from(start), value));
        changes.put_write(&key, Ts::from(commit), &Write::new(kind, Ts::from(start), short));
        self.write(changes);
    }

    fn lock(&self, kind: &str, key: &str, start: u64, value: &str, primary: &str) -> (Key, Lock) {
        let kind = match kind {
            "put" => LockKind::Put,
            "delete" => LockKind::Delete,
            "lock" => LockKind::Lock,
            "pessimistic" => LockKind::Pessimistic,
            other => panic!("no lock is of kind {other}"),
        };
        let primary = if primary.is_empty() { key } else { primary };
        let primary = Bytes::copy_from_slice(primary.as_bytes());
        let mut lock = Lock::new(kind, primary, Ts::from(start), 3_000);
        lock.short_value =
            (kind == LockKind::Put).then(|| Bytes::copy_from_slice(value.as_bytes()));
        (Key::of(key.as_bytes()), lock)
    }

    fn get(&self, keys: &[String], rules: &ReadRules, cost: bool) -> Result<String> {
        let view = self.engine.view();
        let keys: Vec<Key> = keys.iter().map(|key| Key::of(key.as_bytes())).collect();
        let mut reader = Reader::of_keys(&*view, &keys);
        let mut output = String::new();
        for key in &keys {
            let answer = match reader.read(key, rules)? {
                Ok(Some(version)) => show_version(&version),
                Ok(None) => "nothing".to_string(),
                Err(lock) => format!("locked: {}", show_lock(&lock)),
            };
            writeln!(output, "{key:?} {answer}").expect("strings take everything");
        }
        if cost {
            output += &show_cost(reader.statistics());
        }
        Ok(output)
    }
}

fn show_version(version: &Version) -> String {
    format!("\"{}\" of {}", text(&version.value), version.commit_ts.get())
}

fn show_cost(cost: Statistics) -> String {
    let Statistics { seeks, steps, processed_versions, processed_bytes } = cost;
    format!(
        "({seeks} seeks, {steps} steps; {processed_versions} versions, {processed_bytes} bytes)\n"
    )
}

fn rules(at: Option<u64>) -> ReadRules {
    ReadRules::at(at.map_or(Ts::MAX, Ts::from))
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> std::result::Result<String, Box<dyn StdError>> {
        match command {
            Command::Put { start, commit, long, pairs } => {
                for (key, value) in pairs {
                    let times = if *long { SHORT_VALUE_BYTES_MAX + 1 } else { 1 };
                    let value = Some(value.repeat(times).into());
                    self.record(key, *commit, WriteKind::Put, *start, value);
                }
            }
            Command::Delete { key, start, commit } => {
                self.record(key, *commit, WriteKind::Delete, *start, None);
            }
            Command::Hold { key, start, commit } => {
                self.record(key, *commit, WriteKind::Lock, *start, None);
            }
            Command::Rollback { key, start, protected } => {
                let (key, start, mut changes) =
                    (Key::of(key.as_bytes()), Ts::from(*start), Changes::new());
                let view = self.engine.view();
                let write = match Reader::of_key(&*view, &key).record_at(&key, start)? {
                    Some(write) => Write { overlapped_rollback: true, ..write },
                    None => Write::rollback(start, *protected),
                };
                changes.put_write(&key, start, &write);
                self.write(changes);
            }
            Command::Lock { kind, key, start, value, primary, min_commit, asynchronous } => {
                let (key, lock) = self.lock(kind, key, *start, value, primary);
                let (use_async_commit, min_commit_ts) = (*asynchronous, Ts::from(*min_commit));
                let mut changes = Changes::new();
                changes.put_lock(&key, &Lock { use_async_commit, min_commit_ts, ..lock });
                self.write(changes);
            }
            Command::History { key, versions } => {
                for version in 1..=*versions {
                    let value = Some(version.to_string().into());
                    self.record(key, version * 10, WriteKind::Put, version * 10 - 5, value);
                }
            }
            other => return self.ask(other),
        }
        Ok(String::new())
    }
}

impl Runner {
    fn ask(&self, command: &Command) -> std::result::Result<String, Box<dyn StdError>> {
        Ok(match command {
            Command::Draw => draw(&self.engine),
            Command::Get { keys, at, committed_only, resolved, committed, cost } => {
                let isolation = match committed_only {
                    true => Isolation::ReadCommitted,
                    false => Isolation::Snapshot,
                };
                let rules = ReadRules {
                    isolation,
                    resolved: resolved.map(Ts::from).into_iter().collect(),
                    committed: committed.map(Ts::from).into_iter().collect(),
                    ..rules(*at)
                };
                self.get(keys, &rules, *cost)?
            }
            Command::Scan { range, at, reverse, key_only, limit, committed, cost } => {
                let (from, to) = range.split_once("..").ok_or("a range is from..to")?;
                let rules = ReadRules {
                    committed: committed.map(Ts::from).into_iter().collect(),
                    ..rules(*at)
                };
                let (view, range) = (self.engine.view(), range_of(from, to));
                let (found, statistics) =
                    scan(&*view, &range, rules, *reverse, *key_only, limit.unwrap_or(usize::MAX))?;
                let mut output = String::new();
                for found in &found {
                    match found {
                        Found::Value(key, version) => {
                            writeln!(output, "{key:?} {}", show_version(version))?;
                        }
                        Found::Locked(key, lock) => {
                            writeln!(output, "{key:?} locked: {}", show_lock(lock))?;
                        }
                    }
                }
                if *cost {
                    output += &show_cost(statistics);
                }
                output
            }
            Command::Record { key, start } => {
                let (view, key) = (self.engine.view(), Key::of(key.as_bytes()));
                match Reader::of_key(&*view, &key).txn_record(&key, Ts::from(*start))? {
                    TxnRecord::Committed { commit_ts, kind } => {
                        format!("committed at {} ({kind:?})", commit_ts.get())
                    }
                    TxnRecord::RolledBack => "rolled back".to_string(),
                    TxnRecord::None { overlapped: Some(write) } => {
                        format!("nothing; at that time stands: {}", cell(&write))
                    }
                    TxnRecord::None { overlapped: None } => "nothing".to_string(),
                }
            }
            _ => unreachable!("all that write were handled by the caller"),
        })
    }
}

/// The first `limit` things that a walk shows, and what it cost.
fn scan(
    view: &dyn skerry_raftstore::engine::View,
    range: &KeyRange,
    rules: ReadRules,
    reverse: bool,
    key_only: bool,
    limit: usize,
) -> Result<(Vec<Found>, Statistics)> {
    let mut found = Vec::new();
    let statistics = if reverse {
        let mut scan = ReverseScan::new(view, range, rules, key_only)?;
        while found.len() < limit
            && let Some(next) = scan.find_next()?
        {
            found.push(next);
        }
        scan.statistics()
    } else {
        let mut scan = ForwardScan::new(view, range, rules, key_only)?;
        while found.len() < limit
            && let Some(next) = scan.find_next()?
        {
            found.push(next);
        }
        scan.statistics()
    };
    Ok((found, statistics))
}

#[test]
fn golden_histories() {
    for script in std::fs::read_dir("src/mvcc/scripts").expect("there are scripts") {
        let path = script.expect("a folder lists its files").path();
        goldenscript::run(&mut Runner::default(), &path).expect("the script is as recorded");
    }
}
