//! The cost of parsing an address: `cargo bench --bench address`.
//!
//! The target is a few hundred nanoseconds for a plain address, because a request may have fifty addresses.

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

/// An invalid address must not cost more than a valid one.
#[divan::bench(args = ["ann", "a b@example.test", "ann@example..test", "ann@b\u{fc}cher.\u{200e}example"])]
fn refused(bencher: Bencher, text: &str) {
    bencher.bench_local(|| black_box(text).parse::<Address>().unwrap_err());
}
