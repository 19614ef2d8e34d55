//! One store has data; two empty stores join it, and every region gets a replica on both, through snapshots. Beside
//! it, what the disk takes when the same bytes are simply written and synced.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use skerry_raftstore::time::{Clock, SystemClock};

use super::clients::Background;
use super::{Report, Scene};
use crate::cli::bench::keys::{Dice, value_bytes};
use crate::cli::bench::servers::is_whole;
use crate::cli::bench::{Shape, load};
use crate::error::{Error, Result};

/// Bytes of a value.
const VALUE_BYTES: usize = 4 << 10;
const KEY_BYTES: usize = 21;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// How long they may take.
const TIME_MAX: Duration = Duration::from_secs(600);
/// How much is written at a time in the reference.
const CHUNK: usize = 1 << 20;

pub(super) async fn play(scene: &mut Scene<'_>, report: &mut Report) -> Result<()> {
    let (clock, watched) = (SystemClock, scene.watched());
    let bytes = scene.arguments.data << 20;
    let shape = Shape {
        clients: 1,
        batch_size: 1,
        keys: bytes / (KEY_BYTES + VALUE_BYTES) as u64,
        key_size: KEY_BYTES,
        value_size: VALUE_BYTES,
        distribution: None,
        reads: 0,
        scan_length: 0,
        warm_up: Duration::ZERO,
        time: watched,
        operations: None,
        rate: None,
        seed: 1,
        is_quiet: true,
    };
    load(&shape, &scene.target, &Arc::new(AtomicBool::new(false))).await?;
    let disk = disk_rate(scene, bytes)?;
    let background = Background::start(&scene.target, 1);
    tokio::time::sleep(watched).await;
    let began = clock.monotonic();
    scene.servers.add_store()?;
    scene.servers.add_store()?;
    let schedulers = scene.servers.addresses();
    while let Err(missing) = is_whole(&schedulers, 3).await {
        scene.servers.expect_running()?;
        if clock.monotonic() - began > TIME_MAX {
            return Err(Error::Startup(format!("after {} s {missing}", TIME_MAX.as_secs())));
        }
        tokio::time::sleep(PAUSE).await;
    }
    let ended = clock.monotonic();
    let witness = background.stop().await;
    let rate = 2.0 * bytes as f64 / (ended - began).as_secs_f64() / f64::from(1 << 20);
    report.add("into two empty stores, together", rate, "MiB/s");
    report.add("the same bytes written and synced once", disk, "MiB/s");
    report.add("until every region has its replicas", (ended - began).as_secs_f64(), "s");
    report.add("longest operation", witness.worst_ms(began, ended), "ms");
    let before = witness.worst_ms(began.saturating_sub(watched), began);
    report.add("longest operation before", before, "ms");
    report.add("failed operations", witness.failed() as f64, "");
    Ok(())
}

/// MiB a second of one file that is written and synced.
fn disk_rate(scene: &Scene<'_>, bytes: u64) -> Result<f64> {
    let clock = SystemClock;
    let path = scene.servers.directory().join("reference");
    let mut chunk = value_bytes(&mut Dice::new(1), CHUNK);
    let mut written = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&path)?;
        for number in 0..bytes / CHUNK as u64 {
            // No two chunks are alike, so that nobody below us can write one for all.
            chunk[..8].copy_from_slice(&number.to_le_bytes());
            file.write_all(&chunk)?;
        }
        file.sync_data()
    };
    let began = clock.monotonic();
    written().map_err(|error| Error::Startup(format!("the disk takes no file: {error}")))?;
    let took = (clock.monotonic() - began).as_secs_f64();
    // What cannot be removed now goes with the directory.
    let _ = std::fs::remove_file(&path);
    Ok(bytes as f64 / took / f64::from(1 << 20))
}
