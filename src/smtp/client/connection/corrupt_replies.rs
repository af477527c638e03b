//! Corrupted server replies, for property tests of the code that reads replies.

use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Valid streams, each of one or more replies.
const VALID_STREAMS: &[&[u8]] = &[
    b"220 mx.test ESMTP ready\r\n",
    b"250-mx.test greets you\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250-STARTTLS\r\n\
      250-AUTH LOGIN PLAIN XOAUTH2\r\n250-AUTH=LOGIN\r\n250 SMTPUTF8\r\n",
    b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n",
    b"451-4.7.1 Greylisted,\r\n451 4.7.1 come back in 00:05:00\r\n",
    b"550-5.1.1 The email account that you tried to reach does not exist.\r\n550 5.1.1 caf\xc3\xa9\r\n",
    b"421 4.3.2 closing\r\n",
    b"250\r\n250-\r\n250\n",
];

/// One change to a stream.
#[derive(Debug, Clone)]
enum Change {
    Put(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    /// Repeats a part.
    Repeat(Index, usize, usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let range = |at: &Index, length: usize| -> Range<usize> {
            let start = at.index(bytes.len() + 1);
            start..(start + length).min(bytes.len())
        };
        match self {
            Self::Put(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Put(..) => {}
            Self::Insert(at, piece) => {
                let at = range(at, 0);
                bytes.splice(at, piece.iter().copied());
            }
            Self::Remove(at, length) => drop(bytes.drain(range(at, *length))),
            Self::Repeat(at, length, times) => {
                let part = range(at, *length);
                let copies = bytes[part.clone()].repeat(*times);
                bytes.splice(part, copies);
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let byte = || prop_oneof![any::<u8>(), select(b"\r\n -250\0\xff".to_vec())];
    prop_oneof![
        (at(), byte()).prop_map(|(at, byte)| Change::Put(at, byte)),
        (at(), prop::collection::vec(byte(), 0..8)).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (at(), 0..40_usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (at(), 0..40_usize, 0..300_usize).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
    ]
}

/// Returns streams of corrupted replies, and of random bytes.
pub(in crate::smtp) fn stream() -> impl Strategy<Value = Vec<u8>> {
    let original = prop_oneof![
        8 => prop::collection::vec(select(VALID_STREAMS), 1..4).prop_map(|streams| streams.concat()),
        1 => prop::collection::vec(any::<u8>(), 0..300),
    ];
    (original, prop::collection::vec(change(), 0..6)).prop_map(|(mut bytes, changes)| {
        for change in &changes {
            change.apply(&mut bytes);
        }
        bytes
    })
}

/// Returns the same streams, cut into pieces as they arrive.
pub(in crate::smtp) fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    (stream(), prop::collection::vec(any::<Index>(), 0..12)).prop_map(|(bytes, cuts)| {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|ends| bytes[ends[0]..ends[1]].to_vec()).collect()
    })
}
