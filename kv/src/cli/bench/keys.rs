//! Which key an operation takes: uniformly, or as the web asks for things.
//!
//! * *uniform*: every key is as likely as any other.
//! * *zipfian*: the key of rank r is chosen about 1/r as often as the first, as YCSB does it (constant 0.99), by the
//!   method of Gray et al. for a generator without tables. Ranks are scattered over all keys.
//! * *latest*: zipfian, but the newest key has rank one.
//!
//! Keys are numbers; their bytes are a mix of the number, so that neighbours in time are none in the store.

use clap::ValueEnum;
use skerry_raftstore::time::splitmix64;

/// How skewed the choice is: YCSB's constant.
const SKEW: f64 = 0.99;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Distribution {
    /// Every key is as likely as any other
    Uniform,
    /// A few keys take most, as in YCSB
    Zipfian,
    /// As zipfian; the newest keys take most
    Latest,
}

/// A source of numbers that depends on its seed alone.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Dice {
    state: u64,
}

impl Dice {
    pub(in crate::cli) fn new(seed: u64) -> Dice {
        Dice { state: splitmix64(seed) }
    }

    /// Any number.
    pub(in crate::cli) fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(1);
        splitmix64(self.state)
    }

    /// From 0 to 1, without 1.
    pub(super) fn share(&mut self) -> f64 {
        // The upper 53 bits: as many as a float keeps.
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Chooses ranks from 1 to a count, the first most often.
#[derive(Clone, Debug)]
struct Zipfian {
    count: u64,
    /// The sum of 1/r^skew over all ranks.
    sum: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    fn new(count: u64) -> Zipfian {
        let sum_to = |count: u64| -> f64 { (1..=count).map(|r| (r as f64).powf(-SKEW)).sum() };
        let sum = sum_to(count);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - SKEW)) / (1.0 - sum_to(2) / sum);
        Zipfian { count, sum, alpha: 1.0 / (1.0 - SKEW), eta }
    }

    /// A rank from 0.
    fn rank(&self, dice: &mut Dice) -> u64 {
        let share = dice.share();
        let weight = share * self.sum;
        if weight < 1.0 || self.count < 2 {
            return 0;
        }
        if weight < 1.0 + 0.5_f64.powf(SKEW) {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * (share - 1.0) + 1.0).powf(self.alpha);
        (rank as u64).min(self.count - 1)
    }
}

/// Chooses among keys that are there.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    distribution: Distribution,
    zipfian: Option<Zipfian>,
}

impl Chooser {
    /// For so many keys at the beginning.
    pub(super) fn new(distribution: Distribution, keys: u64) -> Chooser {
        let is_skewed = distribution != Distribution::Uniform;
        Chooser { distribution, zipfian: is_skewed.then(|| Zipfian::new(keys)) }
    }

    /// The number of a key, of `keys` that are there now.
    pub(super) fn choose(&self, dice: &mut Dice, keys: u64) -> u64 {
        match (self.distribution, &self.zipfian) {
            (Distribution::Latest, Some(zipfian)) => keys - 1 - zipfian.rank(dice).min(keys - 1),
            // Among those of the beginning: if new keys counted, each would give all ranks other keys.
            (Distribution::Zipfian, Some(zipfian)) => {
                splitmix64(zipfian.rank(dice)) % zipfian.count
            }
            _ => dice.number() % keys,
        }
    }
}

/// The bytes of a key, as text: a prefix that nobody else uses, then hexadecimal digits. Those of a long key differ,
/// too: a row of equal bytes would be compressed away.
pub(super) fn key_bytes(number: u64, length: usize) -> Vec<u8> {
    let mut word = splitmix64(number);
    let mut key = format!("bench{word:016x}").into_bytes();
    let least = key.len();
    while key.len() < length {
        word = splitmix64(word);
        key.extend_from_slice(format!("{word:016x}").as_bytes());
    }
    key.truncate(length.max(least));
    key
}

/// The key at a place among all keys, from 0 to 1.
pub(super) fn key_at(place: f64) -> Vec<u8> {
    format!("bench{:016x}", (place * u64::MAX as f64) as u64).into_bytes()
}

/// A value that nothing can compress.
pub(in crate::cli) fn value_bytes(dice: &mut Dice, length: usize) -> Vec<u8> {
    let mut value = Vec::with_capacity(length + 7);
    while value.len() < length {
        value.extend_from_slice(&dice.number().to_le_bytes());
    }
    value.truncate(length);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of 100 keys is chosen in 100,000 draws.
    fn counts(distribution: Distribution) -> Vec<u32> {
        let (chooser, mut dice) = (Chooser::new(distribution, 100), Dice::new(7));
        let mut counts = vec![0; 100];
        for _ in 0..100_000 {
            counts[chooser.choose(&mut dice, 100) as usize] += 1;
        }
        counts
    }

    #[test]
    fn uniform_keys_are_chosen_about_equally_often() {
        let counts = counts(Distribution::Uniform);
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn the_newest_key_is_chosen_as_often_as_the_law_says() {
        let counts = counts(Distribution::Latest);
        // 1 / (1 + 1/2^0.99 + ... + 1/100^0.99) is 0.19.
        assert!((18_000..20_000).contains(&counts[99]), "{counts:?}");
        assert!((8_500..10_500).contains(&counts[98]), "{counts:?}");
        let older: u32 = counts[..50].iter().sum();
        assert!((8_000..18_000).contains(&older), "{older}");
    }

    #[test]
    fn popular_keys_lie_anywhere() {
        let counts = counts(Distribution::Zipfian);
        let most = counts.iter().max().expect("there are keys");
        let place = counts.iter().position(|count| count == most).expect("it is there");
        assert_eq!(place as u64, splitmix64(0) % 100);
        assert!(*most > 15_000, "{counts:?}");
    }

    #[test]
    fn half_of_the_keys_lie_below_the_middle() {
        let below = (0..1_000).filter(|number| key_bytes(*number, 21) < key_at(0.5)).count();
        assert!((450..550).contains(&below), "{below}");
    }

    #[test]
    fn keys_and_values_have_the_length_that_was_asked_for() {
        assert_eq!(key_bytes(1, 32).len(), 32);
        assert_eq!(key_bytes(1, 0).len(), 21);
        assert_ne!(key_bytes(1, 32), key_bytes(2, 32));
        assert!(key_bytes(1, 256).starts_with(&key_bytes(1, 21)));
        assert_ne!(key_bytes(1, 256)[200..], key_bytes(2, 256)[200..]);
        assert_eq!(value_bytes(&mut Dice::new(1), 13).len(), 13);
    }
}
