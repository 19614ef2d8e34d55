//! `skerry-manifest.toml`: what a data directory is, in a text that an operator can read. Written and
//! checked by [`super::DataDirectory`] alone.
//!
//! The last line holds a checksum of all lines above it. A file that was cut short would otherwise read
//! as one of a store that never joined a cluster, and such a store would join a second time.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Identity, Kind, LogKind, Mode};
use crate::{Error, Result};

/// The layout of files below a data directory that this program reads and writes.
pub const FORMAT_VERSION: i64 = 1;

const HEADER: &str =
    "# What this directory holds. Read at every start of skerry; not to be edited.\n";

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What kind of process owns the directory.
    pub kind: Kind,
    /// Whether its state is this process's alone or that of one replica.
    pub mode: Mode,
    /// Where the raft log is.
    pub log: LogKind,
    /// Whose directory it is, as far as that is known.
    pub identity: Identity,
}

/// The lines of the file, in order. Ids are decimal strings: TOML's integers end at 2^63.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Lines {
    format_version: i64,
    kind: Kind,
    mode: Mode,
    data_engine: DataKind,
    log_engine: LogKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<u32>,
}

/// The data engines there have ever been.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DataKind {
    Rocksdb,
}

impl Manifest {
    /// The file's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let lines = Lines {
            format_version: FORMAT_VERSION,
            kind: self.kind,
            mode: self.mode,
            data_engine: DataKind::Rocksdb,
            log_engine: self.log,
            cluster_id: self.identity.cluster_id.map(|id| id.to_string()),
            store_id: self.identity.store_id.map(|id| id.to_string()),
            api_version: self.identity.api_version,
        };
        let lines = toml::to_string(&lines).expect("strings and small numbers fit into TOML");
        let guarded = format!("{HEADER}{lines}");
        let checksum = checksum_line(guarded.as_bytes());
        format!("{guarded}{checksum}").into_bytes()
    }

    /// Reads the bytes of the file `path`.
    pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Manifest> {
        let damaged = |reason: &str| Error::Damaged {
            what: path.display().to_string(),
            reason: format!("{reason}; put the file back from a copy of this directory"),
        };
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is not text"))?;
        // The version comes first: later ones may guard and name everything else in another way.
        check_version(text, path)?;
        let guarded = text.rfind("checksum = ").map_or(text, |start| &text[..start]);
        if text.strip_prefix(guarded) != Some(&checksum_line(guarded.as_bytes())) {
            return Err(damaged("it was cut short or changed after it was written"));
        }
        let lines: Lines =
            toml::from_str(guarded).map_err(|error| unknown(path, error.message()))?;
        let id = |text: Option<String>| match text.map(|digits| digits.parse()) {
            Some(Err(_)) => Err(damaged("an id in it is no number")),
            Some(Ok(id)) => Ok(Some(id)),
            None => Ok(None),
        };
        let identity = Identity {
            cluster_id: id(lines.cluster_id)?,
            store_id: id(lines.store_id)?,
            api_version: lines.api_version,
        };
        Ok(Manifest { kind: lines.kind, mode: lines.mode, log: lines.log_engine, identity })
    }
}

/// Refuses the files of other versions by their number.
fn check_version(text: &str, path: &Path) -> Result<()> {
    let table: Option<toml::Table> = text.parse().ok();
    let version = table.as_ref().and_then(|table| table.get("format-version")?.as_integer());
    match version {
        Some(FORMAT_VERSION) => Ok(()),
        Some(other) => Err(Error::DirectoryMismatch {
            path: directory_of(path),
            reason: format!(
                "its format version is {other} and this skerry knows only {FORMAT_VERSION}; start the \
                 skerry that wrote it, or a newer one"
            ),
        }),
        None => Err(Error::Damaged {
            what: path.display().to_string(),
            reason: "it names no format version; put the file back from a copy of this directory"
                .to_string(),
        }),
    }
}

/// An undamaged file that names something else than we know: a newer program wrote it.
fn unknown(path: &Path, message: &str) -> Error {
    Error::DirectoryMismatch {
        path: directory_of(path),
        reason: format!("its {} says what this skerry does not know: {message}", super::MANIFEST),
    }
}

fn directory_of(path: &Path) -> std::path::PathBuf {
    path.parent().unwrap_or(path).to_path_buf()
}

fn checksum_line(guarded: &[u8]) -> String {
    format!("checksum = \"{:08x}\"\n", crc32fast::hash(guarded))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path() -> &'static Path {
        Path::new("data/skerry-manifest.toml")
    }

    fn full() -> Manifest {
        let identity =
            Identity { cluster_id: Some(u64::MAX), store_id: Some(4), api_version: Some(2) };
        Manifest { kind: Kind::Store, mode: Mode::Replicated, log: LogKind::RaftEngine, identity }
    }

    #[test]
    fn the_file_reads_well_and_back() {
        let text = String::from_utf8(full().encode()).expect("text");
        let expected = "# What this directory holds. Read at every start of skerry; not to be edited.\n\
            format-version = 1\n\
            kind = \"store\"\n\
            mode = \"replicated\"\n\
            data-engine = \"rocksdb\"\n\
            log-engine = \"raft-engine\"\n\
            cluster-id = \"18446744073709551615\"\n\
            store-id = \"4\"\n\
            api-version = 2\n";
        assert_eq!(text.rsplit_once("checksum = ").expect("guarded").0, expected);
        assert_eq!(Manifest::decode(text.as_bytes(), path()).expect("decode"), full());
    }

    #[test]
    fn a_file_cut_anywhere_is_damaged() {
        let bytes = full().encode();
        for length in 0..bytes.len() {
            let refused = Manifest::decode(&bytes[..length], path()).expect_err("cut short");
            assert!(matches!(refused, Error::Damaged { .. }), "{length}: {refused}");
        }
    }

    #[test]
    fn another_format_is_refused_by_its_number_whatever_else_it_says() {
        let refused = Manifest::decode(b"format-version = 7\nshape = \"new\"\n", path());
        assert_eq!(
            refused.expect_err("version 7").to_string(),
            "data cannot be opened: its format version is 7 and this skerry knows only 1; start the \
             skerry that wrote it, or a newer one"
        );
    }

    #[test]
    fn an_engine_of_the_future_is_refused_by_name() {
        let bytes = full().encode();
        let text = String::from_utf8(bytes).expect("text").replace("raft-engine", "paper-tape");
        let guarded = text.rsplit_once("checksum = ").expect("guarded").0;
        let text = format!("{guarded}{}", checksum_line(guarded.as_bytes()));
        let refused = Manifest::decode(text.as_bytes(), path()).expect_err("paper").to_string();
        assert!(refused.starts_with("data cannot be opened: ") && refused.contains("paper-tape"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_never_reads_as_a_manifest(bytes in any::<Vec<u8>>()) {
            prop_assert!(Manifest::decode(&bytes, path()).is_err());
        }

        #[test]
        fn one_changed_byte_is_noticed(position in 0..200_usize, change in 1..=255_u8) {
            let mut bytes = full().encode();
            let position = position % bytes.len();
            bytes[position] ^= change;
            prop_assert!(Manifest::decode(&bytes, path()).is_err());
        }
    }
}
