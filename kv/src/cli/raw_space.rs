//! Raw keys as requests carry them and as regions are bounded by them: the same on API version 1; in version 2
//! inside the keyspace DEFAULT, and encoded in the boundaries.

use bytes::Bytes;
use skerry_proto::codec::{KeyMode, encode_bytes, keyspace_bounds, keyspace_prefix};
use skerry_proto::types::KeyspaceId;
use skerry_proto::{kvrpcpb, metapb};

use crate::error::Result;
use crate::net::SchedulerClient;
use crate::storage::ApiVersion;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawSpace {
    version: ApiVersion,
}

impl RawSpace {
    /// That of a running cluster. Only one of API version 2 has a region that begins where the keyspace DEFAULT
    /// does.
    pub(super) async fn of(scheduler: &SchedulerClient) -> Result<RawSpace> {
        let (start, _) = keyspace_bounds(KeyMode::Raw, KeyspaceId::DEFAULT);
        let region = scheduler.region(&start).await?.region;
        let is_bounded = region.is_some_and(|region| region.start_key == start);
        Ok(RawSpace { version: if is_bounded { ApiVersion::V2 } else { ApiVersion::V1 } })
    }

    /// Whether keys are stored as clients send them, without a keyspace.
    pub(super) fn is_plain(&self) -> bool {
        self.version == ApiVersion::V1
    }

    /// A key as requests carry it.
    pub(super) fn key(&self, key: &[u8]) -> Bytes {
        match self.version {
            ApiVersion::V1 => Bytes::copy_from_slice(key),
            ApiVersion::V2 => {
                [&keyspace_prefix(KeyMode::Raw, KeyspaceId::DEFAULT)[..], key].concat().into()
            }
        }
    }

    /// The end of everything, as requests carry it.
    pub(super) fn last(&self) -> Bytes {
        match self.version {
            ApiVersion::V1 => Bytes::new(),
            ApiVersion::V2 => {
                let mut prefix = keyspace_prefix(KeyMode::Raw, KeyspaceId::DEFAULT);
                let last = prefix.last_mut().expect("a prefix has bytes");
                *last += 1;
                Bytes::copy_from_slice(&prefix[..])
            }
        }
    }

    /// A key of a request as boundaries of regions are written.
    pub(super) fn region_key(&self, key: &[u8]) -> Vec<u8> {
        match self.version {
            ApiVersion::V1 => key.to_vec(),
            ApiVersion::V2 => encode_bytes(key),
        }
    }

    /// An end of a range as boundaries of regions are written; nothing is the end of everything.
    pub(super) fn region_key_of_end(&self, end: &[u8]) -> Vec<u8> {
        if end.is_empty() { Vec::new() } else { self.region_key(end) }
    }

    /// What a request says about the region that it is for.
    pub(super) fn context(
        &self,
        region: &metapb::Region,
        leader: metapb::Peer,
    ) -> kvrpcpb::Context {
        kvrpcpb::Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: Some(leader),
            api_version: match self.version {
                ApiVersion::V1 => kvrpcpb::ApiVersion::V1.into(),
                ApiVersion::V2 => kvrpcpb::ApiVersion::V2.into(),
            },
            ..Default::default()
        }
    }
}
