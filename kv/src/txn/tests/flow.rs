//! What is read by transactions is counted in the view that it is read through.

use super::*;
use crate::mvcc::{Changes, Write, WriteKind};

#[test]
fn gets_and_scans_count_the_versions_that_they_answer() {
    let world = World::new();
    let mut changes = Changes::new();
    for user in ["a", "b", "c"] {
        let start_ts = Ts::from(5);
        let value = changes.place_value(&key(user), start_ts, "value".into());
        changes.put_write(&key(user), Ts::from(10), &Write::new(WriteKind::Put, start_ts, value));
    }
    world.apply(changes.into_batch());
    let view = world.view();
    let rules = ReadRules::at(Ts::from(20));
    let bytes = |count: u64| count * (key("a").as_bytes().len() + "value".len()) as u64;

    Get { key: key("a"), rules: rules.clone() }.run(&view).expect("nothing is locked");
    let read = view.reads.take();
    assert_eq!((read.keys, read.bytes), (1, bytes(1)));
    let (keys, reply_bytes_max) = (vec![key("a"), key("c"), key("none")], 1_000);
    let batch = BatchGet { keys, rules: rules.clone(), reply_bytes_max };
    batch.run(&view).expect("nothing is locked");
    let read = view.reads.take();
    assert_eq!((read.keys, read.bytes), (2, bytes(2)));
    for limit in [2, 100] {
        let scan = Scan::new(Bytes::new(), Bytes::new(), limit, rules.clone());
        let found = scan.run(&view).expect("nothing is locked").found.len() as u64;
        assert_eq!(view.reads.take().keys, found);
    }
}
