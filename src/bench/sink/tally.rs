//! Counts what has arrived at the sink, and selects the messages for which the sink simulates a fault.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::{Args, Count, SinkReport};
use crate::bench::client::mail::{self, Recipient};
use crate::bench::seen::NumberSet;
use crate::clock::Uptime;

/// The counts, shared by all sessions of the sink's only thread.
#[derive(Debug)]
pub(super) struct Tally {
    args: Args,
    numbers: RefCell<NumberSet>,
    count: Cell<Count>,
    messages: Cell<u64>,
}

impl Tally {
    pub(super) fn new(args: Args) -> Self {
        Self { args, numbers: RefCell::default(), count: Cell::default(), messages: Cell::new(0) }
    }

    pub(super) fn count(&self) -> Count {
        self.count.get()
    }

    /// Returns the counts and the numbers that have arrived.
    pub(super) fn numbers(&self) -> SinkReport {
        SinkReport::Numbers { count: self.count.get(), numbers: self.numbers.borrow().to_text() }
    }

    /// Returns whether to refuse a recipient. The choice depends only on the number; messages that are reported one by
    /// one (`--announce`) are never refused.
    pub(super) fn must_refuse(&self, recipient: Recipient) -> bool {
        match (self.args.refuse, recipient) {
            (Some(nth), Recipient::Numbered { number, .. }) => number >= self.args.announce && number % nth == nth - 1,
            _ => false,
        }
    }

    /// Counts a message, and returns whether to drop the connection instead of replying to it.
    pub(super) fn must_disconnect(&self) -> bool {
        let messages = self.messages.get() + 1;
        self.messages.set(messages);
        self.args.hang_up.is_some_and(|nth| messages.is_multiple_of(nth))
    }

    /// Counts a message to these recipients. `head` is the beginning of the message.
    pub(super) fn record(&self, head: &[u8], recipients: &[Recipient], first_byte: Duration) {
        let (mut count, mut numbers) = (self.count.get(), self.numbers.borrow_mut());
        let is_rendered = |number: &u64| !self.args.template || mail::subject_number(head) == Some(*number);
        let header_number = mail::number(head).filter(is_rendered);
        count.signed += u64::from(head.starts_with(b"DKIM-Signature:"));
        for recipient in recipients {
            match *recipient {
                Recipient::Numbered { number, position }
                    if header_number == Some(number) && position < self.args.recipients =>
                {
                    if numbers.add(number * u64::from(self.args.recipients) + u64::from(position)) {
                        count.arrived += 1;
                        count.last = Uptime::now().since_boot();
                    } else {
                        count.duplicates += 1;
                    }
                }
                Recipient::Backlog(_) if header_number.is_none() => count.backlog += 1,
                _ => count.misdelivered += 1,
            }
        }
        self.count.set(count);
        if let Some(number) = header_number.filter(|number| *number < self.args.announce) {
            // If this fails, the bench stops waiting after its time limit.
            let _ = super::print_report(&SinkReport::Arrived { number, first_byte });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(recipients: u16) -> Tally {
        Tally::new(Args { recipients, announce: 1, template: false, dns: false, refuse: Some(3), hang_up: Some(2) })
    }

    #[test]
    fn arrivals_are_counted_by_message_and_recipient() {
        let (tally, recipient) = (tally(2), |number, position| Recipient::Numbered { number, position });
        let head = b"X-Bench-Id: 0000000004\r\n";
        tally.record(head, &[recipient(4, 0), recipient(4, 1)], Duration::ZERO);
        tally.record(head, &[recipient(4, 1)], Duration::ZERO);
        tally.record(b"Subject: x\r\n", &[Recipient::Backlog(1)], Duration::ZERO);
        // A message for another recipient, an invalid position, and an unknown recipient.
        tally.record(head, &[recipient(5, 0), recipient(4, 2), Recipient::Unknown], Duration::ZERO);
        let count = Count { last: Duration::ZERO, ..tally.count() };
        assert_eq!(
            count,
            Count { arrived: 2, duplicates: 1, backlog: 1, misdelivered: 3, signed: 0, last: Duration::ZERO }
        );
        tally.record(b"DKIM-Signature: v=1\r\nX-Bench-Id: 0000000006\r\n", &[], Duration::ZERO);
        assert_eq!(tally.count().signed, 1);
        let SinkReport::Numbers { numbers, .. } = tally.numbers() else { panic!("not the numbers") };
        assert_eq!(NumberSet::from_text(&numbers).unwrap().numbers().collect::<Vec<_>>(), [8, 9]);
    }

    #[test]
    fn number_of_a_bulk_message_is_read_from_its_to_header() {
        let (tally, recipient) = (tally(1), |number| [Recipient::Numbered { number, position: 0 }]);
        let head = b"Subject: Bench\r\nTo: n0000000004.000@d00000.bench.test\r\n";
        tally.record(head, &recipient(4), Duration::ZERO);
        tally.record(head, &recipient(4), Duration::ZERO);
        tally.record(head, &recipient(5), Duration::ZERO);
        let count = tally.count();
        assert_eq!((count.arrived, count.duplicates, count.misdelivered), (1, 1, 1));
    }

    #[test]
    fn rendered_subject_must_have_the_number() {
        let args = Args { recipients: 1, announce: 0, template: true, dns: false, refuse: None, hang_up: None };
        let (tally, recipient) = (Tally::new(args), |number| [Recipient::Numbered { number, position: 0 }]);
        let head = b"Date: x\r\nSubject: Bench 0000000004\r\nTo: n0000000004.000@d00000.bench.test\r\n";
        tally.record(head, &recipient(4), Duration::ZERO);
        let head = b"Date: x\r\nSubject: Bench 0000000004\r\nX-Bench-Id: 0000000005\r\n";
        tally.record(head, &recipient(5), Duration::ZERO);
        let count = tally.count();
        assert_eq!((count.arrived, count.misdelivered), (1, 1));
    }

    #[test]
    fn faults_are_simulated_as_configured() {
        let tally = tally(1);
        let refused = |number| tally.must_refuse(Recipient::Numbered { number, position: 0 });
        assert_eq!([0, 1, 2, 3].map(refused), [false, false, true, false]);
        assert_eq!([(); 4].map(|()| tally.must_disconnect()), [false, true, false, true]);
    }
}
