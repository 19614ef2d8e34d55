//! The bank: money moves between accounts, by transactions, and nothing else may change how much there is.
//!
//! 1. Accounts lie at even distances among all keys, so that every region has as many. Each begins with the same
//!    balance, or with `--no-load` with what it has.
//! 2. A transfer reads two accounts at one timestamp and writes both, in two phases. If it meets another transaction
//!    it reads anew.
//! 3. A look reads all accounts at one timestamp. Their sum must be what it was at the beginning. Clients look now and
//!    then while others move money, and a last look follows when all is over.
//!
//! **Invariant.** A sum that is another ends the run, which then fails and tells it: whatever rates were measured are
//! those of a broken store.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use skerry_proto::types::Ts;

use super::cluster::Cluster;
use super::keys::{Dice, key_at};
use super::txn::{ATTEMPTS_MAX, met_too_often};
use crate::error::{Error, Result};

/// What every account holds at first.
const FIRST_BALANCE: u64 = 1_000;
/// The most that moves at a time.
const AMOUNT_MAX: u64 = 10;
/// Accounts that are opened, or read, at the same time.
const TOGETHER: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Bank {
    accounts: u64,
    /// What all accounts hold together.
    total: u64,
    /// How often they were summed.
    looks: AtomicU64,
    /// The first sum that was not the total, in words.
    broken: OnceLock<String>,
}

impl Bank {
    /// Refuses what is no bank, before anything is started.
    pub(super) fn check(accounts: u64) -> Result<()> {
        match accounts < 2 {
            false => Ok(()),
            true => Err(Error::Startup(format!(
                "bank: money moves between two accounts, --accounts {accounts} are too few"
            ))),
        }
    }

    /// Opens the accounts, or sums those that are there.
    pub(super) async fn open(cluster: &Cluster, accounts: u64, is_new: bool) -> Result<Bank> {
        let (looks, broken) = (AtomicU64::new(0), OnceLock::new());
        let mut bank = Bank { accounts, total: accounts * FIRST_BALANCE, looks, broken };
        match is_new {
            true => bank.fill(cluster).await?,
            false => bank.total = bank.sum(cluster).await?.1,
        }
        eprintln!("bank: {accounts} accounts hold {}", bank.total);
        Ok(bank)
    }

    async fn fill(&self, cluster: &Cluster) -> Result<()> {
        let balance = Bytes::from(FIRST_BALANCE.to_string());
        for some in self.keys().chunks(TOGETHER) {
            let opened = some.iter().map(async |account| {
                let pairs = vec![(account.clone(), balance.clone())];
                cluster.write_in_one_phase(&pairs).await
            });
            try_join_all(opened).await?;
        }
        Ok(())
    }

    fn keys(&self) -> Vec<Bytes> {
        (0..self.accounts).map(|account| self.key(account)).collect()
    }

    fn key(&self, account: u64) -> Bytes {
        key_at((account as f64 + 0.5) / self.accounts as f64).into()
    }

    /// Moves some money from one account to another.
    pub(super) async fn transfer(&self, cluster: &Cluster, dice: &mut Dice) -> Result<()> {
        let from = dice.number() % self.accounts;
        let to = (from + 1 + dice.number() % (self.accounts - 1)) % self.accounts;
        let (from, to) = (self.key(from), self.key(to));
        let wanted = 1 + dice.number() % AMOUNT_MAX;
        for _ in 0..ATTEMPTS_MAX {
            let start = cluster.timestamp().await?;
            let (giver, taker) =
                tokio::try_join!(balance(cluster, &from, start), balance(cluster, &to, start))?;
            let amount = wanted.min(giver);
            let pairs = vec![
                (from.clone(), (giver - amount).to_string().into()),
                (to.clone(), (taker + amount).to_string().into()),
            ];
            if cluster.try_in_two_phases(&pairs, start).await? {
                return Ok(());
            }
        }
        Err(met_too_often())
    }

    /// Sums all accounts at one moment.
    pub(super) async fn look(&self, cluster: &Cluster) -> Result<()> {
        let (at, sum) = self.sum(cluster).await?;
        self.judge(at, sum);
        Ok(())
    }

    /// The last look. An end at which nobody can say what there is, is no good end.
    pub(super) async fn close(&self, cluster: &Cluster) {
        if let Err(error) = self.look(cluster).await {
            let reason = format!("the accounts cannot be summed at the end: {error}");
            let _ = self.broken.set(reason);
        }
    }

    async fn sum(&self, cluster: &Cluster) -> Result<(Ts, u64)> {
        let (at, mut sum) = (cluster.timestamp().await?, 0);
        for some in self.keys().chunks(TOGETHER) {
            let balances = some.iter().map(|account| balance(cluster, account, at));
            sum += try_join_all(balances).await?.iter().sum::<u64>();
        }
        Ok((at, sum))
    }

    fn judge(&self, at: Ts, sum: u64) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        if sum != self.total {
            // Only the first is told.
            let _ = self.broken.set(format!(
                "the {} accounts hold {sum} at timestamp {at}, and not {}",
                self.accounts, self.total
            ));
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.get().is_some()
    }

    /// What is known about it now.
    pub(super) fn verdict(&self) -> Verdict {
        Verdict {
            accounts: self.accounts,
            total: self.total,
            sums: self.looks.load(Ordering::Relaxed),
            broken: self.broken.get().cloned(),
        }
    }
}

/// What became of the money.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    accounts: u64,
    total: u64,
    sums: u64,
    broken: Option<String>,
}

impl Verdict {
    /// An error if some was lost or made.
    pub(super) fn check(&self) -> Result<()> {
        self.broken.as_ref().map_or(Ok(()), |reason| Err(Error::Startup(format!("bank: {reason}"))))
    }

    /// In words.
    pub(super) fn told(&self) -> String {
        let Verdict { accounts, total, sums, broken } = self;
        match broken {
            None => format!("bank: {accounts} accounts held {total} in each of {sums} sums"),
            Some(reason) => format!("bank: {reason}"),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "accounts": self.accounts,
            "total": self.total,
            "sums": self.sums,
            "broken": self.broken,
        })
    }
}

/// What an account holds at a timestamp.
async fn balance(cluster: &Cluster, account: &Bytes, at: Ts) -> Result<u64> {
    let found = cluster.read_at(account, at).await?;
    let text = found.ok_or_else(|| {
        let account = String::from_utf8_lossy(account);
        Error::Startup(format!("bank: there is no account {account}: --no-load wants them there"))
    })?;
    let balance = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
    balance.ok_or_else(|| Error::Startup(format!("bank: an account holds {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bank() -> Bank {
        Bank { accounts: 4, total: 4_000, looks: AtomicU64::new(0), broken: OnceLock::new() }
    }

    #[test]
    fn a_sum_that_is_another_is_told_and_the_first_of_them() {
        let bank = bank();
        bank.judge(Ts::from(5), 4_000);
        assert!(!bank.is_broken() && bank.verdict().check().is_ok());
        bank.judge(Ts::from(6), 3_990);
        bank.judge(Ts::from(7), 4_000);
        bank.judge(Ts::from(8), 4_010);
        let told = bank.verdict().check().expect_err("money is lost").to_string();
        assert!(told.contains("hold 3990") && told.contains("not 4000"), "{told}");
        assert_eq!(bank.verdict().json()["sums"], 4);
    }

    #[test]
    fn accounts_lie_at_even_distances() {
        let keys = bank().keys();
        assert!(keys[0] < key_at(0.25) && keys[1] > key_at(0.25), "{keys:?}");
        assert!(keys[2] < key_at(0.75) && keys[3] > key_at(0.75), "{keys:?}");
    }

    #[test]
    fn one_account_is_no_bank() {
        let refused = Bank::check(1).expect_err("nobody can give").to_string();
        assert!(refused.contains("--accounts 1 are too few"), "{refused}");
        assert!(Bank::check(2).is_ok());
    }
}
