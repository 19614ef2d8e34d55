//! `skerry demo`: three short stories of what a cluster does by itself, to watch.
//!
//! * *split*: clients write, and one region becomes many;
//! * *balance*: a store joins and another one dies, and regions flow;
//! * *failover*: the store that leads most is killed while clients write, and nothing acknowledged is lost.
//!
//! Each starts its own cluster in a scratch directory ([`stage`]), shows it as the scheduler reports it ([`picture`],
//! [`frame`]), and ends by itself with a summary; nothing is left behind. On a terminal it is drawn, else it is told in
//! lines ([`screen`]). What happens is up to the acts ([`split`], [`balance`], [`failover`]) and the [`director`].

use clap::{Args, ValueEnum};

use self::director::{Director, Stop};
use self::screen::Screen;
use super::say;
use crate::error::Result;

mod balance;
mod crowd;
mod director;
mod failover;
mod frame;
mod picture;
mod screen;
mod split;
mod stage;

/// Replicas of a region: the default of every cluster.
const REPLICAS: usize = 3;

/// Of every demo: heartbeats come often, so that the picture moves.
const COMMON: &str =
    "[server]\nstore-heartbeat-interval-ms = 200\nregion-heartbeat-interval-ms = 500\n";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Which one
    #[arg(value_enum)]
    demo: Story,
    /// How many stores there are at first
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(3..=8))]
    stores: u16,
    /// Where chance begins: what clients write, and which store dies where any would do
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tell it in lines, also on a terminal
    #[arg(long)]
    plain: bool,
    /// Print the last picture as JSON; lines go to stderr
    #[arg(long)]
    json: bool,
    /// Keep the cluster at the end, until q or an interrupt
    #[arg(long)]
    hold: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Story {
    /// Load makes one region into many
    Split,
    /// A store joins, another one dies, regions flow
    Balance,
    /// A store is killed while clients write: the gap is measured, nothing is lost
    Failover,
}

impl Story {
    fn config(self) -> &'static str {
        match self {
            Story::Split => split::CONFIG,
            Story::Balance => balance::CONFIG,
            Story::Failover => failover::CONFIG,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Story::Split => "split",
            Story::Balance => "balance",
            Story::Failover => "failover",
        }
    }
}

pub(super) fn run(arguments: Arguments) -> Result<()> {
    let runtime = super::runtime(0)?;
    let shown = runtime.block_on(show(&arguments));
    // The terminal and the cluster are gone by now.
    match shown {
        Ok(words) => say(&words),
        Err(Stop::Left) => {
            say("left before its end; the cluster is stopped and its data removed\n")
        }
        Err(Stop::Failed(error)) => return Err(error),
    }
    Ok(())
}

/// Runs the story; answers what is to be said when all is over.
async fn show(arguments: &Arguments) -> std::result::Result<String, Stop> {
    let Arguments { demo, stores, seed, .. } = *arguments;
    let config = [COMMON, demo.config()].concat();
    let screen = Screen::open(arguments.plain, arguments.json)?;
    let mut director = Director::begin(demo.title(), seed, stores, &config, screen)?;
    let summary = match demo {
        Story::Split => split::play(&mut director, stores).await?,
        Story::Balance => balance::play(&mut director, stores).await?,
        Story::Failover => failover::play(&mut director, stores).await?,
    };
    let words = match arguments.json {
        true => format!("{}\n", director.json()),
        false => format!("{summary}\n"),
    };
    if !arguments.hold {
        return Ok(words);
    }
    // A program reads it now, a person when the terminal is theirs again.
    let is_told = director.tell(&words);
    director.act("over; the cluster stays until you leave");
    match director.hold().await {
        Stop::Failed(error) => Err(Stop::Failed(error)),
        Stop::Left => Ok(if is_told { String::new() } else { words }),
    }
}
