//! A socket that ends itself when the client stays silent where it should speak, or deaf where it should listen.

use super::Limits;
use futures::task::AtomicWaker;
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

/// Written by the socket itself, because no request exists yet that a handler could answer.
const HEAD_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
/// What a client may still send after our last byte, so that a close does not overtake that byte.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// What a connection is doing, as its handler knows it.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    /// Odd while a request is in progress; changes with each beginning and end.
    turn: AtomicU32,
    /// When the last request ended, milliseconds after `started`.
    ended_ms: AtomicU64,
    body_awaited: AtomicBool,
    /// Set once the client was given up: the connection only waits for the answer to be written.
    closing: AtomicBool,
    /// The connection, where something it must look at changes while its socket is silent.
    watcher: AtomicWaker,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            turn: AtomicU32::new(0),
            ended_ms: AtomicU64::new(0),
            body_awaited: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            watcher: AtomicWaker::new(),
        }
    }

    pub(super) fn begin(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        let ended = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.ended_ms.store(ended, Ordering::Relaxed);
        self.turn.fetch_add(1, Ordering::SeqCst);
        if self.closing.load(Ordering::SeqCst) {
            self.watcher.wake();
        }
    }

    pub(super) fn await_body(&self, awaited: bool) {
        // Only the first wait may find the connection asleep without a limit on it.
        if self.body_awaited.swap(awaited, Ordering::SeqCst) != awaited && awaited {
            self.watcher.wake();
        }
    }

    fn ended(&self) -> Instant {
        self.started + Duration::from_millis(self.ended_ms.load(Ordering::Relaxed))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// For the first byte of a request.
    Request,
    /// For the rest of a head.
    Head,
    /// For more of a body.
    Body,
    /// For our own handler.
    Nothing,
}

#[derive(Debug)]
pub(super) struct TimedIo {
    stream: TcpStream,
    progress: Arc<Progress>,
    limits: Limits,
    turn: u32,
    waiting: Waiting,
    read_deadline: Instant,
    /// Armed once and moved only when it fires too early: a request costs no timer of its own.
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    lingering: Option<usize>,
    received: bool,
}

impl TimedIo {
    pub(super) fn new(stream: TcpStream, progress: Arc<Progress>, limits: Limits) -> Self {
        Self {
            stream,
            progress,
            limits,
            turn: 0,
            waiting: Waiting::Head,
            read_deadline: Instant::now() + limits.head,
            read_timer: None,
            write_timer: None,
            lingering: None,
            received: false,
        }
    }

    fn wait_for(&mut self, waiting: Waiting) {
        if self.waiting != waiting {
            self.waiting = waiting;
            self.restart();
        }
    }

    fn restart(&mut self) {
        let limit = match self.waiting {
            Waiting::Head => self.limits.head,
            Waiting::Body => self.limits.body_stall,
            // Not a limit on our handler, only the next look at what it does: hyper does not read again when it has finished.
            Waiting::Request | Waiting::Nothing => self.limits.idle,
        };
        self.read_deadline = Instant::now() + limit;
    }

    fn received(&mut self) {
        self.received = true;
        let turn = self.progress.turn.load(Ordering::Relaxed);
        if turn % 2 == 1 {
            self.restart();
        } else if turn != self.turn || self.waiting != Waiting::Head {
            self.turn = turn;
            self.waiting = Waiting::Head;
            self.restart();
        }
    }

    fn observe(&mut self, cx: &Context<'_>) {
        let turn = self.progress.turn.load(Ordering::Relaxed);
        if turn % 2 == 1 {
            self.progress.watcher.register(cx.waker());
            let awaited = self.progress.body_awaited.load(Ordering::SeqCst);
            self.wait_for(if awaited { Waiting::Body } else { Waiting::Nothing });
        } else if turn != self.turn {
            self.turn = turn;
            self.waiting = Waiting::Request;
            self.read_deadline = self.progress.ended() + self.limits.idle;
        }
    }

    /// Nothing to read: pending, or an error once the client has been silent for too long.
    fn silent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.progress.closing.load(Ordering::Relaxed) {
            return self.await_answer(cx);
        }
        loop {
            self.observe(cx);
            let deadline = self.read_deadline;
            let timer = self.read_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            std::task::ready!(timer.as_mut().poll(cx));
            if Instant::now() < deadline {
                timer.as_mut().reset(deadline);
            } else if self.waiting == Waiting::Nothing {
                self.restart();
            } else {
                return Poll::Ready(Err(self.timed_out()));
            }
        }
    }

    /// After a stalled body: the handler says 408, then the connection ends.
    fn await_answer(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.progress.watcher.register(cx.waker());
        if self.progress.turn.load(Ordering::SeqCst) % 2 == 1 { Poll::Pending } else { Poll::Ready(Err(silence())) }
    }

    fn timed_out(&mut self) -> io::Error {
        self.read_timer = None;
        self.progress.closing.store(true, Ordering::SeqCst);
        if self.waiting == Waiting::Head && self.received {
            // Best effort: the send buffer of a client that has no answer outstanding has room for this.
            let _ = self.stream.try_write(HEAD_TIMEOUT);
        }
        silence()
    }

    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_ready() {
            self.write_timer = None;
            return result;
        }
        let limit = self.limits.write_stall;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answer"))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads on for a moment: closing a socket with unread bytes would destroy the answer on its way.
    fn poll_linger(&mut self, cx: &mut Context<'_>, mut left: usize) -> Poll<()> {
        let mut scratch = [0; 16 * 1024];
        loop {
            let timer = self.read_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    self.lingering = Some(left);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && left > buffer.filled().len() => left -= buffer.filled().len(),
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    }
}

fn silence() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client stayed silent for too long")
}

impl AsyncRead for TimedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending => self.silent(cx),
            Poll::Ready(result) => {
                if buffer.filled().len() > before {
                    self.received();
                }
                Poll::Ready(result)
            }
        }
    }
}

impl AsyncWrite for TimedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, result)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let left = if let Some(left) = self.lingering {
            left
        } else {
            std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.read_timer = None;
            LINGER_BYTES
        };
        self.poll_linger(cx, left).map(Ok)
    }
}
