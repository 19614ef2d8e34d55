//! Members of a region take turns in standing for election.
//!
//! Each has a part of the time between the shortest election timeout and twice as much to itself, another part in every
//! term, and within the first half of it a moment of its own. So they hardly ever divide the votes by standing at once,
//! and none is always the first. What they agree on is drawn from region and term: nobody has to tell the others.

use skerry_proto::metapb::Region;

use crate::time::splitmix64;

/// After how many ticks without a leader a member stands. `own` is a draw of its own.
pub(super) fn election_timeout(
    region: &Region,
    member: u64,
    term: u64,
    own: u64,
    shortest: usize,
) -> usize {
    let before = region.peers.iter().filter(|peer| peer.id < member).count() as u64;
    let members = region.peers.len().max(1) as u64;
    let shared = splitmix64(splitmix64(region.id) ^ term);
    let turn = (before + shared % members) % members;
    let spread = u64::try_from(shortest).expect("a small number");
    let more = turn * spread / members + own % (spread / members / 2).max(1);
    shortest + usize::try_from(more).expect("below the shortest")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use skerry_proto::metapb::Peer;

    use super::*;

    const SHORTEST: usize = 10;

    fn timeouts(members: u64, term: u64) -> Vec<usize> {
        let peers = (1..=members).map(|id| Peer { id, store_id: id, ..Peer::default() }).collect();
        let region = Region { id: 7, peers, ..Region::default() };
        let of = |id: u64| {
            let own = splitmix64(id ^ term << 8);
            election_timeout(&region, id, term, own, SHORTEST)
        };
        (1..=members).map(of).collect()
    }

    #[test]
    fn no_two_members_stand_at_once() {
        for (members, term) in (1..=7).flat_map(|members| (1..200).map(move |term| (members, term)))
        {
            let mut timeouts = timeouts(members, term);
            assert!(timeouts.iter().all(|ticks| (SHORTEST..2 * SHORTEST).contains(ticks)));
            timeouts.sort_unstable();
            timeouts.dedup();
            assert_eq!(timeouts.len() as u64, members, "term {term}: {timeouts:?}");
        }
    }

    #[test]
    fn everybody_is_first_about_as_often() {
        let mut firsts: BTreeMap<usize, usize> = BTreeMap::new();
        for term in 1..=3_000 {
            let timeouts = timeouts(3, term);
            let first = (0..3).min_by_key(|member| timeouts[*member]).expect("three members");
            *firsts.entry(first).or_default() += 1;
        }
        assert!(firsts.values().all(|count| (900..1_100).contains(count)), "{firsts:?}");
    }
}
