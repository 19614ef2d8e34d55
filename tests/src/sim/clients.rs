//! Clients: each does one operation after the other on a handful of keys and writes the history.
//!
//! 1. A client chooses a key and what to do with it, and looks up the region: first in what stores have told
//!    it, then in the scheduler's picture.
//! 2. It asks a store. *Refused* means certainly not done: it asks again, elsewhere if it was told where.
//! 3. No answer in time: a read is asked again; a write has an unknown outcome, and the client goes on.
//!
//! Values are unique, so that a read tells which write it saw. Of the reads some go to any replica, some try the
//! leader's lease first, and some go through the leader's queue.
//!
//! This file decides and keeps books; [`super::world`] carries requests and answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use skerry_proto::metapb::{Peer, Region};
use skerry_proto::types::{RegionId, StoreId};
use skerry_raftstore::reply::Refusal;
use skerry_raftstore::time::splitmix64;

use super::chance::Chance;
use super::trace::{MILLISECOND, Moment};
use crate::checker::{Action, Ending, History, OperationId};

/// How many keys there are. Few, so that clients meet.
pub const KEYS: u64 = 24;

/// How long a client waits for an answer.
pub const PATIENCE: Moment = 1_500 * MILLISECOND;

/// The key with this number: spread over the letters, so that cuts between them are easy to name.
pub fn key(number: u64) -> Bytes {
    let letter = b'a' + u8::try_from(number).expect("fewer keys than letters");
    Bytes::copy_from_slice(&[letter, b'/', b'k'])
}

/// A place to cut between keys.
pub fn cut(number: u64) -> Bytes {
    key(number).slice(..1)
}

/// By which way a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A write, to the leader.
    Write,
    /// A read of whatever replica.
    Replica,
    /// A read by the leader's lease, if it holds; otherwise as the next.
    Lease,
    /// A read through the leader.
    Leader,
}

/// What a store said.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The write happened, at this index and term of the region's log.
    Written {
        /// The region.
        region_id: RegionId,
        /// The index.
        index: u64,
        /// The term.
        term: u64,
    },
    /// The key holds this.
    Found(Option<Bytes>),
    /// It certainly did not happen.
    Refused(Refusal),
    /// Nobody can say.
    Unknown,
}

/// A request as it leaves the client.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks.
    pub client: usize,
    /// Which of its attempts: answers to former ones are not listened to.
    pub attempt: u64,
    /// Whom.
    pub store: StoreId,
    /// Which region, as the client knows it.
    pub region: Region,
    /// The key.
    pub key: Bytes,
    /// What to do.
    pub action: Action,
    /// How.
    pub way: Way,
}

/// What a client does next.
#[derive(Debug)]
pub enum Next {
    /// Begin another operation or ask again, after this long.
    After(Moment),
    /// Nothing: the answer is of no interest any more.
    Nothing,
}

/// A region as a client knows it.
#[derive(Clone, Debug)]
struct Route {
    region: Region,
    leader: Option<Peer>,
}

/// What clients of a seed are like.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// How many of the keys they use, spread over all.
    keys: u64,
    /// The longest pause between two operations.
    pause_max: Moment,
}

impl Manner {
    fn of_seed(seed: u64) -> Manner {
        let mut chance = Chance::new(seed, "clients");
        let keys = chance.pick(&[3, 8, KEYS, KEYS]).expect("there are several");
        let pauses = [20 * MILLISECOND, 100 * MILLISECOND, 150 * MILLISECOND];
        Manner { keys, pause_max: chance.pick(&pauses).expect("there are several") }
    }
}

/// See the module.
pub struct Client {
    number: usize,
    manner: Manner,
    chance: Chance,
    /// A key that was just read: read once more by another way, it must not have gone back.
    again: Option<Bytes>,
    routes: BTreeMap<RegionId, Route>,
    current: Option<Current>,
    attempts: u64,
    values: u64,
    /// Operations that ended with an answer.
    pub acknowledged: u64,
}

/// The operation that a client is at.
struct Current {
    id: OperationId,
    key: Bytes,
    action: Action,
    way: Way,
}

impl Client {
    /// A client that has done nothing.
    pub fn new(number: usize, seed: u64) -> Client {
        Client {
            number,
            manner: Manner::of_seed(seed),
            chance: Chance::new(splitmix64(seed) ^ number as u64, "client"),
            again: None,
            routes: BTreeMap::new(),
            current: None,
            attempts: 0,
            values: 0,
            acknowledged: 0,
        }
    }

    /// The attempt that it waits for.
    pub fn attempt(&self) -> u64 {
        self.attempts
    }

    /// Begins an operation unless one is under way, and asks for it. Without a route there is no request.
    pub fn ask(
        &mut self,
        history: &mut History,
        stamp: u64,
        only_reads: bool,
        look_up: impl FnOnce(&[u8]) -> Option<(Region, Option<Peer>)>,
    ) -> Option<Request> {
        if self.current.is_none() {
            self.begin(history, stamp, only_reads);
        }
        self.attempts += 1;
        let current = self.current.as_ref().expect("an operation was begun");
        let (key, action, way) = (current.key.clone(), current.action.clone(), current.way);
        let route = self.route(&key, look_up)?;
        let peer = match (way, route.leader) {
            (Way::Replica, _) | (_, None) => self.chance.pick(&route.region.peers)?,
            (_, Some(leader)) => leader,
        };
        Some(Request {
            client: self.number,
            attempt: self.attempts,
            store: peer.store(),
            region: route.region,
            key,
            action,
            way,
        })
    }

    /// Hears an answer.
    pub fn hear(
        &mut self,
        history: &mut History,
        stamp: u64,
        region_id: RegionId,
        answer: &Answer,
    ) -> Next {
        let ending = match answer {
            Answer::Written { .. } => Ending::Written,
            Answer::Found(found) => Ending::Found(found.clone()),
            Answer::Unknown => Ending::Unknown,
            Answer::Refused(refusal) => {
                self.learn(region_id, refusal);
                return Next::After(self.pause_before_retry());
            }
        };
        self.end(history, stamp, ending)
    }

    /// Has waited long enough for the attempt that it is at.
    pub fn give_up(&mut self, history: &mut History, stamp: u64) -> Next {
        self.routes.clear();
        let Some(current) = &self.current else { return Next::Nothing };
        match current.action {
            Action::Get => Next::After(self.pause_before_retry()),
            _ => self.end(history, stamp, Ending::Unknown),
        }
    }

    fn begin(&mut self, history: &mut History, stamp: u64, only_reads: bool) {
        let again = self.again.take();
        let number = self.chance.below(self.manner.keys) * (KEYS / self.manner.keys);
        let luck = match again.is_some() || only_reads {
            true => self.chance.between(50, 99),
            false => self.chance.below(100),
        };
        let key = again.unwrap_or_else(|| key(number));
        let (action, way) = match luck {
            0..45 => {
                self.values += 1;
                let value = format!("c{}-{}", self.number, self.values);
                (Action::Put(Bytes::from(value)), Way::Write)
            }
            45..50 => (Action::Delete, Way::Write),
            50..68 => (Action::Get, Way::Replica),
            68..86 => (Action::Get, Way::Lease),
            _ => (Action::Get, Way::Leader),
        };
        let id = history.begin(self.number, key.clone(), action.clone(), stamp);
        self.current = Some(Current { id, key, action, way });
    }

    fn end(&mut self, history: &mut History, stamp: u64, ending: Ending) -> Next {
        let Some(current) = self.current.take() else { return Next::Nothing };
        self.attempts += 1;
        if ending != Ending::Unknown {
            history.end(current.id, ending, stamp);
            self.acknowledged += 1;
        }
        if current.action == Action::Get && self.chance.percent(30) {
            self.again = Some(current.key);
            return Next::After(self.chance.between(1, MILLISECOND));
        }
        Next::After(self.chance.between(MILLISECOND, self.manner.pause_max))
    }

    /// The region of a key: the newest that a store has told, or else the scheduler's.
    fn route(
        &mut self,
        key: &[u8],
        look_up: impl FnOnce(&[u8]) -> Option<(Region, Option<Peer>)>,
    ) -> Option<Route> {
        let known = self.routes.values().filter(|route| route.region.contains_key(key));
        let newest = known.max_by_key(|route| route.region.epoch().version);
        if let Some(route) = newest {
            return Some(route.clone());
        }
        let (region, leader) = look_up(key)?;
        let route = Route { region, leader };
        self.routes.insert(route.region.region_id(), route.clone());
        Some(route)
    }

    /// Takes from a refusal where to ask next.
    fn learn(&mut self, region_id: RegionId, refusal: &Refusal) {
        match refusal {
            Refusal::NotLeader { region_id, leader } => {
                if let Some(route) = self.routes.get_mut(region_id) {
                    route.leader = *leader;
                }
            }
            Refusal::EpochNotMatch(regions) => {
                self.routes.remove(&region_id);
                for region in regions {
                    let route = Route { region: Region::clone(region), leader: None };
                    self.routes.insert(region.region_id(), route);
                }
            }
            Refusal::Busy(_) | Refusal::StaleCommand => {}
            _ => drop(self.routes.remove(&region_id)),
        }
        // What was told may be out of date itself; now and then the scheduler is asked again.
        if self.chance.percent(10) {
            self.routes.clear();
        }
    }

    fn pause_before_retry(&mut self) -> Moment {
        self.attempts += 1;
        self.chance.between(5 * MILLISECOND, 100 * MILLISECOND)
    }
}
