//! The JSON objects, field for field as tools of clients read them. Used by the router.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use skerry_proto::metapb::{self, Peer};
use skerry_proto::pdpb::{Member, PeerStats};

use super::text::{calendar, duration, hexadecimal, size};
use crate::cluster::looks::StoreLook;
use crate::cluster::store_life::Leaving;
use crate::region_tree::RegionRecord;

/// A scheduler process.
#[derive(Serialize)]
pub(super) struct MemberShape {
    name: String,
    member_id: u64,
    peer_urls: Vec<String>,
    client_urls: Vec<String>,
    binary_version: String,
}

impl MemberShape {
    /// From the message.
    pub(super) fn new(member: &Member) -> MemberShape {
        MemberShape {
            name: member.name.clone(),
            member_id: member.member_id,
            peer_urls: member.peer_urls.clone(),
            client_urls: member.client_urls.clone(),
            binary_version: member.binary_version.clone(),
        }
    }
}

/// `/regions`.
#[derive(Serialize)]
pub(super) struct RegionsShape {
    pub(super) count: usize,
    pub(super) regions: Vec<RegionShape>,
}

/// A region. Keys are upper-case hexadecimal, sizes MiB.
#[derive(Serialize)]
pub(super) struct RegionShape {
    id: u64,
    start_key: String,
    end_key: String,
    epoch: EpochShape,
    peers: Vec<PeerShape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<PeerShape>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    down_peers: Vec<DownPeerShape>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pending_peers: Vec<PeerShape>,
    /// Always 0: stores do not report it.
    cpu_usage: u64,
    written_bytes: u64,
    read_bytes: u64,
    written_keys: u64,
    read_keys: u64,
    approximate_size: u64,
    approximate_keys: u64,
}

#[derive(Serialize)]
struct EpochShape {
    conf_ver: u64,
    version: u64,
}

#[derive(Serialize)]
struct PeerShape {
    id: u64,
    store_id: u64,
    /// Left out for a voter, as the message leaves zeros out.
    #[serde(skip_serializing_if = "is_zero")]
    role: i32,
    role_name: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
}

#[derive(Serialize)]
struct DownPeerShape {
    down_seconds: u64,
    peer: PeerShape,
}

impl RegionShape {
    /// From what is known.
    pub(super) fn new(record: &RegionRecord) -> RegionShape {
        let region = &record.region;
        let epoch = region.epoch();
        RegionShape {
            id: region.id,
            start_key: hexadecimal(&region.start_key),
            end_key: hexadecimal(&region.end_key),
            epoch: EpochShape { conf_ver: epoch.conf_ver, version: epoch.version },
            peers: region.peers.iter().map(PeerShape::new).collect(),
            leader: record.leader.as_ref().map(PeerShape::new),
            down_peers: record.down_peers.iter().map(DownPeerShape::new).collect(),
            pending_peers: record.pending_peers.iter().map(PeerShape::new).collect(),
            cpu_usage: 0,
            written_bytes: record.flow.bytes_written,
            read_bytes: record.flow.bytes_read,
            written_keys: record.flow.keys_written,
            read_keys: record.flow.keys_read,
            approximate_size: record.size_mib,
            approximate_keys: record.keys,
        }
    }
}

impl PeerShape {
    fn new(peer: &Peer) -> PeerShape {
        PeerShape {
            id: peer.id,
            store_id: peer.store_id,
            role: peer.role,
            role_name: peer.role().as_str_name(),
            is_learner: peer.is_learner(),
        }
    }
}

impl DownPeerShape {
    fn new(stats: &PeerStats) -> DownPeerShape {
        let peer = PeerShape::new(&stats.peer.unwrap_or_default());
        DownPeerShape { down_seconds: stats.down_seconds, peer }
    }
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// How many replicas may come to a store, and go, in a minute.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct LimitShape {
    add_peer: u32,
    remove_peer: u32,
}

impl LimitShape {
    /// As it holds now.
    pub(super) fn new(look: &StoreLook) -> LimitShape {
        LimitShape { add_peer: look.add_limit, remove_peer: look.remove_limit }
    }
}

/// `/stores`.
#[derive(Serialize)]
pub(super) struct StoresShape {
    pub(super) count: usize,
    pub(super) stores: Vec<StoreShape>,
}

/// A store: what it is, and how it is.
#[derive(Serialize)]
pub(super) struct StoreShape {
    store: StoreIdentity,
    status: StoreStatus,
}

/// The durable half.
#[derive(Serialize)]
struct StoreIdentity {
    id: u64,
    address: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<LabelShape>,
    version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    peer_address: String,
    status_address: String,
    git_hash: String,
    start_timestamp: i64,
    deploy_path: String,
    /// Nanoseconds since 1970; 0 before the first heartbeat.
    last_heartbeat: i64,
    state: i32,
    node_state: i32,
    state_name: String,
}

#[derive(Serialize)]
struct LabelShape {
    key: String,
    value: String,
}

/// The half that heartbeats tell. Times are left out until the store has spoken.
#[derive(Serialize)]
struct StoreStatus {
    capacity: String,
    available: String,
    used_size: String,
    leader_count: usize,
    leader_weight: f64,
    leader_score: f64,
    leader_size: u64,
    region_count: usize,
    region_weight: f64,
    region_score: f64,
    region_size: u64,
    slow_score: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_ts: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_heartbeat_ts: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime: Option<String>,
    /// Ours: how far a store is that is being emptied.
    #[serde(skip_serializing_if = "Option::is_none")]
    leaving: Option<LeavingShape>,
}

/// How far a store is with being emptied.
#[derive(Serialize)]
struct LeavingShape {
    left: usize,
    at_first: usize,
    stuck: usize,
    /// Why, with how many regions it holds for.
    reasons: BTreeMap<String, usize>,
    /// All of it in a sentence.
    summary: String,
}

impl LeavingShape {
    fn new(leaving: &Leaving) -> LeavingShape {
        let summary = leaving.to_string();
        let Leaving { left, at_first, stuck, reasons } = leaving.clone();
        LeavingShape { left, at_first, stuck, reasons, summary }
    }
}

impl StoreShape {
    /// From what is known of the store, and of `regions` for those that have a replica there.
    pub(super) fn new(look: &StoreLook, regions: &[Arc<RegionRecord>]) -> StoreShape {
        let store = StoreIdentity::new(look.record.described(), look.liveness.to_string());
        StoreShape { store, status: StoreStatus::new(look, regions) }
    }
}

impl StoreIdentity {
    fn new(store: metapb::Store, state_name: String) -> StoreIdentity {
        let label = |label: metapb::StoreLabel| LabelShape { key: label.key, value: label.value };
        StoreIdentity {
            id: store.id,
            address: store.address,
            labels: store.labels.into_iter().map(label).collect(),
            version: store.version,
            peer_address: store.peer_address,
            status_address: store.status_address,
            git_hash: store.git_hash,
            start_timestamp: store.start_timestamp,
            deploy_path: store.deploy_path,
            last_heartbeat: store.last_heartbeat,
            state: store.state,
            node_state: store.node_state,
            state_name,
        }
    }
}

impl StoreStatus {
    fn new(look: &StoreLook, regions: &[Arc<RegionRecord>]) -> StoreStatus {
        let record = &look.record;
        let id = record.store.id;
        let here = |record: &&Arc<RegionRecord>| {
            record.region.peers.iter().any(|peer| peer.store_id == id)
        };
        let led =
            |record: &&Arc<RegionRecord>| record.leader.is_some_and(|peer| peer.store_id == id);
        let mib =
            |regions: &[&Arc<RegionRecord>]| regions.iter().map(|record| record.size_mib).sum();
        let here: Vec<_> = regions.iter().filter(here).collect();
        let led: Vec<_> = regions.iter().filter(led).collect();
        let (region_size, leader_size): (u64, u64) = (mib(&here), mib(&led));
        let stats = record.heartbeat.as_ref().map(|heartbeat| &heartbeat.stats);
        let started_ms =
            u64::try_from(record.store.start_timestamp).unwrap_or(0).saturating_mul(1_000);
        let spoke_ms = record.heartbeat.as_ref().map(|heartbeat| heartbeat.at.wall_ms);
        StoreStatus {
            capacity: size(stats.map_or(0, |stats| stats.capacity)),
            available: size(stats.map_or(0, |stats| stats.available)),
            used_size: size(stats.map_or(0, |stats| stats.used_size)),
            leader_count: led.len(),
            leader_weight: record.tuning.leader_weight,
            leader_score: look.leader_score,
            leader_size,
            region_count: here.len(),
            region_weight: record.tuning.region_weight,
            region_score: look.region_score,
            region_size,
            slow_score: stats.map_or(0, |stats| stats.slow_score),
            start_ts: (started_ms > 0).then(|| calendar(started_ms)),
            last_heartbeat_ts: spoke_ms.map(calendar),
            uptime: spoke_ms
                .filter(|spoke_ms| started_ms > 0 && *spoke_ms >= started_ms)
                .map(|spoke_ms| duration(Duration::from_millis(spoke_ms - started_ms))),
            leaving: look.leaving.as_ref().map(LeavingShape::new),
        }
    }
}
