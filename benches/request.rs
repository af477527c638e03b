//! The cost of parsing and validating a request's body: `cargo bench --bench request`.
//!
//! The targets are 8 µs for 2 KiB of text and a few ms for each MiB of attachment.

#![allow(clippy::unwrap_used, missing_docs)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use divan::Bencher;
use divan::counter::BytesCount;
use postrider::accept::request::{Context, Limits, parse};
use serde_json::{Value, json};

fn main() {
    divan::main();
}

/// Returns the body of a request with this many bytes of text.
fn request(text: usize) -> Value {
    json!({
        "from": "Acme Billing <billing@acme.test>", "to": ["ann@example.test"], "reply_to": "help@acme.test",
        "subject": "Ihre Rechnung für März", "text": "Your invoice is attached.\n".repeat(text / 26),
        "headers": {"X-Entity-Ref": "42"}, "tags": [{"name": "kind", "value": "invoice"}], "metadata": {"order": "42"},
    })
}

fn read(bencher: Bencher, request: &Value) {
    let (body, limits, streams) = (request.to_string(), Limits::default(), ["transactional".to_owned()]);
    let context = Context::new(DateTime::from_timestamp(1_795_000_000, 0).unwrap(), &limits, &streams);
    bencher.counter(BytesCount::of_str(&body)).bench_local(|| parse(body.as_bytes(), &context));
}

#[divan::bench(args = [2 << 10, 64 << 10])]
fn text(bencher: Bencher, bytes: usize) {
    let request = request(bytes);
    read(bencher, &request);
}

#[divan::bench]
fn fifty_recipients(bencher: Bencher) {
    let mut request = request(2 << 10);
    request["to"] = (0..50).map(|n| json!(format!("Reader {n} <reader{n}@example{n}.test>"))).collect();
    read(bencher, &request);
}

#[divan::bench(args = [100 << 10, 10 << 20])]
fn attachment(bencher: Bencher, bytes: usize) {
    let mut request = request(2 << 10);
    request["attachments"] = json!([{"filename": "a.pdf", "content": STANDARD.encode(vec![0xa5; bytes])}]);
    read(bencher, &request);
}

/// A body with many faults, which are all reported at once.
#[divan::bench]
fn full_of_faults(bencher: Bencher) {
    read(
        bencher,
        &json!({"from": "a", "to": ["b", "c@d..test", 3], "subject": 1, "headers": {"a b": "\r\n"}, "x": []}),
    );
}
