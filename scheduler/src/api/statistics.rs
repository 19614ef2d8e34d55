//! `/stats`: how much lies in a range of keys, and where.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::State;
use axum::http::Uri;
use axum::routing::get;
use serde::Serialize;
use skerry_proto::region::KeyBounds;

use super::input::{Parameters, off_the_server};
use super::{Answer, Api};
use crate::region_tree::RegionRecord;

pub(super) fn router() -> Router<Api> {
    Router::new().route("/stats/region", get(region))
}

/// Sizes are MiB. What is counted by store is named by its id.
#[derive(Default, Serialize)]
struct RegionStatistics {
    count: usize,
    empty_count: usize,
    storage_size: u64,
    storage_keys: u64,
    store_leader_count: BTreeMap<u64, usize>,
    store_peer_count: BTreeMap<u64, usize>,
    store_leader_size: BTreeMap<u64, u64>,
    store_leader_keys: BTreeMap<u64, u64>,
    store_peer_size: BTreeMap<u64, u64>,
    store_peer_keys: BTreeMap<u64, u64>,
}

impl RegionStatistics {
    fn add(&mut self, record: &RegionRecord) {
        self.count += 1;
        self.empty_count += usize::from(record.is_next_to_empty());
        self.storage_size += record.size_mib;
        self.storage_keys += record.keys;
        for peer in &record.region.peers {
            *self.store_peer_count.entry(peer.store_id).or_default() += 1;
            *self.store_peer_size.entry(peer.store_id).or_default() += record.size_mib;
            *self.store_peer_keys.entry(peer.store_id).or_default() += record.keys;
        }
        if let Some(leader) = record.leader {
            *self.store_leader_count.entry(leader.store_id).or_default() += 1;
            *self.store_leader_size.entry(leader.store_id).or_default() += record.size_mib;
            *self.store_leader_keys.entry(leader.store_id).or_default() += record.keys;
        }
    }
}

/// Of the regions that meet the range from `start_key` to `end_key`; `?count` asks for their number alone.
async fn region(State(api): State<Api>, uri: Uri) -> Answer<RegionStatistics> {
    let parameters = Parameters::of(&uri);
    off_the_server(move || {
        let range = KeyBounds::new(parameters.key("start_key"), parameters.key("end_key"));
        let records = api.shared.cluster().scan(range, usize::MAX)?;
        let mut statistics = RegionStatistics::default();
        match parameters.is_on("count") {
            true => statistics.count = records.len(),
            false => records.iter().for_each(|record| statistics.add(record)),
        }
        Ok(statistics)
    })
    .await
}
