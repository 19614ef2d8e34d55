//! What is measured: our own cluster, or a peer. The load is the same; only what carries it differs.

use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;

use super::cluster::Cluster;
use super::etcd::Etcd;
use super::line::Api;
use super::redis::Redis;
use crate::error::{Error, Result};

/// Whose servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum System {
    /// This one
    Skerry,
    /// etcd: linearizable reads and writes, three members
    Etcd,
    /// Redis, not replicated, every write synced
    Redis,
}

impl System {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }
}

/// How clients reach it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    pub(super) api: Api,
    /// Connections to each server that all clients share.
    pub(super) connections: usize,
    /// For Redis, whose clients share none.
    pub(super) clients: usize,
    pub(super) patience: Duration,
    /// Our own gets take turns at all replicas.
    pub(super) replica_read: bool,
    /// How long an attempt at etcd may take ([`super::etcd`] says why).
    pub(super) attempt: Duration,
}

/// A system with its clients.
pub(super) enum Target {
    Skerry(Box<Cluster>),
    Etcd(Etcd),
    Redis(Redis),
}

impl Target {
    /// Finds the servers that are behind these addresses.
    pub(super) async fn connect(
        system: System,
        addresses: &[String],
        reach: Reach,
    ) -> Result<Target> {
        let Reach { api, connections, clients, patience, replica_read, attempt } = reach;
        if system != System::Skerry && api == Api::Batch {
            return Err(Error::Startup(format!("{} has no batch commands", system.name())));
        }
        Ok(match system {
            System::Skerry => {
                let cluster = Cluster::connect(addresses, api, connections, patience).await?;
                Target::Skerry(Box::new(cluster.reading_anywhere(replica_read)))
            }
            System::Etcd => Target::Etcd(Etcd::connect(addresses, connections, patience, attempt)?),
            System::Redis => Target::Redis(Redis::connect(&addresses[0], clients, patience)?),
        })
    }

    /// Our own cluster; whatever only it can do asks so.
    pub(super) fn own(&self) -> Result<&Cluster> {
        match self {
            Target::Skerry(cluster) => Ok(cluster),
            _ => Err(Error::Startup("this is measured on Skerry alone".to_string())),
        }
    }

    pub(super) async fn get(&self, client: usize, key: &[u8]) -> Result<Option<Bytes>> {
        match self {
            Target::Skerry(cluster) => cluster.get(key).await,
            Target::Etcd(etcd) => etcd.get(key).await,
            Target::Redis(redis) => redis.get(client, key).await,
        }
    }

    pub(super) async fn put(&self, client: usize, key: &[u8], value: Bytes) -> Result<()> {
        match self {
            Target::Skerry(cluster) => cluster.put(key, value).await,
            Target::Etcd(etcd) => etcd.put(key, value).await,
            Target::Redis(redis) => redis.put(client, key, &value).await,
        }
    }

    pub(super) async fn scan(&self, key: &[u8], limit: u32) -> Result<usize> {
        match self {
            Target::Skerry(cluster) => cluster.scan(key, limit).await,
            Target::Etcd(etcd) => etcd.scan(key, limit).await,
            Target::Redis(_) => Err(Error::Startup("Redis keeps keys in no order".to_string())),
        }
    }

    /// Writes many pairs with one request: of ours, one for each region that they lie in, side by side.
    pub(super) async fn put_many(&self, client: usize, pairs: Vec<(Vec<u8>, Bytes)>) -> Result<()> {
        match self {
            Target::Skerry(cluster) => cluster.put_many(pairs).await,
            Target::Etcd(etcd) => etcd.put_many(pairs).await,
            Target::Redis(redis) => redis.put_many(client, &pairs).await,
        }
    }

    /// Reads many keys in the same way. Answers how many are there.
    pub(super) async fn get_many(&self, client: usize, keys: Vec<Vec<u8>>) -> Result<usize> {
        match self {
            Target::Skerry(cluster) => cluster.get_many(keys).await,
            Target::Etcd(etcd) => etcd.get_many(keys).await,
            Target::Redis(redis) => redis.get_many(client, &keys).await,
        }
    }

    /// Attempts that had to be repeated so far.
    pub(super) fn repeated(&self) -> u64 {
        match self {
            Target::Skerry(cluster) => cluster.repeated(),
            Target::Etcd(etcd) => etcd.repeated(),
            Target::Redis(_) => 0,
        }
    }

    /// Parts that are written independently of each other.
    pub(super) fn regions(&self) -> usize {
        match self {
            Target::Skerry(cluster) => cluster.regions(),
            Target::Etcd(_) | Target::Redis(_) => 1,
        }
    }
}
