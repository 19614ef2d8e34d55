//! A store whose files were damaged while it stood still, among two that are well.
//!
//! The rule: what is damaged is found, called by its name and not served; or it was the torn end of a log, which a
//! crash may leave. Never is a client answered wrongly: whatever was acknowledged is read through the other two
//! all the while, and through the damaged store if that serves.

use std::path::{Path, PathBuf};

use skerry_tests::chaos::{Cluster, Ledger};
use skerry_tests::damage::{Damage, copy_directory, damage, exchange, files, largest};
use skerry_tests::process::Ended;
use skerry_tests::wait::until_async;
use tempfile::NamedTempFile;

/// Pairs that are written, each of a kilobyte.
const PAIRS: usize = 200;

/// The store that is damaged.
const VICTIM: usize = 2;

/// Small files of the log, so that there are several.
const RAFT_ENGINE: &str =
    "[raft-engine]\ntarget-file-size = \"64KiB\"\npurge-threshold = \"64MiB\"\n";
const ROCKSDB: &str = "[raft-engine]\nenable = false\n";

/// A cluster, and what it has acknowledged.
struct Story {
    cluster: Cluster,
    ledger: Ledger,
    _settings: NamedTempFile,
}

/// What became of a damaged store.
enum Fate {
    /// It ended with a message.
    Refused(Ended),
    /// It has everything.
    Serves,
}

impl Story {
    async fn begin(config: &str) -> Story {
        let settings = NamedTempFile::new().expect("a temporary file");
        std::fs::write(settings.path(), config).expect("a temporary file can be written");
        let path = settings.path().display().to_string();
        let cluster = Cluster::start(3, &[("--config", &path)]).await;
        let mut ledger = Ledger::default();
        ledger.write(&cluster, 0..PAIRS, 1_000).await;
        Story { cluster, ledger, _settings: settings }
    }

    async fn assert_kept(&self) {
        self.ledger.assert_kept(&self.cluster).await;
    }

    /// Starts the victim and waits until it has given up or has answered everything rightly.
    async fn fate(&mut self) -> Fate {
        if let Some(ended) = self.cluster.try_revive(VICTIM) {
            return Fate::Refused(ended);
        }
        until_async("the damaged store serves or gives up", async || {
            if self.ledger.read_through(&self.cluster, VICTIM).await.is_some() {
                return Some(Fate::Serves);
            }
            self.cluster.ended(VICTIM).map(Fate::Refused)
        })
        .await
    }

    fn directory(&self) -> PathBuf {
        self.cluster.directory(VICTIM)
    }

    /// Puts the directory of the victim back as it was.
    fn put_back(&self, copy: &Path) {
        std::fs::remove_dir_all(self.directory()).expect("a stopped store's directory");
        copy_directory(copy, &self.directory());
    }

    /// The victim, made good again, serves; so does everybody else.
    async fn end(mut self) {
        self.cluster.revive(VICTIM);
        until_async("the mended store has everything", async || {
            self.ledger.read_through(&self.cluster, VICTIM).await
        })
        .await;
        self.assert_kept().await;
        self.cluster.stop();
    }
}

fn raft_engine_files(directory: &Path) -> Vec<PathBuf> {
    files(&directory.join("raft/raft-engine"), "raftlog")
}

fn newest(mut files: Vec<PathBuf>) -> PathBuf {
    files.pop().expect("a log has a file")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raft_log_damaged_at_rest_is_refused_by_the_name_of_its_file() {
    let mut story = Story::begin(RAFT_ENGINE).await;
    story.cluster.stop_store(VICTIM);
    let log = raft_engine_files(&story.directory());
    assert!(log.len() > 2, "the log lies in one file only: {log:?}");
    let last = newest(log.clone());
    for (path, kind) in [
        (&last, Damage::BitInTheMiddle),
        (&last, Damage::BitAtTheEnd),
        (&last, Damage::EndCutOff),
        (&last, Damage::Removed),
        (&log[log.len() / 2], Damage::Removed),
        (&log[0], Damage::Removed),
    ] {
        println!("{kind:?} of {}", path.display());
        let damaged = damage(path, kind);
        let Fate::Refused(ended) = story.fate().await else { panic!("{kind:?} is served") };
        match path == &log[0] {
            // Nobody knows by what name it went.
            true => ended.assert_refused(&["the raft log of r", "is damaged"]),
            false => ended.assert_refused(&["is damaged", &damaged.name(), "from a copy"]),
        }
        damaged.undo();
    }
    story.assert_kept().await;
    story.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_damaged_at_rest_are_found_when_they_are_read() {
    for (config, part) in [(RAFT_ENGINE, "data"), (ROCKSDB, "raft/rocksdb")] {
        let mut story = Story::begin(config).await;
        story.cluster.stop_store(VICTIM);
        let directory = story.directory().join(part);
        let table = largest(&directory, "sst");
        for kind in [Damage::BitInTheMiddle, Damage::EndCutOff, Damage::Removed] {
            println!("{kind:?} of {}", table.display());
            let damaged = damage(&table, kind);
            match story.fate().await {
                Fate::Refused(ended) => {
                    ended.assert_failed(&["is damaged", &damaged.name()]);
                    story.assert_kept().await;
                }
                // Entries that nobody reads again harm nobody.
                Fate::Serves => assert_eq!((part, kind), ("raft/rocksdb", Damage::BitInTheMiddle)),
            }
            story.cluster.kill(VICTIM);
            damaged.undo();
        }
        story.end().await;
    }
}

/// After a crash nobody knows how the log ended. What is missing at the end was torn, or it is missed by the region:
/// both may be, a wrong answer may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raft_log_damaged_after_a_crash_is_refused_or_its_end_was_torn() {
    for (config, log, ending) in
        [(RAFT_ENGINE, "raft/raft-engine", "raftlog"), (ROCKSDB, "raft/rocksdb", "log")]
    {
        for kind in [Damage::EndCutOff, Damage::BitAtTheEnd, Damage::BitInTheMiddle] {
            let mut story = Story::begin(config).await;
            story.cluster.kill(VICTIM);
            let path = newest(files(&story.directory().join(log), ending));
            let damaged = damage(&path, kind);
            match story.fate().await {
                Fate::Refused(ended) => {
                    println!("{kind:?} of {}: {:?}", damaged.name(), ended.complaints());
                    let named = ["raft log of r", "has lost acknowledged entries", "is damaged"];
                    let is_named = named.iter().any(|words| ended.stderr.contains(words));
                    assert!(is_named, "{ended:#?}");
                }
                Fate::Serves => println!("{kind:?} of {}: serves", damaged.name()),
            }
            story.assert_kept().await;
        }
    }
}

/// What a directory is, it carries with it; where it may be used, the scheduler and the other stores know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_of_another_store_is_refused() {
    let mut story = Story::begin(RAFT_ENGINE).await;
    let other = story.cluster.directory(0);
    story.cluster.stop_store(VICTIM);
    story.cluster.stop_store(0);
    let (own, copy) =
        (story.cluster.ground().path("own"), story.cluster.ground().path("copy-of-another"));
    copy_directory(&story.directory(), &own);
    copy_directory(&other, &copy);

    println!("two stores have each other's directories");
    exchange(&other, &story.directory());
    for number in [0, VICTIM] {
        let ended = story.cluster.try_revive(number).expect("an exchanged directory is refused");
        ended.assert_refused(&["has address", "exchanged", "put it back"]);
    }
    exchange(&other, &story.directory());
    for part in ["data", "raft"] {
        println!("two stores have each other's {part}");
        exchange(&other.join(part), &story.directory().join(part));
        for number in [0, VICTIM] {
            let ended = story.cluster.try_revive(number).expect("an exchanged part is refused");
            ended.assert_refused(&["skerry-owner", "put back", part]);
        }
        exchange(&other.join(part), &story.directory().join(part));
    }

    println!("a store has a copy of another's directory");
    story.cluster.revive(0);
    story.put_back(&copy);
    let ended = story.cluster.try_revive(VICTIM).expect("a copy is refused");
    ended.assert_refused(&["is running at", "is a copy", "--data-dir"]);
    println!("a new store has it");
    let scheduler = story.cluster.scheduler();
    let newcomer = story.cluster.ground().member(scheduler, "copy-of-another");
    newcomer.run_to_end().assert_refused(&["is running at", "is a copy", "--data-dir"]);

    println!("a store has the directory of another cluster");
    let ground = story.cluster.ground();
    let launch = ground.scheduler().with("--data-dir", ground.path("other-scheduler"));
    let strangers = launch.start();
    let member = ground.member(launch.addresses().scheduler, "stranger");
    member.start().stop().assert_clean();
    strangers.stop().assert_clean();
    story.put_back(&ground.path("stranger"));
    let ended = story.cluster.try_revive(VICTIM).expect("another cluster's is refused");
    ended.assert_refused(&["belongs to cluster", "--data-dir"]);

    story.put_back(&own);
    story.end().await;
}
