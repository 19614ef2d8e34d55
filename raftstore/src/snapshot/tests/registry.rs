//! Who may do what when, and which files stay.

use super::*;

const LIMITS: Limits = Limits { generating: 1, sending: 2, receiving: 2, applying: 1 };

fn manager() -> (TempDir, Arc<Manager>) {
    let home = tempfile::tempdir().expect("temporary directory");
    let manager = Manager::open(&home.path().join("a/snapshots"), LIMITS).expect("open");
    (home, manager)
}

fn id(region_id: u64) -> SnapshotId {
    SnapshotId { region_id, ..ID }
}

fn touch(manager: &Manager, names: &[&str]) {
    for name in names {
        std::fs::write(manager.directory().join(name), b"12345").expect("write");
    }
}

fn names(manager: &Manager) -> Vec<String> {
    let entries = std::fs::read_dir(manager.directory()).expect("list");
    let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.map(|entry| name(entry.expect("entry"))).collect();
    names.sort();
    names
}

#[test]
fn as_many_as_may_be_are_at_it_and_the_next_one_waits_until_one_ends() {
    let (_home, manager) = manager();
    for activity in Activity::ALL {
        let limit = LIMITS.of(activity) as u64;
        let mut active: Vec<Registration> =
            (0..limit).map(|region| manager.begin(id(region), activity).expect("room")).collect();
        let refusal = manager.begin(id(99), activity).expect_err("full");
        assert_eq!(refusal, Busy::Limit(limit as usize, activity));
        let ended = active.pop().expect("at least one");
        assert_eq!((ended.id(), ended.activity()), (id(limit - 1), activity));
        drop(ended);
        drop(manager.begin(id(99), activity).expect("room again"));
    }
    assert_eq!(manager.counts(), Counts::default());
}

#[test]
fn counts_and_list_say_what_goes_on() {
    let (_home, manager) = manager();
    let _active = [
        manager.begin(id(9), Activity::Receiving).expect("begin"),
        manager.begin(id(7), Activity::Sending).expect("begin"),
        manager.begin(id(7), Activity::Generating).expect("begin"),
        manager.begin(id(7), Activity::Sending).expect("to another store"),
    ];
    let counts = Counts { generating: 1, sending: 2, receiving: 1, applying: 0 };
    assert_eq!(manager.counts(), counts);
    let list: Vec<String> =
        manager.list().iter().map(|(id, activity)| format!("{id} {activity}")).collect();
    let expected =
        ["7_6_120 generating", "7_6_120 sending", "7_6_120 sending", "9_6_120 receiving"];
    assert_eq!(list, expected);
}

#[test]
fn a_region_does_a_thing_once_at_a_time() {
    let (_home, manager) = manager();
    let newer = SnapshotId { index: 121, ..ID };
    let receiving = manager.begin(ID, Activity::Receiving).expect("begin");
    let refusal = manager.begin(newer, Activity::Receiving).expect_err("one at a time");
    assert_eq!(refusal, Busy::Region(ID, Activity::Receiving));
    assert_eq!(refusal.to_string(), "snapshot 7_6_120 of the region is receiving");
    drop(receiving);
    let _applying = manager.begin(ID, Activity::Applying).expect("begin");
    let refusal = manager.begin(ID, Activity::Receiving).expect_err("it is being read");
    assert_eq!(refusal, Busy::Region(ID, Activity::Applying));
    let _newer = manager.begin(newer, Activity::Receiving).expect("other files");
}

#[test]
fn what_nobody_needs_is_collected_and_strangers_are_left_alone() {
    let (_home, manager) = manager();
    touch(
        &manager,
        &[
            "gen_1_6_120_raw.sst.tmp",
            "gen_2_6_120_raw.sst",
            "gen_2_6_120.meta",
            "gen_3_6_120.meta",
            "rev_2_6_120.meta",
            "rev_2_6_120_raw_2.sst.ingest",
            "rev_4_6_120.meta",
            "notes.txt",
        ],
    );
    assert_eq!(manager.total_bytes().expect("size"), 7 * 5);
    let sending = manager.begin(id(2), Activity::Sending).expect("begin");
    let needed = |id: &SnapshotId, side: Side| id.region_id == 4 && side == Side::Receiver;
    let removed = manager.collect(&needed).expect("collect");
    let expected = [(id(1), Side::Sender), (id(2), Side::Receiver), (id(3), Side::Sender)];
    assert_eq!(removed, expected);
    let left = ["gen_2_6_120.meta", "gen_2_6_120_raw.sst", "notes.txt", "rev_4_6_120.meta"];
    assert_eq!(names(&manager), left);
    drop(sending);
    assert_eq!(manager.collect(&needed).expect("collect"), [(id(2), Side::Sender)]);
    assert_eq!(manager.collect(&needed).expect("collect"), []);
    // A new process knows of no activity of the former one.
    let again = Manager::open(manager.directory(), LIMITS).expect("open");
    again.collect(&|_, _| false).expect("collect");
    assert_eq!(names(&again), ["notes.txt"]);
    assert_eq!(again.total_bytes().expect("size"), 0);
}

#[test]
fn nothing_begins_with_files_that_are_just_being_removed() {
    let (_home, manager) = manager();
    touch(&manager, &["gen_7_6_120.meta", "gen_8_6_120.meta", "rev_7_6_120.meta"]);
    let asked = std::cell::RefCell::new(Vec::new());
    // The second question about a snapshot comes when it is marked.
    let needed = |id: &SnapshotId, side: Side| {
        let question = (*id, side);
        let is_marked = asked.borrow().contains(&question);
        asked.borrow_mut().push(question);
        if is_marked && id.region_id == 7 && side == Side::Sender {
            let refusal = manager.begin(*id, Activity::Sending).expect_err("it is being removed");
            assert_eq!(refusal, Busy::Collecting(*id));
            let refusal =
                manager.begin(*id, Activity::Applying).expect_err("so are those received");
            assert_eq!(refusal, Busy::Collecting(*id));
            assert!(!manager.has(*id, side), "it does not stay");
        }
        // Needed after all, since the first question.
        is_marked && id.region_id == 8
    };
    let removed = manager.collect(&needed).expect("collect");
    assert_eq!(removed, [(ID, Side::Sender), (ID, Side::Receiver)]);
    assert_eq!(names(&manager), ["gen_8_6_120.meta"]);
    assert!(manager.has(id(8), Side::Sender) && !manager.has(ID, Side::Sender));
    assert_eq!(manager.stored().expect("list"), BTreeSet::from([(id(8), Side::Sender)]));
    assert_eq!(asked.borrow().len(), 6);
    drop(manager.begin(ID, Activity::Sending).expect("the marks are gone"));
}

#[test]
fn a_snapshot_that_is_worked_on_survives_a_collection_in_every_activity() {
    for kind in KINDS {
        let (sender, receiver) = (Store::holding(kind, &neighbourhood("new")), Store::new(kind));
        let limits = Limits { generating: 1, sending: 1, receiving: 1, applying: 1 };
        let at_sender = Manager::open(&sender.snapshots(), limits).expect("open");
        let at_receiver = Manager::open(&receiver.snapshots(), limits).expect("open");
        let collect = || {
            at_sender.collect(&|_, _| false).expect("collect");
            at_receiver.collect(&|_, _| false).expect("collect");
        };
        let generating = at_sender.begin(ID, Activity::Generating).expect("begin");
        let data = sender.build(&region("d", "m")).expect("build");
        let sending = at_sender.begin(ID, Activity::Sending).expect("begin");
        drop(generating);
        let receiving = at_receiver.begin(ID, Activity::Receiving).expect("begin");
        let mut outgoing = Outgoing::open(at_sender.directory(), ID).expect("open");
        let mut incoming = Incoming::begin(at_receiver.directory(), ID, &data).expect("begin");
        while let Some(chunk) = outgoing.next_chunk().expect("chunk") {
            incoming.write(&chunk).expect("write");
            collect();
        }
        incoming.finish().expect("finish");
        drop(sending);
        let applying = at_receiver.begin(ID, Activity::Applying).expect("begin");
        drop(receiving);
        collect();
        assert_eq!(sender.names(), BTreeSet::new());
        receiver.install(&region("d", "m")).expect("install");
        drop(applying);
        collect();
        assert_eq!(receiver.names(), BTreeSet::new());
        assert_eq!(
            receiver.contents(),
            expected(&region("d", "m"), &neighbourhood("new"), &Contents::new())
        );
    }
}
