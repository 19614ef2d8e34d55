//! What only raft-engine's log has to show: damage is found before the crate forgives it, a torn end is
//! forgiven, and the crate's own traps are stepped around. The contract is tested in `engine::log::tests`.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::engine::log::tests::{copy_as_killed, entry, small_files};

/// A log with a region of `count` entries, each synced, in files of 4 KiB.
fn filled(directory: &Path, count: u64) -> RaftEngineLog {
    let log = RaftEngineLog::open(directory, &small_files()).expect("opens");
    for index in 1..=count {
        append(&log, 1, index, b'a');
    }
    log
}

fn append(log: &RaftEngineLog, region: u64, index: u64, letter: u8) {
    let mut batch = LogBatch::new();
    let data = vec![letter; 300];
    batch.push(LogOperation::Append(region, vec![entry(index, 1, data)]));
    log.write(batch, Durability::Synced).expect("writes");
}

fn reopened(directory: &Path) -> Result<RaftEngineLog> {
    RaftEngineLog::open(directory, &small_files())
}

/// The files of entries, oldest first.
fn entry_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = log_files::all(directory).expect("list");
    files.retain(|path| path.extension().is_some_and(|ending| ending == "raftlog"));
    files
}

/// Everything in a directory, to see that nothing was touched.
fn content(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(directory).expect("list").map(|entry| entry.expect("entry").path());
    let mut content: Vec<_> =
        entries.map(|path| (path.clone(), fs::read(path).expect("read"))).collect();
    content.sort();
    content
}

/// Opening must fail, name `file`, and change nothing.
fn assert_refused(directory: &Path, file: &Path, because: &str) {
    let before = content(directory);
    let refused = reopened(directory).err().expect("refused");
    assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
    let (text, name) = (refused.to_string(), file.file_name().expect("a name").to_string_lossy());
    assert!(text.contains(&*name) && text.contains(because), "{name}: {text}");
    assert!(content(directory) == before, "opening a damaged log changed it");
}

#[test]
fn a_missing_file_is_found_wherever_it_was() {
    let root = tempfile::tempdir().expect("a directory");
    let original = root.path().join("log");
    drop(filled(&original, 60));
    let files = entry_files(&original);
    assert!(files.len() >= 4, "{files:?}");
    for (number, reason) in [
        (1, "missing between its neighbours"),
        (files.len() - 1, "was there when the log was closed"),
    ] {
        let copy = root.path().join(format!("without-{number}"));
        copy_as_killed(&original, &copy);
        let victim = copy.join(files[number].file_name().expect("a name"));
        fs::remove_file(&victim).expect("remove");
        assert_refused(&copy, &victim, reason);
    }
    let copy = root.path().join("without-any");
    copy_as_killed(&original, &copy);
    for file in entry_files(&copy) {
        fs::remove_file(file).expect("remove");
    }
    assert_refused(&copy, Path::new("*.raftlog"), "no such file left");
}

#[test]
fn damage_at_rest_is_found_after_a_clean_stop() {
    let root = tempfile::tempdir().expect("a directory");
    let original = root.path().join("log");
    drop(filled(&original, 5));
    let name = entry_files(&original)[0].file_name().expect("a name").to_owned();
    let whole = fs::read(original.join(&name)).expect("read");

    type Damage = fn(&mut Vec<u8>);
    let damage: [(&str, &str, Damage); 3] = [
        ("cut", "bytes when the log was closed", |bytes| bytes.truncate(bytes.len() - 1)),
        ("grown", "bytes when the log was closed", |bytes| bytes.push(0)),
        ("flipped", "bytes changed", |bytes| *bytes.last_mut().expect("bytes") ^= 1),
    ];
    for (kind, reason, change) in damage {
        let copy = root.path().join(kind);
        copy_as_killed(&original, &copy);
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(copy.join(&name), bytes).expect("write");
        assert_refused(&copy, Path::new(&name), reason);
    }
    assert_eq!(
        reopened(&original).expect("undamaged").bounds(1).expect("read").expect("5").last,
        5
    );
}

#[test]
fn after_a_crash_a_torn_end_is_forgiven_and_nothing_before_it_is_lost() {
    let root = tempfile::tempdir().expect("a directory");
    let log = filled(&root.path().join("log"), 5);
    let file = entry_files(&root.path().join("log")).pop().expect("a file");
    // Four complete entries, and of the fifth only a part, then garbage. Before its data lies its head.
    let bytes = fs::read(&file).expect("read");
    let data = bytes.windows(300).rposition(|window| window == [b'a'; 300]).expect("the fifth");
    for tear in [data - 20, data, data + 100, data + 299] {
        let copy = root.path().join(format!("torn-{tear}"));
        copy_as_killed(&root.path().join("log"), &copy);
        let mut bytes = bytes.clone();
        let mut garbage = 1;
        for byte in &mut bytes[tear..] {
            garbage = crate::time::splitmix64(garbage);
            *byte = garbage as u8;
        }
        fs::write(copy.join(file.file_name().expect("a name")), bytes).expect("write");
        let bounds = reopened(&copy).expect("a crash is no damage").bounds(1).expect("read");
        assert_eq!(bounds, Some(LogBounds { first: 1, last: 4 }));
    }
    drop(log);
}

#[test]
fn damage_before_the_newest_file_names_the_file_also_after_a_crash() {
    let root = tempfile::tempdir().expect("a directory");
    let log = filled(&root.path().join("log"), 60);
    let copy = root.path().join("copy");
    copy_as_killed(&root.path().join("log"), &copy);
    drop(log);
    let victim = entry_files(&copy).remove(1);
    let mut bytes = fs::read(&victim).expect("read");
    // The end of a record holds its checksum.
    *bytes.last_mut().expect("bytes") ^= 1;
    fs::write(&victim, bytes).expect("write");
    let refused = reopened(&copy).err().expect("refused").to_string();
    assert!(refused.contains(&victim.display().to_string()), "{refused}");
}

#[test]
fn damage_inside_an_entry_is_an_error_when_it_is_read() {
    let root = tempfile::tempdir().expect("a directory");
    let log = filled(&root.path().join("log"), 20);
    let file = entry_files(&root.path().join("log")).remove(0);
    let mut bytes = fs::read(&file).expect("read");
    let inside = bytes.windows(20).position(|window| window == [b'a'; 20]).expect("an entry");
    bytes[inside + 10] ^= 1;
    fs::write(&file, bytes).expect("write");
    let refused = log.entries(1, 1, 5, usize::MAX).expect_err("damaged").to_string();
    assert!(refused.starts_with("the raft log of region 1 is damaged: entries 1..5"), "{refused}");
}

#[test]
fn a_log_that_was_not_finished_being_made_is_made_anew() {
    let root = tempfile::tempdir().expect("a directory");
    let staging = root.path().join("log.new");
    fs::create_dir(&staging).expect("create");
    fs::write(staging.join("0000000000000001.raftlog"), b"half a head").expect("write");
    let log = filled(&root.path().join("log"), 2);
    assert_eq!(log.bounds(1).expect("read"), Some(LogBounds { first: 1, last: 2 }));
    assert!(!staging.exists());
}

#[test]
fn a_thread_that_reads_two_logs_is_given_the_entries_of_each() {
    let root = tempfile::tempdir().expect("a directory");
    let logs: Vec<RaftEngineLog> = [b'x', b'y']
        .into_iter()
        .map(|letter| {
            let log = reopened(&root.path().join(format!("log-{letter}"))).expect("opens");
            append(&log, 1, 1, letter);
            log
        })
        .collect();
    let letters = logs.iter().map(|log| log.entry(1, 1).expect("reads").expect("there").data[0]);
    assert_eq!(letters.collect::<Vec<_>>(), [b'x', b'y']);
}

#[test]
fn what_was_compacted_does_not_come_back_when_its_record_was_purged() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("log");
    let log = filled(&directory, 20);
    // A purge copies the few entries of region 1 on, then the compaction is recorded, then that record's
    // file is purged while the copies stay.
    let fill = |from: u64, to: u64| {
        for index in from..to {
            append(&log, 2, index, b'b');
            let mut batch = LogBatch::new();
            batch.push(LogOperation::CompactTo(2, index));
            log.write(batch, Durability::Buffered).expect("writes");
        }
        log.purge().expect("purges");
    };
    let oldest = |directory: &Path| entry_files(directory).remove(0);
    let first_file = oldest(&directory);
    fill(1, 100);
    assert_ne!(oldest(&directory), first_file, "nothing was purged");
    let mut batch = LogBatch::new();
    batch.push(LogOperation::CompactTo(1, 15));
    log.write(batch, Durability::Synced).expect("writes");
    let compaction_file = entry_files(&directory).pop().expect("a file");
    fill(100, 200);
    fill(200, 300);
    assert!(!compaction_file.exists(), "the record was not purged");
    drop(log);
    let bounds = reopened(&directory).expect("opens").bounds(1).expect("read");
    assert_eq!(bounds, Some(LogBounds { first: 15, last: 20 }));
}

#[test]
fn a_full_disk_is_told_from_other_failures_and_from_damage() {
    let path = Path::new("raft");
    let full = std::io::Error::new(std::io::ErrorKind::StorageFull, "nospace");
    let told = |error: raft_engine::Error| failed("writing the raft log", path, error);
    assert!(matches!(told(full.into()), Error::DiskFull { .. }));
    let again = raft_engine::Error::TryAgain("error when append: nospace".to_string());
    assert!(matches!(told(again), Error::DiskFull { .. }));
    let corrupt = raft_engine::Error::Corruption("checksum".to_string());
    assert!(matches!(told(corrupt), Error::Damaged { .. }));
    assert!(matches!(told(raft_engine::Error::Full), Error::Engine { .. }));
}
