//! From the stages' speeds to a run's.
//!
//! On the CPU every image costs its share of core time in each stage, and the shares add up; a stage that waits (a
//! store, a device) only has to keep up. So a run is as fast as the slower of the two. Decode and forward, where they share
//! the threads, count as they do in turn there: alone each has the caches to itself, which it never has in a run.

use super::stages::InTurn;
use crate::report::rate;
use serde_json::{Value, json};

/// What a stage did alone, with all its lanes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Images a second.
    pub images_per_second: f64,
    /// Core time an image, in seconds; nothing for what a device does.
    pub cpu_seconds_an_image: f64,
}

impl Speed {
    fn json(&self) -> Value {
        json!({
            "images_per_second": self.images_per_second, "cpu_ms_an_image": self.cpu_seconds_an_image * 1e3,
        })
    }
}

/// The measured stages of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Prediction {
    /// Cores that this process may use.
    pub cores: usize,
    /// CUDA devices; with none the threads run the forward passes.
    pub devices: usize,
    /// Reading; not for images that were made here.
    pub fetch: Option<Speed>,
    /// Bytes to pixels.
    pub decode: Speed,
    /// The model.
    pub forward: Speed,
    /// Rows to Parquet.
    pub encode: Speed,
    /// Decode and forward beside each other, where the same threads do both.
    pub in_turn: Option<InTurn>,
}

impl Prediction {
    /// The two stages that compute, as fast as a run has them.
    fn at_work(&self) -> InTurn {
        self.in_turn.unwrap_or(InTurn { decode: self.decode, forward: self.forward })
    }

    /// What a run would do if decode and forward left each other's caches alone.
    pub fn alone(&self) -> f64 {
        Self { in_turn: None, ..*self }.images_per_second()
    }

    fn stages(&self) -> impl Iterator<Item = (&'static str, Speed)> {
        [
            ("fetch", self.fetch),
            ("decode", Some(self.decode)),
            ("forward", Some(self.forward)),
            ("encode", Some(self.encode)),
        ]
        .into_iter()
        .filter_map(|(name, speed)| Some((name, speed?)))
    }

    /// Images a second of the compute threads: decode alone beside a device, both without one.
    fn compute(&self) -> f64 {
        let InTurn { decode, forward } = self.at_work();
        match self.devices {
            0 => 1.0 / (1.0 / decode.images_per_second + 1.0 / forward.images_per_second),
            _ => decode.images_per_second.min(forward.images_per_second),
        }
    }

    /// Images a second of a whole run, from its first batch on.
    pub fn images_per_second(&self) -> f64 {
        let InTurn { decode, forward } = self.at_work();
        let others = [self.fetch, Some(decode), Some(forward), Some(self.encode)].into_iter().flatten();
        let cpu: f64 = others.map(|speed| speed.cpu_seconds_an_image).sum();
        let cores = self.cores as f64 / cpu;
        let fetch = self.fetch.map_or(f64::INFINITY, |speed| speed.images_per_second);
        self.compute().min(cores).min(fetch)
    }

    /// The stage that a faster one of would help most.
    pub fn binding(&self) -> &'static str {
        let slowest =
            self.stages().min_by(|(_, a), (_, b)| a.images_per_second.total_cmp(&b.images_per_second));
        slowest.map_or("forward", |(name, _)| name)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let stages: serde_json::Map<String, Value> =
            self.stages().map(|(name, speed)| (name.into(), speed.json())).collect();
        let in_turn =
            self.in_turn.map(|two| json!({"decode": two.decode.json(), "forward": two.forward.json()}));
        json!({
            "stages": stages, "in_turn": in_turn, "images_per_second": self.images_per_second(),
            "alone_images_per_second": self.alone(), "binding": self.binding(),
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let shown: Vec<String> =
            self.stages().map(|(name, speed)| format!("{name} {}", rate(speed.images_per_second))).collect();
        let in_turn = self.in_turn.map(|InTurn { decode, forward }| {
            let (decode, forward) = (rate(decode.images_per_second), rate(forward.images_per_second));
            format!("\nin turn on the same threads, as in a run: decode {decode}, forward {forward}")
        });
        format!(
            "images/s each stage does alone: {}{}\na run should do {} images/s; {} binds",
            shown.join(", "),
            in_turn.unwrap_or_default(),
            rate(self.images_per_second()),
            self.binding()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(images_per_second: f64, cpu_ms: f64) -> Speed {
        Speed { images_per_second, cpu_seconds_an_image: cpu_ms / 1e3 }
    }

    #[test]
    fn cpu_stages_add_up_and_a_device_runs_beside_them() {
        let cpu = Prediction {
            cores: 2,
            devices: 0,
            fetch: Some(speed(5000.0, 0.0)),
            decode: speed(1000.0, 2.0),
            forward: speed(1000.0, 2.0),
            encode: speed(50_000.0, 0.0),
            in_turn: None,
        };
        assert!((cpu.images_per_second() - 500.0).abs() < 1e-6);
        let dear = Prediction { encode: speed(2000.0, 1.0), ..cpu };
        assert!((dear.images_per_second() - 400.0).abs() < 1e-6, "its core time is taken from the others");
        let (decode, forward) = (speed(800.0, 2.5), speed(800.0, 2.5));
        let shared = Prediction { in_turn: Some(InTurn { decode, forward }), ..cpu };
        assert!((shared.images_per_second() - 400.0).abs() < 1e-6, "they take each other's caches");
        assert!((shared.alone() - 500.0).abs() < 1e-6);
        assert!(shared.text().contains("decode 1000, forward 1000"), "{}", shared.text());
        assert!(shared.text().contains("in a run: decode 800, forward 800"), "{}", shared.text());
        assert_eq!(shared.json()["in_turn"]["forward"]["images_per_second"], json!(800.0));
        let gpu = Prediction { devices: 1, forward: speed(3000.0, 0.0), ..cpu };
        assert!((gpu.images_per_second() - 1000.0).abs() < 1e-6);
        assert_eq!((gpu.binding(), cpu.binding()), ("decode", "decode"));
        let far = Prediction { fetch: Some(speed(100.0, 0.1)), ..cpu };
        assert_eq!((far.images_per_second(), far.binding()), (100.0, "fetch"));
    }
}
