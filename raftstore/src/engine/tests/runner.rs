//! Runs golden scripts on a machine. Scripts under `scripts/engine` run on memory and on RocksDB
//! and must read the same; those under `scripts/memory` crash, which only the memory engine can.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::result::Result;
use std::str::FromStr;

use super::*;

/// What a script may do. Changes gather in a batch until `write`.
#[derive(goldenscript::Command)]
enum Command {
    /// put FAMILY KEY VALUE
    Put(Family, String, String),
    /// delete FAMILY KEY
    Delete(Family, String),
    /// delete_range FAMILY START END
    DeleteRange(Family, String, String),
    /// write [synced]: applies the batch.
    Write(Option<String>),
    /// get FAMILY KEY [view=NAME]
    Get {
        family: Family,
        key: String,
        #[arg(key)]
        view: Option<String>,
    },
    /// scan FAMILY [START] [END] [reverse=true] [view=NAME]
    Scan {
        family: Family,
        start: Option<String>,
        end: Option<String>,
        #[arg(key, optional)]
        reverse: bool,
        #[arg(key)]
        view: Option<String>,
    },
    /// walk FAMILY START END STEP...: steps are first, last, next, previous, at/KEY, before/KEY.
    Walk(Family, String, String, Vec<Step>),
    /// view NAME: takes a view.
    View(String),
    /// release NAME: gives it back.
    Release(String),
    /// destroy_range FAMILY START END
    DestroyRange(Family, String, String),
    /// table NAME FAMILY [delete="START..END"] [put="KEY:VALUE,..."]: writes a table file.
    Table {
        name: String,
        family: Family,
        #[arg(key)]
        delete: Option<String>,
        #[arg(key, optional)]
        put: String,
    },
    /// spoil NAME: changes a byte in the middle of a table file.
    Spoil(String),
    /// ingest FAMILY NAME...
    Ingest(Family, Vec<String>),
    /// fill FAMILY PREFIX COUNT BYTES: writes so many pairs with values of so many bytes.
    Fill(Family, String, u64, usize),
    /// size FAMILY START END about=BYTES
    Size {
        family: Family,
        start: String,
        end: String,
        #[arg(key)]
        about: u64,
    },
    /// settle: moves everything into files.
    Settle,
    /// checkpoint NAME
    Checkpoint(String),
    /// open_checkpoint NAME: goes on with it.
    OpenCheckpoint(String),
    /// kill: kills the process and starts it again.
    Kill,
    /// unsynced: how many batches a crash could lose.
    Unsynced,
    /// crash SURVIVING: takes the power away.
    Crash(usize),
}

struct Family(ColumnFamily);

impl FromStr for Family {
    type Err = String;

    fn from_str(name: &str) -> Result<Family, String> {
        let family = ColumnFamily::ALL.into_iter().find(|family| family.name() == name);
        family.map(Family).ok_or_else(|| format!("no family {name}"))
    }
}

/// A movement of a cursor.
enum Step {
    First,
    Last,
    Next,
    Previous,
    At(String),
    Before(String),
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Step, String> {
        Ok(match text.split_once('/') {
            None if text == "first" => Step::First,
            None if text == "last" => Step::Last,
            None if text == "next" => Step::Next,
            None if text == "previous" => Step::Previous,
            Some(("at", key)) => Step::At(key.to_string()),
            Some(("before", key)) => Step::Before(key.to_string()),
            _ => return Err(format!("no step {text}")),
        })
    }
}

/// Fields end in the order that lets views go before the engine and the files last.
struct Runner {
    views: BTreeMap<String, Arc<dyn View>>,
    machine: Box<dyn Machine>,
    batch: WriteBatch,
    files: TempDir,
}

impl Runner {
    fn new(machine: Box<dyn Machine>) -> Runner {
        let files = tempfile::tempdir().expect("temporary directory");
        Runner { views: BTreeMap::new(), machine, batch: WriteBatch::new(), files }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn view(&self, name: &Option<String>) -> Arc<dyn View> {
        match name {
            Some(name) => self.views.get(name).expect("such a view was taken").clone(),
            None => self.machine.engine().view(),
        }
    }

    fn read(&self, command: &Command) -> crate::Result<String> {
        match command {
            Command::Get { family, key, view: None } => {
                Ok(value(self.machine.engine().get(family.0, key.as_bytes())?))
            }
            Command::Get { family, key, view } => {
                Ok(value(self.view(view).get(family.0, key.as_bytes())?))
            }
            Command::Scan { family, start, end, reverse, view } => {
                let bound = |key: &Option<String>| key.clone().unwrap_or_default();
                let range = KeyRange::new(bound(start), bound(end));
                scan(&*self.view(view), family.0, &range, *reverse)
            }
            Command::Walk(family, start, end, steps) => {
                walk(&*self.machine.engine().view(), family.0, &range(start, end), steps)
            }
            Command::Size { family, start, end, about } => {
                let size = self.machine.engine().approximate_size(family.0, &range(start, end))?;
                let near = *about / 2 <= size && size <= *about * 2;
                Ok(if near { format!("about {about}") } else { format!("{size}, not {about}") })
            }
            Command::Unsynced => Ok(self.machine.unsynced().to_string()),
            _ => unreachable!("the other commands change something"),
        }
    }

    fn change(&mut self, command: &Command) -> crate::Result<()> {
        let engine = self.machine.engine();
        match command {
            Command::Put(family, key, value) => {
                self.batch.put(family.0, key.clone(), value.clone());
            }
            Command::Delete(family, key) => self.batch.delete(family.0, key.clone()),
            Command::DeleteRange(family, start, end) => {
                self.batch.delete_range(family.0, range(start, end));
            }
            Command::Write(synced) => {
                let durability =
                    if synced.is_some() { Durability::Synced } else { Durability::Buffered };
                engine.write(std::mem::take(&mut self.batch), durability)?;
            }
            Command::View(name) => drop(self.views.insert(name.clone(), engine.view())),
            Command::Release(name) => drop(self.views.remove(name).expect("was taken")),
            Command::DestroyRange(family, start, end) => {
                engine.destroy_range(family.0, &range(start, end))?;
            }
            Command::Ingest(family, names) => {
                let tables: Vec<PathBuf> = names.iter().map(|name| self.file(name)).collect();
                engine.ingest(family.0, &tables)?;
                assert!(tables.iter().all(|table| table.exists()), "the originals stay");
                let files = std::fs::read_dir(self.files.path()).expect("list").count();
                let links = std::fs::read_dir(self.files.path()).expect("list").filter(|entry| {
                    let name = entry.as_ref().expect("entry").file_name();
                    name.to_string_lossy().ends_with(".ingest")
                });
                assert_eq!(links.count(), 0, "of {files} files");
            }
            Command::Fill(family, prefix, count, bytes) => {
                for number in 0..*count {
                    let mut batch = WriteBatch::new();
                    batch.put(family.0, format!("{prefix}{number:06}"), noise(number, *bytes));
                    engine.write(batch, Durability::Buffered)?;
                }
            }
            Command::Settle => self.machine.settle(),
            Command::Checkpoint(name) => engine.checkpoint(&self.file(name))?,
            Command::OpenCheckpoint(name) => {
                let directory = self.file(name);
                self.machine.open_checkpoint(&directory);
            }
            Command::Kill => {
                self.batch = WriteBatch::new();
                self.machine.kill();
            }
            Command::Crash(surviving) => {
                self.batch = WriteBatch::new();
                self.machine.crash(*surviving);
            }
            Command::Table { name, family, delete, put } => {
                self.table(name, family.0, delete, put)?;
            }
            Command::Spoil(name) => {
                let mut bytes = std::fs::read(self.file(name)).expect("read");
                let middle = bytes.len() - 10;
                bytes[middle] ^= 0x40;
                std::fs::write(self.file(name), bytes).expect("write");
            }
            _ => unreachable!("the other commands only read"),
        }
        Ok(())
    }

    fn table(
        &self,
        name: &str,
        family: ColumnFamily,
        delete: &Option<String>,
        put: &str,
    ) -> crate::Result<()> {
        let path = self.file(name);
        let mut writer = self.machine.engine().table_writer(family, &path)?;
        if let Some(deleted) = delete {
            let (start, end) = deleted.split_once("..").expect("START..END");
            writer.delete_range(&range(start, end))?;
        }
        for pair in put.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once(':').expect("KEY:VALUE");
            writer.put(key.as_bytes(), value.as_bytes())?;
        }
        let size = writer.finish()?;
        assert_eq!(size, std::fs::metadata(&path).expect("metadata").len());
        Ok(())
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let result = match command {
            Command::Get { .. } | Command::Scan { .. } | Command::Walk(..) => self.read(command),
            Command::Size { .. } | Command::Unsynced => self.read(command),
            _ => self.change(command).map(|()| String::new()),
        };
        // Engines word their refusals differently; the kind is the same.
        Ok(result.unwrap_or_else(|error| match error {
            crate::Error::Damaged { .. } => "refused: damaged".to_string(),
            _ => "refused".to_string(),
        }))
    }
}

fn range(start: &str, end: &str) -> KeyRange {
    KeyRange::new(start.to_string(), end.to_string())
}

/// Bytes that do not compress.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let words = (0..).map(|word| crate::time::splitmix64(seed * 1_000_003 + word));
    words.flat_map(u64::to_le_bytes).take(count).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

fn quoted(value: &[u8]) -> String {
    match value.len() {
        0..50 => format!("\"{}\"", text(value)),
        length => format!("{length} bytes"),
    }
}

fn value(value: Option<Bytes>) -> String {
    value.map_or("none".to_string(), |value| quoted(&value))
}

fn pair(cursor: &dyn Cursor) -> String {
    format!("{} = {}", text(cursor.key()), quoted(cursor.value()))
}

fn scan(
    view: &dyn View,
    family: ColumnFamily,
    range: &KeyRange,
    reverse: bool,
) -> crate::Result<String> {
    let mut cursor = view.cursor(family, range)?;
    let mut output = String::new();
    let mut stands = if reverse { cursor.seek_to_last()? } else { cursor.seek_to_first()? };
    while stands {
        writeln!(output, "{}", pair(&*cursor)).expect("a string takes everything");
        stands = if reverse { cursor.previous()? } else { cursor.next()? };
    }
    Ok(if output.is_empty() { "nothing".to_string() } else { output })
}

fn walk(
    view: &dyn View,
    family: ColumnFamily,
    range: &KeyRange,
    steps: &[Step],
) -> crate::Result<String> {
    let mut cursor = view.cursor(family, range)?;
    let mut output = String::new();
    for step in steps {
        let (name, stands) = match step {
            Step::First => ("first".to_string(), cursor.seek_to_first()?),
            Step::Last => ("last".to_string(), cursor.seek_to_last()?),
            Step::Next => ("next".to_string(), cursor.next()?),
            Step::Previous => ("previous".to_string(), cursor.previous()?),
            Step::At(key) => (format!("at {key}"), cursor.seek(key.as_bytes())?),
            Step::Before(key) => {
                (format!("before {key}"), cursor.seek_for_previous(key.as_bytes())?)
            }
        };
        let place = if stands { pair(&*cursor) } else { "nowhere".to_string() };
        writeln!(output, "{name} → {place}").expect("a string takes everything");
    }
    Ok(output)
}

/// The scripts of a directory, by name.
fn scripts(directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("scripts");
    let mut scripts: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "{directory} is empty");
    scripts
}

#[test]
fn every_engine_tells_the_same_story() {
    for script in scripts("src/engine/scripts/engine") {
        let memory = Box::new(MemoryMachine::default());
        goldenscript::run(&mut Runner::new(memory), &script).expect("run on memory");
        // The file may just have been written anew, so that it is compared here and never updated.
        let recorded = std::fs::read_to_string(&script).expect("read");
        let rocks = Box::new(RocksMachine::new());
        let told =
            goldenscript::generate(&mut Runner::new(rocks), &recorded).expect("run on rocks");
        assert_eq!(told, recorded, "{} on RocksDB", script.display());
    }
}

#[test]
fn power_loss_takes_a_suffix_from_the_memory_engine() {
    for script in scripts("src/engine/scripts/memory") {
        let memory = Box::new(MemoryMachine::default());
        goldenscript::run(&mut Runner::new(memory), &script).expect("run");
    }
}
