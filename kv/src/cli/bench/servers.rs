//! Servers that are started for a measurement and end with it: our own, in one process or in several, and those of
//! peers ([`commands`] knows how each is called).
//!
//! 1. [`Servers::start`] makes a scratch directory and starts every process in it, through [`super::guarded`], so that
//!    none outlives this one. What they say goes to files there.
//! 2. [`Servers::ready`] waits until clients can be served.
//! 3. A scenario may [`Servers::kill`] and [`Servers::restart`] one of them.
//! 4. Dropping the value kills what runs and removes the directory.
//!
//! **Invariant.** Processes are started by the main thread (see [`super::guarded`]).

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use skerry_raftstore::time::{Clock, SystemClock};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::super::guarded;
use super::vitals::Vitals;
use super::{System, etcd};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::net::SchedulerClient;

mod commands;

/// Between two looks at whether servers are ready.
const PAUSE: Duration = Duration::from_millis(20);
/// How long servers may take until they serve.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// Where ports are looked for: below those of outgoing connections.
const FIRST_PORT: u16 = 21_000;
const LAST_PORT: u16 = 32_000;
/// More regions than are ever looked at.
const REGIONS_MAX: i32 = 1 << 20;

/// What is to be started.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) system: System,
    /// Stores or members.
    pub(super) stores: u16,
    /// A process for each part, as in production; otherwise a playground.
    pub(super) is_separate: bool,
    /// The configuration of our own servers, as TOML.
    pub(super) settings: String,
    /// Where the scratch directory is made.
    pub(super) scratch: PathBuf,
}

/// How a server is called, and where it is.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    program: OsString,
    words: Vec<OsString>,
    /// Where clients are served.
    address: String,
    /// What it prints when it is ready; a peer is asked instead.
    promise: Option<&'static str>,
    /// Where our own stores tell figures.
    statuses: Vec<String>,
}

/// One server process.
struct Server {
    call: Call,
    child: Option<Child>,
}

/// See the module.
pub(super) struct Servers {
    wanted: Wanted,
    /// Before the directory: the processes end first.
    servers: Vec<Server>,
    directory: TempDir,
}

impl Servers {
    /// Starts all of them; answers before they are ready.
    pub(super) fn start(wanted: &Wanted) -> Result<Servers> {
        let made = tempfile::Builder::new().prefix("skerry-bench-").tempdir_in(&wanted.scratch);
        let directory = made.map_err(|error| {
            let place = wanted.scratch.display();
            Error::Startup(format!("no scratch directory can be made in {place}: {error}"))
        })?;
        let calls = commands::calls(wanted, directory.path())?;
        let mut servers = Servers { wanted: wanted.clone(), servers: Vec::new(), directory };
        for call in calls {
            let child = spawned(&call, servers.directory.path())?;
            servers.servers.push(Server { call, child: Some(child) });
        }
        Ok(servers)
    }

    /// Where clients begin: the scheduler, or all members.
    pub(super) fn addresses(&self) -> Vec<String> {
        let all = self.servers.iter().map(|server| server.call.address.clone());
        match self.wanted.system {
            System::Skerry => all.take(1).collect(),
            System::Etcd | System::Redis => all.collect(),
        }
    }

    /// Names of what holds data, in their order.
    pub(super) fn stores(&self) -> Vec<String> {
        let names = self.servers.iter().map(|server| server.call.name.clone());
        names.filter(|name| name != commands::SCHEDULER).collect()
    }

    /// Where the server of this name serves clients.
    pub(super) fn address(&self, name: &str) -> Result<String> {
        Ok(self.servers[self.place(name)?].call.address.clone())
    }

    /// What all of them have taken of the machine so far.
    pub(super) fn vitals(&self) -> Vitals {
        let running = self.servers.iter().filter_map(|server| server.child.as_ref());
        Vitals::of(&running.map(Child::id).collect::<Vec<_>>())
    }

    /// What one of them has taken.
    pub(super) fn vitals_of(&self, name: &str) -> Result<Vitals> {
        let child = self.servers[self.place(name)?].child.as_ref();
        Ok(Vitals::of(&child.map(Child::id).into_iter().collect::<Vec<_>>()))
    }

    /// Where our own stores tell figures.
    pub(super) fn status_addresses(&self) -> Vec<String> {
        self.servers.iter().flat_map(|server| server.call.statuses.clone()).collect()
    }

    /// Where all data is.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Fails if one has ended by itself.
    pub(super) fn expect_running(&mut self) -> Result<()> {
        self.first_unready().map(drop)
    }

    /// Waits until clients can be served by all: every region has its replicas and a leader.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let clock = SystemClock;
        let began = clock.monotonic();
        loop {
            let missing = match self.first_unready()? {
                None => self.asked().await,
                Some(name) => Some(format!("{name} is not ready")),
            };
            let Some(missing) = missing else { return Ok(()) };
            if clock.monotonic() - began > START_TIME_MAX {
                let seconds = START_TIME_MAX.as_secs();
                return Err(Error::Startup(format!("after {seconds} s {missing}")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends one as `kill -9` does.
    pub(super) fn kill(&mut self, name: &str) -> Result<()> {
        let place = self.place(name)?;
        self.servers[place].kill();
        Ok(())
    }

    /// Starts one again that was killed, on its data; answers before it is ready.
    pub(super) fn restart(&mut self, name: &str) -> Result<()> {
        let place = self.place(name)?;
        let child = spawned(&self.servers[place].call, self.directory.path())?;
        self.servers[place].child = Some(child);
        Ok(())
    }

    /// Starts one more of our own stores; answers its name.
    pub(super) fn add_store(&mut self) -> Result<String> {
        let scheduler = self.address(commands::SCHEDULER)?;
        let number = self.stores().len() as u16 + 1;
        let ports = free_ports(2, |port| self.holds(port))?;
        let call = commands::store(number, &scheduler, ports, ports + 1, self.directory.path())?;
        let child = spawned(&call, self.directory.path())?;
        let name = call.name.clone();
        self.servers.push(Server { call, child: Some(child) });
        Ok(name)
    }

    /// Whether a port was given to one of them, which may not listen yet.
    fn holds(&self, port: u16) -> bool {
        let end = format!(":{port}");
        self.servers.iter().any(|server| {
            let statuses = server.call.statuses.iter();
            statuses.chain([&server.call.address]).any(|address| address.ends_with(&end))
        })
    }

    fn place(&self, name: &str) -> Result<usize> {
        let place = self.servers.iter().position(|server| server.call.name == name);
        place.ok_or_else(|| Error::Startup(format!("no server {name} was started")))
    }

    /// The first that has not said what it says when it is ready. One that has ended is an error.
    fn first_unready(&mut self) -> Result<Option<String>> {
        let directory = self.directory.path();
        for server in &mut self.servers {
            let Some(child) = &mut server.child else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                let heard = said(directory, &server.call.name, "stderr");
                let last = heard.lines().last().unwrap_or("it said nothing");
                let reason = format!("{} ended with {status}: {last}", server.call.name);
                return Err(Error::Startup(reason));
            }
            let name = &server.call.name;
            let is_silent = |promise: &str| !said(directory, name, "stdout").contains(promise);
            if server.call.promise.is_some_and(is_silent) {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }

    /// Asks whether clients would be served; answers what is missing.
    async fn asked(&self) -> Option<String> {
        match self.wanted.system {
            System::Skerry => {
                let replicas = usize::from(self.wanted.stores.min(3));
                is_whole(&self.addresses(), replicas).await.err().map(|error| error.to_string())
            }
            System::Etcd => etcd::leader(&self.addresses()).await.err().map(|e| e.to_string()),
            System::Redis => {
                let address = self.addresses().remove(0);
                let refused = TcpStream::connect(&address).await.err();
                refused.map(|error| format!("redis does not listen at {address}: {error}"))
            }
        }
    }
}

impl Server {
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.servers.iter_mut().for_each(Server::kill);
    }
}

/// Whether every region has as many voters and a leader; an error says what is missing.
pub(super) async fn is_whole(scheduler: &[String], replicas: usize) -> Result<()> {
    let scheduler = SchedulerClient::new(scheduler, Metrics::new())?;
    scheduler.expect_cluster(scheduler.cluster_id().await?);
    let regions = scheduler.regions(b"", REGIONS_MAX).await?;
    let is_led = |it: &&skerry_proto::pdpb::Region| it.leader.is_some_and(|peer| peer.id != 0);
    let has_all = |it: &&skerry_proto::pdpb::Region| {
        let peers = it.region.as_ref().map_or(0, |region| region.peers.len());
        peers >= replicas && it.pending_peers.is_empty()
    };
    let (all, led) = (regions.len(), regions.iter().filter(is_led).count());
    let whole = regions.iter().filter(has_all).count();
    match all > 0 && led == all && whole == all {
        true => Ok(()),
        false => Err(Error::Startup(format!(
            "of {all} regions {led} have a leader and {whole} their {replicas} replicas"
        ))),
    }
}

/// What a server has said so far.
fn said(directory: &Path, name: &str, stream: &str) -> String {
    std::fs::read_to_string(directory.join(format!("{name}.{stream}"))).unwrap_or_default()
}

fn spawned(call: &Call, directory: &Path) -> Result<Child> {
    let name = &call.name;
    let failed = |error| Error::Startup(format!("{name} cannot be started: {error}"));
    let file = |stream: &str| File::create(directory.join(format!("{name}.{stream}")));
    let mut command = guarded::command(&call.program).map_err(failed)?;
    command.args(&call.words).stdin(Stdio::null());
    command.stdout(file("stdout").map_err(failed)?).stderr(file("stderr").map_err(failed)?);
    // An interrupt from the terminal is for us: the servers end when all is measured.
    command.process_group(0).spawn().map_err(failed)
}

/// The first of a run of ports that nobody listens on now and that are not given away.
fn free_ports(count: u16, is_taken: impl Fn(u16) -> bool) -> Result<u16> {
    let is_free = |port| !is_taken(port) && TcpListener::bind(("127.0.0.1", port)).is_ok();
    // Two measurements at a time begin to look in different places.
    let begin = FIRST_PORT + (std::process::id() % 500) as u16 * 20;
    let runs = (begin..LAST_PORT).chain(FIRST_PORT..begin).step_by(usize::from(count));
    let mut free = runs.filter(|first| (0..count).all(|port| is_free(first + port)));
    free.next().ok_or_else(|| Error::Startup(format!("no {count} free ports in a row")))
}
