//! One job in lines: progress, pace, lane, stages, failures, and what wants attention.
//!
//! Each line has a weight, so that a terminal with too few rows loses the least first.

use super::{look::Look, state::State};
use crate::{report, text};
use ratatui::text::{Line, Span};
use std::time::Duration;
use tokio::time::Instant;
use trawl_common::{
    ledger::{JobState, Progress},
    summary::planned,
};

/// Columns that a field's name takes.
const LABEL: usize = 9;

/// A sparkline is at most this wide: five minutes.
const WIDEST_SPARK: usize = 150;

/// Columns of a rate line beside its sparkline.
const BESIDE_SPARK: usize = 42;

/// Shown while there is no job: nobody has submitted one, or the first answer is still to come.
const NOTHING: &str = "no jobs yet: `trawl submit` makes one";

/// What a line is worth: of two that do not both fit, the one with the higher number goes.
pub type Weight = u8;

/// The lines of the job that is shown with their weights, at most `height` of them.
pub fn lines(
    state: &State,
    look: Look,
    width: usize,
    height: usize,
    at: (Instant, u64),
) -> Vec<(Weight, Line<'static>)> {
    let (now, unix_ms) = at;
    let Some(p) = &state.shown else {
        return vec![(0, Line::from(NOTHING))];
    };
    let mut lines: Vec<(Weight, Line<'static>)> = vec![
        (1, title(p, look, unix_ms)),
        (
            7,
            field(
                look,
                "out",
                vec![text::cut_front(&text::printable(&p.out), width.saturating_sub(LABEL)).into()],
            ),
        ),
        (0, bar(p, look, width)),
        (2, counts(p, look)),
        (3, pace(state, p, look, width)),
        (4, queue(state, p, look)),
    ];
    if !p.stages.is_empty() {
        lines.push((5, stage_times(p, look)));
    }
    if p.images_failed > 0 {
        lines.push((6, field(look, "failures", vec![Span::styled(report::errors(p), look.bad())])));
    }
    lines.extend(warnings(state, p, now).into_iter().map(|text| (1, Line::styled(text, look.warning()))));
    fit(&mut lines, height);
    lines
}

/// The lightest lines go until the rest fits; the order stays.
pub fn fit(lines: &mut Vec<(Weight, Line<'static>)>, height: usize) {
    while lines.len() > height {
        let heaviest = lines.iter().map(|(weight, _)| *weight).max();
        let Some(last) = lines.iter().rposition(|(weight, _)| Some(*weight) == heaviest) else { break };
        lines.remove(last);
    }
}

fn field(look: Look, name: &str, mut value: Vec<Span<'static>>) -> Line<'static> {
    value.insert(0, Span::styled(format!("{name:<LABEL$}"), look.label()));
    Line::from(value)
}

fn title(p: &Progress, look: Look, unix_ms: u64) -> Line<'static> {
    field(
        look,
        "job",
        vec![
            Span::raw(p.job.to_string()),
            Span::raw("  "),
            Span::styled(p.state.name(), look.state(p.state)),
            Span::styled(format!("  submitted {}", text::ago(p.created_unix_ms, unix_ms)), look.label()),
        ],
    )
}

fn bar(p: &Progress, look: Look, width: usize) -> Line<'static> {
    let done = p.images_ok + p.images_failed;
    let numbers =
        format!(" {:>5}  {} of {}", text::percent(done, p.images_planned), text::count(done), planned(p));
    let room = width.saturating_sub(LABEL + numbers.chars().count());
    let filled = look.bar(done, p.images_planned, room);
    field(look, "images", vec![Span::styled(filled, look.state(p.state)), Span::raw(numbers)])
}

fn counts(p: &Progress, look: Look) -> Line<'static> {
    let rest = p.images_planned.saturating_sub(p.images_ok + p.images_failed);
    let failed = format!("{} failed", text::count(p.images_failed));
    let failed = if p.images_failed > 0 { Span::styled(failed, look.bad()) } else { Span::raw(failed) };
    field(
        look,
        "",
        vec![
            Span::styled(format!("{} ok", text::count(p.images_ok)), look.good()),
            Span::raw(look.dot()),
            failed,
            Span::raw(look.dot()),
            Span::raw(format!("{} to go", text::count(rest))),
        ],
    )
}

fn pace(state: &State, p: &Progress, look: Look, width: usize) -> Line<'static> {
    let rates = state.rates(WIDEST_SPARK.min(width.saturating_sub(BESIDE_SPARK)));
    let mut value = vec![Span::raw(format!("{:>8} ", format!("{}/s", text::rate(p.images_per_second))))];
    let most = rates.iter().copied().fold(0.0, f64::max);
    if most > 0.0 {
        value.push(Span::styled(look.spark(&rates), look.accent()));
        value.push(Span::styled(format!(" peak {}/s", text::rate(most)), look.label()));
    }
    if let Some(eta) = p.eta_seconds
        && matches!(p.state, JobState::Running | JobState::Enqueuing)
    {
        value.push(Span::raw(format!("  {} left", text::seconds(eta))));
    }
    field(look, "rate", value)
}

fn queue(state: &State, p: &Progress, look: Look) -> Line<'static> {
    let mut words = vec![
        format!("{} of {} done", text::count(p.batches_done), text::count(p.batches_planned)),
        format!("{} in hand", text::count(state.claims.len() as u64)),
    ];
    if let Some(around) = &state.around {
        if let Some(depth) = &around.depth {
            let queue = text::printable(&p.queue);
            words.push(format!("{} ready in queue {queue}", text::count(depth.ready)));
            words.push(text::counted(depth.consumers, "consumer", "consumers"));
        }
        if let Some(dead) = around.dead {
            words.push(text::counted(dead, "dead letter", "dead letters"));
        }
    }
    field(look, "batches", vec![words.join(look.dot()).into()])
}

fn stage_times(p: &Progress, look: Look) -> Line<'static> {
    let mut value = Vec::new();
    for (stage, ms) in &p.stages {
        if !value.is_empty() {
            value.push(Span::raw(look.dot()));
        }
        let shown = format!("{stage} {ms:.2}");
        value.push(if p.binding == Some(*stage) {
            Span::styled(shown, look.warning())
        } else {
            Span::raw(shown)
        });
    }
    value.push(Span::styled(" ms/image", look.label()));
    if let Some(binding) = p.binding {
        value.push(Span::styled(format!("  {binding} binds"), look.warning()));
    }
    field(look, "stages", value)
}

/// What somebody should do something about.
fn warnings(state: &State, p: &Progress, now: Instant) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(silence) = state.silence(now) {
        warnings.push(format!(
            "the ledger has not answered for {}: these numbers are old, the job goes on",
            text::seconds(Duration::as_secs_f64(&silence))
        ));
    }
    let Some(around) = &state.around else { return warnings };
    let at_work = matches!(p.state, JobState::Enqueuing | JobState::Running);
    if at_work && around.depth.is_some_and(|depth| depth.consumers == 0) {
        let queue = text::printable(&p.queue);
        warnings
            .push(format!("no worker takes from queue {queue}: start one with trawl-worker --queue {queue}"));
    }
    if at_work && around.dead.is_some_and(|dead| dead > 0) {
        warnings.push(format!("batches may be among the dead letters: trawl dead list --job {}", p.job));
    }
    warnings
}
