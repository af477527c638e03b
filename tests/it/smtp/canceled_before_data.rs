//! The send guard is called when the server is ready for the body; until then an attempt can be canceled.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use postrider::domain::outcome::Verdict::{Accepted, Permanent};
use postrider::smtp::{Limits, SendGuard, SendOptions, Sender};

use crate::support::sending::{MAIL, envelope, mail_of, relay, sender, through_relay, verdicts};
use crate::support::smtp::SmtpServer;

/// A guard that allows or denies sending the body, and counts its calls.
struct AtTheText {
    goes_on: bool,
    ends: bool,
    asked: AtomicUsize,
    accepted: Mutex<Vec<usize>>,
}

impl AtTheText {
    fn that(goes_on: bool) -> Self {
        Self { goes_on, ends: true, asked: AtomicUsize::new(0), accepted: Mutex::default() }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl SendGuard for AtTheText {
    fn go(&self) -> bool {
        true
    }

    fn before_text<'a>(&'a self, accepted: &'a [usize]) -> BoxFuture<'a, bool> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        *self.accepted.lock().unwrap() = accepted.to_vec();
        async { self.goes_on }.boxed()
    }

    fn before_end(&self) -> bool {
        self.ends
    }
}

fn terms(watch: &AtTheText) -> SendOptions<'_> {
    SendOptions { urgent: false, limits: Limits::default(), watch }
}

async fn send(sender: &Sender, watch: &AtTheText) -> bool {
    let envelope = envelope(["ann@example.test", "bo@example.test"]);
    sender.send_if(&through_relay(), &envelope, MAIL, &terms(watch)).await.is_ok()
}

#[tokio::test]
async fn a_mail_that_is_called_off_at_its_text_was_not_begun() {
    for offered in [["PIPELINING"], ["8BITMIME"]] {
        let smtp = SmtpServer::start().await;
        smtp.offers(offered);
        smtp.rcpt("bo@example.test").replies(["550 5.1.1 unknown"]);
        let (sender, watch) = (sender(relay(&smtp)), AtTheText::that(false));
        assert!(!send(&sender, &watch).await);
        smtp.left_alone().await;
        assert_eq!((watch.asked(), smtp.count("DATA"), smtp.count(".")), (1, 1, 0));
        assert_eq!(*watch.accepted.lock().unwrap(), [0], "bo gets no text");

        assert!(send(&sender, &AtTheText::that(true)).await, "the next mail has a new connection");
        assert_eq!((smtp.connections(), smtp.mails().len()), (2, 1));
    }
}

#[tokio::test]
async fn guard_is_called_once_per_message_and_commands_are_pipelined() {
    let smtp = SmtpServer::start().await;
    let (sender, watch) = (sender(relay(&smtp)), AtTheText::that(true));
    assert!(send(&sender, &watch).await);
    assert_eq!(watch.asked(), 1);
    let together: Vec<bool> = smtp.lines().iter().map(|line| line.more_behind).collect();
    assert_eq!(together, [false, true, true, true, false, false], "MAIL, RCPT, RCPT, DATA in one write");
}

#[tokio::test]
async fn a_long_mail_that_is_called_off_before_its_end_never_ends() {
    let (smtp, to) = (SmtpServer::start().await, envelope(["ann@example.test"]));
    let (sender, long) = (sender(relay(&smtp)), mail_of(200_000));
    let watch = AtTheText { ends: false, ..AtTheText::that(true) };
    sender.send_if(&through_relay(), &to, &long, &terms(&watch)).await.expect_err("called off");
    smtp.left_alone().await;
    assert_eq!((smtp.count("DATA"), smtp.count("."), smtp.mails().len()), (1, 0, 0));
    let short = sender.send_if(&through_relay(), &to, MAIL, &terms(&watch)).await.unwrap();
    assert_eq!(verdicts(&short), [Accepted], "a text of one write was asked for a moment ago");
}

#[tokio::test]
async fn it_is_not_asked_where_nobody_was_accepted() {
    let smtp = SmtpServer::start().await;
    smtp.rcpt("ann@example.test").replies(["550 5.1.1 unknown"]);
    let (sender, watch) = (sender(relay(&smtp)), AtTheText::that(true));
    let envelope = envelope(["ann@example.test"]);
    let outcomes = sender.send_if(&through_relay(), &envelope, MAIL, &terms(&watch)).await.unwrap();
    assert_eq!((verdicts(&outcomes), watch.asked()), (vec![Permanent], 0));
}

#[tokio::test]
async fn a_closure_that_says_no_is_heard_before_mail() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    let envelope = envelope(["ann@example.test"]);
    let no = SendOptions { urgent: false, limits: Limits::default(), watch: &|| false };
    sender.send_if(&through_relay(), &envelope, MAIL, &no).await.expect_err("called off");
    assert_eq!(smtp.count("MAIL"), 0);
    assert_eq!(verdicts(&sender.send(&through_relay(), &envelope, MAIL).await), [Accepted]);
    assert_eq!(smtp.connections(), 1, "the session is kept for the next");
}
