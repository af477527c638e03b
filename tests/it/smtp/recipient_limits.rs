//! If a server limits the recipients of a transaction, the others follow at once in the next one (RFC 5321
//! §4.5.3.1.10).

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use postrider::domain::outcome::Outcome;
use postrider::domain::outcome::Verdict::{self, Accepted, Permanent, Temporary, Uncertain};
use postrider::smtp::{Limits, SendGuard, SendOptions, Settings};

use crate::support::sending::{MAIL, envelope, relay, send, send_one, sender, through_relay, verdicts};
use crate::support::smtp::{Action, SmtpServer};

const FIVE: [&str; 5] = ["a@x.test", "b@x.test", "c@x.test", "d@x.test", "e@x.test"];

/// Returns a server that accepts two of five recipients at a time, and refuses the others with this reply.
async fn two_at_a_time(reply: &str) -> SmtpServer {
    let smtp = SmtpServer::start().await;
    for address in &FIVE[2..] {
        smtp.rcpt(address).replies([reply]);
    }
    smtp
}

/// Returns the recipients of each message.
fn recipients_by_message(smtp: &SmtpServer) -> Vec<Vec<String>> {
    smtp.messages().into_iter().map(|message| message.to).collect()
}

fn to_strings(messages: &[&[&str]]) -> Vec<Vec<String>> {
    messages.iter().map(|to| to.iter().map(ToString::to_string).collect()).collect()
}

#[tokio::test]
async fn remaining_recipients_follow_at_once_for_any_code() {
    for reply in [
        "452 4.5.3 Error: too many recipients",
        "452 Too many recipients received this transaction",
        "552 too many recipients",
        "552 sorry",
        "550 Too many recipients",
        "550 5.5.3 RESOLVER.ADR.RecipLimit; too many recipients",
        "503 5.5.0 too many RCPT commands",
        "554 5.7.1 maximum number of recipients reached",
    ] {
        let smtp = two_at_a_time(reply).await;
        let outcomes = send(&sender(relay(&smtp)), FIVE).await;
        assert_eq!(verdicts(&outcomes), [Accepted; 5], "{reply}");
        assert_eq!(recipients_by_message(&smtp), to_strings(&[&FIVE[..2], &FIVE[2..4], &FIVE[4..]]), "{reply}");
        assert_eq!(smtp.connections(), 1, "{reply}");
    }
}

#[tokio::test]
async fn remaining_recipients_follow_without_pipelining() {
    let smtp = two_at_a_time("552 too many recipients").await;
    smtp.offers(["8BITMIME"]);
    assert_eq!(verdicts(&send(&sender(relay(&smtp)), FIVE).await), [Accepted; 5]);
    assert_eq!(recipients_by_message(&smtp).len(), 3);
}

#[tokio::test]
async fn the_limit_is_remembered_for_the_next_message() {
    let smtp = two_at_a_time("452 4.5.3 too many recipients").await;
    let sender = sender(relay(&smtp));
    send(&sender, FIVE).await;
    assert_eq!(verdicts(&send(&sender, FIVE).await), [Accepted; 5]);
    assert_eq!((smtp.messages().len(), smtp.count("RCPT")), (6, 5 + 3 + 5));
}

#[tokio::test]
async fn each_transaction_counts_towards_mails_per_connection() {
    let smtp = two_at_a_time("552 too many recipients").await;
    let sender = sender(Settings { messages_per_connection: 1, ..relay(&smtp) });
    assert_eq!(verdicts(&send(&sender, FIVE).await), [Accepted; 5]);
    assert_eq!((smtp.messages().len(), smtp.connections()), (3, 3));
}

#[tokio::test]
async fn other_refusals_are_not_taken_for_a_recipient_limit() {
    let smtp = SmtpServer::start().await;
    smtp.rcpt("a@x.test").replies(["550 5.5.3 too many recipients"]);
    assert_eq!(
        verdicts(&send(&sender(relay(&smtp)), ["a@x.test"]).await),
        [Permanent],
        "no recipient was accepted before it"
    );
    for reply in ["552 5.2.2 mailbox full", "552 message size exceeds the limit", "550 5.1.1 unknown"] {
        smtp.rcpt("b@x.test").replies([reply]);
        let outcomes = send(&sender(relay(&smtp)), ["a@x.test", "b@x.test"]).await;
        assert_eq!(verdicts(&outcomes), [Accepted, Permanent], "{reply}");
    }
}

#[tokio::test]
async fn a_lasting_limit_defers_the_remaining_recipients() {
    let smtp = two_at_a_time("550 too many recipients").await;
    smtp.rcpt("c@x.test").replies(["550 too many recipients"]);
    let outcomes = send(&sender(relay(&smtp)), FIVE).await;
    // The second transaction tried c and d, but only d was accepted; c and e follow.
    assert_eq!(verdicts(&outcomes), [Accepted; 5]);

    let smtp = SmtpServer::start().await;
    smtp.rcpt("b@x.test").replies(["550 too many recipients", "550 too many recipients"]);
    let outcomes = send(&sender(relay(&smtp)), ["a@x.test", "b@x.test"]).await;
    assert_eq!(verdicts(&outcomes), [Accepted, Temporary]);
    assert_eq!(recipients_by_message(&smtp), to_strings(&[&["a@x.test"]]));
}

/// Sends a message to three recipients, which takes two transactions. `script` prepares the server.
async fn with_second_transaction(script: impl Fn(&SmtpServer)) -> (Vec<Outcome>, SmtpServer) {
    let smtp = two_at_a_time("552 too many recipients").await;
    script(&smtp);
    let outcomes = send(&sender(relay(&smtp)), ["a@x.test", "b@x.test", "c@x.test"]).await;
    (outcomes, smtp)
}

#[tokio::test]
async fn second_transaction_does_not_change_the_first_ones_outcome() {
    let usual = || Action::from("250 2.0.0 queued");
    let expect = |outcomes: &[Outcome], third: Verdict, messages: usize, smtp: &SmtpServer| {
        assert_eq!(verdicts(outcomes), [Accepted, Accepted, third]);
        assert_eq!(smtp.messages().len(), messages);
    };
    let (outcomes, smtp) = with_second_transaction(|smtp| smtp.dot().does([usual(), Action::Drop])).await;
    expect(&outcomes, Uncertain, 1, &smtp);
    let (outcomes, smtp) = with_second_transaction(|smtp| smtp.dot().does([usual(), "451 4.3.0 later".into()])).await;
    expect(&outcomes, Temporary, 1, &smtp);
    let (outcomes, smtp) = with_second_transaction(|smtp| smtp.dot().does([usual(), "554 5.7.1 spam".into()])).await;
    expect(&outcomes, Permanent, 1, &smtp);
    let (outcomes, smtp) = with_second_transaction(|smtp| smtp.mail().does([usual(), "450 4.3.0 later".into()])).await;
    expect(&outcomes, Temporary, 1, &smtp);
    // The server closes the connection after each message: a new connection is no new attempt.
    let (outcomes, smtp) = with_second_transaction(|smtp| smtp.mail().does([usual(), Action::Drop])).await;
    expect(&outcomes, Accepted, 2, &smtp);
    assert_eq!(smtp.connections(), 2);
    // A failed connection is no new attempt either.
    let refused = || Action::ReplyThenDrop("421 4.3.2 closing".into());
    let (outcomes, smtp) = with_second_transaction(|smtp| {
        smtp.mail().does([usual(), Action::Drop]);
        smtp.greeting().does(["220 hello".into(), refused(), refused(), refused()]);
    })
    .await;
    expect(&outcomes, Temporary, 1, &smtp);
}

#[tokio::test]
async fn a_failed_first_transaction_is_not_followed_by_another() {
    for (script, expected) in [("451 4.3.0 later", Temporary), ("421 4.3.2 closing", Temporary)] {
        let (outcomes, smtp) = with_second_transaction(|smtp| smtp.dot().replies([script])).await;
        assert_eq!((verdicts(&outcomes), smtp.messages().len()), (vec![expected; 3], 0), "{script}");
    }
    let (outcomes, smtp) = with_second_transaction(|smtp| smtp.dot().does([Action::Drop])).await;
    assert_eq!(verdicts(&outcomes), [Uncertain, Uncertain, Temporary], "the third was not sent");
    assert_eq!(smtp.messages().len(), 0);
}

#[tokio::test]
async fn a_text_refused_for_some_is_sent_to_the_others() {
    let (outcomes, smtp) =
        with_second_transaction(|smtp| smtp.dot().replies(["554 5.7.1 a rule of one of them"])).await;
    assert_eq!(verdicts(&outcomes), [Permanent, Permanent, Accepted]);
    assert_eq!(recipients_by_message(&smtp), to_strings(&[&["c@x.test"]]));
}

#[tokio::test]
async fn a_421_recipient_limit_leads_to_smaller_transactions() {
    let smtp = SmtpServer::start().await;
    smtp.rcpt("c@x.test").does([Action::ReplyThenDrop("421 4.5.3 too many recipients".into())]);
    let outcomes = send(&sender(relay(&smtp)), FIVE).await;
    assert_eq!(verdicts(&outcomes), [Accepted; 5]);
    assert_eq!(recipients_by_message(&smtp), to_strings(&[&FIVE[..2], &FIVE[2..4], &FIVE[4..]]));
    assert_eq!(smtp.connections(), 2);
}

/// A guard that allows only the first transaction's text.
#[derive(Default)]
struct FirstTextOnly {
    calls: AtomicUsize,
    done: Mutex<Vec<usize>>,
}

impl SendGuard for FirstTextOnly {
    fn may_start(&self) -> bool {
        true
    }

    fn may_send_text<'a>(&'a self, _: &'a [usize]) -> BoxFuture<'a, bool> {
        ready(self.calls.fetch_add(1, Ordering::Relaxed) == 0).boxed()
    }

    fn recipients_done(&self, outcomes: Vec<(usize, Outcome)>) {
        assert!(outcomes.iter().all(|(_, outcome)| outcome.verdict == Accepted && outcome.peer.ip.is_some()));
        self.done.lock().unwrap().extend(outcomes.iter().map(|(position, _)| *position));
    }
}

#[tokio::test]
async fn withdrawal_between_transactions_keeps_outcomes() {
    let smtp = two_at_a_time("552 too many recipients").await;
    let guard = FirstTextOnly::default();
    let options = SendOptions { urgent: true, limits: Limits::default(), guard: &guard };
    let outcomes = sender(relay(&smtp)).send_if(&through_relay(), &envelope(FIVE), MAIL, &options).await.unwrap();
    assert_eq!(verdicts(&outcomes), [Accepted, Accepted, Temporary, Temporary, Temporary]);
    assert_eq!(recipients_by_message(&smtp), to_strings(&[&FIVE[..2]]));
    assert_eq!(*guard.done.lock().unwrap(), [0, 1], "reported before the second transaction started");
}

#[tokio::test]
async fn a_session_at_the_servers_message_limit_is_replaced() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    send_one(&sender).await;
    smtp.mail().replies(["450 4.7.1 Too many messages in this session"]);
    assert_eq!(send_one(&sender).await.verdict, Accepted);
    assert_eq!(smtp.connections(), 2);
    // On a new session it is a refusal of the message.
    let smtp = SmtpServer::start().await;
    smtp.mail().replies(["450 4.7.1 Too many messages in this session"]);
    assert_eq!(send_one(&crate::support::sending::sender(relay(&smtp))).await.verdict, Temporary);
}
