//! Circles of transactions that wait for each other, over all stores, as only somebody sees who sees all of them.
//!
//! 1. Every tenth of a second [`Circles::look`] is shown all waits there are, each with whoever has the lock by then,
//!    and remembers since when each is as it is. A circle all of whose waits have stood for [`CIRCLE_LIFE`] should have
//!    been broken: a wait is told again every half second, and whichever is told last closes the circle.
//! 2. Circles that the detector names must be circles of waits that were there ([`Circles::named`]).
//!
//! # What counts
//!
//! A wait stands since the last of these moments, and not at all unless all are so, because the design promises
//! nothing before:
//!
//! * It began, or the lock got into the hands that it is in. By then it is told anew.
//! * Its store got its line to the detector, whose words do not take seconds, and does its work: what cannot be told is
//!   not known. A line that broke is made again after a fifth of a second.
//! * The detector came to be the only store that leads the region of the empty key, and awake: a new one knows nothing,
//!   and of two each knows a half.
//!
//! A wait whose store has not led the key's region in one term all the time does not count: locks have come and gone
//! elsewhere, and its store does not know for whom it waits. It ends when it has lasted for long enough, as without a
//! detector.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use skerry_kv::mvcc::{Key, Lock};
use skerry_kv::txn::deadlock::EDGE_LIFE;
use skerry_kv::txn::lock_waits::Edge;
use skerry_proto::deadlock::{DeadlockResponse, WaitForEntry};
use skerry_proto::types::Ts;
use skerry_raftstore::engine::{ColumnFamily, View};

use super::{Broken, CIRCLES_BREAK, NAMED_TRULY, hold};
use crate::sim::trace::{Moment, SECOND};

/// How long a circle may last.
const CIRCLE_LIFE: Moment = SECOND;

/// How long ago a wait may have ended that the detector names: that was not told, it was told two seconds late, and the
/// clock of the detector is slow.
const NAMED_AFTER_MAX: Moment = EDGE_LIFE.as_micros() as Moment * 21 / 20 + 2 * SECOND;

/// Who is the detector: the number of a store, its life, and the term in which it leads.
pub type Seat = (usize, u64, u64);

/// A region that a store leads, and the term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign(pub u64, pub u64);

/// A wait, as it stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The store, its life, and the number of the wait there.
    pub wait: (usize, u64, u64),
    /// The transaction that waits.
    pub waiter: Ts,
    /// For this key.
    pub key: Key,
    /// Who has it.
    pub holder: Ts,
    /// Under which its store leads the region of the key, if it does.
    pub reign: Option<Reign>,
}

/// Something, and since when it is so.
#[derive(Clone, Copy, Debug, Default)]
struct Since<T> {
    is: T,
    since: Moment,
}

impl<T: PartialEq> Since<T> {
    fn becomes(&mut self, is: T, now: Moment) {
        if self.is != is {
            *self = Since { is, since: now };
        }
    }
}

/// What is known of a wait.
struct Known {
    holder: Since<Ts>,
    /// Under which it began; nothing if that was not all the time.
    reign: Option<Reign>,
}

/// See the module.
#[derive(Default)]
pub struct Circles {
    seat: Since<Option<Seat>>,
    /// By the number of the store: its life, and the number of its line to that detector.
    lines: Vec<Since<Option<(u64, u64)>>>,
    waits: BTreeMap<(usize, u64, u64), Known>,
    /// When each edge - who waits, for which key, for whom - was last there.
    seen: BTreeMap<(Ts, Bytes, Ts), Moment>,
}

impl Circles {
    /// Everything that waits now. `lines` has for each store its life and the number of its line to the detector, if
    /// both are well.
    pub fn look(
        &mut self,
        now: Moment,
        seat: Option<Seat>,
        lines: Vec<Option<(u64, u64)>>,
        standing: Vec<Standing>,
    ) -> Result<(), Broken> {
        self.seat.becomes(seat, now);
        self.lines.resize(lines.len(), Since::default());
        for (known, line) in self.lines.iter_mut().zip(lines) {
            known.becomes(line, now);
        }
        let waits: BTreeSet<_> = standing.iter().map(|standing| standing.wait).collect();
        self.waits.retain(|wait, _| waits.contains(wait));
        for Standing { wait, holder, reign, .. } in &standing {
            let holder = Since { is: *holder, since: now };
            let fresh = Known { holder, reign: *reign };
            let known = self.waits.entry(*wait).or_insert(fresh);
            known.holder.becomes(holder.is, now);
            known.reign = known.reign.filter(|before| Some(*before) == *reign);
        }
        self.seen.retain(|_, seen| now - *seen <= NAMED_AFTER_MAX);
        let long = |standing: &&Standing| {
            self.stands_since(standing).is_some_and(|since| now - since >= CIRCLE_LIFE)
        };
        let long: Vec<&Standing> = standing.iter().filter(long).collect();
        let circle = circle_among(&long);
        hold(circle.is_none(), CIRCLES_BREAK, || {
            let circle = circle.into_iter().flatten();
            let edges = circle.map(|Standing { wait, waiter, key, holder, .. }| {
                format!("{waiter} waits for {holder} at {key:?}, store {}", wait.0 + 1)
            });
            edges.collect::<Vec<_>>().join("; ")
        })
    }

    /// Since when all is so that a wait counts; nothing if it does not.
    fn stands_since(&self, standing: &Standing) -> Option<Moment> {
        let (line, known) = (&self.lines[standing.wait.0], &self.waits[&standing.wait]);
        let counts = self.seat.is.is_some() && line.is.is_some() && known.reign.is_some();
        counts.then(|| self.seat.since.max(line.since).max(known.holder.since))
    }

    /// These waits are there now.
    pub fn saw(&mut self, edges: &[Edge], now: Moment) {
        for edge in edges {
            let key = edge.key.user_key().expect("clients form their keys themselves");
            self.seen.insert((edge.waiter, key, edge.holder), now);
        }
    }

    /// The detector names a circle.
    pub fn named(&self, answer: &DeadlockResponse, now: Moment) -> Result<(), Broken> {
        let edges: Vec<&WaitForEntry> = answer.entry.iter().chain(&answer.wait_chain).collect();
        let next = edges.iter().cycle().skip(1);
        let is_closed = edges.iter().zip(next).all(|(edge, next)| edge.wait_for_txn == next.txn);
        let was_there = |edge: &&WaitForEntry| {
            let (waiter, holder) = (Ts::from(edge.txn), Ts::from(edge.wait_for_txn));
            let seen = self.seen.get(&(waiter, edge.key.clone(), holder));
            seen.is_some_and(|seen| now - seen <= NAMED_AFTER_MAX)
        };
        let is_true = edges.len() >= 2 && is_closed && edges.iter().all(was_there);
        hold(is_true, NAMED_TRULY, || format!("{answer:?}"))
    }
}

/// Who has locked a key, as a store shows it.
pub fn holder_of(view: &dyn View, key: &Key) -> Option<Ts> {
    let bytes = view.get(ColumnFamily::Lock, key.as_bytes()).expect("memory is read")?;
    Some(Lock::decode(&bytes).expect("a store encoded it").start_ts)
}

/// Waits that lead from one back to itself, if there are such.
fn circle_among<'a>(waits: &[&'a Standing]) -> Option<Vec<&'a Standing>> {
    waits.iter().find_map(|first| {
        let mut reached = BTreeSet::from([first.holder]);
        let mut ways: Vec<Vec<&'a Standing>> = vec![vec![*first]];
        while let Some(way) = ways.pop() {
            let end = way.last().expect("a way has a first step").holder;
            if end == first.waiter {
                return Some(way);
            }
            for next in waits.iter().filter(|next| next.waiter == end) {
                if next.holder == first.waiter || reached.insert(next.holder) {
                    ways.push(way.iter().copied().chain([*next]).collect());
                }
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::trace::MILLISECOND;

    const SEAT: Option<Seat> = Some((0, 1, 6));
    const REIGN: Reign = Reign(2, 6);

    fn wait(store: usize, waiter: u64, holder: u64) -> Standing {
        Standing {
            wait: (store, 1, waiter),
            waiter: Ts::from(waiter),
            key: Key::of(&[b'a' + holder as u8]),
            holder: Ts::from(holder),
            reign: Some(REIGN),
        }
    }

    /// 1 waits for 2 waits for 3 waits for 1, on two stores.
    fn circle() -> Vec<Standing> {
        vec![wait(0, 1, 2), wait(1, 2, 3), wait(1, 3, 1), wait(0, 4, 1)]
    }

    fn lines() -> Vec<Option<(u64, u64)>> {
        vec![Some((1, 1)), Some((1, 3))]
    }

    /// Looks every tenth of a second; when the circle was too old.
    fn found(
        mut at: impl FnMut(Moment) -> (Option<Seat>, Vec<Option<(u64, u64)>>, Vec<Standing>),
    ) -> Option<u64> {
        let mut circles = Circles::default();
        (1..40).find(|tenth| {
            let now = tenth * 100 * MILLISECOND;
            let (seat, lines, standing) = at(*tenth);
            circles.look(now, seat, lines, standing).is_err()
        })
    }

    #[test]
    fn a_circle_that_lasts_for_a_second_is_found() {
        assert_eq!(found(|_| (SEAT, lines(), circle())), Some(11));
        assert_eq!(found(|_| (SEAT, lines(), circle().split_off(1))), None, "it is open");
    }

    #[test]
    fn time_begins_anew_with_every_change_that_the_detector_has_to_hear_of() {
        let seat = |tenth| if tenth < 8 { SEAT } else { Some((1, 1, 7)) };
        assert_eq!(found(|tenth| (seat(tenth), lines(), circle())), Some(18));
        let line = |tenth| if tenth < 6 { lines() } else { vec![Some((1, 1)), Some((1, 4))] };
        assert_eq!(found(|tenth| (SEAT, line(tenth), circle())), Some(16));
        let held = |tenth| match tenth {
            0..9 => vec![wait(0, 1, 9), wait(1, 2, 3), wait(1, 3, 1)],
            _ => circle(),
        };
        assert_eq!(found(|tenth| (SEAT, lines(), held(tenth))), Some(19));
    }

    #[test]
    fn nothing_is_promised_without_a_detector_or_a_line_or_where_another_store_has_led() {
        assert_eq!(found(|_| (None, lines(), circle())), None);
        assert_eq!(found(|_| (SEAT, vec![Some((1, 1)), None], circle())), None);
        let elsewhere = |tenth| {
            let mut circle = circle();
            circle[1].reign = if tenth == 3 { None } else { Some(REIGN) };
            circle
        };
        assert_eq!(found(|tenth| (SEAT, lines(), elsewhere(tenth))), None);
    }

    #[test]
    fn a_named_circle_must_be_closed_and_have_been_there() {
        let entry = |txn, wait_for_txn, key: &'static str| WaitForEntry {
            txn,
            wait_for_txn,
            key: key.into(),
            ..WaitForEntry::default()
        };
        let edge = |waiter: u64, holder: u64, key: &str| Edge {
            waiter: Ts::from(waiter),
            holder: Ts::from(holder),
            key: Key::of(key.as_bytes()),
            tag: Bytes::new(),
            waited_ms: 0,
        };
        let mut circles = Circles::default();
        circles.saw(&[edge(1, 2, "b"), edge(2, 1, "a"), edge(3, 1, "a")], SECOND);
        let named = |refused, back: &[WaitForEntry]| DeadlockResponse {
            entry: Some(refused),
            wait_chain: back.to_vec(),
            ..DeadlockResponse::default()
        };
        let whole = named(entry(2, 1, "a"), &[entry(1, 2, "b")]);
        assert!(circles.named(&whole, 2 * SECOND).is_ok());
        assert!(circles.named(&whole, 9 * SECOND).is_err(), "that was long ago");
        let open = named(entry(3, 1, "a"), &[entry(1, 2, "b")]);
        assert!(circles.named(&open, SECOND).is_err());
        let made_up = named(entry(2, 1, "c"), &[entry(1, 2, "b")]);
        assert!(circles.named(&made_up, SECOND).is_err());
    }
}
