//! The rules of the house that a machine can check: layers, sizes, headers, paths in documents.
//!
//! Each rule is one test that names every place where it is broken. `docs/style.md` says why the rules
//! are there; change the rule and its sentence together, never a single exception.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a file, without its tests, beyond which a second concept must be hiding in it.
const FILE_LINES_MAX: usize = 700;
/// Lines of a function that still fit on a screen.
const FUNCTION_LINES_MAX: usize = 70;
/// Columns of a line of code (rustfmt keeps code below; this catches comments and strings).
const COLUMNS_MAX: usize = 120;

/// A tracked or new file of the repository, relative to its root, with its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        ["tests/", "benches/"].iter().any(|folder| self.path.starts_with(folder))
            || self.path.contains("/tests/")
            || self.path.ends_with("tests.rs")
    }

    /// The text before the first unit test.
    fn code(&self) -> &str {
        match self.text.find("\n#[cfg(test)]\nmod ") {
            Some(end) if !self.is_test() => &self.text[..end],
            _ => &self.text,
        }
    }

    /// Code without comment lines, for rules about what is named.
    fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code().lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_path_buf()
}

/// Every file that git tracks or would track.
fn files(ending: &str) -> Vec<Source> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files");
    let listed = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let mut sources = Vec::new();
    for path in listed.lines().filter(|path| path.ends_with(ending)) {
        // A file deleted but not yet committed is listed and not there.
        if let Ok(text) = fs::read_to_string(root().join(path)) {
            sources.push(Source { path: path.to_string(), text });
        }
    }
    assert!(!sources.is_empty(), "no {ending} file was found: is this a git checkout?");
    sources
}

fn rust_files() -> Vec<Source> {
    files(".rs")
}

/// Fails with all `broken` places at once.
fn hold(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn every_file_says_what_it_is() {
    let without = rust_files().into_iter().filter(|file| !file.text.starts_with("//!"));
    hold("a Rust file starts with a //! header", without.map(|file| file.path).collect());
}

#[test]
fn files_hold_one_concept() {
    let mut broken = Vec::new();
    for file in rust_files() {
        let lines = file.code().lines().count();
        if lines > FILE_LINES_MAX {
            broken.push(format!("{} has {lines} lines", file.path));
        }
    }
    hold(&format!("a file has at most {FILE_LINES_MAX} lines without its tests"), broken);
}

#[test]
fn functions_fit_on_a_screen() {
    let mut broken = Vec::new();
    for file in rust_files() {
        for (line, name, length) in functions(&file.text) {
            if length > FUNCTION_LINES_MAX {
                broken.push(format!("{}:{line} {name} has {length} lines", file.path));
            }
        }
    }
    hold(&format!("a function has at most {FUNCTION_LINES_MAX} lines"), broken);
}

/// (line, name, length) of each function: from its `fn` to the closing brace at the same indent, which is
/// where rustfmt puts it.
fn functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(name) = function_name(line) else { continue };
        if line.trim_end().ends_with(';') || line.trim_end().ends_with('}') {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        let end = lines[index..].iter().position(|later| **later == close);
        found.push((index + 1, name.to_string(), end.map_or(1, |length| length + 1)));
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let code = line.trim_start();
    if code.starts_with("//") {
        return None;
    }
    let (before, after) = code.split_once("fn ")?;
    let words = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
    let only_words = before.split_whitespace().all(|word| words.contains(&word));
    only_words.then(|| after.split(['(', '<']).next().unwrap_or(after))
}

#[test]
fn lines_are_readable() {
    let mut broken = Vec::new();
    for file in rust_files() {
        for (index, line) in file.text.lines().enumerate() {
            // A string that must stay whole (a golden sentence, an address) may be longer.
            if line.chars().count() > COLUMNS_MAX && !line.contains('"') {
                broken.push(format!("{}:{}", file.path, index + 1));
            }
        }
    }
    hold(&format!("a line has at most {COLUMNS_MAX} columns"), broken);
}

#[test]
fn nothing_is_left_for_later_in_code() {
    // Split so that this file does not find itself.
    let words =
        [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("dbg", "!("), concat!("XX", "X")];
    let mut broken = Vec::new();
    for file in rust_files() {
        for (index, line) in file.text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                broken.push(format!("{}:{}", file.path, index + 1));
            }
        }
    }
    hold("what is not built is in README's \"not yet\", not in a comment", broken);
}

#[test]
fn every_file_is_reached_by_a_mod() {
    let files = rust_files();
    let mut broken = Vec::new();
    for file in &files {
        let path = Path::new(&file.path);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a file has a name");
        let folder = path.parent().expect("a file has a folder");
        let is_root = ["lib", "main", "build"].contains(&stem)
            || folder.ends_with("tests") && folder.components().count() == 2
            || folder.ends_with("benches") && folder.components().count() == 2
            || folder.ends_with("examples")
            || folder.ends_with("bin");
        if is_root {
            continue;
        }
        // a/b.rs is declared in a/mod.rs, a.rs, a/lib.rs or a/main.rs; a/b/mod.rs one folder higher.
        let (name, home) = if stem == "mod" {
            let name =
                folder.file_name().and_then(|name| name.to_str()).expect("mod.rs has a folder");
            (name, folder.parent().expect("a module folder has a parent"))
        } else {
            (stem, folder)
        };
        let declared = files.iter().any(|other| {
            let other_path = Path::new(&other.path);
            let in_home =
                other_path.parent() == Some(home) || other_path == home.with_extension("rs");
            in_home && other.text.contains(&format!("mod {name};"))
        });
        if !declared {
            broken.push(file.path.clone());
        }
    }
    hold("every Rust file belongs to a crate", broken);
}

/// Folders that may speak to the network.
const EDGE: [&str; 8] = [
    "kv/src/server/",
    "kv/src/net/",
    "kv/src/cli/",
    "kv/src/main.rs",
    "scheduler/src/server",
    "scheduler/src/api",
    "tests/",
    "benches/",
];

#[test]
fn only_the_edge_knows_the_wire() {
    let mut broken = Vec::new();
    for file in rust_files() {
        if EDGE.iter().any(|edge| file.path.starts_with(edge)) || file.path.contains("/tests/") {
            continue;
        }
        for (line, text) in file.statements() {
            for library in ["tokio", "tonic", "axum", "tower", "hyper"] {
                if text.contains(&format!("{library}::")) {
                    // The generated code of proto, and the assembly that hands listeners and queues over.
                    let assembles = ["kv/src/node", "kv/src/embedded"]
                        .iter()
                        .any(|path| file.path.starts_with(path));
                    if file.path == "proto/build.rs" || assembles {
                        continue;
                    }
                    broken.push(format!("{}:{line} names {library}", file.path));
                }
            }
        }
    }
    hold("tokio, tonic and axum stay at the edge", broken);
}

#[test]
fn dependencies_point_down() {
    // (folder, what its code may not name)
    let rules: [(&str, &[&str]); 4] = [
        ("proto/src/", &["skerry_raftstore", "skerry_scheduler", "skerry_kv"]),
        ("raftstore/src/", &["skerry_scheduler", "skerry_kv"]),
        ("scheduler/src/", &["skerry_kv"]),
        ("kv/src/", &["skerry_scheduler"]),
    ];
    // The parts of kv that start a scheduler or read its configuration (docs/architecture.md).
    let may_name_scheduler =
        ["kv/src/cli/", "kv/src/main.rs", "kv/src/node", "kv/src/embedded", "kv/src/config"];
    let mut broken = Vec::new();
    for file in rust_files() {
        for (folder, forbidden) in rules {
            if !file.path.starts_with(folder) {
                continue;
            }
            let excused = may_name_scheduler.iter().any(|path| file.path.starts_with(path));
            for (line, text) in file.statements() {
                let named = forbidden.iter().find(|name| text.contains(&format!("{name}::")));
                if let Some(name) = named.filter(|_| !excused) {
                    broken.push(format!("{}:{line} names {name}", file.path));
                }
            }
        }
    }
    hold("proto <- raftstore <- scheduler, raftstore <- kv", broken);
}

#[test]
fn modules_inside_a_crate_keep_their_layers() {
    // (folder or file, modules of the same crate that it may not name)
    let rules: [(&str, &[&str]); 6] = [
        ("raftstore/src/keys.rs", &["crate::engine", "crate::config"]),
        ("raftstore/src/time.rs", &["crate::engine", "crate::config", "crate::keys"]),
        ("kv/src/storage/", &["crate::raw", "crate::server", "crate::net", "crate::node"]),
        ("kv/src/raw/", &["crate::server", "crate::net", "crate::node", "storage::local"]),
        ("scheduler/src/cluster", &["crate::server", "crate::api"]),
        ("scheduler/src/tso", &["crate::server", "crate::api", "crate::cluster"]),
    ];
    let mut broken = Vec::new();
    for file in rust_files() {
        let of_file = rules.iter().filter(|(folder, _)| file.path.starts_with(folder));
        for (_, forbidden) in of_file.filter(|_| !file.is_test()) {
            for (line, text) in file.statements() {
                if let Some(name) = forbidden.iter().find(|name| text.contains(*name)) {
                    broken.push(format!("{}:{line} names {name}", file.path));
                }
            }
        }
    }
    hold("layers inside a crate (docs/architecture.md)", broken);
}

#[test]
fn documents_name_only_what_exists() {
    let mut broken = Vec::new();
    for document in files(".md") {
        for (index, line) in document.text.lines().enumerate() {
            for name in line.split('`').skip(1).step_by(2) {
                if looks_like_a_path(name) && !root().join(name.trim_end_matches('/')).exists() {
                    broken.push(format!("{}:{} `{name}`", document.path, index + 1));
                }
            }
        }
        let titles =
            outside_code_blocks(&document.text).filter(|line| line.starts_with("# ")).count();
        if titles != 1 {
            broken.push(format!("{} has {titles} titles", document.path));
        }
    }
    hold("a path in backticks in a document exists, and a document has one title", broken);
}

/// Paths from the root of the repository, as documents write them: they begin with one of its folders.
fn looks_like_a_path(name: &str) -> bool {
    let folders =
        ["kv/", "raftstore/", "scheduler/", "proto/", "tests/", "benches/", "docs/", ".ci/"];
    folders.iter().any(|folder| name.starts_with(folder))
        && !name
            .contains(|character: char| character.is_whitespace() || "*{}<>".contains(character))
}

fn outside_code_blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        if line.starts_with("```") {
            inside = !inside;
        }
        !inside
    })
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for document in files(".md") {
        let folder = root().join(&document.path);
        let folder = folder.parent().expect("a document lies in a folder");
        for (index, line) in document.text.lines().enumerate() {
            for rest in line.split("](").skip(1) {
                let target = rest.split([')', '#']).next().unwrap_or_default();
                if target.is_empty() || target.contains("://") {
                    continue;
                }
                if !folder.join(target).exists() {
                    broken.push(format!("{}:{} ({target})", document.path, index + 1));
                }
            }
        }
    }
    hold("a link in a document leads to a file", broken);
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest =
        fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let reasons = fs::read_to_string(root().join("docs/decisions/dependencies.md"))
        .expect("docs/decisions/dependencies.md lists dependencies");
    let table = manifest.split("[workspace.dependencies]").nth(1).expect("the table is there");
    let table = table.split("\n[").next().expect("a table ends");
    let names: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name))
        .filter(|name| !name.starts_with("skerry-") && !name.starts_with('#'))
        .collect();
    assert!(names.len() > 10, "the table of dependencies was not understood: {names:?}");
    let missing = names.iter().filter(|name| !reasons.contains(&format!("| `{name}` |")));
    hold(
        "each dependency has a line in docs/decisions/dependencies.md",
        missing.map(|name| name.to_string()).collect(),
    );

    let unused = names.iter().filter(|name| {
        !files("Cargo.toml").iter().any(|file| {
            file.path != "Cargo.toml"
                && [format!("{name}.workspace"), format!("{name} = {{ workspace")]
                    .iter()
                    .any(|use_| file.text.contains(use_))
        })
    });
    hold(
        "each dependency of the workspace is used by a member",
        unused.map(|name| name.to_string()).collect(),
    );
}

#[test]
fn every_golden_script_is_reached_by_a_test() {
    let sources = rust_files();
    let listed: Vec<Source> = files("");
    let mut broken = Vec::new();
    for script in listed.iter().filter(|file| file.path.contains("/scripts/")) {
        let folder = Path::new(&script.path).parent().expect("a script lies in a folder");
        let folder = folder.to_str().expect("paths are UTF-8");
        // Tests name the folder from the root of their crate.
        let from_crate = folder.split_once('/').map_or(folder, |(_, rest)| rest);
        if !sources.iter().any(|source| source.text.contains(from_crate)) {
            broken.push(script.path.clone());
        }
    }
    hold("a golden script is run by a test", broken);
}

#[test]
fn the_rules_themselves_can_fail() {
    let long = format!("fn story() {{\n{}}}\n", "    work();\n".repeat(FUNCTION_LINES_MAX));
    assert_eq!(functions(&long), vec![(1, "story".to_string(), FUNCTION_LINES_MAX + 2)]);
    assert_eq!(function_name("    pub(crate) async fn go<T>("), Some("go"));
    assert_eq!(function_name("    // a comment about fn go("), None);
    assert!(looks_like_a_path("kv/src/nowhere.rs") && !looks_like_a_path("kv/src/{a,b}"));
    assert_eq!(
        outside_code_blocks("a\n```\n# b\n```\n").filter(|line| line.starts_with("# ")).count(),
        0
    );
}
