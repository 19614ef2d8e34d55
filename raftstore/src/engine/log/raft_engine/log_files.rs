//! The files of raft-engine seen from outside: how they begin, and whether they are all there and as they
//! were left. Used by [`super::RaftEngineLog`] before it lets the crate touch them.
//!
//! The crate forgives what a store must not: it skips the files in front of a gap in their numbers, and it
//! cuts the newest file off at the first record that it cannot read. The second is right after a crash,
//! when the end was being written, and wrong when somebody damaged a log at rest. So a clean stop leaves a
//! record of the newest files, and a start that finds the record expects to find them unchanged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::engine::files;
use crate::time::entropy;
use crate::{Error, Result};

/// Name of the record that a clean stop leaves: one line for each queue, *file length checksum*.
const CLEAN_STOP: &str = "clean-stop";

/// Endings of the crate's two queues: entries as they were written, and old ones it copied on.
const QUEUES: [&str; 2] = ["raftlog", "rewrite"];

/// Distance between the first file numbers of two logs; no log writes so many files in its life.
const NUMBERS_OF_A_LOG: u64 = 1_000_000;
/// How many such distances a file name has room for.
const LOGS: u64 = 1_000_000_000;

/// Makes a new log directory. `open_and_close` lets the crate begin a log in a directory.
///
/// File numbers begin at a random place. The crate keeps the last block that a thread read and knows it
/// again by file number and offset alone: with two logs in one process, both beginning at file 1, a thread
/// that reads one and then the other would be given entries of the first.
pub(super) fn create(
    directory: &Path,
    open_and_close: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    files::make_directory(directory, |staging| {
        open_and_close(staging)?;
        let first = (1 + entropy() % LOGS) * NUMBERS_OF_A_LOG;
        for queue in QUEUES {
            let (from, to) = (file_name(1, queue), file_name(first, queue));
            fs::rename(staging.join(from), staging.join(to))
                .map_err(|error| Error::directory(staging, error))?;
        }
        Ok(())
    })
}

/// Refuses a directory in which files are missing, or in which the newest differ from what a clean stop
/// recorded. Changes nothing.
pub(super) fn check(directory: &Path) -> Result<()> {
    for queue in QUEUES {
        let numbers = numbers(directory, queue)?;
        let Some(first) = numbers.first() else {
            let missing = directory.join(format!("*.{queue}"));
            return Err(damaged(&missing, "there is no such file left"));
        };
        for (expected, found) in (*first..).zip(&numbers) {
            if expected != *found {
                let missing = directory.join(file_name(expected, queue));
                return Err(damaged(&missing, "the file is missing between its neighbours"));
            }
        }
    }
    check_clean_stop(directory)
}

/// Begins a time in which the files change.
pub(super) fn forget_clean_stop(directory: &Path) -> Result<()> {
    let record = directory.join(CLEAN_STOP);
    files::remove_file(&record).map_err(|error| Error::directory(&record, error))
}

/// Records the newest files. They are closed, and nobody changes them until the next start.
pub(super) fn record_clean_stop(directory: &Path) -> Result<()> {
    let mut lines = String::new();
    for queue in QUEUES {
        let Some(last) = numbers(directory, queue)?.last().copied() else { continue };
        let name = file_name(last, queue);
        let (length, checksum) = measure(&directory.join(&name))?;
        lines.push_str(&format!("{name} {length} {checksum:08x}\n"));
    }
    let record = directory.join(CLEAN_STOP);
    files::replace_file(&record, lines.as_bytes()).map_err(|error| Error::directory(&record, error))
}

/// Every file of the log, older before newer within a queue.
pub(super) fn all(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for queue in QUEUES {
        let numbers = numbers(directory, queue)?;
        paths.extend(numbers.into_iter().map(|number| directory.join(file_name(number, queue))));
    }
    Ok(paths)
}

fn check_clean_stop(directory: &Path) -> Result<()> {
    let record = directory.join(CLEAN_STOP);
    let text = match fs::read_to_string(&record) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::directory(&record, error)),
    };
    let mut recorded = Vec::new();
    for line in text.lines() {
        let unreadable = || damaged(&record, "a line of it is not: file length checksum");
        let mut words = line.split(' ');
        let name = words.next().ok_or_else(unreadable)?;
        let length: Option<u64> = words.next().and_then(|word| word.parse().ok());
        let checksum = words.next().and_then(|word| u32::from_str_radix(word, 16).ok());
        let measured = length.zip(checksum).ok_or_else(unreadable)?;
        recorded.push((name, measured));
    }
    for (name, (length, checksum)) in recorded {
        let path = directory.join(name);
        if !path.exists() {
            return Err(damaged(&path, "the file was there when the log was closed"));
        }
        let (found, found_checksum) = measure(&path)?;
        if found != length {
            let reason =
                format!("it had {length} bytes when the log was closed and has {found} now");
            return Err(damaged(&path, &reason));
        }
        if found_checksum != checksum {
            return Err(damaged(&path, "its bytes changed since the log was closed"));
        }
    }
    Ok(())
}

/// Length and checksum of a file.
fn measure(path: &Path) -> Result<(u64, u32)> {
    // A log file is a few dozen megabytes: read at once, at the speed of memory.
    let bytes = fs::read(path).map_err(|error| Error::directory(path, error))?;
    Ok((bytes.len() as u64, crc32fast::hash(&bytes)))
}

/// The numbers of a queue's files, ascending.
fn numbers(directory: &Path, queue: &str) -> Result<Vec<u64>> {
    let entries = fs::read_dir(directory).map_err(|error| Error::directory(directory, error))?;
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| Error::directory(directory, error))?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(queue)?.strip_suffix('.'));
        numbers.extend(stem.and_then(|digits| digits.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn file_name(number: u64, queue: &str) -> String {
    format!("{number:016}.{queue}")
}

fn damaged(path: &Path, reason: &str) -> Error {
    let reason = format!(
        "{reason}; put the log back from a copy, or let the cluster replace this store by a new one"
    );
    Error::Damaged { what: path.display().to_string(), reason }
}
