//! The bytes of one connection, with time limits that hold wherever the peer stalls, and refusals in the form of the API where the library
//! answers by itself.
//!
//! A connection is in one of three states: waiting for a request (`idle_time`), receiving the head of one (`header_time`), serving (the request has its
//! own limit). The clock of the first two runs in here, since it must also count while nothing of a protocol is known yet, and while an answer is
//! not taken off us.
//!
//! Hyper answers what is no HTTP, and heads that are too large, before anybody else sees them, with an empty body. No answer of this server is
//! empty: such a head is exchanged for one with a body on its way out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::answer;

/// What a connection does now.
#[derive(Debug)]
enum Phase {
    Idle(Instant),
    Head(Instant),
    Serving(usize),
}

/// Shared by the bytes of a connection and those who serve its requests.
#[derive(Debug)]
pub(super) struct Pace {
    phase: Mutex<Phase>,
    header_time: Duration,
    idle_time: Duration,
}

/// A request is being served until this is dropped.
pub(super) struct Serving(Arc<Pace>);

impl Pace {
    pub(super) fn new(header_time: Duration, idle_time: Duration) -> Arc<Pace> {
        let phase = Mutex::new(Phase::Head(Instant::now()));
        Arc::new(Pace { phase, header_time, idle_time })
    }

    pub(super) fn serve(self: &Arc<Pace>) -> Serving {
        let mut phase = self.phase.lock();
        *phase = match *phase {
            Phase::Serving(requests) => Phase::Serving(requests + 1),
            _ => Phase::Serving(1),
        };
        Serving(Arc::clone(self))
    }

    fn received(&self) {
        let mut phase = self.phase.lock();
        if let Phase::Idle(_) = *phase {
            *phase = Phase::Head(Instant::now());
        }
    }

    /// When time is up, and whether a request has begun.
    fn deadline(&self) -> Option<(Instant, bool)> {
        match *self.phase.lock() {
            Phase::Idle(since) => Some((since + self.idle_time, false)),
            Phase::Head(since) => Some((since + self.header_time, true)),
            Phase::Serving(_) => None,
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut phase = self.0.phase.lock();
        *phase = match *phase {
            Phase::Serving(requests) if requests > 1 => Phase::Serving(requests - 1),
            _ => Phase::Idle(Instant::now()),
        };
    }
}

/// A connection's bytes.
pub(super) struct Guard<S> {
    stream: S,
    pace: Arc<Pace>,
    clock: Pin<Box<Sleep>>,
    /// What goes out in place of what the library wanted to write, and how long that was.
    instead: Option<(Bytes, usize)>,
    ended: bool,
    /// Text of HTTP/1 would be no answer here.
    http2: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    pub(super) fn new(stream: S, pace: Arc<Pace>) -> Guard<S> {
        let clock = Box::pin(tokio::time::sleep(Duration::ZERO));
        Guard { stream, pace, clock, instead: None, ended: false, http2: false }
    }

    /// Ready when time is up; tells whether a request has begun.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        // The phase may change while the clock runs: nobody wakes this task for that, so the clock does, soon enough.
        const SOON: Duration = Duration::from_secs(1);
        loop {
            let now = Instant::now();
            let at = match self.pace.deadline() {
                Some((at, begun)) if at <= now => return Poll::Ready(begun),
                Some((at, _)) => at.min(now + SOON),
                None => now + SOON,
            };
            self.clock.as_mut().reset(at);
            ready!(self.clock.as_mut().poll(cx));
        }
    }

    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some((bytes, length)) = &mut self.instead else { return Poll::Ready(Ok(0)) };
        while bytes.has_remaining() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            bytes.advance(written);
        }
        let length = *length;
        self.instead = None;
        Poll::Ready(Ok(length))
    }

    /// After a pending read or write: an error if time is up.
    fn or_late<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        match self.poll_time(cx) {
            Poll::Ready(_) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ended {
            let _ = ready!(this.poll_instead(cx))?;
            let _ = ready!(Pin::new(&mut this.stream).poll_flush(cx));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(outcome) => {
                if let Some(new) = buf.filled().get(before..).filter(|new| !new.is_empty()) {
                    this.http2 |= new.starts_with(b"PRI * HTTP/2");
                    this.pace.received();
                }
                return Poll::Ready(outcome);
            }
            Poll::Pending => {}
        }
        let begun = ready!(this.poll_time(cx));
        // An end of input: an idle connection is closed in peace, and who began a request is told why.
        this.ended = true;
        if begun && !this.http2 && this.instead.is_none() {
            this.instead = Some((answer::bare(408), 0));
        }
        let _ = ready!(this.poll_instead(cx))?;
        let _ = ready!(Pin::new(&mut this.stream).poll_flush(cx));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        // Also behind an answer of ours: what follows a request without a pause may be no HTTP.
        if this.instead.is_none() {
            this.instead = answer::automatic(buf).map(|ours| (ours, buf.len()));
        }
        let outcome = match this.instead {
            Some(_) => this.poll_instead(cx),
            None => Pin::new(&mut this.stream).poll_write(cx, buf),
        };
        if outcome.is_pending() { this.or_late(cx) } else { outcome }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        if outcome.is_pending() { this.or_late(cx) } else { outcome }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
        if outcome.is_pending() { this.or_late(cx) } else { outcome }
    }
}
