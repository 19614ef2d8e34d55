//! The command behind `make bench-compare` and `make bench-page`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand};
use skerry_benches::compare::{Options, Result, machine, run};
use skerry_benches::page;
use skerry_raftstore::time::spawn;
use tokio::signal::unix::{SignalKind, signal};

/// Measures Skerry beside its peers, and writes docs/benchmarks.md.
#[derive(Debug, Parser)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure everything, then write the page
    Run(Run),
    /// Write the page of the newest results
    Page,
}

#[derive(Debug, Args)]
struct Run {
    /// How often every job is run
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    rounds: usize,
    /// Seconds of each workload
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Measure on a busy machine, too; the results are marked
    #[arg(long)]
    force: bool,
    /// Only jobs and scenarios whose name contains one of these words; the page is not written then
    #[arg(long, value_name = "WORD")]
    only: Vec<String>,
    /// Where the results go; default `docs/results/compare-DAY.json`
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Where servers keep their data; it must be on a disk
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match CommandLine::parse().command {
        Command::Run(arguments) => measure(arguments),
        Command::Page => root().and_then(|root| page::write(&root)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("bench-compare: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// The checkout that this is run in. Where it was compiled says nothing: build folders are shared.
fn root() -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(|error| error.to_string())?;
    match here.join(page::PAGE).is_file() {
        true => Ok(here),
        false => Err(format!("run it in the root of a checkout: there is no {} here", page::PAGE)),
    }
}

fn measure(arguments: Run) -> Result<()> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let skerry = program.with_file_name("skerry");
    let day = machine::describe(&skerry)?.day;
    let root = root()?;
    let usual = root.join("docs/results").join(format!("compare-{day}.json"));
    let is_usual = arguments.results.is_none() && arguments.only.is_empty();
    if arguments.results.is_none() && !arguments.only.is_empty() {
        return Err("--only is no whole run: say with --results where its results go".to_string());
    }
    let options = Options {
        skerry,
        scratch: arguments.scratch.unwrap_or_else(std::env::temp_dir),
        results: arguments.results.unwrap_or(usual),
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        is_forced: arguments.force,
        only: arguments.only,
        is_interrupted: interrupts()?,
    };
    let results = run(&options)?;
    println!("{}", page::told(&results));
    println!("results: {}", options.results.display());
    if is_usual { page::write(&root) } else { Ok(()) }
}

/// Turns true with the first signal that asks to stop. A second one ends the process at once, and what it has started
/// with it.
fn interrupts() -> Result<Arc<AtomicBool>> {
    let failed = |error: std::io::Error| format!("signals cannot be caught: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed)?;
    // Caught from here on, not from when the thread comes to it.
    let caught = runtime.block_on(async {
        Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    });
    let (mut interrupt, mut terminate) = caught.map_err(failed)?;
    let flag = Arc::new(AtomicBool::new(false));
    let raised = flag.clone();
    spawn("interrupts", move || {
        runtime.block_on(async {
            for is_second in [false, true] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                raised.store(true, Ordering::Relaxed);
                if is_second {
                    eprintln!("bench-compare: asked twice, ending at once");
                    std::process::exit(1);
                }
                eprintln!("bench-compare: interrupted, stopping what was started");
            }
        });
    });
    Ok(flag)
}
