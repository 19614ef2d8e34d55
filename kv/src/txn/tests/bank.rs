//! A bank: clients move money between accounts in transactions of every kind, die between any two steps, and leave
//! their locks to others; requests arrive twice and late; writes stay under way while others read. Whatever happens:
//!
//! * every transaction is committed at all its keys, at one timestamp, or at none;
//! * what a client was told holds: committed or rolled back;
//! * what every committed transaction read was the newest when it committed (no lost update);
//! * every view of all accounts shows the same total, and shows the same again when it is read again later.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::mvcc::{Lock, Reader, TxnRecord};

const ACCOUNTS: [&str; 5] = ["a", "b", "c", "d", "e"];
const BALANCE: u64 = 100;
/// Milliseconds, of which every step takes one.
const TTL_MS: u64 = 12;

/// Random choices from one seed.
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64: short, and the same on every machine.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }
}

/// How a client writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    TwoPhases,
    Async,
    OnePhase,
    Pessimistic,
    PessimisticAsync,
}

impl Style {
    fn is_pessimistic(self) -> bool {
        matches!(self, Style::Pessimistic | Style::PessimisticAsync)
    }

    fn is_async(self) -> bool {
        matches!(self, Style::Async | Style::PessimisticAsync)
    }
}

/// What whoever runs the commands does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    /// Reads neither raise `max_ts` nor look at locks in memory.
    UnpreparedReads,
    /// Locks leave memory before their write is done.
    LocksShownTooShort,
    /// Commands run while another one holds the latches of their keys.
    NoLatches,
    /// A transaction is said to be rolled back, and nothing is written.
    RollbackForgotten,
}

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Lock,
    Read,
    Prewrite(usize),
    Commit(usize),
    GiveUp,
    Over,
}

#[derive(Clone, Debug)]
struct Transfer {
    start_ts: Ts,
    for_update_ts: Ts,
    style: Style,
    stage: Stage,
    accounts: [&'static str; 2],
    read: Vec<u64>,
    min_commit_ts: Ts,
    /// All that was prewritten so far can commit at `min_commit_ts`.
    is_async: bool,
    resolved: BTreeSet<Ts>,
    /// What the application was told: when it committed, or 0 if it did not.
    told: Option<Ts>,
}

struct Bank {
    world: World,
    dice: Dice,
    now_ms: u64,
    transfers: Vec<Transfer>,
    /// Requests that will arrive again.
    late: Vec<Prewrite>,
    /// A write that is under way, whose latches are held.
    slow: Option<(Vec<Key>, WriteBatch, Option<Published>)>,
    views: BTreeMap<Ts, Vec<(Key, Bytes)>>,
    mistake: Option<Mistake>,
}

fn balance(value: &[u8]) -> u64 {
    std::str::from_utf8(value).expect("digits").parse().expect("a number")
}

impl Bank {
    fn new(seed: u64) -> Bank {
        let world = World::new();
        let (late, views) = (Vec::new(), BTreeMap::new());
        let dice = Dice(seed | 1);
        let (transfers, slow, mistake) = (Vec::new(), None, None);
        let mut bank = Bank { world, dice, now_ms: 1_000, transfers, late, slow, views, mistake };
        let start_ts = bank.tick();
        let put = |user: &&str| Mutation::new(key(user), Change::Put(BALANCE.to_string().into()));
        let prewrite = Prewrite {
            mutations: ACCOUNTS.iter().map(put).collect(),
            primary: Bytes::from_static(b"a"),
            start_ts,
            ttl_ms: TTL_MS,
            txn_size: 5,
            for_update_ts: Ts::ZERO,
            min_commit_ts: Ts::ZERO,
            max_commit_ts: Ts::ZERO,
            assertion_level: AssertionLevel::Strict,
            way: Way::OnePhase,
        };
        bank.world.write(&prewrite).expect("an empty bank opens");
        bank
    }

    /// The next timestamp of the scheduler.
    fn tick(&mut self) -> Ts {
        self.now_ms += 1;
        Ts::compose(self.now_ms, 0)
    }

    fn does(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn read_with<C: ReadCommand>(&self, mut command: C) -> Result<C::Answer> {
        match self.does(Mistake::UnpreparedReads) {
            true => command.prepare(&Concurrency::new())?,
            false => command.prepare(&self.world.concurrency)?,
        }
        command.run(&self.world.view())
    }

    /// Runs a command unless its latches are taken.
    fn write<C: WriteCommand>(&mut self, command: &C) -> Option<Result<C::Answer>> {
        let keys = command.keys();
        if let Some((latched, _, _)) = &self.slow
            && keys.iter().any(|key| latched.contains(key))
            && !self.does(Mistake::NoLatches)
        {
            return None;
        }
        if self.does(Mistake::RollbackForgotten) && command.name() == "check_txn_status" {
            return Some(self.world.decide(command).map(|effect| effect.answer));
        }
        Some(self.world.write(command).map(|(answer, _)| answer))
    }

    fn begin(&mut self) {
        let start_ts = self.tick();
        let first = self.dice.roll(5) as usize;
        let second = (first + 1 + self.dice.roll(4) as usize) % 5;
        let styles = [
            Style::TwoPhases,
            Style::Async,
            Style::OnePhase,
            Style::Pessimistic,
            Style::PessimisticAsync,
        ];
        let style = styles[self.dice.roll(5) as usize];
        self.transfers.push(Transfer {
            start_ts,
            for_update_ts: start_ts,
            style,
            stage: if style.is_pessimistic() { Stage::Lock } else { Stage::Read },
            accounts: [ACCOUNTS[first], ACCOUNTS[second]],
            read: Vec::new(),
            min_commit_ts: Ts::ZERO,
            is_async: style.is_async(),
            resolved: BTreeSet::new(),
            told: None,
        });
    }

    fn step(&mut self, index: usize) {
        let mut transfer = self.transfers[index].clone();
        match transfer.stage {
            Stage::Lock => self.lock(&mut transfer),
            Stage::Read => self.read(&mut transfer),
            Stage::Prewrite(number) => self.prewrite(&mut transfer, number),
            Stage::Commit(number) => self.commit(&mut transfer, number),
            Stage::GiveUp => {
                let keys = transfer.accounts.map(key).to_vec();
                let command = Rollback { keys, start_ts: transfer.start_ts };
                if let Some(answer) = self.write(&command) {
                    if answer.is_ok() {
                        transfer.told = Some(Ts::ZERO);
                    }
                    transfer.stage = Stage::Over;
                }
            }
            Stage::Over => {}
        }
        self.transfers[index] = transfer;
    }

    fn lock(&mut self, transfer: &mut Transfer) {
        transfer.for_update_ts = self.tick();
        let command = PessimisticLock {
            keys: transfer.accounts.iter().map(|user| (key(user), false)).collect(),
            primary: Bytes::from_static(transfer.accounts[0].as_bytes()),
            start_ts: transfer.start_ts,
            ttl_ms: TTL_MS,
            for_update_ts: transfer.for_update_ts,
            min_commit_ts: Ts::ZERO,
            return_values: true,
            check_existence: false,
            lock_only_if_exists: false,
            force: false,
            no_wait: false,
        };
        match self.write(&command) {
            Some(Ok(PessimisticLocked::Done(results))) => {
                let value = |result: super::super::pessimistic_lock::KeyLocked| {
                    balance(&result.value.expect("every account has a balance"))
                };
                transfer.read = results.into_iter().map(value).collect();
                transfer.stage = Stage::Prewrite(0);
            }
            Some(Ok(PessimisticLocked::Wait { key, lock })) => {
                self.resolve(&key, &lock, transfer.start_ts);
            }
            Some(Err(Error::WriteConflict(_))) | None => {}
            Some(Err(_)) => transfer.stage = Stage::GiveUp,
        }
    }

    fn read(&mut self, transfer: &mut Transfer) {
        let resolved = transfer.resolved.clone();
        let rules = ReadRules { resolved, ..ReadRules::at(transfer.start_ts) };
        let mut read = Vec::new();
        for user in transfer.accounts {
            match self.read_with(Get { key: key(user), rules: rules.clone() }) {
                Ok(found) => {
                    read.push(balance(&found.version.expect("every account has a balance").value));
                }
                Err(Error::Locked { lock, .. }) => {
                    let pushed = self.resolve(&key(user), &lock, transfer.start_ts);
                    transfer.resolved.extend(pushed.then_some(lock.start_ts));
                    return;
                }
                Err(other) => panic!("a read fails: {other}"),
            }
        }
        transfer.read = read;
        transfer.stage = Stage::Prewrite(0);
    }

    /// The prewrite of some of a transfer's two keys.
    fn request(&mut self, transfer: &Transfer, which: Range<usize>) -> Prewrite {
        let amount = transfer.read[0].min(7);
        let values = [transfer.read[0] - amount, transfer.read[1] + amount];
        let pessimistic = match transfer.style.is_pessimistic() {
            true => PessimisticAction::DoPessimisticCheck,
            false => PessimisticAction::SkipPessimisticCheck,
        };
        let mutation = |at: usize| Mutation {
            pessimistic,
            ..Mutation::new(key(transfer.accounts[at]), Change::Put(values[at].to_string().into()))
        };
        Prewrite {
            mutations: which.map(mutation).collect(),
            primary: Bytes::from_static(transfer.accounts[0].as_bytes()),
            start_ts: transfer.start_ts,
            ttl_ms: TTL_MS,
            txn_size: 2,
            for_update_ts: match transfer.style.is_pessimistic() {
                true => transfer.for_update_ts,
                false => Ts::ZERO,
            },
            min_commit_ts: Ts::from(self.dice.roll(2) * transfer.start_ts.next().get()),
            max_commit_ts: Ts::ZERO,
            assertion_level: AssertionLevel::Strict,
            way: match transfer.style {
                Style::OnePhase => Way::OnePhase,
                Style::Async | Style::PessimisticAsync => {
                    Way::Async(vec![Bytes::from_static(transfer.accounts[1].as_bytes())])
                }
                _ => Way::TwoPhases,
            },
        }
    }

    fn prewrite(&mut self, transfer: &mut Transfer, number: usize) {
        let one_phase = transfer.style == Style::OnePhase;
        let which = if one_phase { 0..2 } else { number..number + 1 };
        let command = self.request(transfer, which.clone());
        if self.dice.roll(4) == 0 {
            self.late.push(command.clone());
        }
        let is_slow = self.slow.is_none() && self.dice.roll(3) == 0;
        if is_slow {
            // The client dies while its write is under way. Whether that is done will show.
            command.prepare(&self.world.concurrency);
            if let Ok(effect) = command.run(&self.world.view(), &self.world.concurrency) {
                let is_shown = !self.does(Mistake::LocksShownTooShort);
                let published = effect.published.filter(|_| is_shown);
                self.slow = Some((command.keys(), effect.batch, published));
            }
            transfer.stage = Stage::Over;
            return;
        }
        let Some(answer) = self.write(&command) else { return };
        match answer {
            Ok(Prewritten::Done { one_phase_commit_ts, .. }) if one_phase_commit_ts != Ts::ZERO => {
                transfer.told = Some(one_phase_commit_ts);
                transfer.stage = Stage::Over;
            }
            Ok(Prewritten::Done { min_commit_ts, .. }) => {
                transfer.is_async &= min_commit_ts != Ts::ZERO;
                transfer.min_commit_ts = transfer.min_commit_ts.max(min_commit_ts);
                transfer.stage = if which.end == 2 { Stage::Commit(0) } else { Stage::Prewrite(1) };
                if which.end == 2 && transfer.is_async {
                    transfer.told = Some(transfer.min_commit_ts);
                }
            }
            Ok(Prewritten::Locked(errors)) => {
                for error in errors {
                    let Error::Locked { key: user, lock } = error else { panic!("not a lock") };
                    self.resolve(&Key::of(&user), &lock, transfer.start_ts);
                }
            }
            Err(_) => transfer.stage = Stage::GiveUp,
        }
    }

    fn commit(&mut self, transfer: &mut Transfer, number: usize) {
        let commit_ts = match transfer.told {
            Some(told) => told,
            None => self.tick(),
        };
        let command = Commit {
            keys: vec![key(transfer.accounts[number])],
            start_ts: transfer.start_ts,
            commit_ts,
        };
        let Some(answer) = self.write(&command) else { return };
        match answer {
            Ok(_) => {
                if number == 0 && transfer.told.is_none() {
                    transfer.told = Some(commit_ts);
                }
                transfer.stage = if number == 0 { Stage::Commit(1) } else { Stage::Over };
            }
            Err(Error::CommitTsExpired { .. }) => {}
            Err(error) => {
                assert!(
                    transfer.told.is_none(),
                    "{transfer:?} was told that it has committed: {error}"
                );
                transfer.stage = Stage::GiveUp;
            }
        }
    }

    /// What a client does about a lock in its way; whether it may read past it.
    fn resolve(&mut self, key: &Key, lock: &Lock, caller_start_ts: Ts) -> bool {
        let current_ts = self.tick();
        let mut check = CheckTxnStatus {
            primary: Key::of(&lock.primary),
            start_ts: lock.start_ts,
            caller_start_ts,
            current_ts,
            rollback_if_not_exist: true,
            force_sync_commit: false,
            resolving_pessimistic_lock: lock.is_pessimistic(),
            verify_is_primary: true,
        };
        let Some(answer) = self.write(&check) else { return false };
        let commit_ts = match answer.expect("the primary key tells") {
            TxnStatus::Committed(commit_ts) => commit_ts,
            TxnStatus::RolledBack(_) => Ts::ZERO,
            TxnStatus::Alive { lock: primary, .. }
                if primary.use_async_commit && primary.is_expired(current_ts) =>
            {
                let users = &primary.secondaries;
                let keys: Vec<Key> = users.iter().map(|user| Key::of(user)).collect();
                let secondaries = CheckSecondaryLocks { keys, start_ts: lock.start_ts };
                match self.write(&secondaries) {
                    None => return false,
                    Some(answer) => match answer.expect("secondaries tell") {
                        SecondaryLocks::Committed(commit_ts) => commit_ts,
                        SecondaryLocks::RolledBack => Ts::ZERO,
                        SecondaryLocks::Locked(locks) => {
                            if locks.iter().any(|(_, lock)| !lock.use_async_commit) {
                                check.force_sync_commit = true;
                                let _ = self.write(&check);
                                return false;
                            }
                            let all = locks.iter().map(|(_, lock)| lock.min_commit_ts);
                            all.fold(primary.min_commit_ts, Ts::max)
                        }
                    },
                }
            }
            TxnStatus::Alive { is_pushed, .. } => return is_pushed,
        };
        let (keys, start_ts) = (vec![key.clone()], lock.start_ts);
        if lock.is_pessimistic() {
            let for_update_ts = lock.for_update_ts;
            let _ = self.write(&PessimisticRollback { keys, start_ts, for_update_ts });
        } else if let Some(answer) = self.write(&ResolveLite { keys, start_ts, commit_ts }) {
            answer.expect("what the primary key told is true");
        }
        false
    }

    /// Reads all accounts at one timestamp; nothing if a lock is in the way.
    fn look(&mut self, ts: Ts) -> Option<Vec<(Key, Bytes)>> {
        let found =
            match self.read_with(Scan::new(Bytes::new(), Bytes::new(), 100, ReadRules::at(ts))) {
                Ok(scanned) => scanned.found,
                Err(Error::Locked { key, lock }) => {
                    self.resolve(&Key::of(&key), &lock, ts);
                    return None;
                }
                Err(other) => panic!("a scan fails: {other}"),
            };
        let mut pairs = Vec::new();
        for (key, answer) in found {
            match answer {
                Ok(version) => pairs.push((key, version.value)),
                Err(Error::Locked { lock, .. }) => {
                    self.resolve(&key, &lock, ts);
                    return None;
                }
                Err(other) => panic!("a scan fails: {other}"),
            }
        }
        let total: u64 = pairs.iter().map(|(_, value)| balance(value)).sum();
        assert_eq!(total, BALANCE * 5, "at {ts}: {pairs:?}");
        Some(pairs)
    }

    fn anything(&mut self) {
        match self.dice.roll(12) {
            0 if self.transfers.len() < 60 => self.begin(),
            1 if !self.transfers.is_empty() => {
                // Dies, and tells nobody.
                let index = self.dice.roll(self.transfers.len() as u64) as usize;
                self.transfers[index].stage = Stage::Over;
            }
            2 => {
                if let Some((_, batch, published)) = self.slow.take() {
                    if self.dice.roll(4) > 0 {
                        self.world.apply(batch);
                    }
                    drop(published);
                }
            }
            3 if !self.late.is_empty() => {
                let index = self.dice.roll(self.late.len() as u64) as usize;
                let command = self.late[index].clone();
                let _ = self.write(&command);
            }
            4 => {
                let ts = self.tick();
                if let Some(pairs) = self.look(ts) {
                    self.views.insert(ts, pairs);
                }
            }
            _ => {
                let alive: Vec<usize> = (0..self.transfers.len())
                    .filter(|index| self.transfers[*index].stage != Stage::Over)
                    .collect();
                match alive.len() as u64 {
                    0 => self.begin(),
                    count => {
                        let chosen = alive[self.dice.roll(count) as usize];
                        self.step(chosen);
                    }
                }
            }
        }
    }

    /// All clients are gone; somebody who reads everything ends what they left.
    fn settle(&mut self) {
        if let Some((_, batch, published)) = self.slow.take() {
            self.world.apply(batch);
            drop(published);
        }
        self.now_ms += 10 * TTL_MS;
        for _ in 0..200 {
            let locks = self.world.read(ScanLock::new(Ts::MAX, Bytes::new(), Bytes::new(), 0));
            let Some((key, lock)) = locks.expect("locks are listed").first().cloned() else {
                return;
            };
            self.resolve(&key, &lock, Ts::ZERO);
        }
        panic!("locks remain:\n{}", draw(&self.world.engine));
    }

    fn verify(&mut self) {
        for (ts, pairs) in self.views.clone() {
            assert_eq!(self.look(ts), Some(pairs), "the view at {ts} changed");
        }
        let view = self.world.view();
        let mut history = BTreeMap::new();
        for transfer in &self.transfers {
            let keys = transfer.accounts.map(key);
            let mut reader = Reader::of_keys(&*view.view, &keys);
            let ends = keys.each_ref().map(|key| {
                match reader.txn_record(key, transfer.start_ts).expect("memory") {
                    TxnRecord::Committed { commit_ts, .. } => commit_ts,
                    _ => Ts::ZERO,
                }
            });
            assert_eq!(ends[0], ends[1], "half of {transfer:?}");
            if let Some(told) = transfer.told {
                assert_eq!(ends[0], told, "{transfer:?} was told something else");
            }
            if ends[0] != Ts::ZERO {
                history.entry(ends[0]).or_insert_with(Vec::new).push(transfer);
            }
        }
        let mut balances: BTreeMap<&str, u64> = ACCOUNTS.map(|user| (user, BALANCE)).into();
        for transfer in history.into_values().flatten() {
            let now = transfer.accounts.map(|user| balances[user]);
            assert_eq!(&now[..], &transfer.read[..], "{transfer:?} read what was old");
            let amount = now[0].min(7);
            *balances.get_mut(transfer.accounts[0]).expect("an account") -= amount;
            *balances.get_mut(transfer.accounts[1]).expect("an account") += amount;
        }
    }
}

/// One run from beginning to end.
fn story(seed: u64, mistake: Option<Mistake>) -> Bank {
    let mut bank = Bank::new(seed);
    bank.mistake = mistake;
    for _ in 0..250 {
        bank.anything();
    }
    bank.mistake = None;
    bank.settle();
    bank.verify();
    bank
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn money_is_neither_made_nor_lost(seed in any::<u64>()) {
        story(seed, None);
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    (1..).map(|number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// The bank notices what whoever runs the commands could do wrong.
#[test]
fn mistakes_around_the_commands_are_noticed() {
    use Mistake::*;
    for mistake in [UnpreparedReads, LocksShownTooShort, NoLatches, RollbackForgotten] {
        let goes_wrong = |seed| std::panic::catch_unwind(|| story(seed, Some(mistake))).is_err();
        assert!(seeds().take(300).any(goes_wrong), "nobody notices {mistake:?}");
    }
}

/// The test must be able to see something: most kinds of ends happen.
#[test]
fn the_bank_is_busy() {
    let (mut committed, mut rolled_back, mut views) = (BTreeMap::new(), 0, 0);
    for seed in seeds().take(40) {
        let bank = story(seed, None);
        views += bank.views.len();
        for transfer in &bank.transfers {
            match transfer.told {
                Some(Ts::ZERO) => rolled_back += 1,
                Some(_) => *committed.entry(format!("{:?}", transfer.style)).or_insert(0) += 1,
                None => {}
            }
        }
    }
    assert!(committed.len() == 5 && committed.values().all(|count| *count > 20), "{committed:?}");
    assert!(rolled_back > 20 && views > 100, "{rolled_back} rolled back, {views} views");
}
