//! Connections that this process opens itself: for now only to the scheduler.

pub mod heartbeats;
pub mod scheduler_client;

pub use scheduler_client::{Failure, SchedulerClient};
