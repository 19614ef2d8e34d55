//! How the servers of each system are called: with everything synced before it is acknowledged, on the loopback.
//!
//! | system | processes | durability |
//! | --- | --- | --- |
//! | Skerry, playground | one | always |
//! | Skerry, separate | a scheduler, and one a store | always |
//! | etcd | one a member | always (no `--unsafe-no-fsync`) |
//! | Redis | one, without replicas | `appendfsync always` |

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Call, Wanted, free_ports};
use crate::cli::bench::{BATCH_SIZE_MAX, System};
use crate::error::{Error, Result};

/// The name of our own scheduler among servers.
pub(super) const SCHEDULER: &str = "scheduler";
/// The file that our own servers read their settings from.
const SETTINGS: &str = "settings.toml";
/// What our own servers print when they are ready.
const PROMISE: &str = "Ready:";

/// All processes of what is wanted.
pub(super) fn calls(wanted: &Wanted, directory: &Path) -> Result<Vec<Call>> {
    match wanted.system {
        System::Skerry => {
            let path = directory.join(SETTINGS);
            std::fs::write(&path, &wanted.settings).map_err(|error| {
                Error::Startup(format!("{} cannot be written: {error}", path.display()))
            })?;
            match wanted.is_separate {
                true => separate(wanted, directory),
                false => Ok(vec![playground(wanted, directory)?]),
            }
        }
        System::Etcd => etcd(wanted, directory),
        System::Redis => Ok(vec![redis(directory)?]),
    }
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn words<const COUNT: usize>(words: [&str; COUNT]) -> Vec<OsString> {
    words.map(OsString::from).to_vec()
}

fn this_program() -> Result<OsString> {
    let path = std::env::current_exe();
    let path = path.map_err(|error| Error::Startup(format!("this program is not found: {error}")));
    Ok(path?.into_os_string())
}

fn with_paths(mut words: Vec<OsString>, directory: &Path, data: &str) -> Vec<OsString> {
    words.extend(["--config".into(), directory.join(SETTINGS).into_os_string()]);
    words.extend(["--data-dir".into(), directory.join(data).into_os_string()]);
    words
}

fn playground(wanted: &Wanted, directory: &Path) -> Result<Call> {
    let stores = wanted.stores;
    let first = free_ports(1 + 2 * stores, |_| false)?;
    let (scheduler, store, status) = (at(first), at(first + 1), at(first + 1 + stores));
    let mut words = words(["playground", "--scheduler-addr", &scheduler]);
    words.extend(["--store-addr", &store, "--status-addr", &status].map(OsString::from));
    words.extend(["--stores".into(), stores.to_string().into()]);
    Ok(Call {
        name: "playground".to_string(),
        program: this_program()?,
        words: with_paths(words, directory, "data"),
        address: scheduler,
        promise: Some(PROMISE),
        statuses: (0..stores).map(|number| at(first + 1 + stores + number)).collect(),
    })
}

fn separate(wanted: &Wanted, directory: &Path) -> Result<Vec<Call>> {
    let first = free_ports(1 + 2 * wanted.stores, |_| false)?;
    let scheduler = at(first);
    let words = words(["scheduler", "--addr", &scheduler]);
    let mut calls = vec![Call {
        name: SCHEDULER.to_string(),
        program: this_program()?,
        words: with_paths(words, directory, SCHEDULER),
        address: scheduler.clone(),
        promise: Some(PROMISE),
        statuses: Vec::new(),
    }];
    for number in 1..=wanted.stores {
        let port = first + number;
        calls.push(store(number, &scheduler, port, port + wanted.stores, directory)?);
    }
    Ok(calls)
}

/// One of our own stores.
pub(super) fn store(
    number: u16,
    scheduler: &str,
    port: u16,
    status: u16,
    directory: &Path,
) -> Result<Call> {
    let (address, status) = (at(port), at(status));
    let name = format!("store-{number}");
    let mut words = words(["server", "--addr", &address, "--status-addr", &status]);
    words.extend(["--scheduler-addr", scheduler].map(OsString::from));
    Ok(Call {
        words: with_paths(words, directory, &name),
        name,
        program: this_program()?,
        address,
        promise: Some(PROMISE),
        statuses: vec![status],
    })
}

fn etcd(wanted: &Wanted, directory: &Path) -> Result<Vec<Call>> {
    installed("etcd", "etcd-server")?;
    let first = free_ports(2 * wanted.stores, |_| false)?;
    let name = |number: u16| format!("member-{number}");
    let peer = |number: u16| format!("http://{}", at(first + wanted.stores + number));
    let members = (0..wanted.stores).map(|number| format!("{}={}", name(number), peer(number)));
    let members = members.collect::<Vec<_>>().join(",");
    let call = |number: u16| {
        let address = at(first + number);
        let (client, peer) = (format!("http://{address}"), peer(number));
        let mut words = words(["--name", &name(number), "--initial-cluster", &members]);
        words.extend(["--listen-client-urls", &client].map(OsString::from));
        words.extend(["--advertise-client-urls", &client].map(OsString::from));
        words.extend(["--listen-peer-urls", &peer].map(OsString::from));
        words.extend(["--initial-advertise-peer-urls", &peer].map(OsString::from));
        // Without it a run that writes more than two gigabytes would end with its database full.
        words.extend(["--quota-backend-bytes", "8589934592"].map(OsString::from));
        // As many puts in a transaction as a request of ours has; 128 if nobody says.
        words.extend(["--max-txn-ops".into(), BATCH_SIZE_MAX.to_string().into()]);
        words.extend(["--logger", "zap", "--log-level", "error"].map(OsString::from));
        words.extend(["--data-dir".into(), directory.join(name(number)).into_os_string()]);
        let (program, name) = ("etcd".into(), name(number));
        Call { name, program, words, address, promise: None, statuses: Vec::new() }
    };
    Ok((0..wanted.stores).map(call).collect())
}

fn redis(directory: &Path) -> Result<Call> {
    installed("redis-server", "redis-server")?;
    let port = free_ports(1, |_| false)?;
    let mut words = words(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    words.extend(["--appendonly", "yes", "--appendfsync", "always"].map(OsString::from));
    words.extend(["--dir".into(), directory.as_os_str().to_os_string()]);
    Ok(Call {
        name: "redis".to_string(),
        program: "redis-server".into(),
        words,
        address: at(port),
        promise: None,
        statuses: Vec::new(),
    })
}

/// Refuses with the name of the package if a peer's program is not there.
fn installed(program: &str, package: &str) -> Result<()> {
    let mut command = Command::new(program);
    let found = command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.map(drop).map_err(|error| {
        Error::Startup(format!(
            "`{program}` cannot be run ({error}): install it, on Debian and Ubuntu with \
             `apt-get install {package}`"
        ))
    })
}
