//! The cluster of a demo: a scheduler and stores, each a process of its own, with their data in one scratch directory.
//!
//! Processes, because stores of a demo are killed as `kill -9` does it. They are this very binary, in process groups of
//! their own: an interrupt from the terminal is for the demo, which then ends them. What they log goes to files in
//! the scratch directory; its end is shown if one of them dies unasked.
//!
//! **Invariant.** Dropping the stage ends every process and removes the directory.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::error::{Error, Result};

/// Where free ports are looked for: below those that outgoing connections take, so that a store that was killed finds
/// its own again.
const FIRST_PORT: u16 = 10_000;
const LAST_PORT: u16 = 20_000;

/// See the module.
pub(super) struct Stage {
    scheduler: Actor,
    stores: Vec<Actor>,
    next_port: u16,
    /// Removed last.
    scratch: TempDir,
}

/// One process, running or not.
struct Actor {
    name: String,
    address: String,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Stage {
    /// Starts a scheduler and so many stores with this configuration, and waits for none of them.
    pub(super) fn start(stores: u16, config: &str) -> Result<Stage> {
        let scratch = tempfile::Builder::new().prefix("skerry-demo-").tempdir().map_err(failed)?;
        std::fs::write(scratch.path().join("skerry.toml"), config).map_err(failed)?;
        // Demos that run side by side begin their search apart from each other.
        let spread = (std::process::id() % 500) as u16 * 16;
        let mut stage = Stage {
            scheduler: Actor::new("scheduler", String::new()),
            stores: Vec::new(),
            next_port: FIRST_PORT + spread,
            scratch,
        };
        let address = stage.free_address()?;
        stage.scheduler = Actor::new("scheduler", address.clone());
        stage.scheduler.arguments = ["scheduler", "--addr", &address].map(String::from).to_vec();
        stage.scheduler.start(stage.scratch.path())?;
        for _ in 0..stores {
            stage.add_store()?;
        }
        Ok(stage)
    }

    /// One more store joins; answers its address.
    pub(super) fn add_store(&mut self) -> Result<String> {
        let (address, status) = (self.free_address()?, self.free_address()?);
        let mut store = Actor::new(&format!("store-{}", self.stores.len() + 1), address.clone());
        let scheduler = &self.scheduler.address;
        let words =
            ["server", "--addr", &address, "--status-addr", &status, "--scheduler-addr", scheduler];
        store.arguments = words.map(String::from).to_vec();
        store.start(self.scratch.path())?;
        self.stores.push(store);
        Ok(address)
    }

    /// Kills the store at an address, unasked and at once.
    pub(super) fn kill(&mut self, address: &str) {
        self.stores.iter_mut().filter(|store| store.address == address).for_each(Actor::end);
    }

    /// Starts it again, with what it had on disk.
    pub(super) fn revive(&mut self, address: &str) -> Result<()> {
        let scratch = self.scratch.path();
        let mut killed = self.stores.iter_mut().filter(|store| store.address == address);
        killed.try_for_each(|store| store.start(scratch))
    }

    /// Where the scheduler listens.
    pub(super) fn scheduler(&self) -> &str {
        &self.scheduler.address
    }

    /// Fails if a process has ended that nobody killed.
    pub(super) fn check(&mut self) -> Result<()> {
        let scratch = self.scratch.path();
        for actor in self.stores.iter_mut().chain([&mut self.scheduler]) {
            let Some(child) = &mut actor.child else { continue };
            let Some(status) = child.try_wait().map_err(failed)? else { continue };
            let log = std::fs::read_to_string(scratch.join(format!("{}.log", actor.name)));
            let log = log.unwrap_or_default();
            let last = log.lines().last().unwrap_or("it has said nothing");
            let name = &actor.name;
            return Err(Error::Startup(format!("{name} of the demo ended ({status}): {last}")));
        }
        Ok(())
    }

    fn free_address(&mut self) -> Result<String> {
        while self.next_port < LAST_PORT {
            let port = self.next_port;
            self.next_port += 1;
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Ok(format!("127.0.0.1:{port}"));
            }
        }
        Err(Error::Startup("no free port is left for a demo".to_string()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Their data is thrown away: there is nothing that they could still do well.
        self.stores.iter_mut().chain([&mut self.scheduler]).for_each(Actor::end);
    }
}

impl Actor {
    fn new(name: &str, address: String) -> Actor {
        Actor { name: name.to_string(), address, arguments: Vec::new(), child: None }
    }

    fn start(&mut self, scratch: &Path) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(scratch.join(format!("{}.log", self.name)))
            .map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(&self.arguments).args(["--log-level", "warn"]);
        command.arg("--config").arg(scratch.join("skerry.toml"));
        command.arg("--data-dir").arg(scratch.join(&self.name));
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().map_err(failed)?);
        Ok(())
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::Startup(format!("the cluster of the demo cannot be started: {error}"))
}
