//! Draws what lies in an engine as a grid of keys and times; scripts of commands use it too.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use skerry_proto::types::Ts;
use skerry_raftstore::engine::{ColumnFamily, Engine, KeyRange};

use crate::mvcc::{Key, Lock, Write, WriteKind, WriteRef, key};

/// A timestamp as scripts write it: the counter alone where the milliseconds are 0.
pub(crate) fn number(ts: Ts) -> String {
    if ts.physical_ms() == 0 { ts.get().to_string() } else { ts.to_string() }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=20 => bytes.escape_ascii().to_string(),
        long => format!("{}...({long} bytes)", bytes[..8].escape_ascii()),
    }
}

/// Each record with its key and timestamp.
pub(crate) fn records(engine: &dyn Engine) -> Vec<(String, Ts, Write)> {
    let view = engine.view();
    let mut cursor = view.cursor(ColumnFamily::Write, &KeyRange::default()).expect("memory");
    let mut stands = cursor.seek_to_first().expect("memory");
    let mut records = Vec::new();
    while stands {
        let (key, ts) = key::split_version(cursor.key()).expect("a version");
        let user = Key::from_engine(key).user_key().expect("a key");
        let write = WriteRef::decode(cursor.value()).expect("a record").to_owned();
        records.push((text(&user), ts, write));
        stands = cursor.next().expect("memory");
    }
    records
}

pub(crate) fn locks(engine: &dyn Engine) -> Vec<(String, Lock)> {
    let view = engine.view();
    let mut cursor = view.cursor(ColumnFamily::Lock, &KeyRange::default()).expect("memory");
    let mut stands = cursor.seek_to_first().expect("memory");
    let mut locks = Vec::new();
    while stands {
        let user = Key::from_engine(cursor.key()).user_key().expect("a key");
        locks.push((text(&user), Lock::decode(cursor.value()).expect("a lock")));
        stands = cursor.next().expect("memory");
    }
    locks
}

pub(crate) fn draw(engine: &dyn Engine) -> String {
    let (records, locks) = (records(engine), locks(engine));
    let times: BTreeSet<Ts> = records.iter().map(|(_, ts, _)| *ts).collect();
    let keys: BTreeSet<&String> =
        records.iter().map(|(key, _, _)| key).chain(locks.iter().map(|(key, _)| key)).collect();
    let mut output = format!("{:8}", "");
    for ts in &times {
        write!(output, "{:<14}", number(*ts)).expect("strings take everything");
    }
    output.push_str("lock\n");
    for key in keys {
        write!(output, "{key:8}").expect("strings take everything");
        for ts in &times {
            let at = |(of, at, _): &&(String, Ts, Write)| of == key && at == ts;
            let cell = records.iter().find(at).map(|(_, _, write)| cell(write));
            write!(output, "{:14}", cell.unwrap_or_default()).expect("strings take everything");
        }
        if let Some((_, lock)) = locks.iter().find(|(of, _)| of == key) {
            output.push_str(&show_lock(lock));
        }
        output = output.trim_end().to_string() + "\n";
    }
    output
}

pub(crate) fn cell(write: &Write) -> String {
    let value = write.short_value.as_deref().map(text).unwrap_or_default();
    let cell = match write.kind {
        WriteKind::Put if write.short_value.is_none() => {
            format!("put {} long", number(write.start_ts))
        }
        WriteKind::Put => format!("put {} {value}", number(write.start_ts)),
        WriteKind::Delete => format!("del {}", number(write.start_ts)),
        WriteKind::Lock => format!("hold {}", number(write.start_ts)),
        WriteKind::Rollback if write.protected => "rolled back!".to_string(),
        WriteKind::Rollback => "rolled back".to_string(),
    };
    if write.overlapped_rollback { cell + " +r" } else { cell }
}

/// Kind, transaction and value, and what else there is to say.
pub(crate) fn show_lock(lock: &Lock) -> String {
    let mut shown = format!("{:?} {}", lock.kind, number(lock.start_ts)).to_lowercase();
    if let Some(value) = lock.short_value.as_deref().filter(|value| !value.is_empty()) {
        shown += &format!(" {}", text(value));
    }
    if lock.min_commit_ts != Ts::ZERO {
        shown += &format!(" min={}", number(lock.min_commit_ts));
    }
    if lock.for_update_ts != Ts::ZERO {
        shown += &format!(" update={}", number(lock.for_update_ts));
    }
    if lock.use_async_commit {
        let keys: Vec<String> = lock.secondaries.iter().map(|key| text(key)).collect();
        shown += &format!(" async[{}]", keys.join(" "));
    }
    shown
}
