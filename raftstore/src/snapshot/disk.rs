//! The steps in which snapshot files change on the medium. Everything that is written, renamed or removed
//! goes through here, so that a test can stop the machine before any one of them.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use crate::engine::files::{self, unfinished};
use crate::{Error, Result};

/// How much is read at once to check a file.
const READ_BYTES: usize = 256 << 10;

/// Comes before each step. In production there is nothing to do.
#[cfg(not(test))]
pub(super) fn step(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) use self::power::step;

/// Gives the finished file, written and synced under the name that [`unfinished`] says, its own name.
pub(super) fn rename_finished(path: &Path) -> Result<()> {
    step(path)?;
    fs::rename(unfinished(path), path).map_err(|error| failed(path, error))
}

/// Makes all names in `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> Result<()> {
    step(directory)?;
    files::sync_directory(directory).map_err(|error| failed(directory, error))
}

/// Starts the unfinished form of `path`.
pub(super) fn create_unfinished(path: &Path) -> Result<File> {
    step(path)?;
    File::create(unfinished(path)).map_err(|error| failed(path, error))
}

/// Writes at the end of `file`, which is to become `path`.
pub(super) fn append(path: &Path, file: &mut File, bytes: &[u8]) -> Result<()> {
    step(path)?;
    file.write_all(bytes).map_err(|error| failed(path, error))
}

/// Makes the content of `file` durable.
pub(super) fn sync(path: &Path, file: &File) -> Result<()> {
    step(path)?;
    file.sync_all().map_err(|error| failed(path, error))
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    step(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

/// Size and CRC-32 of a whole file.
pub(super) fn measure(path: &Path) -> Result<(u64, u32)> {
    let mut file = File::open(path).map_err(|error| failed(path, error))?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut size = 0;
    loop {
        let count = file.read(&mut buffer).map_err(|error| failed(path, error))?;
        if count == 0 {
            return Ok((size, hasher.finalize()));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

/// An input or output error; a file that is not there is damage, because somebody relied on it.
pub(super) fn failed(path: &Path, error: std::io::Error) -> Error {
    if error.kind() == ErrorKind::NotFound {
        let what = path.display().to_string();
        return Error::Damaged { what, reason: "it is missing".to_string() };
    }
    Error::engine("a snapshot file", path, error)
}

/// A machine that can lose power, for tests: each thread has its own.
#[cfg(test)]
pub(super) mod power {
    use std::cell::Cell;
    use std::path::Path;

    use crate::{Error, Result};

    thread_local! {
        /// How many more steps are made; no limit if nothing.
        static STEPS_LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Lets `steps` more steps happen and then none.
    pub(crate) fn fail_after(steps: u64) {
        STEPS_LEFT.set(Some(steps));
    }

    /// Power is back.
    pub(crate) fn restore() {
        STEPS_LEFT.set(None);
    }

    pub(crate) fn step(path: &Path) -> Result<()> {
        match STEPS_LEFT.get() {
            None => Ok(()),
            Some(0) => Err(Error::Engine {
                operation: "a step without power",
                reason: path.display().to_string(),
            }),
            Some(left) => {
                STEPS_LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }
}
