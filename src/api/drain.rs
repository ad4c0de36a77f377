//! Request bodies that nobody wants, read to their end.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use warp::http::Version;
use warp::http::header::EXPECT;
use warp::http::request::Parts;

/// What is read and thrown away at most, and how long that may take.
const UNWANTED_BYTES_MAX: usize = 64 << 20;
const UNWANTED_TIMEOUT: Duration = Duration::from_secs(10);

/// A request's body that, dropped before its end, is read on in the background.
///
/// A socket that is closed with bytes unread resets the connection: a client that is still sending then sees the reset instead of
/// its 401 or 413.
pub struct DrainedBody {
    incoming: Option<Incoming>,
    /// The client sends nothing before we ask for it, and to read would be to ask; or what it sends keeps the connection from nothing.
    stays_unread: bool,
}

impl DrainedBody {
    pub fn new(incoming: Incoming, head: &Parts) -> Self {
        // A stream of HTTP/2 ends without the connection.
        let stays_unread = head.headers.contains_key(EXPECT) || head.version == Version::HTTP_2;
        Self { incoming: Some(incoming), stays_unread }
    }
}

impl Body for DrainedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.stays_unread = false;
        match &mut self.incoming {
            Some(incoming) => Pin::new(incoming).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for DrainedBody {
    fn drop(&mut self) {
        let Some(incoming) = self.incoming.take() else { return };
        if incoming.is_end_stream() || self.stays_unread {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(UNWANTED_TIMEOUT, drain(incoming)));
        }
    }
}

async fn drain(mut incoming: Incoming) {
    let mut drained = 0;
    while drained < UNWANTED_BYTES_MAX {
        match poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {
            Some(Ok(frame)) => drained += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) | None => return,
        }
    }
}
