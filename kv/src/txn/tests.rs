//! Stories about transactions (`scripts/`), told command by command as an executor would run them, over an engine in
//! memory and one region, whose keys are below `x`.
//!
//! Timestamps are written as a number, or as milliseconds and a number (`1000.5`); a mutation as `"put a 1"`.

use std::error::Error as StdError;
use std::fmt::Write as _;

use bytes::Bytes;
use skerry_proto::kvrpcpb::prewrite_request::PessimisticAction;
use skerry_proto::kvrpcpb::{Assertion, AssertionLevel};
use skerry_proto::metapb;
use skerry_proto::types::Term;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::{Durability, Engine};

use super::check_secondary_locks::{CheckSecondaryLocks, SecondaryLocks};
use super::check_txn_status::{CheckTxnStatus, TxnStatus};
use super::commit::Commit;
use super::delete_range::DeleteRange;
use super::garbage::CollectRegion;
use super::get::{BatchGet, Get};
use super::heartbeat::HeartBeat;
use super::pessimistic_lock::{PessimisticLock, PessimisticLocked};
use super::pessimistic_rollback::{PessimisticRollback, PessimisticRollbackRegion};
use super::prewrite::{Change, Mutation, Prewrite, Prewritten, Way};
use super::resolve_lock::{ResolveLite, ResolveRegion};
use super::rollback::{Cleanup, Rollback};
use super::scan::Scan;
use super::scan_lock::ScanLock;
use super::*;
use crate::mvcc::tests::drawing::{draw, number, show_lock, text};
use crate::mvcc::{Isolation, ReadRules, Version};

mod bank;
mod flow;
mod garbage;
mod memory;

/// A store with one region, as an executor sees it.
struct World {
    engine: MemoryEngine,
    concurrency: Arc<Concurrency>,
    region: Arc<metapb::Region>,
    /// A write that is under way: not in the engine yet, its locks in memory.
    under_way: Option<(WriteBatch, Option<Published>)>,
}

impl World {
    fn new() -> World {
        let region = metapb::Region {
            id: 4,
            end_key: encode_bytes(b"x").into(),
            ..metapb::Region::default()
        };
        World {
            engine: MemoryEngine::new(),
            concurrency: Concurrency::new(),
            region: Arc::new(region),
            under_way: None,
        }
    }

    fn view(&self) -> RegionView {
        let (view, region) = (self.engine.view(), self.region.clone());
        RegionView { view, region, term: Term::new(6), reads: Arc::default() }
    }

    fn read<C: ReadCommand>(&self, mut command: C) -> Result<C::Answer> {
        command.prepare(&self.concurrency)?;
        command.run(&self.view())
    }

    /// What a command wants done, which is not done yet.
    fn decide<C: WriteCommand>(&self, command: &C) -> Result<Effect<C::Answer>> {
        command.prepare(&self.concurrency);
        command.run(&self.view(), &self.concurrency)
    }

    fn apply(&self, batch: WriteBatch) {
        self.engine.write(batch, Durability::Buffered).expect("memory takes it");
    }

    fn write<C: WriteCommand>(&self, command: &C) -> Result<(C::Answer, Vec<Released>)> {
        let effect = self.decide(command)?;
        self.apply(effect.batch);
        Ok((effect.answer, effect.released))
    }

    /// Runs a command for a whole region to its end; answers how many commands it took.
    fn walk<S: Steps>(&self, mut steps: S) -> Result<usize> {
        let mut count = 0;
        while let Some(command) = steps.next(&self.view())? {
            self.write(&command)?;
            count += 1;
        }
        Ok(count)
    }
}

fn key(user: &str) -> Key {
    Key::of(user.as_bytes())
}

fn keys(users: &[String]) -> Vec<Key> {
    users.iter().map(|user| key(user)).collect()
}

/// A timestamp of a script.
fn ts(text: &str) -> Ts {
    let number = |text: &str| text.parse::<u64>().expect("a timestamp is a number or two");
    match text.split_once('.') {
        _ if text.is_empty() => Ts::ZERO,
        _ if text == "max" => Ts::MAX,
        Some((milliseconds, counter)) => Ts::compose(number(milliseconds), number(counter)),
        None => Ts::from(number(text)),
    }
}

/// A mutation as scripts write it: what, key, and value or assertion.
fn mutation(text: &str, check: &str, expected: &str) -> Mutation {
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let (what, user, rest) = (word(), word(), word());
    let value = Bytes::copy_from_slice(rest.as_bytes());
    let change = match what {
        "put" => Change::Put(value),
        "insert" => Change::Insert(value),
        "delete" => Change::Delete,
        "lock" => Change::Lock,
        "check" => Change::CheckNotExists,
        other => panic!("no mutation is called {other}"),
    };
    let assertion = match words.next() {
        None => Assertion::None,
        Some("exists") => Assertion::Exist,
        Some(_) => Assertion::NotExist,
    };
    let pessimistic = match check {
        "" => PessimisticAction::SkipPessimisticCheck,
        "lock" => PessimisticAction::DoPessimisticCheck,
        _ => PessimisticAction::DoConstraintCheck,
    };
    let expected_for_update_ts = (!expected.is_empty()).then(|| ts(expected));
    Mutation { assertion, pessimistic, expected_for_update_ts, ..Mutation::new(key(user), change) }
}

#[derive(goldenscript::Command)]
enum Command {
    Prewrite {
        start: String,
        #[arg(pos, many)]
        mutations: Vec<String>,
        #[arg(key)]
        primary: Option<String>,
        #[arg(key)]
        ttl: Option<u64>,
        #[arg(key, optional)]
        update: String,
        #[arg(key, optional)]
        min: String,
        #[arg(key, optional)]
        max: String,
        /// For async commit: the other keys.
        #[arg(key)]
        secondaries: Option<String>,
        #[arg(key, optional)]
        one_phase: bool,
        /// `lock`: the pessimistic lock must be there; `constraint`: as if optimistic.
        #[arg(key, optional)]
        check: String,
        #[arg(key, optional)]
        expected: String,
        #[arg(key, optional)]
        strict: bool,
        /// The write stays under way until `land` or `lose`.
        #[arg(key, optional)]
        slow: bool,
    },
    /// The write that is under way is done.
    Land,
    /// It certainly never will be.
    Lose,
    Commit {
        start: String,
        commit: String,
        #[arg(pos, many)]
        keys: Vec<String>,
    },
    Rollback {
        start: String,
        #[arg(pos, many)]
        keys: Vec<String>,
    },
    Cleanup {
        start: String,
        key: String,
        #[arg(key, optional)]
        now: String,
    },
    Status {
        start: String,
        key: String,
        #[arg(key, optional)]
        caller: String,
        #[arg(key, optional)]
        now: String,
        #[arg(key, optional)]
        roll_back: bool,
        #[arg(key, optional)]
        force: bool,
        #[arg(key, optional)]
        pessimistic: bool,
        #[arg(key, optional)]
        verify: bool,
    },
    Secondaries {
        start: String,
        #[arg(pos, many)]
        keys: Vec<String>,
    },
    /// In the whole region. `commit` left out: rolls back.
    ResolveAll {
        start: String,
        #[arg(key, optional)]
        commit: String,
    },
    /// At keys.
    Resolve {
        start: String,
        #[arg(pos, many)]
        keys: Vec<String>,
        #[arg(key, optional)]
        commit: String,
    },
    HeartBeat {
        start: String,
        key: String,
        ttl: u64,
        #[arg(key, optional)]
        min: String,
    },
    Lock {
        start: String,
        update: String,
        #[arg(pos, many)]
        keys: Vec<String>,
        #[arg(key)]
        primary: Option<String>,
        #[arg(key)]
        ttl: Option<u64>,
        #[arg(key, optional)]
        values: bool,
        #[arg(key, optional)]
        existence: bool,
        #[arg(key, optional)]
        if_exists: bool,
        #[arg(key, optional)]
        absent: bool,
        #[arg(key, optional)]
        force: bool,
    },
    /// In the whole region.
    UnlockAll {
        start: String,
        update: String,
    },
    /// At keys.
    Unlock {
        start: String,
        update: String,
        #[arg(pos, many)]
        keys: Vec<String>,
    },
    Get {
        #[arg(pos, many)]
        keys: Vec<String>,
        #[arg(key)]
        at: Option<String>,
        #[arg(key, optional)]
        committed_only: bool,
    },
    Scan {
        range: String,
        #[arg(key)]
        at: Option<String>,
        #[arg(key)]
        limit: Option<usize>,
        #[arg(key, optional)]
        reverse: bool,
        #[arg(key, optional)]
        sample: usize,
    },
    ScanLock {
        range: String,
        max: String,
        #[arg(key, optional)]
        limit: usize,
    },
    Gc(String),
    DeleteRange(String),
    History(String),
    HistoryOf(String),
    /// The highest timestamp that somebody has read at.
    MaxTs,
    Draw,
}

/// Whether a command succeeded, and what it said.
type Told = std::result::Result<String, Error>;

impl World {
    fn tell<C: WriteCommand>(&self, command: &C, show: impl Fn(C::Answer) -> String) -> Told {
        let (answer, released) = self.write(command)?;
        let mut said = show(answer);
        for Released { key, commit_ts, .. } in released {
            let how = if commit_ts == Ts::ZERO { "unlocked" } else { "committed" };
            write!(said, "; {key:?} {how}").expect("strings take everything");
        }
        Ok(said)
    }

    fn run(&mut self, command: &Command) -> Told {
        match command {
            Command::Prewrite { .. } => self.run_prewrite(command),
            Command::Land => {
                let (batch, published) = self.under_way.take().expect("a write is under way");
                self.apply(batch);
                drop(published);
                Ok(String::new())
            }
            Command::Lose => {
                self.under_way = None;
                Ok(String::new())
            }
            Command::Commit { start, commit, keys: users } => {
                let (start_ts, commit_ts) = (ts(start), ts(commit));
                let command = Commit { keys: keys(users), start_ts, commit_ts };
                self.tell(&command, |at| format!("at {}", number(at)))
            }
            Command::Rollback { start, keys: users } => {
                let command = Rollback { keys: keys(users), start_ts: ts(start) };
                self.tell(&command, |()| "done".to_string())
            }
            Command::Cleanup { start, key: user, now } => {
                let (start_ts, current_ts) = (ts(start), ts(now));
                let command = Cleanup { key: key(user), start_ts, current_ts };
                self.tell(&command, |()| "done".to_string())
            }
            Command::Secondaries { start, keys: users } => {
                let command = CheckSecondaryLocks { keys: keys(users), start_ts: ts(start) };
                self.tell(&command, |answer| match answer {
                    SecondaryLocks::Locked(locks) => {
                        let locks =
                            locks.iter().map(|(key, lock)| format!("{key:?} {}", show_lock(lock)));
                        format!("all locked: {}", locks.collect::<Vec<_>>().join(", "))
                    }
                    SecondaryLocks::Committed(at) => format!("committed at {}", number(at)),
                    SecondaryLocks::RolledBack => "rolled back".to_string(),
                })
            }
            Command::ResolveAll { start, commit } => {
                let count = self.walk(ResolveRegion::new([(ts(start), ts(commit))].into()))?;
                Ok(format!("{count} commands"))
            }
            Command::Resolve { start, keys: users, commit } => {
                let (start_ts, commit_ts) = (ts(start), ts(commit));
                let command = ResolveLite { keys: keys(users), start_ts, commit_ts };
                self.tell(&command, |()| "done".to_string())
            }
            Command::HeartBeat { start, key: user, ttl, min } => {
                let (start_ts, min_commit_ts) = (ts(start), ts(min));
                let command =
                    HeartBeat { primary: key(user), start_ts, ttl_ms: *ttl, min_commit_ts };
                self.tell(&command, |ttl| format!("lives {ttl} ms"))
            }
            Command::UnlockAll { start, update } => {
                let region = PessimisticRollbackRegion::new(ts(start), ts(update));
                Ok(format!("{} commands", self.walk(region)?))
            }
            Command::Unlock { start, update, keys: users } => {
                let (start_ts, for_update_ts) = (ts(start), ts(update));
                let command = PessimisticRollback { keys: keys(users), start_ts, for_update_ts };
                self.tell(&command, |()| "done".to_string())
            }
            other => self.run_more(other),
        }
    }

    fn run_more(&mut self, command: &Command) -> Told {
        match command {
            Command::Status { .. } => self.run_status(command),
            Command::Lock { .. } => self.run_lock(command),
            Command::Get { .. } | Command::Scan { .. } | Command::ScanLock { .. } => {
                self.run_read(command)
            }
            Command::Gc(safe_point) => {
                let (mut steps, mut records) = (CollectRegion::new(ts(safe_point)), 0);
                while let Some(mut command) = steps.next(&self.view())? {
                    loop {
                        let (collected, _) = self.write(&command)?;
                        records += collected.records;
                        if collected.left.is_none() {
                            break;
                        }
                        command.from = collected.left;
                    }
                }
                Ok(format!("{records} records"))
            }
            Command::DeleteRange(range) => {
                let (start, end) = ends(range);
                self.apply(DeleteRange { start, end }.run(&self.view())?);
                Ok(String::new())
            }
            Command::History(user) => {
                let info = history::of_key(&self.view(), &key(user))?;
                let lock = if info.lock.is_some() { "a lock" } else { "no lock" };
                let (writes, values) = (info.writes.len(), info.values.len());
                Ok(format!("{lock}, {writes} records, {values} long values"))
            }
            Command::HistoryOf(start) => {
                let found = history::of_transaction(&self.view(), ts(start))?;
                Ok(found.map_or("nothing".to_string(), |(key, _)| format!("{key:?}")))
            }
            Command::MaxTs => Ok(number(self.concurrency.max_ts())),
            Command::Draw => Ok(draw(&self.engine)),
            _ => unreachable!("all others are handled above"),
        }
    }

    fn run_prewrite(&mut self, command: &Command) -> Told {
        let Command::Prewrite {
            start,
            mutations,
            primary,
            ttl,
            update,
            min,
            max,
            secondaries,
            one_phase,
            check,
            expected,
            strict,
            slow,
        } = command
        else {
            unreachable!("the caller has looked");
        };
        let mutations: Vec<Mutation> =
            mutations.iter().map(|text| mutation(text, check, expected)).collect();
        let first = mutations.first().map(|first| first.key.user_key()).transpose()?;
        let way = match secondaries {
            _ if *one_phase => Way::OnePhase,
            None => Way::TwoPhases,
            Some(users) => Way::Async(
                users
                    .split_whitespace()
                    .map(|user| Bytes::copy_from_slice(user.as_bytes()))
                    .collect(),
            ),
        };
        let command = Prewrite {
            mutations,
            primary: primary.clone().map(Bytes::from).or(first).unwrap_or_default(),
            start_ts: ts(start),
            ttl_ms: ttl.unwrap_or(3_000),
            txn_size: 1,
            for_update_ts: ts(update),
            min_commit_ts: ts(min),
            max_commit_ts: ts(max),
            assertion_level: if *strict { AssertionLevel::Strict } else { AssertionLevel::Fast },
            way,
        };
        let effect = self.decide(&command)?;
        let said = match &effect.answer {
            Prewritten::Locked(errors) => {
                errors.iter().map(|error| format!("error: {error}")).collect::<Vec<_>>().join("\n")
            }
            Prewritten::Done { one_phase_commit_ts: at, .. } if *at != Ts::ZERO => {
                format!("committed at {}", number(*at))
            }
            Prewritten::Done { min_commit_ts: at, .. } if *at != Ts::ZERO => {
                format!("locked, commits at or above {}", number(*at))
            }
            Prewritten::Done { .. } => "locked".to_string(),
        };
        if *slow {
            self.under_way = Some((effect.batch, effect.published));
        } else {
            self.apply(effect.batch);
        }
        Ok(said)
    }

    fn run_status(&mut self, command: &Command) -> Told {
        let Command::Status {
            start,
            key: user,
            caller,
            now,
            roll_back,
            force,
            pessimistic,
            verify,
        } = command
        else {
            unreachable!("the caller has looked");
        };
        let command = CheckTxnStatus {
            primary: key(user),
            start_ts: ts(start),
            caller_start_ts: ts(caller),
            current_ts: ts(now),
            rollback_if_not_exist: *roll_back,
            force_sync_commit: *force,
            resolving_pessimistic_lock: *pessimistic,
            verify_is_primary: *verify,
        };
        self.tell(&command, |answer| match answer {
            TxnStatus::Committed(at) => format!("committed at {}", number(at)),
            TxnStatus::RolledBack(action) => format!("rolled back ({action:?})"),
            TxnStatus::Alive { lock, is_pushed } => {
                let pushed = if is_pushed { "pushed" } else { "not pushed" };
                format!("alive for {} ms, {pushed}: {}", lock.ttl_ms, show_lock(&lock))
            }
        })
    }

    fn run_lock(&mut self, command: &Command) -> Told {
        let Command::Lock {
            start,
            update,
            keys: users,
            primary,
            ttl,
            values,
            existence,
            if_exists,
            absent,
            force,
        } = command
        else {
            unreachable!("the caller has looked");
        };
        let primary = primary.as_ref().or(users.first()).cloned().unwrap_or_default();
        let command = PessimisticLock {
            keys: users.iter().map(|user| (key(user), *absent)).collect(),
            primary: primary.into(),
            start_ts: ts(start),
            ttl_ms: ttl.unwrap_or(3_000),
            for_update_ts: ts(update),
            min_commit_ts: Ts::ZERO,
            return_values: *values,
            check_existence: *existence,
            lock_only_if_exists: *if_exists,
            force: *force,
            no_wait: false,
        };
        self.tell(&command, |answer| match answer {
            PessimisticLocked::Wait { key, lock } => {
                format!("waits for {key:?}: {}", show_lock(&lock))
            }
            PessimisticLocked::Done(results) => {
                let mut said = "locked".to_string();
                for result in results {
                    match (result.exists, result.value) {
                        (Some(true), Some(value)) => said += &format!(" \"{}\"", text(&value)),
                        (Some(exists), _) => said += if exists { " exists" } else { " absent" },
                        (None, _) => {}
                    }
                    if result.locked_with_conflict_ts != Ts::ZERO {
                        said += &format!(" over {}", number(result.locked_with_conflict_ts));
                    }
                }
                said
            }
        })
    }

    fn run_read(&mut self, command: &Command) -> Told {
        let at = |at: &Option<String>| ReadRules::at(at.as_deref().map_or(Ts::MAX, ts));
        match command {
            Command::Get { keys: users, at: when, committed_only } => {
                let isolation = match committed_only {
                    true => Isolation::ReadCommitted,
                    false => Isolation::Snapshot,
                };
                let rules = ReadRules { isolation, ..at(when) };
                if let [user] = &users[..] {
                    let found = self.read(Get { key: key(user), rules })?.version;
                    return Ok(found.map_or("nothing".to_string(), |found| show(&found)));
                }
                let (keys, reply_bytes_max) = (keys(users), 1_000);
                Ok(show_all(self.read(BatchGet { keys, rules, reply_bytes_max })?.found))
            }
            Command::Scan { range, at: when, limit, reverse, sample } => {
                let (start, end) = ends(range);
                let mut scan = Scan::new(start, end, limit.unwrap_or(100), at(when));
                scan.reverse = *reverse;
                scan.sample_step = *sample;
                scan.reply_bytes_max = 1_000;
                Ok(show_all(self.read(scan)?.found))
            }
            Command::ScanLock { range, max, limit } => {
                let (start, end) = ends(range);
                let locks = self.read(ScanLock::new(ts(max), start, end, *limit))?;
                let lines =
                    locks.iter().map(|(key, lock)| format!("{key:?} {}\n", show_lock(lock)));
                Ok(lines.collect())
            }
            _ => unreachable!("the caller has looked"),
        }
    }
}

fn ends(range: &str) -> (Bytes, Bytes) {
    let (from, to) = range.split_once("..").expect("a range is written from..to");
    (Bytes::copy_from_slice(from.as_bytes()), Bytes::copy_from_slice(to.as_bytes()))
}

fn show(version: &Version) -> String {
    format!("\"{}\" of {}", text(&version.value), number(version.commit_ts))
}

fn show_all(found: Vec<(Key, Result<Version>)>) -> String {
    if found.is_empty() {
        return "nothing".to_string();
    }
    let line = |(key, answer): &(Key, Result<Version>)| match answer {
        Ok(version) => format!("{key:?} {}\n", show(version)),
        Err(error) => format!("{key:?} error: {error}\n"),
    };
    found.iter().map(line).collect()
}

impl goldenscript::Runner for World {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> std::result::Result<String, Box<dyn StdError>> {
        Ok(match World::run(self, command) {
            Ok(said) => said,
            Err(error) => {
                let aside = match error.to_wire() {
                    Ok(wire) => shape(&wire),
                    Err(_) => "not about a key".to_string(),
                };
                format!("{aside}: {error}")
            }
        })
    }
}

/// Which fields of an error clients see.
fn shape(wire: &skerry_proto::kvrpcpb::KeyError) -> String {
    let mut fields = Vec::new();
    let mut set = |name, is_set: bool| fields.extend(is_set.then_some(name));
    set("locked", wire.locked.is_some());
    set("conflict", wire.conflict.is_some());
    set("already_exist", wire.already_exist.is_some());
    set("commit_ts_expired", wire.commit_ts_expired.is_some());
    set("txn_not_found", wire.txn_not_found.is_some());
    set("txn_lock_not_found", wire.txn_lock_not_found.is_some());
    set("assertion_failed", wire.assertion_failed.is_some());
    set("primary_mismatch", wire.primary_mismatch.is_some());
    set("retryable", !wire.retryable.is_empty());
    set("abort", !wire.abort.is_empty());
    fields.join(" + ")
}

#[test]
fn golden_transactions() {
    for script in std::fs::read_dir("src/txn/scripts").expect("there are scripts") {
        let path = script.expect("a folder lists its files").path();
        if let Err(error) = goldenscript::run(&mut World::new(), &path) {
            panic!("{}: {error}", path.display());
        }
    }
}
