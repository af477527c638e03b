//! What the sink has seen, and for which messages it simulates a fault.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::{Args, Count, Told};
use crate::bench::mail::{self, Recipient};
use crate::bench::seen::Seen;
use crate::clock::Uptime;

/// Shared by all sessions; there is one thread.
#[derive(Debug)]
pub(super) struct Tally {
    args: Args,
    seen: RefCell<Seen>,
    count: Cell<Count>,
    mails: Cell<u64>,
}

impl Tally {
    pub(super) fn new(args: Args) -> Self {
        Self { args, seen: RefCell::default(), count: Cell::default(), mails: Cell::new(0) }
    }

    pub(super) fn count(&self) -> Count {
        self.count.get()
    }

    /// The counts.
    pub(super) fn seen(&self) -> Told {
        Told::Seen { count: self.count.get(), numbers: self.seen.borrow().to_text() }
    }

    /// Returns whether to refuse a recipient: always the same ones, and none of those that are reported at once.
    pub(super) fn refuses(&self, recipient: Recipient) -> bool {
        match (self.args.refuse, recipient) {
            (Some(nth), Recipient::Numbered { number, .. }) => number >= self.args.announce && number % nth == nth - 1,
            _ => false,
        }
    }

    /// Returns whether to drop the connection instead of replying to this message.
    pub(super) fn hangs_up(&self) -> bool {
        let mails = self.mails.get() + 1;
        self.mails.set(mails);
        self.args.hang_up.is_some_and(|nth| mails.is_multiple_of(nth))
    }

    /// Counts a message to these recipients. `head` is its first lines.
    pub(super) fn take(&self, head: &[u8], recipients: &[Recipient], first_octet: Duration) {
        let (mut count, mut seen) = (self.count.get(), self.seen.borrow_mut());
        let named = mail::number(head);
        count.signed += u64::from(head.starts_with(b"DKIM-Signature:"));
        for recipient in recipients {
            match *recipient {
                Recipient::Numbered { number, place } if named == Some(number) && place < self.args.recipients => {
                    if seen.add(number * u64::from(self.args.recipients) + u64::from(place)) {
                        count.arrived += 1;
                        count.last = Uptime::now().since_boot();
                    } else {
                        count.duplicates += 1;
                    }
                }
                Recipient::Waiting(_) if named.is_none() => count.waiting += 1,
                _ => count.strangers += 1,
            }
        }
        self.count.set(count);
        if let Some(number) = named.filter(|number| *number < self.args.announce) {
            // The bench waits for it with a time limit.
            let _ = super::tell(&Told::Arrived { number, first_octet });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(recipients: u16) -> Tally {
        Tally::new(Args { recipients, announce: 1, dns: false, refuse: Some(3), hang_up: Some(2) })
    }

    #[test]
    fn what_comes_is_counted_by_mail_and_recipient() {
        let (tally, of) = (tally(2), |number, place| Recipient::Numbered { number, place });
        let head = b"X-Bench-Id: 0000000004\r\n";
        tally.take(head, &[of(4, 0), of(4, 1)], Duration::ZERO);
        tally.take(head, &[of(4, 1)], Duration::ZERO);
        tally.take(b"Subject: x\r\n", &[Recipient::Waiting(1)], Duration::ZERO);
        // A message for another recipient, an invalid position, and an unknown recipient.
        tally.take(head, &[of(5, 0), of(4, 2), Recipient::Stranger], Duration::ZERO);
        let count = Count { last: Duration::ZERO, ..tally.count() };
        assert_eq!(
            count,
            Count { arrived: 2, duplicates: 1, waiting: 1, strangers: 3, signed: 0, last: Duration::ZERO }
        );
        tally.take(b"DKIM-Signature: v=1\r\nX-Bench-Id: 0000000006\r\n", &[], Duration::ZERO);
        assert_eq!(tally.count().signed, 1);
        let Told::Seen { numbers, .. } = tally.seen() else { panic!("what was seen") };
        assert_eq!(Seen::from_text(&numbers).unwrap().numbers().collect::<Vec<_>>(), [8, 9]);
    }

    #[test]
    fn it_misbehaves_as_told() {
        let tally = tally(1);
        let refused = |number| tally.refuses(Recipient::Numbered { number, place: 0 });
        assert_eq!([0, 1, 2, 3].map(refused), [false, false, true, false]);
        assert_eq!([(); 4].map(|()| tally.hangs_up()), [false, true, false, true]);
    }
}
