//! Get and BatchGet: what a transaction sees of single keys.
//!
//! A lock in the way fails a Get. A BatchGet answers it in the place of its key, and reads on: the client resolves all
//! such locks together.

use skerry_proto::types::Ts;

use super::ReadCommand;
use super::concurrency::Concurrency;
use super::error::{Error, Result};
use crate::mvcc::{Key, ReadRules, Reader, Statistics, Version};
use crate::storage::RegionView;

/// Reads one key.
#[derive(Clone, Debug)]
pub struct Get {
    /// The key.
    pub key: Key,
    /// At which timestamp, and how.
    pub rules: ReadRules,
}

/// What a Get found, and what it did cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gotten {
    /// The value; none if the key has none at this timestamp.
    pub version: Option<Version>,
    /// What it did cost.
    pub statistics: Statistics,
}

impl ReadCommand for Get {
    type Answer = Gotten;

    fn reads_at(&self) -> Option<Ts> {
        Some(self.rules.ts)
    }

    fn raises_to(&self) -> Ts {
        self.rules.ts
    }

    fn meet_locks(&mut self, concurrency: &Concurrency) -> Result<()> {
        concurrency.check_key(&self.key, &self.rules)
    }

    fn replica_ts(&self) -> Option<Ts> {
        Some(self.rules.ts)
    }

    fn run(&self, view: &RegionView) -> Result<Gotten> {
        view.check_key(self.key.as_bytes())?;
        let mut reader = Reader::of_key(&*view.view, &self.key);
        let answer = reader.read(&self.key, &self.rules)?;
        reader.statistics().note(&view.reads);
        match answer {
            Ok(version) => Ok(Gotten { version, statistics: reader.statistics() }),
            Err(lock) => Err(Error::locked(&self.key, &lock)),
        }
    }
}

/// Reads many keys.
#[derive(Clone, Debug)]
pub struct BatchGet {
    /// The keys, in any order.
    pub keys: Vec<Key>,
    /// At which timestamp, and how.
    pub rules: ReadRules,
    /// Bytes of values after which the request is refused: its answer is in memory as a whole.
    pub reply_bytes_max: usize,
}

/// What a BatchGet found, and what it did cost.
#[derive(Debug)]
pub struct BatchGotten {
    /// In the order of the request: keys with their value, or with the lock in the way. Those without a value are
    /// left out.
    pub found: Vec<(Key, Result<Version>)>,
    /// What it did cost.
    pub statistics: Statistics,
}

impl ReadCommand for BatchGet {
    type Answer = BatchGotten;

    fn reads_at(&self) -> Option<Ts> {
        Some(self.rules.ts)
    }

    fn raises_to(&self) -> Ts {
        self.rules.ts
    }

    fn meet_locks(&mut self, concurrency: &Concurrency) -> Result<()> {
        self.keys.iter().try_for_each(|key| concurrency.check_key(key, &self.rules))
    }

    fn replica_ts(&self) -> Option<Ts> {
        Some(self.rules.ts)
    }

    fn run(&self, view: &RegionView) -> Result<BatchGotten> {
        let mut reader = Reader::of_keys(&*view.view, &self.keys);
        let (mut found, mut bytes) = (Vec::new(), 0);
        for key in &self.keys {
            view.check_key(key.as_bytes())?;
            let answer = match reader.read(key, &self.rules)? {
                Ok(Some(version)) => Ok(version),
                Ok(None) => continue,
                Err(lock) => Err(Error::locked(key, &lock)),
            };
            bytes +=
                key.as_bytes().len() + answer.as_ref().map_or(0, |version| version.value.len());
            if bytes > self.reply_bytes_max {
                let bytes_max = self.reply_bytes_max;
                return Err(crate::Error::ReplyTooLarge { bytes_max }.into());
            }
            found.push((key.clone(), answer));
        }
        reader.statistics().note(&view.reads);
        Ok(BatchGotten { found, statistics: reader.statistics() })
    }
}
