//! `deadlock.Deadlock`: the detector's end of the streams on which stores tell who waits for whom
//! ([`crate::txn::deadlock`]).
//!
//! Every store serves it, and is the detector for as long as it leads the region of the empty key. One that does not
//! refuses and forgets what it knew: its successor hears it anew.

use std::sync::{Arc, Mutex, MutexGuard};

use skerry_proto::deadlock::deadlock_server::Deadlock;
use skerry_proto::deadlock::{
    DeadlockRequest, DeadlockResponse, WaitForEntriesRequest, WaitForEntriesResponse,
};
use skerry_raftstore::time::{Clock, SystemClock};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::txn::deadlock::Detector;

/// Circles that may wait for a store to take them.
const ANSWERS_MAX: usize = 1_024;

/// Whether this store is the detector now.
pub type IsDetector = Arc<dyn Fn() -> bool + Send + Sync>;

/// Serves the streams. Clones share everything.
#[derive(Clone)]
pub struct DeadlockService {
    /// Nothing is awaited under it.
    detector: Arc<Mutex<Detector>>,
    is_detector: IsDetector,
    /// True when this store stops.
    stopping: watch::Receiver<bool>,
}

impl DeadlockService {
    /// Knows of no waits yet. Streams end when this store is `stopping`.
    pub fn new(is_detector: IsDetector, stopping: watch::Receiver<bool>) -> DeadlockService {
        DeadlockService { detector: Arc::default(), is_detector, stopping }
    }

    /// The graph, if it is kept here.
    fn detector(&self) -> Result<MutexGuard<'_, Detector>, Status> {
        let mut detector = self.detector.lock().expect("nothing panics while it holds this lock");
        if (self.is_detector)() {
            return Ok(detector);
        }
        detector.clear();
        Err(Status::failed_precondition("this store does not lead the region of the empty key"))
    }

    /// The answer to one message, if there is one.
    fn take(&self, request: DeadlockRequest) -> Result<Option<DeadlockResponse>, Status> {
        Ok(self.detector()?.take(request, SystemClock.monotonic()))
    }
}

#[tonic::async_trait]
impl Deadlock for DeadlockService {
    async fn get_wait_for_entries(
        &self,
        _: Request<WaitForEntriesRequest>,
    ) -> Result<Response<WaitForEntriesResponse>, Status> {
        let entries = self.detector()?.entries(SystemClock.monotonic());
        Ok(Response::new(WaitForEntriesResponse { entries }))
    }

    async fn detect(
        &self,
        request: Request<Streaming<DeadlockRequest>>,
    ) -> Result<Response<BoxStream<DeadlockResponse>>, Status> {
        // A store that asks the wrong one shall know at once.
        drop(self.detector()?);
        let (service, mut requests) = (self.clone(), request.into_inner());
        let mut stopping = self.stopping.clone();
        let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(async move {
            loop {
                let request = tokio::select! {
                    request = requests.message() => request,
                    // An error means that the node is gone.
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                };
                let Ok(Some(request)) = request else { return };
                let answer = match service.take(request) {
                    Ok(None) => continue,
                    Ok(Some(answer)) => Ok(answer),
                    Err(status) => Err(status),
                };
                let is_over = answer.is_err();
                // A store that does not take its answers tells of the same waits again.
                let _ = answers.try_send(answer);
                if is_over {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}
