//! Runs beside what was predicted of them.
//!
//! What else a machine does moves both, for seconds or minutes: so a run is held against what the stages did just before and
//! just after it, and one that is soon over is done several times. The median counts; all are shown. Beside it stands what
//! the stages' own clocks within the run allow, which nothing from without can part from the run.

use crate::report::rate;
use serde_json::{Value, json};

/// A run of fewer than so many seconds is done so many times: odd numbers, so that the median is one of them. A longer one
/// is done once.
const REPEATED: [(f64, usize); 2] = [(5.0, 5), (40.0, 3)];

/// One run.
#[derive(Debug, Clone)]
pub struct Round {
    images: u64,
    /// From the start of the process.
    seconds: f64,
    /// From the first batch on.
    working_seconds: f64,
    images_per_second: f64,
    /// Images a second, of the measurements on either side.
    predicted: f64,
    /// The same of the stages alone, as if they left each other's caches alone.
    alone: f64,
    /// Images a second, of the stages' clocks in this run, all at once.
    ceiling: f64,
    /// The run's own clocks.
    stages: Value,
}

impl Round {
    /// From a run's report.
    pub fn new(ran: &Value, predicted: f64, alone: f64) -> Self {
        let number = |name: &str| ran[name].as_f64().unwrap_or_default();
        let images = ran["images_computed"].as_u64().unwrap_or_default();
        let working_seconds = number("working_seconds");
        let images_per_second = share(images as f64, working_seconds);
        let stages = ran["stages"].clone();
        let ceiling = ran["ceilings"]["bound_images_per_second"].as_f64().unwrap_or_default();
        Self {
            images,
            seconds: number("seconds"),
            working_seconds,
            images_per_second,
            predicted,
            alone,
            ceiling,
            stages,
        }
    }

    fn of_predicted(&self) -> f64 {
        share(self.images_per_second, self.predicted)
    }

    fn of_alone(&self) -> f64 {
        share(self.images_per_second, self.alone)
    }

    fn of_ceiling(&self) -> f64 {
        share(self.images_per_second, self.ceiling)
    }
}

/// `part / whole`; of nothing, nothing.
fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// All runs so far.
#[derive(Debug, Default)]
pub struct Rounds(Vec<Round>);

impl Rounds {
    /// One more.
    pub fn add(&mut self, round: Round) {
        self.0.push(round);
    }

    /// Whether the median can be believed, as far as runs of this length go.
    pub fn are_enough(&self) -> bool {
        match self.0.first() {
            None => false,
            Some(first) => {
                let times = REPEATED.iter().find(|(shorter, _)| first.seconds < *shorter);
                self.0.len() >= times.map_or(1, |(_, times)| *times)
            }
        }
    }

    fn sorted(&self) -> Vec<&Round> {
        let mut sorted: Vec<&Round> = self.0.iter().collect();
        sorted.sort_by(|a, b| a.of_predicted().total_cmp(&b.of_predicted()));
        sorted
    }

    /// The median run, with every run's figures under `rounds`; null before the first.
    pub fn json(&self) -> Value {
        let shown = |round: &Round| {
            json!({
                "images": round.images, "seconds": round.seconds, "working_seconds": round.working_seconds,
                "images_per_second": round.images_per_second, "predicted_images_per_second": round.predicted,
                "of_predicted": round.of_predicted(), "alone_images_per_second": round.alone,
                "of_alone": round.of_alone(), "ceiling_images_per_second": round.ceiling,
                "of_ceiling": round.of_ceiling(),
            })
        };
        let sorted = self.sorted();
        let Some(median) = sorted.get(sorted.len() / 2) else { return Value::Null };
        let mut run = shown(median);
        run["stages"] = median.stages.clone();
        run["rounds"] = self.0.iter().map(shown).collect();
        run
    }

    /// For people; empty before the first.
    pub fn text(&self) -> String {
        let sorted = self.sorted();
        let Some(median) = sorted.get(sorted.len() / 2) else { return String::new() };
        let mut text = format!(
            "run: {} images in {:.2} s, start included; {} images/s from the first batch on, {:.0} % of the {} predicted \
             by the stages before and after it, {:.0} % of the {} that they do alone, {:.0} % of the {} by their clocks in it",
            median.images,
            median.seconds,
            rate(median.images_per_second),
            median.of_predicted() * 100.0,
            rate(median.predicted),
            median.of_alone() * 100.0,
            rate(median.alone),
            median.of_ceiling() * 100.0,
            rate(median.ceiling),
        );
        if let [first, _, .., last] = sorted[..] {
            let (least, most) = (first.of_predicted() * 100.0, last.of_predicted() * 100.0);
            text += &format!("\nthat is the median of {} such runs: {least:.0} to {most:.0} %", self.0.len());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(seconds: f64, images: u64, predicted: f64) -> Round {
        let ran = json!({"images_computed": images, "seconds": seconds, "working_seconds": seconds - 1.0,
            "stages": {"images": images}, "ceilings": {"bound_images_per_second": 2000.0}});
        Round::new(&ran, predicted, predicted * 1.25)
    }

    #[test]
    fn a_long_run_is_done_once_and_a_short_one_until_its_median_counts() {
        let mut rounds = Rounds::default();
        assert!(!rounds.are_enough());
        rounds.add(round(41.0, 2000, 100.0));
        assert!(rounds.are_enough());
        assert!(!rounds.text().contains("median"), "{}", rounds.text());

        let mut rounds = Rounds::default();
        for (seconds, predicted) in
            [(3.0, 1000.0), (2.0, 1000.0), (3.0, 2000.0), (2.0, 4000.0), (3.0, 1250.0)]
        {
            assert!(!rounds.are_enough());
            rounds.add(round(seconds, 2000, predicted));
        }
        assert!(rounds.are_enough());
        // 1.0, 2.0, 0.5, 0.5, 0.8
        let json = rounds.json();
        assert_eq!(
            (&json["of_predicted"], &json["predicted_images_per_second"]),
            (&json!(0.8), &json!(1250.0))
        );
        assert_eq!((&json["of_alone"], &json["alone_images_per_second"]), (&json!(0.64), &json!(1562.5)));
        assert_eq!((json["rounds"].as_array().unwrap().len(), &json["stages"]["images"]), (5, &json!(2000)));
        assert!(rounds.text().ends_with("the median of 5 such runs: 50 to 200 %"), "{}", rounds.text());
    }

    #[test]
    fn a_run_without_images_or_time_is_no_number_to_fear() {
        let round = Round::new(&json!({}), 0.0, 0.0);
        assert_eq!((round.images_per_second, round.of_predicted()), (0.0, 0.0));
    }
}
