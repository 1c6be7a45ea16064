//! Frames on a terminal in memory: what is where at which size, and without colour.

use super::*;
use crate::{
    report::tests::progress,
    screen::feed::{CrewMember, LedgerAnswer, Surroundings},
    screen::keys::Action,
};
use ratatui::{Terminal, backend::TestBackend, style::Color};
use std::time::Duration;
use trawl_common::{batch::BatchNumber, broker::QueueDepth, ledger::JobState};

const RICH: Look = Look { colour: true, unicode: true };
const PLAIN: Look = Look { colour: false, unicode: false };

/// Long after the fixture's job was submitted.
const UNIX_MS: u64 = 1_700_000_192_000;

fn claim(batch: u64, worker: &str, age_ms: u64) -> Claim {
    Claim { batch: BatchNumber(batch), worker: worker.into(), age_ms }
}

fn standing(name: &str) -> Progress {
    Progress { job: name.parse().unwrap(), ..progress(JobState::Running) }
}

fn state(scope: &Scope) -> State {
    let mut state = State::new(scope.clone(), Instant::now());
    let jobs = match scope {
        Scope::All => ["job-1", "job-0"].map(standing).to_vec(),
        Scope::One(_) => Vec::new(),
    };
    let claims = vec![claim(7, "host-b", 95_000), claim(9, "host-a", 2_000)];
    let answer = LedgerAnswer { jobs, shown: Some(standing("job-1")), claims };
    state.absorb(answer, Instant::now());
    state
}

fn around(depth: Option<QueueDepth>, dead: Option<u64>, crew: Option<Vec<CrewMember>>) -> Surroundings {
    Surroundings { queue: "default".into(), depth, dead, crew }
}

fn one() -> State {
    state(&Scope::One("job-1".parse().unwrap()))
}

fn drawn_by(state: &State, look: Look, width: u16, height: u16) -> (Vec<String>, Terminal<TestBackend>) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|f| frame(f, state, look, (Instant::now(), UNIX_MS))).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    ((0..height).map(line).collect(), terminal)
}

fn drawn(state: &State, width: u16, height: u16) -> Vec<String> {
    drawn_by(state, PLAIN, width, height).0
}

fn position(lines: &[String], text: &str) -> usize {
    lines.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text} in {lines:#?}"))
}

#[test]
fn one_job_in_full() {
    let lines = drawn(&one(), 80, 24);
    assert!(
        lines[0].starts_with(" trawl watch job-1") && lines[0].ends_with("? keys  q leave"),
        "{lines:#?}"
    );
    assert_eq!(lines[1], "job      job-1  running  submitted 3m12s ago");
    assert_eq!(lines[2], "out      s3://b/out");
    assert!(lines[3].starts_with("images   ####") && lines[3].ends_with("50 %  500 of 1,000 images"));
    assert_eq!(lines[3].chars().count(), 80, "the bar takes what is left");
    assert_eq!(lines[4], "         490 ok, 10 failed, 500 to go");
    assert_eq!(lines[5], "rate         50/s   10s left");
    assert_eq!(lines[6], "batches  2 of 4 done, 2 in hand");
    assert_eq!(lines[7], "stages   decode 1.50, forward 12.25 ms/image  forward binds");
    assert_eq!(lines[8], "failures not_an_image 7, truncated 3");
    let workers = position(&lines, "WORKER");
    assert!(lines[workers + 1].starts_with("host-a") && lines[workers + 2].ends_with("1m35s"), "{lines:#?}");
    let batches = position(&lines, "BATCH IN HAND OF");
    assert!(
        lines[batches + 1].starts_with("host-b") && lines[batches + 1].contains("00000007"),
        "{lines:#?}"
    );
}

#[test]
fn all_jobs_with_the_selected_one_in_full() {
    let mut all = state(&Scope::All);
    let lines = drawn(&all, 120, 30);
    assert!(lines[0].starts_with(" trawl watch: 2 jobs"), "{lines:#?}");
    assert!(lines[1].starts_with("OUT") && lines[1].ends_with("SUBMITTED"), "{lines:#?}");
    assert!(lines[2].contains("job-1") && lines[3].contains("job-0") && lines[3].ends_with("3m12s ago"));
    assert!(lines[4].contains("job-1"), "the newest is shown in full: {lines:#?}");
    all.press(Action::Move(1));
    let lines = drawn(&all, 120, 30);
    assert!(lines[4].contains("job-0"), "{lines:#?}");
    // What the other job had in hand is not this one's.
    assert!(!lines.iter().any(|line| line.contains("host-b")), "{lines:#?}");
}

#[test]
fn the_lane_is_shown_and_what_is_wrong_with_it() {
    let mut state = one();
    let depth = Some(QueueDepth { ready: 1234, consumers: 0 });
    state.absorb_around(around(depth, Some(2), None));
    let lines = drawn(&state, 120, 24);
    let line = &lines[position(&lines, "batches")];
    assert!(line.contains("1,234 ready in queue default, 0 consumers, 2 dead letters"), "{line}");
    position(&lines, "no worker takes from queue default: start one with trawl-worker --queue default");
    position(&lines, "trawl dead list --job job-1");
    let depth = Some(QueueDepth { ready: 1, consumers: 1 });
    state.absorb_around(around(depth, Some(0), None));
    let lines = drawn(&state, 120, 24);
    assert!(!lines.iter().any(|line| line.contains("no worker") || line.contains("dead list")), "{lines:#?}");
}

#[test]
fn the_registry_says_more_of_a_worker_than_its_batches() {
    let mut state = one();
    let crew = vec![CrewMember {
        name: "gpu-1".into(),
        device: Some("cuda:0".into()),
        rate: Some(1532.4),
        busiest: Some(("decode".into(), 0.934)),
        in_hand: 2,
        heard_ms: Some(1_400),
        oldest_ms: None,
        remark: Some("draining".into()),
    }];
    state.absorb_around(around(None, None, Some(crew)));
    let lines = drawn(&state, 100, 24);
    let line = &lines[position(&lines, "gpu-1")];
    for part in ["cuda:0", "1532", "decode 93 %", " 2 ", "1s", "draining"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn no_size_is_too_small_and_the_least_goes_first() {
    for state in [one(), state(&Scope::All), State::new(Scope::All, Instant::now())] {
        for width in [1, 2, 5, 19, 24, 40, 79, 200] {
            for height in 1..40 {
                drawn_by(&state, RICH, width, height);
            }
        }
    }
    assert_eq!(drawn(&one(), 30, 2)[0], "50 % 50/s running");
    let few = drawn(&one(), 80, 6);
    assert!(
        few[1].starts_with("job") && few[2].starts_with("images") && few[4].starts_with("rate"),
        "{few:#?}"
    );
    assert!(!few.iter().any(|line| line.contains("WORKER") || line.starts_with("failures")), "{few:#?}");
}

#[test]
fn a_table_shows_the_row_that_the_keys_are_at() {
    let mut state = one();
    state.claims = (0..200).map(|n| claim(n, "w", 1)).collect();
    state.press(Action::NextTable);
    state.press(Action::Last);
    let lines = drawn(&state, 80, 24);
    position(&lines, "00000199");
    assert!(!lines.iter().any(|line| line.contains("00000000")), "{lines:#?}");
    state.press(Action::First);
    position(&drawn(&state, 80, 24), "00000000");
}

#[test]
fn without_colour_nothing_is_coloured_and_all_is_ascii() {
    let (lines, terminal) = drawn_by(&state(&Scope::All), PLAIN, 100, 30);
    assert!(lines.iter().all(|line| line.is_ascii()), "{lines:#?}");
    let coloured = |cell: &ratatui::buffer::Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
    assert!(!terminal.backend().buffer().content().iter().any(coloured));
    let (_, terminal) = drawn_by(&state(&Scope::All), RICH, 100, 30);
    assert!(terminal.backend().buffer().content().iter().any(coloured), "and otherwise there is some");
}

#[test]
fn text_from_outside_steers_nothing() {
    let mut state = one();
    state.claims = vec![claim(1, "w\u{1b}[2J", 1)];
    if let Some(standing) = &mut state.shown {
        standing.out = "s3://b/\u{1b}]0;x\u{7}".into();
    }
    state.say("note\u{9b}".into(), Instant::now());
    let lines = drawn(&state, 100, 24);
    position(&lines, "s3://b/\\u{1b}]0;x");
    position(&lines, "w\\u{1b}[2J");
    position(&lines, "note\\u{9b}");
}

#[test]
fn the_rate_has_a_past_once_there_is_one() {
    let mut state = one();
    let began = Instant::now();
    for step in 1..=30_u32 {
        let mut shown = standing("job-1");
        shown.images_ok = 490 + u64::from(step) * 20;
        let answer = LedgerAnswer { shown: Some(shown), ..LedgerAnswer::default() };
        state.absorb(answer, began + Duration::from_secs(2) * step);
    }
    let lines = drawn_by(&state, RICH, 80, 24).0;
    let line = &lines[position(&lines, "rate")];
    assert!(line.contains("██████") && line.contains("peak 10/s"), "{line}");
}

#[test]
fn the_keys_are_told_over_whatever_is_shown() {
    let mut state = one();
    state.press(Action::Help);
    let lines = drawn(&state, 80, 24);
    position(&lines, "leave; the job goes on");
    state.press(Action::Help);
    assert!(!drawn(&state, 80, 24).iter().any(|line| line.contains("leave; the job")));
}

#[test]
fn rows_are_shared_so_that_each_table_has_some_or_none() {
    for total in 0..80 {
        for jobs in [None, Some(0), Some(1), Some(50)] {
            let h = heights(total, jobs, 8);
            let sum = h.jobs + h.detail + h.workers + h.batches;
            assert_eq!(sum, total.saturating_sub(2), "{h:?} of {total}");
            assert!(h.workers == 0 || h.workers >= TABLE_ROWS, "{h:?} of {total}");
        }
    }
    assert_eq!(heights(24, None, 8), Heights { jobs: 0, detail: 9, workers: 6, batches: 7 });
}
