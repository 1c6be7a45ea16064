//! The nemesis: which fault strikes when, by the seed.
//!
//! Faults come at a steady mean rate, each kind on its own clock. What is struck is drawn when it strikes.

use super::{Field, fleet::Fleet};
use crate::{background::Dice, proxy::Fault};
use std::{fmt::Write as _, time::Duration};

/// Kills, stops and drains of workers in ten minutes.
const WORKER_FAULTS: f64 = 250.0;

/// Restarts of the broker and cuts of its connections in ten minutes.
const BROKER_FAULTS: f64 = 25.0;

/// Wipes of Redis in ten minutes.
const WIPES: f64 = 7.0;

/// Cuts and silences of Redis in ten minutes.
const REDIS_FAULTS: f64 = 6.0;

/// The longest time that a worker is stopped: well above two heartbeats, so that the broker gives its work away.
const LONGEST_STOP: f64 = 22.0;

/// One kind of fault on its clock.
struct Clock {
    every: Duration,
    next: Duration,
}

impl Clock {
    fn new(per_ten_minutes: f64, dice: &mut Dice) -> Self {
        let every = Duration::from_secs_f64(600.0 / per_ten_minutes);
        Self { every, next: every.mul_f64(0.3 + 0.7 * dice.roll()) }
    }

    /// Whether it is time. A fault that was late does not make the next one late.
    fn rings(&mut self, now: Duration, dice: &mut Dice) -> bool {
        if now < self.next {
            return false;
        }
        self.next += self.every.mul_f64(0.6 + 0.8 * dice.roll());
        true
    }
}

/// See the file's head.
pub(super) struct Nemesis {
    workers: Clock,
    broker: Clock,
    wipes: Clock,
    redis: Clock,
    /// When Redis is heard again.
    redis_back: Option<Duration>,
    done: [(&'static str, u64); 8],
    until: Duration,
}

const KILLED: usize = 0;
const STOPPED: usize = 1;
const DRAINED: usize = 2;
const BROKER_CRASHED: usize = 3;
const BROKER_CUT: usize = 4;
const BROKER_HALF_OPEN: usize = 5;
const WIPED: usize = 6;
const REDIS_SILENT: usize = 7;

impl Nemesis {
    pub(super) fn new(until: Duration, dice: &mut Dice) -> Self {
        let done = [
            "workers killed",
            "workers stopped",
            "workers drained",
            "broker crashes",
            "broker connections reset",
            "broker connections half-open",
            "Redis wiped",
            "Redis cut off or silent",
        ];
        Self {
            workers: Clock::new(WORKER_FAULTS, dice),
            broker: Clock::new(BROKER_FAULTS, dice),
            wipes: Clock::new(WIPES, dice),
            redis: Clock::new(REDIS_FAULTS, dice),
            redis_back: None,
            done: done.map(|what| (what, 0)),
            until,
        }
    }

    /// Does what is due at `now` since the beginning.
    pub(super) fn strike(&mut self, now: Duration, field: &Field, fleet: &mut Fleet, dice: &mut Dice) {
        if self.workers.rings(now, dice) {
            self.strike_a_worker(fleet, dice);
        }
        if self.broker.rings(now, dice) {
            self.strike_the_broker(field, dice);
        }
        if self.wipes.rings(now, dice) {
            redis_command(field, "FLUSHALL");
            self.done[WIPED].1 += 1;
        }
        if self.redis.rings(now, dice) && self.redis_back.is_none() {
            if dice.roll() < 0.5 {
                field.redis.reset_all();
            } else {
                field.redis.set(Fault::Refuse);
                field.redis.reset_all();
                self.redis_back = Some(now + Duration::from_secs_f64(2.0 + 10.0 * dice.roll()));
            }
            self.done[REDIS_SILENT].1 += 1;
        }
        if self.redis_back.is_some_and(|back| back <= now) {
            self.redis_back = None;
            field.redis.heal();
        }
    }

    fn strike_a_worker(&mut self, fleet: &mut Fleet, dice: &mut Dice) {
        let drawn = dice.roll();
        let (done, struck) = if drawn < 0.6 {
            (KILLED, fleet.kill(dice))
        } else if drawn < 0.85 {
            let time = Duration::from_secs_f64(1.0 + (LONGEST_STOP - 1.0) * dice.roll());
            (STOPPED, fleet.stop(dice, time))
        } else {
            (DRAINED, fleet.drain(dice))
        };
        self.done[done].1 += u64::from(struck);
        if !struck {
            // Everybody was down already: at the next tick again.
            self.workers.next = self.workers.next.saturating_sub(self.workers.every);
        }
    }

    fn strike_the_broker(&mut self, field: &Field, dice: &mut Dice) {
        let drawn = dice.roll();
        let done = if drawn < 0.3 {
            // Returns when it takes connections again; the workers go on meanwhile.
            field.stack.crash("rabbitmq");
            BROKER_CRASHED
        } else if drawn < 0.75 {
            field.amqp.reset_all();
            BROKER_CUT
        } else {
            field.amqp.half_open_all();
            BROKER_HALF_OPEN
        };
        self.done[done].1 += 1;
    }

    /// No faults from now on.
    pub(super) fn rest(&mut self, field: &Field, fleet: &mut Fleet) {
        self.redis_back = None;
        field.redis.heal();
        field.amqp.heal();
        field.s3.heal();
        fleet.wake();
    }

    /// Faults that may have cost a worker the batches in its hands.
    pub(super) fn faults(&self) -> u64 {
        self.done.iter().map(|(_, n)| n).sum()
    }

    /// Kills and stops of workers.
    pub(super) fn worker_faults(&self) -> u64 {
        self.done[KILLED..=DRAINED].iter().map(|(_, n)| n).sum()
    }

    pub(super) fn say(&self) -> String {
        let mut text = String::new();
        for (what, n) in self.done {
            let _written = write!(text, "{}{what} {n}", if text.is_empty() { "" } else { ", " });
        }
        let _written = write!(text, " (of {:.1} min)", self.until.as_secs_f64() / 60.0);
        text
    }
}

/// One command without an answer worth reading, past the proxy.
fn redis_command(field: &Field, command: &str) {
    use std::io::{Read, Write};
    let url = field.stack.get("TRAWL_REDIS_URL");
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    let (login, host) = authority.rsplit_once('@').map_or(("", authority), |(login, host)| (login, host));
    let mut socket = std::net::TcpStream::connect(host).expect("Redis is there");
    let password = login.rsplit_once(':').map_or(login, |(_, password)| password);
    if !password.is_empty() {
        socket.write_all(format!("AUTH {password}\r\n").as_bytes()).expect("Redis listens");
    }
    socket.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).expect("Redis listens");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("Redis answers");
    assert!(answer.lines().all(|line| line.starts_with("+OK")), "{command}: {answer}");
}
