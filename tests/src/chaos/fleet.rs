//! The workers under chaos: started, lost and started again, as a supervisor would.
//!
//! Some are born with a failpoint that kills them in the middle of settling. A death nobody ordered is a finding.

use super::{Field, PREFETCH, verdict::Verdict};
use crate::{background::Dice, programs::Running};
use std::{
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

/// Of ten workers so many are born with a failpoint.
const BORN_DOOMED: usize = 3;

/// Places between whose two sides a crash must cost nothing.
const CRASH_POINTS: [&str; 7] = [
    "settle.put.before",
    "settle.put.after",
    "settle.complete.before",
    "settle.complete.after",
    "settle.ack.before",
    "finalize.manifest.before",
    "finalize.success.before",
];

/// How long a worker may take to end after SIGTERM: its grace and then some.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);

/// The exit code of a program that may be started again.
const TRANSIENT: i32 = 5;

/// The end that a worker has been sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nowhere,
    Killed,
    /// At this place in its code.
    Doomed,
    Draining,
}

struct Member {
    running: Running,
    sent: Sent,
    /// SIGSTOPped until then.
    stopped: Option<Instant>,
}

/// All workers, those of the past as their logs.
pub(super) struct Fleet {
    members: Vec<Member>,
    logs: Vec<String>,
    pub(super) doomed_deaths: u64,
    /// Workers that found a service away when they were born; their supervisor tries again, as it should.
    pub(super) stillborn: u64,
    unordered_deaths: u64,
    unclean_drains: u64,
}

impl Fleet {
    pub(super) fn start(field: &Field, workers: usize, dice: &mut Dice) -> Self {
        let members = (0..workers).map(|_| member(field, dice, false)).collect();
        Self {
            members,
            logs: Vec::new(),
            doomed_deaths: 0,
            stillborn: 0,
            unordered_deaths: 0,
            unclean_drains: 0,
        }
    }

    /// Somebody who runs, is not stopped and has not been sent anywhere.
    fn healthy(&mut self, dice: &mut Dice) -> Option<&mut Member> {
        let mut healthy: Vec<_> = self
            .members
            .iter_mut()
            .filter(|m| m.stopped.is_none() && matches!(m.sent, Sent::Nowhere | Sent::Doomed))
            .collect();
        let chosen = dice.below(healthy.len());
        (!healthy.is_empty()).then(|| healthy.swap_remove(chosen))
    }

    /// False if there was nobody to strike.
    pub(super) fn kill(&mut self, dice: &mut Dice) -> bool {
        self.healthy(dice).is_some_and(|member| {
            member.sent = Sent::Killed;
            member.running.signal(libc::SIGKILL);
            true
        })
    }

    pub(super) fn drain(&mut self, dice: &mut Dice) -> bool {
        self.healthy(dice).is_some_and(|member| {
            member.sent = Sent::Draining;
            member.running.signal(libc::SIGTERM);
            true
        })
    }

    pub(super) fn stop(&mut self, dice: &mut Dice, time: Duration) -> bool {
        self.healthy(dice).is_some_and(|member| {
            member.stopped = Some(Instant::now() + time);
            member.running.signal(libc::SIGSTOP);
            true
        })
    }

    /// Everybody goes on.
    pub(super) fn wake(&mut self) {
        for member in &mut self.members {
            if member.stopped.take().is_some() {
                member.running.signal(libc::SIGCONT);
            }
        }
    }

    /// Wakes those whose time has come, and starts new ones for those who have ended.
    pub(super) fn tend(&mut self, field: &Field, dice: &mut Dice, faults: bool) {
        for i in 0..self.members.len() {
            let member = &mut self.members[i];
            if member.stopped.is_some_and(|until| until <= Instant::now()) {
                member.stopped = None;
                member.running.signal(libc::SIGCONT);
            }
            if !member.running.is_running() {
                let member = std::mem::replace(&mut self.members[i], member_with(field, dice, faults));
                self.bury(member);
            }
        }
    }

    fn bury(&mut self, mut member: Member) {
        let status = member.running.wait(DRAIN_PATIENCE);
        let log = member.running.log();
        match member.sent {
            Sent::Killed => {}
            _ if status.code() == Some(TRANSIENT) && !log.contains("worker ready") => self.stillborn += 1,
            Sent::Doomed => self.doomed_deaths += 1,
            // It came to its own end before that of the drain.
            Sent::Draining if status.signal() == Some(libc::SIGKILL) && log.contains("failpoint reached") => {
                self.doomed_deaths += 1;
            }
            // One that is struck before it listens for signals ends as any process does; it had nothing in hand.
            Sent::Draining if status.success() || log.is_empty() => {}
            Sent::Draining => {
                self.unclean_drains += 1;
                eprintln!("chaos: a drain ended with {status}; the end of its log:\n{}", tail(&log));
            }
            Sent::Nowhere => {
                self.unordered_deaths += 1;
                eprintln!(
                    "chaos: a worker died by itself with {status}; the end of its log:\n{}",
                    tail(&log)
                );
            }
        }
        self.logs.push(log);
    }

    pub(super) fn say(&self) -> String {
        let logs: Vec<_> = self.members.iter().map(|member| tail(&member.running.log())).collect();
        format!("the ends of the workers' logs:\n{}", logs.join("\n---\n"))
    }

    /// Drains everybody and looks through the logs.
    pub(super) fn end(&mut self, verdict: &mut Verdict) {
        for member in std::mem::take(&mut self.members) {
            member.running.signal(libc::SIGTERM);
            self.bury(Member { sent: Sent::Draining, ..member });
        }
        let panics = self.logs.iter().filter(|log| log.contains("panicked")).count() as u64;
        verdict.findings(&[
            ("workers that died by themselves", self.unordered_deaths),
            ("drains that did not end with 0", self.unclean_drains),
            ("logs with a panic", panics),
        ]);
    }
}

fn member(field: &Field, dice: &mut Dice, faults: bool) -> Member {
    member_with(field, dice, faults)
}

fn member_with(field: &Field, dice: &mut Dice, faults: bool) -> Member {
    let mut command = field.harried("trawl-worker");
    command
        .args(["--queue", "chaos", "--threads", "1", "--micro-batch", "4", "--reclaim-after", "5"])
        .args(["--prefetch", &PREFETCH.to_string(), "--cache"])
        .arg(field.dir.path().join("cache"));
    let mut sent = Sent::Nowhere;
    if faults && dice.below(10) < BORN_DOOMED {
        let place = CRASH_POINTS[dice.below(CRASH_POINTS.len())];
        command.env("TRAWL_FAILPOINTS", format!("{place}=kill@{}", 1 + dice.below(5)));
        sent = Sent::Doomed;
    }
    Member { running: Running::start(&mut command, field.dir.path()), sent, stopped: None }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
