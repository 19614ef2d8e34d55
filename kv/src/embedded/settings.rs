//! The YAML file of [`Db::from_config`](super::Db::from_config): seven keys, of which all but `mode` have a default.
//!
//! ```yaml
//! mode: config              # default: the built-in values; config: those of this file
//! serversNum: 3             # 1, 3 or 5
//! address: 127.0.0.1        # where the servers listen, if there are several
//! port: 20160               # of the first server
//! persistPath: ./data       # made if it is not there
//! debug: false              # whether every change of state is logged on stderr
//! gcLifeTimeMs: 600000      # for how long old versions can be read: the longest life of a transaction
//! ```
//!
//! A file is refused as a whole: for what is no YAML, for a key that nobody reads, for a value that cannot be.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use skerry_scheduler::config::SchedulerConfig;

use super::error::{Error, Result};

/// How many servers there may be: one, or so many that a majority survives the loss of one or two.
pub const SERVERS: [u16; 3] = [1, 3, 5];

/// The longest life time of versions: a year. Who wants more wants 0.
const LIFE_TIME_MS_MAX: u64 = 365 * 86_400_000;

/// From one round of garbage collection to the next, at least.
const INTERVAL_MS_MIN: u64 = 1_000;

/// Which values count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The built-in ones ([`Settings::default`]), whatever else the file says.
    Default,
    /// Those of the file.
    Config,
}

/// How a database is made of servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// One server is called directly, without any socket. Several replicate: each has all data.
    pub servers: u16,
    /// Where several servers listen.
    pub address: String,
    /// Of the first server. Those of the others follow, then the scheduler's, then one for each server's status page.
    pub port: u16,
    /// Where the data lies.
    pub path: PathBuf,
    /// Whether changes of state are logged on stderr.
    pub debug: bool,
    /// For how long, in milliseconds, old versions can be read, and so the longest life of a transaction; 0: for ever.
    pub gc_life_time_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            servers: 1,
            address: "127.0.0.1".to_string(),
            port: 20_160,
            path: PathBuf::from("./data"),
            debug: false,
            gc_life_time_ms: SchedulerConfig::default().gc_life_time_ms,
        }
    }
}

/// The file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    mode: Mode,
    servers_num: Option<u16>,
    address: Option<String>,
    port: Option<u16>,
    persist_path: Option<PathBuf>,
    debug: Option<bool>,
    gc_life_time_ms: Option<u64>,
}

impl Settings {
    /// One server with its data in `path`.
    pub fn at(path: impl Into<PathBuf>) -> Settings {
        Settings { path: path.into(), ..Settings::default() }
    }

    /// Reads a file.
    pub fn read(file: &Path) -> Result<Settings> {
        let name = file.display();
        let text = std::fs::read_to_string(file).map_err(|error| {
            Error::Open(format!("cannot read the configuration {name}: {error}"))
        })?;
        Settings::parse(&text).map_err(|reason| Error::Open(format!("{name}: {reason}")))
    }

    /// What a file with this text says, or what is wrong with it.
    fn parse(text: &str) -> std::result::Result<Settings, String> {
        let file: File = serde_saphyr::from_str(text)
            .map_err(|error| one_line(&error.without_snippet().to_string()))?;
        let built_in = Settings::default();
        let settings = Settings {
            servers: file.servers_num.unwrap_or(built_in.servers),
            address: file.address.unwrap_or(built_in.address),
            port: file.port.unwrap_or(built_in.port),
            path: file.persist_path.unwrap_or(built_in.path),
            debug: file.debug.unwrap_or(built_in.debug),
            gc_life_time_ms: file.gc_life_time_ms.unwrap_or(built_in.gc_life_time_ms),
        };
        settings.check()?;
        Ok(match file.mode {
            Mode::Default => Settings::default(),
            Mode::Config => settings,
        })
    }

    /// Says what is wrong with these values.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        if !SERVERS.contains(&self.servers) {
            return Err(format!("serversNum is {}; it can be 1, 3 or 5", self.servers));
        }
        if self.address.is_empty() || self.address.contains(char::is_whitespace) {
            return Err(format!("address is {:?}; write for example 127.0.0.1", self.address));
        }
        if self.path.as_os_str().is_empty() {
            return Err("persistPath is empty".to_string());
        }
        let ports = self.ports();
        if self.port == 0 || self.port.checked_add(ports - 1).is_none() {
            let (port, last) = (self.port, u16::MAX - ports + 1);
            return Err(format!(
                "port is {port}; allowed is from 1 to {last}: {ports} ports are used"
            ));
        }
        if self.gc_life_time_ms > LIFE_TIME_MS_MAX {
            let life_time = self.gc_life_time_ms;
            return Err(format!(
                "gcLifeTimeMs is {life_time}; allowed is up to {LIFE_TIME_MS_MAX}, a year"
            ));
        }
        Ok(())
    }

    /// Of the scheduler of these servers, what it has from here.
    pub(super) fn scheduler(&self) -> SchedulerConfig {
        let default = SchedulerConfig::default();
        let gc_life_time_ms = self.gc_life_time_ms;
        // Who wants versions to go soon does not want to wait for long.
        let gc_interval_ms = gc_life_time_ms.clamp(INTERVAL_MS_MIN, default.gc_interval_ms);
        let replicas_max = u32::from(self.servers);
        SchedulerConfig { replicas_max, gc_life_time_ms, gc_interval_ms, ..default }
    }

    /// How many ports are used, from `port` on.
    fn ports(&self) -> u16 {
        2 * self.servers + 1
    }
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_decides_whose_values_count() {
        let text = "mode: config\nserversNum: 3\naddress: 10.0.0.1\nport: 4000\npersistPath: /d\ndebug: true\n\
            gcLifeTimeMs: 5000\n";
        let expected = Settings {
            servers: 3,
            address: "10.0.0.1".to_string(),
            port: 4_000,
            path: PathBuf::from("/d"),
            debug: true,
            gc_life_time_ms: 5_000,
        };
        assert_eq!(Settings::parse(text), Ok(expected));
        let text = text.replace("mode: config", "mode: default");
        assert_eq!(Settings::parse(&text), Ok(Settings::default()));
        let short = Settings::parse("mode: config\npersistPath: here\n");
        assert_eq!(short, Ok(Settings::at("here")), "what is not said is built in");
    }

    #[test]
    fn a_file_that_cannot_be_meant_is_refused_in_words() {
        let cases = [
            ("mode: config\nserversNum: [3\n", "line"),
            ("mode: config\nservers: 3\n", "servers"),
            ("serversNum: 3\n", "mode"),
            ("mode: other\n", "other"),
            ("mode: config\nserversNum: 2\n", "1, 3 or 5"),
            ("mode: config\nserversNum: many\n", "line 2, column 13"),
            ("mode: config\nport: 70000\n", "line 2, column 7"),
            ("mode: config\nserversNum: 5\nport: 65530\n", "allowed is from 1 to 65525"),
            ("mode: config\naddress: \"\"\n", "address"),
            ("mode: config\npersistPath: \"\"\n", "persistPath"),
            ("mode: default\nserversNum: 4\n", "1, 3 or 5"),
            ("mode: config\ngcLifeTimeMs: 31536000001\n", "a year"),
            ("mode: config\ngcLifeTimeMs: -1\n", "line 2"),
        ];
        for (text, word) in cases {
            let reason = Settings::parse(text).expect_err(text);
            assert!(reason.contains(word), "no {word:?} in {reason:?}");
            assert!(!reason.contains('\n'), "{reason:?}");
        }
        let missing = Settings::read(Path::new("/nowhere/config.yaml")).expect_err("no such file");
        assert!(missing.to_string().contains("/nowhere/config.yaml"), "{missing}");
    }
}
