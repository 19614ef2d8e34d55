//! Where a demo is shown: a terminal that it has for itself, or lines of text.
//!
//! **Invariant.** However the demo ends, the terminal is as it was before: also when it panics.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::super::say;
use super::frame::{self, Scene};
use crate::error::{Error, Result};

/// Between two lines of the same act.
const LINE_INTERVAL: Duration = Duration::from_millis(500);

/// See the module.
pub(super) enum Screen {
    /// All of a terminal.
    Terminal(Box<DefaultTerminal>),
    /// A line when something has changed.
    Lines(Lines),
}

/// What was said last.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Lines go to stderr, because stdout is for a program.
    is_aside: bool,
    act: String,
    line: String,
    said_at: Duration,
}

impl Screen {
    /// A terminal if there is one and nobody wants it plain.
    pub(super) fn open(is_plain: bool, is_json: bool) -> Result<Screen> {
        if is_plain || is_json || !stdout().is_terminal() {
            return Ok(Screen::Lines(Lines { is_aside: is_json, ..Lines::default() }));
        }
        Ok(Screen::Terminal(Box::new(ratatui::try_init().map_err(failed)?)))
    }

    /// Shows a scene.
    pub(super) fn show(&mut self, scene: &Scene) -> Result<()> {
        match self {
            Screen::Terminal(terminal) => {
                terminal.draw(|frame| frame::draw(frame, scene)).map(drop).map_err(failed)
            }
            Screen::Lines(lines) => {
                lines.show(scene);
                Ok(())
            }
        }
    }

    /// Whether a key was pressed that ends a demo. Never waits.
    pub(super) fn wants_out(&mut self) -> Result<bool> {
        let Screen::Terminal(_) = self else { return Ok(false) };
        while event::poll(Duration::ZERO).map_err(failed)? {
            if let Event::Key(key) = event::read().map_err(failed)?
                && ends(key)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Screen::Terminal(_) = self {
            ratatui::restore();
        }
    }
}

impl Lines {
    fn show(&mut self, scene: &Scene) {
        if self.act != scene.act {
            self.act.clone_from(&scene.act);
            self.say(&format!("{:>5.1} s  {}", scene.passed.as_secs_f64(), scene.act));
        }
        let line = frame::line(scene);
        // Behind the time.
        let (_, news) = line.split_once(" s  ").unwrap_or(("", &line));
        if news != self.line && scene.passed.saturating_sub(self.said_at) >= LINE_INTERVAL {
            self.say(&line);
            self.line = news.to_string();
            self.said_at = scene.passed;
        }
    }

    fn say(&self, line: &str) {
        match self.is_aside {
            true => eprintln!("{line}"),
            false => say(&format!("{line}\n")),
        }
    }
}

/// In this mode an interrupt is a key like others.
fn ends(key: KeyEvent) -> bool {
    let is_interrupt = key.modifiers.contains(KeyModifiers::CONTROL)
        && matches!(key.code, KeyCode::Char('c') | KeyCode::Char('d'));
    let is_word = matches!(key.code, KeyCode::Char('q') | KeyCode::Char('Q') | KeyCode::Esc);
    key.kind != KeyEventKind::Release && (is_interrupt || is_word)
}

fn failed(error: std::io::Error) -> Error {
    Error::Startup(format!("the terminal cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_ends_by_q_escape_or_interrupt() {
        let key = |code, modifiers| ends(KeyEvent::new(code, modifiers));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE));
        assert!(key(KeyCode::Esc, KeyModifiers::NONE));
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE));
        assert!(!key(KeyCode::Enter, KeyModifiers::NONE));
    }
}
