//! Cutting the power of a process: what would its files be if the machine had died at this moment?
//!
//! `kill -9` shows nothing about durability, because the operating system keeps every page that the dead
//! process wrote. A [`PowerCut`] takes from the files what was never synced:
//!
//! 1. [`PowerCut::over`] notes what a directory holds, which counts as synced;
//! 2. the process under test is started with [`PowerCut::environment`], which loads a small library
//!    (`shim.c`) into it that keeps a second copy of every file, as of its last sync, and a journal of
//!    changed names and synced directories ([`names`]);
//! 3. the test kills the process with SIGKILL whenever it likes, or has it die at some operation on its
//!    files ([`PowerCut::dying_at`]), which reaches moments that cannot be seen from outside;
//! 4. [`PowerCut::cut`] replaces the directory by what a power cut might have left, as a seed decides:
//!    synced bytes always, of the others nothing, a part, or all, with a torn end or in any order of pages
//!    ([`image`]); synced names always, of the others as many of the oldest as chance says;
//! 5. the process is started again and must have everything that it acknowledged.
//!
//! ```text
//! let cut = PowerCut::over(&data_directory).expect("Linux with a C compiler");
//! let mut child = Command::new(binary).envs(cut.environment()).spawn()?;
//! // ... let it acknowledge something ...
//! child.kill()?;
//! child.wait()?;
//! println!("{}", cut.cut(seed));
//! // ... start it again without the environment, or with that of a new PowerCut ...
//! ```
//!
//! **Invariant.** A mistake of the model shows as a loss: what the library does not see counts as never
//! synced. Names that changed without its knowledge end the test.
//!
//! What it does not do: it does not lose or reorder synced data (a lying disk), and it knows only Linux.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use skerry_raftstore::time::splitmix64;

use image::after_power_loss;
use names::{Inode, Journal, Names, Node};

mod image;
mod names;

/// The library's source; compiled when the first test needs it.
const SHIM: &str = include_str!("shim.c");

/// A directory whose every change is recorded until the power is cut.
pub struct PowerCut {
    directory: PathBuf,
    shim: PathBuf,
    /// Beside the directory, on the same file system, because it holds hard links.
    trace: PathBuf,
    root: Inode,
    before: Names,
    /// Keeps the numbers of the directories from being given to others.
    _open: Vec<File>,
}

impl PowerCut {
    /// Begins recording below `directory`, which must exist, with a process that is started next. `None`
    /// where that cannot be done: not on Linux, or no C compiler; the reason was then said aloud.
    pub fn over(directory: &Path) -> Option<PowerCut> {
        let shim = match shim() {
            Ok(shim) => shim,
            Err(reason) => {
                crate::not_tested("power loss", &reason);
                return None;
            }
        };
        let directory = directory.canonicalize().expect("the directory exists");
        let trace = beside(&directory, ".trace");
        for kind in ["live", "durable"] {
            fs::create_dir_all(trace.join(kind)).expect("the trace is made");
        }
        fs::write(trace.join("journal"), "").expect("the journal is made");
        let root = fs::metadata(&directory).expect("the directory exists").ino();
        let (before, open) = Names::scan(&directory);
        for (path, node) in before.paths(root) {
            if let Node::File(inode) = node {
                let path = directory.join(path);
                let live = trace.join("live").join(inode.to_string());
                if !live.exists() {
                    fs::hard_link(&path, live).expect("a second name");
                    fs::copy(&path, trace.join("durable").join(inode.to_string())).expect("a copy");
                }
            }
        }
        Some(PowerCut { directory, shim, trace, root, before, _open: open })
    }

    /// What the process under test needs in its environment.
    pub fn environment(&self) -> [(&'static str, OsString); 3] {
        [
            ("LD_PRELOAD", self.shim.clone().into()),
            ("SKERRY_POWER_LOSS_DIR", self.directory.clone().into()),
            ("SKERRY_POWER_LOSS_TRACE", self.trace.clone().into()),
        ]
    }

    /// The same for a process that kills itself at the operation with this number: a write, a sync, or a
    /// change of a name.
    pub fn dying_at(&self, operation: u64) -> impl Iterator<Item = (&'static str, OsString)> {
        let operation = operation.to_string().into();
        self.environment().into_iter().chain([("SKERRY_POWER_LOSS_OPERATIONS", operation)])
    }

    /// Replaces the directory by what a power cut might have left, the same for the same `seed`. The
    /// process must be dead.
    pub fn cut(self, seed: u64) -> Loss {
        let mut chance = Chance::of(seed);
        self.replace(&mut Survival::AsChanceSays(&mut chance))
    }

    /// Replaces the directory by the least that a power cut leaves: what was synced and nothing else.
    pub fn cut_to_what_was_synced(self) -> Loss {
        self.replace(&mut Survival::Nothing)
    }

    fn replace(self, survival: &mut Survival<'_>) -> Loss {
        let journal = fs::read(self.trace.join("journal")).expect("the journal");
        let journal = Journal::read(&journal);
        let present = journal.replay(self.before.clone(), usize::MAX);
        self.assert_complete(&present);
        let pending = journal.pending();
        let survivors = match survival {
            Survival::Nothing => 0,
            Survival::AsChanceSays(chance) => match chance.below(3) {
                0 => 0,
                1 => pending,
                _ => chance.below(pending as u64 + 1) as usize,
            },
        };
        let after = journal.replay(self.before.clone(), survivors);
        let mut loss = Loss { names: pending - survivors, ..Loss::default() };
        let target = beside(&self.directory, ".after");
        fs::create_dir(&target).expect("the new directory");
        let mut made: Vec<(Inode, PathBuf)> = Vec::new();
        for (path, node) in after.paths(self.root) {
            let path = target.join(path);
            match node {
                Node::Directory(_) => fs::create_dir(&path).expect("a directory"),
                Node::File(inode) => match made.iter().find(|(known, _)| *known == inode) {
                    Some((_, first)) => fs::hard_link(first, &path).expect("another name"),
                    None => {
                        fs::write(&path, self.content(inode, survival, &mut loss)).expect("a file");
                        made.push((inode, path));
                    }
                },
            }
        }
        fs::remove_dir_all(&self.directory).expect("the old directory goes");
        fs::rename(&target, &self.directory).expect("the new one takes its place");
        fs::remove_dir_all(&self.trace).expect("the trace goes");
        loss
    }

    /// What is left of a file.
    fn content(&self, inode: Inode, survival: &mut Survival<'_>, loss: &mut Loss) -> Vec<u8> {
        let read =
            |kind: &str| fs::read(self.trace.join(kind).join(inode.to_string())).expect("traced");
        let (live, durable) = (read("live"), read("durable"));
        if live == durable {
            return durable;
        }
        let after = match survival {
            Survival::Nothing => durable,
            Survival::AsChanceSays(chance) => after_power_loss(&live, &durable, chance),
        };
        let kept = after.iter().zip(&live).filter(|(after, live)| after == live).count();
        if after != live {
            loss.files += 1;
            loss.bytes += live.len().max(after.len()) - kept;
        }
        after
    }

    /// The journal must explain every name, but for the one change during which the process was killed.
    fn assert_complete(&self, replayed: &Names) {
        let replayed = replayed.paths(self.root);
        let (found, _open) = Names::scan(&self.directory);
        let found = found.paths(self.root);
        let gone = replayed.iter().filter(|(path, node)| found.get(*path) != Some(node));
        let new = found.iter().filter(|(path, node)| replayed.get(*path) != Some(node));
        let differences: BTreeSet<&PathBuf> = gone.chain(new).map(|(path, _)| path).collect();
        // A renaming changes two.
        assert!(
            differences.len() <= 2,
            "names changed that the library did not see: {differences:?}"
        );
    }
}

/// How much of what was not synced survives.
enum Survival<'a> {
    Nothing,
    AsChanceSays(&'a mut Chance),
}

/// What a cut took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    /// Files that changed.
    pub files: usize,
    /// Their bytes that are not what the process wrote.
    pub bytes: usize,
    /// Changes of names that were undone.
    pub names: usize,
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { files, bytes, names } = self;
        write!(formatter, "power cut: {bytes} bytes of {files} files and {names} names were lost")
    }
}

/// A seeded stream of choices.
pub struct Chance {
    seed: u64,
}

impl Chance {
    /// The stream of `seed`.
    pub fn of(seed: u64) -> Chance {
        Chance { seed }
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.seed = splitmix64(self.seed);
        self.seed % limit
    }
}

/// How many points a test cuts at: the environment's word, or the default that fits into an ordinary run.
#[allow(clippy::disallowed_methods)] // Tests ask the environment in this crate and nowhere else.
pub fn points(default: u64) -> u64 {
    let wanted = std::env::var("SKERRY_POWER_LOSS_POINTS").ok();
    wanted.map_or(default, |text| text.parse().expect("SKERRY_POWER_LOSS_POINTS is a number"))
}

fn beside(directory: &Path, ending: &str) -> PathBuf {
    let mut name = directory.file_name().expect("not the root").to_os_string();
    name.push(ending);
    directory.with_file_name(name)
}

/// The compiled library, kept beside the test binaries under a name that changes with its source.
fn shim() -> Result<PathBuf, String> {
    if !cfg!(target_os = "linux") {
        return Err("the library that records syncs is for Linux".to_string());
    }
    let version = SHIM.bytes().fold(0, |mixed, byte| splitmix64(mixed ^ u64::from(byte)));
    let executable = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = executable.parent().ok_or("a binary lies in a folder")?;
    let library = folder.join(format!("power-loss-{version:016x}.so"));
    if library.exists() {
        return Ok(library);
    }
    let unfinished = folder.join(format!("power-loss-{version:016x}.{}", std::process::id()));
    let source = unfinished.with_extension("c");
    fs::write(&source, SHIM).map_err(|error| error.to_string())?;
    let compiled = ["clang", "cc", "gcc"].into_iter().find_map(|compiler| {
        let mut command = Command::new(compiler);
        command.args(["-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o"]);
        command.arg(&unfinished).arg(&source).args(["-ldl", "-lpthread"]).output().ok()
    });
    let compiled = compiled.ok_or("no C compiler was found")?;
    let _ = fs::remove_file(&source);
    if !compiled.status.success() {
        return Err(String::from_utf8_lossy(&compiled.stderr).into_owned());
    }
    // Two test binaries may both have compiled it; the renaming makes either one's whole.
    fs::rename(&unfinished, &library).map_err(|error| error.to_string())?;
    Ok(library)
}
