//! What a command is asked about: a job by its id, or an output by its place.
//!
//! A text with a `/` is a place, as is the name of a folder that is there; everything else is a job id.

use crate::errors::Stop;
use std::{path::Path, sync::Arc};
use trawl_common::{
    config::exit,
    job::{JobId, JobSpec},
    ledger::Ledger,
    location::Location,
    standing,
    storage::Stores,
};

/// Jobs that a misspelled id is compared with, the newest first.
const JOBS_COMPARED: usize = 1000;

/// One letter in so many may be wrong: derived ids differ in nearly all of their twelve random ones.
const LETTERS_A_MISTAKE: usize = 5;

/// A job or an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// By id; only the ledger knows where its output is.
    Job(JobId),
    /// By place; all that is asked for is in it.
    Out(Location),
}

/// Reads a text as a target.
///
/// # Errors
/// Usage, if it is neither.
pub fn parse(text: &str, base_dir: &Path) -> Result<Target, Stop> {
    let is_place = text.contains('/') || matches!(text, "." | "..") || base_dir.join(text).is_dir();
    if is_place {
        let location = Location::parse(text, base_dir)?;
        let key = location.key().trim_end_matches('/').to_owned();
        return Ok(Target::Out(location.with_key(key)));
    }
    Ok(Target::Job(text.parse()?))
}

/// The place of a target's output; the ledger is asked only for a job id.
///
/// # Errors
/// Not found, or what the ledger gives.
pub async fn out_of(
    target: Target,
    base_dir: &Path,
    ledger: impl AsyncFnOnce() -> Result<Box<dyn Ledger>, Stop>,
) -> Result<Location, Stop> {
    match target {
        Target::Out(out) => Ok(out),
        Target::Job(job) => {
            let explain = |stop: Stop| Stop {
                message: format!(
                    "there is no folder `{job}`, and asking the ledger for a job of this name failed: {}",
                    stop.message
                ),
                ..stop
            };
            let ledger = ledger().await.map_err(explain)?;
            let progress = ledger.progress(&job).await.map_err(Stop::from).map_err(explain)?;
            match progress {
                Some(progress) => Ok(Location::parse(&progress.out, base_dir)?),
                None => Err(suggest(ledger.as_ref(), &job, unknown(&job)).await),
            }
        }
    }
}

/// The spec of the job whose output this is.
///
/// # Errors
/// Not found if the place is no output, or what the store gives.
pub async fn spec(stores: &Arc<Stores>, out: &Location) -> Result<JobSpec, Stop> {
    Ok(standing::spec(stores, out).await?)
}

/// The ledger does not know the job.
pub fn unknown(job: &JobId) -> Stop {
    Stop::not_found(format!("job {job} is not known to the ledger"))
        .hint("`trawl jobs` lists those it knows; a job's output can be asked too: `trawl status OUT`")
}

/// Adds the known job whose id is most like the one that is not known, if one is. `stop` is as [`unknown`] made
/// it, or any other end of a command, which stays as it is.
pub async fn suggest(ledger: &dyn Ledger, job: &JobId, stop: Stop) -> Stop {
    if stop.code != exit::NOT_FOUND {
        return stop;
    }
    // A suggestion is a bonus: a ledger that fails here has been heard already.
    let known = ledger.jobs(JOBS_COMPARED).await.unwrap_or_default();
    match nearest(job.as_str(), known.iter().map(|known| known.job.as_str())) {
        Some(name) => {
            let hint = format!("did you mean `{name}`? `trawl jobs` lists those it knows");
            stop.hint(hint)
        }
        None => stop,
    }
}

/// The one name that `given` begins, or else the one with the fewest letters to change, if they are few.
fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let mut begun = known.clone().filter(|name| !given.is_empty() && name.starts_with(given));
    if let (Some(name), None) = (begun.next(), begun.next()) {
        return Some(name);
    }
    let most = (given.chars().count() / LETTERS_A_MISTAKE).max(1);
    let distances = known.map(|name| (strsim::osa_distance(given, name), name));
    distances.filter(|(distance, _)| *distance <= most).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::ledger::{JobRecord, memory::MemoryLedger};

    #[test]
    fn a_slash_or_a_folder_makes_a_place() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("results")).unwrap();
        let parse = |text: &str| parse(text, dir.path());
        assert_eq!(parse("job-0123").unwrap(), Target::Job("job-0123".parse().unwrap()));
        let out = |text: &str| match parse(text).unwrap() {
            Target::Out(location) => location.to_string(),
            Target::Job(job) => panic!("{job} is a place"),
        };
        assert_eq!(out("s3://b/out/"), "s3://b/out");
        assert_eq!(out("s3://b"), "s3://b");
        assert!(out("results").ends_with("/results"));
        assert!(out("./nowhere").ends_with("/nowhere"));
        assert_eq!(parse("no such thing").unwrap_err().code, exit::USAGE);
        assert_eq!(parse("ftp://x/y").unwrap_err().code, exit::USAGE);
    }

    #[tokio::test]
    async fn a_folder_that_is_no_output_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let out = Location::parse(dir.path().to_str().unwrap(), Path::new("/")).unwrap();
        let stop = spec(&Stores::new(), &out).await.unwrap_err();
        assert_eq!(stop.code, exit::NOT_FOUND);
        assert!(stop.message.contains("job.json"), "{}", stop.message);
    }

    #[test]
    fn a_mistake_or_two_find_the_job_and_another_name_none() {
        let known = ["job-0123456789ab", "job-0123456789ff", "nightly"];
        let nearest = |given| nearest(given, known.iter().copied());
        assert_eq!(nearest("job-0123456798ab"), Some("job-0123456789ab"), "two letters in the wrong order");
        assert_eq!(nearest("job-0123456789f"), Some("job-0123456789ff"), "the only one that begins so");
        assert_eq!(nearest("night"), Some("nightly"));
        assert_eq!(nearest("nigthly"), Some("nightly"));
        assert_eq!(nearest("job-fedcba987654"), None);
        assert_eq!(nearest("weekly"), None);
    }

    #[tokio::test]
    async fn an_unknown_job_is_answered_with_the_nearest() {
        let ledger = MemoryLedger::default();
        let record = JobRecord {
            job: "nightly-labels".parse().unwrap(),
            out: "s3://b/o".into(),
            queue: "default".into(),
            created_unix_ms: 1,
        };
        ledger.open(&record).await.unwrap();
        let asked = async |name: &str| {
            let job: JobId = name.parse().unwrap();
            suggest(&ledger, &job, unknown(&job)).await.hint.unwrap()
        };
        assert!(asked("nightly-lables").await.contains("did you mean `nightly-labels`?"));
        assert!(!asked("other").await.contains("did you mean"));
        let other = Stop::transient("away");
        assert_eq!(suggest(&ledger, &record.job, other.clone()).await, other);
    }
}
