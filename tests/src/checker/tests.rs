//! The checker against histories made by hand, good and bad, and against one that tries everything.

use proptest::prelude::*;

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(value: &str) -> Action {
    Action::Put(bytes(value))
}

fn found(value: &str) -> Ending {
    Ending::Found(Some(bytes(value)))
}

const NOTHING: Ending = Ending::Found(None);

fn set(expected: Option<&str>, new: &str) -> Action {
    Action::CompareAndSet { expected: expected.map(bytes), new: bytes(new) }
}

/// A history of one key out of (began, ended, action, ending); every operation has a client of its own.
fn history(operations: &[(u64, u64, Action, Ending)]) -> History {
    let mut history = History::default();
    for (client, (began, ended, action, ending)) in operations.iter().enumerate() {
        let id = history.begin(client, bytes("k"), action.clone(), *began);
        if *ending != Ending::Unknown {
            history.end(id, ending.clone(), *ended);
        }
    }
    history
}

#[track_caller]
fn good(operations: &[(u64, u64, Action, Ending)]) {
    history(operations).check().unwrap_or_else(|violation| panic!("{violation}"));
}

#[track_caller]
fn bad(operations: &[(u64, u64, Action, Ending)], story: &str) {
    let violation = history(operations).check().expect_err("a bad history");
    assert_eq!(violation.story.trim(), story.trim());
}

const WRITTEN: Ending = Ending::Written;

#[test]
fn one_after_the_other() {
    good(&[
        (1, 2, Action::Get, NOTHING),
        (3, 4, put("a"), WRITTEN),
        (5, 6, Action::Get, found("a")),
        (7, 8, Action::Delete, WRITTEN),
        (9, 10, Action::Get, NOTHING),
    ]);
}

#[test]
fn of_two_at_once_either_is_first() {
    for last in ["a", "b"] {
        good(&[
            (1, 9, put("a"), WRITTEN),
            (2, 8, put("b"), WRITTEN),
            (10, 11, Action::Get, found(last)),
        ]);
    }
}

#[test]
fn a_read_during_a_write_may_see_it_or_not() {
    for seen in [NOTHING, found("a")] {
        good(&[(1, 9, put("a"), WRITTEN), (2, 3, Action::Get, seen)]);
    }
}

#[test]
fn a_stale_read() {
    let story = r#"
  1..2 client 0: put "a"
  3..4 client 1: put "b"
then the key holds "b", and none of these can be next:
  5..6 client 2: get -> "a""#;
    bad(
        &[(1, 2, put("a"), WRITTEN), (3, 4, put("b"), WRITTEN), (5, 6, Action::Get, found("a"))],
        story,
    );
}

#[test]
fn a_lost_write() {
    let story = r#"
  1..2 client 0: put "a"
then the key holds "a", and none of these can be next:
  3..4 client 1: get -> nothing"#;
    bad(&[(1, 2, put("a"), WRITTEN), (3, 4, Action::Get, NOTHING)], story);
}

#[test]
fn a_read_of_what_nobody_wrote() {
    let story = r#"
  1..2 client 0: put "a"
then the key holds "a", and none of these can be next:
  3..4 client 1: get -> "x", which nobody wrote"#;
    bad(&[(1, 2, put("a"), WRITTEN), (3, 4, Action::Get, found("x"))], story);
}

#[test]
fn a_write_that_is_seen_and_then_not() {
    let story = r#"
  1..9 client 0: put "a"
  2..3 client 1: get -> "a"
then the key holds "a", and none of these can be next:
  4..5 client 2: get -> nothing"#;
    bad(
        &[(1, 9, put("a"), WRITTEN), (2, 3, Action::Get, found("a")), (4, 5, Action::Get, NOTHING)],
        story,
    );
}

#[test]
fn an_unknown_write_may_show_late_or_never() {
    let beginning = [
        (1, 0, put("late"), Ending::Unknown),
        (3, 4, put("a"), WRITTEN),
        (5, 6, put("b"), WRITTEN),
    ];
    let mut late = beginning.to_vec();
    late.push((100, 101, Action::Get, found("late")));
    good(&late);
    let mut never = beginning.to_vec();
    never.push((100, 101, Action::Get, found("b")));
    good(&never);
}

#[test]
fn an_unknown_write_happens_at_most_once() {
    let story = r#"
  3..4 client 1: put "a"
  1.. client 0: put "late" -> unknown
  5..6 client 2: get -> "late"
  7..8 client 3: put "b"
then the key holds "b", and none of these can be next:
  9..10 client 4: get -> "late""#;
    bad(
        &[
            (1, 0, put("late"), Ending::Unknown),
            (3, 4, put("a"), WRITTEN),
            (5, 6, Action::Get, found("late")),
            (7, 8, put("b"), WRITTEN),
            (9, 10, Action::Get, found("late")),
        ],
        story,
    );
}

#[test]
fn an_unknown_write_does_not_happen_before_it_began() {
    let story = r#"
then the key holds nothing, and none of these can be next:
  1..2 client 0: get -> "early""#;
    bad(&[(1, 2, Action::Get, found("early")), (3, 0, put("early"), Ending::Unknown)], story);
}

#[test]
fn a_refused_write_leaves_no_trace() {
    good(&[(1, 2, put("no"), Ending::Refused), (3, 4, Action::Get, NOTHING)]);
    let story = r#"
then the key holds nothing, and none of these can be next:
  3..4 client 1: get -> "no", which nobody wrote"#;
    bad(&[(1, 2, put("no"), Ending::Refused), (3, 4, Action::Get, found("no"))], story);
}

#[test]
fn a_write_that_is_applied_twice() {
    let story = r#"
  1..2 client 0: put "a"
  3..4 client 1: put "b"
  5..6 client 2: get -> "b"
then the key holds "b", and none of these can be next:
  7..8 client 3: get -> "a""#;
    bad(
        &[
            (1, 2, put("a"), WRITTEN),
            (3, 4, put("b"), WRITTEN),
            (5, 6, Action::Get, found("b")),
            (7, 8, Action::Get, found("a")),
        ],
        story,
    );
}

#[test]
fn a_delete_that_is_forgotten() {
    let story = r#"
  1..2 client 0: put "a"
  3..4 client 1: delete
then the key holds nothing, and none of these can be next:
  5..6 client 2: get -> "a""#;
    bad(
        &[
            (1, 2, put("a"), WRITTEN),
            (3, 4, Action::Delete, WRITTEN),
            (5, 6, Action::Get, found("a")),
        ],
        story,
    );
}

#[test]
fn of_two_that_compare_and_set_the_same_one_wins() {
    good(&[
        (1, 9, set(None, "a"), NOTHING),
        (2, 8, set(None, "b"), found("a")),
        (10, 11, Action::Get, found("a")),
    ]);
    let story = r#"
  1..9 client 0: set nothing to "a" -> nothing
then the key holds "a", and none of these can be next:
  2..8 client 1: set nothing to "b" -> nothing"#;
    bad(&[(1, 9, set(None, "a"), NOTHING), (2, 8, set(None, "b"), NOTHING)], story);
}

#[test]
fn unknown_operations_may_build_on_each_other() {
    good(&[
        (1, 0, put("a"), Ending::Unknown),
        (2, 0, set(Some("a"), "b"), Ending::Unknown),
        (3, 0, set(Some("b"), "c"), Ending::Unknown),
        (4, 5, Action::Get, found("c")),
    ]);
    // Without the middle one there is no way.
    let violation = history(&[
        (1, 0, put("a"), Ending::Unknown),
        (3, 0, set(Some("b"), "c"), Ending::Unknown),
        (4, 5, Action::Get, found("c")),
    ]);
    assert!(violation.check().is_err());
}

#[test]
fn keys_do_not_disturb_each_other() {
    let mut history = History::default();
    for (began, key) in ["k", "l"].into_iter().enumerate() {
        let began = began as u64;
        let id = history.begin(0, bytes(key), put(key), began);
        history.end(id, Ending::Written, began + 10);
        let id = history.begin(1, bytes(key), Action::Get, began + 11);
        history.end(id, found(key), began + 12);
    }
    let refused = history.begin(2, bytes("m"), put("x"), 30);
    history.end(refused, Ending::Refused, 31);
    history.begin(3, bytes("m"), put("y"), 30);
    let checked = history.check().expect("both keys are fine");
    assert_eq!(checked, Checked { keys: 3, done: 4, unknown: 1, refused: 1 });
}

/// Eight clients at once on one key, a tenth of the outcomes unknown: the order is found without trying
/// many. Were it not for the four observations this test would not end.
#[test]
fn a_long_history_of_one_key_is_checked() {
    const OPERATIONS: usize = 20_000;
    let long = long_history(OPERATIONS);
    let checked = long.check().unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(checked.done + checked.unknown, OPERATIONS);

    // The same with one read at the very end that sees the first write again.
    let mut stale = long_history(OPERATIONS);
    let id = stale.begin(9, bytes("k"), Action::Get, u64::MAX / 2);
    stale.end(id, found("v0"), u64::MAX / 2 + 1);
    let violation = stale.check().expect_err("the first write was overwritten");
    assert!(violation.story.contains("get -> \"v0\""), "{violation}");
}

/// Operations of eight clients, each of which happens in the middle of its time. One of ten has an unknown
/// outcome, and every other of those happens when it will.
fn long_history(operations: usize) -> History {
    let mut history = History::default();
    let mut value = None;
    let mut ends = Vec::new();
    for number in 0..operations {
        let (client, moment) = (number % 8, number as u64 * 10);
        let is_unknown = number % 10 == 9;
        let is_lost = number % 20 == 19;
        let action = match number % 3 {
            0 => put(&format!("v{number}")),
            1 if number % 7 == 0 => Action::Delete,
            _ => Action::Get,
        };
        let id = history.begin(client, bytes("k"), action.clone(), moment);
        let ending = match action {
            Action::Get => Ending::Found(value.clone()),
            _ => Ending::Written,
        };
        if !is_lost {
            match action {
                Action::Put(new) => value = Some(new),
                Action::Delete => value = None,
                _ => {}
            }
        }
        if !is_unknown {
            // Its moment of effect was its beginning; it is answered while others run.
            ends.push((id, ending, moment + 35));
        }
    }
    for (id, ending, ended) in ends {
        history.end(id, ending, ended);
    }
    history
}

/// Tries every order of every choice of the operations that may have happened.
fn has_order(operations: &[&Operation], value: Option<&Bytes>) -> bool {
    if operations.iter().all(|operation| operation.ending == Ending::Unknown) {
        return true;
    }
    operations.iter().enumerate().any(|(index, operation)| {
        let others: Vec<_> =
            operations.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, o)| *o).collect();
        let must_wait = others.iter().any(|other| other.is_done() && other.ended < operation.began);
        let fits = operation.needs().is_none_or(|needed| needed == value);
        let after = operation.writes().unwrap_or(value);
        // Besides happening now, an operation of unknown outcome may never happen.
        (!must_wait && fits && has_order(&others, after))
            || (operation.ending == Ending::Unknown && has_order(&others, value))
    })
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let value = || prop::option::of(prop::sample::select(vec!["a", "b"]));
    let action = prop_oneof![
        4 => Just(Action::Get),
        3 => prop::sample::select(vec!["a", "b"]).prop_map(put),
        1 => Just(Action::Delete),
        2 => (value(), prop::sample::select(vec!["a", "b"])).prop_map(|(old, new)| set(old, new)),
    ];
    let times = (0..12_u64, 1..6_u64);
    (action, times, value(), 0..10).prop_map(|(action, (began, length), seen, luck)| {
        let ending = match &action {
            _ if luck < 2 => Ending::Unknown,
            _ if luck < 3 => Ending::Refused,
            Action::Get | Action::CompareAndSet { .. } => Ending::Found(seen.map(bytes)),
            Action::Put(_) | Action::Delete => Ending::Written,
        };
        let ended = if ending == Ending::Unknown { u64::MAX } else { began + length };
        Operation { client: 0, action, began, ended, ending }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn it_agrees_with_one_that_tries_everything(
        operations in prop::collection::vec(any_operation(), 0..7),
    ) {
        let possible: Vec<&Operation> = operations
            .iter()
            .filter(|operation| operation.ending != Ending::Refused)
            .collect();
        let expected = has_order(&possible, None);
        let all: Vec<&Operation> = operations.iter().collect();
        let found = search::find_order(&all);
        prop_assert_eq!(found.is_ok(), expected, "{:?}", found);
    }
}
