//! `/stores` and `/store`: how stores are, and what operators may change about them.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use skerry_proto::metapb::{StoreLabel, StoreState};
use skerry_proto::region::KeyBounds;
use skerry_proto::types::StoreId;

use super::input::{Parameters, off_the_server, parsed, refused, store_id};
use super::shapes::{LimitShape, StoreShape, StoresShape};
use super::{Answer, Api, Refusal};
use crate::cluster::{Cluster, Decision};
use crate::operator::limits::Way;
use crate::stores::Liveness;

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/stores", get(stores))
        .route("/stores/check", get(check))
        .route("/stores/limit", get(limits).post(set_limits))
        .route("/stores/remove-tombstone", delete(remove_tombstones))
        .route("/store/{id}", get(store).delete(remove))
        .route("/store/{id}/state", post(set_state))
        .route("/store/{id}/label", post(set_labels))
        .route("/store/{id}/weight", post(set_weights))
        .route("/store/{id}/limit", post(set_limit))
}

// ---- Looking ----------------------------------------------------------------------------------------

/// All stores in these states.
async fn listed(api: Api, states: Vec<Liveness>) -> Answer<StoresShape> {
    off_the_server(move || {
        let (looks, regions) = {
            let cluster = api.shared.cluster();
            (cluster.looks(api.shared.now())?, cluster.scan(KeyBounds::ALL, usize::MAX)?)
        };
        let wanted = looks.iter().filter(|look| states.contains(&look.liveness));
        let stores: Vec<_> = wanted.map(|look| StoreShape::new(look, &regions)).collect();
        Ok(StoresShape { count: stores.len(), stores })
    })
    .await
}

/// With the numbers of durable states as PD has them: `?state=0&state=1`. Tombstones are only listed on request.
async fn stores(State(api): State<Api>, uri: Uri) -> Answer<StoresShape> {
    let up = [Liveness::Up, Liveness::Disconnected, Liveness::Down];
    let mut states = Vec::new();
    for text in Parameters::of(&uri).texts("state") {
        match &text[..] {
            "0" => states.extend(up),
            "1" => states.push(Liveness::Offline),
            "2" => states.push(Liveness::Tombstone),
            _ => {
                let reason =
                    format!("state is {text:?}; there are 0 (up), 1 (offline), 2 (tombstone)");
                return Err(refused(reason));
            }
        }
    }
    if states.is_empty() {
        states = [&up[..], &[Liveness::Offline]].concat();
    }
    listed(api, states).await
}

/// With the names of states: `?state=Down`.
async fn check(State(api): State<Api>, uri: Uri) -> Answer<StoresShape> {
    let parameters = Parameters::of(&uri);
    let states: Result<_, Refusal> =
        parameters.texts("state").map(|text| liveness(&text)).collect();
    listed(api, states?).await
}

fn liveness(text: &str) -> Result<Liveness, Refusal> {
    let all = [
        Liveness::Up,
        Liveness::Disconnected,
        Liveness::Down,
        Liveness::Offline,
        Liveness::Tombstone,
    ];
    let named = all.into_iter().find(|state| state.to_string().eq_ignore_ascii_case(text));
    named.ok_or_else(|| refused(format!("no state is called {text:?}; there are {all:?}")))
}

async fn store(State(api): State<Api>, Path(id): Path<String>) -> Answer<StoreShape> {
    let id = store_id(&id)?;
    off_the_server(move || {
        let (look, regions) = {
            let cluster = api.shared.cluster();
            (cluster.look(id, api.shared.now())?, cluster.regions_on(id)?)
        };
        Ok(StoreShape::new(&look, &regions))
    })
    .await
}

async fn limits(State(api): State<Api>) -> Answer<BTreeMap<u64, LimitShape>> {
    let looks = api.shared.cluster().looks(api.shared.now())?;
    let alive = looks.iter().filter(|look| look.liveness != Liveness::Tombstone);
    Ok(Json(alive.map(|look| (look.record.store.id, LimitShape::new(look))).collect()))
}

// ---- Their life -------------------------------------------------------------------------------------

/// Begins to empty a store; with `?force=true` its disk is taken to be gone.
async fn remove(State(api): State<Api>, Path(id): Path<String>, uri: Uri) -> Answer<String> {
    let (id, is_destroyed) = (store_id(&id)?, Parameters::of(&uri).is_on("force"));
    empty(&api, id, is_destroyed).await
}

async fn empty(api: &Api, id: StoreId, is_destroyed: bool) -> Answer<String> {
    let decided = api.shared.decide(|cluster, now| cluster.remove_store(id, is_destroyed, now));
    let warning = decided.await?;
    api.shared.tell_news();
    let begun = "The store is set as Offline.".to_string();
    Ok(Json(
        warning
            .map_or(begun.clone(), |warning| format!("{begun} It will not get empty: {warning}.")),
    ))
}

async fn set_state(State(api): State<Api>, Path(id): Path<String>, uri: Uri) -> Answer<String> {
    let id = store_id(&id)?;
    let wanted = Parameters::of(&uri).texts("state").next().unwrap_or_default();
    match StoreState::from_str_name(&wanted) {
        Some(StoreState::Up) => {
            api.shared.decide(|cluster, _| cluster.restore_store(id)).await?;
            Ok(Json("The store's state is updated.".to_string()))
        }
        Some(StoreState::Offline) => empty(&api, id, false).await,
        Some(StoreState::Tombstone) => Err(refused(
            "a store becomes Tombstone by itself, when it is Offline and nothing is left on it",
        )),
        None => Err(refused(format!("state is {wanted:?}; allowed is Up or Offline"))),
    }
}

async fn remove_tombstones(State(api): State<Api>) -> Answer<String> {
    let count = api.shared.decide(|cluster, _| cluster.remove_tombstones()).await?;
    Ok(Json(format!("{count} tombstones are removed.")))
}

// ---- What is set about them -------------------------------------------------------------------------

/// The body has labels and their values; an empty value takes a label away. With `?force=true` all others go.
async fn set_labels(
    State(api): State<Api>,
    Path(id): Path<String>,
    uri: Uri,
    body: Bytes,
) -> Answer<String> {
    let (id, wanted) = (store_id(&id)?, parsed::<BTreeMap<String, String>>(&body)?);
    let is_only = Parameters::of(&uri).is_on("force");
    let decided = api.shared.decide(move |cluster, _| {
        let label = |(key, value)| StoreLabel { key, value };
        let mut labels: Vec<StoreLabel> = wanted.clone().into_iter().map(label).collect();
        let known = cluster.store(id)?.store.labels.iter();
        let others = known.filter(|it| is_only && !wanted.contains_key(&it.key));
        labels.extend(others.map(|it| StoreLabel { key: it.key.clone(), value: String::new() }));
        cluster.set_labels(id, &labels)
    });
    decided.await?;
    Ok(Json("The store's label is updated.".to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weights {
    leader: Option<f64>,
    region: Option<f64>,
}

async fn set_weights(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer<String> {
    let (id, wanted): (_, Weights) = (store_id(&id)?, parsed(&body)?);
    let decided = api.shared.decide(move |cluster, _| {
        let known = cluster.store(id)?.tuning;
        let leader = wanted.leader.unwrap_or(known.leader_weight);
        let region = wanted.region.unwrap_or(known.region_weight);
        cluster.set_weights(id, leader, region)
    });
    decided.await?;
    Ok(Json("The store's weight is updated.".to_string()))
}

/// A limit, for one way or for both.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    rate: u32,
    #[serde(rename = "type")]
    way: Option<String>,
}

impl Limit {
    fn ways(&self) -> Result<Vec<Way>, Refusal> {
        match self.way.as_deref() {
            None | Some("") => Ok(vec![Way::Add, Way::Remove]),
            Some("add-peer") => Ok(vec![Way::Add]),
            Some("remove-peer") => Ok(vec![Way::Remove]),
            Some(other) => {
                Err(refused(format!("type is {other:?}; allowed is add-peer or remove-peer")))
            }
        }
    }

    fn decide(
        &self,
        ways: &[Way],
        stores: &[StoreId],
        cluster: &Cluster,
    ) -> crate::Result<Decision<()>> {
        let mut changes = Vec::new();
        for store in stores {
            changes.extend(cluster.set_limit(*store, ways, self.rate)?.changes);
        }
        Ok(Decision { answer: (), changes })
    }
}

async fn set_limit(State(api): State<Api>, Path(id): Path<String>, body: Bytes) -> Answer<String> {
    let (id, limit): (_, Limit) = (store_id(&id)?, parsed(&body)?);
    let ways = limit.ways()?;
    api.shared.decide(move |cluster, _| limit.decide(&ways, &[id], cluster)).await?;
    Ok(Json("The store's limit is updated.".to_string()))
}

async fn set_limits(State(api): State<Api>, body: Bytes) -> Answer<String> {
    let limit: Limit = parsed(&body)?;
    let ways = limit.ways()?;
    let decided = api.shared.decide(move |cluster, _| {
        let alive = cluster.stores()?.filter(|record| !record.is_tombstone());
        let stores: Vec<StoreId> = alive.map(|record| record.id()).collect();
        limit.decide(&ways, &stores, cluster)
    });
    decided.await?;
    Ok(Json("The limits of all stores are updated.".to_string()))
}
