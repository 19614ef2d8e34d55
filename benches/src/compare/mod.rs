//! `make bench-compare`: Skerry beside its peers on this machine, in one run.
//!
//! 1. A machine that others use is refused ([`machine`]): what it says is worth nothing.
//! 2. Rounds: in each, every job of the [`plan`] runs once, ours and the peers' in turn, on servers of its own that it
//!    starts and ends. Before and after a round the references are taken: what disk and RocksDB do without anybody
//!    ([`references`]). A round whose references differ too much is not counted.
//! 3. Then what needs no rounds: sweeps for the pictures, and the scenarios, which have trials of their own.
//! 4. All of it goes to a file ([`results`]), after each step. While it is not whole its name ends in `.partial`, so
//!    that it never takes the place of a whole one. The page is made of whole ones ([`crate::page`]).
//!
//! The load itself is `skerry bench`, for ours and for peers; this only calls it. An interrupt is passed on to the call
//! that is under way, which stops its servers, and loses only that call: the round it belongs to ends with its
//! references, and what was found is kept. If this process is killed, each call ends with it (`skerry guarded`).

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use skerry_raftstore::time::{Clock, SystemClock};
use skerry_tests::wait::let_pass;

use self::plan::Job;
use self::references::References;
use self::results::{Measurement, Results, Round, Sample, Scenario, Sweep};

pub mod machine;
pub mod plan;
pub mod references;
pub mod results;

/// What can go wrong: a sentence for whoever started it.
pub type Result<T> = std::result::Result<T, String>;

/// Between two looks at whether a call has ended.
const PAUSE: Duration = Duration::from_millis(10);
/// How long an interrupted call may take to stop its servers; then it is killed, and they with it.
const STOP_TIME_MAX: Duration = Duration::from_secs(20);

/// How it is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary `skerry`.
    pub skerry: PathBuf,
    /// Where servers and references keep their data.
    pub scratch: PathBuf,
    /// Where results go.
    pub results: PathBuf,
    /// How often each job is run.
    pub rounds: usize,
    /// Seconds of each workload.
    pub seconds: u32,
    /// Measure on a busy machine, too, and say so in the results.
    pub is_forced: bool,
    /// Only jobs and scenarios whose name contains one of these; all, if there are none.
    pub only: Vec<String>,
    /// Set when whoever started it has seen enough.
    pub is_interrupted: Arc<AtomicBool>,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    fn is_interrupted(&self) -> bool {
        self.is_interrupted.load(Ordering::Relaxed)
    }

    fn go_on(&self) -> Result<()> {
        if self.is_interrupted() { Err("interrupted".to_string()) } else { Ok(()) }
    }

    /// Where results lie that are not whole.
    fn partial(&self) -> PathBuf {
        let mut path = self.results.clone().into_os_string();
        path.push(".partial");
        path.into()
    }
}

/// Runs everything. Answers the results, which are in the file, too.
pub fn run(options: &Options) -> Result<Results> {
    let clock = SystemClock;
    let began = clock.monotonic();
    let mut results = Results::begin(machine::describe(&options.skerry)?);
    let looks = if options.is_forced { 1 } else { machine::LOOKS };
    if let Err(reason) = machine::wait_until_quiet(&options.scratch, looks) {
        if !options.is_forced {
            return Err(format!("{reason}; --force measures all the same and marks the results"));
        }
        results.doubts.push(reason);
    }
    let ended = steps(options, &mut results);
    results.minutes = ((clock.monotonic() - began).as_secs_f64() / 6.0).round() / 10.0;
    results.is_complete = ended.is_ok();
    let partial = options.partial();
    results.save(&partial)?;
    ended.map_err(|reason| format!("{reason}; what was found is in {}", partial.display()))?;
    std::fs::rename(&partial, &options.results)
        .map_err(|error| format!("{}: {error}", options.results.display()))?;
    Ok(results)
}

/// Everything, as far as it gets.
fn steps(options: &Options, results: &mut Results) -> Result<()> {
    let mut absent = Vec::new();
    for number in 1..=options.rounds {
        say(&format!("round {number} of {}", options.rounds));
        round(options, results, &mut absent)?;
        results.save(&options.partial())?;
    }
    doubt(results, options)?;
    sweeps(options, results, &absent)?;
    results.save(&options.partial())?;
    scenarios(options, results, &absent)
}

/// Every job once, between two looks at the references.
fn round(options: &Options, results: &mut Results, absent: &mut Vec<String>) -> Result<()> {
    let before = References::take(&options.scratch)?;
    let mut samples = Vec::new();
    for job in plan::jobs().iter().filter(|job| options.wants(job.name)) {
        if options.is_interrupted() {
            break;
        }
        if absent.iter().any(|system| system == job.system) {
            continue;
        }
        match load(options, job, &[]) {
            Ok(found) => samples.extend(found.into_iter().map(|sample| (job, sample))),
            // That is no failure of the job.
            Err(_) if options.is_interrupted() => {}
            Err(reason) => note_failure(results, absent, job, &reason),
        }
    }
    let after = References::take(&options.scratch)?;
    let round = Round { before, after };
    let is_counted = round.is_steady();
    if !is_counted {
        say(&format!("this round does not count: {}", round.difference()));
    }
    for (job, sample) in samples {
        results.add(job.name, job.system, sample, is_counted);
    }
    results.rounds.push(round);
    options.go_on()
}

/// A peer that is not installed is left out from then on; everything else is told and tried again.
fn note_failure(results: &mut Results, absent: &mut Vec<String>, job: &Job, reason: &str) {
    say(&format!("{} on {}: {reason}", job.name, job.system));
    let line = format!("{} on {}: {reason}", job.name, job.system);
    if !results.failures.contains(&line) {
        results.failures.push(line);
    }
    if reason.contains("apt-get install") {
        absent.push(job.system.to_string());
    }
}

/// Refuses, or marks, results of which most are worth nothing.
fn doubt(results: &mut Results, options: &Options) -> Result<()> {
    let steady = results.rounds.iter().filter(|round| round.is_steady()).count();
    if 2 * steady > results.rounds.len() {
        return Ok(());
    }
    let reason = format!(
        "in {} of {} rounds the references before and after differ by more than {:.0}%",
        results.rounds.len() - steady,
        results.rounds.len(),
        100.0 * results::STEADY_MAX
    );
    if !options.is_forced {
        return Err(format!("{reason}: the machine is not quiet, there is nothing to report"));
    }
    results.doubts.push(reason);
    // They are all there is.
    results.measurements.iter_mut().for_each(Measurement::count_all);
    Ok(())
}

fn sweeps(options: &Options, results: &mut Results, absent: &[String]) -> Result<()> {
    for (name, job, flag, values) in plan::sweeps() {
        if !options.wants(name) || absent.iter().any(|system| system == job.system) {
            continue;
        }
        let mut points = Vec::new();
        for value in values {
            if options.is_interrupted() {
                break;
            }
            let text = value.to_string();
            match load(options, &job, &[flag, &text]) {
                Ok(mut found) if !found.is_empty() => points.push((*value as f64, found.remove(0))),
                Ok(_) => {}
                Err(_) if options.is_interrupted() => {}
                Err(reason) => say(&format!("{name} at {value} on {}: {reason}", job.system)),
            }
        }
        let system = job.system.to_string();
        results.sweeps.push(Sweep { name: name.to_string(), system, points });
        options.go_on()?;
    }
    Ok(())
}

fn scenarios(options: &Options, results: &mut Results, absent: &[String]) -> Result<()> {
    for job in plan::scenarios() {
        if !options.wants(job.name) || absent.iter().any(|system| system == job.system) {
            continue;
        }
        options.go_on()?;
        let words = [&["scenario"], job.words].concat();
        let found = called(options, &job, &words).and_then(|found| {
            serde_json::from_value::<Scenario>(found).map_err(|error| error.to_string())
        });
        match found {
            Ok(scenario) => results.scenarios.push(scenario),
            Err(_) if options.is_interrupted() => {}
            Err(reason) => {
                say(&format!("{} on {}: {reason}", job.name, job.system));
                results.failures.push(format!("{} on {}: {reason}", job.name, job.system));
            }
        }
        results.save(&options.partial())?;
    }
    options.go_on()
}

/// Runs the workloads of a job.
fn load(options: &Options, job: &Job, more: &[&str]) -> Result<Vec<Sample>> {
    let seconds = options.seconds.to_string();
    let words = [job.words, more, &["--warm-up", "1", "--seconds", &seconds]].concat();
    let mut found = called(options, job, &words)?;
    serde_json::from_value(found["results"].take()).map_err(|error| error.to_string())
}

/// Calls `skerry bench` and answers the JSON that it prints.
fn called(options: &Options, job: &Job, words: &[&str]) -> Result<Value> {
    say(&format!("{} on {}", job.name, job.system));
    let failed = |error: std::io::Error| format!("{}: {error}", options.skerry.display());
    // Files, not pipes: nobody empties a pipe while its end is waited for.
    let file = || tempfile::tempfile_in(&options.scratch).map_err(failed);
    let (mut stdout, mut stderr) = (file()?, file()?);
    let mut child = Command::new(&options.skerry)
        .arg("guarded")
        .arg(std::process::id().to_string())
        .arg("--")
        .arg(&options.skerry)
        .arg("bench")
        .args(words)
        .args(["--target", job.system, "--json", "--scratch"])
        .arg(&options.scratch)
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().map_err(failed)?)
        .stderr(stderr.try_clone().map_err(failed)?)
        .spawn()
        .map_err(failed)?;
    let status = end_of(&mut child, options).map_err(failed)?;
    if !status.success() {
        let heard = said(&mut stderr).map_err(failed)?;
        let complaint = heard.lines().rev().find_map(|line| line.strip_prefix("skerry: "));
        let last = heard.lines().last().unwrap_or("it said nothing");
        return Err(complaint.unwrap_or(last).to_string());
    }
    let found = said(&mut stdout).map_err(failed)?;
    serde_json::from_str(&found).map_err(|error| format!("its output: {error}"))
}

fn said(file: &mut File) -> std::io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Waits until a call ends. If we are interrupted, so is it: who asks a process by its number asks only us.
fn end_of(child: &mut Child, options: &Options) -> std::io::Result<ExitStatus> {
    let clock = SystemClock;
    let mut asked = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        match asked {
            None if options.is_interrupted() => {
                let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                kill_process(id.expect("a child has a positive number"), Signal::INT)?;
                asked = Some(clock.monotonic());
            }
            Some(asked) if clock.monotonic() - asked > STOP_TIME_MAX => child.kill()?,
            _ => {}
        }
        let_pass(PAUSE);
    }
}

/// Tells whoever waits.
fn say(line: &str) {
    eprintln!("bench-compare: {line}");
}

/// The newest results in a directory, if there are any.
pub fn newest(directory: &Path) -> Result<Option<Results>> {
    let listed = std::fs::read_dir(directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?;
    let paths = listed.filter_map(|entry| Some(entry.ok()?.path()));
    let is_one = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("compare-") && name.ends_with(".json")
    };
    // Their names are dates.
    paths.filter(is_one).max().map(|path| Results::load(&path)).transpose()
}
