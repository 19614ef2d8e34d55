//! Carries what this store tells of its waits to the detector of the cluster ([`crate::txn::telling`]), and its answers
//! back.
//!
//! The detector is the store that leads the region of the empty key. One task has one stream to it
//! (`deadlock.Deadlock/Detect`):
//!
//! 1. When there is something to tell and no stream, the task asks the scheduler who leads that region, and connects.
//! 2. When the stream breaks, or is silent for too long, or its other end does not lead that region any more, the task
//!    waits a little, forgets what was to be told meanwhile - it is told again - and begins anew.
//!
//! While nobody waits, nothing is sent and nobody is looked for.

use std::sync::Arc;
use std::time::Duration;

use skerry_proto::deadlock::DeadlockRequest;
use skerry_proto::deadlock::deadlock_client::DeadlockClient;
use skerry_raftstore::time::{Clock, SystemClock};
use slog::{Logger, debug};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::resolver::Resolver;
use super::scheduler_client::{SchedulerClient, shown};
use crate::txn::telling::{Courier, Pause, Telling, Watched};

/// Words that may wait for the stream.
const WORDS_MAX: usize = 4_096;
/// After a stream that broke.
const PAUSE: Duration = Duration::from_millis(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A silent stream is asked after this time whether it still works, and given up after as long again: a detector whose
/// machine is gone must not be told for minutes.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// Tells the detector that the scheduler knows, by a task on this runtime. It ends with whoever tells.
pub fn start(scheduler: Arc<SchedulerClient>, logger: Logger) -> Telling {
    let (words, waiting) = mpsc::channel(WORDS_MAX);
    let telling = Telling::new(Arc::new(Carrying { words }));
    let resolver = Resolver::new(scheduler.clone());
    let task = Line { scheduler, resolver, waiting, watched: telling.watched(), logger };
    tokio::spawn(task.run());
    telling
}

/// Gives words to the task.
struct Carrying {
    words: mpsc::Sender<DeadlockRequest>,
}

impl Courier for Carrying {
    fn send(&self, word: DeadlockRequest) {
        // No room: it is told again, or forgotten by itself.
        let _ = self.words.try_send(word);
    }

    fn pause(&self, span: Duration) -> Pause {
        Box::pin(tokio::time::sleep(span))
    }

    fn now(&self) -> Duration {
        SystemClock.monotonic()
    }
}

/// The task that has the stream.
struct Line {
    scheduler: Arc<SchedulerClient>,
    resolver: Resolver,
    waiting: mpsc::Receiver<DeadlockRequest>,
    watched: Arc<Watched>,
    logger: Logger,
}

impl Line {
    /// Ends when nobody is left who could wait.
    async fn run(mut self) {
        while let Some(first) = self.waiting.recv().await {
            if let Err(reason) = self.stream(first).await {
                debug!(self.logger, "no line to the deadlock detector"; "reason" => reason);
                tokio::time::sleep(PAUSE).await;
                while self.waiting.try_recv().is_ok() {}
            }
        }
    }

    /// Sends until the stream breaks, or nobody is left.
    async fn stream(&mut self, first: DeadlockRequest) -> Result<(), String> {
        let mut client = self.connect().await?;
        let (requests, outgoing) = mpsc::channel(WORDS_MAX);
        let _ = requests.try_send(first);
        let answers = client.detect(ReceiverStream::new(outgoing)).await;
        let mut answers = answers.map_err(|status| shown(&status))?.into_inner();
        loop {
            tokio::select! {
                answer = answers.message() => match answer.map_err(|status| shown(&status))? {
                    None => return Err("the detector has closed it".to_string()),
                    Some(answer) => self.watched.answered(&answer),
                },
                request = self.waiting.recv() => match request {
                    None => return Ok(()),
                    // A full stream is a slow one: what is dropped is told again.
                    Some(request) => drop(requests.try_send(request)),
                },
            }
        }
    }

    async fn connect(&self) -> Result<DeadlockClient<Channel>, String> {
        let found = self.scheduler.region(b"").await.map_err(|failure| failure.to_string())?;
        let leader = found.leader.ok_or("the first region has no leader")?.store();
        // A store that has moved must not be looked for where it was.
        self.resolver.forget(leader);
        let address = self.resolver.address(leader).await.map_err(|failure| failure.to_string())?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|error| error.to_string())?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .tcp_nodelay(true);
        let channel = endpoint.connect().await.map_err(|error| error.to_string())?;
        Ok(DeadlockClient::new(channel))
    }
}
