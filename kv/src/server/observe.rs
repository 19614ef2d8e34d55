//! Measures every request at the edge of the gRPC server: a count by method and status, a duration.
//!
//! The status is read from the header of the answer, where a failed unary call carries it; a stream
//! that fails after it began counts as begun well. Methods that no service has are counted as `other`,
//! so that a client cannot fill the page with names.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Request, Response};
use skerry_raftstore::time::{Clock, SystemClock};
use tower::{Layer, Service};

use crate::metrics::Metrics;

/// gRPC's number for a method or service that the server has not.
const UNIMPLEMENTED: &str = "12";

/// Puts [`ObserveService`] before every service of a server.
#[derive(Clone)]
pub struct ObserveLayer {
    metrics: Arc<Metrics>,
}

impl ObserveLayer {
    /// Counts into `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> ObserveLayer {
        ObserveLayer { metrics }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = ObserveService<S>;

    fn layer(&self, inner: S) -> ObserveService<S> {
        ObserveService { inner, metrics: Arc::clone(&self.metrics) }
    }
}

/// Counts what `inner` answers.
#[derive(Clone)]
pub struct ObserveService<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S, A, B> Service<Request<A>> for ObserveService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let begun = SystemClock.monotonic();
        // Cheap to clone: the path is a shared buffer. Only its last part, the method, is looked at.
        let uri = request.uri().clone();
        let metrics = Arc::clone(&self.metrics);
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            let code = response.headers().get("grpc-status").map_or("0", |value| {
                // Numbers only; anything else would be a bug of the server.
                value.to_str().unwrap_or("2")
            });
            let method = uri.path().rsplit('/').next().unwrap_or_default();
            let method = if code == UNIMPLEMENTED { "other" } else { method };
            let duration = SystemClock.monotonic().saturating_sub(begun);
            metrics.rpc_answered(method, code, duration);
            Ok(response)
        })
    }
}
