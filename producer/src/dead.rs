//! `trawl dead`: the messages that were given up, and what becomes of them.
//!
//! Lists, sends back or drops the letters in `trawl.dead`. A letter is shown as it lies there: somebody else's bytes
//! are escaped and cut. Nothing is dropped without a word of consent. Sending back a letter of a cancelled or complete
//! job is harmless: a worker sees that before it computes, and a part that is there is not written again.

use crate::{
    errors::Stop,
    report,
    table::{Align, Table},
    text,
};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use trawl_common::{
    batch::{BatchNumber, Message},
    broker::{Broker, DeadLetter, Verdict},
    config::{OutputFormat, exit, unix_ms},
    dead::{Selection, judge},
    job::{JobId, QueueName},
};

/// Characters of a body that is no message of ours.
const JUNK_SHOWN: usize = 200;

/// Characters of a reason in the table.
const REASON_SHOWN: usize = 60;

/// What to do with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Show them.
    List,
    /// Back to their lanes as new work.
    Retry,
    /// Remove them; `yes` if that was agreed to already.
    Drop {
        /// `--yes`.
        yes: bool,
    },
}

/// One letter, decoded as far as it can be.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    action: &'static str,
    queue: Option<&'a QueueName>,
    job: Option<&'a JobId>,
    /// `batch`, `finalize`, or `junk`.
    kind: &'static str,
    batch: Option<BatchNumber>,
    images: Option<usize>,
    attempt: u32,
    deliveries: u32,
    reason: &'a str,
    worker: Option<&'a str>,
    died_unix_ms: Option<u64>,
    bytes: usize,
    /// The message, if it is one.
    descriptor: Option<serde_json::Value>,
    /// The beginning of what is none, escaped.
    body: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Usage if letters were to be dropped and nobody can be asked; what the broker gives.
pub async fn run(
    broker: &dyn Broker,
    selection: &Selection,
    action: Action,
    output: OutputFormat,
    terminal_width: Option<usize>,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let verdict = match action {
        Action::List => Verdict::Keep,
        Action::Retry => Verdict::Retry,
        Action::Drop { yes } => {
            if !yes && !agreed(broker, selection).await? {
                return Ok(exit::OK);
            }
            Verdict::Drop
        }
    };
    let judged = judge(broker, selection, verdict).await?;
    match output {
        OutputFormat::Json => {
            for (letter, done) in &judged {
                show(letter, *done, |shown| report::print_json(out, shown))?;
            }
        }
        OutputFormat::Text => print(&judged, action, terminal_width, out)?,
    }
    out.flush()?;
    if output == OutputFormat::Text {
        let total = broker.dead_depth().await?;
        say_the_sum(&judged, action, selection, total);
    }
    Ok(exit::OK)
}

/// Asks at the terminal, with the number of letters.
async fn agreed(broker: &dyn Broker, selection: &Selection) -> Result<bool, Stop> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Stop::usage("nobody can be asked whether the letters may be dropped")
            .hint("`trawl dead list` shows them; --yes drops them without asking"));
    }
    let found = judge(broker, selection, Verdict::Keep).await?.len() as u64;
    if found == 0 {
        eprintln!("no dead letter matches");
        return Ok(false);
    }
    eprint!("drop {}? They are lost for good. [y/N] ", text::counted(found, "letter", "letters"));
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let answer = answer.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn show<T>(letter: &DeadLetter, done: Verdict, take: impl FnOnce(&Shown<'_>) -> T) -> T {
    let message = Message::parse(&letter.body);
    let (kind, batch, images) = match &message {
        Ok(Message::Batch(batch)) => ("batch", Some(batch.batch), Some(batch.images.len())),
        Ok(Message::Feed(_)) => ("feed", None, None),
        Ok(Message::Finalize(_)) => ("finalize", None, None),
        Err(_) => ("junk", None, None),
    };
    let descriptor = message.as_ref().ok().and_then(|_| serde_json::from_slice(&letter.body).ok());
    take(&Shown {
        action: match done {
            Verdict::Keep => "kept",
            Verdict::Retry => "retried",
            Verdict::Drop => "dropped",
        },
        queue: letter.queue.as_ref(),
        job: message.as_ref().ok().map(Message::job),
        kind,
        batch,
        images,
        attempt: letter.attempt,
        deliveries: letter.deliveries,
        reason: &letter.reason,
        worker: letter.worker.as_deref(),
        died_unix_ms: letter.died_unix_ms,
        bytes: letter.body.len(),
        body: descriptor.is_none().then(|| junk(&letter.body)),
        descriptor,
    })
}

/// The beginning of bytes that may be anything.
fn junk(body: &[u8]) -> String {
    let head = &body[..body.len().min(JUNK_SHOWN)];
    text::cut_back(&head.escape_ascii().to_string(), JUNK_SHOWN)
}

fn print(
    judged: &[(DeadLetter, Verdict)],
    action: Action,
    terminal_width: Option<usize>,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    if judged.is_empty() {
        return Ok(());
    }
    let mut columns = vec![
        ("REASON", Align::Left),
        ("LANE", Align::Left),
        ("JOB", Align::Left),
        ("BATCH", Align::Right),
        ("IMAGES", Align::Right),
        ("ATTEMPT", Align::Right),
        ("DELIVERIES", Align::Right),
        ("WORKER", Align::Left),
        ("DIED", Align::Right),
    ];
    if action != Action::List {
        columns.push(("NOW", Align::Left));
    }
    let now = unix_ms();
    let row = |letter: &DeadLetter, done: Verdict| {
        show(letter, done, |shown| {
            let count = |n: Option<u64>| n.map(text::count).unwrap_or_default();
            let reason = match &shown.body {
                None => shown.reason.to_owned(),
                Some(body) => format!("{} ({} bytes: {body})", shown.reason, shown.bytes),
            };
            let mut cells = vec![
                text::cut_back(&reason, REASON_SHOWN),
                shown.queue.map(ToString::to_string).unwrap_or_default(),
                shown.job.map_or_else(|| shown.kind.to_owned(), ToString::to_string),
                shown.batch.map_or_else(|| shown.kind.to_owned(), |batch| batch.0.to_string()),
                count(shown.images.map(|n| n as u64)),
                shown.attempt.to_string(),
                shown.deliveries.to_string(),
                shown.worker.unwrap_or("the broker").to_owned(),
                shown.died_unix_ms.map(|then| text::ago(then, now)).unwrap_or_default(),
            ];
            if action != Action::List {
                cells.push(shown.action.to_owned());
            }
            cells
        })
    };
    let rows: Vec<_> = judged.iter().map(|(letter, done)| row(letter, *done)).collect();
    Ok(Table::new(&columns, terminal_width).print(out, &rows)?)
}

fn say_the_sum(judged: &[(DeadLetter, Verdict)], action: Action, selection: &Selection, total: u64) {
    let count = |wanted| judged.iter().filter(|(_, done)| *done == wanted).count() as u64;
    let left = text::counted(total, "dead letter is there", "dead letters are there");
    match action {
        Action::List if judged.is_empty() && selection.is_all() => eprintln!("no dead letters"),
        Action::List => {
            eprintln!("{} shown; {left}", judged.len());
            eprintln!(
                "hint: `trawl dead retry` sends them back to their lanes, `trawl dead drop` removes them"
            );
        }
        Action::Retry => {
            eprintln!("{} sent back; {left}", text::counted(count(Verdict::Retry), "letter", "letters"));
            if count(Verdict::Keep) > 0 {
                eprintln!("{} stayed: nothing says which lane they are of", count(Verdict::Keep));
            }
        }
        Action::Drop { .. } => {
            eprintln!("{} dropped; {left}", text::counted(count(Verdict::Drop), "letter", "letters"));
            if selection.job.is_some() || count(Verdict::Drop) > 0 {
                eprintln!("hint: `trawl repair OUT` enqueues batches that are still wanted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::{
        batch::{BatchDescriptor, ImageRef},
        broker::{Disposition, Publication, memory::MemoryBroker},
    };

    fn batch(job: &str) -> Vec<u8> {
        let image = ImageRef::whole("s3://b/a.jpg", None, 1);
        let descriptor = BatchDescriptor {
            job: job.parse().unwrap(),
            batch: BatchNumber(3),
            out: "s3://b/o".into(),
            created_unix_ms: 1,
            model_sha256: "ab".into(),
            images: vec![image.clone(), image],
        };
        Message::Batch(descriptor).to_json()
    }

    /// Two batches of two jobs, and junk.
    async fn broker() -> MemoryBroker {
        let (broker, lane): (_, QueueName) = (MemoryBroker::new(), "gpu".parse().unwrap());
        broker.ensure_queue(&lane).await.unwrap();
        let mut consumer = broker.consume(&lane, 8).await.unwrap();
        for (body, reason) in [
            (batch("job-1"), "the Model failed"),
            (b"\x1b[31mno message".to_vec(), "not readable"),
            (batch("job-2"), "the output failed"),
        ] {
            broker.publish(&lane, Publication::new(body)).await.unwrap();
            let delivery = consumer.next().await.unwrap();
            delivery.settle(Disposition::DeadLetter { reason: reason.into() }).await.unwrap();
        }
        consumer.cancel().await.unwrap();
        broker
    }

    fn all() -> Selection {
        Selection { limit: 100, ..Selection::default() }
    }

    async fn done(
        broker: &MemoryBroker,
        selection: &Selection,
        action: Action,
        output: OutputFormat,
    ) -> String {
        let mut out = Vec::new();
        assert_eq!(run(broker, selection, action, output, None, &mut out).await.unwrap(), exit::OK);
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn letters_are_listed_decoded_and_junk_is_escaped() {
        let broker = broker().await;
        let json = done(&broker, &all(), Action::List, OutputFormat::Json).await;
        let lines: Vec<serde_json::Value> = json.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            (&lines[0]["kind"], &lines[0]["job"], &lines[0]["images"]),
            (&"batch".into(), &"job-1".into(), &2.into())
        );
        assert_eq!(lines[0]["descriptor"]["body"]["images"][0]["key"], "s3://b/a.jpg");
        assert_eq!((&lines[1]["kind"], &lines[1]["body"]), (&"junk".into(), &"\\x1b[31mno message".into()));
        assert_eq!((&lines[0]["queue"], &lines[0]["reason"]), (&"gpu".into(), &"the Model failed".into()));
        let text = done(&broker, &all(), Action::List, OutputFormat::Text).await;
        assert!(text.contains("job-2") && text.contains("junk") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(broker.dead_depth().await.unwrap(), 3, "looking changes nothing");
    }

    #[tokio::test]
    async fn only_what_matches_is_sent_back_or_dropped() {
        let broker = broker().await;
        let lane: QueueName = "gpu".parse().unwrap();
        let one = Selection { job: Some("job-2".parse().unwrap()), ..all() };
        done(&broker, &one, Action::Retry, OutputFormat::Text).await;
        assert_eq!(broker.depth(&lane).await.unwrap().unwrap().ready, 1);
        let by_reason = Selection { reason: Some("MODEL".into()), ..all() };
        let json = done(&broker, &by_reason, Action::Drop { yes: true }, OutputFormat::Json).await;
        assert!(json.contains("\"action\":\"dropped\"") && json.lines().count() == 1, "{json}");
        let elsewhere = Selection { queue: Some("cpu".parse().unwrap()), ..all() };
        assert_eq!(done(&broker, &elsewhere, Action::Drop { yes: true }, OutputFormat::Json).await, "");
        assert_eq!(broker.dead_depth().await.unwrap(), 1);
        let limited = Selection { limit: 1, ..all() };
        assert_eq!(done(&broker, &limited, Action::List, OutputFormat::Json).await.lines().count(), 1);
    }

    #[test]
    fn a_long_body_is_cut() {
        assert!(junk(&[0xff; 100_000]).chars().count() <= JUNK_SHOWN);
    }
}
