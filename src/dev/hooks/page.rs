//! The web page `/dev/hooks`, which shows the received posts.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use super::{HookPost, Hooks, HooksQuery};
use crate::dev::page::{Tab, escaped, page};

/// Maximum number of posts on the page.
const MAX_LISTED: usize = 50;

pub(super) async fn show(State(hooks): State<Arc<Hooks>>) -> Response {
    let posts = hooks.list(&HooksQuery::default());
    let last = posts.first().map_or(0, |post| post.n);
    let mut body = format!("<main data-live=\"/v1/dev/hooks\" data-last=\"{last}\">");
    if posts.is_empty() {
        body.push_str(
            "<p class=\"empty\">Nothing was posted yet. Create a webhook endpoint with the URL of this page.</p>",
        );
    }
    for post in posts.iter().take(MAX_LISTED) {
        card(&mut body, post);
    }
    body.push_str("</main>");
    page("Received webhooks", Tab::Hooks, &body)
}

fn card(body: &mut String, post: &HookPost) {
    let kind = post.body["type"].as_str().unwrap_or("Not an event");
    let text = serde_json::to_string_pretty(&post.body).unwrap_or_default();
    let time = post.received_at.format("%F %T UTC");
    let _ = write!(body, "<article><h2>{}</h2><p class=\"note\">{time}</p><dl>", escaped(kind));
    for (name, value) in [
        ("webhook-id", &post.webhook_id),
        ("webhook-timestamp", &post.webhook_timestamp),
        ("webhook-signature", &post.webhook_signature),
    ] {
        if let Some(value) = value {
            let _ = write!(body, "<dt>{name}<dd>{}", escaped(value));
        }
    }
    let _ = write!(body, "</dl><pre>{}</pre></article>", escaped(&text));
}
