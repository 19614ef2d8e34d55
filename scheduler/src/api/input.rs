//! What callers say: ids in paths, parameters behind the question mark, JSON in bodies. All of it is checked here, and
//! a refusal names what is wrong.
//!
//! The type of a body's content is not looked at: `curl -d` and PD's own tools name a wrong one.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use skerry_proto::types::{RegionId, StoreId};
use tokio::task::spawn_blocking;

use super::text::{from_hexadecimal, percent_decoded};
use super::{Answer, Refusal};
use crate::Error;

/// A body as what it should be.
pub(super) fn parsed<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    // PD's tools send no body where everything has a default.
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    // An object by all means: a list would be taken for the fields of a struct in their order.
    let object: Result<Map<String, Value>, _> = serde_json::from_slice(text);
    object
        .and_then(|object| serde_json::from_value(object.into()))
        .map_err(|error| refused(format!("the body is not what is expected here: {error}")))
}

/// A request that can never be right.
pub(super) fn refused(reason: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, reason.into())
}

/// The id of a store, as it stands in a path.
pub(super) fn store_id(text: &str) -> Result<StoreId, Refusal> {
    Ok(StoreId::new(number(text)?))
}

/// The id of a region, as it stands in a path.
pub(super) fn region_id(text: &str) -> Result<RegionId, Refusal> {
    Ok(RegionId::new(number(text)?))
}

fn number(text: &str) -> Result<u64, Refusal> {
    text.parse().map_err(|_| refused(format!("{text:?} is not an id")))
}

/// The parameters behind the question mark.
pub(super) struct Parameters(Vec<(String, Vec<u8>)>);

impl Parameters {
    /// Of a request.
    pub(super) fn of(uri: &Uri) -> Parameters {
        let pairs = uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty());
        let decoded = |text: &str| percent_decoded(&text.replace('+', " "));
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (String::from_utf8_lossy(&decoded(name)).into_owned(), decoded(value))
        };
        Parameters(pairs.map(pair).collect())
    }

    /// All values of one name, as text.
    pub(super) fn texts(&self, name: &str) -> impl Iterator<Item = String> {
        let named = self.0.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// Whether a name is there and not switched off.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.texts(name).any(|value| !["false", "0"].contains(&&value[..]))
    }

    /// A key, as its bytes; empty if it is not named.
    pub(super) fn key(&self, name: &str) -> &[u8] {
        let named = self.0.iter().find(|(known, _)| known == name);
        named.map_or(&[], |(_, value)| value)
    }

    /// How many are wanted at most; 0 and less are all, as clients of PD say it.
    pub(super) fn limit(&self, default: usize) -> Result<usize, Refusal> {
        let Some(text) = self.texts("limit").next() else { return Ok(default) };
        let wrong = || refused(format!("limit is {text:?}, not a number"));
        let limit: i64 = text.parse().map_err(|_| wrong())?;
        Ok(usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX))
    }

    /// A time in whole seconds.
    pub(super) fn seconds(&self, name: &str) -> Result<Option<Duration>, Refusal> {
        let Some(text) = self.texts(name).next() else { return Ok(None) };
        let wrong = |_| refused(format!("{name} is {text:?}, not a number of seconds"));
        text.parse().map(|seconds| Some(Duration::from_secs(seconds))).map_err(wrong)
    }

    /// A number from 1 on.
    pub(super) fn number(&self, name: &str, default: u64) -> Result<u64, Refusal> {
        let Some(text) = self.texts(name).next() else { return Ok(default) };
        let wrong = || refused(format!("{name} is {text:?}, not a number from 1 on"));
        text.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)
    }
}

/// Keys as bodies have them: in hexadecimal.
pub(super) fn keys(texts: &[String]) -> Result<Vec<bytes::Bytes>, Refusal> {
    let key = |text: &String| {
        let bytes = from_hexadecimal(text);
        bytes
            .map(bytes::Bytes::from)
            .ok_or_else(|| refused(format!("{text:?} is no key in hexadecimal")))
    };
    texts.iter().map(key).collect()
}

/// Makes a large answer on a thread that may take its time.
pub(super) async fn off_the_server<T: Serialize + Send + 'static>(
    make: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Answer<T> {
    let made = spawn_blocking(make).await;
    let stopped = |_| Refusal(StatusCode::SERVICE_UNAVAILABLE, "stopping".to_string());
    Ok(Json(made.map_err(stopped)??))
}
