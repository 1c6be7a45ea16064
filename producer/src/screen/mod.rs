//! The screen of `trawl watch`: jobs, one of them in full, workers, batches in hand.
//!
//! Full-screen, because tables scroll and the selected job changes; what the shell showed before is there again
//! when it ends, and the job's last standing is printed below. One loop asks, listens to keys and draws. It must
//! never leave the terminal as it is while the screen is up, and never change a job.

mod detail;
mod draw;
pub mod feed;
mod keys;
pub mod look;
pub mod state;
mod terminal;
mod trace;

use crate::{
    errors::Stop,
    follow::{Follower, POLL, interrupted},
};
use feed::{Feed, LedgerAnswer, Surroundings};
use futures::future::BoxFuture;
use keys::{Action, Keys};
use look::Look;
use state::{Scope, State};
use std::{future::pending, io};
use terminal::Screen;
pub use terminal::is_there;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    config::{exit, unix_ms},
    failpoint,
    ledger::{LedgerError, Progress},
};

/// The broker and the registry of workers are asked once in so many looks at the ledger: they move slower.
const LOOKS_A_SURVEY: u64 = 4;

/// What is watched, and how.
pub struct Watched<'a> {
    /// Who is asked.
    pub feed: Feed<'a>,
    /// One job or all.
    pub scope: Scope,
    /// Whether failed images are a failure.
    pub strict: bool,
    /// Ends it.
    pub stop: &'a CancellationToken,
    /// What the terminal can show.
    pub look: Look,
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// The job ended; its last standing and the exit code.
    Job(Box<Progress>, u8),
    /// Somebody left, all jobs being watched.
    Left,
}

type Asking<'a> = Option<BoxFuture<'a, Result<LedgerAnswer, LedgerError>>>;
type AskingAround<'a> = Option<BoxFuture<'a, Surroundings>>;

/// Watches until the job ends or somebody leaves. The terminal is given back in any case.
///
/// # Errors
/// Not found, a ledger that stays away, a job that was left before its end, a terminal that is gone.
pub async fn run(w: &Watched<'_>) -> Result<Ended, Stop> {
    let mut state = State::new(w.scope.clone(), Instant::now());
    let mut follower = match &w.scope {
        Scope::One(job) => Some(Follower::new(job.clone(), w.strict)),
        Scope::All => None,
    };
    if let Some(ended) = first_look(w, follower.as_mut(), &mut state).await? {
        return Ok(ended);
    }
    let mut screen = Screen::enter().map_err(terminal_gone)?;
    let mut keys = Keys::listen().map_err(terminal_gone)?;
    let (mut asking, mut asking_around): (Asking<'_>, AskingAround<'_>) = (None, None);
    let mut tick = interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = 0_u64;
    loop {
        for line in screen.news() {
            state.say(line, Instant::now());
        }
        failpoint::hit(failpoint::SCREEN_DRAW).await;
        let at = (Instant::now(), unix_ms());
        screen.draw(|frame| draw::frame(frame, &state, w.look, at)).map_err(terminal_gone)?;
        tokio::select! {
            biased;
            () = w.stop.cancelled() => return Err(left(&w.scope)),
            pressed = keys.next() => match pressed.map_err(terminal_gone)? {
                Action::Quit if w.scope == Scope::All => return Ok(Ended::Left),
                // Whoever chains commands waits for the job's end, and this is not it.
                Action::Quit | Action::Interrupt => return Err(left(&w.scope)),
                Action::Suspend => screen.suspend().map_err(terminal_gone)?,
                Action::Redraw => screen.clear().map_err(terminal_gone)?,
                action => if state.press(action) {
                    // What was asked about another job is not waited for.
                    (asking, asking_around, looks) = (None, None, 0);
                    tick.reset_immediately();
                }
            },
            answer = answered(&mut asking) => {
                asking = None;
                if let Some(ended) = judge(follower.as_mut(), answer, &mut state)? {
                    return Ok(ended);
                }
            }
            around = answered(&mut asking_around) => {
                asking_around = None;
                state.absorb_around(around);
            }
            _ = tick.tick() => {
                if asking.is_none() {
                    let selected = state.selected().cloned();
                    asking = Some(Box::pin(w.feed.ledger(w.scope.clone(), selected)));
                }
                if let Some(shown) = &state.shown
                    && asking_around.is_none()
                    && looks.is_multiple_of(LOOKS_A_SURVEY)
                {
                    asking_around = Some(Box::pin(w.feed.surroundings(w.scope.clone(), shown.queue.clone())));
                }
                looks += 1;
            }
        }
    }
}

/// The first answer comes before the screen: an unknown job is told on an untouched terminal.
async fn first_look(
    w: &Watched<'_>,
    follower: Option<&mut Follower>,
    state: &mut State,
) -> Result<Option<Ended>, Stop> {
    let asking = w.feed.ledger(w.scope.clone(), None);
    let answer = tokio::select! {
        biased;
        () = w.stop.cancelled() => return Err(left(&w.scope)),
        answer = asking => answer,
    };
    match (follower, answer) {
        (None, Err(error)) => Err(error.into()),
        (follower, answer) => judge(follower, answer, state),
    }
}

/// The answer of whoever is asked; waits for ever if nobody is. Cancel safe.
async fn answered<T>(asking: &mut Option<BoxFuture<'_, T>>) -> T {
    match asking {
        Some(asking) => asking.await,
        None => pending().await,
    }
}

/// Takes an answer of the ledger; gives the end if this is it.
fn judge(
    follower: Option<&mut Follower>,
    answer: Result<LedgerAnswer, LedgerError>,
    state: &mut State,
) -> Result<Option<Ended>, Stop> {
    let now = Instant::now();
    let Some(follower) = follower else {
        match answer {
            Ok(answer) => state.absorb(answer, now),
            // Somebody sits before it: it says so and goes on asking.
            Err(LedgerError::Unreachable { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        return Ok(None);
    };
    let asked = match answer {
        Ok(answer) => {
            let progress = answer.shown.clone();
            if progress.is_some() {
                state.absorb(answer, now);
            }
            Ok(progress)
        }
        Err(error) => Err(error),
    };
    let ended = follower.take(asked, state)?;
    Ok(ended.map(|(progress, code)| Ended::Job(Box::new(progress), code)))
}

fn left(scope: &Scope) -> Stop {
    match scope {
        Scope::One(job) => interrupted(job),
        Scope::All => Stop::signalled(exit::INTERRUPTED, "stopped watching; the jobs go on"),
    }
}

#[allow(clippy::needless_pass_by_value)] // A function for map_err.
fn terminal_gone(error: io::Error) -> Stop {
    Stop::failed(format!("the terminal cannot be used: {error}"))
        .hint("`trawl watch` with its output to a file or a pipe prints lines")
}
