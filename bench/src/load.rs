//! The load: keep-alive connections over hyper, closed loop or at a fixed rate.
//!
//! At a fixed rate latency counts from the moment at which a request was due, not from when a busy connection got to it: a server that
//! stalls is charged for everybody who would have waited.

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    sync::{Mutex, mpsc},
    task::{JoinSet, LocalSet},
};

/// Longest wait for one answer; then the leg fails.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Where this stands in a body, the number of the request is written instead, so that no two requests are the same.
pub const STAMP: &str = "############";

/// One request, ready to send.
#[derive(Clone)]
pub struct Prepared {
    uri: Uri,
    api_key: HeaderValue,
    body: Bytes,
    /// Places of [`STAMP`] in the body.
    stamps: Vec<usize>,
    keyed: bool,
}

impl Prepared {
    pub fn new(path: &'static str, api_key: &str, body: String) -> Result<Self> {
        let stamps = body.match_indices(STAMP).map(|(place, _)| place).collect();
        let api_key = HeaderValue::from_str(api_key)?;
        Ok(Self { uri: Uri::from_static(path), api_key, body: body.into(), stamps, keyed: false })
    }

    /// With an idempotency key of its own each time.
    pub fn keyed(self) -> Self {
        Self { keyed: true, ..self }
    }

    /// The same request to another path.
    pub fn to(&self, path: &'static str) -> Self {
        Self { uri: Uri::from_static(path), ..self.clone() }
    }

    fn body(&self, number: usize) -> Bytes {
        if self.stamps.is_empty() {
            return self.body.clone();
        }
        let stamp = format!("{number:0width$}", width = STAMP.len());
        let mut body = BytesMut::from(self.body.as_ref());
        for place in &self.stamps {
            body[*place..place + STAMP.len()].copy_from_slice(stamp.as_bytes());
        }
        body.freeze()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each connection sends as soon as it was answered.
    Closed,
    /// Requests per second over all connections.
    Rate(f64),
}

pub struct Leg {
    pub address: SocketAddr,
    pub connections: usize,
    pub pace: Pace,
    pub warm_up: Duration,
    pub measured: Duration,
}

/// What came of a leg.
pub struct Outcome {
    pub answered: u64,
    /// Answers other than 200.
    pub refused: u64,
    pub latencies: Histogram<u64>,
}

/// What all connections of a leg share. One thread, so plain cells do.
struct Shared {
    prepared: Rc<Vec<Prepared>>,
    next: Rc<Cell<usize>>,
    run: String,
    begin: Instant,
    end: Instant,
    due: Option<Arc<Mutex<mpsc::UnboundedReceiver<Instant>>>>,
}

/// Sends the prepared requests in turn until the time is over.
///
/// `next` goes on from leg to leg: every request has an idempotency key of its own.
///
/// # Errors
/// When a connection breaks or an answer takes longer than 30 s: such a leg has no figures.
pub async fn run(leg: &Leg, prepared: &Rc<Vec<Prepared>>, next: &Rc<Cell<usize>>, run: &str) -> Result<Outcome> {
    let start = Instant::now();
    let begin = start + leg.warm_up;
    let end = begin + leg.measured;
    let due = match leg.pace {
        Pace::Closed => None,
        Pace::Rate(rate) => Some(Arc::new(Mutex::new(metronome(rate, start, end)))),
    };
    let shared = Rc::new(Shared { prepared: Rc::clone(prepared), next: Rc::clone(next), run: run.to_owned(), begin, end, due });
    let local = LocalSet::new();
    let mut clients = JoinSet::new();
    for _ in 0..leg.connections {
        clients.spawn_local_on(client(leg.address, Rc::clone(&shared)), &local);
    }
    local
        .run_until(async {
            let mut outcome = Outcome { answered: 0, refused: 0, latencies: histogram()? };
            while let Some(done) = clients.join_next().await {
                let done = done??;
                outcome.answered += done.answered;
                outcome.refused += done.refused;
                outcome.latencies.add(&done.latencies)?;
            }
            Ok(outcome)
        })
        .await
}

/// 1 µs to 60 s with three digits.
pub fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

/// Says when each request is due. A thread of its own: its sleeps are exact to some 50 µs, those of the runtime to 1 ms.
fn metronome(rate: f64, start: Instant, end: Instant) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, due) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let mut beats: u32 = 0;
        loop {
            let at = start + Duration::from_secs_f64(f64::from(beats) / rate);
            if at >= end {
                return;
            }
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if sender.send(at).is_err() {
                return;
            }
            beats += 1;
        }
    });
    due
}

async fn client(address: SocketAddr, shared: Rc<Shared>) -> Result<Outcome> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    let mut outcome = Outcome { answered: 0, refused: 0, latencies: histogram()? };
    while let Some(due) = shared.next_due().await {
        let request = shared.request(address)?;
        let status = tokio::time::timeout(ANSWER_WITHIN, exchange(&mut sender, request)).await.context("an answer took over 30 s")??;
        let now = Instant::now();
        // In the closed loop what ends after the end is not counted, at a fixed rate everything that was due before it.
        let counted = due >= shared.begin && (shared.due.is_some() || now <= shared.end);
        if counted {
            outcome.answered += 1;
            outcome.refused += u64::from(status != StatusCode::OK);
            let micros = u64::try_from(now.duration_since(due).as_micros()).unwrap_or(u64::MAX);
            outcome.latencies.saturating_record(micros.max(1));
        }
    }
    Ok(outcome)
}

impl Shared {
    /// When the next request is (or was) due; `None` when the leg is over.
    async fn next_due(&self) -> Option<Instant> {
        match &self.due {
            Some(due) => due.lock().await.recv().await,
            None => Some(Instant::now()).filter(|now| *now < self.end),
        }
    }

    fn request(&self, address: SocketAddr) -> Result<Request<Full<Bytes>>> {
        let number = self.next.get();
        self.next.set(number + 1);
        let Some(prepared) = self.prepared.get(number % self.prepared.len().max(1)) else { bail!("no requests are prepared") };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(prepared.uri.clone())
            .header(header::HOST, address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-api-key", prepared.api_key.clone());
        if prepared.keyed {
            request = request.header("idempotency-key", format!("{}-{number}", self.run));
        }
        Ok(request.body(Full::new(prepared.body(number)))?)
    }
}

async fn exchange(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Result<StatusCode> {
    sender.ready().await?;
    let mut response = sender.send_request(request).await?;
    while let Some(frame) = response.frame().await {
        frame?;
    }
    Ok(response.status())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::{Response, server::conn::http1 as server, service::service_fn};
    use std::convert::Infallible;
    use tokio::net::TcpListener;

    /// Answers 200 after `pause`; the first request of the process after `stall`.
    async fn serve(pause: Duration, stall: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stalled = Arc::new(std::sync::atomic::AtomicBool::new(false));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            listener.set_ttl(64).unwrap();
            let listener = listener.into_std().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let stalled = Arc::clone(&stalled);
                    let service = service_fn(move |_| {
                        let first = !stalled.swap(true, std::sync::atomic::Ordering::Relaxed);
                        async move {
                            tokio::time::sleep(if first { stall } else { pause }).await;
                            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
                        }
                    });
                    tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
                }
            });
        });
        address
    }

    fn prepared() -> Rc<Vec<Prepared>> {
        Rc::new(vec![Prepared::new("/x", "k", "{}".to_owned()).unwrap().keyed()])
    }

    fn leg(address: SocketAddr, connections: usize, pace: Pace) -> Leg {
        Leg { address, connections, pace, warm_up: Duration::from_millis(0), measured: Duration::from_millis(600) }
    }

    #[test]
    fn stamps_become_the_number_of_the_request_and_nothing_else_changes() {
        let request = Prepared::new("/x", "k", format!("[{STAMP},\"#\",{STAMP}]")).unwrap();
        assert_eq!(request.body(42), "[000000000042,\"#\",000000000042]".as_bytes());
        assert_eq!(request.body(7).len(), request.body.len());
    }

    #[tokio::test]
    async fn a_closed_loop_counts_every_answer_of_every_connection() {
        let address = serve(Duration::from_millis(20), Duration::from_millis(20)).await;
        let next = Rc::new(Cell::new(0));
        let outcome = run(&leg(address, 4, Pace::Closed), &prepared(), &next, "t").await.unwrap();
        assert!((4..=4 * 30).contains(&outcome.answered), "{}", outcome.answered);
        assert_eq!((outcome.refused, outcome.latencies.len()), (0, outcome.answered));
        assert!(outcome.latencies.min() >= 19_000, "{}", outcome.latencies.min());
        assert!(next.get() >= usize::try_from(outcome.answered).unwrap());
    }

    #[tokio::test]
    async fn at_a_fixed_rate_a_stall_is_charged_to_everything_that_was_due_meanwhile() {
        let address = serve(Duration::ZERO, Duration::from_millis(300)).await;
        let outcome = run(&leg(address, 1, Pace::Rate(100.0)), &prepared(), &Rc::new(Cell::new(0)), "t").await.unwrap();
        assert_eq!(outcome.answered, 60);
        let slow = outcome.latencies.count_between(100_000, 60_000_000);
        // Some 20; on a busy machine more. Without the charge it is the first one alone.
        assert!(slow >= 10, "{slow} of the 30 requests due during the stall waited over 100 ms");
    }
}
