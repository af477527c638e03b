//! The send guard can withdraw a message before MAIL, before its text, and before the end of a long text.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use postrider::domain::outcome::Verdict::{Accepted, Permanent};
use postrider::smtp::{Limits, SendGuard, SendOptions, Sender};

use crate::support::sending::{MAIL, envelope, message_of_size, relay, sender, through_relay, verdicts};
use crate::support::smtp::SmtpServer;

/// A guard that allows or denies sending the text, and counts its calls.
struct TextGuard {
    may_send_text: bool,
    may_finish: bool,
    calls: AtomicUsize,
    accepted: Mutex<Vec<usize>>,
}

impl TextGuard {
    fn new(may_send_text: bool) -> Self {
        Self { may_send_text, may_finish: true, calls: AtomicUsize::new(0), accepted: Mutex::default() }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl SendGuard for TextGuard {
    fn may_start(&self) -> bool {
        true
    }

    fn may_send_text<'a>(&'a self, accepted: &'a [usize]) -> BoxFuture<'a, bool> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        *self.accepted.lock().unwrap() = accepted.to_vec();
        async { self.may_send_text }.boxed()
    }

    fn may_finish(&self) -> bool {
        self.may_finish
    }
}

fn options(guard: &TextGuard) -> SendOptions<'_> {
    SendOptions { urgent: false, limits: Limits::default(), guard }
}

async fn send(sender: &Sender, guard: &TextGuard) -> bool {
    let envelope = envelope(["ann@example.test", "bo@example.test"]);
    sender.send_if(&through_relay(), &envelope, MAIL, &options(guard)).await.is_ok()
}

#[tokio::test]
async fn a_message_withdrawn_before_its_text_is_no_attempt() {
    for offered in [["PIPELINING"], ["8BITMIME"]] {
        let smtp = SmtpServer::start().await;
        smtp.offers(offered);
        smtp.rcpt("bo@example.test").replies(["550 5.1.1 unknown"]);
        let (sender, guard) = (sender(relay(&smtp)), TextGuard::new(false));
        assert!(!send(&sender, &guard).await);
        smtp.all_connections_closed().await;
        assert_eq!((guard.calls(), smtp.count("DATA"), smtp.count(".")), (1, 1, 0));
        assert_eq!(*guard.accepted.lock().unwrap(), [0], "bo was refused");

        assert!(send(&sender, &TextGuard::new(true)).await, "the next message uses a new connection");
        assert_eq!((smtp.connections(), smtp.messages().len()), (2, 1));
    }
}

#[tokio::test]
async fn guard_is_called_once_per_message_and_commands_are_pipelined() {
    let smtp = SmtpServer::start().await;
    let (sender, guard) = (sender(relay(&smtp)), TextGuard::new(true));
    assert!(send(&sender, &guard).await);
    assert_eq!(guard.calls(), 1);
    let together: Vec<bool> = smtp.lines().iter().map(|line| line.is_pipelined).collect();
    assert_eq!(together, [false, true, true, true, false, false], "MAIL, RCPT, RCPT, DATA in one write");
}

#[tokio::test]
async fn a_long_message_withdrawn_before_its_end_is_not_completed() {
    let (smtp, to) = (SmtpServer::start().await, envelope(["ann@example.test"]));
    let (sender, long) = (sender(relay(&smtp)), message_of_size(200_000));
    let guard = TextGuard { may_finish: false, ..TextGuard::new(true) };
    sender.send_if(&through_relay(), &to, &long, &options(&guard)).await.expect_err("withdrawn");
    smtp.all_connections_closed().await;
    assert_eq!((smtp.count("DATA"), smtp.count("."), smtp.messages().len()), (1, 0, 0));
    let short = sender.send_if(&through_relay(), &to, MAIL, &options(&guard)).await.unwrap();
    assert_eq!(verdicts(&short), [Accepted], "the guard is not called again before the end of a short text");
}

#[tokio::test]
async fn guard_is_not_called_if_no_recipient_was_accepted() {
    let smtp = SmtpServer::start().await;
    smtp.rcpt("ann@example.test").replies(["550 5.1.1 unknown"]);
    let (sender, guard) = (sender(relay(&smtp)), TextGuard::new(true));
    let envelope = envelope(["ann@example.test"]);
    let outcomes = sender.send_if(&through_relay(), &envelope, MAIL, &options(&guard)).await.unwrap();
    assert_eq!((verdicts(&outcomes), guard.calls()), (vec![Permanent], 0));
}

#[tokio::test]
async fn a_closure_withdraws_the_message_before_mail() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    let envelope = envelope(["ann@example.test"]);
    let no = SendOptions { urgent: false, limits: Limits::default(), guard: &|| false };
    sender.send_if(&through_relay(), &envelope, MAIL, &no).await.expect_err("withdrawn");
    assert_eq!(smtp.count("MAIL"), 0);
    assert_eq!(verdicts(&sender.send(&through_relay(), &envelope, MAIL).await), [Accepted]);
    assert_eq!(smtp.connections(), 1, "the session is reused for the next message");
}
