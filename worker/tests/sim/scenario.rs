//! What a seed draws before anything happens: the job, the fleet, the broker's version and how bad it gets.

use std::time::Duration;
use trawl_common::{
    broker::memory::Rules,
    faults::{dice::Dice, weather::Weather},
};

/// See the file's head.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Images in the bucket.
    pub images: usize,
    /// Which of them are no images, in thousandths.
    pub spoiled: u32,
    /// An image that kills the process that computes it.
    pub killer: Option<usize>,
    /// Messages in the queue that nobody can read.
    pub junk: usize,
    pub batch_size: u32,
    /// Objects in a page of a listing.
    pub page: usize,
    pub workers: usize,
    pub prefetch: u16,
    pub micro_batch: usize,
    /// How long a decode or a forward pass takes.
    pub pace: Duration,
    pub reclaim_after: Option<Duration>,
    pub rules: Rules,
    /// After this time the broker takes a delivery back.
    pub patience: Duration,
    /// How bad it is, until it clears up.
    pub weather: Weather,
    pub faults_until: Duration,
    /// Between two strokes of the nemesis, on average.
    pub stroke_every_ms: u64,
}

/// How often a message may come back for what befalls the fleet; its limit is 20, and a killer takes some.
const RETURNS: u32 = 10;

impl Scenario {
    pub fn draw(dice: &Dice) -> Self {
        let ms = Duration::from_millis;
        // One seed in ten is calm: then nothing may be done twice.
        let calm = dice.chance(100);
        let images = dice.below(55) + 5;
        let mut weather = Weather::calm();
        weather.latency_ms = dice.one(&[2, 10, 50, 300]);
        if !calm {
            weather.refuse = dice.one(&[0, 5, 20, 60]);
            weather.lose = dice.one(&[0, 5, 20, 60]);
            weather.kill = dice.one(&[0, 0, 2, 10]);
            weather.twice = dice.one(&[0, 0, 50, 400]);
            weather.stall = dice.one(&[0, 5, 20]);
            weather.stall_ms = dice.one(&[1_000, 10_000, 60_000]);
            weather.returns_left = RETURNS;
        }
        Self {
            images,
            spoiled: dice.one(&[0, 100]),
            killer: (!calm && dice.chance(150)).then(|| dice.below(images)),
            junk: if dice.chance(200) { dice.below(3) } else { 0 },
            batch_size: u32::try_from(dice.between(1, 6)).unwrap_or(1),
            page: dice.one(&[3, 7, 20, 1000]),
            workers: dice.below(4) + 1,
            prefetch: dice.one(&[1, 2, 2, 3]),
            micro_batch: dice.one(&[1, 4, 8]),
            pace: ms(dice.one(&[1, 5, 50])),
            reclaim_after: dice.chance(500).then(|| ms(dice.between(5_000, 60_000))),
            rules: dice.one(&[Rules::V3_10, Rules::V4_0, Rules::V4_3]),
            patience: ms(dice.between(60_000, 300_000)),
            weather,
            faults_until: if calm { ms(0) } else { ms(dice.between(2_000, 180_000)) },
            stroke_every_ms: dice.one(&[50, 300, 2_000]),
        }
    }
}
