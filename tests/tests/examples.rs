//! The example programs of `kv/examples`: each tells a story that it checks itself, and must come to its end.
//!
//! 1. `kvstore`, `node` and `embedded` are run as a reader would, without arguments.
//! 2. `node` is run as one node of its own, and spoken to.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use skerry_tests::process::{Ground, binary, free_port};

/// Examples lie beside the binary, in a folder of their own.
fn example(name: &str) -> PathBuf {
    let path = binary().with_file_name("examples").join(name);
    let hint = "run `cargo build --workspace --all-targets` first";
    assert!(path.exists(), "{} is missing: {hint}", path.display());
    path
}

/// What it has said, if it has ended well.
#[track_caller]
fn story_of(output: Output) -> String {
    assert!(output.status.success(), "{output:#?}");
    String::from_utf8(output.stdout).expect("stories are text")
}

#[track_caller]
fn assert_tells(story: &str, lines: &[&str]) {
    for line in lines {
        assert!(story.contains(line), "no {line:?} in:\n{story}");
    }
}

#[test]
fn the_replicated_map_tells_its_story() {
    let _ground = Ground::new();
    let output = Command::new(example("kvstore")).output().expect("it can be executed");
    let lines = [
        "is killed",
        "is back and has caught up by a snapshot",
        "all members are started again, and nothing is lost",
        "refuses a damaged log and says so on its error channel",
        "kvstore: every step was checked",
    ];
    assert_tells(&story_of(output), &lines);
}

#[test]
fn the_node_tells_its_story() {
    let _ground = Ground::new();
    let output = Command::new(example("node")).output().expect("it can be executed");
    let lines = [
        "three voters",
        "which led, is stopped",
        "is back and has caught up by a snapshot",
        "120 gets from each of nodes [1, 2, 3]",
        "node: every step was checked",
    ];
    assert_tells(&story_of(output), &lines);
}

#[test]
fn the_library_tells_its_story() {
    let ground = Ground::new();
    let output = Command::new(example("embedded")).output().expect("it can be executed");
    let lines = [
        "a second one is refused",
        "opened again: all pairs are as they were",
        "embedded: every step was checked",
    ];
    assert_tells(&story_of(output), &lines);

    // Twice as a file describes it: the second time it finds what the first one has left.
    let data = ground.path("data");
    let text = format!("mode: config\nserversNum: 1\npersistPath: {}\n", data.display());
    let file = ground.file("config.yaml", &text);
    let run = || Command::new(example("embedded")).arg(&file).output().expect("it can be executed");
    assert_tells(&story_of(run()), &["opened: 0 pairs", "embedded: every step was checked"]);
    let again = story_of(run());
    assert!(!again.contains("opened: 0 pairs"), "{again}");
}

#[test]
fn a_node_of_its_own_takes_puts_and_gets_and_remembers() {
    let ground = Ground::new();
    let address = format!("127.0.0.1:{}", free_port());
    let say = |lines: &str| {
        let mut node = Command::new(example("node"))
            .args(["--id", "1", "--address", &address, "--data-dir"])
            .arg(ground.path("node-1"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it can be executed");
        // Closing its input stops it.
        let mut input = node.stdin.take().expect("stdin was asked for as a pipe");
        input.write_all(lines.as_bytes()).expect("it reads");
        drop(input);
        story_of(node.wait_with_output().expect("a child can be waited for"))
    };
    let story = say("put apple red\nget apple\nget pear\nwhat\n");
    assert_tells(&story, &["Done(None)", "Done(Some(\"red\"))", "put KEY VALUE, or get KEY"]);
    assert_tells(&say("get apple\n"), &["Done(Some(\"red\"))"]);
}
