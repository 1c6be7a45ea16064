//! Some of a stream, each with the same chance, without knowing how long the stream is.
//!
//! The dry run takes its sample of images so while it lists. The chances come from a seed: the same listing of the same
//! job gives the same sample, so that two tries can be compared. Holds the sample and nothing else.

use sha2::{Digest, Sha256};

/// Up to `room` items of a stream.
#[derive(Debug)]
pub struct Reservoir<T> {
    room: usize,
    /// Where in the stream each of the kept ones was, and the item.
    kept: Vec<(u64, T)>,
    seen: u64,
    state: u64,
}

impl<T> Reservoir<T> {
    /// An empty one; `seed` is any text.
    pub fn new(room: usize, seed: &str) -> Self {
        let digest = Sha256::digest(seed.as_bytes());
        let state = u64::from_be_bytes(digest[..8].try_into().expect("32 bytes"));
        Self { room, kept: Vec::new(), seen: 0, state }
    }

    /// Offers the next item, which is made only if it is kept.
    pub fn offer(&mut self, item: impl FnOnce() -> T) {
        let at = self.seen;
        self.seen += 1;
        if self.kept.len() < self.room {
            self.kept.push((at, item()));
        } else if self.room > 0 {
            // Algorithm R: the n-th one takes a place with the chance room / n.
            let place = self.below(self.seen);
            if let Some(kept) = usize::try_from(place).ok().and_then(|place| self.kept.get_mut(place)) {
                *kept = (at, item());
            }
        }
    }

    /// What is kept, in the stream's order.
    pub fn into_sample(mut self) -> Vec<T> {
        self.kept.sort_unstable_by_key(|(at, _)| *at);
        self.kept.into_iter().map(|(_, item)| item).collect()
    }

    /// A number below `limit`. The high half of a product: its bias is `limit` in 2^64.
    fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        u64::try_from((u128::from(z) * u128::from(limit)) >> 64).expect("it is below `limit`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(room: usize, of: u32, seed: &str) -> Vec<u32> {
        let mut reservoir = Reservoir::new(room, seed);
        (0..of).for_each(|n| reservoir.offer(|| n));
        reservoir.into_sample()
    }

    #[test]
    fn a_short_stream_is_kept_whole() {
        assert_eq!(sample(8, 5, "job"), [0, 1, 2, 3, 4]);
        assert_eq!(sample(5, 5, "job"), [0, 1, 2, 3, 4]);
        assert!(sample(0, 5, "job").is_empty());
    }

    #[test]
    fn the_same_seed_gives_the_same_sample() {
        let first = sample(16, 10_000, "job-1");
        assert_eq!(first, sample(16, 10_000, "job-1"));
        assert_ne!(first, sample(16, 10_000, "job-2"));
        assert_eq!(first.len(), 16);
        assert!(first.windows(2).all(|two| two[0] < two[1]), "in order, none twice: {first:?}");
    }

    #[test]
    fn every_item_has_the_same_chance() {
        let (room, of, tries) = (10, 100, 5000_u32);
        let mut hits = vec![0_u32; of as usize];
        for seed in 0..tries {
            for item in sample(room, of, &seed.to_string()) {
                hits[item as usize] += 1;
            }
        }
        // Chi-squared with 99 degrees of freedom, of counts without replacement: the mean is below 99, and 150 is more
        // than three and a half standard deviations above it.
        let expected = f64::from(tries) * room as f64 / f64::from(of);
        let chi: f64 = hits.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        assert!(chi < 150.0, "{chi}: {hits:?}");
        let of_tenth = |tenth: usize| hits[tenth * 10..][..10].iter().sum::<u32>();
        let tenths: Vec<u32> = (0..10).map(of_tenth).collect();
        assert!(tenths.iter().all(|&n| (4700..5300).contains(&n)), "neither end is preferred: {tenths:?}");
    }
}
