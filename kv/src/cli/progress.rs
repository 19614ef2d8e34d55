//! How far something is that takes long, for whoever waits for it.
//!
//! On a terminal it is one line with a bar, written over in place and never wider than the terminal. Elsewhere each
//! change is a line of its own, without a bar: a log of it can be read.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use ratatui::crossterm::terminal;
use skerry_raftstore::time::{Clock, SystemClock};

/// Columns of the bar.
const BAR_WIDTH: u64 = 30;
/// Of a terminal that does not say how wide it is.
const USUAL_WIDTH: usize = 80;
/// Progress that was watched for less says nothing about the time that is left.
const WATCHED_MIN: Duration = Duration::from_secs(1);

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) done: u64,
    pub(super) all: u64,
}

/// See the module. Nothing is shown where only the end is wanted.
pub(super) struct Progress {
    is_terminal: bool,
    is_silent: bool,
    /// What was shown last.
    last: String,
    /// When it was first looked at, and how far it was then.
    first: Option<(Duration, Part)>,
}

impl Progress {
    pub(super) fn new(is_silent: bool) -> Progress {
        Progress {
            is_terminal: stdout().is_terminal(),
            is_silent,
            last: String::new(),
            first: None,
        }
    }

    /// Shows how far it is; `sentence` says it in words.
    pub(super) fn show(&mut self, part: Part, sentence: &str) {
        let now = SystemClock.monotonic();
        let (began, first) = *self.first.get_or_insert((now, part));
        let line = match self.is_terminal {
            true => {
                let width = terminal::size().map_or(USUAL_WIDTH, |(columns, _)| columns.into());
                drawn(part, time_left(first, part, now - began), sentence, width)
            }
            false => sentence.to_string(),
        };
        if self.is_silent || line == self.last {
            return;
        }
        let mut output = stdout().lock();
        // Whoever has closed our output has seen enough.
        let _ = match self.is_terminal {
            true => write!(output, "\r\x1b[K{line}"),
            false => writeln!(output, "{line}"),
        };
        let _ = output.flush();
        self.last = line;
    }

    /// What has to be printed before anything else: the line on a terminal has not been ended.
    pub(super) fn ending(&self) -> &'static str {
        if self.is_terminal && !self.last.is_empty() { "\n" } else { "" }
    }
}

/// By the pace since it was first looked at; nothing if there is none yet.
fn time_left(first: Part, now: Part, watched: Duration) -> Option<Duration> {
    let gained = now.done.checked_sub(first.done).filter(|gained| *gained > 0)?;
    let left = now.all.checked_sub(now.done).filter(|left| *left > 0)?;
    (watched >= WATCHED_MIN).then(|| watched.mul_f64(left as f64 / gained as f64))
}

/// The line of a terminal of this width.
fn drawn(part: Part, left: Option<Duration>, sentence: &str, width: usize) -> String {
    let Part { done, all } = part;
    let done = done.min(all);
    let filled = (done * BAR_WIDTH).checked_div(all).unwrap_or(BAR_WIDTH);
    let percent = (done * 100).checked_div(all).unwrap_or(100);
    let bar = "█".repeat(filled as usize) + &"░".repeat((BAR_WIDTH - filled) as usize);
    let left = left.map_or(String::new(), |left| format!(", about {} s", left.as_secs().max(1)));
    let line = format!("{bar} {percent:>3}%  {sentence}{left}");
    // A line that is longer than the terminal could not be written over.
    line.chars().take(width.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn part(done: u64, all: u64) -> Part {
        Part { done, all }
    }

    #[test]
    fn a_line_has_a_bar_a_share_a_sentence_and_the_time_that_is_left() {
        let line = drawn(part(9, 12), Some(Duration::from_secs(4)), "3 of 12 regions left", 80);
        let bar = "█".repeat(22) + &"░".repeat(8);
        assert_eq!(line, format!("{bar}  75%  3 of 12 regions left, about 4 s"));
        let begun = drawn(part(0, 12), None, "12 of 12 regions left", 80);
        assert!(begun.ends_with("░   0%  12 of 12 regions left"), "{begun}");
        assert!(drawn(part(0, 0), None, "nothing", 80).contains(" 100%  nothing"));
    }

    #[test]
    fn a_line_fits_its_terminal() {
        let line = drawn(part(9, 12), None, &"long ".repeat(40), 60);
        assert_eq!(line.chars().count(), 59);
        assert_eq!(drawn(part(9, 12), None, "x", 0), "");
    }

    #[test]
    fn the_time_that_is_left_follows_the_pace() {
        let left =
            |done, seconds| time_left(part(10, 100), part(done, 100), Duration::from_secs(seconds));
        assert_eq!(left(40, 10), Some(Duration::from_secs(20)));
        assert_eq!(left(10, 10), None, "nothing has moved");
        assert_eq!(left(5, 10), None, "it has gone back");
        assert_eq!(left(100, 10), None, "it is over");
        assert_eq!(left(40, 0), None, "too early to say");
    }
}
