//! The accept loop: one task per connection, with limits that a slow or silent client cannot outlast, and a graceful end.

mod layers;
mod matched_route;
mod route_metrics;
mod timed_io;

pub use layers::standard_layers;
pub use matched_route::report_route;

use axum::{Router, body::Body};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::Service as HyperService,
};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    error::Error as StdError,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use thiserror::Error;
use timed_io::{Progress, TimedIo};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;

/// Room for one head, bytes. Above what [`standard_layers`] accepts, so that most refusals are answered as problems;
/// only larger heads are refused by the parser itself.
const HEAD_BUFFER: usize = 128 * 1024;
/// How long [`serve`] answers from the beginning of a shutdown on, while connections are open.
pub const FAREWELL: Duration = Duration::from_millis(500);
/// How soon it is seen that the last connection has gone; and what a request may need from a connection that was just accepted.
const FAREWELL_LOOK: Duration = Duration::from_millis(10);

/// What a connection may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first byte of a request (or the start of the connection) to the end of its head: else 408 and close.
    pub head: Duration,
    /// Between two requests: then close.
    pub idle: Duration,
    /// Without a further byte of a body that is being read: 408 and close.
    pub body_stall: Duration,
    /// Without a byte of the answer being taken: close.
    pub write_stall: Duration,
    /// From the beginning of a shutdown on, while connections are open: requests are still answered, each as the last one of its
    /// connection, so that no client has one under way on a connection that ends.
    pub farewell: Duration,
    /// After that, for the requests in progress.
    pub drain: Duration,
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(5),
            idle: Duration::from_secs(60),
            body_stall: Duration::from_secs(10),
            write_stall: Duration::from_secs(30),
            farewell: FAREWELL,
            drain: Duration::from_secs(10),
            connections: 10_000,
        }
    }
}

/// A body of which nothing more arrived for too long.
#[derive(Debug, Error)]
#[error("the body stalled")]
pub struct BodyStalled;

/// Serves until shutdown, then finishes the requests in progress.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    serve_with(listener, router, shutdown, Limits::default()).await
}

/// As [`serve`], with other limits.
pub async fn serve_with(listener: TcpListener, router: Router, shutdown: CancellationToken, limits: Limits) -> io::Result<()> {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(limits.connections));
    let [ending, abort] = [CancellationToken::new(), CancellationToken::new()];
    let attend = |accepted: Option<(TcpStream, OwnedSemaphorePermit)>| {
        let Some((stream, slot)) = accepted else { return };
        let connection = connection(stream, router.clone(), (shutdown.clone(), ending.clone()), limits);
        let abort = abort.clone();
        connections.spawn(async move {
            let _slot = slot;
            tokio::select! {
                () = abort.cancelled() => {}
                () = connection => {}
            }
        });
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &slots) => attend(accepted),
        }
    }
    let end = Instant::now() + limits.farewell;
    while !connections.is_empty() && Instant::now() < end {
        tokio::select! {
            () = sleep(FAREWELL_LOOK) => {}
            accepted = accept(&listener, &slots) => attend(accepted),
        }
    }
    // Who connected a moment ago may have sent a request already.
    while let Some(accepted) = accept(&listener, &slots).now_or_never() {
        attend(accepted);
    }
    drop(listener);
    connections.close();
    // Or is about to send one.
    let _all_gone = tokio::time::timeout(FAREWELL_LOOK, connections.wait()).await;
    ending.cancel();
    if tokio::time::timeout(limits.drain, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests were cut off because they outlasted the drain deadline");
        abort.cancel();
        connections.wait().await;
    }
    Ok(())
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, slot)),
        Err(error) => {
            // Out of file descriptors, or the client left already: neither is cured by trying again at once.
            tracing::warn!(%error, "a connection was not accepted");
            sleep(Duration::from_millis(20)).await;
            None
        }
    }
}

/// From `shutdown` on each answer is the connection's last one, with `ending` it ends also where nothing is asked.
async fn connection(stream: TcpStream, router: Router, (shutdown, ending): (CancellationToken, CancellationToken), limits: Limits) {
    let _ = stream.set_nodelay(true);
    let progress = Arc::new(Progress::new());
    let io = TokioIo::new(TimedIo::new(stream, Arc::clone(&progress), limits));
    let mut http = http1::Builder::new();
    // The limits on time are TimedIo's: hyper's own would not answer 408 and would cut idle connections at the head's limit.
    http.header_read_timeout(None).max_buf_size(HEAD_BUFFER);
    let mut connection = pin!(http.serve_connection(io, Handler { router, progress, shutdown }));
    let ended = tokio::select! {
        // A request that is there already is read before the connection ends.
        biased;
        ended = connection.as_mut() => ended,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The router as hyper's service, telling the connection's clock when a request runs and when its body is awaited.
struct Handler {
    router: Router,
    progress: Arc<Progress>,
    shutdown: CancellationToken,
}

impl HyperService<Request<Incoming>> for Handler {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Handling<<Router as Service<Request<Body>>>::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.progress.begin();
        let running = Running(Arc::clone(&self.progress));
        let progress = Arc::clone(&self.progress);
        let request = request.map(|body| if body.is_end_stream() { Body::empty() } else { Body::new(Awaited { body, progress }) });
        Handling { answer: self.router.clone().call(request), running: Some(running), shutdown: self.shutdown.clone() }
    }
}

/// A request in progress, up to the end of its answer.
struct Running(Arc<Progress>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end();
    }
}

struct Handling<F> {
    answer: F,
    running: Option<Running>,
    shutdown: CancellationToken,
}

impl<F: Future<Output = Result<Response<Body>, Infallible>> + Unpin> Future for Handling<F> {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut answer) = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        let running = self.running.take();
        if self.shutdown.is_cancelled() {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(answer.map(|body| Answer { body, _running: running })))
    }
}

/// The body of an answer.
struct Answer {
    body: Body,
    _running: Option<Running>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request: while somebody waits for it the connection may not stay silent.
struct Awaited {
    body: Incoming,
    progress: Arc<Progress>,
}

impl HttpBody for Awaited {
    type Data = Bytes;
    type Error = Box<dyn StdError + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.progress.await_body(frame.is_pending());
        frame.map_err(|error| if timed_out(&error) { BodyStalled.into() } else { error.into() })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.progress.await_body(false);
    }
}

fn timed_out(error: &hyper::Error) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// Reads an answer's body, for those who change answers on their way out.
pub(crate) async fn small_text(body: Body) -> String {
    let Ok(collected) = body.collect().await else { return String::new() };
    String::from_utf8_lossy(&collected.to_bytes()).into_owned()
}

#[cfg(test)]
mod tests;
