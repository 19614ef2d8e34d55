//! The network between stores: what is lost, doubled, late, or cut off.
//!
//! A link is a pair of stores and a direction. Each has its own manners, and a partition closes some of
//! them. Messages that are on their way when a link closes are lost or not by their luck at the
//! moment they were sent, as with packets in a buffer.

use std::collections::BTreeMap;

use super::chance::Chance;
use super::trace::{MILLISECOND, Moment, SECOND};

/// How a link treats messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Manners {
    /// Shortest and longest way.
    delay: (Moment, Moment),
    /// Of a hundred messages.
    lost: u64,
    doubled: u64,
    /// Of a hundred messages, those that wander for up to two seconds.
    wandering: u64,
}

const CALM: Manners = Manners { delay: (100, 2 * MILLISECOND), lost: 0, doubled: 0, wandering: 0 };
const ROUGH: Manners =
    Manners { delay: (100, 60 * MILLISECOND), lost: 5, doubled: 5, wandering: 2 };
/// What the course calls unreliable is a loss of one in ten; this also doubles, delays and reorders.
const UNRELIABLE: Manners =
    Manners { delay: (100, 20 * MILLISECOND), lost: 10, doubled: 5, wandering: 2 };
const DREADFUL: Manners =
    Manners { delay: (MILLISECOND, 300 * MILLISECOND), lost: 30, doubled: 10, wandering: 5 };

const LAGGING: Manners =
    Manners { delay: (300 * MILLISECOND, 3 * SECOND), lost: 0, doubled: 0, wandering: 0 };

/// How long a wandering message may wander.
const WANDERING_MAX: Moment = 2 * SECOND;

/// Who cannot hear whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One store alone.
    Isolated,
    /// Two sides.
    Halves,
    /// Two sides, and one store that hears both.
    Bridge,
    /// One store is heard by nobody, but hears all.
    Mute,
    /// One store hears nobody, but is heard by all.
    Deaf,
    /// Each hears only its neighbours.
    Ring,
    /// Any link may be closed.
    Random,
}

impl Shape {
    /// All of them.
    pub const ALL: [Shape; 7] = [
        Shape::Isolated,
        Shape::Halves,
        Shape::Bridge,
        Shape::Mute,
        Shape::Deaf,
        Shape::Ring,
        Shape::Random,
    ];
}

/// See the module. Stores are numbered from 0.
#[derive(Debug)]
pub struct Network {
    stores: usize,
    chance: Chance,
    closed: Vec<bool>,
    manners: Vec<Manners>,
}

impl Network {
    /// A calm network.
    pub fn new(stores: usize, seed: u64) -> Network {
        let links = stores * stores;
        Network {
            stores,
            chance: Chance::new(seed, "network"),
            closed: vec![false; links],
            manners: vec![CALM; links],
        }
    }

    /// One more store, to and from which all links are calm and open.
    pub fn join(&mut self) {
        let before = self.stores;
        self.stores += 1;
        let links = self.stores * self.stores;
        let closed = std::mem::replace(&mut self.closed, vec![false; links]);
        let manners = std::mem::replace(&mut self.manners, vec![CALM; links]);
        for from in 0..before {
            for to in 0..before {
                let (old, new) = (from * before + to, self.link(from, to));
                (self.closed[new], self.manners[new]) = (closed[old], manners[old]);
            }
        }
    }

    /// After how long a message arrives: never, once or twice.
    pub fn send(&mut self, from: usize, to: usize) -> [Option<Moment>; 2] {
        let link = self.link(from, to);
        let manners = self.manners[link];
        if self.closed[link] || self.chance.percent(manners.lost) {
            return [None, None];
        }
        let first = self.way(manners);
        let second = self.chance.percent(manners.doubled).then(|| self.way(manners));
        [Some(first), second]
    }

    /// Whether a long transfer would get through now.
    pub fn is_open(&self, from: usize, to: usize) -> bool {
        !self.closed[self.link(from, to)]
    }

    /// Cuts the network. Every cut replaces the one before.
    pub fn cut(&mut self, shape: Shape) {
        let mut order: Vec<usize> = (0..self.stores).collect();
        self.chance.shuffle(&mut order);
        let rank: BTreeMap<usize, usize> =
            order.iter().enumerate().map(|(rank, store)| (*store, rank)).collect();
        let left = self.chance.between(1, self.stores as u64 / 2) as usize;
        for from in 0..self.stores {
            for to in 0..self.stores {
                let (a, b) = (rank[&from], rank[&to]);
                let is_closed = match shape {
                    Shape::Isolated => a == 0 || b == 0,
                    Shape::Halves => (a < left) != (b < left),
                    Shape::Bridge => {
                        let last = self.stores - 1;
                        a != last && b != last && (a < left) != (b < left)
                    }
                    Shape::Mute => a == 0,
                    Shape::Deaf => b == 0,
                    Shape::Ring => ![1, self.stores - 1].contains(&a.abs_diff(b)),
                    Shape::Random => self.chance.percent(40),
                };
                let link = self.link(from, to);
                self.closed[link] = is_closed && from != to;
            }
        }
    }

    /// Cuts the network in two: `is_left` tells for each store on which side it is. Replaces the cut before.
    pub fn separate(&mut self, is_left: &[bool]) {
        for from in 0..self.stores {
            for to in 0..self.stores {
                let link = self.link(from, to);
                self.closed[link] = is_left[from] != is_left[to];
            }
        }
    }

    /// Closes the link from one store to another, in this direction, besides those that are closed already.
    pub fn close(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        self.closed[link] = from != to;
    }

    /// Opens all links.
    pub fn heal(&mut self) {
        self.closed.fill(false);
    }

    /// Lets all messages from one store to another take long.
    pub fn lag(&mut self, from: usize, to: usize) {
        let link = self.link(from, to);
        self.manners[link] = LAGGING;
    }

    /// Whether messages from one store to another take that long.
    pub fn lags(&self, from: usize, to: usize) -> bool {
        self.manners[self.link(from, to)] == LAGGING
    }

    /// Spoils some links.
    pub fn spoil(&mut self) {
        for link in 0..self.manners.len() {
            self.manners[link] = match self.chance.below(4) {
                0 => DREADFUL,
                1 | 2 => ROUGH,
                _ => CALM,
            };
        }
    }

    /// Makes all links equally bad, whatever they were.
    pub fn make_unreliable(&mut self) {
        self.manners.fill(UNRELIABLE);
    }

    /// Mends all links.
    pub fn mend(&mut self) {
        self.manners.fill(CALM);
    }

    fn link(&self, from: usize, to: usize) -> usize {
        from * self.stores + to
    }

    fn way(&mut self, manners: Manners) -> Moment {
        match self.chance.percent(manners.wandering) {
            true => self.chance.between(manners.delay.1, WANDERING_MAX),
            false => self.chance.between(manners.delay.0, manners.delay.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_links(network: &Network) -> usize {
        let pairs = (0..5).flat_map(|from| (0..5).map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to && network.is_open(*from, *to)).count()
    }

    #[test]
    fn every_shape_closes_the_links_that_its_name_says() {
        let expected = [
            (Shape::Isolated, 12..=12),
            (Shape::Halves, 8..=12),
            (Shape::Bridge, 12..=14),
            (Shape::Mute, 16..=16),
            (Shape::Deaf, 16..=16),
            (Shape::Ring, 10..=10),
            (Shape::Random, 2..=19),
        ];
        assert_eq!(expected.len(), Shape::ALL.len());
        for (shape, open) in expected {
            let mut network = Network::new(5, 1);
            assert_eq!(open_links(&network), 20);
            for _ in 0..20 {
                network.cut(shape);
                let links = open_links(&network);
                assert!(open.contains(&links), "{shape:?} leaves {links} links open");
            }
            network.heal();
            assert_eq!(open_links(&network), 20);
        }
    }

    #[test]
    fn one_link_is_closed_in_one_direction_besides_others() {
        let mut network = Network::new(5, 1);
        network.close(0, 1);
        network.close(0, 2);
        network.close(0, 0);
        assert_eq!(open_links(&network), 18);
        assert!(!network.is_open(0, 1) && network.is_open(1, 0) && network.is_open(0, 0));
    }

    #[test]
    fn who_joins_hears_everybody_and_changes_nothing_between_others() {
        let mut network = Network::new(5, 1);
        network.close(0, 1);
        network.close(4, 2);
        network.join();
        assert_eq!(open_links(&network), 18);
        assert!(!network.is_open(0, 1) && !network.is_open(4, 2));
        assert!((0..5).all(|other| network.is_open(5, other) && network.is_open(other, 5)));
    }

    #[test]
    fn a_calm_network_loses_nothing_and_a_spoiled_one_does_everything() {
        let mut network = Network::new(5, 2);
        assert!((0..1_000).all(|_| matches!(network.send(0, 1), [Some(_), None])));
        network.spoil();
        let mut seen = [0; 3];
        for link in 0..20_000 {
            let arrivals = network.send(link % 5, (link + 1) % 5);
            seen[arrivals.iter().flatten().count()] += 1;
        }
        assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
        network.mend();
        assert!((0..1_000).all(|_| matches!(network.send(0, 1), [Some(_), None])));
    }

    #[test]
    fn the_same_seed_draws_the_same_luck() {
        let draws = |seed| {
            let mut network = Network::new(3, seed);
            network.spoil();
            (0..100).map(|_| network.send(0, 1)).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }
}
