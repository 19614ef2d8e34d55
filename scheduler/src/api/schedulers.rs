//! `/schedulers`: which balancers are on, turning them on and off, and what they have decided last.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use skerry_proto::types::StoreId;

use super::input::{Parameters, parsed, refused};
use super::{Answer, Api};
use crate::balance::{Name, Standing};

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/schedulers", get(schedulers).post(add))
        .route("/schedulers/diagnostic", get(diagnoses))
        .route("/schedulers/diagnostic/{name}", get(diagnosis))
        .route("/schedulers/{name}", axum::routing::delete(remove).post(pause))
}

/// The longest pause: a day. A balancer that shall rest for longer can be turned off.
const PAUSE_SECONDS_MAX: u64 = 86_400;

fn full_name(name: Name) -> String {
    format!("{}-scheduler", name.text())
}

/// The names; with `?status=paused` those that pause.
async fn schedulers(State(api): State<Api>, uri: Uri) -> Answer<Vec<String>> {
    let is_paused = match Parameters::of(&uri).texts("status").next().as_deref() {
        None | Some("") => false,
        Some("paused") => true,
        Some(other) => return Err(refused(format!("status is {other:?}; allowed is paused"))),
    };
    let standings = api.shared.cluster().balancers(api.shared.now())?;
    let wanted = standings.iter().filter(|it| !is_paused || it.pauses_for.is_some());
    Ok(Json(wanted.map(|standing| full_name(standing.spec.name)).collect()))
}

/// What a balancer does, and has decided last.
#[derive(Serialize)]
struct Diagnosis {
    name: String,
    status: &'static str,
    summary: String,
    /// When it decided that, in seconds since 1970.
    timestamp: u64,
    /// Ours, like what follows: what stood in the way.
    reasons: Vec<String>,
    stores: Vec<u64>,
    paused_seconds: u64,
}

impl Diagnosis {
    fn new(standing: Standing) -> Diagnosis {
        let paused = standing.pauses_for.unwrap_or_default();
        Diagnosis {
            name: full_name(standing.spec.name),
            status: if paused.is_zero() { "running" } else { "paused" },
            summary: standing.report.summary,
            timestamp: standing.report.at.wall_ms / 1_000,
            reasons: standing.report.reasons,
            stores: standing.spec.stores.into_iter().collect(),
            paused_seconds: paused.as_secs(),
        }
    }
}

async fn diagnoses(State(api): State<Api>) -> Answer<Vec<Diagnosis>> {
    let standings = api.shared.cluster().balancers(api.shared.now())?;
    Ok(Json(standings.into_iter().map(Diagnosis::new).collect()))
}

async fn diagnosis(State(api): State<Api>, Path(name): Path<String>) -> Answer<Diagnosis> {
    let name = Name::parse(&name)?;
    let standings = api.shared.cluster().balancers(api.shared.now())?;
    let found = standings.into_iter().find(|standing| standing.spec.name == name);
    let found = found.ok_or_else(|| refused(format!("{} is not on", name.text())))?;
    Ok(Json(Diagnosis::new(found)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: String,
    store_id: Option<u64>,
}

async fn add(State(api): State<Api>, body: Bytes) -> Answer<String> {
    let request: New = parsed(&body)?;
    let (name, store) = (Name::parse(&request.name)?, request.store_id.map(StoreId::new));
    api.shared.decide(move |cluster, _| cluster.add_balancer(name, store)).await?;
    Ok(Json("The scheduler is created.".to_string()))
}

/// Turns one off. The store of one that is about stores may stand behind its name: `evict-leader-scheduler-4`.
async fn remove(State(api): State<Api>, Path(text): Path<String>) -> Answer<String> {
    let of_store =
        text.rsplit_once('-').and_then(|(name, store)| Some((name, store.parse().ok()?)));
    let (name, store) = match of_store {
        Some((name, store)) => (Name::parse(name)?, Some(StoreId::new(store))),
        None => (Name::parse(&text)?, None),
    };
    api.shared.decide(move |cluster, _| cluster.remove_balancer(name, store)).await?;
    Ok(Json("The scheduler is removed.".to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    /// In seconds; 0 lets it go on.
    delay: u64,
}

/// Lets one rest, or with the name `all` every one that is on.
async fn pause(State(api): State<Api>, Path(name): Path<String>, body: Bytes) -> Answer<String> {
    let Pause { delay } = parsed(&body)?;
    if delay > PAUSE_SECONDS_MAX {
        return Err(refused(format!("delay is {delay} s; allowed is up to {PAUSE_SECONDS_MAX}")));
    }
    let now = api.shared.now();
    let mut cluster = api.shared.cluster();
    let names: Vec<Name> = match &name[..] {
        "all" => cluster.balancers(now)?.iter().map(|standing| standing.spec.name).collect(),
        name => vec![Name::parse(name)?],
    };
    for name in names {
        cluster.pause_balancer(name, Duration::from_secs(delay), now)?;
    }
    Ok(Json("Pause or resume the scheduler successfully.".to_string()))
}
