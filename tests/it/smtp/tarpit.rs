//! Servers that slowly send single bytes but never a complete reply. The time limit applies to the whole reply.

use std::time::{Duration, Instant};

use postrider::domain::outcome::Stage;
use postrider::domain::outcome::Verdict::{Accepted, Temporary};
use postrider::smtp::{Settings, Timeouts};

use crate::support::sending::{relay, send_one, sender};
use crate::support::smtp::{Action, SmtpServer};

/// Interval between the bytes of a slow server.
const PERIOD: Duration = Duration::from_millis(5);
/// Time limit of each reply, in place of the RFC's five minutes.
const WAIT: Duration = Duration::from_millis(150);

fn short_timeouts() -> Timeouts {
    Timeouts {
        greeting: WAIT,
        ehlo: WAIT,
        mail: WAIT,
        rcpt: WAIT,
        data: WAIT,
        final_dot: WAIT,
        quit: WAIT,
        ..Timeouts::default()
    }
}

#[tokio::test]
async fn single_bytes_do_not_extend_the_time_limit() {
    for stage in ["greeting", "ehlo", "mail", "rcpt", "data", "dot"] {
        // One endless line, and one reply with endless lines.
        for bytes in [b"250-wait ".as_slice(), b"250-\r\n"] {
            let smtp = SmtpServer::start().await;
            smtp.stage(stage, "ann@example.test").does([Action::Trickle(bytes, PERIOD)]);
            let (sender, started) = (sender(Settings { timeouts: short_timeouts(), ..relay(&smtp) }), Instant::now());
            let outcome = send_one(&sender).await;
            if stage == "dot" {
                assert_eq!(outcome.verdict, Accepted, "the code of any line decides");
            } else {
                assert_eq!(outcome.verdict, Temporary, "{stage}");
                assert!(outcome.reply.text.contains("took too long"), "{stage}: {}", outcome.reply.text);
            }
            assert!(started.elapsed() < 10 * WAIT, "{stage}");
            smtp.all_connections_closed().await;
        }
    }
}

#[tokio::test]
async fn a_session_that_opens_too_slowly_is_abandoned() {
    let smtp = SmtpServer::start().await;
    let slowly = |reply: &str| Action::ReplyAfter(reply.into(), WAIT);
    smtp.greeting().does([slowly("220 mx.test")]);
    smtp.ehlo().does([slowly("502 5.5.1 what?"), slowly("250 mx.test")]);
    let timeouts = Timeouts { session: 3 * WAIT / 2, ..Timeouts::default() };
    let outcome = send_one(&sender(Settings { timeouts, ..relay(&smtp) })).await;
    assert_eq!((outcome.verdict, outcome.stage), (Temporary, Stage::Session));
    assert!(outcome.reply.text.contains("took too long in all"), "{}", outcome.reply.text);
    smtp.all_connections_closed().await;
}
