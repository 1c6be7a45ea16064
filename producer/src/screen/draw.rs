//! Puts the state on the terminal: which panel gets which rows, and the tables.
//!
//! Everything is decided anew for each frame from the size that the terminal has then, so that a resize needs
//! nothing. Text from outside goes through [`text::printable`] first.

use super::{
    detail,
    feed::CrewMember,
    look::Look,
    state::{Scope, State, Table as Which},
};
use crate::text;
use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    text::Line,
    widgets::{Cell, Clear, Paragraph, Row, Table, TableState},
};
use tokio::time::Instant;
use trawl_common::ledger::{Claim, Progress};

/// A terminal of fewer rows or columns gets one line.
const SMALLEST: (u16, u16) = (24, 4);

/// Below this a table would show its head and nothing else.
const TABLE_ROWS: u16 = 3;

/// What the keys do.
const HELP: [(&str, &str); 8] = [
    ("q, Esc", "leave; the job goes on"),
    ("j k, arrows", "next or previous row, or job"),
    ("Space, PgUp", "ten rows at once"),
    ("g G", "the first, the last row"),
    ("Tab", "the next table"),
    ("Ctrl-L", "draw anew"),
    ("Ctrl-Z", "suspend"),
    ("?", "this help"),
];

/// When a frame is drawn: on the clock that ages count on, and in milliseconds since 1970.
pub type Moment = (Instant, u64);

/// Draws a frame.
pub fn frame(frame: &mut Frame<'_>, state: &State, look: Look, at: Moment) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        return tiny(frame, state, area);
    }
    let list = (state.scope == Scope::All).then_some(state.jobs.len());
    let mut lines = detail::lines(state, look, usize::from(area.width), usize::from(area.height), at);
    let rows = heights(area.height, list, lines.len());
    let [top, list, detail, workers, batches, bottom] =
        Layout::vertical([1, rows.jobs, rows.detail, rows.workers, rows.batches, 1].map(Constraint::Length))
            .areas(area);
    head(frame, state, look, top);
    if rows.jobs > 0 {
        jobs_table(frame, state, look, list, at.1);
    }
    detail::fit(&mut lines, usize::from(detail.height));
    frame.render_widget(Paragraph::new(lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>()), detail);
    if rows.workers > 0 {
        workers_table(frame, state, look, workers);
    }
    if rows.batches > 0 {
        batches_table(frame, state, look, batches);
    }
    foot(frame, state, look, bottom, at.0);
    if state.help {
        help(frame, look, area);
    }
}

/// Rows of each panel.
#[derive(Debug, PartialEq, Eq)]
struct Heights {
    jobs: u16,
    detail: u16,
    workers: u16,
    batches: u16,
}

/// Shares `total` rows, the first and the last line taken: the list of jobs gets a third at most, then the job in
/// full with a free line below, and the two tables share the rest.
fn heights(total: u16, jobs: Option<usize>, lines: usize) -> Heights {
    let rows = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).saturating_add(1);
    let mut left = total.saturating_sub(2);
    let jobs = jobs.map_or(0, |jobs| rows(jobs).min((left / 3).max(2)).min(left));
    left -= jobs;
    let detail = rows(lines).min(left);
    left -= detail;
    let (workers, batches) = match left {
        0..TABLE_ROWS => (0, 0),
        _ if left < 2 * TABLE_ROWS => (left, 0),
        _ => (left / 2, left - left / 2),
    };
    // Rows that no table can use are the job's.
    let detail = if workers == 0 { detail + left } else { detail };
    Heights { jobs, detail, workers, batches }
}

fn tiny(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let line = match &state.shown {
        Some(p) => {
            let done = p.images_ok + p.images_failed;
            let share = text::percent(done, p.images_planned);
            format!("{share} {}/s {}", text::rate(p.images_per_second), p.state.name())
        }
        None => "asking".to_owned(),
    };
    frame.render_widget(Paragraph::new(line), area);
}

fn head(frame: &mut Frame<'_>, state: &State, look: Look, area: Rect) {
    let what = match &state.scope {
        Scope::One(job) => format!(" trawl watch {job}"),
        Scope::All => format!(" trawl watch: {}", text::counted(state.jobs.len() as u64, "job", "jobs")),
    };
    frame.render_widget(Paragraph::new(what).style(look.head()), area);
    frame.render_widget(
        Paragraph::new("? keys  q leave ").alignment(Alignment::Right).style(look.head()),
        area,
    );
}

fn foot(frame: &mut Frame<'_>, state: &State, look: Look, area: Rect, now: Instant) {
    if let Some(news) = state.news(now) {
        frame.render_widget(Paragraph::new(Line::styled(text::printable(news), look.warning())), area);
    }
}

fn jobs_table(frame: &mut Frame<'_>, state: &State, look: Look, area: Rect, unix_ms: u64) {
    let row = |p: &Progress| {
        let done = p.images_ok + p.images_failed;
        Row::new([
            Cell::from(text::printable(&p.out)),
            Cell::from(p.job.to_string()),
            Cell::from(p.state.name()).style(look.state(p.state)),
            right(text::percent(done, p.images_planned)),
            right(text::count(p.images_planned)),
            right(text::count(p.images_failed)),
            right(format!("{}/s", text::rate(p.images_per_second))),
            right(text::ago(p.created_unix_ms, unix_ms)),
        ])
    };
    let rows: Vec<Row<'_>> = state.jobs.iter().map(row).collect();
    let columns = [
        ("OUT", Constraint::Min(8)),
        ("JOB", Constraint::Length(16)),
        ("STATE", Constraint::Length(9)),
        ("DONE", Constraint::Length(5)),
        ("IMAGES", Constraint::Length(11)),
        ("FAILED", Constraint::Length(9)),
        ("RATE", Constraint::Length(8)),
        ("SUBMITTED", Constraint::Length(10)),
    ];
    table(frame, state, look, area, Which::Jobs, &columns, 3, rows);
}

fn workers_table(frame: &mut Frame<'_>, state: &State, look: Look, area: Rect) {
    let workers = state.workers();
    let name = |worker: &CrewMember| Cell::from(text::printable(&worker.name));
    if state.registered().is_none() {
        // All that batches in hand can say.
        let row = |w: &CrewMember| Row::new([name(w), right(w.in_hand.to_string()), right(age(w.oldest_ms))]);
        let rows: Vec<Row<'_>> = workers.iter().map(row).collect();
        let columns = [
            ("WORKER", Constraint::Min(12)),
            ("BATCHES", Constraint::Length(8)),
            ("OLDEST", Constraint::Length(8)),
        ];
        return table(frame, state, look, area, Which::Workers, &columns, 1, rows);
    }
    let row = |w: &CrewMember| {
        let busiest = w.busiest.as_ref().map(|(stage, share)| format!("{stage} {:.0} %", share * 100.0));
        let remark = w.remark.as_deref().map(text::printable).unwrap_or_default();
        Row::new([
            name(w),
            Cell::from(text::printable(w.device.as_deref().unwrap_or("-"))),
            right(w.rate.map_or_else(|| "-".to_owned(), text::rate)),
            Cell::from(text::printable(&busiest.unwrap_or_default())),
            right(w.in_hand.to_string()),
            right(age(w.heard_ms)),
            Cell::from(remark).style(look.warning()),
        ])
    };
    let rows: Vec<Row<'_>> = workers.iter().map(row).collect();
    let columns = [
        ("WORKER", Constraint::Min(12)),
        ("DEVICE", Constraint::Length(8)),
        ("IMAGES/S", Constraint::Length(8)),
        ("BUSIEST", Constraint::Length(13)),
        ("BATCHES", Constraint::Length(7)),
        ("HEARD", Constraint::Length(7)),
        ("", Constraint::Length(8)),
    ];
    table(frame, state, look, area, Which::Workers, &columns, 2, rows);
}

fn batches_table(frame: &mut Frame<'_>, state: &State, look: Look, area: Rect) {
    let row = |claim: &Claim| {
        Row::new([
            Cell::from(text::printable(&claim.worker)),
            Cell::from(claim.batch.to_string()),
            right(age(Some(claim.age_ms))),
        ])
    };
    let rows: Vec<Row<'_>> = state.claims.iter().map(row).collect();
    let columns = [
        ("BATCH IN HAND OF", Constraint::Min(12)),
        ("BATCH", Constraint::Length(9)),
        ("AGE", Constraint::Length(8)),
    ];
    table(frame, state, look, area, Which::Batches, &columns, 2, rows);
}

/// A table with a head, numbers from column `numbers` on being to the right. Scrolls to the row that keys are at.
#[allow(clippy::too_many_arguments)] // One call a table; a struct would name the same things twice.
fn table<'a>(
    frame: &mut Frame<'_>,
    state: &State,
    look: Look,
    area: Rect,
    which: Which,
    columns: &[(&'a str, Constraint)],
    numbers: usize,
    rows: Vec<Row<'a>>,
) {
    let focused = state.focus == which;
    let heads = columns
        .iter()
        .enumerate()
        .map(|(i, (name, _))| if i < numbers { Cell::from(*name) } else { right((*name).to_owned()) });
    let (shown, count) = (usize::from(area.height.saturating_sub(1)), rows.len());
    let style = if focused { look.focused_head() } else { look.head() };
    let widget = Table::new(rows, columns.iter().map(|(_, width)| *width))
        .header(Row::new(heads).style(style))
        .column_spacing(2)
        .row_highlight_style(look.selected());
    // Without a highlight a table that has no focus stays where it was left.
    let row = state.row(which);
    let mut at = TableState::new()
        .with_offset(row.saturating_sub(shown.saturating_sub(1)))
        .with_selected((focused && count > 0 && (which == Which::Jobs || count > shown)).then_some(row));
    frame.render_stateful_widget(widget, area, &mut at);
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).alignment(Alignment::Right))
}

fn age(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| text::seconds(ms as f64 / 1000.0))
}

fn help(frame: &mut Frame<'_>, look: Look, area: Rect) {
    let lines: Vec<Line<'_>> =
        HELP.iter().map(|(keys, what)| Line::from(format!("  {keys:<12} {what}  "))).collect();
    let width = lines.iter().map(Line::width).max().unwrap_or(0);
    let width = u16::try_from(width).unwrap_or(u16::MAX).min(area.width);
    let height = (lines.len() as u16 + 1).min(area.height);
    let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, place);
    let [title, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(place);
    frame.render_widget(Paragraph::new("  keys").style(look.focused_head()), title);
    frame.render_widget(Paragraph::new(lines), body);
}

#[cfg(test)]
mod tests;
