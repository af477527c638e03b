//! An outcome has the stage that the attempt reached, and what that says about the destination.

use postrider::domain::outcome::{Outcome, Signal, Stage};
use postrider::smtp::Settings;

use crate::support::sending::{relay, send, send_one, sender};
use crate::support::smtp::{Action, SmtpServer};

async fn after(script: impl FnOnce(&SmtpServer)) -> (Stage, Option<Signal>) {
    let smtp = SmtpServer::start().await;
    script(&smtp);
    told(&send_one(&sender(relay(&smtp))).await)
}

fn told(outcome: &Outcome) -> (Stage, Option<Signal>) {
    (outcome.stage, outcome.signal())
}

#[tokio::test]
async fn nobody_there_and_no_session_are_about_the_destination() {
    let nobody = Settings { relay: Some("smtp://127.0.0.9:1?tls=none".parse().unwrap()), ..Settings::default() };
    assert_eq!(told(&send_one(&sender(nobody)).await), (Stage::Connect, Some(Signal::Unreachable)));
    assert_eq!(after(|smtp| smtp.greeting().replies(["554 no"])).await, (Stage::Session, Some(Signal::Unreachable)));
    assert_eq!(after(|smtp| smtp.ehlo().does([Action::Drop])).await, (Stage::Session, Some(Signal::Unreachable)));
}

#[tokio::test]
async fn a_421_asks_to_slow_down_wherever_it_comes() {
    let busy = || [Action::ReplyThenDrop("421 4.3.2 busy".into())];
    for (stage, seen) in [
        (Stage::Session, after(|smtp| smtp.greeting().does(busy())).await),
        (Stage::Mail, after(|smtp| smtp.mail().does(busy())).await),
        (Stage::Rcpt, after(|smtp| smtp.rcpt("ann@example.test").does(busy())).await),
        (Stage::Data, after(|smtp| smtp.data().does(busy())).await),
        (Stage::FinalDot, after(|smtp| smtp.dot().does(busy())).await),
    ] {
        assert_eq!(seen, (stage, Some(Signal::SlowDown)));
    }
}

#[tokio::test]
async fn a_link_that_dies_in_a_transaction_is_about_that_mail() {
    for (stage, seen) in [
        (Stage::Mail, after(|smtp| smtp.mail().does([Action::Drop])).await),
        (Stage::Rcpt, after(|smtp| smtp.rcpt("ann@example.test").does([Action::Drop])).await),
        (Stage::Data, after(|smtp| smtp.data().does([Action::Drop])).await),
        (Stage::FinalDot, after(|smtp| smtp.dot().does([Action::Drop])).await),
    ] {
        assert_eq!(seen, (stage, None));
    }
}

#[tokio::test]
async fn each_recipient_has_the_stage_of_its_own_answer() {
    for offered in [["PIPELINING"], ["8BITMIME"]] {
        let smtp = SmtpServer::start().await;
        smtp.offers(offered);
        smtp.rcpt("bo@example.test").replies(["451 4.7.1 not so fast"]);
        let outcomes = send(&sender(relay(&smtp)), ["ann@example.test", "bo@example.test"]).await;
        assert_eq!(told(&outcomes[0]), (Stage::FinalDot, None));
        assert_eq!(told(&outcomes[1]), (Stage::Rcpt, Some(Signal::SlowDown)));
    }
}
