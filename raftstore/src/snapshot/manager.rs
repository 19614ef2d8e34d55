//! Who is doing what with which snapshot, how many may do it at once, and which files nobody needs.
//!
//! 1. Whoever builds, sends, receives or installs a snapshot registers first ([`Manager::begin`]) and holds the
//!    [`Registration`] meanwhile. If too many do the same, or the region is at it already, the answer is [`Busy`] and
//!    the caller comes again later.
//! 2. [`Manager::collect`] removes the files of every snapshot that is not registered and that the caller does not
//!    name as needed: what was never finished, never sent, installed, or left by a former process.
//!
//! **Invariant.** Files of a registered snapshot are not collected, and a snapshot that is being collected cannot be
//! registered. Between two activities, such as *receiving* and *applying*, only the caller knows that the files
//! are needed.
//!
//! What it does not do: it starts nothing, waits for nothing and opens no snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Side, SnapshotId, disk, format};
use crate::Result;
use crate::engine::files;

/// What a region is doing with a snapshot; the words of `/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activity {
    /// Being built from a view.
    Generating,
    /// On its way to another store.
    Sending,
    /// On its way here.
    Receiving,
    /// Being loaded into the data engine.
    Applying,
}

impl Activity {
    /// All of them, in the order in which a snapshot goes through them.
    pub const ALL: [Activity; 4] =
        [Activity::Generating, Activity::Sending, Activity::Receiving, Activity::Applying];

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Activity::Generating => "generating",
            Activity::Sending => "sending",
            Activity::Receiving => "receiving",
            Activity::Applying => "applying",
        }
    }

    /// Whose files it concerns.
    pub const fn side(self) -> Side {
        match self {
            Activity::Generating | Activity::Sending => Side::Sender,
            Activity::Receiving | Activity::Applying => Side::Receiver,
        }
    }
}

impl std::fmt::Display for Activity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How many snapshots of a store may be in each activity at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Each holds a view, and with it the space of everything deleted since.
    pub generating: usize,
    /// Each takes bandwidth from raft messages.
    pub sending: usize,
    /// Each takes disk space before anybody knows whether it will be accepted.
    pub receiving: usize,
    /// Each makes the engine compact.
    pub applying: usize,
}

impl Limits {
    /// The limit of one activity.
    pub const fn of(&self, activity: Activity) -> usize {
        match activity {
            Activity::Generating => self.generating,
            Activity::Sending => self.sending,
            Activity::Receiving => self.receiving,
            Activity::Applying => self.applying,
        }
    }
}

/// How many snapshots are in each activity now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Being built.
    pub generating: usize,
    /// On their way to other stores.
    pub sending: usize,
    /// On their way here.
    pub receiving: usize,
    /// Being loaded.
    pub applying: usize,
}

/// Why an activity cannot begin now. The caller tries again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// As many as may be are at it.
    #[error("{0} snapshots are {1} already")]
    Limit(usize, Activity),
    /// The region is at it, with the same snapshot or another.
    #[error("snapshot {0} of the region is {1}")]
    Region(SnapshotId, Activity),
    /// Its files are just being removed, because nobody needed them.
    #[error("snapshot {0} is being collected")]
    Collecting(SnapshotId),
}

/// The registry of one store and its snapshot directory; shared by all threads.
#[derive(Debug)]
pub struct Manager {
    directory: PathBuf,
    limits: Limits,
    /// Guards the registry alone. Nothing is read from disk, sent or called back under it.
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    /// By ticket: the order in which they began.
    active: BTreeMap<u64, (SnapshotId, Activity)>,
    /// The last ticket that was given.
    last_ticket: u64,
    /// What may not be registered until its files are gone.
    collecting: BTreeSet<(SnapshotId, Side)>,
}

impl Manager {
    /// The manager of `directory`, which is created when it is not there. What a former process left in it is kept
    /// until it is collected.
    pub fn open(directory: &Path, limits: Limits) -> Result<Arc<Manager>> {
        let created = files::create_directory(directory);
        created.map_err(|error| crate::Error::directory(directory, error))?;
        let registry = Mutex::default();
        Ok(Arc::new(Manager { directory: directory.to_path_buf(), limits, registry }))
    }

    /// Where the files lie.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Registers an activity, which lasts until the answer is dropped. A region does each at most once at a
    /// time, but for sending, which may have several receivers; nor is a snapshot received that is being
    /// installed.
    pub fn begin(
        self: &Arc<Manager>,
        id: SnapshotId,
        activity: Activity,
    ) -> std::result::Result<Registration, Busy> {
        let mut registry = self.registry();
        if registry.collecting.contains(&(id, activity.side())) {
            return Err(Busy::Collecting(id));
        }
        let in_the_way = |(other, what): &&(SnapshotId, Activity)| {
            let same = *what == activity && activity != Activity::Sending;
            let installed = *what == Activity::Applying && activity == Activity::Receiving;
            same && other.region_id == id.region_id || installed && *other == id
        };
        if let Some((other, what)) = registry.active.values().find(in_the_way) {
            return Err(Busy::Region(*other, *what));
        }
        let count = registry.count(activity);
        if count >= self.limits.of(activity) {
            return Err(Busy::Limit(count, activity));
        }
        registry.last_ticket += 1;
        let ticket = registry.last_ticket;
        registry.active.insert(ticket, (id, activity));
        Ok(Registration { manager: self.clone(), ticket, id, activity })
    }

    /// How many are in each activity.
    pub fn counts(&self) -> Counts {
        let registry = self.registry();
        Counts {
            generating: registry.count(Activity::Generating),
            sending: registry.count(Activity::Sending),
            receiving: registry.count(Activity::Receiving),
            applying: registry.count(Activity::Applying),
        }
    }

    /// All that are registered, by region.
    pub fn list(&self) -> Vec<(SnapshotId, Activity)> {
        let mut list: Vec<_> = self.registry().active.values().copied().collect();
        list.sort();
        list
    }

    /// All snapshots of which there are files, finished or not.
    pub fn stored(&self) -> Result<BTreeSet<(SnapshotId, Side)>> {
        let entries = format::entries(&self.directory)?;
        Ok(entries.into_iter().map(|(_, owner)| owner).collect())
    }

    /// Whether a snapshot is there, complete, and stays. Whoever asks has seen to it before that
    /// [`Manager::collect`]'s caller names it as needed.
    pub fn has(&self, id: SnapshotId, side: Side) -> bool {
        // In this order: a collection that has asked before unmarks only after it has removed the list.
        !self.registry().collecting.contains(&(id, side))
            && format::meta_path(&self.directory, side, id).exists()
    }

    /// Bytes of all files of snapshots, finished or not.
    pub fn total_bytes(&self) -> Result<u64> {
        let mut total = 0;
        for (name, _) in format::entries(&self.directory)? {
            let path = self.directory.join(name);
            match std::fs::metadata(&path) {
                Ok(metadata) => total += metadata.len(),
                // Renamed or removed since it was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(disk::failed(&path, error)),
            }
        }
        Ok(total)
    }

    /// Removes all files of snapshots that are neither registered nor `needed`; answers of which. Other files in the
    /// directory are left alone. `needed` may be asked about the same snapshot twice and may take locks of
    /// the caller's.
    pub fn collect(
        &self,
        needed: &dyn Fn(&SnapshotId, Side) -> bool,
    ) -> Result<Vec<(SnapshotId, Side)>> {
        let mut candidates = self.stored()?;
        candidates.retain(|(id, side)| !needed(id, *side));
        let marked = self.mark(candidates);
        // What was needed in the meantime is known by now, and what will be cannot begin any more.
        let useless = marked.snapshots.iter().filter(|(id, side)| !needed(id, *side));
        let mut removed = Vec::new();
        for (id, side) in useless {
            format::remove(&self.directory, *side, *id)?;
            removed.push((*id, *side));
        }
        if !removed.is_empty() {
            disk::sync_directory(&self.directory)?;
        }
        Ok(removed)
    }

    /// Keeps those candidates that nobody has registered from being registered.
    fn mark(&self, mut candidates: BTreeSet<(SnapshotId, Side)>) -> Marked<'_> {
        let mut registry = self.registry();
        for (id, activity) in registry.active.values() {
            candidates.remove(&(*id, activity.side()));
        }
        // Another thread's.
        candidates.retain(|candidate| !registry.collecting.contains(candidate));
        registry.collecting.extend(&candidates);
        Marked { manager: self, snapshots: candidates }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().expect("nothing panics while it holds this lock")
    }
}

impl Registry {
    fn count(&self, activity: Activity) -> usize {
        self.active.values().filter(|(_, active)| *active == activity).count()
    }
}

/// Snapshots that cannot be registered while this is held.
struct Marked<'a> {
    manager: &'a Manager,
    snapshots: BTreeSet<(SnapshotId, Side)>,
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        let mut registry = self.manager.registry();
        registry.collecting.retain(|marked| !self.snapshots.contains(marked));
    }
}

/// An activity that goes on. Ends when it is dropped.
#[derive(Debug)]
pub struct Registration {
    manager: Arc<Manager>,
    ticket: u64,
    id: SnapshotId,
    activity: Activity,
}

impl Registration {
    /// The snapshot.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// What is done with it.
    pub fn activity(&self) -> Activity {
        self.activity
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.manager.registry().active.remove(&self.ticket);
    }
}
