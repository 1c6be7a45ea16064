//! `make chaos`: the real servers and binaries under a seeded mix of faults, and a verdict.
//!
//! Ends with 0 only if nothing was lost, doubled or unexpected. Not a test of `make test`: it takes minutes.

use std::{process::ExitCode, time::Duration};
use trawl_tests::chaos::{self, Settings};

fn main() -> ExitCode {
    let settings = match settings() {
        Ok(settings) => settings,
        Err(message) => {
            eprintln!("chaos: {message}\nusage: chaos [--minutes N] [--seed N] [--workers N]");
            return ExitCode::from(2);
        }
    };
    let verdict = chaos::run(&settings);
    println!("{verdict}");
    if verdict.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn settings() -> Result<Settings, String> {
    let mut settings = Settings::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} has no value"))?;
        let number: f64 = value.parse().map_err(|_| format!("{flag} {value} is no number"))?;
        match flag.as_str() {
            "--minutes" if number > 0.0 => settings.time = Duration::from_secs_f64(number * 60.0),
            "--seed" if number >= 0.0 => settings.seed = number as u64,
            "--workers" if (1.0..=16.0).contains(&number) => settings.workers = number as usize,
            _ => return Err(format!("{flag} {value} is not known or out of range")),
        }
    }
    Ok(settings)
}
