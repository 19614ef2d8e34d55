//! Looks for an order of the operations on one key, by the method of Wing and Gong: take one of the
//! operations that may be next, go on, come back if it leads nowhere. Used by the checker alone.
//!
//! Four observations keep it from growing with the number of orders:
//!
//! 1. Where the search stands is *which operations are ordered* and *what the key holds*. What was reached
//!    before, by whatever way, is not looked at again.
//! 2. An operation that changes nothing and fits is taken at once: putting it off helps nobody.
//! 3. An operation of unknown outcome is worth taking only if the next one in the order saw it; otherwise
//!    the order holds without it. So such an operation is followed by one that needs what it wrote.
//! 4. Operations of unknown outcome that do the same are as good as each other: only the first that
//!    has begun is tried.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Ending, Operation, shown};

/// Lines of the order so far that a story shows.
const STORY_LINES: usize = 8;

/// What a key holds, as a number: comparing and storing those is cheap.
type Value = u32;

/// An operation as the search sees it.
struct Step<'a> {
    operation: &'a Operation,
    began: u64,
    ended: u64,
    /// What must be there before.
    needs: Option<Value>,
    /// What is there after, if it changes.
    writes: Option<Value>,
}

/// Where the search stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    /// All steps below this one are ordered.
    base: usize,
    /// Of the steps from `base` on, those that are ordered; without trailing zeros.
    beyond: Vec<u64>,
    /// Steps of unknown outcome that are ordered; without trailing zeros.
    used: Vec<u64>,
    value: Value,
    /// The last step was of unknown outcome: the next one must need what it wrote.
    is_owed: bool,
}

struct Search<'a> {
    /// Those that happened, by when they began.
    done: Vec<Step<'a>>,
    /// Those that may have happened, by when they began.
    unknown: Vec<Step<'a>>,
}

/// Which step of a [`Search`].
#[derive(Clone, Copy)]
enum Which {
    Done(usize),
    Unknown(usize),
}

/// A position to which the search may come back, with what it has not tried there.
struct Fork {
    position: Position,
    choices: Vec<Which>,
    /// How long the order was.
    length: usize,
}

/// The longest order that was found, for the story.
struct Longest {
    length: usize,
    /// Its last steps.
    end: Vec<Which>,
    position: Position,
}

impl Longest {
    fn of(order: &[Which], position: Position) -> Longest {
        let end = order[order.len().saturating_sub(STORY_LINES)..].to_vec();
        Longest { length: order.len(), end, position }
    }
}

/// Answers nothing if there is an order, and otherwise the story of why there is none.
pub(super) fn find_order(operations: &[&Operation]) -> Result<(), String> {
    let search = Search::over(operations);
    let mut seen = BTreeSet::new();
    let mut order: Vec<Which> = Vec::new();
    let mut longest = Longest::of(&order, Position::start());
    let mut forks = Vec::new();
    let mut position = Position::start();
    loop {
        search.take_all_reads(&mut position, &mut order);
        if position.base == search.done.len() {
            return Ok(());
        }
        if order.len() > longest.length {
            longest = Longest::of(&order, position.clone());
        }
        let choices = match seen.insert(position.clone()) {
            true => search.choices(&position),
            false => Vec::new(),
        };
        forks.push(Fork { position, choices, length: order.len() });
        let Some((next, which)) = next_choice(&mut forks, &mut order) else {
            return Err(search.story(&longest));
        };
        position = search.after(next, which);
        order.push(which);
    }
}

/// The newest choice that was not tried, and where.
fn next_choice(forks: &mut Vec<Fork>, order: &mut Vec<Which>) -> Option<(Position, Which)> {
    while let Some(fork) = forks.last_mut() {
        if let Some(which) = fork.choices.pop() {
            order.truncate(fork.length);
            return Some((fork.position.clone(), which));
        }
        forks.pop();
    }
    None
}

impl<'a> Search<'a> {
    fn over(operations: &[&'a Operation]) -> Search<'a> {
        let mut numbers: BTreeMap<Option<&Bytes>, Value> = BTreeMap::from([(None, 0)]);
        let mut number = |value: Option<&'a Bytes>| {
            let next = Value::try_from(numbers.len()).expect("fewer values than operations");
            *numbers.entry(value).or_insert(next)
        };
        let mut search = Search { done: Vec::new(), unknown: Vec::new() };
        for operation in operations {
            let step = Step {
                operation,
                began: operation.began,
                ended: operation.ended,
                needs: operation.needs().map(&mut number),
                writes: operation.writes().map(&mut number),
            };
            match operation.ending {
                Ending::Written | Ending::Found(_) => search.done.push(step),
                Ending::Unknown if step.writes.is_some() => search.unknown.push(step),
                Ending::Unknown | Ending::Refused => {}
            }
        }
        search.done.sort_by_key(|step| step.began);
        search.unknown.sort_by_key(|step| step.began);
        search.drop_unseen();
        search
    }

    /// Forgets operations of unknown outcome whose result nobody saw (observation 3), until each is
    /// seen by somebody.
    fn drop_unseen(&mut self) {
        loop {
            let steps = self.done.iter().chain(&self.unknown);
            let seen: BTreeSet<Value> = steps.filter_map(|step| step.needs).collect();
            let before = self.unknown.len();
            self.unknown.retain(|step| step.writes.is_some_and(|value| seen.contains(&value)));
            if self.unknown.len() == before {
                return;
            }
        }
    }

    /// Steps that happened and may be next: they had begun before any other step that is not ordered
    /// ended. With the moment up to which they must have begun.
    fn callable(&self, position: &Position) -> (Vec<usize>, u64) {
        let mut callable = Vec::new();
        let mut deadline = u64::MAX;
        for (index, step) in self.done.iter().enumerate().skip(position.base) {
            if step.began > deadline {
                break;
            }
            if !position.is_ordered(index) {
                callable.push(index);
                deadline = deadline.min(step.ended);
            }
        }
        callable.retain(|index| self.done[*index].began <= deadline);
        (callable, deadline)
    }

    /// Observation 2.
    fn take_all_reads(&self, position: &mut Position, order: &mut Vec<Which>) {
        loop {
            let (callable, _) = self.callable(position);
            let fits = |index: &usize| {
                let step = &self.done[*index];
                step.writes.is_none_or(|value| step.needs == Some(value))
                    && step.needs == Some(position.value)
            };
            let reads: Vec<usize> = callable.into_iter().filter(fits).collect();
            if reads.is_empty() {
                return;
            }
            for index in reads {
                position.order_done(index);
                position.is_owed = false;
                order.push(Which::Done(index));
            }
            position.advance(self.done.len());
        }
    }

    /// Steps that change the key and may be next; the most promising last.
    fn choices(&self, position: &Position) -> Vec<Which> {
        let (callable, deadline) = self.callable(position);
        let fits = |step: &Step<'_>| {
            step.writes.is_some()
                && match step.needs {
                    Some(needed) => needed == position.value,
                    None => !position.is_owed,
                }
        };
        let mut choices = Vec::new();
        let mut tried = BTreeSet::new();
        for (index, step) in self.unknown.iter().enumerate() {
            let has_begun = step.began <= deadline;
            let is_change = step.writes != Some(position.value);
            let is_free = has_begun && is_change && !position.is_used(index);
            if is_free && fits(step) && tried.insert((step.needs, step.writes)) {
                choices.push(Which::Unknown(index));
            }
        }
        let done = callable.into_iter().filter(|index| fits(&self.done[*index]));
        choices.extend(done.map(Which::Done).rev());
        choices
    }

    fn step(&self, which: Which) -> &Step<'a> {
        match which {
            Which::Done(index) => &self.done[index],
            Which::Unknown(index) => &self.unknown[index],
        }
    }

    fn after(&self, mut position: Position, which: Which) -> Position {
        if let Some(value) = self.step(which).writes {
            position.value = value;
        }
        position.is_owed = matches!(which, Which::Unknown(_));
        match which {
            Which::Done(index) => {
                position.order_done(index);
                position.advance(self.done.len());
            }
            Which::Unknown(index) => set(&mut position.used, index),
        }
        position
    }

    /// The end of the longest order, and what cannot follow it.
    fn story(&self, longest: &Longest) -> String {
        let position = &longest.position;
        let mut lines = Vec::new();
        let hidden = longest.length - longest.end.len();
        if hidden > 0 {
            lines.push(format!("  ({hidden} operations before these can be ordered)"));
        }
        for which in &longest.end {
            lines.push(format!("  {}", self.step(*which).operation));
        }
        let steps = self.done.iter().chain(&self.unknown);
        let holder = steps
            .filter(|step| step.writes == Some(position.value))
            .find_map(|step| step.operation.writes())
            .flatten();
        lines.push(format!("then the key holds {}, and none of these can be next:", shown(holder)));
        let (callable, _) = self.callable(position);
        for index in callable {
            let step = &self.done[index];
            let written = |other: &Step<'_>| other.writes.is_some() && other.writes == step.needs;
            let is_invented = step.needs.is_some_and(|value| value != 0)
                && !self.done.iter().chain(&self.unknown).any(written);
            let note = if is_invented { ", which nobody wrote" } else { "" };
            lines.push(format!("  {}{note}", step.operation));
        }
        lines.join("\n")
    }
}

impl Position {
    /// Nothing is ordered and the key is absent.
    fn start() -> Position {
        Position { base: 0, beyond: Vec::new(), used: Vec::new(), value: 0, is_owed: false }
    }

    fn is_ordered(&self, index: usize) -> bool {
        index < self.base || contains(&self.beyond, index - self.base)
    }

    fn is_used(&self, index: usize) -> bool {
        contains(&self.used, index)
    }

    fn order_done(&mut self, index: usize) {
        set(&mut self.beyond, index - self.base);
    }

    /// Moves the base behind the first run of ordered steps, whole words at a time, so that equal
    /// positions have equal numbers.
    fn advance(&mut self, steps: usize) {
        while self.beyond.first() == Some(&u64::MAX) {
            self.beyond.remove(0);
            self.base += 64;
        }
        let rest = steps - self.base;
        let is_complete = rest < 64 && self.beyond.first() == Some(&((1 << rest) - 1));
        if rest == 0 || is_complete {
            self.base = steps;
            self.beyond.clear();
        }
    }
}

fn contains(words: &[u64], index: usize) -> bool {
    words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
}

fn set(words: &mut Vec<u64>, index: usize) {
    if words.len() <= index / 64 {
        words.resize(index / 64 + 1, 0);
    }
    words[index / 64] |= 1 << (index % 64);
}
