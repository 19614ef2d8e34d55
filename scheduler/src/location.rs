//! Where stores stand, by their labels, and how close to each other the replicas of a region are.
//!
//! With the location labels zone and host, two stores of one host share both, two hosts of one zone share the
//! zone. A label that a store does not have counts as one with an empty value. [`Crowding`] counts, from the largest
//! unit down, the other replicas that share it: the smaller, compared from the largest unit on, the better.
//!
//! **Invariant.** Without location labels all places are alike.

use crate::settings::Settings;
use crate::stores::StoreRecord;

/// How many of the other replicas share each unit with a store, from the largest unit down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crowding(Vec<usize>);

impl Crowding {
    /// Of a replica on `store`, beside replicas on `others`.
    pub fn of(store: &StoreRecord, others: &[&StoreRecord], settings: &Settings) -> Crowding {
        let labels = &settings.location_labels;
        let mut counts = vec![0; labels.len()];
        for other in others.iter().filter(|other| other.id() != store.id()) {
            let shared = labels.iter().take_while(|key| other.label(key) == store.label(key));
            counts.iter_mut().zip(shared).for_each(|(count, _)| *count += 1);
        }
        Crowding(counts)
    }
}

/// What keeps a replica off `store` under the isolation level: a label of which another replica has the value.
pub fn broken_isolation(
    store: &StoreRecord,
    others: &[&StoreRecord],
    settings: &Settings,
) -> Option<String> {
    let labels = &settings.location_labels;
    let level = labels.iter().position(|label| *label == settings.isolation_level)?;
    let shares = |other: &&&StoreRecord| {
        other.id() != store.id()
            && labels[..=level].iter().all(|key| other.label(key) == store.label(key))
    };
    let other = others.iter().find(shares)?;
    let value = store.label(&labels[level]).unwrap_or("(none)");
    Some(format!("{} {value}, where {} is", labels[level], other.id()))
}
