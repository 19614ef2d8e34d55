//! The binary in a terminal of its own: what it draws, and keys that are pressed.
//!
//! A pseudo-terminal has two ends: the process has one for its input and output, the test reads and writes the other.
//! What comes out are the bytes that a terminal would interpret; tests look for words and control sequences in them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use skerry_raftstore::time::spawn;

use crate::process::binary;
use crate::wait;

/// What programs send that want the terminal for themselves.
pub const ENTERS: &str = "\x1b[?1049h";
/// What they send when they give it back.
pub const LEAVES: &str = "\x1b[?1049l";

/// See the module. Dropping it kills the process.
pub struct Terminal {
    child: Child,
    keyboard: File,
    /// The end of the process, held so that its settings can be looked at.
    line: OwnedFd,
    settings_before: Termios,
    shown: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Runs the binary with these words in a terminal of this size, with this directory for temporary files.
    pub fn run(words: &[&str], columns: u16, rows: u16, temporary: &std::path::Path) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let name = name.into_string().expect("a name is text");
        let slave = File::options().read(true).write(true).open(name).expect("the other end");
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&slave, size).expect("a terminal has a size");
        let settings_before = tcgetattr(&slave).expect("a terminal has settings");
        let end = || Stdio::from(slave.try_clone().expect("a file can be had twice"));
        let child = Command::new(binary())
            .args(words)
            .env("TMPDIR", temporary)
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("the binary can be executed");
        let keyboard = File::from(master);
        let mut screen = keyboard.try_clone().expect("a file can be had twice");
        let shown = Arc::new(Mutex::new(String::new()));
        let seen = Arc::clone(&shown);
        let reader = spawn("terminal", move || {
            let mut chunk = [0; 4096];
            // It fails when all other ends are closed.
            while let Ok(count @ 1..) = screen.read(&mut chunk) {
                let text = String::from_utf8_lossy(&chunk[..count]);
                seen.lock().expect("no holder panics").push_str(&text);
            }
        });
        let line = OwnedFd::from(slave);
        Terminal { child, keyboard, line, settings_before, shown, reader: Some(reader) }
    }

    /// Everything that came out so far.
    pub fn shown(&self) -> String {
        self.shown.lock().expect("no holder panics").clone()
    }

    /// Waits until `words` have come out.
    #[track_caller]
    pub fn until(&mut self, words: &str) {
        wait::until(words, || {
            let ended = self.child.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "it ended: {ended:?}: {}", self.shown());
            self.shown().contains(words).then_some(())
        });
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("a terminal takes keys");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("a child can be sent a signal");
    }

    /// Waits until the process has ended; answers how, and all that came out. The terminal must be as it was.
    #[track_caller]
    pub fn end(mut self) -> (ExitStatus, String) {
        let ended = || self.child.try_wait().expect("a child can be asked");
        let mut ended = ended;
        let status = wait::until("the process ends", &mut ended);
        let settings = tcgetattr(&self.line).expect("it is still open");
        let modes = |settings: &Termios| {
            (settings.local_modes, settings.input_modes, settings.output_modes)
        };
        assert_eq!(modes(&settings), modes(&self.settings_before), "the terminal was changed");
        let all = self.settle();
        (status, all)
    }

    /// Closes our ends, so that the reader comes to its own.
    fn settle(&mut self) -> String {
        // What the process wrote last is read before the line is gone.
        wait::until("all was read", || {
            let before = self.shown().len();
            wait::let_pass(std::time::Duration::from_millis(50));
            (self.shown().len() == before).then_some(())
        });
        self.shown()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The reader ends when the last end of the line is closed, which this value holds until after this.
        drop(self.reader.take());
    }
}
