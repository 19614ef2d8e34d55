//! What a leader reports to have been written to its region and read of it.

use std::time::Duration;

use super::*;
use crate::extent::Extent;

/// What a store has reported since the last time, of all its regions: written and read.
fn reported(cluster: &mut Cluster, store: u64) -> (Extent, Extent) {
    // Until the next report is due: one who sleeps takes longer if there is nothing new.
    let ticks = usize::try_from(config().report_ticks).expect("a small number");
    let mut reports = Vec::new();
    for _ in 0..6 {
        cluster.run(ticks);
        reports = cluster.machine(store).store.take_reports();
        if !reports.is_empty() {
            break;
        }
    }
    assert!(!reports.is_empty(), "the leader reports");
    let sum = |of: fn(&RegionReport) -> Extent| {
        reports.iter().map(of).fold(Extent::default(), |sum, extent| sum + extent)
    };
    (sum(|report| report.written), sum(|report| report.read))
}

#[test]
fn a_leader_reports_what_was_written_and_read_since_its_last_report() {
    let mut cluster = Cluster::led(3, 3);
    let leader = cluster.leader(1).0;
    reported(&mut cluster, leader);
    done(cluster.put(1, "a", "value"));
    let (context, key) = (cluster.context(1), data_key(b"a"));
    let reader = cluster.machines[&leader].store.reader();
    let value = reader.get(&context, RAW, &key).expect("it has a lease").expect("it leads");
    assert_eq!(value.expect("memory is read").as_deref(), Some(&b"value"[..]));
    // Of a view only those who read know how much.
    let view = reader.read(&context).expect("it has a lease").expect("it leads");
    view.reads.count(2, 100);

    let (written, read) = reported(&mut cluster, leader);
    assert_eq!(written.keys, 1);
    assert_eq!((read.keys, read.bytes), (3, 100 + (key.len() + "value".len()) as u64));
    assert_eq!(reported(&mut cluster, leader), (Extent::default(), Extent::default()));
}

#[test]
fn a_report_says_for_how_long_it_counted_and_leaves_no_gap_to_the_one_before() {
    let mut cluster = Cluster::led(3, 3);
    let leader = cluster.leader(1).0;
    cluster.run(12 * usize::try_from(config().report_ticks).expect("a small number"));
    let reports = cluster.machine(leader).store.take_reports();
    assert!(reports.len() >= 3, "at its election, and twice since");
    let is_next = |pair: &[RegionReport]| pair[0].interval.end == pair[1].interval.start;
    assert!(reports.windows(2).all(is_next), "{reports:?}");
    // Its first report counts from when it came to lead, not from when it began to follow.
    let first = &reports[0].interval;
    assert!(first.is_empty() && first.start > Duration::ZERO, "{first:?}");
}

/// Before, they were reported to nobody: a store whose followers serve all reads looked idle.
#[test]
fn what_followers_serve_of_reads_counts_for_their_store_and_not_for_the_region() {
    let mut cluster = Cluster::led(3, 3);
    let leader = cluster.leader(1).0;
    let heir = leader % 3 + 1;
    reported(&mut cluster, leader);
    let read_at_follower = |cluster: &mut Cluster| {
        let (context, (reply, answers)) = (cluster.context(1), cluster.reply::<RegionView>());
        let kind = CommandKind::Read { consistency: Consistency::Replica, reply };
        cluster.send(heir, context, kind);
        done(cluster.wait(&answers)).reads.count(2, 100);
    };
    let of_followers = |cluster: &mut Cluster| {
        let read = cluster.machine(heir).store.environment.follower_reads.take();
        (read.keys, read.bytes)
    };
    read_at_follower(&mut cluster);
    read_at_follower(&mut cluster);
    cluster.run(10);
    assert_eq!(of_followers(&mut cluster), (4, 200));
    assert_eq!(of_followers(&mut cluster), (0, 0), "each is told once");
    assert_eq!(reported(&mut cluster, leader).1, Extent::default());

    // What it served before it came to lead it served as a follower.
    read_at_follower(&mut cluster);
    cluster.hand_over(1, heir);
    assert_eq!(of_followers(&mut cluster), (2, 100));
    assert_eq!(reported(&mut cluster, heir).1, Extent::default());
}

/// Before, a follower counted for years what it applied, and a new leader looked like the busiest of all.
#[test]
fn a_new_leader_does_not_report_what_was_written_while_it_followed() {
    let mut cluster = Cluster::led(3, 3);
    let leader = cluster.leader(1).0;
    let heir = leader % 3 + 1;
    done(cluster.put(1, "a", "value"));
    cluster.run(4);
    cluster.machine(heir).store.take_reports();
    cluster.hand_over(1, heir);
    assert_eq!(reported(&mut cluster, heir), (Extent::default(), Extent::default()));
    done(cluster.put(1, "b", "value"));
    assert_eq!(reported(&mut cluster, heir).0.keys, 1);
}
