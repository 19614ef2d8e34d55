//! Did every transaction see one snapshot, and was no update lost? A checker of snapshot isolation.
//!
//! # How
//!
//! 1. Clients write down their [`Transaction`]s: when they began and ended, what they read at which timestamp, what
//!    they wrote, and how it ended. Every value is written once, so that a read tells whose write it saw.
//! 2. The committed writes of a key, by their commit timestamps, are its *versions*. That is the only order there is:
//!    timestamps are the store's own, so nothing has to be searched for.
//! 3. Each read must have found the newest version at or below its timestamp, and that of a committed transaction.
//! 4. Of two transactions that wrote one key, the later must have begun to hold the key after the earlier had
//!    committed.
//! 5. Whoever began after another had ended must see what that one wrote.
//!
//! | what goes wrong elsewhere | which rule it breaks |
//! | --- | --- |
//! | dirty read | a read found what was never committed |
//! | non-repeatable read, long fork, lost or resurrected write | a read found something else than the newest version |
//! | lost update | two held a key at the same time |
//! | stale snapshot | one began below the commit of another that had ended |
//!
//! Write skew breaks none of them: two transactions may read each other's keys and write their own.
//!
//! What it does not do: it knows no unknown ends. Whoever writes the history finds out at the end, from the records
//! that lie there, what became of a client that died.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use skerry_proto::types::Ts;

#[cfg(test)]
mod tests;

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Who.
    pub client: usize,
    /// When its client began it, in any unit in which later is greater.
    pub began: u64,
    /// When its client was told of the end; [`u64::MAX`] if it never was.
    pub ended: u64,
    /// Its timestamp.
    pub start_ts: Ts,
    /// What it read.
    pub reads: Vec<Read>,
    /// What it was to write.
    pub writes: Vec<Write>,
    /// When it was committed; nothing if it was not.
    pub commit_ts: Option<Ts>,
}

/// What a transaction read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The key.
    pub key: Bytes,
    /// At which timestamp.
    pub at: Ts,
    /// What was there.
    pub found: Option<Bytes>,
}

/// What a transaction wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Bytes,
    /// Its new value; nothing if it was removed.
    pub value: Option<Bytes>,
    /// Since when nobody else may have written it: the start, or when a pessimistic lock was taken.
    pub since: Ts,
}

/// What a check has looked at, for a test to see that it was enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Transactions that were committed.
    pub committed: usize,
    /// Those that were not.
    pub rolled_back: usize,
    /// Reads.
    pub reads: usize,
}

/// What is wrong with a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A commit is not after its start.
    CommitBeforeStart(Box<Transaction>),
    /// Two transactions committed a key at one timestamp.
    SameMoment(Bytes, Ts),
    /// A transaction read what was never committed.
    DirtyRead(Box<Transaction>, Box<Read>),
    /// A transaction did not read the newest version, which is that of this timestamp.
    OtherVersion(Box<Transaction>, Box<Read>, Option<Ts>),
    /// The second wrote a key that the first wrote while it held it.
    LostUpdate(Bytes, Box<Transaction>, Box<Transaction>),
    /// The second began when the first had ended, and below its commit.
    StaleSnapshot(Box<Transaction>, Box<Transaction>),
}

/// A version of a key: what was written, and by whom in the history.
struct Version<'a> {
    value: &'a Option<Bytes>,
    since: Ts,
    by: &'a Transaction,
}

/// The versions of a key by their commit timestamps.
type Versions<'a> = BTreeMap<Ts, Version<'a>>;

/// Checks all rules. Keys begin absent.
pub fn check(history: &[Transaction]) -> Result<Checked, Violation> {
    let mut checked = Checked::default();
    let mut keys: BTreeMap<&Bytes, Versions<'_>> = BTreeMap::new();
    for transaction in history {
        let Some(commit_ts) = transaction.commit_ts else {
            checked.rolled_back += 1;
            continue;
        };
        checked.committed += 1;
        if commit_ts <= transaction.start_ts {
            return Err(Violation::CommitBeforeStart(transaction.into()));
        }
        for Write { key, value, since } in &transaction.writes {
            let version = Version { value, since: *since, by: transaction };
            if keys.entry(key).or_default().insert(commit_ts, version).is_some() {
                return Err(Violation::SameMoment(key.clone(), commit_ts));
            }
        }
    }
    for (key, versions) in &keys {
        nobody_overlaps(key, versions)?;
    }
    let none = Versions::new();
    for transaction in history {
        for read in &transaction.reads {
            checked.reads += 1;
            is_newest(keys.get(&read.key).unwrap_or(&none), transaction, read)?;
        }
    }
    time_is_respected(history)?;
    Ok(checked)
}

fn nobody_overlaps(key: &Bytes, versions: &Versions<'_>) -> Result<(), Violation> {
    let mut before: Option<(&Ts, &Version<'_>)> = None;
    for (commit_ts, version) in versions {
        if let Some((earlier, first)) = before
            && *earlier > version.since
        {
            let (first, second) = (first.by.clone(), version.by.clone());
            return Err(Violation::LostUpdate(key.clone(), first.into(), second.into()));
        }
        before = Some((commit_ts, version));
    }
    Ok(())
}

fn is_newest(
    versions: &Versions<'_>,
    transaction: &Transaction,
    read: &Read,
) -> Result<(), Violation> {
    let newest = versions.range(..=read.at).next_back();
    let value = newest.and_then(|(_, version)| version.value.as_ref());
    if value == read.found.as_ref() {
        return Ok(());
    }
    let was_committed =
        read.found.is_none() || versions.values().any(|version| *version.value == read.found);
    if !was_committed {
        return Err(Violation::DirtyRead(transaction.into(), Box::new(read.clone())));
    }
    let newest = newest.map(|(commit_ts, _)| *commit_ts);
    Err(Violation::OtherVersion(transaction.into(), Box::new(read.clone()), newest))
}

/// Whoever began after others had ended has a start at or above all their commits.
fn time_is_respected(history: &[Transaction]) -> Result<(), Violation> {
    let mut by_end: Vec<&Transaction> = history
        .iter()
        .filter(|transaction| transaction.ended != u64::MAX && transaction.commit_ts.is_some())
        .collect();
    by_end.sort_by_key(|transaction| transaction.ended);
    let mut by_beginning: Vec<&Transaction> = history.iter().collect();
    by_beginning.sort_by_key(|transaction| transaction.began);
    let mut ended = by_end.into_iter().peekable();
    let mut latest: Option<&Transaction> = None;
    for transaction in by_beginning {
        while let Some(other) = ended.next_if(|other| other.ended < transaction.began) {
            if latest.is_none_or(|latest| latest.commit_ts < other.commit_ts) {
                latest = Some(other);
            }
        }
        if let Some(latest) = latest
            && latest.commit_ts > Some(transaction.start_ts)
        {
            return Err(Violation::StaleSnapshot(latest.into(), transaction.into()));
        }
    }
    Ok(())
}

impl From<&Transaction> for Box<Transaction> {
    fn from(transaction: &Transaction) -> Box<Transaction> {
        Box::new(transaction.clone())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::CommitBeforeStart(it) => {
                write!(formatter, "it commits before it begins: {it}")
            }
            Violation::SameMoment(key, ts) => {
                write!(formatter, "two commit {} at {ts}", shown(Some(key)))
            }
            Violation::DirtyRead(it, read) => {
                write!(formatter, "dirty read: {read} was never committed\n  {it}")
            }
            Violation::OtherVersion(it, read, newest) => {
                write!(formatter, "not a snapshot: {read}, the newest there is ")?;
                match newest {
                    None => formatter.write_str("none")?,
                    Some(ts) => write!(formatter, "that of {ts}")?,
                }
                write!(formatter, "\n  {it}")
            }
            Violation::LostUpdate(key, first, second) => {
                write!(formatter, "lost update of {}\n  {first}\n  {second}", shown(Some(key)))
            }
            Violation::StaleSnapshot(first, second) => {
                write!(formatter, "stale snapshot\n  {first}\n  {second}")
            }
        }
    }
}

/// `client 3, 10 to 20: reads "a" at 10 -> "1"; writes "b" = "2"`.
impl fmt::Display for Transaction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "client {}, {} to ", self.client, self.start_ts)?;
        match self.commit_ts {
            Some(commit_ts) => write!(formatter, "{commit_ts}:")?,
            None => formatter.write_str("no commit:")?,
        }
        for read in &self.reads {
            write!(formatter, " reads {read};")?;
        }
        for Write { key, value, since } in &self.writes {
            let (key, value) = (shown(Some(key)), shown(value.as_ref()));
            write!(formatter, " writes {key} = {value}, its own since {since};")?;
        }
        Ok(())
    }
}

impl fmt::Display for Read {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, found) = (shown(Some(&self.key)), shown(self.found.as_ref()));
        write!(formatter, "{key} at {} -> {found}", self.at)
    }
}

/// A key or value as people read it; of a long one the beginning.
fn shown(value: Option<&Bytes>) -> String {
    let Some(value) = value else { return "nothing".to_string() };
    let (part, rest) = value.split_at(value.len().min(40));
    let more = if rest.is_empty() { "" } else { "..." };
    format!("\"{}{more}\"", part.escape_ascii())
}
