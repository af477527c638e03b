//! `multipart/form-data` (RFC 7578) with the message as JSON and files that are read while they are sent, so that memory
//! does not grow with their size.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;

use super::RequestBody;
use crate::cli::client::error::{ClientError, Kind};

/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// A file of a form, checked before anything is sent.
#[derive(Debug, Clone)]
pub(in crate::cli::client) struct FormFile {
    path: PathBuf,
    /// The size in bytes.
    pub size: u64,
    /// The name without its directory.
    pub name: String,
}

/// A file that became shorter while it was sent.
#[derive(Debug, thiserror::Error)]
#[error("{} became shorter while it was sent", .0.display())]
pub(super) struct ChangedFile(PathBuf);

impl FormFile {
    /// Checks that a file is a regular one and can be read.
    pub(in crate::cli::client) async fn check(path: &Path) -> Result<Self, ClientError> {
        // Check the type before the file is opened: opening a FIFO would wait until another process writes to it.
        let metadata = tokio::fs::metadata(path).await.map_err(|error| ClientError::file(path, &error))?;
        let Some(name) = path.file_name().filter(|_| metadata.is_file()) else {
            let message = format!("cannot attach {}: it is not a regular file", path.display());
            return Err(ClientError::new(Kind::Failed, message));
        };
        File::open(path).await.map_err(|error| ClientError::file(path, &error))?;
        Ok(Self { path: path.to_owned(), size: metadata.len(), name: name.to_string_lossy().into_owned() })
    }
}

/// Returns the name of the part of the file with this index.
pub(in crate::cli::client) fn part_name(index: usize) -> String {
    format!("file{index}")
}

/// A piece of a form.
#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    File(PathBuf, u64),
    /// A file that is being read, and how many bytes of it are missing.
    Open(PathBuf, File, u64),
}

/// Returns the body of a form with `message` and these files, and its headers.
pub(in crate::cli::client) fn form(
    message: &[u8],
    files: &[FormFile],
) -> Result<(HeaderMap, RequestBody), ClientError> {
    // The boundary is random, so no file contains it.
    let boundary = format!("postrider-{:032x}", rand::random::<u128>());
    let mut pieces = VecDeque::new();
    let disposition = |name: &str| format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n");
    let head = format!("{}Content-Type: application/json\r\n\r\n", disposition("message"));
    pieces.push_back(Piece::Bytes([head.as_bytes(), message, b"\r\n"].concat().into()));
    for (index, file) in files.iter().enumerate() {
        let head = format!("{}Content-Type: application/octet-stream\r\n\r\n", disposition(&part_name(index)));
        pieces.push_back(Piece::Bytes(head.into()));
        pieces.push_back(Piece::File(file.path.clone(), file.size));
        pieces.push_back(Piece::Bytes(Bytes::from_static(b"\r\n")));
    }
    pieces.push_back(Piece::Bytes(format!("--{boundary}--\r\n").into()));
    let length: u64 = pieces.iter().map(Piece::length).sum();

    let mut headers = HeaderMap::new();
    let content_type = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"));
    let content_type = content_type.map_err(|error| ClientError::new(Kind::Failed, error.to_string()))?;
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, length.into());
    let chunks = stream::try_unfold(pieces, |mut pieces| async move {
        let chunk = next(&mut pieces).await?;
        Ok::<_, io::Error>(chunk.map(|chunk| (Frame::data(chunk), pieces)))
    });
    Ok((headers, StreamBody::new(chunks).boxed_unsync()))
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, size) | Self::Open(_, _, size) => *size,
        }
    }
}

/// Returns the next bytes of a form. If a file has grown since it was checked, only its first `size` bytes are sent.
async fn next(pieces: &mut VecDeque<Piece>) -> io::Result<Option<Bytes>> {
    loop {
        let (path, mut file, missing) = match pieces.pop_front() {
            None => return Ok(None),
            Some(Piece::Bytes(bytes)) => return Ok(Some(bytes)),
            Some(Piece::File(_, 0) | Piece::Open(_, _, 0)) => continue,
            Some(Piece::File(path, size)) => (path.clone(), File::open(path).await?, size),
            Some(Piece::Open(path, file, missing)) => (path, file, missing),
        };
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let read = (&mut file).take(missing.min(CHUNK as u64)).read_buf(&mut chunk).await?;
        if read == 0 {
            return Err(io::Error::other(ChangedFile(path)));
        }
        pieces.push_front(Piece::Open(path, file, missing - read as u64));
        return Ok(Some(chunk.freeze()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(files: &[FormFile]) -> Result<(u64, Bytes), String> {
        let (headers, body) = form(b"{}", files).unwrap();
        let length = headers[CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok((length, body.to_bytes()))
    }

    #[tokio::test]
    async fn form_has_the_announced_length() {
        let dir = tempfile::tempdir().unwrap();
        let (long, empty) = (dir.path().join("long.bin"), dir.path().join("empty.bin"));
        std::fs::write(&long, vec![7; 3 * CHUNK + 5]).unwrap();
        std::fs::write(&empty, "").unwrap();
        let files = [FormFile::check(&long).await.unwrap(), FormFile::check(&empty).await.unwrap()];
        let (length, body) = sent(&files).await.unwrap();
        assert_eq!(length, body.len() as u64);
        assert_eq!(body.split(|byte| *byte != 7).map(<[u8]>::len).max(), Some(3 * CHUNK + 5));
        // A file that has grown keeps its announced length.
        std::fs::write(&long, vec![7; 4 * CHUNK]).unwrap();
        assert_eq!(sent(&files).await.unwrap().1.len() as u64, length);
        std::fs::write(&long, vec![7; CHUNK]).unwrap();
        assert!(sent(&files).await.unwrap_err().ends_with("became shorter while it was sent"));
    }

    #[tokio::test]
    async fn only_regular_files_can_be_attached() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for path in [dir.path(), fifo.as_path()] {
            let error = FormFile::check(path).await.unwrap_err().to_string();
            assert!(error.ends_with("it is not a regular file"), "{error}");
        }
    }
}
