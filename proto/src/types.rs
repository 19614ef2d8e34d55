//! Numbers that mean something, each with a type of its own, so that a term is never passed for an
//! index. The wire has plain integers; conversion happens where a message is read or built.
//!
//! Each prints as one short word (`r12`, `p3`, `t7`): the form in which logs, assertions and golden
//! files mention it.

use std::fmt;

use crate::error::{Error, Result};

/// Defines one such type. The six below differ in name and first letter only; written out they
/// would be 150 equal lines, in which a difference would hide.
macro_rules! number {
    ($(#[$documentation:meta])* $name:ident, $letter:literal) => {
        $(#[$documentation])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a number; for constants, where `From` cannot be used.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The plain number, as the wire has it.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

number! {
    /// A cluster: chosen at random once, never 0.
    ClusterId, "c"
}
number! {
    /// A store. Stores, regions and peers draw their ids from one sequence of the scheduler, so
    /// the same number never names two of them. 0 means "none".
    StoreId, "s"
}
number! {
    /// A region. See [`StoreId`] for where ids come from.
    RegionId, "r"
}
number! {
    /// One replica of a region on one store. A replica that leaves and returns has a new id. See
    /// [`StoreId`] for where ids come from.
    PeerId, "p"
}
number! {
    /// A raft term. 0 is before the first election.
    Term, "t"
}
number! {
    /// A position in a raft log. 0 is before the first entry.
    LogIndex, "i"
}

/// A timestamp of the scheduler: milliseconds since the Unix epoch in the upper 46 bits, and a
/// counter within the millisecond in the lower 18. Transactions are ordered by it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ts(u64);

impl Ts {
    /// Bits of the counter.
    pub const LOGICAL_BITS: u32 = 18;
    /// How many timestamps one millisecond has.
    pub const LOGICAL_COUNT: u64 = 1 << Self::LOGICAL_BITS;
    /// The last millisecond that fits, in the year 4199.
    pub const PHYSICAL_MS_MAX: u64 = u64::MAX >> Self::LOGICAL_BITS;
    /// Before all others. In messages it means "none".
    pub const ZERO: Self = Self(0);
    /// After all others. In a read it means "the newest".
    pub const MAX: Self = Self(u64::MAX);

    /// The timestamp number `logical` of a millisecond. Both parts must fit: a counter that ran
    /// over would give out timestamps of the next millisecond, and they would be given out again.
    pub const fn compose(physical_ms: u64, logical: u64) -> Self {
        assert!(physical_ms <= Self::PHYSICAL_MS_MAX, "milliseconds do not fit into 46 bits");
        assert!(logical < Self::LOGICAL_COUNT, "counter does not fit into 18 bits");
        Self(physical_ms << Self::LOGICAL_BITS | logical)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn physical_ms(self) -> u64 {
        self.0 >> Self::LOGICAL_BITS
    }

    /// The counter within the millisecond.
    pub const fn logical(self) -> u64 {
        self.0 & (Self::LOGICAL_COUNT - 1)
    }

    /// The one right after this. There is none after [`Ts::MAX`], which stays what it is.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one right before this. There is none before [`Ts::ZERO`], which stays what it is.
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The plain number, as the wire has it.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for Ts {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

/// `1700000000000.3`, or `max`.
impl fmt::Display for Ts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MAX => f.write_str("max"),
            _ => write!(f, "{}.{}", self.physical_ms(), self.logical()),
        }
    }
}

impl fmt::Debug for Ts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Number of a keyspace: 24 bits, since keys have three bytes for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(u32);

impl KeyspaceId {
    /// The keyspace named DEFAULT, which every cluster of API version 2 has.
    pub const DEFAULT: Self = Self(0);
    /// The largest number.
    pub const MAX: Self = Self(0xff_ffff);

    /// The plain number, as the wire has it.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for KeyspaceId {
    type Error = Error;

    fn try_from(id: u32) -> Result<Self> {
        if id > Self::MAX.0 {
            return Err(Error::KeyspaceTooLarge { id });
        }
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_number_prints_as_one_word() {
        let words = format!(
            "{} {} {} {} {} {}",
            ClusterId::new(1),
            StoreId::new(2),
            RegionId::new(3),
            PeerId::new(4),
            Term::new(5),
            LogIndex::new(6)
        );
        assert_eq!(words, "c1 s2 r3 p4 t5 i6");
        assert_eq!(format!("{:?}", Some(RegionId::from(7))), "Some(r7)");
    }

    #[test]
    fn timestamps_print_their_two_parts() {
        assert_eq!(Ts::compose(1_700_000_000_000, 3).to_string(), "1700000000000.3");
        assert_eq!(Ts::ZERO.to_string(), "0.0");
        assert_eq!(Ts::MAX.to_string(), "max");
    }

    #[test]
    fn a_timestamp_is_what_clients_compute() {
        // physical << 18 | logical, written out.
        assert_eq!(Ts::compose(1, 1).get(), 262_145);
        assert_eq!(Ts::compose(Ts::PHYSICAL_MS_MAX, Ts::LOGICAL_COUNT - 1), Ts::MAX);
    }

    #[test]
    fn neighbours_of_a_timestamp_stay_in_range() {
        let last_of_millisecond = Ts::compose(1, Ts::LOGICAL_COUNT - 1);
        assert_eq!(last_of_millisecond.next(), Ts::compose(2, 0));
        assert_eq!(Ts::compose(2, 0).previous(), last_of_millisecond);
        assert_eq!((Ts::MAX.next(), Ts::ZERO.previous()), (Ts::MAX, Ts::ZERO));
    }

    #[test]
    #[should_panic(expected = "counter does not fit")]
    fn a_counter_that_ran_over_is_refused() {
        Ts::compose(1, Ts::LOGICAL_COUNT);
    }

    #[test]
    #[should_panic(expected = "milliseconds do not fit")]
    fn a_time_that_does_not_fit_is_refused() {
        Ts::compose(Ts::PHYSICAL_MS_MAX + 1, 0);
    }

    #[test]
    fn keyspaces_have_three_bytes() {
        assert_eq!(KeyspaceId::try_from(0xff_ffff), Ok(KeyspaceId::MAX));
        assert_eq!(
            KeyspaceId::try_from(0x100_0000),
            Err(Error::KeyspaceTooLarge { id: 0x100_0000 })
        );
    }

    proptest! {
        #[test]
        fn timestamps_are_ordered_by_millisecond_then_counter(
            a in (0..=Ts::PHYSICAL_MS_MAX, 0..Ts::LOGICAL_COUNT),
            b in (0..=Ts::PHYSICAL_MS_MAX, 0..Ts::LOGICAL_COUNT),
        ) {
            let (x, y) = (Ts::compose(a.0, a.1), Ts::compose(b.0, b.1));
            prop_assert_eq!((x.physical_ms(), x.logical()), a);
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }
    }
}
