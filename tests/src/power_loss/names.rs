//! Names of files before and after a power cut: the journal that `shim.c` writes, and what of it survives.
//!
//! A change of a name is durable once its directory was synced afterwards. Of the other changes some
//! number of the oldest survives: file systems with a journal keep their order, and none keep more.
//!
//! Directories are known by their inode numbers, so renaming one takes along what is in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The number by which a file system knows a file or a directory.
pub(super) type Inode = u64;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    File(Inode),
    Directory(Inode),
}

/// Every name, by the directory it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    nodes: BTreeMap<(Inode, String), Node>,
}

impl Names {
    /// The names below `root` as they are, and its directories, open.
    pub(super) fn scan(root: &Path) -> (Names, Vec<File>) {
        let (mut names, mut open) = (Names::default(), Vec::new());
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let parent = fs::metadata(&folder).expect("a directory").ino();
            open.push(File::open(&folder).expect("a directory opens"));
            for entry in fs::read_dir(&folder).expect("a directory is listed") {
                let entry = entry.expect("an entry");
                let status = entry.metadata().expect("its status");
                let node = match status.is_dir() {
                    true => Node::Directory(status.ino()),
                    false => Node::File(status.ino()),
                };
                if status.is_dir() {
                    folders.push(entry.path());
                }
                let name = entry.file_name().into_string().expect("names are UTF-8");
                names.nodes.insert((parent, name), node);
            }
        }
        (names, open)
    }

    /// Everything that can be reached from `root`, parents before children.
    pub(super) fn paths(&self, root: Inode) -> BTreeMap<PathBuf, Node> {
        let mut paths = BTreeMap::new();
        let mut folders = vec![(root, PathBuf::new())];
        while let Some((folder, path)) = folders.pop() {
            let inside = self.nodes.range((folder, String::new())..);
            for ((_, name), node) in inside.take_while(|((parent, _), _)| *parent == folder) {
                let path = path.join(name);
                if let Node::Directory(inode) = node {
                    folders.push((*inode, path.clone()));
                }
                paths.insert(path, *node);
            }
        }
        paths
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Add { folder, name, node } => {
                self.nodes.insert((*folder, name.clone()), *node);
            }
            Change::Remove { folder, name } => {
                self.nodes.remove(&(*folder, name.clone()));
            }
            Change::Rename { from, to, node } => {
                let node = node.or_else(|| self.nodes.get(from).copied());
                if self.nodes.get(from).copied() == node {
                    self.nodes.remove(from);
                }
                self.nodes.extend(node.map(|node| (to.clone(), node)));
            }
        }
    }
}

/// One change of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Add {
        folder: Inode,
        name: String,
        node: Node,
    },
    Remove {
        folder: Inode,
        name: String,
    },
    Rename {
        from: (Inode, String),
        to: (Inode, String),
        /// What was renamed; known once all changes before it are.
        node: Option<Node>,
    },
}

impl Change {
    fn is_in(&self, directory: Inode) -> bool {
        match self {
            Change::Add { folder, .. } | Change::Remove { folder, .. } => *folder == directory,
            // A file system does not tear a renaming apart: either directory brings both ends along.
            Change::Rename { from, to, .. } => from.0 == directory || to.0 == directory,
        }
    }
}

/// What happened to names, in order.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Each change, and whether its directory was synced afterwards.
    changes: Vec<(Change, bool)>,
}

impl Journal {
    /// Reads the lines that the library wrote. The last one may be incomplete: it was written while the
    /// process died, and so before anything could be synced after it.
    pub(super) fn read(bytes: &[u8]) -> Journal {
        let mut journal = Journal::default();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = std::str::from_utf8(&bytes[..whole]).expect("names are UTF-8");
        for line in text.lines() {
            journal.read_line(line).unwrap_or_else(|| panic!("not a line of a journal: {line:?}"));
        }
        journal
    }

    fn read_line(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split('\t').collect();
        let inode = |word: &str| word.parse::<Inode>().ok();
        let change = match words[..] {
            ["create" | "link", folder, node, name] => {
                let node = Node::File(inode(node)?);
                Change::Add { folder: inode(folder)?, name: name.to_string(), node }
            }
            ["mkdir", folder, node, name] => {
                let node = Node::Directory(inode(node)?);
                Change::Add { folder: inode(folder)?, name: name.to_string(), node }
            }
            ["remove", folder, name] => {
                Change::Remove { folder: inode(folder)?, name: name.to_string() }
            }
            ["rename", from, to, old, new] => Change::Rename {
                from: (inode(from)?, old.to_string()),
                to: (inode(to)?, new.to_string()),
                node: None,
            },
            ["sync", directory] => {
                let directory = inode(directory)?;
                for (change, synced) in &mut self.changes {
                    *synced |= change.is_in(directory);
                }
                return Some(());
            }
            _ => return None,
        };
        self.changes.push((change, false));
        Some(())
    }

    /// How many changes were not synced.
    pub(super) fn pending(&self) -> usize {
        self.changes.iter().filter(|(_, synced)| !synced).count()
    }

    /// The names after what was synced, and after the oldest `survivors` of what was not.
    pub(super) fn replay(&self, before: Names, survivors: usize) -> Names {
        let (mut everything, mut after, mut left) = (before.clone(), before, survivors);
        for (change, synced) in &self.changes {
            let mut change = change.clone();
            if let Change::Rename { from, node, .. } = &mut change {
                *node = everything.nodes.get(from).copied();
            }
            everything.apply(&change);
            if *synced {
                after.apply(&change);
            } else if left > 0 {
                left -= 1;
                after.apply(&change);
            }
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directory 1 is the root; it holds directory 2 and the file `old`.
    fn before() -> Names {
        let mut names = Names::default();
        names.nodes.insert((1, "folder".into()), Node::Directory(2));
        names.nodes.insert((1, "old".into()), Node::File(10));
        names
    }

    fn after(journal: &str, survivors: usize) -> Vec<String> {
        let journal = Journal::read(journal.replace(' ', "\t").as_bytes());
        let paths = journal.replay(before(), survivors).paths(1);
        let text = |(path, node): (PathBuf, Node)| match node {
            Node::File(inode) => format!("{}={inode}", path.display()),
            Node::Directory(_) => path.display().to_string(),
        };
        paths.into_iter().map(text).collect()
    }

    #[test]
    fn a_new_name_survives_if_its_own_directory_was_synced_behind_it() {
        let created = "create 2 11 new\n";
        assert_eq!(after(created, 0), ["folder", "old=10"]);
        assert_eq!(after(created, 1), ["folder", "folder/new=11", "old=10"]);
        assert_eq!(after(&format!("{created}sync 1\n"), 0), ["folder", "old=10"]);
        assert_eq!(after(&format!("sync 2\n{created}"), 0), ["folder", "old=10"]);
        assert_eq!(after(&format!("{created}sync 2\n"), 0), ["folder", "folder/new=11", "old=10"]);
    }

    #[test]
    fn a_replaced_file_is_the_old_or_the_new_one() {
        let replaced = "create 1 11 old.tmp\nrename 1 1 old.tmp old\n";
        assert_eq!(after(replaced, 0), ["folder", "old=10"]);
        assert_eq!(after(replaced, 1), ["folder", "old=10", "old.tmp=11"]);
        assert_eq!(after(replaced, 2), ["folder", "old=11"]);
        assert_eq!(after(&format!("{replaced}sync 1\n"), 0), ["folder", "old=11"]);
    }

    #[test]
    fn what_is_in_a_directory_goes_where_it_goes() {
        let moved = "mkdir 1 3 made\ncreate 3 11 a\nsync 3\nrename 1 1 made kept\n";
        assert_eq!(after(moved, 0), ["folder", "old=10"]);
        assert_eq!(after(moved, 1), ["folder", "made", "made/a=11", "old=10"]);
        assert_eq!(after(moved, 2), ["folder", "kept", "kept/a=11", "old=10"]);
    }

    #[test]
    fn a_removed_name_comes_back_unless_that_was_synced() {
        assert_eq!(after("remove 1 old\n", 0), ["folder", "old=10"]);
        assert_eq!(after("remove 1 old\nsync 1\n", 0), ["folder"]);
    }

    #[test]
    fn a_renaming_whose_source_was_lost_still_brings_the_file() {
        // The new name's directory was synced, the old one's never.
        let moved = "create 1 11 a\nrename 1 2 a b\nsync 2\n";
        assert_eq!(after(moved, 0), ["folder", "folder/b=11", "old=10"]);
    }

    #[test]
    fn an_incomplete_last_line_is_left_out() {
        assert_eq!(after("remove 1 old\nsync 1\ncreate 2 11", 9), ["folder"]);
    }
}
