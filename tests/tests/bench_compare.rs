//! `make bench-compare` with one small job: what it finds is kept, whole or in part, and nothing is left running.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use skerry_tests::process::{Ground, built};
use skerry_tests::wait;

/// How long even a busy machine takes for a round of one job.
const RUN_TIME_MAX: Duration = Duration::from_secs(180);

/// A run under way. Dropping it kills it, and with it what it has started.
struct Run {
    child: Child,
    home: PathBuf,
}

/// How a run ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    /// The jobs whose name contains `only`, with one short round, on a machine that may be busy.
    fn start(ground: &Ground, only: &str) -> Run {
        std::fs::create_dir(ground.path("scratch")).expect("a directory");
        Run::call(ground, |command| {
            command.args(["--force", "--rounds", "1", "--seconds", "1", "--only", only]);
            command.arg("--results").arg(ground.path("compare-test.json"));
            command.arg("--scratch").arg(ground.path("scratch"));
        })
    }

    fn call(ground: &Ground, with: impl Fn(&mut Command)) -> Run {
        let home = ground.path("");
        let file = |name: &str| File::create(home.join(name)).expect("a file");
        let mut command = Command::new(built("bench-compare"));
        with(command.arg("run"));
        // It is run in the root of a checkout.
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the root"));
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        Run { child: command.spawn().expect("it can be executed"), home }
    }

    fn said(&self, stream: &str) -> String {
        std::fs::read_to_string(self.home.join(stream)).expect("it was made above")
    }

    /// Waits until it says this on stderr.
    fn until(mut self, words: &str) -> Run {
        wait::until("it says what is waited for", || {
            let heard = self.said("stderr");
            let is_over = self.child.try_wait().expect("a child can be asked").is_some();
            assert!(!is_over || heard.contains(words), "it ended and said: {heard}");
            heard.contains(words).then_some(())
        });
        self
    }

    /// A signal to it alone, as a script sends it.
    fn interrupt(&self) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a positive number"), Signal::INT).expect("it runs");
    }

    fn end(mut self) -> Ended {
        let status = wait::poll(RUN_TIME_MAX, || self.child.try_wait().expect("it can be asked"));
        let status = status.unwrap_or_else(|| panic!("it does not end: {}", self.said("stderr")));
        Ended { code: status.code(), stdout: self.said("stdout"), stderr: self.said("stderr") }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Most have ended by themselves; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).expect("JSON")
}

/// Systems and workloads that were measured.
fn measured(results: &Value) -> Vec<(&str, &str)> {
    let all = results["measurements"].as_array().expect("a list").iter();
    let named = all.map(|it| (it["system"].as_str(), it["workload"].as_str()));
    named.map(|(system, workload)| (system.expect("one"), workload.expect("one"))).collect()
}

/// Command lines of processes that keep data on this ground.
fn left_running(ground: &Ground) -> Vec<String> {
    let scratch = ground.path("scratch");
    let place = scratch.to_str().expect("text").as_bytes();
    let processes = std::fs::read_dir("/proc").expect("there are processes").flatten();
    let lines = processes.filter_map(|it| std::fs::read(it.path().join("cmdline")).ok());
    let here = lines.filter(|line| line.windows(place.len()).any(|part| part == place));
    here.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}

#[test]
fn a_whole_run_is_kept_and_told() {
    let ground = Ground::new();
    let ended = Run::start(&ground, "puts of one replica").end();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let found = read(&ground.path("compare-test.json"));
    assert_eq!(found["is_complete"], true);
    assert!(measured(&found).contains(&("skerry", "put")), "{found}");
    let row = "| puts of one replica, 256 in flight | skerry | put |";
    assert!(ended.stdout.contains(row), "{ended:#?}");
    assert!(!ground.path("compare-test.json.partial").exists(), "it is whole");
    assert_eq!(left_running(&ground), [""; 0]);
}

#[test]
fn an_interrupt_in_the_middle_keeps_what_was_found_and_ends_what_was_started() {
    let ground = Ground::new();
    let run = Run::start(&ground, "in batches, 256 in flight");
    // The first job is done, the second has begun.
    let run = run.until("gets in batches, 256 in flight on skerry");
    run.interrupt();
    let ended = run.end();
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let last = ended.stderr.lines().last().expect("it says something");
    let partial = ground.path("compare-test.json.partial");
    assert!(last.starts_with("bench-compare: interrupted; what was found is in "), "{ended:#?}");
    assert!(last.ends_with(partial.to_str().expect("text")), "{last}");
    let found = read(&partial);
    assert_eq!(found["is_complete"], false);
    assert_eq!(measured(&found), [("skerry", "put")], "the first job, and not half of the second");
    assert_eq!(found["failures"], Value::Array(Vec::new()), "an interrupt is no failure");
    assert_eq!(found["rounds"].as_array().map(Vec::len), Some(1), "its references are there");
    assert!(!ground.path("compare-test.json").exists(), "it is not whole");
    assert_eq!(left_running(&ground), [""; 0]);
    let left = std::fs::read_dir(ground.path("scratch")).expect("it is there").count();
    assert_eq!(left, 0, "data is left in the scratch directory");
}

#[test]
fn a_part_of_a_run_must_say_where_its_results_go() {
    let ground = Ground::new();
    let ended = Run::call(&ground, |command| {
        command.args(["--only", "one client"]);
    })
    .end();
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("--results"), "{ended:#?}");
}

#[test]
fn a_place_where_a_sync_costs_nothing_is_refused() {
    let memory = Path::new("/dev/shm");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.contains(" /dev/shm tmpfs ")) {
        eprintln!("\nnot tested here: there is no file system in memory");
        return;
    }
    let ground = Ground::new();
    let ended = Run::call(&ground, |command| {
        command.args(["--only", "one client"]).arg("--scratch").arg(memory);
        command.arg("--results").arg(ground.path("compare-test.json"));
    })
    .end();
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("is in memory, not on a disk; --force"), "{ended:#?}");
    assert!(!ground.path("compare-test.json").exists(), "nothing was measured");
}
