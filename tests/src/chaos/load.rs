//! Clients that work until they are told to stop, and the history of what they saw.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use skerry_raftstore::time::splitmix64;
use tokio::task::JoinHandle;

use super::client::RoutingClient;
use crate::checker::{Action, Checked, Ending, History};
use crate::wait::{Stopwatch, let_pass_async};

/// Few enough that clients meet at each of them.
const KEYS: u64 = 24;
/// How long a client rests after a refusal, as clients do.
const REST: Duration = Duration::from_millis(20);

/// Running clients. See the module.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    watch: Stopwatch,
    history: Mutex<History>,
    /// Beginning and end, in microseconds, of each write that was acknowledged.
    written: Mutex<Vec<(u64, u64)>>,
    is_stopping: AtomicBool,
    acknowledged: AtomicU64,
}

/// What the clients saw.
pub struct Report {
    /// What the checker of linearizability looked at.
    pub checked: Checked,
    written: Vec<(u64, u64)>,
}

impl Load {
    /// Lets `clients` work, each on one key at a time.
    pub fn start(scheduler: SocketAddr, clients: usize, seed: u64) -> Load {
        let shared = Arc::new(Shared {
            watch: Stopwatch::start(),
            history: Mutex::default(),
            written: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
        });
        let client = |number| {
            let shared = shared.clone();
            tokio::spawn(async move { work(&shared, scheduler, number, seed).await })
        };
        let clients = (0..clients).map(client).collect();
        Load { shared, clients }
    }

    /// Microseconds since the start.
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Operations that were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Stops the clients, reads every key once more, and looks for an order of all that happened.
    pub async fn stop(self, scheduler: SocketAddr) -> Report {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client does not panic");
        }
        let mut last = RoutingClient::new(scheduler);
        for key in 0..KEYS {
            let mut ending = Ending::Refused;
            while ending == Ending::Refused {
                ending =
                    operate(&self.shared, &mut last, usize::MAX, key_of(key), Action::Get).await;
            }
        }
        let history = self.shared.history.lock().expect("no holder panics");
        let checked = history.check().unwrap_or_else(|violation| panic!("{violation}"));
        let written = std::mem::take(&mut *self.shared.written.lock().expect("no holder panics"));
        Report { checked, written }
    }
}

impl Report {
    /// How long after `moment` (of [`Load::now`]) a write that began after it was acknowledged.
    pub fn pause_after(&self, moment: u64) -> Option<Duration> {
        let later = self.written.iter().filter(|(began, _)| *began > moment);
        later.map(|(_, ended)| Duration::from_micros(ended - moment)).min()
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.watch.elapsed().as_micros()).expect("not that long")
    }
}

fn key_of(number: u64) -> Bytes {
    Bytes::from(format!("key {number:02}"))
}

async fn work(shared: &Shared, scheduler: SocketAddr, number: usize, seed: u64) {
    let mut client = RoutingClient::new(scheduler);
    let mut draw = splitmix64(seed ^ (number as u64) << 32);
    let mut seen: Option<Bytes> = None;
    let mut count = 0_u64;
    while !shared.is_stopping.load(Ordering::Relaxed) {
        draw = splitmix64(draw);
        count += 1;
        let key = key_of(draw % KEYS);
        let new = Bytes::from(format!("{number}.{count}"));
        let action = match (draw >> 32) % 10 {
            0..4 => Action::Get,
            4..8 => Action::Put(new),
            8 => Action::CompareAndSet { expected: seen.clone(), new },
            _ => Action::Delete,
        };
        let ending = operate(shared, &mut client, number, key, action).await;
        match ending {
            Ending::Found(found) => seen = found,
            Ending::Written => {}
            Ending::Refused | Ending::Unknown => let_pass_async(REST).await,
        }
    }
}

async fn operate(
    shared: &Shared,
    client: &mut RoutingClient,
    number: usize,
    key: Bytes,
    action: Action,
) -> Ending {
    let began = shared.now();
    let id = {
        let mut history = shared.history.lock().expect("no holder panics");
        history.begin(number, key.clone(), action.clone(), began)
    };
    let ending = client.attempt(key, &action).await;
    let ended = shared.now();
    match &ending {
        Ending::Written | Ending::Found(_) => {
            shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Ending::Refused | Ending::Unknown => {}
    }
    if ending == Ending::Written {
        shared.written.lock().expect("no holder panics").push((began, ended));
    }
    if ending != Ending::Unknown {
        shared.history.lock().expect("no holder panics").end(id, ending.clone(), ended);
    }
    ending
}
