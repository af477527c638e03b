//! Addresses by which a server could be made to relay: each is refused, with and without a route for the whole domain.

use super::relay::{builder, relay_route, relays, url};
use super::{deliver, received, route, start};
use crate::support::app::TestApp;
use crate::support::inbound_client::Client;
use crate::support::smtp::SmtpServer;

/// Paths that must be refused although `*@reply.acme.test` and `support@reply.acme.test` are received.
const REFUSED: &[&str] = &[
    // Other domains.
    "victim@other.test",
    "VICTIM@OTHER.TEST",
    "support@acme.test",
    "support@test",
    "support@reply.acme.test.other.test",
    "support@xreply.acme.test",
    "support@reply-acme.test",
    "support@sub.reply.acme.test",
    "victim@localhost",
    "victim@postrider.test",
    // The percent hack, bang paths, and other routes in the local part.
    "victim%other.test@reply.acme.test",
    "victim%other.test%a.test@reply.acme.test",
    "other.test!victim@reply.acme.test",
    "a.test!other.test!victim@reply.acme.test",
    "victim/other.test@reply.acme.test",
    "|cat@reply.acme.test",
    "other.test!victim%a.test@reply.acme.test",
    // Quoted local parts.
    "\"victim@other.test\"@reply.acme.test",
    "\"victim%other.test\"@reply.acme.test",
    "\"support\"@reply.acme.test",
    "\"\"@reply.acme.test",
    "\"victim\\@other.test\"@reply.acme.test",
    "\"@other.test:victim\"@reply.acme.test",
    "\"a b\"@reply.acme.test",
    "\"|/bin/sh\"@reply.acme.test",
    // Several @.
    "victim@other.test@reply.acme.test",
    "support@reply.acme.test@other.test",
    "@reply.acme.test@other.test",
    // Source routes to other domains.
    "@reply.acme.test:victim@other.test",
    "@a.test,@reply.acme.test:victim@other.test",
    // Literals and other forms of domains.
    "support@[127.0.0.1]",
    "support@[IPv6:::1]",
    "victim@127.0.0.1",
    "support@reply.acme.test.",
    "support@.reply.acme.test",
    "support@reply..acme.test",
    "support@",
    "support",
    "@reply.acme.test",
    "",
    " support@reply.acme.test",
    "support@reply.acme.test victim@other.test",
    "support@reply.acme.test,victim@other.test",
    "support@reply.acme.test>,<victim@other.test",
    "support@reply.acme.test\tx",
    "smtp:victim@other.test",
    "support(victim@other.test)@reply.acme.test",
];

async fn refused(app: &TestApp, path: &str) -> Option<String> {
    let mut client = Client::connect(app.inbound()).await;
    client.send("EHLO mx.example.test\r\nMAIL FROM:<ann@example.test>\r\n").await;
    assert_eq!(client.codes(2).await, [250, 250]);
    let reply = client.say(&format!("RCPT TO:<{path}>\r\n")).await;
    let is_refused = matches!(&reply[..3], "500" | "501" | "550" | "553" | "555");
    let data = client.code("DATA\r\n").await;
    (!is_refused || data != 554).then(|| format!("{path}: {reply}"))
}

#[tokio::test]
async fn no_form_of_an_address_makes_it_an_open_relay() {
    let app =
        TestApp::builder().with_inbound().config(|config| config.inbound.messages_per_minute = 10_000).start().await;
    let mut wrong = Vec::new();
    for path in REFUSED {
        wrong.extend(refused(&app, path).await);
    }
    assert!(wrong.is_empty(), "without routes: {wrong:#?}");
    route(&app, "support@reply.acme.test", "store").await;
    route(&app, "*@reply.acme.test", "store").await;
    for path in REFUSED {
        wrong.extend(refused(&app, path).await);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(received(&app).await.len(), 0);
    assert!(app.smtp.messages().is_empty(), "nothing is sent");
}

/// Paths that must be refused with rewritten senders, too: nobody but this installation can make them.
const REWRITTEN: &[&str] = &[
    "SRS0=AAAAAAAA=AA=other.test=victim@srs.acme.test",
    "srs0=AAAAAAAA=AA=other.test=victim@SRS.ACME.test",
    "SRS0+AAAAAAAA=AA=other.test=victim@srs.acme.test",
    "SRS0==AA=other.test=victim@srs.acme.test",
    "SRS0=other.test=victim@srs.acme.test",
    "SRS0=@srs.acme.test",
    "SRS1=AAAAAAAA=other.test==AAAA=AA=other.test=victim@srs.acme.test",
    "SRS1=AAAAAAAA=other.test=victim@srs.acme.test",
    "SRS0=AAAAAAAA=AA=other.test=victim@reply.acme.test.other.test",
    "victim@srs.acme.test",
    "victim=other.test@srs.acme.test",
    "victim%other.test@srs.acme.test",
];

#[tokio::test]
async fn routes_with_relay_do_not_make_it_an_open_relay() {
    let app = builder()
        .config(|config| {
            config.inbound.messages_per_minute = 10_000;
            config.inbound.srs_domain = Some("srs.acme.test".into());
        })
        .start()
        .await;
    let inside = SmtpServer::start().await;
    relay_route(&app, "support@reply.acme.test", &url(&inside)).await;
    relay_route(&app, "*@reply.acme.test", &url(&inside)).await;
    let mut wrong = Vec::new();
    for path in REFUSED.iter().chain(REWRITTEN) {
        wrong.extend(refused(&app, path).await);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // An accepted message goes to the server of the route, whatever its header says.
    let mime = "From: a@other.test\r\nTo: victim@other.test\r\nBcc: victim@other.test\r\n\r\nHi\r\n";
    assert_eq!(deliver(&app, "ann@other.test", &["x@reply.acme.test"], mime).await[1], "250 2.0.0 Accepted\r\n");
    relays(&app, "message_id").await;
    app.run_until_idle().await;
    let copies = inside.received(1).await;
    assert_eq!((copies.len(), copies[0].to.as_slice()), (1, &["x@reply.acme.test".to_owned()][..]));
    assert_eq!(received(&app).await.len(), 1);
    assert!(app.smtp.messages().is_empty(), "nothing leaves by another route");
}

#[tokio::test]
async fn own_address_is_accepted_in_its_other_forms() {
    let app = start().await;
    route(&app, "support@reply.acme.test", "store").await;
    // A source route is ignored, and only the last address counts (RFC 5321, appendix C).
    for path in
        ["SUPPORT@REPLY.ACME.TEST", "@other.test:support@reply.acme.test", "@a.test,@b.test:support@reply.acme.test"]
    {
        let mut client = Client::connect(app.inbound()).await;
        client.send(&format!("EHLO x\r\nMAIL FROM:<ann@example.test>\r\nRCPT TO:<{path}>\r\n")).await;
        assert_eq!(client.codes(3).await, [250, 250, 250], "{path}");
    }
}
