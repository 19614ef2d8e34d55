//! What is asked of a store: whether it is one that keeps every key alone. Pure functions on the generated
//! message, for the stores that say it and the scheduler that must know it.

use crate::metapb::{Store, StoreLabel};

/// A label that a standalone store registers with. The message has no field for it, and labels travel through
/// every scheduler.
const MODE_LABEL: (&str, &str) = ("skerry.mode", "standalone");

/// The label by which others see that a store is standalone.
pub fn standalone_label() -> StoreLabel {
    StoreLabel { key: MODE_LABEL.0.to_string(), value: MODE_LABEL.1.to_string() }
}

impl Store {
    /// Whether the store replicates nothing: it has every key, and shares its cluster with no other store.
    pub fn is_standalone(&self) -> bool {
        self.labels.iter().any(|label| (label.key.as_str(), label.value.as_str()) == MODE_LABEL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_standalone_by_its_label() {
        let mut store = Store::default();
        store.labels.push(StoreLabel { key: "skerry.mode".to_string(), value: "x".to_string() });
        assert!(!store.is_standalone());
        store.labels.push(standalone_label());
        assert!(store.is_standalone());
    }
}
