//! The demos, as nobody watches them: with other numbers of stores and other seeds than a person would take, and the
//! last picture compared with what the scheduler says. And in a terminal, of which nothing may be left.

use std::time::Duration;

use serde_json::{Value, json};
use skerry_tests::chaos::get;
use skerry_tests::process::{Ground, Launch};
use skerry_tests::terminal::{ENTERS, LEAVES, Terminal};
use skerry_tests::wait;

/// What a demo may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// Runs a demo to its end and compares its last picture with what the scheduler says then; answers what it noted.
fn watch(demo: &str, stores: u16, seed: u64) -> Value {
    let ground = Ground::new();
    let temporary = ground.path("tmp");
    std::fs::create_dir(&temporary).expect("it is not there");
    let mut process = Launch::of("demo")
        .argument(demo)
        .with("--stores", stores.to_string())
        .with("--seed", seed.to_string())
        .argument("--json")
        .argument("--hold")
        .environment([("TMPDIR", &temporary)])
        .start_until("start, with");
    let over = wait::poll(PATIENCE, || {
        (!process.is_running() || process.stderr().contains("over; the cluster stays"))
            .then_some(())
    });
    assert!(over.is_some() && process.is_running(), "{}", process.stderr());
    let told: Value = serde_json::from_str(&process.next_line()).expect("JSON");
    assert_eq!((&told["demo"], &told["seed"]), (&json!(demo), &json!(seed)), "{told}");

    let scheduler = told["scheduler"].as_str().expect("it has an address");
    let regions = get(scheduler.parse().expect("an address"), "/regions");
    assert_eq!(told["picture"]["regions"], as_drawn(&regions), "the picture is not what is");
    let listed = get(scheduler.parse().expect("an address"), "/stores");
    let state = |store: &Value| json!([store["store"]["id"], store["store"]["state_name"]]);
    let states: Vec<Value> = listed["stores"].as_array().into_iter().flatten().map(state).collect();
    let drawn = told["picture"]["stores"].as_array().into_iter().flatten();
    let drawn: Vec<Value> = drawn.map(|store| json!([store["id"], store["state"]])).collect();
    assert_eq!(drawn, states);

    process.stop().assert_clean();
    assert_nothing_left(&temporary);
    told["facts"].clone()
}

/// What the scheduler says of regions, as pictures have it.
fn as_drawn(regions: &Value) -> Value {
    let region = |region: &Value| {
        let peers = region["peers"].as_array().into_iter().flatten();
        let mut stores: Vec<u64> = peers.filter_map(|peer| peer["store_id"].as_u64()).collect();
        stores.sort_unstable();
        json!({
            "id": region["id"], "start_key": region["start_key"], "end_key": region["end_key"],
            "conf_ver": region["epoch"]["conf_ver"], "version": region["epoch"]["version"],
            "leader_store": region["leader"]["store_id"], "stores": stores,
        })
    };
    regions["regions"].as_array().into_iter().flatten().map(region).collect()
}

/// No file, and no process that was started with one.
fn assert_nothing_left(temporary: &std::path::Path) {
    let files = std::fs::read_dir(temporary).expect("it is there").count();
    assert_eq!(files, 0, "files are left in {}", temporary.display());
    let name = temporary.display().to_string();
    for entry in std::fs::read_dir("/proc").expect("processes are listed").flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        assert!(!command.contains(&name), "still running: {command}");
    }
}

fn number(facts: &Value, name: &str) -> u64 {
    facts[name].as_u64().unwrap_or_else(|| panic!("{name} was not noted: {facts}"))
}

#[test]
fn load_makes_one_region_into_many() {
    let facts = watch("split", 4, 11);
    assert!(number(&facts, "regions_at_first") <= 2, "{facts}");
    assert!(number(&facts, "regions") >= 32, "{facts}");
    assert!(number(&facts, "keys_read_back") > 100, "{facts}");
    assert_eq!(number(&facts, "lost"), 0, "{facts}");
}

#[test]
fn regions_flow_to_a_store_that_joins_and_from_one_that_dies() {
    let facts = watch("balance", 4, 12);
    assert!(number(&facts, "moved_to_newcomer") >= 12, "{facts}");
    assert!(number(&facts, "held_by_killed") > 0, "{facts}");
    assert_eq!(number(&facts, "lost"), 0, "{facts}");
    assert_eq!(number(&facts, "writes_given_up"), 0, "{facts}");
}

#[test]
fn a_store_dies_and_nothing_acknowledged_is_lost() {
    let facts = watch("failover", 5, 13);
    assert!(number(&facts, "regions_led_by_killed") > 0, "{facts}");
    assert!(number(&facts, "acknowledged_before") > 100, "{facts}");
    assert!(number(&facts, "acknowledged_after") > 100, "{facts}");
    assert!(number(&facts, "gap_ms") > 0, "{facts}");
    assert_eq!(number(&facts, "lost"), 0, "{facts}");
}

/// Leaves a demo in the middle by `leave`; the terminal, the processes and the disk must be as before.
fn leave_by(leave: impl FnOnce(&mut Terminal)) {
    let ground = Ground::new();
    let temporary = ground.path("tmp");
    std::fs::create_dir(&temporary).expect("it is not there");
    let mut terminal = Terminal::run(&["demo", "split"], 100, 30, &temporary);
    terminal.until(ENTERS);
    terminal.until("leads");
    terminal.until("regions, in the order of their keys");
    leave(&mut terminal);
    let (status, shown) = terminal.end();
    assert!(status.success(), "{status}: {shown}");
    let (_, after) = shown.rsplit_once(LEAVES).expect("the terminal was given back");
    assert!(after.contains("left before its end"), "{after}");
    assert_nothing_left(&temporary);
}

#[test]
fn q_leaves_the_terminal_as_it_was_and_nothing_behind() {
    leave_by(|terminal| terminal.press(b"q"));
}

#[test]
fn so_do_an_interrupt_and_a_signal() {
    leave_by(|terminal| terminal.press(b"\x03"));
    leave_by(|terminal| terminal.signal(rustix::process::Signal::TERM));
}
