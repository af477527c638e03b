//! The cost of rendering a message: `cargo bench --bench mime`.
//!
//! The targets are a few µs for a message of 2 KiB text and HTML, and 10 ms for a file of 10 MiB.

#![allow(clippy::unwrap_used, missing_docs)]

use chrono::DateTime;
use divan::Bencher;
use divan::counter::BytesCount;
use postrider::domain::message::{Attachment, Content, Draft, Header};
use postrider::mail::build;

fn main() {
    divan::main();
}

fn draft(text: &str, html: &str, file: Option<Vec<u8>>) -> Draft {
    let attachment = |data: Vec<u8>| {
        let description = Attachment {
            filename: "Rechnung März.pdf".into(),
            content_type: "application/pdf".into(),
            content_id: None,
            sha256: "0".repeat(64),
            size: data.len() as u64,
            ..Attachment::default()
        };
        (description, data)
    };
    Draft {
        id: "msg_0193661b3d007abc8def0123456789ab".parse().unwrap(),
        date: DateTime::from_timestamp(1_795_000_000, 0).unwrap(),
        from: "billing@acme.test".parse().unwrap(),
        to: vec!["ann@example.test".parse().unwrap()],
        cc: Vec::new(),
        reply_to: vec!["help@acme.test".parse().unwrap()],
        subject: "Ihre Rechnung für März".into(),
        content: Content {
            text: Some(text.into()),
            html: Some(html.into()),
            headers: vec![Header { name: "X-Entity-Ref".into(), value: "42".into() }],
        },
        attachments: file.map(attachment).into_iter().collect(),
    }
}

fn render(bencher: Bencher, draft: &Draft) {
    bencher.counter(BytesCount::new(build(draft).len())).bench_local(|| build(draft));
}

#[divan::bench]
fn ascii_2_kib(bencher: Bencher) {
    let (text, html) = ("Your invoice is attached.\n".repeat(32), "<p class=\"x\">Your invoice</p>\n".repeat(40));
    render(bencher, &draft(&text, &html, None));
}

#[divan::bench]
fn umlauts_2_kib(bencher: Bencher) {
    let (text, html) = ("Ihre Rechnung für März.\n".repeat(32), "<p class=\"x\">Ihre Rechnung für</p>\n".repeat(36));
    render(bencher, &draft(&text, &html, None));
}

#[divan::bench]
fn file_100_kib(bencher: Bencher) {
    render(bencher, &draft("Hello\n", "<p>Hello\n", Some(vec![0xa5; 100 << 10])));
}

#[divan::bench]
fn file_10_mib(bencher: Bencher) {
    render(bencher, &draft("Hello\n", "<p>Hello\n", Some(vec![0xa5; 10 << 20])));
}
