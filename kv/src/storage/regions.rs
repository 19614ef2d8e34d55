//! The API version of a cluster, and the fixed regions of a standalone store that follow from it.
//!
//! A standalone store never splits, so its regions are made once, when the cluster is bootstrapped.
//! With API V1 one region holds every key that anybody uses, and a second what lies above eight bytes of
//! 0xFF. With API V2 the DEFAULT keyspace (id 0) has a region of its own for raw data and one for
//! transactions, with three more around them:
//!
//! ```text
//! ""  ── enc(r000000) ── enc(r000001) ── enc(x000000) ── enc(x000001) ── ""
//!  before     raw data      between       transactions      after
//! ```
//!
//! The cuts at `enc(r000001)` and, with V1, at [`V1_LAST_CUT`] are not for balance. A client that scans
//! goes on from region to region until a boundary reaches the end of its range; if the raw data ended in
//! an open region it would start again at the empty key, and answer pairs twice or never stop. A V1 scan
//! *without* an end has no such boundary: what its client then does is the client's.

use std::fmt;

use bytes::Bytes;
use skerry_proto::codec::{self, KeyMode};
use skerry_proto::types::{KeyspaceId, StoreId};
use skerry_proto::{kvrpcpb, metapb};

use crate::error::{Error, Result};

/// What the last region of API V1 begins with, encoded: transactional clients decode every boundary.
const V1_LAST_CUT: [u8; 8] = [0xFF; 8];

/// How keys are formed on the wire and in the engine. Fixed when the cluster is bootstrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ApiVersion {
    /// Raw keys are whatever the application sends, and lie in the engine as they are.
    #[default]
    V1,
    /// Keys carry a mode and a keyspace, and lie in the engine in memcomparable form.
    V2,
}

impl ApiVersion {
    /// The version of that number, as in `--api-version`.
    pub fn from_number(number: u32) -> Option<ApiVersion> {
        match number {
            1 => Some(ApiVersion::V1),
            2 => Some(ApiVersion::V2),
            _ => None,
        }
    }

    /// The number of this version.
    pub fn number(self) -> u32 {
        match self {
            ApiVersion::V1 => 1,
            ApiVersion::V2 => 2,
        }
    }

    /// The number of this version in requests.
    pub fn to_wire(self) -> i32 {
        match self {
            ApiVersion::V1 => kvrpcpb::ApiVersion::V1.into(),
            ApiVersion::V2 => kvrpcpb::ApiVersion::V2.into(),
        }
    }

    /// Refuses a request whose context has another version than this. V1 and V1TTL are one here: every value can have
    /// a TTL.
    pub fn check(self, api_version: i32) -> Result<()> {
        use kvrpcpb::ApiVersion as Wire;
        let (of_client, request) = match Wire::try_from(api_version) {
            Ok(Wire::V1) => (Some(ApiVersion::V1), "API V1"),
            Ok(Wire::V1ttl) => (Some(ApiVersion::V1), "API V1TTL"),
            Ok(Wire::V2) => (Some(ApiVersion::V2), "API V2"),
            Err(_unknown) => (None, "of an unknown API version"),
        };
        if of_client == Some(self) {
            return Ok(());
        }
        Err(Error::ApiVersionNotMatch { request, cluster: self })
    }

    /// What somebody with the wrong client should do.
    pub fn client_hint(self) -> &'static str {
        match self {
            ApiVersion::V1 => "a client without a keyspace",
            ApiVersion::V2 => "a client with a keyspace (for example \"DEFAULT\")",
        }
    }

    /// Where the regions of a standalone store are cut, in ascending order and in the form of
    /// boundaries.
    pub fn boundaries(self) -> Vec<Bytes> {
        match self {
            ApiVersion::V1 => vec![codec::encode_bytes(&V1_LAST_CUT).into()],
            ApiVersion::V2 => {
                let bounds = |mode| codec::keyspace_bounds(mode, KeyspaceId::DEFAULT);
                let (raw, transactional) = (bounds(KeyMode::Raw), bounds(KeyMode::Transactional));
                let cuts = [raw.0, raw.1, transactional.0, transactional.1];
                cuts.into_iter().map(Bytes::from).collect()
            }
        }
    }

    /// How many regions a standalone store has.
    pub fn region_count(self) -> usize {
        self.boundaries().len() + 1
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "API V{}", self.number())
    }
}

/// The regions of a standalone store, by start key. `ids` are fresh ids of the scheduler: for each
/// region one for itself and one for its only peer.
pub fn fixed_regions(version: ApiVersion, store_id: StoreId, ids: &[u64]) -> Vec<metapb::Region> {
    let boundaries = version.boundaries();
    assert_eq!(ids.len(), 2 * version.region_count(), "a region needs an id and a peer id");
    let starts = std::iter::once(Bytes::new()).chain(boundaries.iter().cloned());
    let ends = boundaries.iter().cloned().chain(std::iter::once(Bytes::new()));
    let region = |((start_key, end_key), ids): ((Bytes, Bytes), &[u64])| metapb::Region {
        id: ids[0],
        start_key,
        end_key,
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
        peers: vec![metapb::Peer { id: ids[1], store_id: store_id.get(), ..Default::default() }],
    };
    starts.zip(ends).zip(ids.chunks(2)).map(region).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_tile_the_key_space_and_raw_data_has_one_of_its_own() {
        let ids: Vec<u64> = (1..=10).collect();
        let regions = fixed_regions(ApiVersion::V2, StoreId::new(9), &ids);
        assert!(regions[0].start_key.is_empty() && regions[4].end_key.is_empty());
        for pair in regions.windows(2) {
            assert!(pair[0].end_key == pair[1].start_key && pair[0].start_key < pair[0].end_key);
        }
        assert!(regions[1].contains_key(&codec::encode_bytes(b"r\0\0\0user key")));
        assert!(regions[3].contains_key(&codec::encode_bytes(b"x\0\0\0user key")));
        assert_eq!(
            (regions[1].id, regions[1].peers[0].id, regions[1].peers[0].store_id),
            (3, 4, 9)
        );
    }

    #[test]
    fn version_1_has_a_boundary_above_every_key_in_use_that_all_clients_can_decode() {
        let regions = fixed_regions(ApiVersion::V1, StoreId::new(9), &[5, 6, 7, 8]);
        assert_eq!(regions.len(), 2);
        assert!(regions[0].start_key.is_empty() && regions[1].end_key.is_empty());
        assert!(regions[0].contains_key(b"zebra") && regions[0].contains_key(&[0xFF; 7]));
        let (decoded, rest) = codec::decode_bytes(&regions[0].end_key).expect("a whole boundary");
        assert_eq!((&decoded[..], rest), (&V1_LAST_CUT[..], &b""[..]));
    }
}
