//! Keys of the screen: what is pressed becomes an [`Action`].
//!
//! A thread of its own reads them, because reading a terminal blocks; it ends with [`Keys`]. Nothing is decided
//! here.

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::mpsc;

/// How long the thread waits for a key before it looks whether it is still wanted; the end of a screen waits for
/// it, so that a key pressed later is the shell's.
const PATIENCE: Duration = Duration::from_millis(100);

/// Keys that wait: more than anybody types between two frames.
const WAITING: usize = 64;

/// What somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Ctrl-C, which is no signal while a screen is up.
    Interrupt,
    /// Ctrl-Z, the same.
    Suspend,
    /// Show the keys, or show them no more.
    Help,
    /// One row up or down, or many.
    Move(i32),
    /// To the first row.
    First,
    /// To the last row.
    Last,
    /// The keys move another table.
    NextTable,
    /// The terminal has another size, or was written over.
    Redraw,
}

/// Rows of a page: what fits is not known here, and less than a screen keeps the eye where it was.
const PAGE: i32 = 10;

/// The action of an event.
pub fn action(event: &Event) -> Option<Action> {
    match event {
        Event::Resize(..) => Some(Action::Redraw),
        Event::Key(key) if key.kind != KeyEventKind::Release => of_key(*key),
        Event::Key(_) | Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_) => None,
    }
}

fn of_key(key: KeyEvent) -> Option<Action> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Action::Interrupt),
            KeyCode::Char('z') => Some(Action::Suspend),
            KeyCode::Char('l') => Some(Action::Redraw),
            KeyCode::Char('n') => Some(Action::Move(1)),
            KeyCode::Char('p') => Some(Action::Move(-1)),
            _ => None,
        };
    }
    match key.code {
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Action::Quit),
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => Some(Action::Help),
        KeyCode::Char('j') | KeyCode::Down => Some(Action::Move(1)),
        KeyCode::Char('k') | KeyCode::Up => Some(Action::Move(-1)),
        KeyCode::PageDown | KeyCode::Char(' ') => Some(Action::Move(PAGE)),
        KeyCode::PageUp => Some(Action::Move(-PAGE)),
        KeyCode::Char('g') | KeyCode::Home => Some(Action::First),
        KeyCode::Char('G') | KeyCode::End => Some(Action::Last),
        KeyCode::Tab | KeyCode::Right | KeyCode::Left => Some(Action::NextTable),
        _ => None,
    }
}

/// The keys that are pressed while this lives.
pub struct Keys {
    pressed: mpsc::Receiver<io::Result<Action>>,
    wanted: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Keys {
    /// Reads keys from now on; the terminal must be in raw mode.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn listen() -> io::Result<Self> {
        let (sender, pressed) = mpsc::channel(WAITING);
        let wanted = Arc::new(AtomicBool::new(true));
        let reading = wanted.clone();
        let reader =
            std::thread::Builder::new().name("keys".to_owned()).spawn(move || read(&reading, &sender))?;
        Ok(Self { pressed, wanted, reader: Some(reader) })
    }

    /// The next one. Cancel safe.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub async fn next(&mut self) -> io::Result<Action> {
        let gone = || Err(io::Error::other("the terminal gives no more keys"));
        self.pressed.recv().await.unwrap_or_else(gone)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Release);
        // A full channel must not hold the thread.
        self.pressed.close();
        if let Some(reader) = self.reader.take() {
            // A panic of it has been shown already.
            let _ = reader.join();
        }
    }
}

fn read(wanted: &AtomicBool, sender: &mpsc::Sender<io::Result<Action>>) {
    while wanted.load(Ordering::Acquire) {
        let pressed = match event::poll(PATIENCE) {
            Ok(false) => continue,
            Ok(true) => event::read().map(|event| action(&event)),
            Err(error) => Err(error),
        };
        let (told, ended) = match pressed {
            Ok(None) => continue,
            Ok(Some(action)) => (Ok(action), false),
            Err(error) => (Err(error), true),
        };
        if sender.blocking_send(told).is_err() || ended {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(code: KeyCode, modifiers: KeyModifiers) -> Option<Action> {
        action(&Event::Key(KeyEvent::new(code, modifiers)))
    }

    #[test]
    fn keys_mean_what_the_help_says() {
        for (code, expected) in [
            (KeyCode::Char('q'), Action::Quit),
            (KeyCode::Char('?'), Action::Help),
            (KeyCode::Char('j'), Action::Move(1)),
            (KeyCode::Up, Action::Move(-1)),
            (KeyCode::PageDown, Action::Move(PAGE)),
            (KeyCode::Char('G'), Action::Last),
            (KeyCode::Tab, Action::NextTable),
        ] {
            assert_eq!(pressed(code, KeyModifiers::NONE), Some(expected));
        }
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Action::Interrupt));
        assert_eq!(pressed(KeyCode::Char('q'), KeyModifiers::CONTROL), None);
        assert_eq!(pressed(KeyCode::Char('x'), KeyModifiers::NONE), None);
        assert_eq!(action(&Event::Resize(80, 24)), Some(Action::Redraw));
    }

    #[test]
    fn letting_go_of_a_key_is_nothing() {
        let released =
            KeyEvent { kind: KeyEventKind::Release, ..KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE) };
        assert_eq!(action(&Event::Key(released)), None);
    }
}
