//! `skerry guarded`: runs a program that ends when the one that started it ends, however that ends.
//!
//! A measurement starts servers, its own and those of peers. If it is killed, nobody is left to stop them. So each is
//! started through this command (hidden: it is no contract), which asks the kernel for a signal at the end of its
//! parent and then becomes the program. What was asked for stays in force over `exec`.
//!
//! **Invariant.** Servers are started from a thread that lives as long as the process, the main one: to the kernel the
//! parent is the thread.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use clap::Args;
use rustix::process::getppid;

use crate::error::{Error, Result};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The process that must live
    parent: i32,
    /// What to run
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub(super) fn run(arguments: Arguments) -> Result<()> {
    ends_with_parent()?;
    // It may have ended before the kernel was asked.
    if getppid().map(|parent| parent.as_raw_pid()) != Some(arguments.parent) {
        return Err(Error::Startup(format!("process {} has ended", arguments.parent)));
    }
    let (program, words) = arguments.command.split_first().expect("clap wants at least one");
    let failure = Command::new(program).args(words).exec();
    Err(Error::Startup(format!("{} cannot be run: {failure}", program.display())))
}

/// Data of a measurement is thrown away: nobody needs to end gently.
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
fn ends_with_parent() -> Result<()> {
    use rustix::process::{Signal, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Error::Startup(format!("the kernel will not guard a process: {error}")))
}

/// Other systems have nothing like it; there only an orderly end stops the servers.
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
fn ends_with_parent() -> Result<()> {
    Ok(())
}

/// A command that runs `program` so.
pub(super) fn command(program: impl Into<OsString>) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("guarded").arg(std::process::id().to_string()).arg("--").arg(program.into());
    Ok(command)
}
