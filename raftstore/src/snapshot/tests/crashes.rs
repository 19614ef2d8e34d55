//! The machine is stopped before every single step of building, receiving and removing, and between the families of an
//! installation; what comes after the restart must find its way.

use super::*;
use crate::snapshot::disk::power;
use crate::snapshot::format::Stored;

/// Does something on a machine that stops after so many steps; answers whether it was stopped.
fn stop_after(steps: u64, attempt: impl FnOnce() -> Result<()>) -> bool {
    power::fail_after(steps);
    let result = attempt();
    power::restore();
    match result {
        Ok(()) => false,
        Err(error) => {
            assert!(error.to_string().contains("without power"), "{error}");
            true
        }
    }
}

/// What a file that was not synced may look like: every unfinished one is cut to a half.
fn tear_unfinished_files(store: &Store) {
    for name in store.names().iter().filter(|name| name.ends_with(".tmp")) {
        let path = store.snapshots().join(name);
        let bytes = std::fs::read(&path).expect("read");
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("write");
    }
}

#[test]
fn a_build_that_was_stopped_anywhere_is_repaired_by_the_next() {
    let region = region("d", "m");
    for kind in KINDS {
        let sender = Store::holding(kind, &neighbourhood("new"));
        let (mut met, mut steps, mut stopped) = (BTreeSet::new(), 0, true);
        while stopped {
            stopped = stop_after(steps, || sender.build(&region).map(drop));
            met.extend(sender.names());
            if steps % 2 == 0 {
                tear_unfinished_files(&sender);
            }
            let data = sender.build(&region).expect("the next build");
            assert_eq!(sender.names(), complete_names("gen"), "after {steps} steps");
            let receiver = Store::new(kind);
            receiver.receive(&sender, &data).expect("receive");
            receiver.install(&region).expect("install");
            let expected = expected(&region, &neighbourhood("new"), &Contents::new());
            assert_eq!(receiver.contents(), expected);
            format::remove(&sender.snapshots(), Side::Sender, ID).expect("begin from nothing");
            steps += 1;
        }
        let files = complete_names("gen").len();
        assert_eq!(met.len(), 2 * files, "each file was met finished and not: {met:?}");
        assert!(steps > 3 * files as u64, "each file takes three steps at least: {steps}");
    }
}

#[test]
fn a_removal_that_was_stopped_anywhere_leaves_nothing_that_is_taken_for_complete() {
    let region = region("d", "m");
    let sender = Store::holding(Kind::Memory, &neighbourhood("new"));
    let (mut steps, mut stopped) = (0, true);
    while stopped {
        sender.build(&region).expect("build");
        assert_eq!(sender.names(), complete_names("gen"), "what was left is no hindrance");
        stopped = stop_after(steps, || format::remove(&sender.snapshots(), Side::Sender, ID));
        let found = Stored::find(&sender.snapshots(), Side::Sender, ID).expect("find");
        assert_eq!(found.is_some(), steps == 0, "the list goes first");
        steps += 1;
    }
    assert_eq!(sender.names(), BTreeSet::new());
    assert!(steps > complete_names("gen").len() as u64, "a step for each file: {steps}");
}

#[test]
fn a_snapshot_whose_receiver_was_stopped_anywhere_is_received_by_the_next_attempt() {
    let (region, new, old) = (region("d", "m"), neighbourhood("new"), neighbourhood("old"));
    for kind in KINDS {
        let sender = Store::holding(kind, &new);
        let data = sender.build(&region).expect("build");
        let (mut met, mut steps, mut stopped) = (BTreeSet::new(), 0, true);
        while stopped {
            let receiver = Store::holding(kind, &old);
            stopped = stop_after(steps, || receiver.receive(&sender, &data));
            met.extend(receiver.names());
            if steps % 2 == 0 {
                tear_unfinished_files(&receiver);
            }
            // A snapshot without a list cannot be installed, and nothing changes.
            let is_complete = receiver.names().contains("rev_7_6_120.meta");
            assert!(is_complete || stopped, "success is said only when the list is there");
            if !is_complete {
                let error = receiver.install(&region).expect_err("no list").to_string();
                assert!(error.contains("rev_7_6_120.meta is damaged: it is missing"), "{error}");
                assert_eq!(receiver.contents(), old);
            }
            receiver.receive(&sender, &data).expect("the next attempt");
            assert_eq!(receiver.names(), complete_names("rev"), "after {steps} steps");
            receiver.install(&region).expect("install");
            assert_eq!(receiver.contents(), expected(&region, &new, &old));
            steps += 1;
        }
        let files = complete_names("rev").len();
        assert_eq!(met.len(), 2 * files, "each file was met finished and not: {met:?}");
        assert!(steps > 4 * files as u64, "each file takes four steps at least: {steps}");
    }
}

#[test]
fn a_list_that_outlived_its_tables_is_not_believed() {
    type Harm = fn(&Path) -> std::io::Result<()>;
    let harms: [Harm; 2] = [|path| std::fs::remove_file(path), |path| std::fs::write(path, b"")];
    let region = region("d", "m");
    for kind in KINDS {
        let sender = Store::holding(kind, &neighbourhood("new"));
        let receiver = Store::new(kind);
        for name in complete_names("gen").iter().filter(|name| name.ends_with(".sst")) {
            let received = name.replacen("gen", "rev", 1);
            for harm in harms {
                let data = sender.build(&region).expect("build");
                receiver.receive(&sender, &data).expect("receive");
                harm(&sender.snapshots().join(name)).expect("harm");
                harm(&receiver.snapshots().join(&received)).expect("harm");
                let error = receiver.install(&region).expect_err("harmed").to_string();
                assert!(error.contains(&received), "{error} should name {received}");
                let incoming = Incoming::begin(&receiver.snapshots(), ID, &data).expect("begin");
                assert!(!incoming.is_complete(), "{received}");
            }
        }
        let data = sender.build(&region).expect("build");
        receiver.receive(&sender, &data).expect("receive");
        receiver.install(&region).expect("install");
        let expected = expected(&region, &neighbourhood("new"), &Contents::new());
        assert_eq!(receiver.contents(), expected);
    }
}

/// An engine that stops before it ingests so many families.
struct Stopping<'a> {
    engine: &'a dyn Engine,
    left: std::sync::atomic::AtomicUsize,
}

impl Engine for Stopping<'_> {
    fn ingest(&self, family: ColumnFamily, tables: &[std::path::PathBuf]) -> Result<()> {
        use std::sync::atomic::Ordering;
        let count = |left: usize| left.checked_sub(1);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).is_err() {
            let reason = "the machine stops".to_string();
            return Err(Error::Engine { operation: "ingest", reason });
        }
        self.engine.ingest(family, tables)
    }

    fn get(&self, family: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>> {
        self.engine.get(family, key)
    }

    fn view(&self) -> Arc<dyn View> {
        self.engine.view()
    }

    fn write(&self, batch: WriteBatch, durability: Durability) -> Result<()> {
        self.engine.write(batch, durability)
    }

    fn destroy_range(&self, family: ColumnFamily, range: &KeyRange) -> Result<()> {
        self.engine.destroy_range(family, range)
    }

    fn table_writer(&self, family: ColumnFamily, path: &Path) -> Result<Box<dyn TableWriter>> {
        self.engine.table_writer(family, path)
    }

    fn table_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64> {
        self.engine.table_size(family, range)
    }

    fn buffered_size(&self, family: ColumnFamily, range: &KeyRange) -> Result<u64> {
        self.engine.buffered_size(family, range)
    }

    fn checkpoint(&self, path: &Path) -> Result<()> {
        self.engine.checkpoint(path)
    }
}

#[test]
fn an_installation_that_was_stopped_between_two_families_is_done_again() {
    let region = region("d", "m");
    let (new, old) = (neighbourhood("new"), neighbourhood("old"));
    for kind in KINDS {
        let sender = Store::holding(kind, &new);
        let data = sender.build(&region).expect("build");
        let mut states = BTreeSet::new();
        for families in 0..ColumnFamily::DATA.len() {
            let receiver = Store::holding(kind, &old);
            receiver.receive(&sender, &data).expect("receive");
            let stopping = Stopping { engine: receiver.engine(), left: families.into() };
            install(&receiver.snapshots(), ID, &region, &stopping, None).expect_err("stopped");
            states.insert(format!("{:?}", receiver.contents()));
            receiver.install(&region).expect("install again");
            assert_eq!(receiver.contents(), expected(&region, &new, &old));
        }
        assert_eq!(states.len(), 4, "each stop left another half-way state");
    }
}

#[test]
fn an_installed_snapshot_survives_power_loss() {
    let region = region("d", "m");
    let (sender, home) =
        (Store::holding(Kind::Memory, &neighbourhood("new")), Store::new(Kind::Memory));
    let data = sender.build(&region).expect("build");
    home.receive(&sender, &data).expect("receive");
    let engine = MemoryEngine::new();
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Raw, "zh", "written before, not synced");
    engine.write(batch, Durability::Buffered).expect("write");
    install(&home.snapshots(), ID, &region, &engine, None).expect("install");
    let found = contents_of(&engine.crash(0));
    assert_eq!(found, expected(&region, &neighbourhood("new"), &Contents::new()));
}
