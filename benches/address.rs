//! What it costs to read an address: `cargo bench --bench address`.
//!
//! The aim is a few hundred ns for a plain one: a request may hold fifty.

#![allow(clippy::unwrap_used, missing_docs)]

use divan::{Bencher, black_box};
use postrider::domain::address::{Address, Mailbox};

fn main() {
    divan::main();
}

#[divan::bench(args = [
    "ann@example.test",
    "first.last+tag@a-rather-long-name.department.example.com",
    "\"quoted @ local\"@example.test",
    "ann@[IPv6:2001:db8::1]",
    "jürgen@bücher.example",
])]
fn address(bencher: Bencher, text: &str) {
    bencher.bench_local(|| black_box(text).parse::<Address>().unwrap());
}

#[divan::bench(args = ["ann@example.test", "Acme Billing <billing@acme.test>", "\"Doe, John\" <j@example.test>"])]
fn mailbox(bencher: Bencher, text: &str) {
    bencher.bench_local(|| black_box(text).parse::<Mailbox>().unwrap());
}

/// A refusal must not cost more than an acceptance.
#[divan::bench(args = ["ann", "a b@example.test", "ann@example..test", "ann@b\u{fc}cher.\u{200e}example"])]
fn refused(bencher: Bencher, text: &str) {
    bencher.bench_local(|| black_box(text).parse::<Address>().unwrap_err());
}
