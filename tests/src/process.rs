//! The real binary, started, killed and started again.
//!
//! 1. [`Ground::new`] takes a turn (few process tests run at once, or two cores would be fought over by
//!    twenty stores) and makes a temporary directory.
//! 2. [`Ground::playground`], [`Ground::scheduler`] and [`Ground::server`] prepare a [`Launch`]: arguments, a data
//!    directory below the ground, three ports that nobody holds. A launch can be repeated: the same ports
//!    and the same directory are how a restart is made.
//! 3. [`Launch::start`] runs the binary until its line `Ready:` and hands out a [`Process`].
//!    [`Launch::run_to_end`] is for what must not come up: it waits for the end and hands out [`Ended`].
//! 4. A process ends by [`Process::stop`] (SIGTERM), [`Process::kill`] (SIGKILL) or, when a test fails before
//!    that, by being dropped: then what it said on stderr is shown.
//!
//! **Invariants.** No process outlives its [`Process`]. Ports are below the range from which the system takes
//! ports of outgoing connections, so a client of the last run cannot hold the port of the next.
//!
//! What this does not do: it speaks no protocol (`client.rs` does), and it never starts one by a timer:
//! being ready is a line that the process prints.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use skerry_raftstore::time::spawn;
use tempfile::TempDir;

use crate::wait::{self, PATIENCE, Stopwatch};

/// Process tests that run at the same time in one test binary.
const TURNS: usize = 2;
/// Stores that a playground may be asked for: so many ports in a row are kept for it.
const STORES_MAX: u16 = 4;
/// Lines of stdout that wait for a reader; the binary prints a handful.
const STDOUT_LINES: usize = 256;
/// The first port that tests give out, above what services are registered for.
const FIRST_PORT: u16 = 20_300;
/// How many ports tests choose from: up to 32,300, below the ports of outgoing connections.
const PORTS: u16 = 12_000;

/// Where the binary under test lies: beside the running test, in the target directory.
pub fn binary() -> PathBuf {
    built("skerry")
}

/// Where another program of the project lies.
pub fn built(program: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test knows its own path");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in the folder deps/");
    let binary = folder.join(program);
    assert!(
        binary.exists(),
        "{} is missing: run `cargo build --workspace --all-targets` first",
        binary.display()
    );
    binary
}

/// The directory that holds what is built, for what tests keep between runs.
pub fn target_directory() -> PathBuf {
    let folder = binary().parent().and_then(Path::parent).map(Path::to_path_buf);
    folder.expect("the binary lies two folders below")
}

/// A port on 127.0.0.1 that nobody holds now and that this test binary gives out only once.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test binaries that run at the same time start their search far from each other.
    let start = (std::process::id().wrapping_mul(613) % u32::from(PORTS)) as u16;
    for _ in 0..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + (start.wrapping_add(step)) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST_PORT} on is free");
}

/// The first of `count` ports in a row that nobody holds now.
pub fn free_ports(count: u16) -> u16 {
    for _ in 0..PORTS {
        let first = free_port();
        // Those behind it are given out, too.
        if (1..count).all(|step| free_port() == first + step) {
            return first;
        }
    }
    panic!("no {count} ports in a row are free");
}

/// How many turns are taken, and the bell for those who wait.
struct Turns {
    taken: Mutex<usize>,
    given_back: Condvar,
}

static ALL_TURNS: Turns = Turns { taken: Mutex::new(0), given_back: Condvar::new() };

/// The right to load the machine, given back when dropped.
struct Turn;

impl Turn {
    fn take() -> Turn {
        // A failed test poisons nothing: the count stays true whatever else happened.
        let mut taken = ALL_TURNS.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken >= TURNS {
            taken = ALL_TURNS.given_back.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *ALL_TURNS.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ALL_TURNS.given_back.notify_one();
    }
}

/// One test's place: a temporary directory and a turn. A test makes exactly one, so that two tests can
/// never wait for each other's turns.
pub struct Ground {
    directory: TempDir,
    _turn: Turn,
}

impl Drop for Ground {
    /// With `SKERRY_KEEP_FAILED` set, what a failed test leaves can be looked at.
    fn drop(&mut self) {
        if std::thread::panicking() && crate::text_from_environment("SKERRY_KEEP_FAILED").is_some()
        {
            self.directory.disable_cleanup(true);
            eprintln!("its directory is kept: {}", self.directory.path().display());
        }
    }
}

impl Ground {
    /// Waits for a turn and makes the directory.
    #[allow(clippy::new_without_default)] // It waits and touches the disk: nothing like a default.
    pub fn new() -> Ground {
        let turn = Turn::take();
        let directory = tempfile::Builder::new().prefix("skerry-test-").tempdir();
        Ground { directory: directory.expect("a temporary directory can be made"), _turn: turn }
    }

    /// A path below the directory; nothing is made.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file below the directory and answers its path.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file can be written below the temporary directory");
        path
    }

    /// A scheduler and a standalone store in one process, with their data in `data`.
    pub fn playground(&self) -> Launch {
        let ports = Addresses::free();
        Launch::of("playground")
            .argument("--standalone")
            .with("--scheduler-addr", ports.scheduler.to_string())
            .with("--store-addr", ports.store.to_string())
            .with("--status-addr", ports.status.to_string())
            .with("--data-dir", self.path("data"))
            .at(ports)
    }

    /// A scheduler and three stores in one process, with three replicas of every region; `--stores` may say four.
    /// Leaders are not balanced: tests that speak to a leader by hand want it to stay where it was found. Requests for
    /// locks wait as long as they like, so that they can be looked at.
    pub fn replicated_playground(&self) -> Launch {
        let port = |first| SocketAddr::from(([127, 0, 0, 1], first));
        let store = port(free_ports(STORES_MAX));
        let status = port(free_ports(STORES_MAX));
        let ports = Addresses { scheduler: port(free_port()), store, status };
        let still = self.file(
            "still.toml",
            "[scheduler]\nleader-schedule-limit = 0\n[storage]\nlock-wait-ms = 60000\n",
        );
        Launch::of("playground")
            .with("--config", still)
            .with("--scheduler-addr", ports.scheduler.to_string())
            .with("--store-addr", ports.store.to_string())
            .with("--status-addr", ports.status.to_string())
            .with("--data-dir", self.path("data"))
            .at(ports)
    }

    /// A scheduler alone, with its data in `scheduler`.
    pub fn scheduler(&self) -> Launch {
        let ports = Addresses::free();
        Launch::of("scheduler")
            .with("--addr", ports.scheduler.to_string())
            .with("--data-dir", self.path("scheduler"))
            .at(ports)
    }

    /// One store of several, with its data in `name`, under the scheduler at `scheduler`.
    pub fn member(&self, scheduler: SocketAddr, name: &str) -> Launch {
        let ports = Addresses { scheduler, ..Addresses::free() };
        Launch::of("server")
            .with("--addr", ports.store.to_string())
            .with("--status-addr", ports.status.to_string())
            .with("--scheduler-addr", scheduler.to_string())
            .with("--data-dir", self.path(name))
            .at(ports)
    }

    /// A standalone store alone, with its data in `store`, under the scheduler at `scheduler`.
    pub fn server(&self, scheduler: SocketAddr) -> Launch {
        let ports = Addresses { scheduler, ..Addresses::free() };
        Launch::of("server")
            .argument("--standalone")
            .with("--addr", ports.store.to_string())
            .with("--status-addr", ports.status.to_string())
            .with("--scheduler-addr", scheduler.to_string())
            .with("--data-dir", self.path("store"))
            .at(ports)
    }
}

/// Where the parts of a process listen. A process that has not all parts uses some of them only.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// gRPC and HTTP of the scheduler.
    pub scheduler: SocketAddr,
    /// gRPC of the store.
    pub store: SocketAddr,
    /// HTTP of the store: metrics, status, configuration.
    pub status: SocketAddr,
}

impl Addresses {
    /// Three addresses on 127.0.0.1 that nobody holds.
    pub fn free() -> Addresses {
        let free = || SocketAddr::from(([127, 0, 0, 1], free_port()));
        Addresses { scheduler: free(), store: free(), status: free() }
    }
}

/// How to start the binary. Starting does not use it up: a second start is a restart.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The network namespace that it runs in, if not that of the test.
    namespace: Option<String>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    addresses: Addresses,
}

impl Launch {
    /// `skerry` with these words and nothing else; addresses are only noted, not passed.
    pub fn of(verb: &str) -> Launch {
        let arguments = vec![OsString::from(verb)];
        let addresses = Addresses::free();
        Launch { namespace: None, arguments, environment: Vec::new(), addresses }
    }

    /// Adds one word to the command line.
    pub fn argument(mut self, word: impl Into<OsString>) -> Launch {
        self.arguments.push(word.into());
        self
    }

    /// Sets a flag: its former value is replaced, so a test says only what differs.
    pub fn with(mut self, flag: &str, value: impl Into<OsString>) -> Launch {
        if let Some(place) = self.arguments.iter().position(|word| word == flag) {
            self.arguments[place + 1] = value.into();
            return self;
        }
        self.argument(flag).argument(value)
    }

    /// Sets variables of the environment of the process alone.
    pub fn environment<N, V>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Launch
    where
        N: Into<OsString>,
        V: Into<OsString>,
    {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        self.environment.extend(variables);
        self
    }

    /// Runs it in a network namespace.
    pub fn inside(self, namespace: String) -> Launch {
        Launch { namespace: Some(namespace), ..self }
    }

    /// Notes where the process will listen, for the test's clients.
    pub fn at(mut self, addresses: Addresses) -> Launch {
        self.addresses = addresses;
        self
    }

    /// Where the process listens once it is started.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Runs the binary and waits for its line `Ready:`.
    #[track_caller]
    pub fn start(&self) -> Process {
        self.try_start().unwrap_or_else(|ended| panic!("the process ended instead: {ended:#?}"))
    }

    /// Like [`Launch::start`], for a process that may die before it is ready.
    #[track_caller]
    pub fn try_start(&self) -> Result<Process, Ended> {
        let watch = Stopwatch::start();
        let mut process = Process::spawn(self);
        let Some(line) = process.try_next_line() else { return Err(process.end()) };
        process.ready_line = line;
        process.start_time = watch.elapsed();
        assert!(process.ready_line.starts_with("Ready:"), "printed {:?}", process.ready_line);
        Ok(process)
    }

    /// Runs the binary and waits until it says `words` on stderr, ready or not.
    #[track_caller]
    pub fn start_until(&self, words: &str) -> Process {
        let mut process = Process::spawn(self);
        wait::until("it says what is waited for", || {
            assert!(process.is_running(), "it ended and said: {}", process.stderr());
            process.stderr().contains(words).then_some(())
        });
        process
    }

    /// Runs the binary and waits until it ends by itself, as every wrong call must.
    #[track_caller]
    pub fn run_to_end(&self) -> Ended {
        Process::spawn(self).end()
    }
}

/// A running binary. Dropping it kills it.
pub struct Process {
    child: Child,
    addresses: Addresses,
    stdout: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    ready_line: String,
    start_time: Duration,
    /// Set by whoever has reaped the child: nothing is left to kill or to show.
    ended: bool,
}

impl Process {
    fn spawn(launch: &Launch) -> Process {
        let mut command = match &launch.namespace {
            None => Command::new(binary()),
            Some(namespace) => {
                // It becomes the binary: the child that is started here is the one that is killed.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(binary());
                command
            }
        };
        let mut child = command
            .args(&launch.arguments)
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be executed");
        let (lines, stdout) = sync_channel(STDOUT_LINES);
        let stderr = Arc::new(Mutex::new(String::new()));
        let out = child.stdout.take().expect("stdout was asked for as a pipe");
        let err = child.stderr.take().expect("stderr was asked for as a pipe");
        let heard = Arc::clone(&stderr);
        let readers = vec![
            spawn("child-stdout", move || read_lines(out, &lines)),
            spawn("child-stderr", move || read_text(err, &heard)),
        ];
        Process {
            child,
            addresses: launch.addresses,
            stdout,
            stderr,
            readers,
            ready_line: String::new(),
            start_time: Duration::ZERO,
            ended: false,
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The line that said it was ready.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// The time from starting the binary to its line `Ready:`.
    pub fn start_time(&self) -> Duration {
        self.start_time
    }

    /// The number of the process, by which the system knows it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line on stdout; panics when the process ends or is silent instead.
    #[track_caller]
    pub fn next_line(&mut self) -> String {
        self.try_next_line().unwrap_or_else(|| panic!("it ended and said: {}", self.stderr()))
    }

    /// The next line on stdout, or nothing when the process has ended; panics when it is silent instead.
    #[track_caller]
    fn try_next_line(&mut self) -> Option<String> {
        match self.stdout.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing was printed for {PATIENCE:?}"),
        }
    }

    /// What it has said on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Ends it as `kill -9` or the kernel does: at once and unasked.
    pub fn kill(mut self) -> ExitStatus {
        self.child.kill().expect("a child that was not waited for can be killed");
        self.reap().status
    }

    /// Sends the signal that asks it to stop, without waiting.
    pub fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a child has a positive number"), signal)
            .expect("a child can be sent a signal");
    }

    /// Asks it to stop and waits for its end.
    #[track_caller]
    pub fn stop(self) -> Ended {
        self.ask_to_stop();
        self.end()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        wait::until("the process ends", || (!self.is_running()).then_some(()));
        self.reap()
    }

    fn reap(&mut self) -> Ended {
        let status = self.child.wait().expect("a child can be waited for");
        // Both pipes are closed now, so the readers come to their ends.
        let stdout: Vec<String> = self.stdout.iter().collect();
        for reader in self.readers.drain(..) {
            // A reader that failed has ended the test process already.
            let _ = reader.join();
        }
        self.ended = true;
        Ended { status, stdout: stdout.join("\n"), stderr: self.stderr() }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // It may have ended by itself in between; then there is nothing to kill.
        let _ = self.child.kill();
        let ended = self.reap();
        if std::thread::panicking() {
            eprintln!("the process ended with {} and had said:\n{}", ended.status, ended.stderr);
        }
    }
}

/// Hands lines on until the pipe closes or nobody listens.
fn read_lines(pipe: impl Read, lines: &SyncSender<String>) {
    for line in BufReader::new(pipe).lines() {
        let Ok(line) = line else { return };
        if lines.send(line).is_err() {
            return;
        }
    }
}

/// Collects a pipe until it closes. All of it is kept: a failing test wants the beginning and the end.
fn read_text(mut pipe: impl Read, text: &Mutex<String>) {
    let mut chunk = [0; 4096];
    while let Ok(count) = pipe.read(&mut chunk) {
        if count == 0 {
            return;
        }
        let piece = String::from_utf8_lossy(&chunk[..count]);
        text.lock().unwrap_or_else(PoisonError::into_inner).push_str(&piece);
    }
}

/// A process that has come to its end, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything on stdout that was not read before.
    pub stdout: String,
    /// Everything on stderr.
    pub stderr: String,
}

impl Ended {
    /// Whether it was ended by `SIGKILL`.
    pub fn was_killed(&self) -> bool {
        self.status.signal() == Some(Signal::KILL.as_raw())
    }

    /// The lines on stderr that are meant for the user: logs and panics do not begin so.
    pub fn complaints(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.starts_with("skerry: ")).collect()
    }

    /// Checks that it failed as a good program fails: exit code 1, one line that says why and holds each
    /// of `words`, no panic, and nobody was told that it was ready.
    #[track_caller]
    pub fn assert_refused(&self, words: &[&str]) {
        self.assert_failed(words);
        assert!(!self.stdout.contains("Ready:"), "refused and ready: {self:#?}");
    }

    /// Like [`Ended::assert_refused`], for a process that had been ready before.
    #[track_caller]
    pub fn assert_failed(&self, words: &[&str]) {
        assert_eq!(self.status.code(), Some(1), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "a panic is no message: {self:#?}");
        let complaints = self.complaints();
        assert_eq!(complaints.len(), 1, "one clear line was wanted: {self:#?}");
        for word in words {
            assert!(complaints[0].contains(word), "no {word:?} in {:?}", complaints[0]);
        }
    }

    /// Checks that it ended as asked: exit code 0 and not a word of complaint.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.status.success(), "{self:#?}");
        assert!(self.complaints().is_empty(), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
    }
}
