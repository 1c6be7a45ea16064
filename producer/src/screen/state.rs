//! What the screen knows, and what keys and answers make of it.
//!
//! Plain data and no clock of its own, so that a test can say what is shown at any moment. It never asks anybody:
//! [`super::feed`] does.

use super::{
    feed::{CrewMember, LedgerAnswer, Surroundings},
    keys::Action,
    trace::Trace,
};
use crate::progress::View;
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    time::Duration,
};
use tokio::time::Instant;
use trawl_common::{
    job::JobId,
    ledger::{Claim, Progress},
};

/// A note is shown for so long, unless a newer one comes.
const NOTE_SHOWN: Duration = Duration::from_secs(20);

/// Notes that are kept.
const MOST_NOTES: usize = 20;

/// The ledger answers within milliseconds; without an answer for so long the numbers are called old.
const SILENCE: Duration = Duration::from_secs(3);

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// One job, to its end.
    One(JobId),
    /// Every job that the ledger knows, until somebody leaves.
    All,
}

/// The tables that keys move in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// The jobs.
    Jobs,
    /// The workers.
    Workers,
    /// The batches in hand.
    Batches,
}

/// See the module.
#[derive(Debug)]
pub struct State {
    /// What is watched.
    pub scope: Scope,
    /// The jobs, the newest first; empty if one is watched.
    pub jobs: Vec<Progress>,
    /// The job that is shown in full.
    pub shown: Option<Progress>,
    /// Its batches in hand, the oldest first.
    pub claims: Vec<Claim>,
    /// Its lane and the workers, if they were asked about already.
    pub around: Option<Surroundings>,
    /// Whether the keys are shown.
    pub help: bool,
    /// The table that the keys move in.
    pub focus: Table,
    rows: BTreeMap<Table, usize>,
    selected: Option<JobId>,
    traces: BTreeMap<JobId, Trace>,
    notes: VecDeque<(Instant, String)>,
    answered: Instant,
}

impl State {
    /// Nothing is known yet.
    pub fn new(scope: Scope, now: Instant) -> Self {
        let (selected, focus) = match &scope {
            Scope::One(job) => (Some(job.clone()), Table::Workers),
            Scope::All => (None, Table::Jobs),
        };
        Self {
            scope,
            jobs: Vec::new(),
            shown: None,
            claims: Vec::new(),
            around: None,
            help: false,
            focus,
            rows: BTreeMap::new(),
            selected,
            traces: BTreeMap::new(),
            notes: VecDeque::new(),
            answered: now,
        }
    }

    /// The job to ask about.
    pub fn selected(&self) -> Option<&JobId> {
        self.selected.as_ref()
    }

    /// Takes an answer of the ledger.
    pub fn absorb(&mut self, answer: LedgerAnswer, now: Instant) {
        self.answered = now;
        if self.scope == Scope::All {
            self.jobs = answer.jobs;
            self.traces.retain(|job, _| self.jobs.iter().any(|known| known.job == *job));
            if self.selected.as_ref().is_none_or(|job| self.position(job).is_none()) {
                self.selected = self.jobs.first().map(|job| job.job.clone());
            }
        }
        let seen = self.jobs.iter().chain(answer.shown.as_ref());
        for progress in seen {
            let done = progress.images_ok + progress.images_failed;
            self.traces.entry(progress.job.clone()).or_default().note(now, done);
        }
        // An answer about a job that was left meanwhile is about another one.
        if answer.shown.as_ref().map(|shown| &shown.job) == self.selected.as_ref() {
            self.shown = answer.shown;
            self.claims = answer.claims;
        }
    }

    /// Takes an answer about what is around the job.
    pub fn absorb_around(&mut self, around: Surroundings) {
        if self.shown.as_ref().is_some_and(|shown| shown.queue == around.queue) {
            self.around = Some(around);
        }
    }

    /// Does what a key asks for, as far as the state goes; true if another job is asked about now.
    pub fn press(&mut self, action: Action) -> bool {
        let rows = self.row_count(self.focus);
        match action {
            Action::Help => self.help = !self.help,
            Action::NextTable => self.focus = self.next_table(),
            Action::Move(by) => {
                let row = self.row(self.focus) as i64 + i64::from(by);
                return self.go(row.clamp(0, rows.saturating_sub(1) as i64) as usize);
            }
            Action::First => return self.go(0),
            Action::Last => return self.go(rows.saturating_sub(1)),
            Action::Quit | Action::Interrupt | Action::Suspend | Action::Redraw => {}
        }
        false
    }

    /// The row of a table that the keys are at.
    pub fn row(&self, table: Table) -> usize {
        let row = match table {
            Table::Jobs => self.selected.as_ref().and_then(|job| self.position(job)).unwrap_or(0),
            Table::Workers | Table::Batches => self.rows.get(&table).copied().unwrap_or(0),
        };
        row.min(self.row_count(table).saturating_sub(1))
    }

    /// Rates of the shown job, the oldest first.
    pub fn rates(&self, most: usize) -> Vec<f64> {
        let trace = self.selected.as_ref().and_then(|job| self.traces.get(job));
        trace.map(|trace| trace.rates(most)).unwrap_or_default()
    }

    /// The latest note, while it is news.
    pub fn news(&self, now: Instant) -> Option<&str> {
        let (at, text) = self.notes.back()?;
        (now.duration_since(*at) < NOTE_SHOWN).then_some(text)
    }

    /// For how long the ledger has not answered, if that is too long.
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        Some(now.duration_since(self.answered)).filter(|silence| *silence >= SILENCE)
    }

    /// Says something for a while.
    pub fn say(&mut self, text: String, now: Instant) {
        if self.notes.len() == MOST_NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back((now, text));
    }

    /// The workers that are known, from the fleet's registry or else from who has batches in hand.
    pub fn workers(&self) -> Vec<CrewMember> {
        match self.registered() {
            Some(crew) => crew.to_vec(),
            None => CrewMember::from_claims(&self.claims),
        }
    }

    /// The workers that registered themselves; `None` if none did although some are at work.
    pub fn registered(&self) -> Option<&[CrewMember]> {
        let crew = self.around.as_ref()?.crew.as_ref()?;
        (!crew.is_empty() || self.claims.is_empty()).then_some(crew)
    }

    fn position(&self, job: &JobId) -> Option<usize> {
        self.jobs.iter().position(|known| known.job == *job)
    }

    fn row_count(&self, table: Table) -> usize {
        match table {
            Table::Jobs => self.jobs.len(),
            Table::Workers => self.workers().len(),
            Table::Batches => self.claims.len(),
        }
    }

    fn go(&mut self, row: usize) -> bool {
        if self.focus != Table::Jobs {
            self.rows.insert(self.focus, row);
            return false;
        }
        let job = self.jobs.get(row).map(|progress| progress.job.clone());
        if job.is_none() || job == self.selected {
            return false;
        }
        self.shown = self.jobs.get(row).cloned();
        self.selected = job;
        self.claims.clear();
        self.around = None;
        true
    }

    fn next_table(&self) -> Table {
        match (self.focus, &self.scope) {
            (Table::Jobs, _) | (Table::Batches, Scope::One(_)) => Table::Workers,
            (Table::Workers, _) => Table::Batches,
            (Table::Batches, Scope::All) => Table::Jobs,
        }
    }
}

/// The loop that follows a job says through this what it has to say; what it shows is drawn anyway.
impl View for State {
    fn show(&mut self, _: &Progress) -> io::Result<()> {
        Ok(())
    }

    fn note(&mut self, text: &str) {
        self.say(text.to_owned(), Instant::now());
    }

    fn end(&mut self, _: &Progress) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::progress;
    use trawl_common::ledger::JobState;

    fn job(name: &str, images_ok: u64) -> Progress {
        Progress { job: name.parse().unwrap(), images_ok, ..progress(JobState::Running) }
    }

    fn all(names: &[&str]) -> State {
        let mut state = State::new(Scope::All, Instant::now());
        let jobs: Vec<Progress> = names.iter().map(|name| job(name, 1)).collect();
        let shown = jobs.first().cloned();
        state.absorb(LedgerAnswer { jobs, shown, ..LedgerAnswer::default() }, Instant::now());
        state
    }

    #[test]
    fn the_newest_job_is_shown_until_somebody_moves() {
        let mut state = all(&["job-3", "job-2", "job-1"]);
        assert_eq!(state.selected().unwrap().as_str(), "job-3");
        assert!(state.press(Action::Move(1)), "another job is asked about");
        assert_eq!((state.selected().unwrap().as_str(), state.row(Table::Jobs)), ("job-2", 1));
        assert!(state.press(Action::Last) && !state.press(Action::Move(1)), "the end is the end");
        assert_eq!(state.shown.as_ref().unwrap().job.as_str(), "job-1");
        // A newer job moves the row and not the selection.
        let jobs: Vec<Progress> =
            ["job-4", "job-3", "job-2", "job-1"].iter().map(|name| job(name, 2)).collect();
        state.absorb(LedgerAnswer { jobs, ..LedgerAnswer::default() }, Instant::now());
        assert_eq!((state.selected().unwrap().as_str(), state.row(Table::Jobs)), ("job-1", 3));
        // One that is gone is left.
        state.absorb(LedgerAnswer { jobs: vec![job("job-4", 2)], ..LedgerAnswer::default() }, Instant::now());
        assert_eq!(state.selected().unwrap().as_str(), "job-4");
    }

    #[test]
    fn an_answer_about_a_job_that_was_left_is_not_shown() {
        let mut state = all(&["job-2", "job-1"]);
        state.press(Action::Move(1));
        let jobs = vec![job("job-2", 5), job("job-1", 5)];
        let late = LedgerAnswer { shown: Some(job("job-2", 5)), jobs, ..LedgerAnswer::default() };
        state.absorb(late, Instant::now());
        assert_eq!(state.shown.unwrap().job.as_str(), "job-1");
    }

    #[test]
    fn tab_goes_round_the_tables_that_are_there() {
        let mut one = State::new(Scope::One("job-1".parse().unwrap()), Instant::now());
        assert_eq!(one.focus, Table::Workers);
        one.press(Action::NextTable);
        assert_eq!(one.focus, Table::Batches);
        one.press(Action::NextTable);
        assert_eq!(one.focus, Table::Workers);
        let mut all = all(&["job-1"]);
        for expected in [Table::Workers, Table::Batches, Table::Jobs] {
            all.press(Action::NextTable);
            assert_eq!(all.focus, expected);
        }
        assert!(!all.press(Action::Move(-1)), "one row: nowhere to go");
    }

    #[test]
    fn a_note_is_news_for_a_while_and_silence_is_said_late() {
        let (mut state, began) = (all(&["job-1"]), Instant::now());
        for i in 0..MOST_NOTES + 5 {
            state.say(format!("note {i}"), began);
        }
        assert_eq!(state.news(began), Some("note 24"));
        assert_eq!(state.news(began + NOTE_SHOWN), None);
        assert_eq!(state.silence(began), None);
        assert!(state.silence(began + SILENCE * 2).unwrap() >= SILENCE);
    }
}
