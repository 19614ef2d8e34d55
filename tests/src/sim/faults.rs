//! What goes wrong, and when. The plan of a seed is drawn as the run goes: a fault every second or so, each
//! with a time to end.
//!
//! Faults may come together (a partition and a crash and a slow disk), but never so that a majority of
//! stores is down for good: every store comes back. Everything is over when the safety phase ends.

use super::chance::Chance;
use super::network::Shape;
use super::trace::{MILLISECOND, Moment, SECOND};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A store loses power at once.
    PowerLoss(usize),
    /// A store loses power in the middle of a turn: after so many more writes.
    PowerLossAtWrite(usize, u64),
    /// All stores lose power at the same moment.
    Blackout,
    /// A store's process dies; its disk keeps everything written.
    Kill(usize),
    /// A store does nothing for a while, and then goes on as if nothing had been.
    Pause(usize),
    /// The network is cut.
    Partition(Shape),
    /// Links lose, double, reorder and delay.
    Spoil,
    /// The clocks and ticks of all stores change their pace.
    Drift,
    /// A store's disk becomes slow.
    SlowDisk(usize),
    /// A store's disk has no room for another snapshot.
    FullDisk(usize),
    /// Some actors of a store stop while the others go on.
    Stall(usize, Part),
    /// Both followers of a leader pause, for about as long as they would wait for it.
    Doze,
    /// A follower does not hear its leader for long. Then the leader is cut off, and the follower that has kept
    /// it in office restarts.
    Rival,
    /// A leader is heard and hears nobody.
    DeafLeader,
    /// A leader is cut off, and hears for long what was said to it before.
    Echo,
}

/// A kind of actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Raft workers.
    Workers,
    /// The log writer.
    LogWriter,
    /// Apply workers.
    Appliers,
    /// The store actor.
    Store,
    /// The background.
    Background,
}

impl Fault {
    /// Its name in the counts.
    pub fn name(self) -> &'static str {
        match self {
            Fault::PowerLoss(_) => "fault: power loss",
            Fault::PowerLossAtWrite(..) => "fault: power loss at a write",
            Fault::Blackout => "fault: blackout",
            Fault::Kill(_) => "fault: kill",
            Fault::Pause(_) => "fault: pause",
            Fault::Partition(_) => "fault: partition",
            Fault::Spoil => "fault: bad network",
            Fault::Drift => "fault: clock drift",
            Fault::SlowDisk(_) => "fault: slow disk",
            Fault::FullDisk(_) => "fault: full disk",
            Fault::Stall(..) => "fault: stall",
            Fault::Doze => "fault: doze",
            Fault::Rival => "fault: rival",
            Fault::DeafLeader => "fault: deaf leader",
            Fault::Echo => "fault: echo",
        }
    }

    /// All names, for a check that each occurs.
    pub const NAMES: [&'static str; 15] = [
        "fault: power loss",
        "fault: power loss at a write",
        "fault: blackout",
        "fault: kill",
        "fault: pause",
        "fault: partition",
        "fault: bad network",
        "fault: clock drift",
        "fault: slow disk",
        "fault: full disk",
        "fault: stall",
        "fault: doze",
        "fault: rival",
        "fault: deaf leader",
        "fault: echo",
    ];
}

/// What can stall. The apply workers are the most likely: what others know before them is most of it.
const PARTS: [Part; 6] =
    [Part::Appliers, Part::Appliers, Part::LogWriter, Part::Workers, Part::Store, Part::Background];

/// Draws faults.
#[derive(Debug)]
pub struct Plan {
    chance: Chance,
    stores: usize,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(stores: usize, seed: u64) -> Plan {
        Plan { chance: Chance::new(seed, "faults"), stores }
    }

    /// How long until the next fault begins.
    pub fn pause(&mut self) -> Moment {
        self.chance.between(300 * MILLISECOND, 5 * SECOND / 2)
    }

    /// The next fault, and how long it lasts.
    pub fn next_fault(&mut self) -> (Fault, Moment) {
        let store = self.chance.place(self.stores);
        let fault = match self.chance.below(120) {
            0..12 => Fault::PowerLoss(store),
            12..28 => Fault::PowerLossAtWrite(store, self.chance.between(0, 30)),
            28..31 => Fault::Blackout,
            31..42 => Fault::Kill(store),
            42..53 => Fault::Pause(store),
            53..70 => {
                Fault::Partition(self.chance.pick(&Shape::ALL).expect("there are several shapes"))
            }
            70..77 => Fault::Spoil,
            77..83 => Fault::Drift,
            83..90 => Fault::SlowDisk(store),
            100..103 => Fault::FullDisk(store),
            103..108 => Fault::Doze,
            108..112 => Fault::Rival,
            112..116 => Fault::DeafLeader,
            116.. => Fault::Echo,
            _ => Fault::Stall(store, self.chance.pick(&PARTS).expect("there are several parts")),
        };
        let lasts = match fault {
            // Short enough to come back while others still believe in it, long enough to be given up.
            Fault::Pause(_) => self.chance.between(300 * MILLISECOND, 4 * SECOND),
            Fault::Kill(_) | Fault::PowerLoss(_) if self.chance.percent(40) => {
                // Back before anybody has given it up.
                self.chance.between(MILLISECOND, 300 * MILLISECOND)
            }
            Fault::Blackout => self.chance.between(200 * MILLISECOND, 2 * SECOND),
            Fault::Doze => self.chance.between(SECOND, 17 * SECOND / 10),
            Fault::DeafLeader => self.chance.between(SECOND, 5 * SECOND / 2),
            Fault::Echo => self.chance.between(7 * SECOND / 2, 5 * SECOND),
            Fault::Rival => self.chance.between(3 * SECOND / 2, 3 * SECOND),
            _ => self.chance.between(200 * MILLISECOND, 6 * SECOND),
        };
        (fault, lasts)
    }

    /// How much later than the others a store comes back after a blackout.
    pub fn stagger(&mut self) -> Moment {
        self.chance.below(SECOND)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_plan_draws_every_fault_by_a_name_that_is_listed() {
        let mut plan = Plan::new(5, 1);
        let drawn: BTreeSet<_> = (0..1_000).map(|_| plan.next_fault().0.name()).collect();
        assert_eq!(drawn, BTreeSet::from(Fault::NAMES));
    }
}
