//! The next step, after a command did what was asked.
//!
//! Only for somebody who sits before a terminal: a script that reads stderr gets none of it, and stdout never has
//! any.

use std::io::{self, IsTerminal, Write};
use trawl_common::{
    config::OutputFormat,
    ledger::{JobState, Progress},
    text,
};

/// Says the steps on stderr, a line each, if it is a terminal and the command prints for people.
pub fn say(output: OutputFormat, steps: &[String]) {
    if output == OutputFormat::Text && io::stderr().is_terminal() {
        // Nobody may be left to read it.
        let _ = write(&mut io::stderr().lock(), steps);
    }
}

fn write(out: &mut dyn Write, steps: &[String]) -> io::Result<()> {
    steps.iter().try_for_each(|step| writeln!(out, "hint: {}", text::printable(step)))
}

/// After a submission.
pub fn submitted(job: &str, out: &str) -> Vec<String> {
    vec![
        format!("`trawl watch {job}` follows it"),
        format!("`trawl results {out} --limit 10` prints rows, also before its end"),
    ]
}

/// After somebody saw how a job stands.
pub fn standing(p: &Progress, dead: Option<u64>) -> Vec<String> {
    let mut steps = Vec::new();
    if dead.is_some_and(|dead| dead > 0) {
        steps.push(format!("`trawl dead list --job {}` says why batches were given up", p.job));
        steps.push(format!("`trawl dead retry --job {}` sends them back to the queue", p.job));
    }
    if p.images_failed > 0 {
        steps.push(format!("`trawl failures {}` says which images failed, and why", p.out));
    }
    match p.state {
        JobState::Complete => steps.push(format!("`trawl results {} --limit 10` prints rows", p.out)),
        JobState::Enqueuing | JobState::Running => steps.push(format!("`trawl watch {}` follows it", p.job)),
        JobState::Cancelled => {
            steps.push("its `trawl submit` command takes it up where it stopped".to_owned());
        }
        JobState::Paused => steps.push(format!("`trawl resume {}` takes it up again", p.job)),
    }
    steps
}

/// After the failures of an output were shown.
pub fn failures(out: &str) -> Vec<String> {
    vec![format!(
        "to try these images again: trawl failures {out} --output json | jq -r .key | xargs -d '\\n' trawl submit \
         --model MODEL --out OTHER_OUT"
    )]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::progress;

    #[test]
    fn the_steps_are_those_of_the_state() {
        let steps = |state, dead| standing(&progress(state), dead).join("\n");
        let running = steps(JobState::Running, Some(0));
        assert!(running.contains("trawl failures s3://b/out") && running.contains("trawl watch job-1"));
        assert!(!running.contains("dead"), "{running}");
        assert!(steps(JobState::Running, Some(2)).contains("trawl dead retry --job job-1"));
        assert!(steps(JobState::Complete, None).contains("trawl results s3://b/out"));
        assert!(steps(JobState::Cancelled, None).contains("submit"));
        assert!(steps(JobState::Paused, None).contains("trawl resume job-1"));
    }

    #[test]
    fn a_step_is_a_line() {
        let mut out = Vec::new();
        write(&mut out, &submitted("job-1", "s3://b/\u{1b}[2J")).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.lines().all(|line| line.starts_with("hint: `trawl ")) && !text.contains('\u{1b}'),
            "{text}"
        );
    }
}
