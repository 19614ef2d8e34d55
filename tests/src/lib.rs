//! What the tests of the whole system stand on, and which kind of test to write when.
//!
//! | to show that | write | in |
//! | --- | --- | --- |
//! | one module does what its header says | a golden script or a unit test | that crate |
//! | two implementations agree | one script for both, and a mirror under random operations | that crate |
//! | the course's tests hold, by name | a lab: `test_..._1` | `tests/labs.rs` |
//! | an engine keeps its word when the power goes | a power cut over its files | `tests/power_loss.rs` |
//! | the store keeps its word when it is killed or its disk is full | a story of a process | `tests/crashes.rs` |
//! | a cluster keeps its word when its stores are killed | a story of processes | `tests/chaos.rs` |
//! | old versions go | a story with a real process | `tests/gc.rs` |
//! | transactions that wait for each other are told | the same | `tests/deadlocks.rs` |
//! | damaged files are found and not served | a story of processes | `tests/damage.rs` |
//! | the binary behaves: flags, messages, signals, `kill -9` | a story with a real process | `tests/processes.rs` |
//! | many commands go through one stream | a story with a real process | `tests/wire.rs` |
//! | strangers' requests harm nobody | a story with a real process | `tests/bad_input.rs` |
//! | what a person watches is drawn and leaves nothing behind | the same, in a terminal | `tests/demo.rs` |
//! | the scheduler places replicas of real stores | a story of processes | `tests/placement.rs` |
//! | clients that were not written here work | the same, through that client | `tests/clients.rs` |
//! | they work also while stores die and leaders move | a story in the storm | `tests/soak.rs` |
//! | the library keeps its word | a story in its process, or of one that is killed | `tests/embedded.rs` |
//! | a rule of style that a machine can check | a rule | `tests/tidy.rs` |
//!
//! [`sim`] is a cluster in virtual time; [`lab`] lets a test drive one. [`checker`] looks at histories.
//!
//! The modules here serve those files: [`process`] starts the binary, [`client`] and [`commands`] talk to it,
//! [`power_loss`] takes its power away, [`chaos`] runs a cluster of processes, [`director`] gives its stores orders,
//! [`proxy`] cuts the lines between them, [`damage`] harms their files, [`terminal`] is one to draw in, [`wait`] is the
//! only clock. A process test costs a second and can meet a busy machine, so whatever can be shown without one is shown
//! without one.

pub mod chaos;
pub mod checker;
pub mod client;
pub mod commands;
pub mod damage;
pub mod director;
pub mod lab;
pub mod local_cluster;
pub mod network;
pub mod power_loss;
pub mod process;
pub mod proxy;
pub mod sim;
pub mod terminal;
pub mod wait;

/// Whether a test that cannot run here must fail instead of saying so: what runs unattended has nobody who
/// reads what was not tested.
#[allow(clippy::disallowed_methods)] // Tests ask the environment here and nowhere else.
pub fn is_unattended() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false" && value != "0")
}

/// What whoever started the tests has set in the environment.
#[allow(clippy::disallowed_methods)] // Tests ask the environment here and nowhere else.
pub fn text_from_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// The same, as a number.
pub fn number_from_environment(name: &str) -> Option<u64> {
    let text = text_from_environment(name)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Says in one loud line what is not tested on this machine and why; fails where nobody reads it.
#[track_caller]
pub fn not_tested(what: &str, why: &str) {
    let line = format!("NOT TESTED: {what}: {why}");
    assert!(!is_unattended(), "{line}");
    // Past the capture of the test runner: a passing test shows nothing of what it prints.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("\n{line}\n").as_bytes());
}
