//! Many keys with one operation: a request for each region that they lie in, all requests at the same time.
//!
//! 1. Keys are parted by the regions that are known; a region that is not is looked up.
//! 2. Each part goes to the leader of its region as one request. All of them are waited for.
//! 3. The keys of parts that missed (another leader, a region that was cut) are parted anew, after a pause as long as
//!    that of a single key, until all keys are done or the operation's time is over.
//!
//! The operation ends with its last part. It is no transaction: a part that is done stays done.

use bytes::Bytes;
use futures_util::future::join_all;
use skerry_proto::kvrpcpb::{Context, KvPair, RawBatchGetRequest, RawBatchPutRequest};
use skerry_raftstore::time::{Clock, SystemClock};

use super::{Cluster, FIRST_PAUSE, LAST_PAUSE, Line, Miss, Route, checked, lost};
use crate::error::{Error, Result};

/// Something that lies at a key.
trait Keyed: Clone {
    fn key(&self) -> &Bytes;
}

impl Keyed for Bytes {
    fn key(&self) -> &Bytes {
        self
    }
}

impl Keyed for KvPair {
    fn key(&self) -> &Bytes {
        &self.key
    }
}

/// What lies in one region.
struct Part<T> {
    /// Where the region ends; nothing if it is not known.
    end: Option<Vec<u8>>,
    /// Where the first of them lies, written as boundaries are.
    place: Vec<u8>,
    things: Vec<T>,
}

impl<T> Part<T> {
    /// Whether what lies at a place behind its first belongs to it. What has no known region is together, too.
    fn reaches(&self, place: &[u8]) -> bool {
        self.end.as_deref().is_none_or(|end| end.is_empty() || place < end)
    }
}

impl Cluster {
    /// Writes many pairs.
    pub(in crate::cli::bench) async fn put_many(&self, pairs: Vec<(Vec<u8>, Bytes)>) -> Result<()> {
        let pair = |(key, value): (Vec<u8>, Bytes)| {
            let key = self.space.key(&key);
            KvPair { key, value, ..KvPair::default() }
        };
        let put = |mut line: Line, context, pairs| async move {
            let request = RawBatchPutRequest { context, pairs, ..Default::default() };
            let answer = line.raw_batch_put(request).await.map_err(lost)?;
            checked(answer.region_error, &answer.error)
        };
        self.in_parts(pairs.into_iter().map(pair).collect(), |route| route, put).await.map(drop)
    }

    /// Reads many keys. Answers how many are there.
    pub(in crate::cli::bench) async fn get_many(&self, keys: Vec<Vec<u8>>) -> Result<usize> {
        let get = |mut line: Line, context, keys| async move {
            let request = RawBatchGetRequest { context, keys, ..Default::default() };
            let answer = line.raw_batch_get(request).await.map_err(lost)?;
            checked(answer.region_error, "")?;
            Ok(answer.pairs.len())
        };
        let keys = keys.iter().map(|key| self.space.key(key)).collect();
        Ok(self.in_parts(keys, self.readers(), get).await?.iter().sum())
    }

    /// Asks for all of them, until every part was answered or time is over.
    async fn in_parts<T: Keyed, A, F>(
        &self,
        mut rest: Vec<T>,
        choose: impl Fn(Route) -> Route,
        ask: impl Fn(Line, Option<Context>, Vec<T>) -> F,
    ) -> Result<Vec<A>>
    where
        F: Future<Output = std::result::Result<A, Miss>>,
    {
        let clock = SystemClock;
        let (began, mut pause, mut answers) = (clock.monotonic(), FIRST_PAUSE, Vec::new());
        rest.sort_unstable_by(|one, other| one.key().cmp(other.key()));
        loop {
            let parts = self.parted(std::mem::take(&mut rest)).await;
            let left = self.patience.saturating_sub(clock.monotonic() - began);
            let asked = parts.iter().map(|part| {
                let ask = |line, context| ask(line, context, part.things.clone());
                self.attempt_once(&part.place, left, &choose, ask)
            });
            let ended = join_all(asked).await;
            let mut missed = Vec::new();
            for (part, ended) in parts.into_iter().zip(ended) {
                match ended {
                    Ok(answer) => answers.push(answer),
                    Err(Miss::Never(reason)) => return Err(Error::Startup(reason)),
                    Err(Miss::Elsewhere(reason)) => missed.push((part, reason)),
                }
            }
            let Some((_, reason)) = missed.first() else { return Ok(answers) };
            if clock.monotonic() - began >= self.patience {
                return Err(Error::Startup(reason.clone()));
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LAST_PAUSE);
            for (part, _) in missed {
                self.begin_anew();
                self.look_up(&part.place).await;
                rest.extend(part.things);
            }
        }
    }

    /// Cuts what lies in the order of its keys where regions end.
    async fn parted<T: Keyed>(&self, things: Vec<T>) -> Vec<Part<T>> {
        let mut parts: Vec<Part<T>> = Vec::new();
        for thing in things {
            let place = self.space.region_key(thing.key());
            match parts.last_mut() {
                Some(part) if part.reaches(&place) => part.things.push(thing),
                _ => {
                    let end = self.end_of(&place).await;
                    parts.push(Part { end, place, things: vec![thing] });
                }
            }
        }
        parts
    }

    /// Where the region of a place ends, if it can be found out.
    async fn end_of(&self, place: &[u8]) -> Option<Vec<u8>> {
        let known = || self.route_of(place).map(|(end, _)| end);
        match known() {
            Some(end) => Some(end),
            None => {
                self.look_up(place).await;
                known()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_where_its_region_ends() {
        let part = |end: Option<&[u8]>| Part::<Bytes> {
            end: end.map(<[u8]>::to_vec),
            place: b"b".to_vec(),
            things: Vec::new(),
        };
        assert!(part(Some(b"d")).reaches(b"c") && !part(Some(b"d")).reaches(b"d"));
        assert!(part(Some(b"")).reaches(b"z"), "the last region has no end");
        assert!(part(None).reaches(b"z"), "what has no region waits together");
    }
}
