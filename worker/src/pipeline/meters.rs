//! The stage clock and the counters: what `/metrics` shows and what the end-of-run report is made of.
//!
//! Every stage reports here; nothing here ever changes what a stage does. Labels come from closed sets
//! only: no key, job or message text. All series of a closed set are there from the start, at zero, so that rates and
//! ratios of what has not happened yet can be asked for.

use super::{
    outcomes::{BatchEnd, Quarantine, Winner},
    tallies::Tallies,
};
use crate::{
    ceilings::{Ceilings, Lanes},
    model::{Device, torch_version},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use trawl_common::error_code::ErrorCode;
pub use trawl_common::stages::Stage;

/// Histogram buckets in seconds, 0.1 ms to 100 s: a decode and a slow put both fall inside.
const BUCKETS_SECONDS: [f64; 13] =
    [1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeviceLabel {
    device: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabel {
    version: &'static str,
    torch: String,
}

/// What a stage has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StageTotal {
    /// Time spent in it, summed over threads and tasks.
    pub busy: Duration,
    /// Images (for encode, put and commit: batches) that went through.
    pub count: u64,
}

/// The counters of one process.
pub struct Meters {
    registry: Registry,
    /// Bytes read from stores.
    pub image_bytes: Counter,
    /// Deliveries that somebody may have seen before.
    pub redeliveries: Counter,
    /// Batches that were taken over from slower workers.
    pub reclaims: Counter,
    /// Batches in this worker's hands.
    pub inflight_batches: Gauge,
    /// When the last batch was committed, seconds since 1970.
    pub last_commit: Gauge,
    images: Family<OutcomeLabel, Counter>,
    batches: Family<OutcomeLabel, Counter>,
    errors: Family<CodeLabel, Counter>,
    conflicts: Family<OutcomeLabel, Counter>,
    quarantined: Family<ReasonLabel, Counter>,
    tallies: Tallies,
    device_memory: Family<DeviceLabel, Gauge>,
    durations: Family<StageLabel, Histogram>,
    fill: Histogram,
    /// When something was last done, on a clock that no one sets.
    began: Instant,
    last_progress_ms: AtomicU64,
    totals: [(AtomicU64, AtomicU64); Stage::ALL.len()],
    computed: AtomicU64,
    lanes: OnceLock<Lanes>,
    /// Objects that may be read at once now.
    fetches: AtomicUsize,
    ceilings: Family<StageLabel, Gauge<f64, AtomicU64>>,
}

impl Default for Meters {
    fn default() -> Self {
        Self::new()
    }
}

impl Meters {
    /// All at zero.
    pub fn new() -> Self {
        let durations =
            Family::<StageLabel, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS_SECONDS));
        let meters = Self {
            image_bytes: Counter::default(),
            redeliveries: Counter::default(),
            reclaims: Counter::default(),
            inflight_batches: Gauge::default(),
            last_commit: Gauge::default(),
            images: Family::default(),
            batches: Family::default(),
            errors: Family::default(),
            conflicts: Family::default(),
            quarantined: Family::default(),
            tallies: Tallies::default(),
            device_memory: Family::default(),
            durations,
            fill: Histogram::new((1..=10).map(|tenth| f64::from(tenth) / 10.0)),
            began: Instant::now(),
            last_progress_ms: AtomicU64::new(0),
            totals: Default::default(),
            computed: AtomicU64::new(0),
            lanes: OnceLock::new(),
            fetches: AtomicUsize::new(0),
            ceilings: Family::default(),
            registry: Registry::default(),
        };
        let registry = meters.registered();
        let meters = Self { registry, ..meters };
        meters.begin_at_zero();
        meters
    }

    /// Everything by its name.
    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix("trawl");
        let build = Family::<BuildLabel, Gauge>::default();
        let label = BuildLabel { version: env!("CARGO_PKG_VERSION"), torch: torch_version() };
        build.get_or_create(&label).set(1);
        registry.register("build_info", "Version of this worker and of its libtorch", build);
        registry.register("images", "Images by outcome", self.images.clone());
        registry.register("image_errors", "Failed images by code", self.errors.clone());
        registry.register("batches", "Batches by outcome", self.batches.clone());
        registry.register(
            "commit_conflicts",
            "Parts that were there already, by winner",
            self.conflicts.clone(),
        );
        registry.register(
            "quarantined",
            "Batches set aside: worked on alone or given up to the dead letters, by reason",
            self.quarantined.clone(),
        );
        registry.register(
            "device_memory_bytes",
            "Memory of a CUDA device that this process holds, in use or kept for use",
            self.device_memory.clone(),
        );
        registry.register("image_bytes", "Bytes read from stores", self.image_bytes.clone());
        registry.register("redeliveries", "Deliveries seen before", self.redeliveries.clone());
        registry.register("reclaims", "Batches taken over from slower workers", self.reclaims.clone());
        registry.register("inflight_batches", "Batches in work", self.inflight_batches.clone());
        registry.register(
            "last_commit_timestamp_seconds",
            "Time of the last commit",
            self.last_commit.clone(),
        );
        registry.register("batch_fill_ratio", "Images in a micro-batch over its size", self.fill.clone());
        registry.register_with_unit(
            "stage_duration",
            "Time in a stage",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "stage_ceiling_images_per_second",
            "What a stage alone would let through, from what it has done so far; on the CPU decode and forward share the threads",
            self.ceilings.clone(),
        );
        self.tallies.register(&mut registry);
        registry
    }

    /// Makes each series of the closed sets.
    fn begin_at_zero(&self) {
        for outcome in ["ok", "error"] {
            drop(self.images.get_or_create(&OutcomeLabel { outcome }));
        }
        for code in ErrorCode::ALL {
            drop(self.errors.get_or_create(&CodeLabel { code: code.as_str() }));
        }
        for outcome in BatchEnd::ALL.map(BatchEnd::name) {
            drop(self.batches.get_or_create(&OutcomeLabel { outcome }));
        }
        for outcome in Winner::ALL.map(Winner::name) {
            drop(self.conflicts.get_or_create(&OutcomeLabel { outcome }));
        }
        for reason in Quarantine::ALL.map(Quarantine::name) {
            drop(self.quarantined.get_or_create(&ReasonLabel { reason }));
        }
        for stage in Stage::ALL.map(Stage::name) {
            drop(self.durations.get_or_create(&StageLabel { stage }));
        }
        self.tallies.take_over();
    }

    /// Says how many objects may be read at once from now on.
    pub fn set_fetches(&self, fetches: usize) {
        self.fetches.store(fetches, Ordering::Relaxed);
    }

    /// Says how many can be at each stage at once; only the first time counts.
    pub fn set_lanes(&self, lanes: Lanes) {
        let _said_before = self.lanes.set(lanes);
    }

    /// How many can be at each stage at once, if it was said.
    pub fn lanes(&self) -> Option<Lanes> {
        let lanes = *self.lanes.get()?;
        // The fetch stage's word is newer.
        Some(match self.fetches.load(Ordering::Relaxed) {
            0 => lanes,
            fetches => Lanes { fetches, ..lanes },
        })
    }

    /// What each stage could do alone; `None` before the first image, and where nobody said how many lanes there are.
    pub fn ceilings(&self) -> Option<Ceilings> {
        Ceilings::new(|stage| self.total(stage), self.computed(), self.lanes()?)
    }

    /// The stage that everything else waits for, as far as is known.
    pub fn binding(&self) -> Option<Stage> {
        Some(self.ceilings()?.binding())
    }

    /// Records `count` items that took `busy` in all in `stage`.
    pub fn stage(&self, stage: Stage, busy: Duration, count: u64) {
        let (nanos, items) = &self.totals[stage as usize];
        nanos.fetch_add(u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        items.fetch_add(count, Ordering::Relaxed);
        self.progressed();
        self.durations.get_or_create(&StageLabel { stage: stage.name() }).observe(busy.as_secs_f64());
    }

    /// Notes that something moved, for [`Meters::stalled_for`].
    pub fn progressed(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_progress_ms.fetch_max(now, Ordering::Relaxed);
    }

    /// For how long no stage has done anything although batches are in hand; zero when there are none.
    pub fn stalled_for(&self) -> Duration {
        if self.inflight_batches.get() == 0 {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.last_progress_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }

    /// What `stage` has done.
    pub fn total(&self, stage: Stage) -> StageTotal {
        let (nanos, items) = &self.totals[stage as usize];
        StageTotal {
            busy: Duration::from_nanos(nanos.load(Ordering::Relaxed)),
            count: items.load(Ordering::Relaxed),
        }
    }

    /// Records a micro-batch of `images` where `size` would have fitted.
    pub fn micro_batch(&self, images: usize, size: usize) {
        self.fill.observe(images as f64 / size.max(1) as f64);
    }

    /// Rows that this process was the first to commit.
    pub fn computed(&self) -> u64 {
        self.computed.load(Ordering::Relaxed)
    }

    /// Records a committed batch.
    pub fn committed(&self, ok: u64, errors: impl IntoIterator<Item = (ErrorCode, u64)>) {
        self.batch(BatchEnd::Done);
        self.computed.fetch_add(ok, Ordering::Relaxed);
        self.images.get_or_create(&OutcomeLabel { outcome: "ok" }).inc_by(ok);
        for (code, count) in errors {
            self.computed.fetch_add(count, Ordering::Relaxed);
            self.images.get_or_create(&OutcomeLabel { outcome: "error" }).inc_by(count);
            self.errors.get_or_create(&CodeLabel { code: code.as_str() }).inc_by(count);
        }
        self.last_commit.set(i64::try_from(trawl_common::config::unix_ms() / 1000).unwrap_or(i64::MAX));
    }

    /// Records how a batch ended; [`Meters::committed`] does so for those that are done.
    pub fn batch(&self, end: BatchEnd) {
        self.batches.get_or_create(&OutcomeLabel { outcome: end.name() }).inc();
    }

    /// Records a part that was there before ours.
    pub fn conflict(&self, winner: Winner) {
        self.conflicts.get_or_create(&OutcomeLabel { outcome: winner.name() }).inc();
    }

    /// Records a batch that is set aside.
    pub fn quarantine(&self, reason: Quarantine) {
        self.quarantined.get_or_create(&ReasonLabel { reason: reason.name() }).inc();
    }

    /// Says how many bytes of a device's memory this process holds.
    pub fn set_device_memory(&self, device: Device, bytes: u64) {
        let label = DeviceLabel { device: device.to_string() };
        self.device_memory.get_or_create(&label).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The Prometheus text.
    pub fn render(&self) -> String {
        self.tallies.take_over();
        for ceiling in self.ceilings().iter().flat_map(|ceilings| &ceilings.stages) {
            let gauge = self.ceilings.get_or_create(&StageLabel { stage: ceiling.stage.name() });
            gauge.set(ceiling.images_per_second);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("writing to a String");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_documented_names() {
        let meters = Meters::new();
        meters.stage(Stage::Decode, Duration::from_millis(2), 1);
        meters.committed(3, [(ErrorCode::Truncated, 1)]);
        meters.conflict(Winner::Other);
        meters.quarantine(Quarantine::Alone);
        meters.set_device_memory(Device::Cuda(1), 7 << 30);
        meters.micro_batch(8, 16);
        meters.set_lanes(Lanes { threads: 2, devices: 0, fetches: 1, batches: 1 });
        meters.set_fetches(48);
        assert_eq!(meters.lanes().map(|lanes| (lanes.threads, lanes.fetches)), Some((2, 48)));
        let text = meters.render();
        for name in [
            "trawl_images_total{outcome=\"ok\"} 3",
            "trawl_images_total{outcome=\"error\"} 1",
            "trawl_image_errors_total{code=\"truncated\"} 1",
            "trawl_batches_total{outcome=\"done\"} 1",
            "trawl_stage_duration_seconds_sum{stage=\"decode\"} 0.002",
            "trawl_commit_conflicts_total{outcome=\"other\"} 1",
            "trawl_batch_fill_ratio_count 1",
            "trawl_quarantined_total{reason=\"alone\"} 1",
            "trawl_device_memory_bytes{device=\"cuda:1\"} 7516192768",
            "\",torch=\"2.",
            "trawl_stage_ceiling_images_per_second{stage=\"decode\"} 1000.0",
        ] {
            assert!(text.contains(name), "{name} is not in\n{text}");
        }
        assert_eq!(meters.total(Stage::Decode).count, 1);
    }

    #[test]
    fn what_has_not_happened_yet_is_there_at_zero() {
        let text = Meters::new().render();
        for series in [
            "trawl_images_total{outcome=\"error\"} 0",
            "trawl_image_errors_total{code=\"crashed_worker\"} 0",
            "trawl_batches_total{outcome=\"dead\"} 0",
            "trawl_commit_conflicts_total{outcome=\"self\"} 0",
            "trawl_quarantined_total{reason=\"one_by_one\"} 0",
            "trawl_stage_duration_seconds_count{stage=\"forward\"} 0",
        ] {
            assert!(text.contains(series), "{series} is not in\n{text}");
        }
        // Those of the whole process, where other tests count too.
        for series in [
            "trawl_amqp_reconnects_total{reason=\"heartbeat\"} ",
            "trawl_store_requests_total{op=\"put\",code=\"throttled\"} ",
            "trawl_store_throttled_total ",
        ] {
            assert!(text.contains(series), "{series} is not in\n{text}");
        }
        assert!(!text.contains("trawl_device_memory_bytes{"), "the CPU has none");
    }
}
