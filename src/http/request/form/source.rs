//! The bytes of a form, for the parser.
//!
//! The parser (multer) buffers all available bytes before it parses them, and the headers of a part at any length.
//! [`Source`] therefore passes bytes on in small pieces, each after the parser has processed the one before, and only a
//! limited number while the parser reads headers.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, stream};
use multer::{Field, Multipart};
use parking_lot::Mutex;

use crate::http::ApiError;
use crate::http::request::body::UploadBody;

/// Maximum size of a piece.
const PIECE_BYTES: usize = 32 << 10;
/// Maximum bytes read to reach the next part's content: the rest of the piece before it, the boundary, and the headers.
const HEADER_BYTES: usize = 64 << 10;

/// The body of a form; a clone reads from the same body.
#[derive(Clone)]
pub(super) struct Source(Arc<Mutex<State>>);

struct State {
    chunks: BoxStream<'static, Result<Bytes, ApiError>>,
    /// Bytes that have arrived and have not been passed on.
    rest: Bytes,
    /// Whether the parser must process its buffer before it gets more bytes.
    is_paused: bool,
    /// How many bytes may be passed on.
    allowed: usize,
    /// Why the stream has failed.
    error: Option<ApiError>,
}

impl Source {
    pub(super) fn new(body: UploadBody) -> Self {
        let chunks = stream::try_unfold(body, |mut body| async move {
            let chunk = body.next().await?;
            Ok(chunk.map(|chunk| (chunk, body)))
        });
        let chunks = chunks.boxed();
        Self(Arc::new(Mutex::new(State { chunks, rest: Bytes::new(), is_paused: false, allowed: 0, error: None })))
    }

    /// Returns the next part of the form; `None` at its end.
    pub(super) async fn next_part<'r>(&self, form: &mut Multipart<'r>) -> Result<Option<Field<'r>>, ApiError> {
        self.begin(HEADER_BYTES);
        form.next_field().await.map_err(|error| self.error(&error))
    }

    /// Returns the next bytes of a part; `None` at its end.
    pub(super) async fn next_bytes(&self, part: &mut Field<'_>) -> Result<Option<Bytes>, ApiError> {
        self.begin(usize::MAX);
        part.chunk().await.map_err(|error| self.error(&error))
    }

    /// Lets the parser process its buffer, and then allows it this many bytes.
    fn begin(&self, allowed: usize) {
        let mut state = self.0.lock();
        (state.is_paused, state.allowed) = (true, allowed);
    }

    /// Returns the error that made the parser fail: that of the body, or that of the form.
    fn error(&self, error: &multer::Error) -> ApiError {
        if let Some(cause) = self.0.lock().error.take() {
            return cause;
        }
        ApiError::Malformed(match error {
            multer::Error::IncompleteStream | multer::Error::IncompleteFieldData { .. } => {
                "The form is truncated, or does not use the `boundary` in its `Content-Type`: it must end with the \
                 boundary between `--` and `--`."
                    .into()
            }
            multer::Error::IncompleteHeaders
            | multer::Error::ReadHeaderFailed(_)
            | multer::Error::DecodeHeaderName { .. }
            | multer::Error::DecodeHeaderValue { .. } => "The headers of a part of the form cannot be parsed.".into(),
            other => format!("The form cannot be read: {other}."),
        })
    }

    /// Reads what follows the last part (RFC 2046 §5.1.1), so that the connection can be used for another request.
    pub(super) async fn finish(&self) -> Result<(), ApiError> {
        let mut chunks = {
            let mut state = self.0.lock();
            std::mem::replace(&mut state.chunks, stream::empty().boxed())
        };
        while let Some(chunk) = chunks.next().await {
            chunk?;
        }
        Ok(())
    }
}

impl Stream for Source {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let mut state = self.0.lock();
        let state = &mut *state;
        if std::mem::take(&mut state.is_paused) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if state.rest.is_empty() {
            state.rest = match state.chunks.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Ok(chunk))) => chunk,
                Poll::Ready(Some(Err(error))) => {
                    state.error = Some(error);
                    return Poll::Ready(Some(Err(io::Error::other("the body has failed"))));
                }
            };
        }
        let piece = state.rest.split_to(state.rest.len().min(PIECE_BYTES));
        let Some(allowed) = state.allowed.checked_sub(piece.len()) else {
            let limit = HEADER_BYTES >> 10;
            let detail = format!("The headers of a part, or what precedes the first part, have more than {limit} KiB.");
            state.error = Some(ApiError::Malformed(detail));
            return Poll::Ready(Some(Err(io::Error::other("the headers are too large"))));
        };
        state.allowed = allowed;
        state.is_paused = true;
        Poll::Ready(Some(Ok(piece)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(pieces: Vec<Vec<u8>>) -> Source {
        let chunks = stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece)))).boxed();
        Source(Arc::new(Mutex::new(State { chunks, rest: Bytes::new(), is_paused: false, allowed: 0, error: None })))
    }

    /// Reads a form. Returns the sizes of its parts, and the size of the largest piece of content.
    async fn read(source: Source) -> Result<(Vec<usize>, usize), ApiError> {
        let mut form = Multipart::new(source.clone(), "B");
        let (mut sizes, mut largest) = (Vec::new(), 0);
        while let Some(mut part) = source.next_part(&mut form).await? {
            let mut size = 0;
            while let Some(bytes) = source.next_bytes(&mut part).await? {
                size += bytes.len();
                largest = largest.max(bytes.len());
            }
            sizes.push(size);
        }
        Ok((sizes, largest))
    }

    fn part(name: &str, size: usize) -> Vec<u8> {
        let head = format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        [head.as_bytes(), &vec![b'\r'; size], b"\r\n"].concat()
    }

    #[tokio::test]
    async fn content_is_passed_on_in_small_pieces() {
        let form = [part("a", 0), part("b", 5 << 20), part("c", 3), b"--B--\r\nepilogue".to_vec()].concat();
        for size in [form.len(), 1 << 20, 70_000] {
            let source = source(form.chunks(size).map(<[u8]>::to_vec).collect());
            let (sizes, largest) = read(source.clone()).await.unwrap();
            assert_eq!(sizes, [0, 5 << 20, 3]);
            assert!(largest <= 2 * PIECE_BYTES, "{largest}");
            source.finish().await.unwrap();
        }
    }

    #[tokio::test]
    async fn small_parts_do_not_make_the_parser_read_ahead() {
        let small = (0..100).flat_map(|_| part("a", 1));
        let form: Vec<u8> = small.chain(part("b", 10 << 20)).chain(*b"--B--").collect();
        let source = source(vec![form]);
        let mut form = Multipart::new(source.clone(), "B");
        for _ in 0..100 {
            let mut part = source.next_part(&mut form).await.unwrap().unwrap();
            while source.next_bytes(&mut part).await.unwrap().is_some() {}
        }
        let unread = source.0.lock().rest.len();
        assert!(unread > (10 << 20) - 2 * PIECE_BYTES, "{unread}");
    }

    #[tokio::test]
    async fn one_byte_at_a_time_is_enough() {
        let form = [part("a", 40), part("b", 0), b"--B--".to_vec()].concat();
        let (sizes, _) = read(source(form.into_iter().map(|byte| vec![byte]).collect())).await.unwrap();
        assert_eq!(sizes, [40, 0]);
    }

    #[tokio::test]
    async fn endless_headers_and_preambles_are_refused() {
        let header = [b"--B\r\nX: ".to_vec(), vec![b'x'; 1 << 20]].concat();
        let preamble = vec![b'-'; 1 << 20];
        for form in [header, preamble] {
            let Err(ApiError::Malformed(detail)) = read(source(vec![form])).await else { panic!("accepted") };
            assert!(detail.contains("64 KiB"), "{detail}");
        }
    }

    #[tokio::test]
    async fn truncated_and_malformed_forms_are_refused() {
        let whole = [part("a", 3), b"--B--".to_vec()].concat();
        for length in 0..whole.len() {
            let result = read(source(vec![whole[..length].to_vec()])).await;
            assert!(matches!(result, Err(ApiError::Malformed(_))), "{length}");
        }
        for form in ["--B\r\nno header\r\n\r\nx\r\n--B--", "--BX\r\n\r\n\r\n--B--", "--C\r\n\r\n\r\n--C--"] {
            let result = read(source(vec![form.into()])).await;
            assert!(matches!(result, Err(ApiError::Malformed(_))), "{form}");
        }
    }
}
