//! Stories about configuration files: what is understood, what is refused and in which words; and that the
//! reference tells the truth.

use std::collections::BTreeSet;
use std::error::Error;

use super::*;

/// Understands one file a command.
struct Runner;

#[derive(goldenscript::Command)]
enum Command {
    /// Reads a file with these lines; shows what is wrong with it, or which settings it changes.
    File {
        #[arg(many)]
        lines: Vec<String>,
    },
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> std::result::Result<String, Box<dyn Error>> {
        let Command::File { lines } = command;
        let loaded = match load::parse("skerry.toml", &lines.join("\n")) {
            Ok(loaded) => loaded,
            Err(problems) => return Ok(problems.join("\n") + "\n"),
        };
        let problems = loaded.config.problems();
        if !problems.is_empty() {
            return Ok(problems.join("\n") + "\n");
        }
        let (defaults, settings) = (settings(&Config::default()), settings(&loaded.config));
        let changed = settings.difference(&defaults).map(|setting| format!("{setting}\n"));
        let given: Vec<String> = loaded.given.into_iter().collect();
        Ok(format!("given: {}\n{}", given.join(", "), changed.collect::<String>()))
    }
}

/// Every setting as `section.key = value`.
fn settings(config: &Config) -> BTreeSet<String> {
    let written = toml::Table::try_from(config).expect("a configuration is plain data");
    let settings = written.iter().flat_map(|(section, keys)| {
        let keys = keys.as_table().expect("a section is a table");
        keys.iter().map(move |(key, value)| format!("{section}.{key} = {value}"))
    });
    settings.collect()
}

#[test]
fn scripts() -> std::io::Result<()> {
    for script in ["unknown_keys", "wrong_values", "limits", "settings"] {
        goldenscript::run(&mut Runner, format!("src/config/scripts/{script}"))?;
    }
    Ok(())
}

#[test]
fn the_defaults_can_be_used() {
    assert_eq!(Config::default().problems(), Vec::<String>::new());
}

#[test]
fn the_reference_covers_exactly_the_keys_that_are_read_with_their_defaults() {
    let knobs = Config::sections().into_iter().flat_map(|section| {
        section.knobs.into_iter().map(move |knob| {
            assert_eq!(knob.section, section.name, "{}", knob.name);
            let value = format!("value = {}", knob.default).parse::<toml::Table>();
            let value = value.expect("a default in the reference is a TOML value")["value"].clone();
            format!("{}.{} = {value}", section.name, knob.name)
        })
    });
    let listed: Vec<String> = knobs.collect();
    let distinct: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(distinct.len(), listed.len(), "a knob is listed twice");
    assert_eq!(distinct, settings(&Config::default()));
}

#[test]
fn the_default_file_reads_as_the_defaults() {
    let loaded =
        load::parse("default.toml", &reference::default_toml()).expect("it is well formed");
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.given.len(), settings(&Config::default()).len(), "every key stands in it");
}

/// Regenerated, as golden scripts are, when UPDATE_GOLDENFILES is 1.
#[test]
#[allow(clippy::disallowed_methods)] // The same variable as of golden scripts.
fn the_documented_reference_is_what_the_binary_prints() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    if std::env::var("UPDATE_GOLDENFILES").is_ok_and(|value| value == "1") {
        std::fs::write(path, reference::markdown()).expect("docs/ can be written");
    }
    let documented = std::fs::read_to_string(path).expect("docs/configuration.md is there");
    assert!(
        documented == reference::markdown(),
        "docs/configuration.md is not the output of `skerry config reference`: run `make golden`"
    );
}
