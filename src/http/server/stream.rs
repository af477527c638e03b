//! A TCP connection with time limits for a request's head, for the time between requests, and for a client that does
//! not read its response. Handlers limit the time for a request's body and for their own work.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Limits;
use super::connections::Activity;

/// Bytes that a client must read within [`Limits::write_timeout`] while more are pending.
const MIN_PROGRESS: usize = 64 << 10;

/// A TCP stream with time limits.
pub(super) struct TimedStream {
    stream: TcpStream,
    activity: Arc<Activity>,
    limits: Limits,
    /// The idle period that `reading` limits, as [`Activity::idle_since`] identifies it; `None` during a request.
    idle: Option<u64>,
    /// The deadline for a request's head to be complete, or for the next request to begin.
    reading: Timer,
    is_in_head: bool,
    /// The idle period before the first request, as [`Activity::idle_since`] identifies it.
    first: Option<u64>,
    /// The deadline for the client to read the next 64 KiB.
    writing: Timer,
    /// Bytes sent since `writing` was set.
    sent: usize,
}

impl TimedStream {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>, limits: Limits) -> Self {
        Self {
            stream,
            first: activity.idle_since(),
            activity,
            limits,
            idle: None,
            reading: Timer::default(),
            is_in_head: false,
            writing: Timer::default(),
            sent: 0,
        }
    }

    /// Sets the timer for reading according to the connection's state.
    fn update_read_timer(&mut self) {
        let idle = self.activity.idle_since();
        if self.idle == idle {
            return;
        }
        self.idle = idle;
        self.is_in_head = false;
        match idle {
            None => self.reading.clear(),
            Some(since) => {
                let limits = &self.limits;
                let limit = if idle == self.first { limits.header_timeout } else { limits.keep_alive };
                self.reading.set(self.activity.to_instant(since) + limit);
            }
        }
    }

    fn track_write(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(count)) => {
                self.sent += count;
                if self.sent >= MIN_PROGRESS {
                    self.writing.clear();
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => {
                if !self.writing.is_set() {
                    self.sent = 0;
                    self.writing.set(Instant::now() + self.limits.write_timeout);
                }
                ready!(self.writing.poll(cx));
                Poll::Ready(Err(timed_out("the client does not read the response")))
            }
        }
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.update_read_timer();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Pending if this.idle.is_some() => {
                ready!(this.reading.poll(cx));
                Poll::Ready(Err(timed_out("timed out waiting for a request")))
            }
            read => {
                if this.idle.is_some() && !this.is_in_head && buf.filled().len() > before {
                    this.is_in_head = true;
                    this.reading.set(Instant::now() + this.limits.header_timeout);
                }
                read
            }
        }
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.track_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.track_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this when it has nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.writing.clear();
            self.activity.mark_flushed();
            // hyper may have polled for the next request before this one ended, and does not poll again until it is
            // woken.
            self.update_read_timer();
            if self.reading.poll(cx).is_ready() {
                return Poll::Ready(Err(timed_out("timed out waiting for a request")));
            }
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// A deadline that is moved often and rarely passes.
#[derive(Default)]
struct Timer {
    deadline: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn set(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    fn clear(&mut self) {
        self.deadline = None;
    }

    fn is_set(&self) -> bool {
        self.deadline.is_some()
    }

    /// Ready once the deadline has passed.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        ready!(sleep.as_mut().poll(cx));
        // Resetting the sleep for every request would cost more than letting it expire occasionally.
        if sleep.deadline() < deadline {
            sleep.as_mut().reset(deadline);
            ready!(sleep.as_mut().poll(cx));
        }
        Poll::Ready(())
    }
}
