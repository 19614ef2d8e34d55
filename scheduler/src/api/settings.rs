//! `/config`: how placement works, as PD names and groups it.
//!
//! * `replication`: `max-replicas`, `location-labels`, `isolation-level`. All else is `schedule`.
//! * Labels travel as `zone,host`, times as `10m0s`, as in PD; a list and `max-store-down-time-ms` are read, too.
//! * A change names what it changes; it is done whole or refused whole. A name may have its group before it:
//!   `schedule.leader-schedule-limit`.
//! * `?ttlSecond=300` changes for so long only (see [`crate::schedule`]); 0 ends such a change. Both groups show what
//!   stays, so that nobody who reads and writes them makes durable what was to pass; the rest is `temporary`.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use skerry_proto::metapb;

use super::input::{Parameters, parsed, refused};
use super::text::{exact_duration, parse_duration};
use super::{Answer, Api, Refusal};
use crate::cluster::{Cluster, Decision};

/// Settings of the group `replication`, besides `max-replicas`, which is the cluster's own.
const REPLICATION: [&str; 2] = ["location-labels", "isolation-level"];

/// The time that is written with its unit, and its name among the settings.
const DOWN_TIME: (&str, &str) = ("max-store-down-time", "max-store-down-time-ms");

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/config", get(whole).post(change))
        .route("/config/schedule", get(schedule).post(change))
        .route("/config/replicate", get(replication).post(change))
        .route("/config/cluster-version", get(cluster_version))
}

/// Both groups as they are.
fn groups(cluster: &Cluster) -> crate::Result<(Map<String, Value>, Map<String, Value>)> {
    let wanted = cluster.settings()?.max_peer_count;
    let durable = cluster.schedule().durable();
    let all = serde_json::to_value(durable).expect("numbers and strings");
    let Value::Object(mut schedule) = all else { unreachable!("settings are an object") };
    let down_time = Duration::from_millis(durable.max_store_down_time_ms);
    schedule.remove(DOWN_TIME.1);
    schedule.insert(DOWN_TIME.0.to_string(), exact_duration(down_time).into());
    let mut replication = Map::new();
    replication.insert("max-replicas".to_string(), wanted.into());
    for name in REPLICATION {
        replication.extend(schedule.remove(name).map(|value| (name.to_string(), value)));
    }
    let labels = durable.location_labels.join(",");
    replication.insert("location-labels".to_string(), labels.into());
    Ok((schedule, replication))
}

async fn whole(State(api): State<Api>) -> Answer<Value> {
    let now = api.shared.now();
    let cluster = api.shared.cluster();
    let (schedule, replication) = groups(&cluster)?;
    let mut whole = json!({ "schedule": schedule, "replication": replication });
    let passing = |(name, value, left): (&str, &Value, Duration)| {
        (name.to_string(), json!({ "value": value, "seconds_left": left.as_secs() }))
    };
    let passing: Map<String, Value> = cluster.schedule().passing(now).map(passing).collect();
    if !passing.is_empty() {
        whole["temporary"] = passing.into();
    }
    Ok(Json(whole))
}

async fn schedule(State(api): State<Api>) -> Answer<Value> {
    Ok(Json(groups(&api.shared.cluster())?.0.into()))
}

async fn replication(State(api): State<Api>) -> Answer<Value> {
    Ok(Json(groups(&api.shared.cluster())?.1.into()))
}

/// The lowest version among the stores: what all of them can do.
async fn cluster_version(State(api): State<Api>) -> Answer<String> {
    Ok(Json(api.shared.cluster().version()?))
}

async fn change(State(api): State<Api>, uri: Uri, body: Bytes) -> Answer<String> {
    let passing = Parameters::of(&uri).seconds("ttlSecond")?;
    let (replicas, settings) = translated(parsed(&body)?)?;
    if passing.is_some() && replicas.is_some() {
        return Err(refused("max-replicas cannot be changed for a while only"));
    }
    let decided = api.shared.decide(move |cluster, now| {
        if let Some(time) = passing {
            cluster.change_settings_for(&settings, time, now)?;
            return Ok(Decision { answer: (), changes: Vec::new() });
        }
        let mut changes = cluster.change_settings(&settings)?.changes;
        if let Some(max_peer_count) = replicas {
            let wanted = metapb::Cluster { max_peer_count, ..cluster.settings()? };
            changes.extend(cluster.put_settings(Some(wanted))?.changes);
        }
        Ok(Decision { answer: (), changes })
    });
    decided.await?;
    Ok(Json("The config is updated.".to_string()))
}

/// A change in our own words: how many replicas, and settings by their names.
fn translated(body: Map<String, Value>) -> Result<(Option<u32>, Map<String, Value>), Refusal> {
    let (mut replicas, mut settings) = (None, Map::new());
    for (name, value) in body {
        let prefixes = ["schedule.", "replication."];
        let short = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
        match (short, &value) {
            ("schedule" | "replication", Value::Object(group)) => {
                let (more, others) = translated(group.clone())?;
                replicas = more.or(replicas);
                settings.extend(others);
            }
            ("max-replicas", _) => {
                let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
                let wrong = || refused(format!("max-replicas is {value}, not a number"));
                replicas = Some(count.ok_or_else(wrong)?);
            }
            ("location-labels", Value::String(labels)) => {
                let labels = labels.split(',').map(str::trim).filter(|label| !label.is_empty());
                settings.insert(short.to_string(), labels.collect());
            }
            (name, _) if name == DOWN_TIME.0 => {
                let text = value.as_str().unwrap_or_default();
                let wrong = || refused(format!("{name} is {value}, not a time like \"10m\""));
                let time = parse_duration(text).ok_or_else(wrong)?;
                let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                settings.insert(DOWN_TIME.1.to_string(), milliseconds.into());
            }
            (name, _) => {
                settings.insert(name.to_string(), value);
            }
        }
    }
    Ok((replicas, settings))
}
