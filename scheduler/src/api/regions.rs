//! `/regions` and `/region`: looking regions up, and cutting and spreading them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skerry_proto::region::KeyBounds;
use skerry_proto::types::RegionId;

use super::input::{Parameters, keys, off_the_server, parsed, refused, region_id, store_id};
use super::shapes::{RegionShape, RegionsShape};
use super::text::{from_hexadecimal, hexadecimal, percent_decoded};
use super::{Answer, Api, Refusal};
use crate::Error;
use crate::cluster::looks::Fault;
use crate::region_tree::RegionRecord;
use crate::server::moves;

/// Regions that an ordered list names if nobody says how many.
const TOP: usize = 16;

/// How wide the bars of histograms are if nobody says so.
const SIZE_BOUND_MIB: u64 = 10;
const KEYS_BOUND: u64 = 10_000;

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/regions", get(regions))
        .route("/regions/count", get(count))
        .route("/regions/key", get(by_range))
        .route("/regions/store/{id}", get(on_store))
        .route("/regions/sibling/{id}", get(siblings))
        .route("/regions/check/{fault}", get(check))
        .route("/regions/check/hist-size", get(sizes))
        .route("/regions/check/hist-keys", get(key_counts))
        .route("/regions/range-holes", get(holes))
        .route("/regions/split", post(split))
        .route("/regions/scatter", post(scatter))
        .route("/regions/{order}", get(top))
        .route("/region/id/{id}", get(by_id))
        .route("/region/key/{*key}", get(by_key))
}

fn shaped(records: Vec<Arc<RegionRecord>>) -> RegionsShape {
    let regions: Vec<_> = records.iter().map(|record| RegionShape::new(record)).collect();
    RegionsShape { count: regions.len(), regions }
}

// ---- Looking up -------------------------------------------------------------------------------------

async fn regions(State(api): State<Api>) -> Answer<RegionsShape> {
    off_the_server(move || {
        let records = api.shared.cluster().scan(KeyBounds::ALL, usize::MAX)?;
        Ok(shaped(records))
    })
    .await
}

async fn count(State(api): State<Api>) -> Answer<Value> {
    let count = api.shared.cluster().region_count()?;
    Ok(Json(json!({ "count": count })))
}

async fn by_range(State(api): State<Api>, uri: Uri) -> Answer<RegionsShape> {
    let parameters = Parameters::of(&uri);
    let limit = parameters.limit(TOP)?;
    off_the_server(move || {
        let range = KeyBounds::new(parameters.key("key"), parameters.key("end_key"));
        let records = api.shared.cluster().scan(range, limit)?;
        Ok(shaped(records))
    })
    .await
}

async fn on_store(State(api): State<Api>, Path(id): Path<String>) -> Answer<RegionsShape> {
    let id = store_id(&id)?;
    off_the_server(move || {
        let records = api.shared.cluster().regions_on(id)?;
        Ok(shaped(records))
    })
    .await
}

/// The regions before and behind one, as far as there is no hole.
async fn siblings(State(api): State<Api>, Path(id): Path<String>) -> Answer<RegionsShape> {
    let id = region_id(&id)?;
    let cluster = api.shared.cluster();
    let record = cluster.region_by_id(id)?.ok_or(Error::UnknownRegion(id.get()))?;
    let before = cluster.region_before_key(&record.region.start_key)?;
    let behind = match &record.region.end_key[..] {
        [] => None,
        end => cluster.region_by_key(end)?,
    };
    drop(cluster);
    Ok(Json(shaped(before.into_iter().chain(behind).collect())))
}

async fn check(State(api): State<Api>, Path(fault): Path<String>) -> Answer<RegionsShape> {
    let unknown =
        || Refusal(StatusCode::NOT_FOUND, format!("regions are not checked for {fault:?}"));
    let fault = Fault::parse(&fault).ok_or_else(unknown)?;
    off_the_server(move || {
        let records = api.shared.cluster().regions_with(fault, api.shared.now())?;
        Ok(shaped(records))
    })
    .await
}

/// How many regions are how large, in MiB.
async fn sizes(State(api): State<Api>, uri: Uri) -> Answer<Vec<Bar>> {
    histogram(api, uri, SIZE_BOUND_MIB, |record| record.size_mib).await
}

/// How many regions have how many keys.
async fn key_counts(State(api): State<Api>, uri: Uri) -> Answer<Vec<Bar>> {
    histogram(api, uri, KEYS_BOUND, |record| record.keys).await
}

/// Regions of a measure from `start` to `end`.
#[derive(Serialize)]
struct Bar {
    start: u64,
    end: u64,
    count: u64,
}

/// The bars that are not empty, each as wide as `bound` says.
async fn histogram(
    api: Api,
    uri: Uri,
    usual: u64,
    measure: fn(&RegionRecord) -> u64,
) -> Answer<Vec<Bar>> {
    let width = Parameters::of(&uri).number("bound", usual)?;
    off_the_server(move || {
        let records = api.shared.cluster().scan(KeyBounds::ALL, usize::MAX)?;
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for record in &records {
            *counts.entry(measure(record) / width).or_default() += 1;
        }
        let bar = |(place, count): (u64, u64)| Bar {
            start: place * width,
            end: (place * width).saturating_add(width - 1),
            count,
        };
        Ok(counts.into_iter().map(bar).collect())
    })
    .await
}

/// Ranges of which no region is known, as pairs of keys.
async fn holes(State(api): State<Api>) -> Answer<Vec<[String; 2]>> {
    off_the_server(move || {
        let records = api.shared.cluster().scan(KeyBounds::ALL, usize::MAX)?;
        let (mut holes, mut covered) = (Vec::new(), Some(&b""[..]));
        for record in &records {
            let region = &record.region;
            if let Some(end) = covered.filter(|end| *end < &region.start_key[..]) {
                holes.push([hexadecimal(end), hexadecimal(&region.start_key)]);
            }
            covered = Some(&region.end_key[..]).filter(|end| !end.is_empty());
        }
        holes.extend(covered.map(|end| [hexadecimal(end), String::new()]));
        Ok(holes)
    })
    .await
}

/// The first regions by some measure.
async fn top(State(api): State<Api>, Path(order): Path<String>, uri: Uri) -> Answer<RegionsShape> {
    let measure: fn(&RegionRecord) -> u64 = match &order[..] {
        "writeflow" => |record| record.flow.bytes_written,
        "readflow" => |record| record.flow.bytes_read,
        "confver" => |record| record.region.epoch().conf_ver,
        "version" => |record| record.region.epoch().version,
        "size" => |record| record.size_mib,
        "keys" => |record| record.keys,
        _ => {
            let sentence = format!("regions are not ordered by {order:?}");
            return Err(Refusal(StatusCode::NOT_FOUND, sentence));
        }
    };
    let limit = Parameters::of(&uri).limit(TOP)?;
    off_the_server(move || {
        let mut records = api.shared.cluster().scan(KeyBounds::ALL, usize::MAX)?;
        records.sort_by_key(|record| (Reverse(measure(record)), record.id()));
        records.truncate(limit);
        Ok(shaped(records))
    })
    .await
}

async fn by_id(State(api): State<Api>, Path(id): Path<String>) -> Answer<RegionShape> {
    let id = region_id(&id)?;
    let found = api.shared.cluster().region_by_id(id)?;
    let record = found.ok_or(Error::UnknownRegion(id.get()))?;
    Ok(Json(RegionShape::new(&record)))
}

/// The key stands in the path with its bytes escaped, and may be any bytes: the router's own parameter
/// would have to be UTF-8.
async fn by_key(State(api): State<Api>, uri: Uri) -> Answer<RegionShape> {
    let escaped = uri.path().rsplit_once("/region/key/").map_or("", |(_, key)| key);
    // Clients escape it as a part of a query, where a plus is a space.
    let key = percent_decoded(&escaped.replace('+', " "));
    let found = api.shared.cluster().region_by_key(&key)?;
    let none = || {
        let sentence = format!("no region is known that contains key {}", hexadecimal(&key));
        Refusal(StatusCode::NOT_FOUND, sentence)
    };
    let record = found.ok_or_else(none)?;
    Ok(Json(RegionShape::new(&record)))
}

// ---- Cutting and spreading --------------------------------------------------------------------------

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Split {
    split_keys: Vec<String>,
    #[serde(default)]
    retry_limit: u64,
}

async fn split(State(api): State<Api>, body: Bytes) -> Answer<Value> {
    let request: Split = parsed(&body)?;
    let keys = keys(&request.split_keys)?;
    if keys.is_empty() {
        return Err(refused("no keys to split at"));
    }
    let several = moves::split(&api.shared, &keys, request.retry_limit).await?;
    let ids: Vec<u64> = several.well.iter().map(|id| id.get()).collect();
    let percentage = several.percentage();
    Ok(Json(json!({ "processed-percentage": percentage, "regions-id": ids })))
}

/// Regions by their ids, or all of a range.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Scatter {
    regions_id: Vec<u64>,
    start_key: String,
    end_key: String,
    /// Names what is spread among itself.
    group: String,
    #[serde(rename = "retry_limit")]
    _retry_limit: u64,
}

async fn scatter(State(api): State<Api>, body: Bytes) -> Answer<Value> {
    let request: Scatter = parsed(&body)?;
    let mut regions: Vec<RegionId> = request.regions_id.into_iter().map(RegionId::new).collect();
    if regions.is_empty() {
        let key = |text: &str| {
            let wrong = || refused(format!("{text:?} is no key in hexadecimal"));
            from_hexadecimal(text).ok_or_else(wrong)
        };
        let (start, end) = (key(&request.start_key)?, key(&request.end_key)?);
        let records = api.shared.cluster().scan(KeyBounds::new(&start, &end), usize::MAX)?;
        regions = records.iter().map(|record| record.id()).collect();
    }
    let several = moves::scatter(&api.shared, &request.group, &regions).await?;
    let failed = several.failed.iter().map(|(id, reason)| (id.get().to_string(), reason.clone()));
    let failed: serde_json::Map<String, Value> =
        failed.map(|(id, reason)| (id, Value::from(reason))).collect();
    Ok(Json(json!({ "processed-percentage": several.percentage(), "failed": failed })))
}
