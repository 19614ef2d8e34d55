//! `skerry bench scenario`: what an event costs those who use the cluster, measured from outside.
//!
//! 1. Servers are started as separate processes; keys are cut into regions.
//! 2. The event happens, while clients write or right before they do.
//! 3. Each figure is a line of a table, or of JSON, with the number of the goal that it belongs to
//!    (`docs/benchmarks.md`).
//!
//! | scenario | what happens | who |
//! | --- | --- | --- |
//! | `failover` | the store with the most leaders is killed | [`dead_store`] |
//! | `leader-eviction` | a store is asked to lead nothing | [`moves`] |
//! | `split` | the region that all write to is cut, again and again | [`moves`] |
//! | `cut` | one region that all write to is cut into many at once | [`moves`] |
//! | `restart` | a store is killed and started | [`restart`] |
//! | `fill` | two empty stores join one that has data | [`fill`] |
//! | `fill-unlimited` | the same, with nothing that slows snapshots down for the sake of others | [`fill`] |
//! | `idle` | nothing | [`quiet`] |
//! | `timestamps` | many clients want timestamps | [`quiet`] |
//!
//! An interrupt ends it; figures that are there by then are told.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::super::text::table;
use super::super::{StopSignals, say};
use super::line::Api;
use super::servers::{Servers, Wanted};
use super::target::{Reach, System, Target};
use super::{read, regions, start};
use crate::error::{Error, Result};

mod clients;
mod dead_store;
mod fill;
mod moves;
mod quiet;
mod restart;

/// How long an operation is repeated: longer than any event may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one attempt at a peer may take.
const ATTEMPT: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What happens
    #[arg(value_enum)]
    name: Name,
    /// Whose servers; of peers only `failover` of etcd is measured
    #[arg(long, value_enum, default_value = "skerry")]
    target: System,
    /// Regions that the keys are cut into
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    regions: u64,
    /// Stores; default: as the scenario needs them
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=9))]
    stores: Option<u16>,
    /// How often it happens
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    trials: u32,
    /// Clients, each with one operation at a time
    #[arg(long, default_value_t = 16, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    clients: u16,
    /// How long it is watched before and after
    #[arg(long, default_value_t = 3, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Data of `fill`, in MiB
    #[arg(long, default_value_t = 256, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    data: u64,
    /// The configuration of the servers
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the servers keep their data
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// A store is killed: how long until every region takes writes again
    Failover,
    /// A store gives its leaders away: how long an operation takes at worst, and how many fail
    LeaderEviction,
    /// The region that all write to is cut: the same
    Split,
    /// One region is cut into as many as --regions says: how long until all of them serve
    Cut,
    /// A store is killed and started: how long until it serves
    Restart,
    /// Two empty stores join one: how fast they get the data
    Fill,
    /// The same, and servers do not limit how fast snapshots travel
    FillUnlimited,
    /// Nothing happens: what it costs
    Idle,
    /// How many timestamps many clients get
    Timestamps,
}

/// One number, with its unit.
#[derive(Clone, Debug)]
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
}

/// What a scenario has found so far.
#[derive(Clone, Debug, Default)]
struct Report {
    figures: Vec<Figure>,
    /// Seconds since the event, and operations a second then.
    rates: Vec<(f64, f64)>,
}

impl Report {
    fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { what: what.into(), value, unit });
    }

    /// The middle and the largest of several trials.
    fn add_trials(&mut self, what: &str, mut values: Vec<f64>, unit: &'static str) {
        values.sort_by(f64::total_cmp);
        let (Some(middle), Some(most)) = (values.get(values.len() / 2), values.last()) else {
            return;
        };
        self.add(format!("{what}, median of {}", values.len()), *middle, unit);
        self.add(format!("{what}, most"), *most, unit);
    }
}

impl Name {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// The goals that its figures belong to.
    fn goals(self) -> &'static str {
        match self {
            Name::Failover => "P16",
            Name::LeaderEviction => "P18",
            Name::Split => "P19",
            Name::Cut => "P20",
            Name::Restart => "P23",
            Name::Fill => "P22",
            Name::FillUnlimited => "P21",
            Name::Idle => "P13 P15",
            Name::Timestamps => "P27",
        }
    }

    fn stores(self) -> u16 {
        match self {
            Name::Restart | Name::Timestamps => 1,
            Name::Fill | Name::FillUnlimited => 1,
            Name::Failover | Name::LeaderEviction | Name::Idle => 3,
            Name::Split | Name::Cut => 3,
        }
    }

    /// The configuration of its servers, where none is given.
    fn settings(self) -> &'static str {
        match self {
            Name::FillUnlimited => "[raftstore]\nsnapshot-bytes-per-second = \"0B\"\n",
            _ => "",
        }
    }
}

/// The stage of a scenario.
struct Scene<'a> {
    arguments: &'a Arguments,
    servers: Servers,
    target: Arc<Target>,
}

impl Scene<'_> {
    fn watched(&self) -> Duration {
        Duration::from_secs(self.arguments.seconds.into())
    }

    /// Clients that know the servers as they are now.
    async fn connect(&self) -> Result<Arc<Target>> {
        connect(self.arguments, &self.servers).await
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<()> {
    if arguments.target != System::Skerry
        && (arguments.target, arguments.name) != (System::Etcd, Name::Failover)
    {
        let (name, target) = (arguments.name.name(), arguments.target.name());
        return Err(Error::Startup(format!("{name} is not measured on {target}")));
    }
    if arguments.name == Name::Cut && arguments.regions < 2 {
        let reason = "cut: --regions says into how many, 2 or more";
        return Err(Error::Startup(reason.to_string()));
    }
    let mut signals = StopSignals::catch()?;
    let stores = arguments.stores.unwrap_or(arguments.name.stores());
    let wanted = Wanted {
        system: arguments.target,
        stores,
        is_separate: true,
        settings: match &arguments.config {
            Some(path) => read(path)?,
            None => arguments.name.settings().to_string(),
        },
        scratch: arguments.scratch.clone().unwrap_or_else(std::env::temp_dir),
    };
    let servers = start(&wanted, &mut signals).await?;
    let mut report = Report::default();
    let ended = tokio::select! {
        ended = play(&arguments, servers, stores, &mut report) => ended,
        () = signals.next() => {
            Err(Error::Startup("interrupted; the results are partial".to_string()))
        }
    };
    tell(&arguments, stores, &report, ended.is_ok());
    ended
}

async fn play(
    arguments: &Arguments,
    servers: Servers,
    stores: u16,
    report: &mut Report,
) -> Result<()> {
    let mut target = connect(arguments, &servers).await?;
    // To be cut is what is measured there.
    if arguments.regions > 1 && arguments.name != Name::Cut {
        let replicas = usize::from(stores.min(3));
        let (addresses, regions) = (servers.addresses(), arguments.regions);
        regions::cut(&addresses, target.own()?, regions, replicas).await?;
        target = connect(arguments, &servers).await?;
    }
    let mut scene = Scene { arguments, servers, target };
    match arguments.name {
        Name::Failover => dead_store::play(&mut scene, report).await,
        Name::LeaderEviction => moves::evict(&mut scene, report).await,
        Name::Split => moves::split(&mut scene, report).await,
        Name::Cut => moves::cut(&mut scene, report).await,
        Name::Restart => restart::play(&mut scene, report).await,
        Name::Fill | Name::FillUnlimited => fill::play(&mut scene, report).await,
        Name::Idle => quiet::idle(&mut scene, report).await,
        Name::Timestamps => quiet::timestamps(&mut scene, report).await,
    }
}

async fn connect(arguments: &Arguments, servers: &Servers) -> Result<Arc<Target>> {
    let reach = Reach {
        api: Api::Unary,
        connections: 4,
        clients: arguments.clients.into(),
        patience: PATIENCE,
        replica_read: false,
        attempt: ATTEMPT,
    };
    let target = Target::connect(arguments.target, &servers.addresses(), reach).await?;
    Ok(Arc::new(target))
}

fn tell(arguments: &Arguments, stores: u16, report: &Report, is_whole: bool) {
    let (name, goals) = (arguments.name.name(), arguments.name.goals());
    if arguments.json {
        let figures = report.figures.iter().map(
            |figure| json!({ "what": figure.what, "value": figure.value, "unit": figure.unit }),
        );
        let all = json!({
            "complete": is_whole, "scenario": name, "goals": goals,
            "target": arguments.target.name(), "regions": arguments.regions, "stores": stores,
            "figures": figures.collect::<Vec<Value>>(), "rates": report.rates,
        });
        return say(&format!("{all}\n"));
    }
    let heading = ["goal", "scenario", "regions", "what", "figure"].map(String::from).to_vec();
    let rows = report.figures.iter().map(|figure| {
        let value = format!("{} {}", rounded(figure.value), figure.unit);
        let regions = arguments.regions.to_string();
        vec![goals.to_string(), name.clone(), regions, figure.what.clone(), value]
    });
    say(&table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()));
}

/// A figure with three digits, or whole if it is large.
fn rounded(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_trials_the_middle_and_the_largest_are_told() {
        let mut report = Report::default();
        report.add_trials("time", vec![3.0, 1.0, 2.0], "s");
        report.add_trials("nothing", vec![], "s");
        let told = report.figures.iter().map(|it| (it.what.as_str(), it.value));
        assert_eq!(told.collect::<Vec<_>>(), [("time, median of 3", 2.0), ("time, most", 3.0)]);
    }

    #[test]
    fn figures_are_rounded_to_what_can_be_known() {
        let values = [1_234.56, 12.34, 1.234, 0.012_34].map(rounded);
        assert_eq!(values, ["1235", "12.3", "1.23", "0.012"]);
    }
}
