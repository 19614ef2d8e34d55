//! `skerry ctl store`: how stores are, emptying them, and what is set about them.

use std::time::Duration;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::super::progress::{Part, Progress};
use super::http::Http;
use super::{Answer, said, shown, table, titled};
use crate::error::{Error, Result};

/// Between two looks at how far a store is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all of them, with what is set about them
    List,
    /// Empty a store and take it out of the cluster; waits until it is empty
    Offline {
        /// The store
        id: u64,
        /// Only begin
        #[arg(long)]
        no_wait: bool,
        /// Its disk is gone: nothing of it will come back
        #[arg(long)]
        destroyed: bool,
    },
    /// Take a store back that is being emptied
    CancelOffline {
        /// The store
        id: u64,
    },
    /// Set labels; KEY= takes one away
    Label {
        /// The store
        id: u64,
        /// What to set
        #[arg(required = true, value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
    /// Set the share of leaders and of replicas that it gets, beside stores of weight 1
    Weight {
        /// The store
        id: u64,
        /// Of leaders
        leader: f64,
        /// Of replicas
        region: f64,
    },
    /// Set how many replicas may come, and go, in a minute
    Limit {
        /// The store
        id: u64,
        /// How many
        rate: u32,
        /// Only those that come (add-peer) or go (remove-peer)
        #[arg(long = "type", value_name = "WAY")]
        way: Option<String>,
    },
    /// Forget all that were emptied
    RemoveTombstones,
}

pub(super) async fn run(command: Command, http: &Http, is_json: bool) -> Result<Answer> {
    match command {
        Command::List => list(http).await,
        Command::Offline { id, no_wait, destroyed } => {
            let force = if destroyed { "?force=true" } else { "" };
            let begun = http.delete(&format!("/store/{id}{force}")).await?;
            if no_wait {
                return Ok(said(begun));
            }
            follow(http, id, is_json).await
        }
        Command::CancelOffline { id } => {
            Ok(said(http.post(&format!("/store/{id}/state?state=Up"), &Value::Null).await?))
        }
        Command::Label { id, labels } => {
            let mut body = Map::new();
            for label in &labels {
                let wrong = || Error::Startup(format!("{label:?} is not KEY=VALUE"));
                let (key, value) = label.split_once('=').ok_or_else(wrong)?;
                body.insert(key.to_string(), value.into());
            }
            Ok(said(http.post(&format!("/store/{id}/label"), &body.into()).await?))
        }
        Command::Weight { id, leader, region } => {
            let body = json!({ "leader": leader, "region": region });
            Ok(said(http.post(&format!("/store/{id}/weight"), &body).await?))
        }
        Command::Limit { id, rate, way } => {
            let body = json!({ "rate": rate, "type": way });
            Ok(said(http.post(&format!("/store/{id}/limit"), &body).await?))
        }
        Command::RemoveTombstones => Ok(said(http.delete("/stores/remove-tombstone").await?)),
    }
}

async fn list(http: &Http) -> Result<Answer> {
    let found = http.get("/stores?state=0&state=1&state=2").await?;
    let heading = [
        "id", "address", "state", "version", "status", "regions", "leaders", "weights", "labels",
        "progress",
    ];
    let mut rows = vec![titled(&heading)];
    let mut list = Vec::new();
    for found in found["stores"].as_array().into_iter().flatten() {
        let (store, status) = (&found["store"], &found["status"]);
        let labels: Vec<String> =
            store["labels"].as_array().into_iter().flatten().map(one_label).collect();
        let weights =
            format!("{}/{}", shown(&status["leader_weight"]), shown(&status["region_weight"]));
        rows.push(vec![
            shown(&store["id"]),
            shown(&store["address"]),
            shown(&store["state_name"]),
            shown(&store["version"]),
            shown(&store["status_address"]),
            shown(&status["region_count"]),
            shown(&status["leader_count"]),
            weights,
            labels.join(","),
            shown(&status["leaving"]["summary"]),
        ]);
        list.push(json!({
            "id": store["id"], "address": store["address"], "state": store["state_name"],
            "version": store["version"], "status_address": store["status_address"],
            "regions": status["region_count"], "leaders": status["leader_count"],
            "leader_weight": status["leader_weight"], "region_weight": status["region_weight"],
            "labels": labels, "leaving": status["leaving"],
        }));
    }
    Ok(Answer { text: table(&rows), json: Value::from(list) })
}

fn one_label(label: &Value) -> String {
    format!("{}={}", shown(&label["key"]), shown(&label["value"]))
}

/// Shows how far a store is, until it is empty or somebody takes it back.
async fn follow(http: &Http, id: u64, is_json: bool) -> Result<Answer> {
    let mut progress = Progress::new(is_json);
    loop {
        let found = http.get(&format!("/store/{id}")).await?;
        let state = shown(&found["store"]["state_name"]);
        if state != "Offline" {
            let end = progress.ending();
            let sentence = match &state[..] {
                "Tombstone" => format!("{end}store {id} is empty and out of the cluster\n"),
                _ => format!("{end}store {id} was taken back\n"),
            };
            return Ok(Answer { text: sentence, json: json!({ "id": id, "state": state }) });
        }
        let leaving = &found["status"]["leaving"];
        let count = |name: &str| leaving[name].as_u64().unwrap_or(0);
        let all = count("at_first");
        let part = Part { done: all.saturating_sub(count("left")), all };
        progress.show(part, &shown(&leaving["summary"]));
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
