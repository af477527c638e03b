//! An outcome has the stage that the attempt reached, and the signal about the destination that follows from it.

use postrider::domain::outcome::{Outcome, Signal, Stage};
use postrider::smtp::Settings;

use crate::support::sending::{relay, send, send_one, sender};
use crate::support::smtp::{Action, SmtpServer};

async fn stage_after(script: impl FnOnce(&SmtpServer)) -> (Stage, Option<Signal>) {
    let smtp = SmtpServer::start().await;
    script(&smtp);
    stage_and_signal(&send_one(&sender(relay(&smtp))).await)
}

fn stage_and_signal(outcome: &Outcome) -> (Stage, Option<Signal>) {
    (outcome.stage, outcome.signal())
}

#[tokio::test]
async fn a_failed_session_means_the_destination_is_unreachable() {
    let unreachable = Settings { relay: Some("smtp://127.0.0.9:1?tls=none".parse().unwrap()), ..Settings::default() };
    assert_eq!(stage_and_signal(&send_one(&sender(unreachable)).await), (Stage::Connect, Some(Signal::Unreachable)));
    assert_eq!(
        stage_after(|smtp| smtp.greeting().replies(["554 no"])).await,
        (Stage::Session, Some(Signal::Unreachable))
    );
    assert_eq!(stage_after(|smtp| smtp.ehlo().does([Action::Drop])).await, (Stage::Session, Some(Signal::Unreachable)));
}

#[tokio::test]
async fn a_421_at_any_stage_signals_to_slow_down() {
    let busy = || [Action::ReplyThenDrop("421 4.3.2 busy".into())];
    for (stage, found) in [
        (Stage::Session, stage_after(|smtp| smtp.greeting().does(busy())).await),
        (Stage::Mail, stage_after(|smtp| smtp.mail().does(busy())).await),
        (Stage::Rcpt, stage_after(|smtp| smtp.rcpt("ann@example.test").does(busy())).await),
        (Stage::Data, stage_after(|smtp| smtp.data().does(busy())).await),
        (Stage::FinalDot, stage_after(|smtp| smtp.dot().does(busy())).await),
    ] {
        assert_eq!(found, (stage, Some(Signal::Throttled)));
    }
}

#[tokio::test]
async fn a_drop_in_a_transaction_gives_no_signal() {
    for (stage, found) in [
        (Stage::Mail, stage_after(|smtp| smtp.mail().does([Action::Drop])).await),
        (Stage::Rcpt, stage_after(|smtp| smtp.rcpt("ann@example.test").does([Action::Drop])).await),
        (Stage::Data, stage_after(|smtp| smtp.data().does([Action::Drop])).await),
        (Stage::FinalDot, stage_after(|smtp| smtp.dot().does([Action::Drop])).await),
    ] {
        assert_eq!(found, (stage, None));
    }
}

#[tokio::test]
async fn each_recipient_has_the_stage_of_its_own_reply() {
    for offered in [["PIPELINING"], ["8BITMIME"]] {
        let smtp = SmtpServer::start().await;
        smtp.offers(offered);
        smtp.rcpt("bo@example.test").replies(["451 4.7.1 not so fast"]);
        let outcomes = send(&sender(relay(&smtp)), ["ann@example.test", "bo@example.test"]).await;
        assert_eq!(stage_and_signal(&outcomes[0]), (Stage::FinalDot, None));
        assert_eq!(stage_and_signal(&outcomes[1]), (Stage::Rcpt, Some(Signal::Throttled)));
    }
}
