//! The memory of the service does not grow with the files that it receives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future::join_all;
use futures_util::{Stream, StreamExt as _, stream};
use postrider::clock::{Clock as _, SystemClock};
use postrider::domain::key::hex;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::client::{Api, ApiResponse, message};
use crate::support::form::{BOUNDARY, Form, content_type};
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;

/// Size of the pieces that a client sends.
const PIECE: usize = 64 << 10;
/// Interval of the measurements.
const INTERVAL: Duration = Duration::from_millis(10);

/// Returns the pieces of a file of this many MiB, which are never in memory together.
fn pieces(seed: u64, mib: usize) -> impl Iterator<Item = Vec<u8>> + Send + 'static {
    (0..(mib << 20) / PIECE).map(move |n| {
        let mut piece = vec![0x5a; PIECE];
        piece[..16].copy_from_slice(&[seed.to_le_bytes(), (n as u64).to_le_bytes()].concat());
        piece
    })
}

fn body(pieces: impl Stream<Item = Vec<u8>> + Send + 'static) -> Body {
    Body::wrap_stream(pieces.map(Ok::<_, std::io::Error>))
}

async fn put(api: &Api, seed: u64, mib: usize) {
    let mut hash = Sha256::new();
    pieces(seed, mib).for_each(|piece| hash.update(&piece));
    let path = format!("/v1/blobs/{}", hex(&hash.finalize()));
    let request = api.request(Method::PUT, &path).body(body(stream::iter(pieces(seed, mib))));
    assert_eq!(ApiResponse::to(request).await.status, 201);
}

/// Posts a message with a file as a form. The message is scheduled, so that it is not sent during the test.
async fn send(api: &Api, seed: u64, mib: usize) {
    let at = SystemClock.now() + TimeDelta::days(2);
    let json =
        message(json!({"attachments": [{"filename": "a.bin", "part": "file"}], "scheduled_at": at.to_rfc3339()}));
    let head = Form::default().message(&json).unfinished();
    let head =
        [head, format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n").into_bytes()].concat();
    let tail = format!("\r\n--{BOUNDARY}--\r\n").into_bytes();
    let pieces = std::iter::once(head).chain(pieces(seed, mib)).chain(std::iter::once(tail));
    let request = api.request(Method::POST, "/v1/messages").header(CONTENT_TYPE, content_type());
    let response = ApiResponse::to(request.body(body(stream::iter(pieces)))).await;
    assert_eq!(response.status, 202, "{}", response.body);
}

/// The service's memory in MiB.
#[derive(Debug)]
struct Memory {
    before: u64,
    most: u64,
}

/// Runs eight uploads of this many MiB at once, and then eight forms, and measures the memory meanwhile.
async fn measure(mib: usize) -> Memory {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let key = key(&database.url).await;
    let mut command = serve(&database.url, smtp.address(), &[]);
    command.env("POSTRIDER_ACCEPT__MAX_UPLOAD_MIB", "100");
    let service = Service::start(command).await;
    let api = Api::new(service.address.clone().unwrap(), key);
    // A first small upload opens connections and fills caches.
    put(&api, 99, 2).await;
    let (before, is_done) = (service.memory(), AtomicBool::new(false));
    let upload = async {
        join_all((0..8).map(|seed| put(&api, seed, mib))).await;
        join_all((8..16).map(|seed| send(&api, seed, mib))).await;
        is_done.store(true, Ordering::Relaxed);
    };
    let watch = async {
        let (mut most, mut ticks) = (before, tokio::time::interval(INTERVAL));
        while !is_done.load(Ordering::Relaxed) {
            ticks.tick().await;
            most = most.max(service.memory());
        }
        most
    };
    let ((), most) = tokio::join!(upload, watch);
    assert!(service.terminate().await.success());
    Memory { before, most }
}

#[tokio::test]
async fn eight_uploads_at_once_do_not_grow_the_memory() {
    let memory = measure(16).await;
    // The files have 128 MiB together.
    assert!(memory.most < memory.before + 48, "{memory:?}");
}

#[tokio::test]
#[ignore = "transfers 1.6 GB: cargo test --release --test it eight_uploads_of_100_mib -- --ignored --nocapture"]
async fn eight_uploads_of_100_mib_need_less_than_128_mib() {
    let memory = measure(100).await;
    eprintln!("{memory:?}");
    assert!(memory.most < 128, "{memory:?}");
}
