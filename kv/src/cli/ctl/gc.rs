//! `skerry ctl gc`: how far garbage collection is, what holds it back, and barriers before it.

use clap::Subcommand;
use serde_json::{Value, json};
use skerry_proto::types::Ts;

use super::http::Http;
use super::{Answer, said, shown, table, titled};
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say how far it is, what holds it back, and what each store has done
    Status,
    /// Begin a round now instead of when it is time
    Run,
    /// What must not be collected
    #[command(subcommand)]
    Barrier(Barrier),
}

#[derive(Debug, Subcommand)]
pub(super) enum Barrier {
    /// Keep everything from a timestamp on, for a backup or a long read
    Set {
        /// Who needs it
        name: String,
        /// From here on, as `ctl tso` prints it
        ts: u64,
        /// For so many seconds; for ever if it is not said
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
    },
    /// Need it no longer
    Delete {
        /// Who needed it
        name: String,
    },
}

pub(super) async fn run(command: Command, http: &Http) -> Result<Answer> {
    match command {
        Command::Status => status(http).await,
        Command::Run => Ok(said(http.post("/gc/run", &Value::Null).await?)),
        Command::Barrier(Barrier::Set { name, ts, ttl }) => {
            let body = json!({ "ts": ts, "ttl_seconds": ttl });
            Ok(said(http.post(&format!("/gc/barrier/{name}"), &body).await?))
        }
        Command::Barrier(Barrier::Delete { name }) => {
            Ok(said(http.delete(&format!("/gc/barrier/{name}")).await?))
        }
    }
}

/// A timestamp with the moment it stands for.
fn moment(ts: &Value) -> String {
    match ts.as_u64() {
        None | Some(0) => "none".to_string(),
        Some(ts) => format!("{ts} ({} ms since 1970)", Ts::from(ts).physical_ms()),
    }
}

async fn status(http: &Http) -> Result<Answer> {
    let found = http.get("/gc/status").await?;
    let seconds = |value: &Value| format!("{} s", value.as_u64().unwrap_or(0) / 1_000);
    let last = &found["last_round"];
    let last = match last.is_null() {
        true => "none since the scheduler was started".to_string(),
        false => {
            let (ago, took) = (shown(&last["ended_seconds_ago"]), shown(&last["took_ms"]));
            format!("up to {}, ended {ago} s ago, took {took} ms", moment(&last["safe_point"]))
        }
    };
    let held = match shown(&found["held_back_by"]) {
        held if held.is_empty() => "nothing".to_string(),
        held => held,
    };
    let mut rows = vec![
        titled(&["what", "is"]),
        vec!["phase".to_string(), shown(&found["phase"])],
        vec!["this round".to_string(), moment(&found["round_safe_point"])],
        vec!["last round".to_string(), last],
        vec!["txn safe point".to_string(), moment(&found["txn_safe_point"])],
        vec!["gc safe point".to_string(), moment(&found["gc_safe_point"])],
        vec!["life time".to_string(), seconds(&found["life_time_ms"])],
        vec!["interval".to_string(), seconds(&found["interval_ms"])],
        vec!["held back by".to_string(), held],
    ];
    for barrier in found["barriers"].as_array().into_iter().flatten() {
        let left = match barrier["seconds_left"].as_i64() {
            Some(seconds) => format!("for {seconds} s more"),
            None => "for ever".to_string(),
        };
        let name = format!("barrier {}", shown(&barrier["name"]));
        rows.push(vec![name, format!("at {}, {left}", moment(&barrier["ts"]))]);
    }
    let heading = ["store", "regions", "left", "records dropped", "silent ms", "in its way"];
    let mut stores = vec![titled(&heading)];
    for store in found["stores"].as_array().into_iter().flatten() {
        let columns =
            ["store_id", "regions", "regions_left", "records_dropped", "silent_ms", "obstacle"];
        stores.push(columns.iter().map(|column| shown(&store[*column])).collect());
    }
    Ok(Answer { text: format!("{}\n{}", table(&rows), table(&stores)), json: found })
}
