//! A map that forgets what was used longest ago, by number and by weight.
//!
//! For everything that is kept because it may be asked for again. Small enough that a scan at each eviction is nothing.

use std::{collections::HashMap, hash::Hash};

/// Entries by key, each with its weight.
#[derive(Debug)]
pub struct Bounded<K, V> {
    entries: HashMap<K, Entry<V>>,
    max_entries: usize,
    max_weight: usize,
    weight: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    weight: usize,
    used: u64,
}

impl<K: Eq + Hash + Clone, V> Bounded<K, V> {
    /// At most `max_entries` entries, and no more than `max_weight` in all.
    pub fn new(max_entries: usize, max_weight: usize) -> Self {
        Self { entries: HashMap::new(), max_entries, max_weight, weight: 0, clock: 0 }
    }

    /// The value of `key`, which is thereby used.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.clock;
        Some(&entry.value)
    }

    /// Puts a value in; one that is heavier than everything may be is not kept.
    pub fn insert(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        if weight > self.max_weight || self.max_entries == 0 {
            return;
        }
        while self.entries.len() >= self.max_entries || self.weight + weight > self.max_weight {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { break };
            self.remove(&oldest);
        }
        self.clock += 1;
        self.weight += weight;
        self.entries.insert(key, Entry { value, weight, used: self.clock });
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.weight -= entry.weight;
        Some(entry.value)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps only those that `keep` wants.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        let gone: Vec<K> = self
            .entries
            .iter()
            .filter(|(key, entry)| !keep(key, &entry.value))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut map = Bounded::new(3, 10);
        for (key, weight) in [("a", 2), ("b", 2), ("c", 2)] {
            map.insert(key, key.to_uppercase(), weight);
        }
        assert_eq!(map.get(&"a").map(String::as_str), Some("A"));
        map.insert("d", "D".into(), 2);
        assert_eq!(map.get(&"b"), None);
        assert_eq!(map.len(), 3);
        map.insert("e", "E".into(), 7);
        assert_eq!(map.len(), 2, "by weight too");
        assert!(map.get(&"d").is_some() && map.get(&"e").is_some());
        map.insert("huge", "H".into(), 11);
        assert!(map.get(&"huge").is_none() && map.len() == 2);
        map.retain(|key, _| *key == "e");
        assert_eq!((map.len(), map.weight), (1, 7));
        map.insert("e", "again".into(), 1);
        assert_eq!((map.len(), map.weight), (1, 1));
    }
}
