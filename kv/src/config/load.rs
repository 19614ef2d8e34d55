//! Reads a configuration file and says what is wrong with it in words that can be acted on.
//!
//! 1. Bytes to TOML: an error names file, line and column.
//! 2. Keys: all unknown ones are named at once, each with its line and the nearest key that exists.
//! 3. Values: one of the wrong type is named with its line and key.
//!
//! Values that are well formed but out of range are [`Config::problems`]' business.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::Config;
use crate::error::{Error, Result};

/// A configuration and which of its keys the file gave, as `section.key`.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Defaults, overridden by the file.
    pub config: Config,
    /// The keys that stand in the file: some defaults depend on the command that is run.
    pub given: BTreeSet<String>,
}

/// Reads `path`; without one, answers the defaults.
pub fn read(path: Option<&Path>) -> Result<Loaded> {
    let Some(path) = path else { return Ok(Loaded::default()) };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::Startup(format!("cannot read the configuration {name}: {error}"))
    })?;
    parse(&name, &text).map_err(|problems| Error::Startup(problems.join("; ")))
}

/// Understands `text`, which came from the file `name`; answers everything that is wrong with it.
pub fn parse(name: &str, text: &str) -> std::result::Result<Loaded, Vec<String>> {
    let place = |span: Option<Range<usize>>| match span {
        Some(span) => format!("{name}:{}", line_of(text, span.start)),
        None => name.to_string(),
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            return Err(vec![format!("{}: {}", place(error.span()), one_line(error.message()))]);
        }
    };
    let mut found = Keys::default();
    found.collect("", table.get_ref());
    let unknown: Vec<String> = found
        .unknown
        .iter()
        .map(|(key, position)| {
            format!("{}: unknown key {key}{}", place(Some(*position..*position)), suggestion(key))
        })
        .collect();
    if !unknown.is_empty() {
        return Err(unknown);
    }
    match toml::from_str(text) {
        Ok(config) => {
            Ok(Loaded { config, given: found.given.into_iter().map(|(key, _)| key).collect() })
        }
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            // The value that the error points into: the last key that begins before it.
            let key = found
                .given
                .iter()
                .filter(|(_, start)| *start <= at)
                .max_by_key(|(_, start)| *start);
            let key = key.map_or(String::new(), |(key, _)| format!("{key}: "));
            Err(vec![format!("{}: {key}{}", place(error.span()), one_line(error.message()))])
        }
    }
}

/// Every key of every section, as `section.key`.
fn known() -> Vec<String> {
    let sections = Config::sections();
    let keys = sections.iter().flat_map(|section| {
        section.knobs.iter().map(|knob| format!("{}.{}", section.name, knob.name))
    });
    keys.collect()
}

/// The keys of a file with the positions at which they stand.
#[derive(Default)]
struct Keys {
    given: Vec<(String, usize)>,
    unknown: Vec<(String, usize)>,
}

impl Keys {
    /// Walks sections and their keys. What stands outside of a section is unknown as a whole.
    fn collect(&mut self, section: &str, table: &DeTable<'_>) {
        let known = known();
        for (key, value) in table {
            let position = key.span().start;
            let key: &str = key.get_ref();
            let path =
                if section.is_empty() { key.to_string() } else { format!("{section}.{key}") };
            let inside = format!("{path}.");
            match value.get_ref() {
                DeValue::Table(inner) if known.iter().any(|known| known.starts_with(&inside)) => {
                    self.collect(&path, inner);
                }
                _ if known.contains(&path) => self.given.push((path, position)),
                // A section that should be a table: its type is refused when it is read as one.
                _ if known.iter().any(|known| known.starts_with(&inside)) => {
                    self.given.push((path, position));
                }
                _ => self.unknown.push((path, position)),
            }
        }
        self.unknown.sort_by_key(|(_, position)| *position);
    }
}

/// `; did you mean ...?` for a key that resembles an existing one, or the section it was probably meant for.
fn suggestion(key: &str) -> String {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut nearest: Option<(usize, String)> = None;
    for candidate in known() {
        let (its_section, its_name) = candidate.rsplit_once('.').unwrap_or(("", &candidate));
        // A right name in a wrong section is nearer than a similar name.
        let distance = if name == its_name {
            1
        } else if section == its_section {
            edits(name, its_name)
        } else if section.is_empty() {
            // Perhaps a misspelt section.
            edits(name, its_section)
        } else {
            edits(key, &candidate)
        };
        if nearest.as_ref().is_none_or(|(best, _)| distance < *best) {
            let shown =
                if section.is_empty() && name != its_name { its_section } else { &candidate };
            nearest = Some((distance, shown.to_string()));
        }
    }
    match nearest {
        Some((distance, candidate)) if distance <= 1 + name.len() / 3 => {
            format!("; did you mean {candidate}?")
        }
        _ => "; `skerry config reference` lists all keys".to_string(),
    }
}

/// How many letters must be added, removed or replaced to turn one word into the other.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

fn line_of(text: &str, position: usize) -> usize {
    1 + text.bytes().take(position).filter(|byte| *byte == b'\n').count()
}

/// Messages of the parser may have several lines; ours have one. The name of a struct says nothing to who
/// writes a file.
fn one_line(message: &str) -> String {
    let line = message.lines().map(str::trim).collect::<Vec<_>>().join(", ");
    match line.split_once("expected struct ") {
        Some((before, _)) => format!("{before}expected a table"),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_counts_letters() {
        let cases = [("", "abc", 3), ("abc", "abc", 0), ("adr", "addr", 1), ("flaw", "lawn", 2)];
        for (from, to, count) in cases {
            assert_eq!(edits(from, to), count, "{from} to {to}");
            assert_eq!(edits(to, from), count, "{to} to {from}");
        }
    }
}
