//! A job's standing in one line: the same words in `trawl status`, `watch`, `submit --watch` and both `run`s.
//!
//! Made from the counters alone; where they come from and where the line goes is the caller's. A rate or an
//! estimate that is not known is left out, never guessed.

use crate::{
    ledger::{JobState, Progress},
    text,
};

/// A job's standing in one line.
pub fn line(p: &Progress) -> String {
    let done = p.images_ok + p.images_failed;
    let mut line = format!(
        "{}: {} of {} ({})",
        p.state.name(),
        text::count(done),
        planned(p),
        text::percent(done, p.images_planned)
    );
    if p.images_failed > 0 {
        line.push_str(&format!(", {} failed", text::count(p.images_failed)));
    }
    if let Some(pace) = pace(p) {
        line.push_str(", ");
        line.push_str(&pace);
    }
    line
}

/// Rate and estimate, while there is something to wait for.
pub fn pace(p: &Progress) -> Option<String> {
    let moving = matches!(p.state, JobState::Enqueuing | JobState::Running) && p.images_per_second > 0.0;
    moving.then(|| {
        let rate = format!("{} images/s", text::rate(p.images_per_second));
        match p.eta_seconds {
            Some(eta) => format!("{rate}, {} left", text::seconds(eta)),
            None => rate,
        }
    })
}

/// The failed images by code, the most frequent first.
pub fn errors(p: &Progress) -> String {
    let mut errors: Vec<_> = p.errors.iter().filter(|(_, n)| **n > 0).collect();
    errors.sort_by_key(|(code, n)| (std::cmp::Reverse(**n), code.as_str()));
    errors.iter().map(|(code, n)| format!("{code} {}", text::count(**n))).collect::<Vec<_>>().join(", ")
}

/// The planned images, with the mark that there may be more.
pub fn planned(p: &Progress) -> String {
    let more = if p.state == JobState::Enqueuing { " so far" } else { "" };
    format!("{}{more}", text::counted(p.images_planned, "image", "images"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_code::ErrorCode;

    fn progress(state: JobState) -> Progress {
        Progress {
            job: "job-1".parse().unwrap(),
            state,
            out: "s3://b/out".into(),
            queue: "default".into(),
            created_unix_ms: 1,
            images_planned: 1000,
            images_ok: 490,
            images_failed: 10,
            batches_planned: 4,
            batches_done: 2,
            errors: [(ErrorCode::Truncated, 3), (ErrorCode::NotAnImage, 7)].into(),
            images_per_second: 50.0,
            eta_seconds: Some(10.0),
            stages: Default::default(),
            binding: None,
        }
    }

    #[test]
    fn nothing_is_promised_that_is_not_known() {
        let mut p = progress(JobState::Enqueuing);
        p.eta_seconds = None;
        assert_eq!(line(&p), "enqueuing: 500 of 1,000 images so far (50 %), 10 failed, 50 images/s");
        let p = progress(JobState::Complete);
        assert!(!line(&p).contains("left"), "a complete job has nothing left: {}", line(&p));
    }

    #[test]
    fn the_most_frequent_failure_comes_first() {
        assert_eq!(errors(&progress(JobState::Running)), "not_an_image 7, truncated 3");
    }
}
