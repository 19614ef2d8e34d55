//! `skerry config`: is a file right, which keys are there, what are their defaults.

use std::path::PathBuf;

use clap::Subcommand;

use super::say;
use crate::config::{load, reference};
use crate::error::{Error, Result};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say whether FILE can be used, and if not everything that is wrong with it
    Check {
        /// The TOML file
        file: PathBuf,
    },
    /// Print every key with its default and its meaning, as markdown
    Reference,
    /// Print a TOML file with every key at its default
    Default,
}

pub(super) fn run(command: Command) -> Result<()> {
    match command {
        Command::Check { file } => {
            let name = file.display();
            let problems = load::read(Some(&file))?.config.problems();
            if !problems.is_empty() {
                return Err(Error::Startup(format!("{name}: {}", problems.join("; "))));
            }
            say(&format!("{name}: ok\n"));
        }
        Command::Reference => say(&reference::markdown()),
        Command::Default => say(&reference::default_toml()),
    }
    Ok(())
}
