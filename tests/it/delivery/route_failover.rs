//! Routes with several relays: if the first relay is unreachable, the next one is used, and only some messages wait for
//! the timeout of the first.

use std::time::Duration;

use postrider::domain::outcome::Verdict::{Accepted, Permanent, Temporary};
use postrider::domain::outcome::{Outcome, Stage};
use postrider::domain::routing::RouteName;
use postrider::smtp::{Route, Sender, Settings, Timeouts};

use crate::support::sending::{MAIL, envelope, sender};
use crate::support::smtp::{Action, SmtpServer};

/// No server listens at this address.
const UNREACHABLE: &str = "smtp://127.0.0.9:1?tls=none";

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

/// Returns a sender with one connection per relay. A message waits at most `slot_or_next` for the connection before it
/// goes to the next relay, if there is one.
fn with_one_connection<const N: usize>(relays: &[String; N], slot_or_next: Duration) -> Sender {
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
async fn second_relay_is_used_if_the_first_is_unreachable() {
    let second = SmtpServer::start().await;
    let outcome = send_one(&through(&[UNREACHABLE.into(), url(&second)])).await;
    assert_eq!((outcome.verdict, outcome.peer.ip), (Accepted, Some(second.address().ip())));
    assert_eq!(second.messages().len(), 1);
}

#[tokio::test]
async fn unreachable_relay_is_not_tried_for_each_message() {
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    first.greeting().replies(["554 5.3.2 gone", "554 5.3.2 gone", "554 5.3.2 gone"]);
    let sender = through(&[url(&first), url(&second)]);
    for _ in 0..3 {
        assert_eq!(send_one(&sender).await.verdict, Accepted);
    }
    assert_eq!((first.connections(), second.messages().len()), (1, 3));
}

#[tokio::test]
async fn hanging_relay_delays_only_its_current_message() {
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    let hang = first.greeting().stalls();
    let sender = with_one_connection(&[url(&first), url(&second)], Duration::from_millis(50));
    let (first_mail, ()) = tokio::join!(send_one(&sender), async {
        hang.reached().await;
        for sent in 1..=2 {
            assert_eq!(send_one(&sender).await.verdict, Accepted);
            assert_eq!((first.connections(), second.messages().len()), (1, sent));
        }
        hang.open();
    });
    assert_eq!((first_mail.verdict, first.messages().len()), (Accepted, 1));
}

#[tokio::test]
async fn messages_waiting_for_a_failed_relay_use_the_next() {
    let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
    first.greeting().does([Action::ReplyAfter("554 5.3.2 gone".into(), Duration::from_millis(100))]);
    let sender = with_one_connection(&[url(&first), url(&second)], Duration::from_mins(1));
    tokio::join!(send_one(&sender), send_one(&sender), send_one(&sender));
    assert_eq!((first.connections(), second.messages().len()), (1, 3));
}

#[tokio::test]
async fn relay_that_is_busy_or_defers_the_sender_is_skipped() {
    for reply in ["421 4.3.2 busy", "451 4.3.0 later"] {
        let (first, second) = (SmtpServer::start().await, SmtpServer::start().await);
        first.mail().replies([reply]);
        assert_eq!(send_one(&through(&[url(&first), url(&second)])).await.verdict, Accepted, "{reply}");
        assert_eq!((first.count("MAIL"), second.messages().len()), (1, 1));
    }
}

#[tokio::test]
async fn no_failover_after_a_reply_to_rcpt_or_permanent_reply() {
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
async fn outcome_names_each_relay_and_its_error() {
    let second = SmtpServer::start().await;
    second.greeting().replies(["421 4.3.2 too busy for you"]);
    let outcome = send_one(&through(&[UNREACHABLE.into(), url(&second)])).await;
    assert_eq!((outcome.verdict, outcome.stage, outcome.reply.code), (Temporary, Stage::Session, Some(421)));
    let text = outcome.reply.text;
    assert!(text.contains("127.0.0.9:1: could not connect"), "{text}");
    assert!(text.contains(&format!("{}: 421 4.3.2 too busy for you", second.address())), "{text}");
}

#[tokio::test]
async fn routes_with_the_same_relay_share_connections() {
    let smtp = SmtpServer::start().await;
    let relays = vec![url(&smtp).parse().unwrap()];
    let routes = [("news".to_owned(), relays.clone()), ("other".to_owned(), relays)].into();
    let sender = sender(Settings { routes, ..Settings::default() });
    for name in ["news", "other"] {
        let route = Route::Relay(RouteName::Named(name.into()));
        sender.send(&route, &envelope(["ann@example.test"]), MAIL).await;
    }
    assert_eq!((smtp.connections(), smtp.messages().len()), (1, 2));
}
