//! What the scheduler says of its cluster at one moment: stores, regions, what it does and why.
//!
//! Nothing else comes into it: a demo shows what anybody can ask for. Stores and regions are two answers; how much a
//! store holds and leads is counted from the regions, so that a picture never contradicts itself.

use serde_json::{Value, json};
use skerry_raftstore::time::{Clock, SystemClock};

use super::super::http::Http;
use crate::error::Result;

/// Ended operators are shown for so long, and no more of them than fit anywhere.
const ENDED_SECONDS: u64 = 20;
const ENDED_MAX: usize = 32;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Picture {
    /// By id.
    pub(super) stores: Vec<Store>,
    /// By key.
    pub(super) regions: Vec<Region>,
    /// That run.
    pub(super) operators: Vec<Operator>,
    /// That have ended, the newest first.
    pub(super) ended: Vec<Operator>,
    /// What each balancer decided last.
    pub(super) balancers: Vec<Balancer>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Store {
    pub(super) id: u64,
    pub(super) address: String,
    /// As the scheduler names it: Up, Disconnected, Down, Offline, Tombstone.
    pub(super) state: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Region {
    pub(super) id: u64,
    /// In hexadecimal.
    pub(super) start_key: String,
    pub(super) end_key: String,
    pub(super) conf_ver: u64,
    pub(super) version: u64,
    /// The store that leads it.
    pub(super) leader: Option<u64>,
    /// By store.
    pub(super) replicas: Vec<Replica>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Replica {
    pub(super) store: u64,
    pub(super) kind: Kind,
}

/// How a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Leader,
    Follower,
    /// It has no vote, or not yet all data.
    Fed,
    /// Its leader does not hear it, or nobody hears its store.
    Lost,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Operator {
    pub(super) region: u64,
    pub(super) name: String,
    pub(super) why: String,
    pub(super) steps: Vec<String>,
    pub(super) done: usize,
    /// If it is over.
    pub(super) ending: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Balancer {
    pub(super) name: String,
    pub(super) summary: String,
    /// The first thing that stood in the way.
    pub(super) obstacle: Option<String>,
}

impl Picture {
    /// Asks.
    pub(super) async fn look(http: &Http) -> Result<Picture> {
        let stores = http.get("/stores?state=0&state=1&state=2").await?;
        let regions = http.get("/regions").await?;
        let operators = http.get("/operators?object=true").await?;
        let since = (SystemClock.wall_ms() / 1_000).saturating_sub(ENDED_SECONDS);
        let ended = http.get(&format!("/operators/records?object=true&from={since}")).await?;
        let balancers = http.get("/schedulers/diagnostic").await?;
        let mut picture = Picture {
            stores: list(&stores["stores"], store),
            regions: list(&regions["regions"], region),
            operators: list(&operators, operator),
            ended: list(&ended, operator),
            balancers: list(&balancers, balancer),
        };
        picture.ended.reverse();
        picture.ended.truncate(ENDED_MAX);
        picture.mark_lost();
        Ok(picture)
    }

    /// A replica on a store that is silent follows nobody, whether its leader has noticed or not.
    pub(super) fn mark_lost(&mut self) {
        let is_silent = |store: &&Store| ["Disconnected", "Down"].contains(&&store.state[..]);
        let silent: Vec<u64> = self.stores.iter().filter(is_silent).map(|it| it.id).collect();
        for replica in self.regions.iter_mut().flat_map(|region| &mut region.replicas) {
            if silent.contains(&replica.store) {
                replica.kind = Kind::Lost;
            }
        }
    }

    /// Regions that a store leads.
    pub(super) fn leaders(&self, store: u64) -> usize {
        self.regions.iter().filter(|region| region.leader == Some(store)).count()
    }

    /// Regions that have a replica on a store.
    pub(super) fn replicas(&self, store: u64) -> usize {
        self.regions.iter().filter(|region| region.replica(store).is_some()).count()
    }

    /// The stores that speak.
    pub(super) fn up(&self) -> impl Iterator<Item = &Store> {
        self.stores.iter().filter(|store| store.state == "Up")
    }

    /// Regions that have a leader and exactly so many replicas, all of which follow.
    pub(super) fn whole(&self, replicas: usize) -> usize {
        let is_well = |replica: &Replica| matches!(replica.kind, Kind::Leader | Kind::Follower);
        let is_whole = |region: &&Region| {
            region.replicas.len() == replicas
                && region.replicas.iter().all(is_well)
                && region.replicas.iter().any(|replica| replica.kind == Kind::Leader)
        };
        self.regions.iter().filter(is_whole).count()
    }

    /// The difference between the store that speaks and has most of something, and the one that has least.
    pub(super) fn unevenness(&self, count: impl Fn(&Picture, u64) -> usize) -> usize {
        let counts: Vec<usize> = self.up().map(|store| count(self, store.id)).collect();
        let most = counts.iter().max().copied().unwrap_or(0);
        most - counts.iter().min().copied().unwrap_or(0)
    }

    /// Stores and regions, for programs.
    pub(super) fn json(&self) -> Value {
        let store = |store: &Store| {
            json!({
                "id": store.id, "address": store.address, "state": store.state,
                "leaders": self.leaders(store.id), "replicas": self.replicas(store.id),
            })
        };
        let region = |region: &Region| {
            json!({
                "id": region.id, "start_key": region.start_key, "end_key": region.end_key,
                "conf_ver": region.conf_ver, "version": region.version, "leader_store": region.leader,
                "stores": region.replicas.iter().map(|replica| replica.store).collect::<Vec<_>>(),
            })
        };
        json!({
            "stores": self.stores.iter().map(store).collect::<Vec<_>>(),
            "regions": self.regions.iter().map(region).collect::<Vec<_>>(),
        })
    }
}

impl Region {
    /// Its replica on a store.
    pub(super) fn replica(&self, store: u64) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.store == store)
    }
}

// ---- Reading answers --------------------------------------------------------------------------------

fn list<T>(value: &Value, read: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(read).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn store(found: &Value) -> Store {
    let store = &found["store"];
    Store {
        id: number(&store["id"]),
        address: text(&store["address"]),
        state: text(&store["state_name"]),
    }
}

fn region(found: &Value) -> Region {
    let leader = found["leader"]["store_id"].as_u64().filter(|store| *store != 0);
    let ids = |list: Vec<u64>| move |id: &u64| list.contains(id);
    let is_down = ids(list(&found["down_peers"], |down| number(&down["peer"]["id"])));
    let is_pending = ids(list(&found["pending_peers"], |peer| number(&peer["id"])));
    let replica = |peer: &Value| {
        let (id, store) = (number(&peer["id"]), number(&peer["store_id"]));
        let has_vote =
            ["Voter", "IncomingVoter"].contains(&peer["role_name"].as_str().unwrap_or(""));
        let kind = if leader == Some(store) {
            Kind::Leader
        } else if is_down(&id) {
            Kind::Lost
        } else if is_pending(&id) || !has_vote {
            Kind::Fed
        } else {
            Kind::Follower
        };
        Replica { store, kind }
    };
    let mut replicas = list(&found["peers"], replica);
    replicas.sort_by_key(|replica| replica.store);
    Region {
        id: number(&found["id"]),
        start_key: text(&found["start_key"]),
        end_key: text(&found["end_key"]),
        conf_ver: number(&found["epoch"]["conf_ver"]),
        version: number(&found["epoch"]["version"]),
        leader,
        replicas,
    }
}

fn operator(found: &Value) -> Operator {
    Operator {
        region: number(&found["region_id"]),
        name: text(&found["desc"]),
        why: text(&found["why"]),
        steps: list(&found["steps"], text),
        done: usize::try_from(number(&found["done"])).unwrap_or(usize::MAX),
        ending: found["ending"].as_str().map(String::from),
    }
}

fn balancer(found: &Value) -> Balancer {
    let name = text(&found["name"]);
    Balancer {
        name: name.trim_end_matches("-scheduler").to_string(),
        summary: text(&found["summary"]),
        obstacle: found["reasons"].get(0).map(text),
    }
}
