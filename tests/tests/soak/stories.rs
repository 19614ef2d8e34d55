//! What the clients in the storm do, and what they check.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skerry_raftstore::time::splitmix64;
use skerry_tests::wait::{Stopwatch, let_pass_async, until_async};
use tikv_client::{
    CheckLevel, Config, Key, KvPair, ProtoLockInfo, RawClient, Snapshot, Transaction,
    TransactionClient, TransactionOptions,
};
use tokio::task::JoinHandle;

/// Accounts of the bank, which lie in many regions.
const ACCOUNTS: u64 = 60;
/// What each has in the beginning.
const BALANCE: u64 = 100;
/// Keys of the large transaction.
const LARGE: u64 = 1_000;
/// Bankers at work.
const BANKERS: u64 = 3;
/// Each story must get something done in this time when the storm is over.
const PATIENCE: Duration = Duration::from_secs(60);
/// A request that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How often something was done.
#[derive(Default)]
struct Counts {
    transfers: AtomicU64,
    audits: AtomicU64,
    large: AtomicU64,
    large_reads: AtomicU64,
    steps: AtomicU64,
    raw: AtomicU64,
    failures: AtomicU64,
    /// The last failure of each story.
    complaints: Mutex<BTreeMap<&'static str, String>>,
}

impl Counts {
    /// Notes that a call of this story failed.
    fn complain(&self, story: &'static str, error: &tikv_client::Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.insert(story, error.to_string());
    }
}

/// All stories of a round.
pub(super) struct Stories {
    client: Arc<TransactionClient>,
    counts: Arc<Counts>,
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    counter: JoinHandle<(u64, u64)>,
}

/// What was counted.
pub(super) struct Told(Arc<Counts>);

impl fmt::Display for Told {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.0;
        write!(
            formatter,
            "{} transfers, {} audits, {} large transactions of {LARGE} keys, {} reads of all of them both ways, \
             {} counted steps, {} raw calls, {} calls failed and were made again",
            read(&counts.transfers),
            read(&counts.audits),
            read(&counts.large),
            read(&counts.large_reads),
            read(&counts.steps),
            read(&counts.raw),
            read(&counts.failures),
        )
    }
}

/// What every story has.
#[derive(Clone)]
struct Teller {
    client: Arc<TransactionClient>,
    counts: Arc<Counts>,
    over: Arc<AtomicBool>,
}

impl Stories {
    /// Opens the bank and sets everybody to work.
    pub(super) async fn begin(scheduler: SocketAddr) -> Stories {
        let endpoints = || vec![scheduler.to_string()];
        let config = || Config::default().with_timeout(REQUEST_TIMEOUT);
        let client = TransactionClient::new_with_config(endpoints(), config()).await;
        let client = Arc::new(client.expect("a ready cluster is found"));
        let raw = RawClient::new_with_config(endpoints(), config()).await;
        let raw = raw.expect("a ready cluster is found");
        let teller =
            Teller { client: Arc::clone(&client), counts: Arc::default(), over: Arc::default() };
        until_async("the bank is open", async || {
            teller.change("opening", |txn| Box::pin(open_bank(txn))).await.ok()
        })
        .await;
        let mut tasks = Vec::new();
        for banker in 0..BANKERS {
            tasks.push(tokio::spawn(teller.clone().bank(banker)));
        }
        tasks.push(tokio::spawn(teller.clone().audit()));
        tasks.push(tokio::spawn(teller.clone().write_large()));
        tasks.push(tokio::spawn(teller.clone().read_large()));
        tasks.push(tokio::spawn(teller.clone().put_raw(raw)));
        let counter = tokio::spawn(teller.clone().count());
        let Teller { counts, over, .. } = teller;
        Stories { client, counts, over, tasks, counter }
    }

    /// Waits until every story has got something done from now on.
    pub(super) async fn get_on(&self) {
        let counts = &self.counts;
        let all = || {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            [
                ("bank", read(&counts.transfers)),
                ("audit", read(&counts.audits)),
                ("large writes", read(&counts.large)),
                ("large reads", read(&counts.large_reads)),
                ("counter", read(&counts.steps)),
                ("raw", read(&counts.raw)),
            ]
        };
        let (before, watch) = (all(), Stopwatch::start());
        loop {
            let still = before.into_iter().zip(all()).filter(|(then, now)| then == now);
            let still: Vec<&str> = still.map(|((story, _), _)| story).collect();
            if still.is_empty() {
                return;
            }
            if watch.elapsed() > PATIENCE {
                let (complaints, locks) = (&counts.complaints, self.locks().await);
                panic!("{still:?} did not get on: {complaints:#?}; locks now: {locks:#?}");
            }
            let_pass_async(Duration::from_millis(50)).await;
        }
    }

    /// The locks that are there: what they stand on, of whom, and for how long they may.
    async fn locks(&self) -> Vec<String> {
        let Ok(now) = self.client.current_timestamp().await else { return Vec::new() };
        let found = self.client.scan_locks(&now, account(0)..large(LARGE), 100_000).await;
        let tell = |lock: ProtoLockInfo| {
            format!(
                "{} of the transaction that began at {} ({} ms before), life {} ms, primary {}, type {}, async {}",
                String::from_utf8_lossy(&lock.key),
                lock.lock_version,
                now.physical - (lock.lock_version >> 18) as i64,
                lock.lock_ttl,
                String::from_utf8_lossy(&lock.primary_lock),
                lock.lock_type,
                lock.use_async_commit
            )
        };
        found.unwrap_or_default().into_iter().map(tell).take(20).collect()
    }

    /// Ends all stories, and checks what remains.
    pub(super) async fn end(self) -> Told {
        self.over.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("a story that fails has said why");
        }
        let (done, unknown) = self.counter.await.expect("a story that fails has said why");
        let found = until_async("the counter is read", async || {
            let mut now = snapshot(&self.client).await?;
            now.get(Key::from("counter".to_string())).await.ok()
        })
        .await;
        let found = number(&found.unwrap_or_default());
        let may_be = done..=done + unknown;
        assert!(may_be.contains(&found), "the counter is {found}, which is not in {may_be:?}");
        Told(self.counts)
    }
}

/// What a transaction does.
type Work<'a> = std::pin::Pin<Box<dyn Future<Output = tikv_client::Result<()>> + Send + 'a>>;

impl Teller {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    /// Commits what `work` does, once; an error of the commit may mean anything.
    async fn change(
        &self,
        story: &'static str,
        work: impl for<'a> FnOnce(&'a mut Transaction) -> Work<'a>,
    ) -> tikv_client::Result<()> {
        self.change_as(story, TransactionOptions::new_optimistic(), work).await
    }

    async fn change_as(
        &self,
        story: &'static str,
        options: TransactionOptions,
        work: impl for<'a> FnOnce(&'a mut Transaction) -> Work<'a>,
    ) -> tikv_client::Result<()> {
        let options = options.drop_check(CheckLevel::None);
        let mut txn = self.client.begin_with_options(options).await?;
        let worked = work(&mut txn).await;
        let is_committing = worked.is_ok();
        let done = match worked {
            Ok(()) => txn.commit().await.map(|_| ()),
            failed => failed,
        };
        // Others need not wait for the end of its locks, if it can be told. But what a commit has done that was not
        // answered is not known: to roll back then could undo one half of it.
        if done.as_ref().is_err_and(|error| !is_committing || is_refusal(error)) {
            let _ = txn.rollback().await;
        }
        if let Err(error) = &done {
            self.counts.complain(story, error);
        }
        done
    }

    /// Moves money, in each way in turn.
    async fn bank(self, banker: u64) {
        let ways = [
            TransactionOptions::new_optimistic(),
            TransactionOptions::new_pessimistic(),
            TransactionOptions::new_optimistic().use_async_commit(),
            TransactionOptions::new_optimistic().try_one_pc(),
        ];
        let mut draw = splitmix64(banker);
        for way in ways.into_iter().cycle() {
            if !self.goes_on() {
                return;
            }
            draw = splitmix64(draw);
            let (from, to) = (draw % ACCOUNTS, (draw >> 32) % ACCOUNTS);
            let moved = self.change_as("bank", way, |txn| Box::pin(transfer(txn, from, to))).await;
            self.counts.transfers.fetch_add(u64::from(moved.is_ok()), Ordering::Relaxed);
        }
    }

    /// Every snapshot has the same sum.
    async fn audit(self) {
        while self.goes_on() {
            let Some(mut now) = snapshot(&self.client).await else { continue };
            let range = account(0)..account(ACCOUNTS);
            let found = match now.scan(range, 1_000).await {
                Ok(found) => found,
                Err(error) => {
                    self.counts.complain("audit", &error);
                    continue;
                }
            };
            let found: Vec<KvPair> = found.collect();
            let sum: u64 = found.iter().map(|KvPair(_, balance)| number(balance)).sum();
            assert_eq!(found.len() as u64, ACCOUNTS, "an account is gone");
            assert_eq!(sum, ACCOUNTS * BALANCE, "money was made or lost: {found:?}");
            self.counts.audits.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes one value to many keys.
    async fn write_large(self) {
        for round in 0_u64.. {
            if !self.goes_on() {
                return;
            }
            let done = self.change("large writes", |txn| Box::pin(write_all(txn, round))).await;
            self.counts.large.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
        }
    }

    /// All of them have one value, whichever way they are read.
    async fn read_large(self) {
        while self.goes_on() {
            let Some(mut now) = snapshot(&self.client).await else { continue };
            let range = || large(0)..large(LARGE);
            let upwards = now.scan(range(), 2_000).await.map(Iterator::collect::<Vec<KvPair>>);
            let downwards =
                now.scan_reverse(range(), 2_000).await.map(Iterator::collect::<Vec<KvPair>>);
            let (upwards, mut downwards) = match (upwards, downwards) {
                (Ok(upwards), Ok(downwards)) => (upwards, downwards),
                (Err(error), _) | (_, Err(error)) => {
                    self.counts.complain("large reads", &error);
                    continue;
                }
            };
            let is_whole = upwards.is_empty() || upwards.len() as u64 == LARGE;
            assert!(is_whole, "{} of {LARGE} keys of a transaction are there", upwards.len());
            let first = upwards.first().map(|KvPair(_, value)| value);
            let is_one = upwards.iter().all(|KvPair(_, value)| Some(value) == first);
            assert!(is_one, "values of two transactions are there at once");
            downwards.reverse();
            assert!(upwards == downwards, "downwards it looks different");
            self.counts.large_reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts; answers how many steps were acknowledged, and how many may have happened besides.
    async fn count(self) -> (u64, u64) {
        let (mut done, mut unknown) = (0, 0);
        while self.goes_on() {
            match self.change("counter", |txn| Box::pin(add_one(txn))).await {
                Ok(()) => done += 1,
                Err(_) => unknown += 1,
            }
            self.counts.steps.store(done, Ordering::Relaxed);
        }
        (done, unknown)
    }

    /// One key of raw pairs, put and got by this client alone.
    async fn put_raw(self, client: RawClient) {
        let key = || Key::from("raw".to_string());
        // The last value that was acknowledged, and those that may come at any time.
        let (mut last, mut unknown) = (None, BTreeSet::new());
        for value in 1_u64.. {
            if !self.goes_on() {
                return;
            }
            match client.put(key(), value.to_string()).await {
                Ok(()) => last = Some(value),
                Err(error) => {
                    self.counts.complain("raw", &error);
                    unknown.insert(Some(value));
                }
            }
            let found = match client.get(key()).await {
                Ok(found) => found,
                Err(error) => {
                    self.counts.complain("raw", &error);
                    continue;
                }
            };
            let found = found.map(|text| number(&text));
            assert!(found == last || unknown.contains(&found), "{found:?} after {last:?}");
            self.counts.raw.fetch_add(2, Ordering::Relaxed);
        }
    }
}

/// Whether a store has refused to lock or to commit a key, so that nothing is committed.
fn is_refusal(error: &tikv_client::Error) -> bool {
    use tikv_client::Error;
    let is_refusal =
        |error: &Error| matches!(error, Error::KeyError(_) | Error::ResolveLockError(_));
    match error {
        Error::MultipleKeyErrors(errors) | Error::ExtractedErrors(errors) => {
            errors.iter().all(is_refusal)
        }
        Error::PessimisticLockError { inner, .. } => is_refusal(inner),
        error => is_refusal(error),
    }
}

async fn snapshot(client: &TransactionClient) -> Option<Snapshot> {
    let now = client.current_timestamp().await.ok()?;
    Some(client.snapshot(now, TransactionOptions::new_optimistic()))
}

async fn open_bank(txn: &mut Transaction) -> tikv_client::Result<()> {
    for number in 0..ACCOUNTS {
        txn.put(account(number), BALANCE.to_string()).await?;
    }
    Ok(())
}

async fn transfer(txn: &mut Transaction, from: u64, to: u64) -> tikv_client::Result<()> {
    if from == to {
        return Ok(());
    }
    // A pessimistic transaction locks the newest version, and what it reads without a lock may be older.
    let (from, to) = (account(from), account(to));
    let rich = number(&txn.get_for_update(from.clone()).await?.expect("never closed"));
    let poor = number(&txn.get_for_update(to.clone()).await?.expect("never closed"));
    if rich == 0 {
        return Ok(());
    }
    txn.put(from, (rich - 1).to_string()).await?;
    txn.put(to, (poor + 1).to_string()).await
}

async fn write_all(txn: &mut Transaction, round: u64) -> tikv_client::Result<()> {
    for number in 0..LARGE {
        txn.put(large(number), round.to_string()).await?;
    }
    Ok(())
}

async fn add_one(txn: &mut Transaction) -> tikv_client::Result<()> {
    let key = || Key::from("counter".to_string());
    let before = number(&txn.get(key()).await?.unwrap_or_default());
    txn.put(key(), (before + 1).to_string()).await
}

fn account(number: u64) -> Key {
    Key::from(format!("account/{number:03}"))
}

fn large(number: u64) -> Key {
    Key::from(format!("large/{number:05}"))
}

fn number(text: &[u8]) -> u64 {
    match text {
        [] => 0,
        text => String::from_utf8_lossy(text).parse().expect("these stories store numbers"),
    }
}
