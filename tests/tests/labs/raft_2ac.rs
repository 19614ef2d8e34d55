//! Project 2AC: a node and its ready, started afresh and started again; then as our store drives it, with
//! persisting on another thread.

use raft::StateRole;
use raft::eraftpb::HardState;

use super::raft_network::*;

#[test]
fn test_raw_node_start_2ac() {
    let mut node = node_alone(&course_config(1), HardState::default(), &[]);
    node.campaign().expect("a follower campaigns");
    handle_ready(&mut node);
    assert_eq!(node.raft.state, StateRole::Leader);

    node.propose(Vec::new(), b"foo".to_vec()).expect("a leader takes proposals");
    let (entries, committed) = handle_ready(&mut node);
    assert_eq!(entries, [data_entry(1, 2, b"foo")]);
    assert_eq!(committed, entries, "exactly once, and applied as it was kept");
    assert!(!node.has_ready(), "left over: {:?}", node.ready());
}

#[test]
fn test_raw_node_restart_2ac() {
    let log = [empty_entry(1, 1), data_entry(1, 2, b"foo")];
    let mut node = node_alone(&course_config(1), hard_state(1, 0, 1), &log);

    let ready = node.ready();
    assert_eq!(*ready.committed_entries(), log[..1]);
    assert_eq!((ready.ss(), ready.hs()), (None, None), "nothing has changed since");
    assert!(ready.entries().is_empty() && ready.snapshot().is_empty());
    assert!(ready.messages().is_empty() && ready.persisted_messages().is_empty());
    assert!(!ready.must_sync());

    let light = node.advance(ready);
    assert_eq!((light.commit_index(), light.committed_entries().len()), (None, 0));
    node.advance_apply();
    assert!(!node.has_ready(), "left over: {:?}", node.ready());
}

/// Two readies are under way at once; what they hold is committed when its write has ended, not before.
#[test]
fn an_entry_is_committed_when_its_write_has_ended() {
    let mut node = node_alone(&store_config(1), HardState::default(), &[]);
    node.campaign().expect("a follower campaigns");
    handle_ready(&mut node);

    let mut numbers = Vec::new();
    for data in [&b"one"[..], b"two"] {
        node.propose(Vec::new(), data.to_vec()).expect("a leader takes proposals");
        let mut ready = node.ready();
        assert!(ready.committed_entries().is_empty(), "{:?}", ready.committed_entries());
        assert!(ready.must_sync());
        // Readable by raft at once, and durable later.
        node.store().wl().append(&ready.take_entries()).expect("memory takes entries");
        numbers.push(ready.number());
        node.advance_append_async(ready);
        assert!(!node.has_ready(), "waits for the disk");
        assert_eq!(node.raft.raft_log.committed, 1);
    }

    for (number, entry) in numbers.into_iter().zip([&b"one"[..], b"two"]) {
        node.on_persist_ready(number);
        let ready = node.ready();
        let committed: Vec<_> = ready.committed_entries().iter().map(|it| &it.data[..]).collect();
        assert_eq!(committed, [entry]);
        node.advance_append_async(ready);
    }
    assert_eq!(node.raft.raft_log.committed, 3);
}
