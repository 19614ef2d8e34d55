//! `skerry ctl operator`: what is being done about regions, what somebody wants done, and why something is not.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::http::Http;
use super::{Answer, said, shown, table, titled, unescape};
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all that run
    List,
    /// Begin one
    #[command(subcommand)]
    Add(Wish),
    /// End the one of a region
    Cancel {
        /// The region
        region: u64,
    },
    /// Say why something is, or is not, being done about a region
    Explain {
        /// The region
        region: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Wish {
    /// One more voter, on STORE
    AddPeer {
        /// The region
        region: u64,
        /// Where
        store: u64,
    },
    /// One more learner, on STORE; it stays one until it is promoted (add-peer) or removed
    AddLearner {
        /// The region
        region: u64,
        /// Where
        store: u64,
    },
    /// No replica on STORE
    RemovePeer {
        /// The region
        region: u64,
        /// Where
        store: u64,
    },
    /// Lead it from STORE
    TransferLeader {
        /// The region
        region: u64,
        /// Where to
        store: u64,
    },
    /// Move the replica on FROM to TO
    TransferPeer {
        /// The region
        region: u64,
        /// Where it is
        from: u64,
        /// Where it shall be
        to: u64,
    },
    /// Have voters on exactly these stores
    TransferRegion {
        /// The region
        region: u64,
        /// All of them
        #[arg(required = true)]
        stores: Vec<u64>,
    },
    /// Cut it
    SplitRegion {
        /// The region
        region: u64,
        /// How to find the place
        #[arg(long, value_enum, default_value = "approximate")]
        policy: Policy,
        /// Where, with `--policy usekey`
        #[arg(long, value_name = "KEY")]
        key: Vec<String>,
    },
    /// Spread it over the stores, whatever they have else
    ScatterRegion {
        /// The region
        region: u64,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Policy {
    /// Read all keys
    Scan,
    /// Estimate
    Approximate,
    /// At the given keys
    Usekey,
}

impl Wish {
    fn body(&self) -> Result<Value> {
        Ok(match self {
            Wish::AddPeer { region, store } => {
                json!({ "name": "add-peer", "region_id": region, "store_id": store })
            }
            Wish::AddLearner { region, store } => {
                json!({ "name": "add-learner", "region_id": region, "store_id": store })
            }
            Wish::RemovePeer { region, store } => {
                json!({ "name": "remove-peer", "region_id": region, "store_id": store })
            }
            Wish::TransferLeader { region, store } => {
                json!({ "name": "transfer-leader", "region_id": region, "to_store_id": store })
            }
            Wish::TransferPeer { region, from, to } => json!({
                "name": "transfer-peer", "region_id": region, "from_store_id": from, "to_store_id": to,
            }),
            Wish::TransferRegion { region, stores } => {
                json!({ "name": "transfer-region", "region_id": region, "to_store_ids": stores })
            }
            Wish::SplitRegion { region, policy, key } => {
                let policy = match policy {
                    Policy::Scan => "scan",
                    Policy::Approximate => "approximate",
                    Policy::Usekey => "usekey",
                };
                let mut keys = Vec::new();
                for key in key {
                    let digits = unescape(key)?.into_iter().map(|byte| format!("{byte:02X}"));
                    keys.push(digits.collect::<String>());
                }
                json!({ "name": "split-region", "region_id": region, "policy": policy, "keys": keys })
            }
            Wish::ScatterRegion { region } => {
                json!({ "name": "scatter-region", "region_id": region })
            }
        })
    }
}

pub(super) async fn run(command: Command, http: &Http) -> Result<Answer> {
    match command {
        Command::List => list(http).await,
        Command::Add(wish) => Ok(said(http.post("/operators", &wish.body()?).await?)),
        Command::Cancel { region } => Ok(said(http.delete(&format!("/operators/{region}")).await?)),
        Command::Explain { region } => {
            let found = http.get(&format!("/operators/{region}/explain")).await?;
            let lines = found["lines"].as_array().into_iter().flatten().map(|it| shown(it) + "\n");
            Ok(Answer { text: lines.collect(), json: found })
        }
    }
}

async fn list(http: &Http) -> Result<Answer> {
    let found = http.get("/operators?object=true").await?;
    let mut rows = vec![titled(&["region", "what", "kind", "seconds", "done", "steps"])];
    for found in found.as_array().into_iter().flatten() {
        let steps: Vec<String> =
            found["steps"].as_array().into_iter().flatten().map(shown).collect();
        rows.push(vec![
            shown(&found["region_id"]),
            shown(&found["desc"]),
            shown(&found["kind"]),
            shown(&found["running_seconds"]),
            format!("{} of {}", shown(&found["done"]), steps.len()),
            steps.join(", "),
        ]);
    }
    Ok(Answer { text: table(&rows), json: found })
}
