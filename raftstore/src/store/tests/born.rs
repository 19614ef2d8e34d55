//! How soon a child of a split is led: with the first vote, although that overtakes the child's birth elsewhere.

use super::*;

#[test]
fn a_child_is_led_at_once_although_others_have_written_its_state_and_not_begun_it() {
    let mut cluster = Cluster::led(3, 3);
    let split =
        SplitRequest { split_key: "m".into(), new_region_id: 2, new_peer_ids: vec![21, 22, 23] };
    let request = BatchSplitRequest { requests: vec![split], right_derive: true };
    let outcome = cluster.admin(1, admin_request::Command::Splits(request));
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    // Far less than an election's time-out. Followers apply the split and hear of the vote in the same round.
    cluster.run(1);
    let children = cluster.machines.values().flat_map(|machine| machine.store.inspect());
    let leaders = children.filter(|it| it.region.id == 2 && it.is_leader).count();
    assert_eq!(leaders, 1, "the candidate's first messages were lost");
}
