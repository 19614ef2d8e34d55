//! Prints every knob: as markdown (`skerry config reference`, which is `docs/configuration.md`) and as a
//! TOML file with every key at its default (`skerry config default`).

use std::fmt::Write;

use super::{Config, Section};

/// `docs/configuration.md`, whole.
pub fn markdown() -> String {
    let mut text = String::from(HEAD);
    for section in Config::sections() {
        let Section { name, about, knobs } = section;
        push(&mut text, format_args!("\n## `[{name}]`\n\n{about}\n\n"));
        push(&mut text, format_args!("| key | default | what it does |\n| --- | --- | --- |\n"));
        for knob in knobs {
            let (key, default) = (knob.name, knob.default);
            push(&mut text, format_args!("| `{key}` | `{default}` | {} |\n", knob.description));
        }
    }
    text
}

/// A file with every key at its default, each below its description.
pub fn default_toml() -> String {
    let mut text = String::from("# Every key of Skerry's configuration with its default.\n");
    for section in Config::sections() {
        push(&mut text, format_args!("\n# {}\n[{}]\n", section.about, section.name));
        for knob in section.knobs {
            for line in wrapped(knob.description) {
                push(&mut text, format_args!("# {line}\n"));
            }
            push(&mut text, format_args!("{} = {}\n", knob.name, knob.default));
        }
    }
    text
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a string cannot fail");
}

/// Breaks a sentence into lines of comments.
fn wrapped(sentence: &str) -> Vec<String> {
    const COLUMNS: usize = 96;
    let mut lines = vec![String::new()];
    for word in sentence.split_whitespace() {
        let line = lines.last_mut().expect("there is a first line");
        if !line.is_empty() && line.len() + 1 + word.len() > COLUMNS {
            lines.push(word.to_string());
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines
}

const HEAD: &str = "\
# Configuration

Every key that a configuration file may have, with its default. This page is the output of
`skerry config reference`; a test keeps it so. `skerry config default` prints the same as a file to start
from, `skerry config check FILE` says what is wrong with one.

A file is given with `--config FILE`; without one the defaults hold. Flags win over the file. A key that
does not exist is refused by name, and so is a value that contradicts another. Sizes are written with a
unit: `B`, `KiB`, `MiB`, `GiB`, `TiB`; 0 needs none.
";
