//! The settings as they are used: the durable ones, and over them what somebody has set for a while.
//!
//! A tool that restores a backup sets limits for some minutes, again and again, instead of changing them and putting
//! them back, which it could not do if it died meanwhile. So what is set for a while ends by itself; a restart ends
//! it, too. A durable change of the same name is kept, and seen when the other has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::moment::Moment;
use crate::settings::Settings;
use crate::{Error, Result};

/// Nobody works for longer without saying so again.
pub const WHILE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// See the module.
#[derive(Debug)]
pub struct Schedule {
    durable: Settings,
    /// By name, each with its end.
    passing: BTreeMap<String, (Value, Moment)>,
    /// Both together.
    current: Settings,
}

impl Schedule {
    /// Nothing is set for a while yet.
    pub fn new(durable: Settings) -> Schedule {
        Schedule { current: durable.clone(), durable, passing: BTreeMap::new() }
    }

    /// What is to be done by.
    pub fn current(&self) -> &Settings {
        &self.current
    }

    /// What stays.
    pub fn durable(&self) -> &Settings {
        &self.durable
    }

    /// What is set for a while, with the time that is left.
    pub fn passing(&self, now: Moment) -> impl Iterator<Item = (&str, &Value, Duration)> {
        self.passing.iter().map(move |(name, (value, end))| (&name[..], value, end.since(now)))
    }

    /// Makes a durable change true.
    pub fn install(&mut self, durable: Settings) {
        self.durable = durable;
        self.merge();
    }

    /// Sets by name for so long, or ends what was set if that is no time at all. All is done, or nothing.
    pub fn set_for(
        &mut self,
        change: &Map<String, Value>,
        time: Duration,
        now: Moment,
    ) -> Result<()> {
        if time > WHILE_MAX {
            let days = WHILE_MAX.as_secs() / 86_400;
            return Err(Error::InvalidValue(format!("a setting passes within {days} days")));
        }
        let mut passing = self.passing.clone();
        let end = Moment { monotonic: now.monotonic + time, wall_ms: now.wall_ms };
        for (name, value) in change {
            match time.is_zero() {
                true => passing.remove(name),
                false => passing.insert(name.clone(), (value.clone(), end)),
            };
        }
        self.current = merged(&self.durable, &passing)?;
        self.passing = passing;
        Ok(())
    }

    /// Ends what has had its time.
    pub fn tick(&mut self, now: Moment) {
        let before = self.passing.len();
        self.passing.retain(|_, (_, end)| end.monotonic > now.monotonic);
        if self.passing.len() < before {
            self.merge();
        }
    }

    /// What passes gives way to what stays: where both do not go together, it ends.
    fn merge(&mut self) {
        self.current = merged(&self.durable, &self.passing).unwrap_or_else(|_| {
            self.passing.clear();
            self.durable.clone()
        });
    }
}

fn merged(durable: &Settings, passing: &BTreeMap<String, (Value, Moment)>) -> Result<Settings> {
    match passing.is_empty() {
        true => Ok(durable.clone()),
        false => durable.with(passing.iter().map(|(name, (value, _))| (name, value))),
    }
}
