//! A sample of a job's images: read as the job would read them, and the timing of that.
//!
//! For `trawl submit --dry-run --sample`, which sends the sample to this program's standard input. Asks through the fetch
//! stage's own [`Asker`], so that archives, tables, tags and refusals are as in the job. Holds the bytes in memory,
//! within the bounds of every bench, and writes nothing anywhere.

use super::{
    prediction::Speed,
    sample::{KEPT_BYTES, Sample},
    stages::process_cpu_seconds,
};
use crate::{
    cli::ComputeArgs,
    pipeline::{
        asking::{Asked, Asker, Missed},
        pace::Pace,
        reading::{Brought, Part, Reading},
    },
};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::Read,
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use trawl_common::{
    batch::ImageRef,
    error_code::ErrorCode,
    job::JobSpec,
    location::Location,
    offload::offload,
    planning::sample::{JobSample, MAX_SAMPLE_BYTES},
    storage::{StorageError, Stores},
};

/// Row groups read at once: each comes whole and may have hundreds of megabytes; a worker has so many batches in hand.
const ROW_GROUPS_AT_ONCE: usize = 2;

/// A sample that is smaller than so many times the requests at once is read again until there were as many: the first ones
/// alone show how long the slowest takes, and not how many come in a second.
const ROUNDS: usize = 4;

/// No longer than this: a store that is so slow has shown it by then.
const AGAIN: Duration = Duration::from_secs(3);

/// Images that failed, by code.
pub type Failed = BTreeMap<ErrorCode, usize>;

/// What reading a sample showed beside its speed.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    /// Images that came.
    pub came: usize,
    /// Those that did not.
    pub failed: Failed,
    /// Whether a job asks for its images as they were asked for here, so that the speed is its own.
    pub alike: bool,
    at_once: usize,
    timed: Timed,
}

/// Reads the sample from the standard input.
///
/// # Errors
/// If it is none.
pub async fn from_stdin() -> Result<(JobSpec, Vec<ImageRef>)> {
    let reading = offload(|| {
        let mut json = Vec::new();
        std::io::stdin().lock().take(MAX_SAMPLE_BYTES).read_to_end(&mut json).map(|_| json)
    });
    let json = reading.await.context("the sample cannot be read from the standard input")?;
    Ok(JobSample::parse(&json)?)
}

/// Reads the images.
///
/// # Errors
/// The store's, if none came because of it; that none came.
pub async fn fetch(
    spec: &JobSpec,
    images: Vec<ImageRef>,
    stores: &Arc<Stores>,
    compute: &ComputeArgs,
) -> Result<Sample> {
    let limits = compute.fetch_limits();
    let images = within_memory(images, limits.max_image_bytes);
    let readings = Reading::plan(&images, &(0..images.len()).collect::<Vec<_>>());
    let rows = readings.iter().any(|reading| matches!(reading.part, Part::Rows(..)));
    let pace = Pace::new(limits.reads).limit();
    let at_once = if rows { pace.min(ROW_GROUPS_AT_ONCE) } else { pace };
    connect(spec, images.iter().take(at_once), stores).await;

    let asking = Asking { asker: Asker::new(stores.clone(), limits.max_image_bytes), spec, images, at_once };
    let mut got = Got::default();
    let mut timed = asking
        .time(readings.iter(), |wanted, came| {
            got.take(&asking.images[wanted], came);
            // Of a size that nobody knew before.
            got.bytes <= KEPT_BYTES
        })
        .await;
    got.refuse_nothing()?;
    let alike = asking.images.iter().all(|image| image.within.is_none());
    if alike && readings.len() < at_once * ROUNDS {
        let (began, mut bytes) = (Instant::now(), 0);
        let again = readings.iter().cycle().take(at_once * ROUNDS);
        timed = asking
            .time(again, |_, came| {
                bytes += came.map_or(0, |brought| brought.bytes.len());
                bytes <= KEPT_BYTES && began.elapsed() < AGAIN
            })
            .await;
    }
    let speed = timed.speed();
    let gathered = Gathered { came: got.files.len(), failed: got.failed, alike, at_once, timed };
    Ok(Sample { files: got.files, read: Some(speed), gathered: Some(gathered) })
}

/// Asks for the images of a sample, so many at once.
struct Asking<'a> {
    asker: Asker,
    spec: &'a JobSpec,
    images: Vec<ImageRef>,
    at_once: usize,
}

/// What requests took together.
#[derive(Debug, Clone, Copy, Default)]
struct Timed {
    requests: usize,
    images: usize,
    bytes: u64,
    seconds: f64,
    cpu_seconds: f64,
}

impl Asking<'_> {
    /// Makes the requests while `heard`, which gets what comes of each, wants more.
    async fn time<'r>(
        &self,
        readings: impl Iterator<Item = &'r Reading>,
        mut heard: impl FnMut(Range<usize>, Result<Brought, Missed>) -> bool,
    ) -> Timed {
        let (began, cpu) = (Instant::now(), process_cpu_seconds());
        let asking = stream::iter(readings).map(|reading| async move {
            let wanted = &reading.wanted;
            let (image, alone) = (&self.images[wanted.start], wanted.len() == 1);
            (wanted, self.asker.ask(self.spec, Asked { image, alone, part: &reading.part }).await)
        });
        let (mut coming, mut timed) = (asking.buffer_unordered(self.at_once), Timed::default());
        while let Some((wanted, came)) = coming.next().await {
            timed.requests += 1;
            if let Ok(brought) = &came {
                timed.images += wanted.len();
                timed.bytes += brought.bytes.len();
            }
            if !heard(wanted.clone(), came) {
                break;
            }
        }
        timed.seconds = began.elapsed().as_secs_f64();
        timed.cpu_seconds = process_cpu_seconds() - cpu;
        timed
    }
}

impl Timed {
    fn speed(&self) -> Speed {
        let images = self.images.max(1) as f64;
        Speed {
            images_per_second: images / self.seconds.max(1e-9),
            cpu_seconds_an_image: self.cpu_seconds / images,
        }
    }
}

/// As many of the images, evenly taken, as have room in memory by what is known of their sizes.
fn within_memory(mut images: Vec<ImageRef>, max_image_bytes: u64) -> Vec<ImageRef> {
    let bytes = |images: &[ImageRef]| {
        // A larger one is refused before it is read.
        images.iter().map(|image| image.size).filter(|size| *size <= max_image_bytes).sum::<u64>()
    };
    while images.len() > 1 && bytes(&images) > KEPT_BYTES {
        images = images.into_iter().step_by(2).collect();
    }
    images
}

/// Opens as many connections as the measured requests will use: a worker opens them once in its life, and a sample is too
/// small to show that.
async fn connect(spec: &JobSpec, images: impl Iterator<Item = &ImageRef>, stores: &Arc<Stores>) {
    let places = images.filter_map(|image| Location::parse(image.object(), Path::new(&spec.base_dir)).ok());
    let far = places.filter(|place| !place.is_local());
    let heads = far.map(|place| async move {
        // What it says is said again when it counts.
        let _answer = stores.open(&place).await.head(place.key()).await;
    });
    futures::future::join_all(heads).await;
}

/// What came and what did not.
#[derive(Default)]
struct Got {
    files: Vec<Bytes>,
    bytes: u64,
    failed: Failed,
    /// The first word about one that did not come.
    said: Option<String>,
    refused: Option<StorageError>,
}

impl Got {
    fn take(&mut self, images: &[ImageRef], came: Result<Brought, Missed>) {
        let bytes = match came {
            Ok(brought) => brought.bytes,
            Err(missed) => return self.miss(missed, images.len()),
        };
        self.bytes += bytes.len();
        for image in images {
            match bytes.of(image) {
                // A copy: what else came with it is not to stay in memory.
                Ok(bytes) if image.within.is_some() => self.files.push(Bytes::copy_from_slice(&bytes)),
                Ok(bytes) => self.files.push(bytes),
                Err((code, message)) => self.miss(Missed::Row(code, message), 1),
            }
        }
    }

    fn miss(&mut self, missed: Missed, images: usize) {
        let (code, message) = match missed {
            Missed::Row(code, message) => (code, message),
            Missed::Store(error) => {
                let code = if error.is_forbidden() { ErrorCode::Forbidden } else { ErrorCode::Unreadable };
                let message = error.to_string();
                self.refused.get_or_insert(error);
                (code, message)
            }
        };
        *self.failed.entry(code).or_default() += images;
        self.said.get_or_insert(message);
    }

    /// An error if there is nothing to go on with.
    fn refuse_nothing(&mut self) -> Result<()> {
        if !self.files.is_empty() {
            return Ok(());
        }
        if let Some(error) = self.refused.take() {
            return Err(error).context("no image of the sample could be read");
        }
        bail!(
            "no image of the sample could be read ({}): {}",
            codes(&self.failed),
            self.said.as_deref().unwrap_or("nothing came")
        )
    }
}

/// `not_an_image 3, truncated 1`.
pub fn codes(failed: &Failed) -> String {
    failed.iter().map(|(code, images)| format!("{code} {images}")).collect::<Vec<_>>().join(", ")
}

impl Gathered {
    /// For programs; of the images that came some had no pixels.
    pub fn json(&self, read: &Speed, unusable: &Failed) -> Value {
        let ok = self.came - unusable.values().sum::<usize>();
        let mut failed = self.failed.clone();
        for (code, images) in unusable {
            *failed.entry(*code).or_default() += images;
        }
        json!({
            "images": ok + failed.values().sum::<usize>(), "ok": ok, "failed": failed,
            "fetch": {
                "images_per_second": read.images_per_second, "requests": self.timed.requests, "at_once": self.at_once,
                "bytes": self.timed.bytes, "seconds": self.timed.seconds, "counted": self.alike,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bench::stages,
        cli::{Cli, Command},
    };
    use clap::Parser;

    #[test]
    fn a_sample_is_thinned_evenly_until_it_has_room() {
        let images = |size: u64| (0..8).map(|n| ImageRef::whole(n.to_string(), None, size)).collect();
        let keys = |size, most| {
            within_memory(images(size), most).into_iter().map(|image| image.key).collect::<String>()
        };
        assert_eq!(keys(1, 1 << 30), "01234567");
        assert_eq!(keys(KEPT_BYTES / 4, 1 << 30), "0246");
        assert_eq!(keys(KEPT_BYTES * 2, u64::MAX), "0", "one is left, whatever it has");
        assert_eq!(keys(KEPT_BYTES * 2, 1), "01234567", "what is not read needs no room");
    }

    #[tokio::test]
    async fn what_does_not_come_has_its_code_and_a_sample_of_nothing_is_an_error() {
        let stores = Stores::in_memory();
        let place = Location::parse("s3://b/a.jpg", Path::new("/")).unwrap();
        stores.open(&place).await.put("a.jpg", Bytes::from_static(b"four")).await.unwrap();
        let line = ["trawl-worker", "bench", "--model", "m.pt", "--max-image-bytes", "1"];
        let Some(Command::Bench(args)) = Cli::parse_from(line).command else { panic!("bench") };
        let spec = stages::job("0").unwrap();
        let read = async |images: &[(&str, u64)]| {
            let image = |(key, size): &(&str, u64)| ImageRef::whole(format!("s3://b/{key}"), None, *size);
            fetch(&spec, images.iter().map(image).collect(), &stores, &args.compute).await
        };
        let sample = read(&[("a.jpg", 4), ("gone.jpg", 4), ("gone too.jpg", 0)]).await.unwrap();
        let (files, gathered) = (sample.files, sample.gathered.unwrap());
        assert_eq!((files.len(), gathered.came, gathered.alike), (1, 1, true));
        let told = gathered.json(&sample.read.unwrap(), &[(ErrorCode::Truncated, 1)].into());
        assert_eq!((&told["images"], &told["ok"]), (&3.into(), &0.into()), "{told}");
        assert_eq!(told["failed"], json!({"not_found": 2, "truncated": 1}));
        let error = read(&[("gone.jpg", 4)]).await.err().unwrap().to_string();
        assert!(error.contains("not_found 1") && error.contains("gone.jpg"), "{error}");
    }
}
