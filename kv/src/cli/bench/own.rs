//! A playground for a measurement that names no cluster: started before, stopped after, nothing is kept.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Error, Result};

/// Ports that a playground of three stores takes: the scheduler's, then two for each store.
const PORTS: u16 = 7;
/// Where a run of free ports is looked for.
const FIRST_PORT: u16 = 21_000;
const LAST_PORT: u16 = 60_000;

/// What a starting playground prints.
pub(super) struct Promise {
    output: ChildStdout,
}

/// A cluster that ends with this value.
pub(super) struct OwnCluster {
    child: Child,
    scheduler: String,
}

impl OwnCluster {
    /// Starts this very binary as a playground. What is handed back with it says when it is ready.
    pub(super) fn start(config: Option<&std::path::Path>) -> Result<(OwnCluster, Promise)> {
        let failed = |error| Error::Startup(format!("a playground cannot be started: {error}"));
        let first = free_ports()?;
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(["playground", "--ephemeral", "--scheduler-addr", &address(first)]);
        command.args(["--store-addr", &address(first + 1), "--status-addr", &address(first + 4)]);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        // An interrupt from the terminal is for us: the cluster ends when all is measured.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let output = child.stdout.take().expect("it was piped");
        Ok((OwnCluster { child, scheduler: address(first) }, Promise { output }))
    }

    /// Where its scheduler listens.
    pub(super) fn scheduler(&self) -> &str {
        &self.scheduler
    }

    /// Its process.
    pub(super) fn process_id(&self) -> u32 {
        self.child.id()
    }
}

impl Promise {
    /// Waits until the playground says that it is ready.
    pub(super) fn wait(self) -> Result<()> {
        for line in BufReader::new(self.output).lines() {
            let line = line.map_err(|error| Error::Startup(format!("the playground: {error}")))?;
            if line.starts_with("Ready:") {
                return Ok(());
            }
        }
        Err(Error::Startup("the playground ended before it was ready".to_string()))
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        // Its data is thrown away in either case; asked politely it removes the directory itself.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}

/// The first of a run of ports that nobody listens on now.
fn free_ports() -> Result<u16> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let begin = FIRST_PORT + (std::process::id() % 1_000) as u16 * PORTS;
    let runs = (begin..LAST_PORT).step_by(usize::from(PORTS));
    let mut free = runs.filter(|first| (0..PORTS).all(|port| is_free(first + port)));
    free.next().ok_or_else(|| Error::Startup("no free ports for a playground".to_string()))
}
