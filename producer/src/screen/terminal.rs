//! The terminal while a screen is up: raw mode, the alternate screen, and the way back.
//!
//! Whatever ends the screen, the terminal is given back as it was: by dropping [`Screen`], and in a panic of any
//! thread by a hook that runs before the panic is told. It is drawn on stderr, so that stdout stays what a script
//! may capture. Log lines wait meanwhile.

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use std::{
    io::{self, BufWriter, IsTerminal, Stderr},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};
use trawl_common::{
    telemetry::held::{self, Held},
    terminal,
};

/// Whether the terminal is ours at this moment.
static UP: AtomicBool = AtomicBool::new(false);

static HOOK: Once = Once::new();

/// Whether there is a terminal for a screen: one that redraws and one that keys come from, with this process in
/// front. A job in the background would be stopped by its first word to the terminal.
pub fn is_there() -> bool {
    // SAFETY: both calls take and give numbers only.
    let in_front = || unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) == libc::getpgrp() };
    terminal::redraws(&io::stderr()) && io::stdin().is_terminal() && in_front()
}

/// The terminal, taken.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stderr>>>,
    held: Held,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// If it refuses; it is given back then.
    pub fn enter() -> io::Result<Self> {
        HOOK.call_once(|| {
            let usual = panic::take_hook();
            panic::set_hook(Box::new(move |told| {
                leave();
                usual(told);
            }));
        });
        take()?;
        // From here on an early return gives it back.
        let held = held::hold();
        let terminal = Terminal::new(CrosstermBackend::new(BufWriter::new(io::stderr())));
        match terminal {
            Ok(terminal) => Ok(Self { terminal, held }),
            Err(error) => {
                leave();
                Err(error)
            }
        }
    }

    /// Draws a frame; only what differs from the last one is written.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn draw(&mut self, frame: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(frame).map(|_| ())
    }

    /// Forgets what is on the terminal, so that the next frame is drawn whole.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn clear(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }

    /// The log lines that came since the last call.
    pub fn news(&self) -> Vec<String> {
        self.held.news()
    }

    /// Gives the terminal back, stops this process as Ctrl-Z does, and takes it again when it goes on.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn suspend(&mut self) -> io::Result<()> {
        leave();
        // SAFETY: raise takes a number only; the default action of SIGTSTP stops the process until SIGCONT.
        unsafe { libc::raise(libc::SIGTSTP) };
        take()?;
        self.terminal.clear()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn take() -> io::Result<()> {
    UP.store(true, Ordering::Release);
    let taken = enable_raw_mode().and_then(|()| execute!(io::stderr(), EnterAlternateScreen));
    taken.inspect_err(|_| leave())
}

/// Gives the terminal back, once. What fails here has nobody to be told to.
fn leave() {
    if UP.swap(false, Ordering::AcqRel) {
        let _ = execute!(io::stderr(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}
