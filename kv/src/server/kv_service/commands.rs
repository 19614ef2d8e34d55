//! Which command of a stream is which call: one table, and how a call's end becomes an answer inside a stream.
//!
//! Outside of a stream a call can end with a gRPC status. Inside, a status would end the stream, with all commands
//! under way on it. So each status becomes the region error that makes clients do what the status would:
//!
//! | status | of | region error | the client |
//! | --- | --- | --- | --- |
//! | UNKNOWN, DEADLINE_EXCEEDED | a write | `undetermined_result` | does not repeat it: it may have happened |
//! | DEADLINE_EXCEEDED | a read | `server_is_busy` | asks again, perhaps elsewhere |
//! | UNIMPLEMENTED | any | none: an answer without anything | knows that the command does not exist here |
//! | any other | any | only a message | looks the region up and asks again |
//!
//! **Invariant.** What may have happened is never answered by an error that clients repeat the command on.

use std::time::Duration;

use skerry_proto::errorpb;
use skerry_proto::kvrpcpb::*;
use skerry_proto::tikvpb::BatchCommandsEmptyResponse;
use skerry_proto::tikvpb::batch_commands_request::request::Cmd as Command;
use skerry_proto::tikvpb::batch_commands_response::Response;
use skerry_proto::tikvpb::batch_commands_response::response::Cmd as Answer;
use skerry_proto::tikvpb::tikv_server::Tikv;
use skerry_raftstore::time::{Clock, SystemClock};
use tonic::{Code, Request, Status};

use super::{KvService, Reply};

/// The longest wait that a client may ask for by the command that does nothing.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// Whether a command that was not answered may have changed something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No.
    Read,
    /// Yes.
    Write,
}

/// Makes [`run`] of lines: command, whether it writes, its name outside of a stream, its method, its answer.
macro_rules! table {
    ($($command:ident $kind:ident $name:literal $method:ident $answer:ident;)*) => {
        /// Runs one command to its answer.
        pub(super) async fn run(service: &KvService, command: Command) -> Response {
            let begun = SystemClock.monotonic();
            let (name, code, cmd) = match command {
                $(Command::$command(request) => {
                    let answered = service.$method(Request::new(*request)).await;
                    let refused = |error| {
                        $answer { region_error: Some(error), ..Default::default() }
                    };
                    let (code, answer) = told(answered, Kind::$kind, refused);
                    ($name, code, answer.map(Answer::$command))
                })*
                Command::BroadcastTxnStatus(request) => {
                    let answered = service.broadcast_txn_status(Request::new(*request)).await;
                    let answer = answered.map(|answer| answer.into_inner()).unwrap_or_default();
                    ("BroadcastTxnStatus", Code::Ok, Some(Answer::BroadcastTxnStatus(answer)))
                }
                Command::Empty(request) => {
                    let delay = Duration::from_millis(request.delay_time).min(DELAY_MAX);
                    if !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                    let answer = BatchCommandsEmptyResponse { test_id: request.test_id };
                    ("Empty", Code::Ok, Some(Answer::Empty(answer)))
                }
            };
            let duration = SystemClock.monotonic().saturating_sub(begun);
            service.home.metrics.rpc_answered(name, code_text(code), duration);
            Response { cmd }
        }
    };
}

table! {
    RawGet Read "RawGet" raw_get RawGetResponse;
    RawBatchGet Read "RawBatchGet" raw_batch_get RawBatchGetResponse;
    RawScan Read "RawScan" raw_scan RawScanResponse;
    RawBatchScan Read "RawBatchScan" raw_batch_scan RawBatchScanResponse;
    RawPut Write "RawPut" raw_put RawPutResponse;
    RawBatchPut Write "RawBatchPut" raw_batch_put RawBatchPutResponse;
    RawDelete Write "RawDelete" raw_delete RawDeleteResponse;
    RawBatchDelete Write "RawBatchDelete" raw_batch_delete RawBatchDeleteResponse;
    RawDeleteRange Write "RawDeleteRange" raw_delete_range RawDeleteRangeResponse;
    Get Read "KvGet" kv_get GetResponse;
    BatchGet Read "KvBatchGet" kv_batch_get BatchGetResponse;
    Scan Read "KvScan" kv_scan ScanResponse;
    ScanLock Read "KvScanLock" kv_scan_lock ScanLockResponse;
    Prewrite Write "KvPrewrite" kv_prewrite PrewriteResponse;
    Commit Write "KvCommit" kv_commit CommitResponse;
    Cleanup Write "KvCleanup" kv_cleanup CleanupResponse;
    BatchRollback Write "KvBatchRollback" kv_batch_rollback BatchRollbackResponse;
    ResolveLock Write "KvResolveLock" kv_resolve_lock ResolveLockResponse;
    Gc Write "KvGC" kv_gc GcResponse;
    DeleteRange Write "KvDeleteRange" kv_delete_range DeleteRangeResponse;
    PessimisticLock Write "KvPessimisticLock" kv_pessimistic_lock PessimisticLockResponse;
    PessimisticRollback Write "KVPessimisticRollback" kv_pessimistic_rollback PessimisticRollbackResponse;
    CheckTxnStatus Write "KvCheckTxnStatus" kv_check_txn_status CheckTxnStatusResponse;
    CheckSecondaryLocks Write "KvCheckSecondaryLocks" kv_check_secondary_locks CheckSecondaryLocksResponse;
    TxnHeartBeat Write "KvTxnHeartBeat" kv_txn_heart_beat TxnHeartBeatResponse;
    GetHealthFeedback Read "GetHealthFeedback" get_health_feedback GetHealthFeedbackResponse;
}

/// What a call has ended with, and its answer inside a stream.
fn told<R>(
    answered: Reply<R>,
    kind: Kind,
    refused: impl FnOnce(errorpb::Error) -> R,
) -> (Code, Option<R>) {
    match answered {
        Ok(response) => (Code::Ok, Some(response.into_inner())),
        Err(status) if status.code() == Code::Unimplemented => (Code::Unimplemented, None),
        Err(status) => (status.code(), Some(refused(region_error(kind, &status)))),
    }
}

fn region_error(kind: Kind, status: &Status) -> errorpb::Error {
    let message = status.message().to_string();
    let mut error = errorpb::Error { message: message.clone(), ..Default::default() };
    match (kind, status.code()) {
        (Kind::Write, Code::Unknown | Code::DeadlineExceeded) => {
            error.undetermined_result = Some(errorpb::UndeterminedResult { message });
        }
        (Kind::Read, Code::DeadlineExceeded) => {
            // The words by which clients know it.
            let reason = "deadline is exceeded".to_string();
            error.server_is_busy = Some(errorpb::ServerIsBusy { reason, ..Default::default() });
        }
        _ => {}
    }
    error
}

/// The code as the header of an answer outside of a stream writes it.
fn code_text(code: Code) -> &'static str {
    match code {
        Code::Ok => "0",
        Code::Unknown => "2",
        Code::InvalidArgument => "3",
        Code::DeadlineExceeded => "4",
        Code::Unimplemented => "12",
        Code::Unavailable => "14",
        Code::DataLoss => "15",
        _ => "13",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_happened_is_never_repeated() {
        let late = Status::deadline_exceeded("late");
        let lost = Status::unknown("nobody knows");
        for status in [&late, &lost] {
            assert!(region_error(Kind::Write, status).undetermined_result.is_some());
            assert!(region_error(Kind::Read, status).undetermined_result.is_none());
        }
        let busy = region_error(Kind::Read, &late).server_is_busy.expect("asked again");
        assert_eq!(busy.reason, "deadline is exceeded");
        let stopping = region_error(Kind::Write, &Status::unavailable("stopping"));
        let only_words = errorpb::Error { message: "stopping".into(), ..Default::default() };
        assert_eq!(stopping, only_words);
    }
}
