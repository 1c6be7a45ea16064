//! How large the images of a job are: a histogram that costs the same for ten images and for a billion.
//!
//! Filled by the dry run while it lists. Each bucket is four times as wide as the one before, from below 1 KiB to 1 GiB
//! and more: what a corpus is made of is seen at a glance, and one scan among thumbnails has a line of its own. It must
//! never guess a size that nobody knows.

use crate::text;
use serde::{Serialize, Serializer, ser::SerializeSeq};

/// Buckets: below 1 KiB, ten up to 1 GiB, and what is larger.
const BUCKETS: usize = 12;

/// The end of the first bucket, in bytes.
const FIRST: u64 = 1 << 10;

/// Each bucket is so many powers of two as wide as the one before.
const STEP: u32 = 2;

/// What the longest bar is wide.
const BAR_WIDTH: u64 = 30;

/// Images by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SizeHistogram {
    images: [u64; BUCKETS],
}

/// The images of one range of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// The smallest size in it.
    pub from_bytes: u64,
    /// The smallest one that is too large for it; none for the last bucket.
    pub to_bytes: Option<u64>,
    /// Images.
    pub images: u64,
}

impl SizeHistogram {
    /// Counts an image of so many bytes.
    pub fn add(&mut self, bytes: u64) {
        let steps = (bytes / FIRST).checked_ilog2().map_or(0, |log| log / STEP + 1);
        self.images[(steps as usize).min(BUCKETS - 1)] += 1;
    }

    /// The buckets, those without images too.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + Clone {
        let end = |n: usize| FIRST << (STEP as usize * n);
        self.images.into_iter().enumerate().map(move |(n, images)| Bucket {
            from_bytes: if n == 0 { 0 } else { end(n - 1) },
            to_bytes: (n < BUCKETS - 1).then(|| end(n)),
            images,
        })
    }

    /// For people, a line each: from the first bucket that has images to the last one.
    pub fn lines(&self) -> Vec<String> {
        let has = |images: &u64| *images > 0;
        let Some(first) = self.images.iter().position(has) else { return Vec::new() };
        let last = self.images.iter().rposition(has).unwrap_or(first);
        let most = self.images.iter().max().copied().unwrap_or(1);
        let shown = self.buckets().skip(first).take(last - first + 1);
        let width = shown.clone().map(|bucket| text::count(bucket.images).len()).max().unwrap_or(0);
        shown
            .map(|bucket| {
                let range = match bucket.to_bytes {
                    Some(to) => format!("{:>7} - {:<7}", text::bytes(bucket.from_bytes), text::bytes(to)),
                    None => format!("{:>7} {:<9}", text::bytes(bucket.from_bytes), "and more"),
                };
                // An image among millions is still to be seen.
                let bar = (u128::from(bucket.images) * u128::from(BAR_WIDTH)).div_ceil(u128::from(most));
                let bar = "#".repeat(usize::try_from(bar).unwrap_or(0));
                let line = format!("{range} {:>width$}  {bar}", text::count(bucket.images));
                line.trim_end().to_owned()
            })
            .collect()
    }
}

impl Serialize for SizeHistogram {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(Some(BUCKETS))?;
        for bucket in self.buckets() {
            list.serialize_element(&bucket)?;
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_in_the_bucket_that_names_it() {
        let edges = (0..64).flat_map(|log| [(1_u64 << log) - 1, 1 << log, (1 << log) + 1]);
        for bytes in edges.chain([u64::MAX]) {
            let mut sizes = SizeHistogram::default();
            sizes.add(bytes);
            let hit: Vec<Bucket> = sizes.buckets().filter(|bucket| bucket.images == 1).collect();
            let [bucket] = hit[..] else { panic!("{bytes}: {hit:?}") };
            assert!(bytes >= bucket.from_bytes && bucket.to_bytes.is_none_or(|to| bytes < to), "{bytes}");
        }
        let buckets: Vec<Bucket> = SizeHistogram::default().buckets().collect();
        assert_eq!((buckets[0].from_bytes, buckets[0].to_bytes), (0, Some(1 << 10)));
        assert_eq!((buckets[11].from_bytes, buckets[11].to_bytes), (1 << 30, None));
        assert!(buckets.windows(2).all(|two| two[0].to_bytes == Some(two[1].from_bytes)), "no gaps");
    }

    #[test]
    fn people_see_the_range_that_there_is() {
        let mut sizes = SizeHistogram::default();
        assert!(sizes.lines().is_empty());
        (0..2000).for_each(|_| sizes.add(5 << 10));
        (0..1000).for_each(|_| sizes.add(100 << 10));
        sizes.add(3 << 30);
        let lines = sizes.lines();
        assert_eq!(lines.len(), 10, "{lines:#?}");
        assert_eq!(lines[0], "  4 KiB - 16 KiB  2,000  ##############################");
        assert_eq!(lines[1], " 16 KiB - 64 KiB      0");
        assert_eq!(lines[2], " 64 KiB - 256 KiB 1,000  ###############");
        assert_eq!(lines[9], "  1 GiB and more      1  #");
    }

    #[test]
    fn programs_get_a_list_whose_last_bucket_is_open() {
        let mut sizes = SizeHistogram::default();
        sizes.add(2048);
        let json = serde_json::to_value(sizes).unwrap();
        assert_eq!(json.as_array().unwrap().len(), BUCKETS);
        assert_eq!(json[1], serde_json::json!({"from_bytes": 1024, "to_bytes": 4096, "images": 1}));
        assert!(json[11]["to_bytes"].is_null());
    }
}
