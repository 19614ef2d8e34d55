//! A cluster of real processes, and clients that note everything they saw, for tests that kill.
//!
//! * [`Cluster`]: a scheduler and some stores, each a process with a directory and ports of its own, which can
//!   be killed, frozen and started again;
//! * [`Load`]: clients that get, put and compare-and-set a few keys through whoever leads, and a history of it
//!   for the checker of linearizability;
//! * [`Ledger`]: what one client was acknowledged, to be read again through anybody;
//! * [`Writers`]: clients that write everywhere and repeat as standard clients do ([`PatientClient`]), for minutes;
//! * [`Placement`]: where replicas stand, as the scheduler tells it.
//!
//! What it does not do: it decides nothing. The test says who dies and when.

mod client;
mod cluster;
mod ledger;
mod load;
mod patient;
mod placed;
mod writers;

pub use client::RoutingClient;
pub use cluster::Cluster;
pub use ledger::Ledger;
pub use load::{Load, Report};
pub use patient::PatientClient;
pub use placed::{Placed, Placement, ctl, cut, get};
pub use writers::{Habit, Outcome, Writers, value_of};
