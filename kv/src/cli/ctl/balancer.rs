//! `skerry ctl scheduler`, `config` and `health`: the balancers, which PD's tools call schedulers; how placement works;
//! whether all is well.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::http::Http;
use super::{Answer, said, shown, table, titled};
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List those that are on
    List,
    /// Turn one on: balance-leader, balance-region, balance-hot-region, evict-leader, grant-leader, ...
    Add {
        /// Its name
        name: String,
        /// The store it is about, if it is about one
        store: Option<u64>,
    },
    /// Turn one off, or take a store from it
    Remove {
        /// Its name
        name: String,
        /// The store
        store: Option<u64>,
    },
    /// Let one rest for so many seconds; 0 lets it go on; the name `all` means every one
    Pause {
        /// Its name
        name: String,
        /// How long
        seconds: u64,
    },
    /// Say what they have decided last, and what stood in the way
    Explain,
}

#[derive(Debug, Subcommand)]
pub(super) enum Settings {
    /// Print them
    Show,
    /// Change one, durably
    Set {
        /// Its name
        key: String,
        /// Its new value
        value: String,
    },
}

pub(super) async fn run(command: Command, http: &Http) -> Result<Answer> {
    match command {
        Command::List => list(http).await,
        Command::Add { name, store } => {
            let body = json!({ "name": name, "store_id": store });
            Ok(said(http.post("/schedulers", &body).await?))
        }
        Command::Remove { name, store } => {
            let store = store.map(|store| format!("-{store}")).unwrap_or_default();
            Ok(said(http.delete(&format!("/schedulers/{name}{store}")).await?))
        }
        Command::Pause { name, seconds } => {
            let body = json!({ "delay": seconds });
            Ok(said(http.post(&format!("/schedulers/{name}"), &body).await?))
        }
        Command::Explain => explain(http).await,
    }
}

async fn list(http: &Http) -> Result<Answer> {
    let found = http.get("/schedulers/diagnostic").await?;
    let mut rows = vec![titled(&["name", "status", "pauses for", "stores", "last decision"])];
    for found in found.as_array().into_iter().flatten() {
        let stores: Vec<String> =
            found["stores"].as_array().into_iter().flatten().map(shown).collect();
        let pause = match found["paused_seconds"].as_u64() {
            None | Some(0) => String::new(),
            Some(seconds) => format!("{seconds} s"),
        };
        let (name, status) = (shown(&found["name"]), shown(&found["status"]));
        rows.push(vec![name, status, pause, stores.join(","), shown(&found["summary"])]);
    }
    Ok(Answer { text: table(&rows), json: found })
}

async fn explain(http: &Http) -> Result<Answer> {
    let found = http.get("/schedulers/diagnostic").await?;
    let mut text = String::new();
    for found in found.as_array().into_iter().flatten() {
        let summary = match shown(&found["summary"]) {
            summary if summary.is_empty() => "has not decided anything yet".to_string(),
            summary => summary,
        };
        text += &format!("{}: {summary}\n", shown(&found["name"]));
        for reason in found["reasons"].as_array().into_iter().flatten() {
            text += &format!("  {}\n", shown(reason));
        }
    }
    Ok(Answer { text, json: found })
}

/// `skerry ctl config`.
pub(super) async fn settings(command: Settings, http: &Http) -> Result<Answer> {
    match command {
        Settings::Show => {
            let found = http.get("/config").await?;
            let mut rows = vec![titled(&["group", "key", "value"])];
            for group in ["replication", "schedule"] {
                for (key, value) in found[group].as_object().into_iter().flatten() {
                    rows.push(vec![group.to_string(), key.clone(), shown(value)]);
                }
            }
            Ok(Answer { text: table(&rows), json: found })
        }
        Settings::Set { key, value } => {
            let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
            let body = Map::from_iter([(key, value)]);
            Ok(said(http.post("/config", &body.into()).await?))
        }
    }
}

/// `skerry ctl health`.
pub(super) async fn health(http: &Http) -> Result<Answer> {
    let (members, stores) = (http.get("/health").await?, http.get("/stores").await?);
    let mut rows = vec![titled(&["what", "name", "state"])];
    for member in members.as_array().into_iter().flatten() {
        let state = if member["health"] == true { "Up" } else { "Down" };
        rows.push(vec!["scheduler".to_string(), shown(&member["name"]), state.to_string()]);
    }
    for store in stores["stores"].as_array().into_iter().flatten() {
        let store = &store["store"];
        let name = format!("{} at {}", shown(&store["id"]), shown(&store["address"]));
        rows.push(vec!["store".to_string(), name, shown(&store["state_name"])]);
    }
    let mut counts = Map::new();
    for fault in ["miss-peer", "down-peer", "pending-peer"] {
        let count = http.get(&format!("/regions/check/{fault}")).await?["count"].clone();
        rows.push(vec!["regions".to_string(), fault.to_string(), shown(&count)]);
        counts.insert(fault.to_string(), count);
    }
    let json = json!({ "schedulers": members, "stores": stores["stores"], "regions": counts });
    Ok(Answer { text: table(&rows), json })
}
