//! The inbox for a person with a browser, in `postrider dev` only: a list, and one mail.
//!
//! What came by mail is anybody's. Every word of it is escaped, and a mail's HTML is shown in a frame that may run,
//! load and submit nothing. No script, nothing from elsewhere.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::inbox::{Inbox, InboxError, InboxMail, Summary};
use super::routes::number;

/// Mails in the list.
const SHOWN: usize = 100;

/// For our own pages: our style sheet and our frames, nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; frame-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// For a mail's HTML: styles and images that it brings itself, no script, no form, no network.
const MAIL_POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
    table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ccc;\
    vertical-align:top;overflow-wrap:anywhere}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f4f4f4;\
    padding:1rem}iframe{width:100%;height:40rem;border:1px solid #ccc;background:#fff}";

/// `/inbox` and what belongs to it.
pub fn router(inbox: Arc<Inbox>) -> Router {
    Router::new()
        .route("/inbox", get(list))
        .route("/inbox/{n}", get(mail))
        .route("/inbox/{n}/html", get(frame))
        .route("/inbox/style.css", get(([(header::CONTENT_TYPE, "text/css")], STYLE)))
        .with_state(inbox)
}

async fn list(State(inbox): State<Arc<Inbox>>) -> Response {
    html(PAGE_POLICY, page("Inbox", &list_body(&inbox.list(SHOWN, None).data)))
}

async fn mail(State(inbox): State<Arc<Inbox>>, Path(n): Path<String>) -> Result<Response, InboxError> {
    let mail = inbox.get(number(&n)?).await?;
    let title = mail.summary.subject.as_deref().unwrap_or("(no subject)");
    Ok(html(PAGE_POLICY, page(title, &mail_body(&mail))))
}

async fn frame(State(inbox): State<Arc<Inbox>>, Path(n): Path<String>) -> Result<Response, InboxError> {
    let content = inbox.get(number(&n)?).await?.html.unwrap_or_default();
    Ok(html(MAIL_POLICY, content))
}

fn html(policy: &'static str, content: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, content).into_response()
}

fn page(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <link rel=\"stylesheet\" href=\"/inbox/style.css\"><h1>{title}</h1>{body}</html>"
    )
}

fn list_body(mails: &[Summary]) -> String {
    if mails.is_empty() {
        return "<p>No mail yet.</p>".to_owned();
    }
    let mut rows = String::from("<table><tr><th>Received<th>From<th>To<th>Subject");
    for mail in mails {
        let cells = [
            mail.received_at.format("%F %T UTC").to_string(),
            escaped(mail.from.as_deref().unwrap_or(&mail.envelope.from)),
            escaped(&mail.envelope.to.join(", ")),
        ];
        let subject = escaped(mail.subject.as_deref().unwrap_or("(no subject)"));
        let _ = write!(rows, "<tr><td>{}<td><a href=\"/inbox/{}\">{subject}</a>", cells.join("<td>"), mail.n);
    }
    rows + "</table>"
}

fn mail_body(mail: &InboxMail) -> String {
    let n = mail.summary.n;
    let mut body =
        format!("<p><a href=\"/inbox\">All mails</a> · <a href=\"/v1/dev/inbox/{n}/raw\">Raw</a></p><table>");
    let envelope = &mail.summary.envelope;
    let _ = write!(body, "<tr><th>Envelope<td>{} → {}", escaped(&envelope.from), escaped(&envelope.to.join(", ")));
    for header in &mail.headers {
        let _ = write!(body, "<tr><th>{}<td>{}", escaped(&header.name), escaped(&header.value));
    }
    body.push_str("</table>");
    if mail.html.is_some() {
        let _ = write!(body, "<h2>HTML</h2><iframe sandbox src=\"/inbox/{n}/html\" title=\"HTML\"></iframe>");
    }
    if let Some(text) = &mail.text {
        let _ = write!(body, "<h2>Text</h2><pre>{}</pre>", escaped(text));
    }
    for (i, file) in mail.attachments.iter().enumerate() {
        let name = escaped(file.filename.as_deref().unwrap_or("attachment"));
        let kind = escaped(&file.content_type);
        let link = format!("<a href=\"/v1/dev/inbox/{n}/attachments/{i}\">{name}</a>");
        let _ = write!(body, "<p>{link} ({kind}, {} octets)</p>", file.size);
    }
    body
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_mail_is_markup() {
        assert_eq!(escaped("<b a=\"1\" b='2'>&"), "&lt;b a=&quot;1&quot; b=&#39;2&#39;&gt;&amp;");
        assert!(!page("</title><script>", "").contains("<script>"));
    }
}
