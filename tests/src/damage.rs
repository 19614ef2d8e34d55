//! Files of a stopped store, damaged as disks and operators do it, and made good again.
//!
//! What it does not do: it judges nothing.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit is another, in the middle of what was written.
    BitInTheMiddle,
    /// The same in the last bytes that were written.
    BitAtTheEnd,
    /// The last bytes are missing.
    EndCutOff,
    /// The file is missing.
    Removed,
}

/// How many bytes count as the end of a file.
const END: usize = 24;

/// A file that was damaged.
pub struct Damaged {
    path: PathBuf,
    before: Vec<u8>,
}

/// Damages a file.
pub fn damage(path: &Path, damage: Damage) -> Damaged {
    let before = fs::read(path).expect("a file of the store");
    // Behind it lies space that the store has allocated ahead.
    let written = before.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    assert!(written > 2 * END, "{} holds too little to be damaged", path.display());
    let mut after = before.clone();
    match damage {
        Damage::BitInTheMiddle => after[written / 2] ^= 0x10,
        Damage::BitAtTheEnd => after[written - END] ^= 0x10,
        Damage::EndCutOff => after.truncate(written - END),
        Damage::Removed => after.clear(),
    }
    match damage {
        Damage::Removed => fs::remove_file(path).expect("a file can be removed"),
        _ => replace(path, &after).expect("a file can be written"),
    }
    Damaged { path: path.to_path_buf(), before }
}

/// Changes bytes in their places: whoever has the file open never finds it shorter than it is to become.
fn replace(path: &Path, after: &[u8]) -> std::io::Result<()> {
    let file = fs::File::options().write(true).open(path)?;
    file.write_all_at(after, 0)?;
    file.set_len(after.len() as u64)
}

impl Damaged {
    /// The name of the file, by which a message must call it.
    pub fn name(&self) -> String {
        self.path.file_name().expect("a file").to_string_lossy().into_owned()
    }

    /// Puts back what was there.
    pub fn undo(self) {
        fs::write(&self.path, self.before).expect("a file can be written");
    }
}

/// The files of a directory with this ending, by name; for numbered files that is by age.
pub fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory of the store");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut found: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    found.sort();
    found
}

/// The largest of them: it holds most of the data.
pub fn largest(directory: &Path, ending: &str) -> PathBuf {
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let largest = files(directory, ending).into_iter().max_by_key(size);
    largest.unwrap_or_else(|| panic!("no *.{ending} in {}", directory.display()))
}

/// Copies a directory with everything below it.
pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        match path.is_dir() {
            true => copy_directory(&path, &target),
            false => drop(fs::copy(&path, &target).expect("a copy")),
        }
    }
}

/// Gives each of two files or directories the name of the other.
pub fn exchange(one: &Path, other: &Path) {
    let aside = one.with_extension("aside");
    fs::rename(one, &aside).expect("a rename");
    fs::rename(other, one).expect("a rename");
    fs::rename(&aside, other).expect("a rename");
}
