//! The command line. Its commands, flags and messages are a contract: scripts depend on them.
//!
//! * A failure is one line on stderr that begins with `skerry:`, with exit code 1; a wrong command line is
//!   clap's business, with exit code 2.
//! * What a process says on stdout is for programs: a line that begins with `Ready:`, or what was asked for.
//!   Logs go to stderr.
//! * SIGINT and SIGTERM stop a process cleanly, a second one ends it at once.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use skerry_raftstore::time::cores;
use slog::Logger;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::config::load::{self, Loaded};
use crate::config::{Config, StorageConfig};
use crate::error::{Error, Result};
use crate::logging::{self, LogLevel, Logging};
use crate::metrics;

mod bench;
mod config;
mod ctl;
mod demo;
mod guarded;
mod http;
mod placement;
mod playground;
mod progress;
mod raw_space;
mod server;
mod text;

/// Threads that serve requests where the configuration does not say: one a core, but no more than these.
const WORKER_THREADS_MAX: usize = 4;

/// How long the end of a process waits for tasks that hold on to nothing any more.
const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// A replicated, transactional key-value store that speaks TiKV's protocol.
#[derive(Debug, Parser)]
#[command(name = "skerry", version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cluster in this process: a scheduler and its stores
    Playground(playground::Arguments),
    /// Run one store
    Server(server::Arguments),
    /// Run the scheduler (placement driver)
    Scheduler(placement::Arguments),
    /// Check or explain configuration files
    #[command(subcommand)]
    Config(config::Command),
    /// Ask and change a running cluster
    Ctl(ctl::Arguments),
    /// Measure a running cluster, or one that is started for it
    Bench(bench::Arguments),
    /// Watch a cluster split, balance itself or survive the death of a store
    Demo(demo::Arguments),
    /// Run a program that ends when the process that started it ends
    #[command(hide = true)]
    Guarded(guarded::Arguments),
}

/// What every process that serves takes.
#[derive(Debug, Args)]
struct Common {
    /// Read settings from this TOML file; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The least important log line that is written
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    metrics::started();
    match run(CommandLine::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skerry: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Playground(arguments) => playground::run(arguments),
        Command::Server(arguments) => server::run(arguments),
        Command::Scheduler(arguments) => placement::run(arguments),
        Command::Config(command) => config::run(command),
        Command::Ctl(arguments) => ctl::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Guarded(arguments) => guarded::run(arguments),
    }
}

impl Common {
    /// The configuration as the file says it, and what of it the file really said.
    fn load(&self) -> Result<Loaded> {
        let mut loaded = load::read(self.config.as_deref())?;
        if let Some(level) = self.log_level {
            loaded.config.log.level = level;
            loaded.given.insert("log.level".to_string());
        }
        Ok(loaded)
    }
}

/// The API version that the operator asked for by `flag` or in the file; none if either would do.
fn wanted_version(loaded: &mut Loaded, flag: Option<u32>) -> Option<u32> {
    if flag.is_some() {
        loaded.given.insert("storage.api-version".to_string());
    }
    set(&mut loaded.config.storage.api_version, flag);
    let asked = loaded.given.contains("storage.api-version");
    asked.then_some(loaded.config.storage.api_version)
}

/// Refuses a configuration that cannot work, naming everything that is wrong with it at once.
fn checked(config: Config) -> Result<Config> {
    let problems = config.problems();
    if problems.is_empty() { Ok(config) } else { Err(Error::Startup(problems.join("; "))) }
}

/// Prints what a program or a person asked for. Whoever has closed our output has heard enough.
fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

/// Replaces a setting by a flag that was given.
fn set<T>(setting: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *setting = value;
    }
}

/// Where one of several processes keeps its data when only their common directory is named.
fn data_directory(storage: &StorageConfig, name: &str) -> PathBuf {
    Path::new(&storage.data_dir).join(name)
}

/// Runs `serving` on a new runtime with logging; returns when it has stopped.
fn serve<F>(config: &Config, serving: impl FnOnce(Logger) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let logging: Logging = logging::start(&config.log);
    let runtime = runtime(config.server.worker_threads)?;
    let served = runtime.block_on(serving(logging.logger.clone()));
    // Whatever still runs belongs to connections that were cut off.
    runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
    served
}

fn runtime(threads: u32) -> Result<Runtime> {
    let threads = match threads {
        0 => cores().min(WORKER_THREADS_MAX),
        threads => threads as usize,
    };
    let built = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("skerry-edge")
        .enable_all()
        .build();
    built.map_err(|error| Error::Startup(format!("the runtime cannot be started: {error}")))
}

/// The signals that ask a process to stop, caught from its first moment on.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn catch() -> Result<StopSignals> {
        let failed = |error| Error::Startup(format!("signals cannot be caught: {error}"));
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let terminate = signal(SignalKind::terminate()).map_err(failed)?;
        Ok(StopSignals { interrupt, terminate })
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Runs `starting`; a signal turns `halt` to true, and then it is waited for.
    async fn halting<T>(
        &mut self,
        halt: &watch::Sender<bool>,
        starting: impl Future<Output = T>,
    ) -> T {
        let mut starting = std::pin::pin!(starting);
        tokio::select! {
            started = &mut starting => return started,
            () = self.next() => halt.send_replace(true),
        };
        self.or_at_once(starting).await
    }

    /// Runs `stopping`, and ends the process at once if asked a second time.
    async fn or_at_once<T>(&mut self, stopping: impl Future<Output = T>) -> T {
        tokio::select! {
            stopped = stopping => stopped,
            () = self.next() => {
                eprintln!("skerry: asked twice, ending at once");
                std::process::exit(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
