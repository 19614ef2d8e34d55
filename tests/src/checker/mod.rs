//! Was there one order in which all operations could have happened? A checker of linearizability, key by
//! key.
//!
//! # How
//!
//! 1. Clients write a [`History`]: what was asked and when, how it ended and when.
//! 2. It falls apart into keys, which are independent: a history is linearizable if and only if it is
//!    for every key by itself.
//! 3. For each key [`search`] looks for an order of the operations that respects time (what had ended
//!    before another began comes before it) and in which every operation saw what it says it saw.
//! 4. If there is none, the [`Violation`] shows how far one can get and what fits no more.
//!
//! An operation ends in one of three ways. *Done*: it happened at one moment between its two times.
//! *Refused*: it never happened and leaves no trace. *Unknown*: it may have happened at any moment after it
//! began, today or in a year, or never.
//!
//! What it does not do: it knows nothing of operations on several keys at once, for which there is [`isolation`], and
//! it takes a compare-and-set that swapped nothing for a read.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

pub mod isolation;
mod search;
#[cfg(test)]
mod tests;

/// What a client asked of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read it.
    Get,
    /// Set it.
    Put(Bytes),
    /// Remove it.
    Delete,
    /// Set it if it is as expected; `None` is *not there*.
    CompareAndSet {
        /// What must be there.
        expected: Option<Bytes>,
        /// What to put there.
        new: Bytes,
    },
}

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A write happened.
    Written,
    /// A read, or a compare-and-set, found this. The latter swapped if it is what was expected.
    Found(Option<Bytes>),
    /// It did not happen and never will.
    Refused,
    /// Nobody can say. Also of operations that had not ended when the run did.
    Unknown,
}

/// One operation on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub client: usize,
    /// What.
    pub action: Action,
    /// When it began, in any unit in which later is greater.
    pub began: u64,
    /// When it ended; without meaning if the ending is unknown.
    pub ended: u64,
    /// How.
    pub ending: Ending,
}

/// Names an operation of a [`History`] until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(usize);

/// Everything that clients did.
#[derive(Debug, Default)]
pub struct History {
    operations: Vec<(Bytes, Operation)>,
}

/// What a check has looked at, for a test to see that it was enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Keys with at least one operation.
    pub keys: usize,
    /// Operations that were done.
    pub done: usize,
    /// Operations whose outcome nobody knows.
    pub unknown: usize,
    /// Operations that were refused.
    pub refused: usize,
}

/// A key whose history has no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: Bytes,
    /// The story, a line for each operation that matters.
    pub story: String,
}

impl History {
    /// Notes that an operation begins. Until it is ended its outcome is unknown.
    pub fn begin(&mut self, client: usize, key: Bytes, action: Action, now: u64) -> OperationId {
        let operation =
            Operation { client, action, began: now, ended: u64::MAX, ending: Ending::Unknown };
        self.operations.push((key, operation));
        OperationId(self.operations.len() - 1)
    }

    /// Notes how it ended.
    pub fn end(&mut self, id: OperationId, ending: Ending, now: u64) {
        let (_, operation) = &mut self.operations[id.0];
        assert_eq!(operation.ending, Ending::Unknown, "{operation} ends a second time");
        assert!(now >= operation.began, "{operation} ends before it began");
        operation.ending = ending;
        operation.ended = now;
    }

    /// How many operations began.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether none began.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// How many operations are done.
    pub fn acknowledged(&self) -> usize {
        self.operations.iter().filter(|(_, operation)| operation.is_done()).count()
    }

    /// Looks for an order of each key's operations; all keys begin absent.
    pub fn check(&self) -> Result<Checked, Violation> {
        let mut by_key: BTreeMap<&Bytes, Vec<&Operation>> = BTreeMap::new();
        let mut checked = Checked::default();
        for (key, operation) in &self.operations {
            by_key.entry(key).or_default().push(operation);
            match operation.ending {
                Ending::Refused => checked.refused += 1,
                Ending::Unknown => checked.unknown += 1,
                Ending::Written | Ending::Found(_) => checked.done += 1,
            }
        }
        checked.keys = by_key.len();
        for (key, operations) in by_key {
            search::find_order(&operations)
                .map_err(|story| Violation { key: key.clone(), story })?;
        }
        Ok(checked)
    }
}

impl Operation {
    fn is_done(&self) -> bool {
        matches!(self.ending, Ending::Written | Ending::Found(_))
    }

    /// What the key holds after it, if it changed the key. An operation of unknown outcome counts as one
    /// that happened.
    fn writes(&self) -> Option<Option<&Bytes>> {
        match (&self.action, &self.ending) {
            (Action::Get, _) => None,
            (Action::Put(value), _) => Some(Some(value)),
            (Action::Delete, _) => Some(None),
            (Action::CompareAndSet { expected, new }, Ending::Found(found)) => {
                (expected == found).then_some(Some(new))
            }
            (Action::CompareAndSet { new, .. }, _) => Some(Some(new)),
        }
    }

    /// What the key must hold before it, if it matters.
    fn needs(&self) -> Option<Option<&Bytes>> {
        match (&self.action, &self.ending) {
            (_, Ending::Found(found)) => Some(found.as_ref()),
            (Action::CompareAndSet { expected, .. }, _) => Some(expected.as_ref()),
            _ => None,
        }
    }
}

/// `12..34 client 3: get -> "v7"`.
impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_done() {
            true => write!(formatter, "{}..{} ", self.began, self.ended)?,
            false => write!(formatter, "{}.. ", self.began)?,
        }
        write!(formatter, "client {}: ", self.client)?;
        match &self.action {
            Action::Get => formatter.write_str("get")?,
            Action::Put(value) => write!(formatter, "put {}", shown(Some(value)))?,
            Action::Delete => formatter.write_str("delete")?,
            Action::CompareAndSet { expected, new } => {
                let (expected, new) = (shown(expected.as_ref()), shown(Some(new)));
                write!(formatter, "set {expected} to {new}")?;
            }
        }
        match &self.ending {
            Ending::Written => Ok(()),
            Ending::Found(found) => write!(formatter, " -> {}", shown(found.as_ref())),
            Ending::Refused => formatter.write_str(" -> refused"),
            Ending::Unknown => formatter.write_str(" -> unknown"),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = shown(Some(&self.key));
        write!(formatter, "the history of key {key} has no order\n{}", self.story)
    }
}

/// A value as people read it.
fn shown(value: Option<&Bytes>) -> String {
    value.map_or("nothing".to_string(), |value| format!("\"{}\"", value.escape_ascii()))
}
