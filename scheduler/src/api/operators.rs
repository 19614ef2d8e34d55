//! `/operators`: what is being done about regions, what a person wants done, and why something is not.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skerry_proto::pdpb::CheckPolicy;
use skerry_proto::types::{RegionId, StoreId};

use super::input::{Parameters, keys, parsed, refused, region_id};
use super::{Answer, Api, Refusal};
use crate::Error;
use crate::cluster::control::Wish;
use crate::moment::Moment;
use crate::operator::{Ended, Operator, Step};
use crate::server::moves;

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/operators", get(operators).post(add))
        .route("/operators/records", get(records))
        .route("/operators/{region}", get(operator).delete(cancel))
        .route("/operators/{region}/explain", get(explain))
}

/// An operator with its parts, for programs: PD's own form is a sentence.
#[derive(Serialize)]
struct OperatorShape {
    region_id: u64,
    desc: &'static str,
    /// Ours: what such an operator is begun for.
    why: &'static str,
    kind: &'static str,
    steps: Vec<String>,
    done: usize,
    running_seconds: u64,
}

/// One that is over.
#[derive(Serialize)]
struct EndedShape {
    #[serde(flatten)]
    operator: OperatorShape,
    ending: String,
    /// In milliseconds since 1970.
    ended_ms: u64,
}

impl EndedShape {
    fn new(ended: &Ended) -> EndedShape {
        let Ended { operator, ending, at } = ended;
        let operator = OperatorShape::new(operator, *at);
        EndedShape { operator, ending: ending.to_string(), ended_ms: at.wall_ms }
    }
}

impl OperatorShape {
    fn new(operator: &Operator, now: Moment) -> OperatorShape {
        OperatorShape {
            region_id: operator.region.get(),
            desc: operator.name,
            why: why(operator.name),
            kind: operator.kind.name(),
            steps: operator.steps.iter().map(Step::to_string).collect(),
            done: operator.done,
            running_seconds: now.since(operator.created).as_secs(),
        }
    }
}

/// All that run, as sentences; with `?object=true` as objects; with `?kind=` those of that kind.
async fn operators(State(api): State<Api>, uri: Uri) -> Result<Response, Refusal> {
    let parameters = Parameters::of(&uri);
    let kinds: Vec<String> = parameters.texts("kind").collect();
    let is_wanted =
        |it: &&Operator| kinds.is_empty() || kinds.iter().any(|kind| kind == it.kind.name());
    let running: Vec<Operator> =
        api.shared.cluster().operators()?.filter(is_wanted).cloned().collect();
    if !parameters.is_on("object") {
        return Ok(
            Json(running.iter().map(Operator::to_string).collect::<Vec<_>>()).into_response()
        );
    }
    let now = api.shared.now();
    let shapes = running.iter().map(|it| OperatorShape::new(it, now));
    Ok(Json(shapes.collect::<Vec<_>>()).into_response())
}

/// What an operator of this name is begun for, in words that continue *because*.
fn why(name: &str) -> &'static str {
    match name {
        "make-up-replica" => "a replica is missing",
        "replace-down-replica" => "a store is down",
        "replace-offline-replica" => "a store is being emptied",
        "move-to-better-place" => "replicas stand too close together",
        "remove-extra-replica" | "remove-extra-learner" => "there is one too many",
        "remove-lost-learner" => "a new replica cannot be fed",
        "promote-learner" => "a vote is missing and its data is there",
        "leave-joint" => "a change of members is half done",
        "split-by-size" => "the region is larger than was set",
        "split-at-keys" => "somebody asked for a cut there",
        "scatter-region" => "somebody wants it spread",
        "balance-region" => "stores hold unequal amounts",
        "balance-leader" => "stores lead unequal numbers",
        "balance-hot-region" => "one store leads more load than others",
        "evict-leader" => "a store shall lead nothing",
        "grant-leader" => "a store shall lead",
        "shuffle-leader" | "shuffle-region" => "shuffling was turned on",
        _ => "somebody asked for it",
    }
}

/// Those that have ended, the oldest first, as far as they are remembered: as sentences, or with `?object=true` as
/// objects; with `?from=` those since this second of 1970.
async fn records(State(api): State<Api>, uri: Uri) -> Result<Response, Refusal> {
    let parameters = Parameters::of(&uri);
    let from = match parameters.texts("from").next().as_deref() {
        None | Some("") => 0,
        Some(text) => {
            let refusal = |_| refused(format!("from is {text:?}; wanted are seconds since 1970"));
            text.parse::<u64>().map_err(refusal)?
        }
    };
    let is_wanted = |ended: &&Ended| ended.at.wall_ms / 1_000 >= from;
    let mut ended: Vec<Ended> =
        api.shared.cluster().ended_operators()?.take_while(is_wanted).cloned().collect();
    ended.reverse();
    if parameters.is_on("object") {
        let shapes: Vec<EndedShape> = ended.iter().map(EndedShape::new).collect();
        return Ok(Json(shapes).into_response());
    }
    let sentence = |ended: &Ended| format!("{}: {}", ended.operator, ended.ending);
    Ok(Json(ended.iter().map(sentence).collect::<Vec<_>>()).into_response())
}

async fn operator(State(api): State<Api>, Path(region): Path<String>) -> Answer<String> {
    let region = region_id(&region)?;
    let cluster = api.shared.cluster();
    let running = cluster.operator(region)?.map(Operator::to_string);
    let ended = || {
        let mut ended = cluster.ended_operators().ok()?;
        let last = ended.find(|ended| ended.operator.region == region)?;
        Some(format!("{}: {}", last.operator, last.ending))
    };
    let known = running.or_else(ended).ok_or(Error::NoOperator(region.get()))?;
    Ok(Json(known))
}

async fn cancel(State(api): State<Api>, Path(region): Path<String>) -> Answer<String> {
    let region = region_id(&region)?;
    let mut cluster = api.shared.cluster();
    if cluster.operator(region)?.is_none() {
        return Err(Error::NoOperator(region.get()).into());
    }
    cluster.cancel_operator(region, "by hand", api.shared.now())?;
    Ok(Json("The pending operator is canceled.".to_string()))
}

/// Ours: why something is, or is not, being done about a region.
async fn explain(State(api): State<Api>, Path(region): Path<String>) -> Answer<Value> {
    let region = region_id(&region)?;
    let lines = api.shared.cluster().explain(region, api.shared.now())?;
    Ok(Json(json!({ "region_id": region.get(), "lines": lines })))
}

// ---- Wishes -----------------------------------------------------------------------------------------

/// All that any of the wishes may say, as PD's tools write it.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Request {
    name: String,
    region_id: Option<u64>,
    store_id: Option<u64>,
    to_store_id: Option<u64>,
    from_store_id: Option<u64>,
    to_store_ids: Vec<u64>,
    policy: Option<String>,
    keys: Vec<String>,
    region_ids: Vec<u64>,
    source_region_id: Option<u64>,
    target_region_id: Option<u64>,
}

impl Request {
    fn named(&self, field: &str, value: Option<u64>) -> Result<u64, Refusal> {
        value.ok_or_else(|| refused(format!("{} needs {field}", self.name)))
    }

    fn store(&self, field: &str, value: Option<u64>) -> Result<StoreId, Refusal> {
        Ok(StoreId::new(self.named(field, value)?))
    }

    fn wish(&self) -> Result<Wish, Refusal> {
        let to = || self.store("to_store_id", self.to_store_id);
        let store = || self.store("store_id", self.store_id);
        Ok(match &self.name[..] {
            "transfer-leader" => Wish::TransferLeader(to()?),
            "transfer-peer" => Wish::TransferPeer {
                from: self.store("from_store_id", self.from_store_id)?,
                to: to()?,
            },
            "transfer-region" => {
                let stores = self.to_store_ids.iter().copied().map(StoreId::new);
                Wish::TransferRegion(stores.collect())
            }
            "add-peer" => Wish::AddPeer(store()?),
            "add-learner" => Wish::AddLearner(store()?),
            "remove-peer" => Wish::RemovePeer(store()?),
            "split-region" => self.split()?,
            "merge-region" => return Err(refused("regions are not merged yet")),
            other => {
                return Err(refused(format!(
                    "no operator is called {other:?}; there are transfer-leader, transfer-peer, \
                     transfer-region, add-peer, add-learner, remove-peer, split-region and scatter-region"
                )));
            }
        })
    }

    fn split(&self) -> Result<Wish, Refusal> {
        let policy = match self.policy.as_deref().unwrap_or("scan").to_lowercase().as_str() {
            "scan" => CheckPolicy::Scan,
            "approximate" => CheckPolicy::Approximate,
            "usekey" => CheckPolicy::Usekey,
            other => {
                let reason = format!("policy is {other:?}; there are scan, approximate and usekey");
                return Err(refused(reason));
            }
        };
        Ok(Wish::Split { policy, keys: keys(&self.keys)? })
    }
}

async fn add(State(api): State<Api>, body: Bytes) -> Answer<String> {
    let request: Request = parsed(&body)?;
    let created = Json("The operator is created.".to_string());
    if ["scatter-region", "scatter-regions"].contains(&&request.name[..]) {
        let mut regions: Vec<RegionId> =
            request.region_ids.iter().copied().map(RegionId::new).collect();
        if regions.is_empty() {
            regions.push(RegionId::new(request.named("region_id", request.region_id)?));
        }
        let several = moves::scatter(&api.shared, "", &regions).await?;
        return match several.failed.into_values().next() {
            Some(reason) => Err(refused(reason)),
            None => Ok(created),
        };
    }
    let wish = request.wish()?;
    let region = RegionId::new(request.named("region_id", request.region_id)?);
    api.shared.decide(move |cluster, now| cluster.add_operator(region, &wish, now)).await?;
    api.shared.tell_news();
    Ok(created)
}
