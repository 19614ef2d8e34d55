//! One call from its arrival to its reply: how long it may take, its permit, and the form of its
//! errors.
//!
//! The time a call may take is the least of what its gRPC deadline leaves, what its context says,
//! and [`BUDGET_MAX`]. What running out of it means depends on how far the call is:
//!
//! * a write that still waits, for its permit, for latches, for a view or for the scheduler, has
//!   certainly not happened: `ServerIsBusy`;
//! * a write that was given to the storage may happen: DEADLINE_EXCEEDED, whose outcome is unknown
//!   to the client;
//! * a read has changed nothing: DEADLINE_EXCEEDED. Its work ends at its next slice.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::{errorpb, kvrpcpb};
use skerry_raftstore::time::{Clock as _, SystemClock};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::error::{Error, Leaving};
use crate::storage::{HandedOver, Permit, Permits, RequestContext};
use crate::txn;

/// Longest life of a call whose client set no deadline, so that a stuck disk does not gather calls
/// for ever.
const BUDGET_MAX: Duration = Duration::from_secs(60);

/// A call under way.
pub(super) struct Call {
    /// The region it is for, and what the client believes of it.
    pub(super) context: RequestContext,
    /// When its client has gone, or soon will be; on the system's clock.
    end: Duration,
}

/// A call that did not succeed.
pub(super) enum Refused<E = Error> {
    /// An error with one of the forms that replies have.
    Error(E),
    /// The time was up.
    Late(&'static str),
}

impl<E> From<E> for Refused<E> {
    fn from(error: E) -> Refused<E> {
        Refused::Error(error)
    }
}

impl Call {
    /// Separates what all requests have from what this one asks. A request without a context is for
    /// no store and is refused as such; one that names another cluster than this one (0: any) here.
    pub(super) fn open<T>(
        cluster_id: u64,
        request: Request<T>,
        context_of: impl FnOnce(&T) -> &Option<kvrpcpb::Context>,
    ) -> std::result::Result<(Call, T), Status> {
        let from_client = grpc_timeout(request.metadata());
        let request = request.into_inner();
        let none = kvrpcpb::Context::default();
        let wire = context_of(&request).as_ref().unwrap_or(&none);
        let named = wire.cluster_id;
        if named != 0 && cluster_id != 0 && named != cluster_id {
            let reason = format!("the request is for cluster {named}, this is {cluster_id}");
            return Err(Status::invalid_argument(reason));
        }
        let end = SystemClock.monotonic() + budget(from_client, wire.max_execution_duration_ms);
        Ok((Call { context: RequestContext::from(wire), end }, request))
    }

    /// How long a call may wait that wants to wait for so long.
    pub(super) fn at_most(&self, wanted: Duration) -> Duration {
        wanted.min(self.left())
    }

    /// Of its time.
    fn left(&self) -> Duration {
        self.end.saturating_sub(SystemClock.monotonic())
    }

    /// Runs a read.
    pub(super) async fn read<T, E>(
        &self,
        read: impl Future<Output = std::result::Result<T, E>>,
    ) -> std::result::Result<T, Refused<E>> {
        match tokio::time::timeout(self.left(), read).await {
            Ok(result) => result.map_err(Refused::Error),
            Err(_elapsed) => Err(Refused::Late("the deadline passed before the read was done")),
        }
    }

    /// Waits for room for a write of `bytes`, then runs it.
    pub(super) async fn write<T, E, F>(
        &self,
        permits: &Arc<Permits>,
        bytes: usize,
        write: impl FnOnce(Permit) -> F,
    ) -> std::result::Result<T, Refused<E>>
    where
        F: Future<Output = std::result::Result<T, E>>,
        E: From<Error>,
    {
        let mut deadline = pin!(tokio::time::sleep(self.left()));
        let permit = tokio::select! {
            biased;
            permit = permits.acquire(bytes) => permit,
            () = &mut deadline => {
                let error = Error::ServerIsBusy("no room for the write until its deadline");
                return Err(Refused::Error(error.into()));
            }
        };
        let handed_over = HandedOver::default();
        tokio::select! {
            biased;
            result = write(permit.telling(&handed_over)) => result.map_err(Refused::Error),
            () = &mut deadline => Err(match handed_over.is_true() {
                true => Refused::Late("the deadline passed during the write: its outcome is unknown"),
                false => {
                    let error = Error::ServerIsBusy("the deadline passed before the write began");
                    Refused::Error(error.into())
                }
            }),
        }
    }
}

/// The reply of a call: `done` forms it from a value, `refused` from a region error or a text.
pub(super) fn finish<T, R>(
    result: std::result::Result<T, Refused>,
    done: impl FnOnce(T) -> R,
    refused: impl FnOnce(Option<errorpb::Error>, String) -> R,
) -> std::result::Result<Response<R>, Status> {
    let error = match result {
        Ok(value) => return Ok(Response::new(done(value))),
        Err(Refused::Late(reason)) => return Err(Status::deadline_exceeded(reason)),
        Err(Refused::Error(error)) => error,
    };
    match error.leaving() {
        Leaving::Region(region_error) => {
            Ok(Response::new(refused(Some(*region_error), String::new())))
        }
        Leaving::Text(text) => Ok(Response::new(refused(None, text))),
        Leaving::Unknown(text) => Err(Status::unknown(text)),
        Leaving::Unavailable(text) => Err(Status::unavailable(text)),
        Leaving::Damaged(text) => Err(Status::data_loss(text)),
    }
}

/// As [`finish`], for replies that have a form for what is about keys; a text takes the form of *never*.
pub(super) fn finish_about_keys<T, R>(
    result: std::result::Result<T, Refused<txn::Error>>,
    done: impl FnOnce(T) -> R,
    refused: impl FnOnce(Option<errorpb::Error>, Option<kvrpcpb::KeyError>) -> R,
) -> std::result::Result<Response<R>, Status> {
    let result = match result {
        Ok(value) => Ok(value),
        Err(Refused::Late(reason)) => Err(Refused::Late(reason)),
        Err(Refused::Error(txn::Error::Other(error))) => Err(Refused::Error(*error)),
        Err(Refused::Error(about_key)) => {
            let error = about_key.to_wire().expect("only the variant above has no such form");
            return Ok(Response::new(refused(None, Some(error))));
        }
    };
    finish(result, done, |region_error, text| {
        let never = || kvrpcpb::KeyError { abort: text, ..Default::default() };
        let error = region_error.is_none().then(never);
        refused(region_error, error)
    })
}

/// How long a call may take. A tenth of the client's time is kept for the way back: an answer that
/// says what happened is worth more than the client's own timeout.
fn budget(from_client: Option<Duration>, max_execution_duration_ms: u64) -> Duration {
    let execution =
        (max_execution_duration_ms > 0).then(|| Duration::from_millis(max_execution_duration_ms));
    let from_client = from_client.map(|timeout| timeout / 10 * 9);
    [from_client, execution].into_iter().flatten().fold(BUDGET_MAX, Duration::min)
}

/// The header `grpc-timeout`: at most eight digits and a unit. Anything else is no deadline.
fn grpc_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_all_limits_counts() {
        let second = Duration::from_secs(1);
        assert_eq!(budget(None, 0), BUDGET_MAX);
        assert_eq!(budget(Some(2 * second), 0), Duration::from_millis(1_800));
        assert_eq!(budget(Some(2 * second), 100), Duration::from_millis(100));
        assert_eq!(budget(Some(1_000 * second), 3_600_000), BUDGET_MAX);
    }

    #[test]
    fn deadlines_are_read_as_clients_write_them() {
        let parse = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("a header value"));
            grpc_timeout(&metadata)
        };
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse("1999999u"), Some(Duration::from_micros(1_999_999)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for text in ["", "S", "2", "2s", "-1S", "123456789S", "1.5S"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(grpc_timeout(&MetadataMap::new()), None);
    }
}
