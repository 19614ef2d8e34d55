//! A store that is turned by threads, as far as turning it by hand does not show it.

use std::time::Duration;

use super::*;
use crate::outside::{SchedulerClient, Transport};
use crate::time::spawn;

/// Nobody else is there.
struct Alone;

impl Transport for Alone {
    fn send(&self, _: Vec<RaftMessage>) {}
}

impl SchedulerClient for Alone {
    fn report(&self, _: Vec<RegionReport>) {}
    fn ask_splits(&self, _: Vec<SplitAsk>) {}
}

/// A transfer of a snapshot that waits for its turn held the store up, and outlived the runtime it waited on.
#[test]
fn whoever_pauses_for_the_networks_sake_goes_on_when_the_store_stops() {
    let mut cluster = Cluster::new(1, 1);
    let running = cluster.machines.remove(&1).expect("it is there").store;
    let running = running.run(Arc::new(Alone), Arc::new(Alone));
    let (handle, short) = (running.handle(), Duration::from_millis(1));
    assert!(handle.pause(Duration::ZERO) && handle.pause(short), "it does not stop");
    let paused = spawn("paused", move || handle.pause(Duration::from_secs(3_600)));
    running.stop();
    assert!(!paused.join().expect("it does not panic"));
}
