//! The log writer: one write and one fsync for the logs of all regions of all workers.
//!
//! 1. It takes all tasks that wait and joins them into one batch, in their order.
//! 2. Changes of the data engine that tasks bring are written first, synced; few tasks have any.
//! 3. The batch is written to the log engine, synced if somebody relies on any part of it.
//! 4. Every task is reported done.
//!
//! **Invariant.** A task is reported only after everything before it is as durable as it asked to be. The
//! writer sends nothing to other stores itself.

use crate::Result;
use crate::effects::Effects;
use crate::engine::log::LogBatch;
use crate::engine::{Durability, WriteBatch};
use crate::environment::{Counters, Environment};
use crate::message::{LogTask, Persisted};
use crate::planted::Planted;

/// See the module.
pub(super) struct LogWriter {
    environment: Environment,
}

impl LogWriter {
    /// A writer that has written nothing.
    pub(super) fn new(environment: &Environment) -> LogWriter {
        LogWriter { environment: environment.clone() }
    }

    /// Makes tasks durable.
    pub(super) fn round(&mut self, tasks: Vec<LogTask>, effects: &mut Effects) -> Result<()> {
        let mut log = LogBatch::new();
        let mut data = WriteBatch::new();
        let mut must_sync = false;
        // Given back when all is written.
        let mut credits = Vec::with_capacity(tasks.len());
        for task in tasks {
            must_sync |= task.must_sync;
            task.operations.into_iter().for_each(|operation| log.push(operation));
            task.data.into_iter().for_each(|changes| data.append(changes));
            let LogTask { region_id, serial, number, .. } = task;
            credits.push(task.credit);
            effects.persisted.push(Persisted { region_id, serial, number });
        }
        if !data.is_empty() {
            self.environment.engine.write(data, Durability::Synced)?;
        }
        if !log.is_empty() {
            let must_sync = must_sync && !self.environment.has(Planted::SkipFsync);
            let durability = if must_sync { Durability::Synced } else { Durability::Buffered };
            let bytes = self.environment.log.write(log, durability)?;
            let counters = &self.environment.counters;
            Counters::add(&counters.log_bytes, bytes);
            Counters::add(&counters.log_writes, 1);
            Counters::add(&counters.log_syncs, u64::from(must_sync));
        }
        drop(credits);
        Ok(())
    }
}
