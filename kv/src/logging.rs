//! Structured logs on stderr: one line an event, as text for people or as JSON for machines.
//!
//! Keys and values of users never reach a log unless the operator asks (`log.redact = false`): whoever
//! logs one wraps it in [`Redacted`], which prints a question mark. Everything is handed to one
//! writer thread through a bounded queue; when the terminal is too slow lines are dropped and counted,
//! a request never waits for a log line.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use slog::{Drain, KV, Key, Level, Logger, Never, OwnedKVList, Record};

/// How many lines may wait for the writer thread; above that they are dropped and counted.
const LINES_WAITING_MAX: usize = 4_096;

/// Whether [`Redacted`] hides. One switch for the process, set once before anything is logged: a store
/// never shows some users' keys and hides others'.
static HIDE: AtomicBool = AtomicBool::new(true);

/// The least important line that is still written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// A human must look.
    Error,
    /// Unexpected, but the process carried on.
    Warn,
    /// Changes of state.
    #[default]
    Info,
    /// Single messages.
    Debug,
}

impl LogLevel {
    fn level(self) -> Level {
        match self {
            LogLevel::Error => Level::Error,
            LogLevel::Warn => Level::Warning,
            LogLevel::Info => Level::Info,
            LogLevel::Debug => Level::Debug,
        }
    }
}

/// What a line looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Time, level, message, then `key: value` pairs; in colour on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What `[log]` in the configuration says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct LogConfig {
    /// The least important line that is still written.
    pub level: LogLevel,
    /// Text or JSON.
    pub format: LogFormat,
    /// Whether keys and values of users are hidden.
    pub redact: bool,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { level: LogLevel::default(), format: LogFormat::default(), redact: true }
    }
}

/// The logger and what keeps its writer alive. Dropping it writes out every waiting line.
pub struct Logging {
    /// Hand clones of this to whoever logs.
    pub logger: Logger,
    // Dropped last: joins the writer thread after it has emptied its queue.
    _writer: slog_async::AsyncGuard,
}

/// Starts logging to stderr as `config` says. Once a process, before anything else is started.
pub fn start(config: &LogConfig) -> Logging {
    HIDE.store(config.redact, Ordering::SeqCst);
    match config.format {
        LogFormat::Text => {
            let decorator = slog_term::TermDecorator::new().stderr().build();
            let format = slog_term::FullFormat::new(decorator).use_utc_timestamp().build();
            asynchronous(format.ignore_res(), config.level)
        }
        LogFormat::Json => asynchronous(JsonLines::new(std::io::stderr()), config.level),
    }
}

/// Puts the queue and the level filter before a drain that writes.
fn asynchronous<D>(drain: D, level: LogLevel) -> Logging
where
    D: Drain<Ok = (), Err = Never> + Send + 'static,
{
    let (queue, writer) = slog_async::Async::new(drain)
        .chan_size(LINES_WAITING_MAX)
        .overflow_strategy(slog_async::OverflowStrategy::DropAndReport)
        .thread_name("logging".to_string())
        .build_with_guard();
    let filtered = slog::LevelFilter::new(queue, level.level()).ignore_res();
    Logging { logger: Logger::root(filtered, slog::o!()), _writer: writer }
}

/// Bytes of a user, a key or a value, as a log line may show them: `?` unless the operator asked for
/// more.
pub struct Redacted<'a>(pub &'a [u8]);

impl std::fmt::Display for Redacted<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if HIDE.load(Ordering::Relaxed) {
            return formatter.write_str("?");
        }
        write!(formatter, "{}", Escaped(self.0))
    }
}

/// Bytes as a terminal may show them: printable ASCII as it is, the backslash doubled, everything else
/// as `\xNN`. Nothing in a key can move the cursor or break a line.
pub struct Escaped<'a>(pub &'a [u8]);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for &byte in self.0 {
            match byte {
                b'\\' => formatter.write_str("\\\\")?,
                b' '..=b'~' => write!(formatter, "{}", char::from(byte))?,
                _ => write!(formatter, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

/// Writes each record as one JSON object on a line. Numbers and booleans keep their JSON type.
struct JsonLines<W: Write> {
    output: std::sync::Mutex<W>,
}

impl<W: Write> JsonLines<W> {
    fn new(output: W) -> JsonLines<W> {
        JsonLines { output: std::sync::Mutex::new(output) }
    }
}

impl<W: Write> Drain for JsonLines<W> {
    type Ok = ();
    type Err = Never;

    /// A line that cannot be written is lost: there is nowhere left to say so.
    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let mut fields = JsonFields(serde_json::Map::new());
        // The record's own pairs first: a pair of the logger with the same name does not replace one.
        let _ = record.kv().serialize(record, &mut fields);
        let _ = values.serialize(record, &mut fields);
        let mut line = fields.0;
        line.insert("level".to_string(), record.level().as_str().into());
        line.insert("message".to_string(), record.msg().to_string().into());
        line.insert("module".to_string(), record.module().into());
        line.insert("time_ms".to_string(), wall_ms().into());
        let mut text = serde_json::Value::Object(line).to_string();
        text.push('\n');
        if let Ok(mut output) = self.output.lock() {
            let _ = output.write_all(text.as_bytes());
        }
        Ok(())
    }
}

fn wall_ms() -> u64 {
    use skerry_raftstore::time::{Clock, SystemClock};
    SystemClock.wall_ms()
}

/// Collects the pairs of a record.
struct JsonFields(serde_json::Map<String, serde_json::Value>);

impl JsonFields {
    fn set(&mut self, key: Key, value: serde_json::Value) -> slog::Result {
        self.0.entry(key.to_string()).or_insert(value);
        Ok(())
    }
}

impl slog::Serializer for JsonFields {
    fn emit_arguments(&mut self, key: Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        self.set(key, value.to_string().into())
    }

    fn emit_u64(&mut self, key: Key, value: u64) -> slog::Result {
        self.set(key, value.into())
    }

    fn emit_usize(&mut self, key: Key, value: usize) -> slog::Result {
        self.set(key, value.into())
    }

    fn emit_i64(&mut self, key: Key, value: i64) -> slog::Result {
        self.set(key, value.into())
    }

    fn emit_bool(&mut self, key: Key, value: bool) -> slog::Result {
        self.set(key, value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The only test that turns the switch, so that no other test sees it half way.
    #[test]
    fn keys_are_hidden_until_the_operator_asks() {
        assert_eq!(Redacted(b"password").to_string(), "?");
        HIDE.store(false, Ordering::SeqCst);
        let shown = Redacted(b"pass\x00word").to_string();
        HIDE.store(true, Ordering::SeqCst);
        assert_eq!(shown, "pass\\x00word");
        assert!(LogConfig::default().redact, "hiding is the default");
    }

    #[test]
    fn escaping_leaves_nothing_that_a_terminal_would_obey() {
        let every_byte: Vec<u8> = (0..=255).collect();
        let shown = Escaped(&every_byte).to_string();
        assert!(shown.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{shown}");
        assert_eq!(Escaped(b"a\\b\n\xff").to_string(), "a\\\\b\\x0a\\xff");
    }

    #[test]
    fn a_json_line_carries_level_message_and_typed_pairs() {
        let drain = std::sync::Arc::new(JsonLines::new(Vec::new()));
        let logger = Logger::root(std::sync::Arc::clone(&drain).fuse(), slog::o!("store" => 7u64));
        slog::warn!(logger, "two\nlines"; "key" => %Redacted(b"secret"), "store" => 8u64);
        drop(logger);
        let text = String::from_utf8(drain.output.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text.matches('\n').count(),
            1,
            "a line break in a message stays inside the line"
        );
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "WARNING");
        assert_eq!(line["message"], "two\nlines");
        assert_eq!(line["key"], "?");
        assert_eq!(line["store"], 8, "the pair of the record wins over the logger's");
    }
}
