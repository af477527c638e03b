//! A route with several relays: if the first is dead, the next one is used, and a dead relay does not cost every
//! message a timeout.

use std::time::Duration;

use postrider::domain::outcome::Verdict::{Accepted, Permanent, Temporary};
use postrider::domain::outcome::{Outcome, Stage};
use postrider::domain::routing::RouteName;
use postrider::smtp::{Route, Sender, Settings, Timeouts};

use crate::support::sending::{MAIL, envelope, sender};
use crate::support::smtp::{Action, SmtpServer};

/// Nobody listens there.
const DEAD: &str = "smtp://127.0.0.9:1?tls=none";

fn url(smtp: &SmtpServer) -> String {
    format!("smtp://{}?tls=none", smtp.address())
}

fn through<const N: usize>(relays: &[String; N]) -> Sender {
    with(relays, Settings::default())
}

fn with<const N: usize>(relays: &[String; N], settings: Settings) -> Sender {
    let relays = relays.iter().map(|url| url.parse().unwrap()).collect();
    sender(Settings { routes: [("news".to_owned(), relays)].into(), ..settings })
}

/// With one connection to each relay, and this limit of the wait for it if there is another relay.
fn one_by_one<const N: usize>(relays: &[String; N], slot_or_next: Duration) -> Sender {
    let timeouts = Timeouts { slot_or_next, ..Timeouts::default() };
    with(relays, Settings { connections: 1, timeouts, ..Settings::default() })
}

async fn send<const N: usize>(sender: &Sender, to: [&str; N]) -> Vec<Outcome> {
    sender.send(&Route::Relay(RouteName::Named("news".into())), &envelope(to), MAIL).await
}

async fn send_one(sender: &Sender) -> Outcome {
    send(sender, ["ann@example.test"]).await.remove(0)
}

#[tokio::test]
async fn the_second_relay_takes_the_mail_when_the_first_is_dead() {
    let second = SmtpServer::start().await;
    let outcome = send_one(&through(&[DEAD.into(), url(&second)])).await;
    assert_eq!((outcome.verdict, outcome.peer.ip), (Accepted, Some(second.address().ip())));
    assert_eq!(second.mails().len(), 1);
}

#[tokio::test]
async fn a_relay_that_is_dead_for_long_is_not_tried_for_each_mail() {
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    first.greeting().replies(["554 5.3.2 gone", "554 5.3.2 gone", "554 5.3.2 gone"]);
    let sender = through(&[url(&first), url(&second)]);
    for _ in 0..3 {
        assert_eq!(send_one(&sender).await.verdict, Accepted);
    }
    assert_eq!((first.connections(), second.mails().len()), (1, 3));
}

#[tokio::test]
async fn a_relay_that_hangs_keeps_those_only_that_it_has() {
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    let hang = first.greeting().stalls();
    let sender = one_by_one(&[url(&first), url(&second)], Duration::from_millis(50));
    let (first_mail, ()) = tokio::join!(send_one(&sender), async {
        hang.reached().await;
        for sent in 1..=2 {
            assert_eq!(send_one(&sender).await.verdict, Accepted);
            assert_eq!((first.connections(), second.mails().len()), (1, sent));
        }
        hang.open();
    });
    assert_eq!((first_mail.verdict, first.mails().len()), (Accepted, 1));
}

#[tokio::test]
async fn messages_waiting_for_a_dead_relay_go_to_the_next() {
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    first.greeting().does([Action::ReplyAfter("554 5.3.2 gone".into(), Duration::from_millis(100))]);
    let sender = one_by_one(&[url(&first), url(&second)], Duration::from_mins(1));
    tokio::join!(send_one(&sender), send_one(&sender), send_one(&sender));
    assert_eq!((first.connections(), second.mails().len()), (1, 3));
}

#[tokio::test]
async fn relay_that_is_busy_or_defers_the_sender_is_skipped() {
    for reply in ["421 4.3.2 busy", "451 4.3.0 later"] {
        let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
        first.mail().replies([reply]);
        assert_eq!(send_one(&through(&[url(&first), url(&second)])).await.verdict, Accepted, "{reply}");
        assert_eq!((first.count("MAIL"), second.mails().len()), (1, 1));
    }
}

#[tokio::test]
async fn once_a_recipient_was_judged_no_other_relay_is_asked() {
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    let sender = through(&[url(&first), url(&second)]);
    first.rcpt("ann@example.test").replies(["451 4.7.1 greylisted"]);
    assert_eq!(send_one(&sender).await.verdict, Temporary);
    first.mail().replies(["550 5.7.1 no"]);
    assert_eq!(send_one(&sender).await.verdict, Permanent);
    first.dot().does([Action::Drop]);
    send_one(&sender).await;
    assert_eq!(second.connections(), 0);
}

#[tokio::test]
async fn when_all_fail_the_outcome_names_each_with_its_words() {
    let second = SmtpServer::start().await;
    second.greeting().replies(["421 4.3.2 too busy for you"]);
    let outcome = send_one(&through(&[DEAD.into(), url(&second)])).await;
    assert_eq!((outcome.verdict, outcome.stage, outcome.reply.code), (Temporary, Stage::Session, Some(421)));
    let text = outcome.reply.text;
    assert!(text.contains("127.0.0.9:1: could not connect"), "{text}");
    assert!(text.contains(&format!("{}: 421 4.3.2 too busy for you", second.address())), "{text}");
}

#[tokio::test]
async fn the_same_relay_in_two_routes_shares_its_connections() {
    let smtp = SmtpServer::start().await;
    let relays = vec![url(&smtp).parse().unwrap()];
    let routes = [("news".to_owned(), relays.clone()), ("other".to_owned(), relays)].into();
    let sender = sender(Settings { routes, ..Settings::default() });
    for name in ["news", "other"] {
        let route = Route::Relay(RouteName::Named(name.into()));
        sender.send(&route, &envelope(["ann@example.test"]), MAIL).await;
    }
    assert_eq!((smtp.connections(), smtp.mails().len()), (1, 2));
}
