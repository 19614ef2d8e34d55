//! The rules of headers: who may ask, what every answer carries, and which errors are gRPC statuses.
//! Used by every method of both services.

use skerry_proto::pdpb::{Member, RequestHeader, ResponseHeader};
use skerry_raftstore::time::splitmix64;
use tonic::{Code, Response, Status};

use super::Shared;
use crate::{Error, Result};

/// What a method of the service answers with.
pub(super) type Reply<T> = std::result::Result<Response<T>, Status>;

/// The version on the wire whose behaviour we follow. Clients switch features on by it.
pub(crate) const COMPATIBLE_VERSION: &str = "8.5.5";

/// Refuses a request for another cluster, and one that names none.
pub(super) fn admit(
    shared: &Shared,
    header: Option<&RequestHeader>,
) -> std::result::Result<(), Status> {
    let own = shared.id.get();
    let asked = header.map_or(0, |header| header.cluster_id);
    if asked == own { Ok(()) } else { Err(status(&Error::WrongCluster { own, asked })) }
}

/// The header of a good answer.
pub(super) fn header(shared: &Shared) -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: shared.id.get(), error: None })
}

/// Makes an answer of `result`: `build` gets the header and, if all went well, the value.
pub(super) fn reply<T, R>(
    shared: &Shared,
    result: Result<T>,
    build: impl FnOnce(Option<ResponseHeader>, Option<T>) -> R,
) -> Reply<R> {
    let (error, value) = match result {
        Ok(value) => (None, Some(value)),
        Err(error) => (Some(error.to_header().ok_or_else(|| status(&error))?), None),
    };
    let header = ResponseHeader { cluster_id: shared.id.get(), error };
    Ok(Response::new(build(Some(header), value)))
}

/// An error for which there is no answer to put it into.
pub(super) fn status(error: &Error) -> Status {
    let code = match error {
        Error::WrongCluster { .. } => Code::FailedPrecondition,
        Error::Malformed(_) => Code::InvalidArgument,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// How an open stream learns that the server goes away.
pub(super) fn stopping() -> Status {
    Status::unavailable("the scheduler is stopping")
}

/// This process in lists of members.
pub(super) fn member(shared: &Shared, address: &str) -> Member {
    let url = format!("http://{address}");
    Member {
        name: shared.config.name.clone(),
        // Any number but 0 will do, as long as it stays the same.
        member_id: splitmix64(shared.id.get()).max(1),
        peer_urls: vec![url.clone()],
        client_urls: vec![url],
        binary_version: format!("v{COMPATIBLE_VERSION}"),
        ..Member::default()
    }
}
