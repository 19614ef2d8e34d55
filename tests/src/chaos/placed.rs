//! Where replicas stand, as the scheduler's HTTP tells it, and the few things that tests ask it to do.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::client;
use crate::process::{Ended, Launch};

/// Boundaries that one request names.
const CUTS_MAX: usize = 250;

/// What one region was seen to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its id.
    pub id: u64,
    /// How often its replicas have changed.
    pub conf_ver: u64,
    /// Stores of all replicas, by peer.
    pub peers: BTreeMap<u64, u64>,
    /// Voters of the configuration that holds, and of the one that a change leads to.
    pub voters: (usize, usize),
    /// The store that leads it.
    pub leader: Option<u64>,
    /// Whether every replica has a vote and follows.
    pub is_settled: bool,
}

/// All regions at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// By key.
    pub regions: Vec<Placed>,
}

/// `skerry ctl` against the scheduler at `address`, with these words.
pub fn ctl(address: SocketAddr, words: &str) -> Ended {
    let launch = Launch::of("ctl").with("--scheduler-addr", address.to_string());
    words.split(' ').fold(launch, |launch, word| launch.argument(word)).run_to_end()
}

/// The JSON under `/pd/api/v1`.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Value {
    let (status, body) = client::http(address, "GET", &format!("/pd/api/v1{path}"));
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Cuts the keys, which are hexadecimal digits, into so many equal parts.
#[track_caller]
pub fn cut(address: SocketAddr, parts: usize) {
    let key = |number: usize| {
        let digits = format!("{:08x}", (number << 32) / parts);
        digits.bytes().map(|byte| format!("{byte:02X}")).collect::<String>()
    };
    let keys: Vec<String> = (1..parts).map(key).collect();
    for keys in keys.chunks(CUTS_MAX) {
        let body = json!({ "split_keys": keys, "retry_limit": 100 }).to_string();
        let path = "/pd/api/v1/regions/split";
        let (status, answer) = client::http_with_body(address, "POST", path, &body);
        let done: Value = serde_json::from_str(&answer).unwrap_or(Value::Null);
        let is_done = status == 200 && done["processed-percentage"] == 100;
        assert!(is_done, "the keys were not cut: {status} {answer}");
    }
}

impl Placement {
    /// Asks the scheduler.
    #[track_caller]
    pub fn of(address: SocketAddr) -> Placement {
        let found = get(address, "/regions");
        let regions = found["regions"].as_array().into_iter().flatten().map(placed);
        Placement { regions: regions.collect() }
    }

    /// Whether every region is led and has exactly so many replicas, all with a vote and following.
    pub fn is_whole(&self, replicas: usize) -> bool {
        let is_whole = |region: &Placed| {
            region.is_settled && region.peers.len() == replicas && region.leader.is_some()
        };
        !self.regions.is_empty() && self.regions.iter().all(is_whole)
    }

    /// How many replicas each store has; those that have none are not there.
    pub fn held(&self) -> BTreeMap<u64, usize> {
        let mut held = BTreeMap::new();
        for store in self.regions.iter().flat_map(|region| region.peers.values()) {
            *held.entry(*store).or_default() += 1;
        }
        held
    }

    /// How many replicas these stores have, the most and the fewest.
    pub fn extremes(&self, stores: &[u64]) -> (usize, usize) {
        let held = self.held();
        let counts = || stores.iter().map(|store| held.get(store).copied().unwrap_or(0));
        (counts().max().unwrap_or(0), counts().min().unwrap_or(0))
    }

    /// The sum of all changes of replicas so far.
    pub fn changes(&self) -> u64 {
        self.regions.iter().map(|region| region.conf_ver).sum()
    }
}

fn placed(region: &Value) -> Placed {
    let peers = region["peers"].as_array().cloned().unwrap_or_default();
    let voters = |names: [&str; 2]| {
        peers.iter().filter(|peer| names.iter().any(|name| peer["role_name"] == *name)).count()
    };
    let ids = |peer: &Value| Some((peer["id"].as_u64()?, peer["store_id"].as_u64()?));
    let is_empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let all_follow = is_empty(&region["pending_peers"]) && is_empty(&region["down_peers"]);
    Placed {
        id: region["id"].as_u64().expect("a region has an id"),
        conf_ver: region["epoch"]["conf_ver"].as_u64().expect("a region has an epoch"),
        peers: peers.iter().filter_map(ids).collect(),
        voters: (voters(["Voter", "DemotingVoter"]), voters(["Voter", "IncomingVoter"])),
        leader: region["leader"]["store_id"].as_u64().filter(|store| *store != 0),
        is_settled: all_follow && peers.iter().all(|peer| peer["role_name"] == "Voter"),
    }
}
