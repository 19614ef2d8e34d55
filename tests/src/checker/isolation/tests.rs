//! Histories made by hand: what snapshot isolation allows must pass, and each of its anomalies must not.

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A transaction that takes as long for its client as its timestamps say.
fn transaction(start: u64, commit: u64) -> Transaction {
    Transaction {
        client: 0,
        began: start,
        ended: commit.max(start),
        start_ts: Ts::from(start),
        reads: Vec::new(),
        writes: Vec::new(),
        commit_ts: (commit != 0).then_some(Ts::from(commit)),
    }
}

impl Transaction {
    fn reads(mut self, key: &str, found: &str) -> Transaction {
        let found = (!found.is_empty()).then(|| bytes(found));
        self.reads.push(Read { key: bytes(key), at: self.start_ts, found });
        self
    }

    fn writes(mut self, key: &str, value: &str) -> Transaction {
        let value = (!value.is_empty()).then(|| bytes(value));
        self.writes.push(Write { key: bytes(key), value, since: self.start_ts });
        self
    }
}

/// The key has this value from 2 on.
fn beginning(key: &str, value: &str) -> Transaction {
    transaction(1, 2).writes(key, value)
}

#[test]
fn one_after_the_other_is_fine() {
    let history = [
        beginning("a", "1"),
        transaction(3, 4).reads("a", "1").writes("a", "2"),
        transaction(5, 6).reads("a", "2").writes("a", ""),
        transaction(7, 0).reads("a", "").reads("b", "").writes("a", "3"),
        transaction(8, 9).reads("a", ""),
    ];
    let checked = check(&history).expect("nothing is wrong");
    assert_eq!(checked, Checked { committed: 4, rolled_back: 1, reads: 5 });
}

#[test]
fn an_old_snapshot_stays_as_it_was() {
    let history = [
        transaction(1, 2).writes("a", "1").writes("b", "1"),
        transaction(3, 9).reads("a", "1").reads("b", "1").reads("a", "1"),
        transaction(4, 5).writes("a", "2").writes("b", "2"),
    ];
    check(&history).expect("the reader began before the commit");
}

#[test]
fn write_skew_is_allowed() {
    let history = [
        transaction(1, 2).writes("a", "1").writes("b", "1"),
        transaction(3, 5).reads("a", "1").reads("b", "1").writes("a", "2"),
        transaction(4, 6).reads("a", "1").reads("b", "1").writes("b", "2"),
    ];
    check(&history).expect("they wrote different keys");
}

#[test]
fn who_locks_before_it_reads_may_write_what_changed_since_its_start() {
    let mut late = transaction(3, 9).writes("a", "3");
    late.writes[0].since = Ts::from(7);
    late.reads.push(Read { key: bytes("a"), at: Ts::from(7), found: Some(bytes("2")) });
    let history = [beginning("a", "1"), transaction(4, 5).writes("a", "2"), late.clone()];
    check(&history).expect("it held the key since 7");
    late.writes[0].since = Ts::from(4);
    let history = [beginning("a", "1"), transaction(4, 5).writes("a", "2"), late];
    assert!(matches!(check(&history), Err(Violation::LostUpdate(..))));
}

#[test]
fn a_dirty_read_is_found() {
    let history = [
        beginning("a", "1"),
        transaction(3, 0).writes("a", "2"),
        transaction(4, 5).reads("a", "2"),
    ];
    assert!(matches!(check(&history), Err(Violation::DirtyRead(..))));
    let from_nowhere = [transaction(4, 5).reads("a", "7")];
    assert!(matches!(check(&from_nowhere), Err(Violation::DirtyRead(..))));
}

#[test]
fn a_read_from_the_future_is_found() {
    let history = [transaction(3, 6).writes("a", "2"), transaction(4, 5).reads("a", "2")];
    assert!(matches!(check(&history), Err(Violation::OtherVersion(..))));
}

#[test]
fn a_lost_update_is_found() {
    let history = [
        beginning("a", "1"),
        transaction(3, 5).reads("a", "1").writes("a", "2"),
        transaction(4, 6).reads("a", "1").writes("a", "3"),
    ];
    assert!(matches!(check(&history), Err(Violation::LostUpdate(..))));
}

#[test]
fn a_long_fork_is_found() {
    let history = [
        transaction(3, 5).writes("a", "1"),
        transaction(4, 6).writes("b", "1"),
        transaction(7, 9).reads("a", "1").reads("b", ""),
        transaction(8, 10).reads("a", "").reads("b", "1"),
    ];
    assert!(matches!(check(&history), Err(Violation::OtherVersion(..))));
}

#[test]
fn a_read_that_cannot_be_repeated_is_found() {
    let history = [
        beginning("a", "1"),
        transaction(3, 9).reads("a", "1").reads("a", "2"),
        transaction(4, 5).writes("a", "2"),
    ];
    assert!(matches!(check(&history), Err(Violation::OtherVersion(..))));
}

#[test]
fn a_resurrected_write_is_found() {
    let history = [
        beginning("a", "1"),
        transaction(3, 4).reads("a", "1").writes("a", ""),
        transaction(5, 6).reads("a", "1"),
    ];
    assert!(matches!(check(&history), Err(Violation::OtherVersion(..))));
}

#[test]
fn a_lost_write_is_found() {
    let history = [
        beginning("a", "1"),
        transaction(3, 4).writes("a", "2").writes("b", "2"),
        transaction(5, 6).reads("a", "2").reads("b", ""),
    ];
    assert!(matches!(check(&history), Err(Violation::OtherVersion(..))));
}

#[test]
fn half_a_transaction_is_found() {
    let history = [
        transaction(1, 2).writes("a", "1").writes("b", "1"),
        transaction(3, 5).writes("a", "2").writes("b", "2"),
        transaction(6, 7).reads("a", "2").reads("b", "1"),
    ];
    assert!(matches!(check(&history), Err(Violation::OtherVersion(..))));
}

#[test]
fn a_snapshot_older_than_an_ended_commit_is_found() {
    let mut commit_above = transaction(3, 9).writes("a", "1");
    commit_above.ended = 4;
    let history = [commit_above, transaction(5, 6)];
    assert!(matches!(check(&history), Err(Violation::StaleSnapshot(..))));
}

#[test]
fn impossible_timestamps_are_found() {
    let before = [transaction(5, 4).writes("a", "1")];
    assert!(matches!(check(&before), Err(Violation::CommitBeforeStart(_))));
    let twice = [transaction(3, 5).writes("a", "1"), transaction(4, 5).writes("a", "2")];
    assert!(matches!(check(&twice), Err(Violation::SameMoment(..))));
}

#[test]
fn a_violation_tells_its_story() {
    let history = [
        beginning("a", "1"),
        transaction(3, 5).reads("a", "1").writes("a", "2"),
        transaction(4, 6).reads("a", "1").writes("a", "3"),
    ];
    let story = check(&history).expect_err("an update is lost").to_string();
    assert!(story.starts_with("lost update of \"a\""), "{story}");
    assert!(story.contains("writes \"a\" = \"3\""), "{story}");
}
