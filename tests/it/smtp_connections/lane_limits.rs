//! The limits of a lane apply to all its servers together.

use std::time::Duration;

use futures_util::future::join_all;
use postrider::domain::outcome::Outcome;
use postrider::domain::outcome::Verdict::Accepted;
use postrider::smtp::{Limits, NotAttempted, Route, SendOptions, Sender, Settings, Timeouts};

use crate::support::dns::DnsServer;
use crate::support::sending::{MAIL, envelope, relay, sender, through_relay};
use crate::support::smtp::{SmtpServer, three};

async fn send(sender: &Sender, route: &Route, limits: &Limits) -> Result<Outcome, NotAttempted> {
    let options = SendOptions { urgent: false, limits: limits.clone(), guard: &|| true };
    let outcomes = sender.send_if(route, &envelope(["ann@example.test"]), MAIL, &options).await?;
    Ok(outcomes.into_iter().next().unwrap())
}

fn lane(connections: usize) -> Limits {
    Limits { lane: Some(1), connections: Some(connections), ..Limits::default() }
}

#[tokio::test]
async fn the_connection_limit_covers_all_servers_of_a_domain() {
    let dns = DnsServer::start().await;
    let [first, second, third] = three().await;
    for (host, ip) in [("a.test", "127.0.0.1"), ("b.test", "127.0.0.2"), ("c.test", "127.0.0.3")] {
        dns.mx("example.test", 10, host);
        dns.add_address(host, ip);
    }
    let settings = Settings {
        dns: Some(dns.address()),
        mx_port: first.address().port(),
        allow_loopback_mx: true,
        ..Settings::default()
    };
    let (sender, route) = (sender(settings), Route::Mx { domain: "example.test".into() });
    let servers = [&first, &second, &third];
    for _ in 0..5 {
        let outcomes = join_all((0..20).map(async |_| {
            let outcome = send(&sender, &route, &lane(2)).await;
            // Idle connections count too.
            let open: usize = servers.iter().map(|smtp| smtp.open_connections()).sum();
            assert!(open <= 2, "{open} open");
            assert!(sender.open_connections(1) <= 2);
            outcome
        }))
        .await;
        assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap().verdict == Accepted));
    }
    assert_eq!(servers.iter().map(|smtp| smtp.messages().len()).sum::<usize>(), 100);
    assert!(servers.iter().all(|smtp| smtp.connections() > 0), "all three servers got messages");
    sender.close().await;
    assert_eq!(sender.open_connections(1), 0);
}

#[tokio::test]
async fn a_message_that_gets_no_connection_makes_no_attempt() {
    let smtp = SmtpServer::start().await;
    let timeouts = Timeouts { slot: Duration::from_millis(50), ..Timeouts::default() };
    let sender = sender(Settings { timeouts, ..relay(&smtp) });
    let gate = smtp.mail().stalls();
    let (route, limits) = (through_relay(), lane(1));
    let (first, second) = tokio::join!(send(&sender, &route, &limits), async {
        gate.reached().await;
        let second = send(&sender, &route, &limits).await;
        let other = send(&sender, &route, &Limits::default()).await;
        assert_eq!(other.unwrap().verdict, Accepted, "another lane has its own connections");
        gate.open();
        second
    });
    assert_eq!(first.unwrap().verdict, Accepted);
    assert!(second.expect_err("no connection was free").0.text.contains("of its lane stayed in use"));
}

#[tokio::test]
async fn a_lower_limit_closes_excess_idle_connections() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    let gates = [smtp.mail().stalls(), smtp.mail().stalls()];
    let (route, two) = (through_relay(), lane(2));
    tokio::join!(send(&sender, &route, &two), send(&sender, &route, &two), async {
        for gate in &gates {
            gate.reached().await;
            gate.open();
        }
    })
    .0
    .unwrap();
    assert_eq!(sender.open_connections(1), 2);
    send(&sender, &route, &lane(1)).await.unwrap();
    smtp.wait_for_lines("QUIT", 1).await;
    assert_eq!(smtp.connections(), 2);
}

#[tokio::test]
async fn mails_per_connection_limits_each_connection() {
    let smtp = SmtpServer::start().await;
    let sender = sender(relay(&smtp));
    let limits = Limits { messages_per_connection: Some(5), ..lane(2) };
    for _ in 0..11 {
        send(&sender, &through_relay(), &limits).await.unwrap();
    }
    let carried: Vec<usize> = smtp.messages().iter().map(|message| message.connection).collect();
    assert_eq!(carried, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]);
    assert_eq!((smtp.count("QUIT"), smtp.max_open()), (2, 1));
}

#[tokio::test]
async fn a_lane_may_raise_mails_per_connection() {
    let smtp = SmtpServer::start().await;
    let sender = sender(Settings { messages_per_connection: 1, ..relay(&smtp) });
    let limits = Limits { messages_per_connection: Some(3), ..Limits::default() };
    for _ in 0..3 {
        send(&sender, &through_relay(), &limits).await.unwrap();
    }
    assert_eq!(smtp.connections(), 1);
}
