//! Failpoints in a build that has them: what `TRAWL_FAILPOINTS` says, and what a pass does.

use super::NAMES;
use std::{
    fmt::Write,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The variable that sets them.
const VARIABLE: &str = "TRAWL_FAILPOINTS";

/// Reads `TRAWL_FAILPOINTS`, so that a mistake in it shows at the start and not in the middle.
///
/// # Panics
/// If it cannot be understood: a test with a misspelt fault must not pass.
pub fn check() {
    let points = points();
    if !points.is_empty() {
        tracing::warn!(points = points.len(), "failpoints are set; this process is made to fail");
    }
}

/// Passes the place `name`: does nothing, pauses, or ends the process. Cancel safe.
///
/// # Panics
/// If told to.
pub async fn hit(name: &'static str) {
    match passed(name) {
        Some(Action::Pause(pause)) => tokio::time::sleep(pause).await,
        Some(action) => action.now(name),
        None => {}
    }
}

/// The same on a thread that may block.
///
/// # Panics
/// If told to.
pub fn hit_blocking(name: &'static str) {
    match passed(name) {
        Some(Action::Pause(pause)) => std::thread::sleep(pause),
        Some(action) => action.now(name),
        None => {}
    }
}

/// Passes the place `name` and answers whether it shall fail this time.
///
/// # Panics
/// If told to.
pub fn error(name: &'static str) -> bool {
    match passed(name) {
        Some(Action::Error) => true,
        Some(Action::Pause(_)) => panic!("{VARIABLE}: `{name}` asks whether to fail, it cannot pause"),
        Some(action) => {
            action.now(name);
            false
        }
        None => false,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Abort,
    Panic,
    Pause(Duration),
    Error,
}

impl Action {
    /// All that takes no time.
    fn now(self, name: &str) {
        match self {
            // SAFETY: kill and getpid take no pointers.
            Self::Kill => unsafe {
                libc::kill(libc::getpid(), libc::SIGKILL);
            },
            Self::Abort => std::process::abort(),
            Self::Panic => panic!("the failpoint `{name}` panics as told"),
            Self::Error => panic!("{VARIABLE}: `{name}` is no place that can fail"),
            Self::Pause(_) => {}
        }
    }
}

#[derive(Debug)]
struct Point {
    name: &'static str,
    action: Action,
    /// The only pass that acts, counted from 1.
    only: Option<u64>,
    passes: AtomicU64,
}

fn points() -> &'static [Point] {
    static POINTS: OnceLock<Vec<Point>> = OnceLock::new();
    POINTS.get_or_init(|| {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        parse(&text).unwrap_or_else(|reason| panic!("{VARIABLE}: {reason}"))
    })
}

/// Counts the pass; what to do, if anything.
fn passed(name: &'static str) -> Option<Action> {
    debug_assert!(NAMES.contains(&name), "`{name}` is not in failpoint::NAMES");
    let action = points().iter().find_map(|point| point.pass(name))?;
    tracing::warn!(failpoint = name, ?action, "failpoint reached");
    Some(action)
}

impl Point {
    fn pass(&self, name: &str) -> Option<Action> {
        if self.name != name {
            return None;
        }
        let pass = self.passes.fetch_add(1, Ordering::SeqCst) + 1;
        self.only.is_none_or(|only| only == pass).then_some(self.action)
    }
}

fn parse(text: &str) -> Result<Vec<Point>, String> {
    text.split(';').map(str::trim).filter(|entry| !entry.is_empty()).map(parse_one).collect()
}

fn parse_one(entry: &str) -> Result<Point, String> {
    let (name, rest) = entry.split_once('=').ok_or_else(|| format!("`{entry}` is not NAME=ACTION"))?;
    let name = NAMES.into_iter().find(|known| *known == name.trim()).ok_or_else(|| unknown(name))?;
    let (action, only) = match rest.split_once('@') {
        None => (rest, None),
        Some((action, nth)) => {
            let nth = nth.trim().parse().ok().filter(|nth| *nth > 0);
            (action, Some(nth.ok_or_else(|| format!("in `{entry}`, behind @ comes a number from 1"))?))
        }
    };
    let action = match action.trim().split_once(':') {
        None if action.trim() == "kill" => Action::Kill,
        None if action.trim() == "abort" => Action::Abort,
        None if action.trim() == "panic" => Action::Panic,
        None if action.trim() == "error" => Action::Error,
        Some(("pause", time)) => Action::Pause(
            duration(time).ok_or_else(|| format!("`{time}` in `{entry}` is no time such as 5s or 300ms"))?,
        ),
        _ => {
            return Err(format!(
                "`{entry}` has none of the actions kill, abort, panic, error, pause:5s, pause:300ms"
            ));
        }
    };
    Ok(Point { name, action, only, passes: AtomicU64::new(0) })
}

fn unknown(name: &str) -> String {
    let mut text = format!("there is no place `{name}`; there are");
    for known in NAMES {
        // Writing to a String does not fail.
        let _ = write!(text, " {known}");
    }
    text
}

fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    match text.strip_suffix("ms") {
        Some(millis) => millis.parse().ok().map(Duration::from_millis),
        None => text.strip_suffix('s')?.parse().ok().map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read() {
        let points =
            parse(" settle.put.before=kill@2 ; settle.ack.before=pause:5s@1;decode.before=pause:30ms;")
                .unwrap();
        let read: Vec<_> = points.iter().map(|point| (point.name, point.action, point.only)).collect();
        let pause = |millis| Action::Pause(Duration::from_millis(millis));
        assert_eq!(
            read,
            [
                ("settle.put.before", Action::Kill, Some(2)),
                ("settle.ack.before", pause(5000), Some(1)),
                ("decode.before", pause(30), None),
            ]
        );
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        for (text, words) in [
            ("settle.put.before", "is not NAME=ACTION"),
            ("settle.put.befor=kill", "there is no place `settle.put.befor`"),
            ("settle.put.before=explode", "none of the actions"),
            ("settle.put.before=pause", "none of the actions"),
            ("settle.put.before=pause:5", "no time"),
            ("settle.put.before=pause:s", "no time"),
            ("settle.put.before=kill@0", "a number from 1"),
            ("settle.put.before=kill@x", "a number from 1"),
            ("settle.put.before=kill:1s", "none of the actions"),
        ] {
            let reason = parse(text).expect_err(text);
            assert!(reason.contains(words), "{text}: {reason}");
        }
    }

    #[test]
    fn only_the_nth_pass_acts() {
        let points = parse("fetch.error=error@2;decode.before=panic").unwrap();
        let passes: Vec<_> = (0..4).map(|_| points[0].pass("fetch.error")).collect();
        assert_eq!(passes, [None, Some(Action::Error), None, None]);
        assert_eq!(points[0].pass("decode.before"), None);
        assert_eq!(points[1].pass("decode.before"), Some(Action::Panic));
        assert_eq!(points[1].pass("decode.before"), Some(Action::Panic));
    }

    #[tokio::test]
    async fn unset_points_do_nothing() {
        for name in NAMES {
            hit(name).await;
            hit_blocking(name);
            assert!(!error(name));
        }
    }
}
