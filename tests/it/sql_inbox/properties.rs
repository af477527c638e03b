//! Whatever `postrider.send` lets through is accepted: its validation is stricter than that of the API.

use chrono::{DateTime, TimeDelta, Utc};
use postrider::accept::request::{self, Context, Limits};
use proptest::collection::{btree_map, vec};
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::{execute, problem, send, sender};
use crate::support::postgres::Database;

const CASES: usize = 500;
/// SQLSTATE of a JSON text with NUL, which Postgres cannot store.
const UNTRANSLATABLE: &str = "22P05";

/// Returns a strategy that is usually the first one.
fn usually(good: BoxedStrategy<Value>, wild: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    prop_oneof![12 => good, 1 => wild].boxed()
}

fn text(pattern: &'static str) -> BoxedStrategy<Value> {
    pattern.prop_map(Value::String).boxed()
}

fn anything() -> BoxedStrategy<Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!(5)),
        Just(json!([])),
        Just(json!({})),
        any::<String>().prop_map(Value::String),
        text("[ -~\u{80}-\u{ff}\u{2000}-\u{2060}]{0,30}"),
    ]
    .boxed()
}

fn address() -> BoxedStrategy<Value> {
    let bare = prop_oneof![
        6 => "[a-zA-Z0-9][a-z0-9!#$%&'*+/=?^_`{|}~-]{0,8}@[a-z]{1,8}\\.[a-z]{2,4}",
        1 => "[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~\"@ -]{1,12}@[a-zA-Z0-9.\\[\\]-]{1,12}",
        1 => "[a-z]{1,70}@[a-z]{1,70}\\.[a-z]{1,70}\\.[a-z]{1,70}",
        1 => "(delivered|bounce|bounce-data|defer|greylist|dsn|slow)(-[0-9.]{1,8})?(\\+[a-z]{0,4})?@simulator\\.postrider\\.test",
    ];
    let named = ("[ -~\u{a0}-\u{ff}\u{2028}]{0,12}", bare.clone());
    prop_oneof![
        4 => bare.clone().prop_map(Value::String),
        1 => named.clone().prop_map(|(name, address)| json!(format!("{name} <{address}>"))),
        1 => named.clone().prop_map(|(name, address)| json!(format!("\"{name}\" <{address}>"))),
        2 => named.prop_map(|(name, address)| json!({"email": address, "name": name})),
    ]
    .boxed()
}

fn addresses() -> BoxedStrategy<Value> {
    prop_oneof![2 => address(), 1 => vec(address(), 0..4).prop_map(|list| json!(list))].boxed()
}

fn header() -> impl Strategy<Value = (String, Value)> {
    let name = prop_oneof![
        3 => "X-[A-Za-z0-9]{1,10}",
        2 => prop::sample::select(vec![
            "References", "In-Reply-To", "List-Unsubscribe", "List-Id", "Comments", "Keywords", "Precedence", "Errors-To",
            "X-Priority", "Feedback-ID", "Auto-Submitted", "Date", "Content-Language", "Resent-To", "ARC-Seal", "Bcc",
        ])
        .prop_map(str::to_owned),
        1 => "[!-~]{1,80}",
    ];
    let value = prop_oneof![4 => text("[ -~]{0,60}"), 1 => text("[ -~]{880,1000}"), 1 => text("[ -~\u{80}-\u{3ff}]{0,20}"), 1 => anything()];
    (name, value)
}

fn attachment() -> BoxedStrategy<Value> {
    let content = usually(text("([A-Za-z0-9+/]{4}){0,6}(YQ==|YWI=)?"), text("[A-Za-z0-9+/= \n]{0,12}"));
    let kind = prop_oneof![
        3 => text("(text/plain|application/pdf|image/png)(; ?charset=[a-z0-9-]{1,6})?"),
        1 => text("[a-z/;= \"-]{0,16}"),
        1 => text("(multipart/mixed|message/rfc822|message/x)"),
    ];
    let id = prop_oneof![3 => text("[a-z0-9@.]{1,8}"), 1 => text("[!-~]{1,6}")];
    let filename = usually(text("[a-z]{1,8}\\.(pdf|eml|txt|ics|html)"), text("[ -~\u{80}-\u{3ff}]{0,12}"));
    (filename, content, weighted(0.5, kind), weighted(0.3, id))
        .prop_map(|(filename, content, kind, id)| {
            json!({"filename": filename, "content": content, "content_type": kind, "content_id": id})
        })
        .boxed()
}

fn alternative() -> BoxedStrategy<Value> {
    let kind = prop_oneof![
        4 => text("(text/calendar|TEXT/Calendar|text/x-amp-html|text/[a-z]{1,4})(; ?(method|charset|name)=(REQUEST|utf-8|UTF8|\"a b\")){0,2}"),
        1 => text("(text/plain|text/html|image/png)"),
        1 => text("text/[a-z;= \"\u{212a}-]{0,16}"),
    ];
    let content = usually(text("[ -~\n\u{a0}-\u{3ff}]{0,40}"), anything());
    (usually(kind.boxed(), anything()), content)
        .prop_map(|(kind, content)| json!({"content_type": kind, "content": content}))
        .boxed()
}

/// The id of the only accepted message.
const ACCEPTED: &str = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b";

fn in_reply_to() -> BoxedStrategy<Value> {
    usually(Just(json!(ACCEPTED)).boxed(), prop_oneof![text("msg_[0-9a-fA-F]{31,33}"), anything()].boxed())
}

/// Times around now.
fn time(now: DateTime<Utc>) -> BoxedStrategy<Value> {
    let near = (-2_i64..5_000, 0_u32..3).prop_map(move |(minutes, form)| {
        let at = now + TimeDelta::minutes(minutes);
        json!(match form {
            0 => at.to_rfc3339(),
            1 => at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
            _ => at.format("%Y-%m-%dT%H:%M:%S.123456789+00:00").to_string(),
        })
    });
    usually(
        near.boxed(),
        text("20[0-9]{2}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|\\+[0-9]{2}:[0-9]{2})?"),
    )
}

fn message(now: DateTime<Utc>) -> BoxedStrategy<Value> {
    let content = (
        usually(address(), anything()),
        usually(addresses(), anything()),
        usually(text("[ -~\u{a0}-\u{3ff}]{0,40}"), anything()),
        weighted(0.8, usually(text("[ -~\n\u{a0}-\u{3ff}]{0,60}"), anything())),
        weighted(0.3, prop_oneof![4 => text("<p>[a-z]{0,9}</p>"), 1 => text("[ \t\n\u{a0}\u{2003}\u{3000}]{0,4}")]),
    );
    let lists = (
        weighted(0.2, addresses()),
        weighted(0.2, addresses()),
        weighted(0.3, vec(header(), 0..3).prop_map(|list| Value::Object(list.into_iter().collect()))),
        weighted(0.3, vec(attachment(), 0..3).prop_map(|list| json!(list))),
        weighted(0.2, vec(("[a-z_-]{1,9}", "[A-Za-z0-9_. -]{1,9}"), 0..3).prop_map(|tags| {
            let tag = |(name, value): &(String, String)| json!({"name": name, "value": value.trim_end_matches(['.', ' '])});
            json!(tags.iter().map(tag).collect::<Vec<_>>())
        })),
        weighted(0.2, btree_map("[ -~]{0,9}", "[ -~\n\u{80}-\u{3ff}]{0,20}", 0..3).prop_map(|map| json!(map))),
    );
    let rest = (
        weighted(0.2, prop_oneof![Just(json!("transactional")), Just(json!("bulk")), Just(json!("other"))]),
        weighted(0.2, time(now)),
        weighted(0.2, time(now)),
        weighted(0.1, prop_oneof![Just(json!("retry")), Just(json!("hold")), Just(json!("HOLD"))]),
        weighted(0.2, in_reply_to()),
        weighted(0.3, vec(alternative(), 0..3).prop_map(|list| json!(list))),
    );
    (content, lists, rest)
        .prop_map(|((from, to, subject, text, html), (cc, reply_to, headers, attachments, tags, metadata), rest)| {
            let (stream, scheduled_at, expires_at, on_uncertain, in_reply_to, alternatives) = rest;
            json!({
                "from": from, "to": to, "subject": subject, "text": text, "html": html, "cc": cc, "reply_to": reply_to,
                "headers": headers, "attachments": attachments, "tags": tags, "metadata": metadata, "stream": stream,
                "scheduled_at": scheduled_at, "expires_at": expires_at, "on_uncertain": on_uncertain,
                "in_reply_to": in_reply_to, "alternatives": alternatives,
            })
        })
        .boxed()
}

#[tokio::test]
async fn whatever_sql_lets_through_is_accepted() {
    let database = Database::new();
    let mut sql = sender(&database).await;
    let mut observer = database.connect().await;
    let now: DateTime<Utc> = sqlx::query_scalar("SELECT now()").fetch_one(&mut observer).await.unwrap();
    let earlier = "INSERT INTO messages (id, tenant_id, created_at, content_id, stream, from_address, reply_to, subject, tags, metadata,
                                         on_uncertain, size)
                   SELECT '019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b', id, now(), gen_random_uuid(), 'bulk', 'a@acme.test', '[]', '', '[]', '{}',
                          'retry', 0 FROM tenants";
    execute(&mut observer, earlier).await;
    let (mut runner, strategy) = (TestRunner::default(), message(now));
    let streams = ["transactional".to_owned(), "bulk".to_owned()];
    let limits = Limits::default();
    let (mut accepted, mut replies, mut with_alternatives) = (0, 0, 0);
    for _ in 0..CASES {
        let body = strategy.new_tree(&mut runner).unwrap().current();
        execute(&mut sql, "BEGIN").await;
        let sent = send(&mut sql, &body, None).await;
        execute(&mut sql, "COMMIT").await;
        if let Err(error) = sent {
            let (code, _) = problem_of(&error);
            assert!(code == "PR422" || code == UNTRANSLATABLE, "{error}: {body}");
            continue;
        }
        let row = "DELETE FROM sql_inbox RETURNING payload::text, created_at";
        let (payload, at): (String, DateTime<Utc>) = sqlx::query_as(row).fetch_one(&mut observer).await.unwrap();
        let parsed = request::parse(payload.as_bytes(), &Context::new(at, &limits, &streams));
        assert!(parsed.is_ok(), "{parsed:?}: {payload}");
        accepted += 1;
        let message = parsed.unwrap();
        replies += usize::from(message.in_reply_to.is_some());
        with_alternatives += usize::from(body["alternatives"].as_array().is_some_and(|list| !list.is_empty()));
    }
    assert!(accepted > CASES / 10, "only {accepted} of {CASES} messages were valid");
    assert!(replies > 0 && with_alternatives > 0, "{replies} replies, {with_alternatives} with alternatives");
}

fn problem_of(error: &sqlx::Error) -> (String, usize) {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default();
    if code == "PR422" {
        let (code, faults) = problem(error);
        return (code, faults.len());
    }
    (code.into_owned(), 0)
}
