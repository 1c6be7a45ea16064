//! Ceilings: what each stage could do by itself, which one binds, and what would help most.
//!
//! Made from the stage clock of a run, a serving worker or a `bench`; shown in their reports and on `/metrics`. It only
//! computes; nothing here changes what a stage does.

use crate::pipeline::meters::{Stage, StageTotal};
use serde_json::{Value, json};

/// How many can be at each stage at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes {
    /// Compute threads.
    pub threads: usize,
    /// Threads of CUDA devices; with none the compute threads run the forward passes.
    pub devices: usize,
    /// Objects read at once.
    pub fetches: usize,
    /// Batches in hand at once.
    pub batches: usize,
}

/// Images a second that a stage alone would let through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceiling {
    /// The stage.
    pub stage: Stage,
    /// Its time for one image, in seconds, summed over threads.
    pub seconds_an_image: f64,
    /// With all its lanes busy with nothing else.
    pub images_per_second: f64,
}

/// The ceilings of all stages that did anything.
#[derive(Debug, Clone, PartialEq)]
pub struct Ceilings {
    /// In the order of a batch's life.
    pub stages: Vec<Ceiling>,
    lanes: Lanes,
}

impl Ceilings {
    /// From what the stages did for so many `images`; `None` before the first of them.
    pub fn new(total: impl Fn(Stage) -> StageTotal, images: u64, lanes: Lanes) -> Option<Self> {
        let stages: Vec<Ceiling> = Stage::ALL
            .into_iter()
            .filter_map(|stage| {
                let StageTotal { busy, count } = total(stage);
                // By the images that went through it: those that failed before it cost it nothing.
                let images = if stage.is_of_images() { count } else { images };
                (count > 0 && images > 0).then(|| lanes.ceiling(stage, busy.as_secs_f64() / images as f64))
            })
            .collect();
        (!stages.is_empty()).then_some(Self { stages, lanes })
    }

    /// Images a second with every stage at work beside the others. On the CPU decode and forward share the threads,
    /// so that their times add up; every other stage only has to keep up.
    pub fn bound(&self) -> f64 {
        let shared: f64 = self
            .stages
            .iter()
            .filter(|c| self.lanes.share_threads(c.stage))
            .map(|c| c.seconds_an_image)
            .sum();
        let alone =
            self.stages.iter().filter(|c| !self.lanes.share_threads(c.stage)).map(|c| c.images_per_second);
        let compute = if shared > 0.0 { self.lanes.threads as f64 / shared } else { f64::INFINITY };
        alone.fold(compute, f64::min)
    }

    /// The stage that a faster one of would help most.
    pub fn binding(&self) -> Stage {
        let bound = self.bound();
        // The one that keeps the others waiting; else the larger of those that share the threads.
        let waits_for = self.stages.iter().find(|c| c.images_per_second <= bound * (1.0 + f64::EPSILON));
        let largest = self
            .stages
            .iter()
            .filter(|c| self.lanes.share_threads(c.stage))
            .max_by(|a, b| a.seconds_an_image.total_cmp(&b.seconds_an_image));
        waits_for.or(largest).map_or(Stage::Forward, |c| c.stage)
    }

    /// What would help most, for people.
    pub fn advice(&self) -> &'static str {
        match (self.binding(), self.lanes.devices) {
            (Stage::Fetch, _) => {
                "the store binds: run nearer to the bucket, or where --fetches is given raise it"
            }
            (Stage::Decode, 0) => {
                "decoding binds: more cores or workers; --decode fast for photos far larger than the model's input"
            }
            (Stage::Decode, _) => {
                "decoding binds and the device waits: more --threads and cores for each GPU, or --decode fast"
            }
            (Stage::Forward, 0) => "the model binds: a GPU, more cores or workers, or a smaller model",
            (Stage::Forward, _) => {
                "the model binds, as it should: half precision (--precision fp16) or more devices"
            }
            (Stage::Encode | Stage::Put | Stage::Commit, _) => {
                "writing results binds: larger batches (--batch-size), or a higher --prefetch"
            }
        }
    }

    /// One line for people.
    pub fn text(&self) -> String {
        let shown: Vec<String> =
            self.stages.iter().map(|c| format!("{} {:.0}", c.stage.name(), c.images_per_second)).collect();
        format!(
            "images/s each stage could do alone: {}; all at once {:.0}\n{}",
            shown.join(", "),
            self.bound(),
            self.advice()
        )
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let stages: serde_json::Map<String, Value> =
            self.stages.iter().map(|c| (c.stage.name().to_owned(), json!(c.images_per_second))).collect();
        json!({
            "images_per_second": stages, "bound_images_per_second": self.bound(),
            "binding": self.binding().name(), "advice": self.advice(),
        })
    }
}

impl Lanes {
    fn share_threads(self, stage: Stage) -> bool {
        self.devices == 0 && matches!(stage, Stage::Decode | Stage::Forward)
    }

    /// How many can be at `stage` at once; at least one.
    pub fn at(self, stage: Stage) -> usize {
        let lanes = match stage {
            Stage::Fetch => self.fetches,
            Stage::Decode => self.threads,
            Stage::Forward if self.devices == 0 => self.threads,
            Stage::Forward => self.devices,
            Stage::Encode | Stage::Put | Stage::Commit => self.batches,
        };
        lanes.max(1)
    }

    fn ceiling(self, stage: Stage, seconds_an_image: f64) -> Ceiling {
        let images_per_second = self.at(stage) as f64 / seconds_an_image.max(1e-12);
        Ceiling { stage, seconds_an_image, images_per_second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ceilings(ms: [f64; 6], lanes: Lanes) -> Ceilings {
        let total = |stage: Stage| {
            let busy = Duration::from_secs_f64(ms[stage as usize] * 100.0 / 1e3);
            StageTotal { busy, count: if stage.is_of_images() { 100 } else { 2 } }
        };
        Ceilings::new(total, 100, lanes).unwrap()
    }

    #[test]
    fn on_the_cpu_decode_and_forward_share_the_threads() {
        let lanes = Lanes { threads: 2, devices: 0, fetches: 32, batches: 4 };
        let found = ceilings([1.0, 2.0, 18.0, 0.1, 0.2, 0.1], lanes);
        assert!((found.bound() - 100.0).abs() < 1e-6, "{}", found.bound());
        assert_eq!(found.binding(), Stage::Forward);
        assert_eq!(ceilings([1.0, 3.0, 1.0, 0.1, 0.2, 0.1], lanes).binding(), Stage::Decode);
        let starved = ceilings([320.0, 3.0, 1.0, 0.1, 0.2, 0.1], lanes);
        assert_eq!((starved.binding(), starved.bound().round()), (Stage::Fetch, 100.0));
    }

    #[test]
    fn a_device_of_its_own_is_bound_by_the_slower_side() {
        let lanes = Lanes { threads: 4, devices: 1, fetches: 32, batches: 4 };
        let found = ceilings([1.0, 2.0, 0.25, 0.1, 0.2, 0.1], lanes);
        assert_eq!((found.binding(), found.bound().round()), (Stage::Decode, 2000.0));
        assert!(found.advice().contains("--threads"));
        assert_eq!(ceilings([1.0, 0.5, 0.5, 0.1, 0.2, 0.1], lanes).binding(), Stage::Forward);
        assert_eq!(ceilings([1.0, 0.5, 0.1, 0.1, 20.0, 0.1], lanes).binding(), Stage::Put);
    }

    #[test]
    fn nothing_was_done_and_nothing_is_said() {
        let lanes = Lanes { threads: 1, devices: 0, fetches: 1, batches: 1 };
        assert_eq!(Ceilings::new(|_| StageTotal::default(), 0, lanes), None);
    }
}
