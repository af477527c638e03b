//! The HTML of the inbox and webhook pages.

use std::fmt::Write as _;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::dev::inbox::{InboxMail, Page, Summary};

/// Text for a message without a subject.
pub(super) const NO_SUBJECT: &str = "(no subject)";

/// The tab that a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dev) enum Tab {
    Inbox,
    /// The page of one message, for which no tab is marked.
    Message,
    Hooks,
}

/// Returns a whole page around `body`.
pub(super) fn page(title: &str, tab: Tab, body: &str) -> String {
    let title = escaped(title);
    let link = |path: &str, name: &str, target: Tab| {
        let current = if tab == target { " aria-current=\"page\"" } else { "" };
        format!("<a href=\"{path}\"{current}>{name}</a>")
    };
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title}</title>\
         <link rel=\"stylesheet\" href=\"/inbox/style.css\"><script src=\"/inbox/live.js\" defer></script></head>\
         <body><header><strong>Postrider dev</strong>{} {} <a href=\"/docs\">API</a></header>\
         <h1>{title}</h1>{body}</body></html>",
        link("/inbox", "Inbox", Tab::Inbox),
        link("/dev/hooks", "Webhooks", Tab::Hooks),
    )
}

/// Returns the list of messages that match `words`. `last` is the number of the newest message so far.
pub(super) fn list(page: &Page, words: &str, is_older: bool, last: u64) -> String {
    let mut body = format!(
        "<div class=\"bar\"><form class=\"search\" action=\"/inbox\" role=\"search\">\
         <input type=\"search\" name=\"q\" value=\"{}\" placeholder=\"Subject, sender or recipient\" aria-label=\"Search\">\
         <button>Search</button></form>\
         <form action=\"/inbox/clear\" method=\"post\"><button>Delete all</button></form></div>",
        escaped(words)
    );
    // Only the page with the newest messages is reloaded.
    let live = if is_older { String::new() } else { format!(" data-live=\"/v1/dev/inbox\" data-last=\"{last}\"") };
    let _ = write!(body, "<main{live}>");
    match (page.data.is_empty(), words.is_empty()) {
        (true, true) => body.push_str("<p class=\"empty\">No messages yet. New ones appear here automatically.</p>"),
        (true, false) => body.push_str("<p class=\"empty\">No message matches.</p>"),
        (false, _) => rows(&mut body, &page.data),
    }
    if let Some(next) = page.next {
        let words = utf8_percent_encode(words, NON_ALPHANUMERIC);
        let _ = write!(body, "<p><a href=\"/inbox?q={words}&amp;before={next}\">Older messages</a></p>");
    }
    body + "</main>"
}

fn rows(body: &mut String, messages: &[Summary]) {
    body.push_str("<ul class=\"list\">");
    for message in messages {
        let _ = write!(
            body,
            "<li><a href=\"/inbox/{}\"><span class=\"from\">{}</span><span class=\"subject\">{}</span>\
             <span class=\"time note\">{}</span><span class=\"to\">to {}</span></a>",
            message.n,
            escaped(message.from.as_deref().unwrap_or(&message.envelope.from)),
            escaped(message.subject.as_deref().unwrap_or(NO_SUBJECT)),
            message.received_at.format("%F %T"),
            escaped(&message.envelope.to.join(", ")),
        );
    }
    body.push_str("</ul>");
}

/// Returns the page of one message.
pub(super) fn message(message: &InboxMail) -> String {
    let n = message.summary.n;
    let envelope = &message.summary.envelope;
    let mut body = format!(
        "<div class=\"bar\"><form action=\"/v1/dev/inbox/{n}/raw\"><button>Raw</button></form>\
         <form action=\"/v1/dev/inbox/{n}\"><button>JSON</button></form>\
         <form action=\"/inbox/{n}/delete\" method=\"post\"><button>Delete</button></form></div><main><dl>"
    );
    let from = message.summary.from.as_deref().unwrap_or(&envelope.from);
    let time = message.summary.received_at.format("%F %T UTC").to_string();
    for (name, value) in [("From", from), ("Recipients", &envelope.to.join(", ")), ("Received", &time)] {
        let _ = write!(body, "<dt>{name}<dd>{}", escaped(value));
    }
    let _ = write!(body, "</dl><details><summary>{} headers</summary><dl>", message.headers.len());
    let _ = write!(body, "<dt>Return path<dd>&lt;{}&gt;", escaped(&envelope.from));
    for header in &message.headers {
        let _ = write!(body, "<dt>{}<dd>{}", escaped(&header.name), escaped(&header.value));
    }
    body.push_str("</dl></details>");
    if message.html.is_some() {
        let _ = write!(body, "<h2>HTML</h2><iframe sandbox src=\"/inbox/{n}/html\" title=\"HTML\"></iframe>");
    }
    if let Some(text) = &message.text {
        let _ = write!(body, "<h2>Text</h2><pre>{}</pre>", escaped(text));
    }
    if !message.attachments.is_empty() {
        body.push_str("<h2>Attachments</h2>");
    }
    for (i, file) in message.attachments.iter().enumerate() {
        let name = escaped(file.filename.as_deref().unwrap_or("attachment"));
        let kind = escaped(&file.content_type);
        let link = format!("<a href=\"/v1/dev/inbox/{n}/attachments/{i}\">{name}</a>");
        let _ = write!(body, "<p>{link} <span class=\"note\">{kind}, {} bytes</span></p>", file.size);
    }
    body + "</main>"
}

/// Escapes text for HTML.
pub(in crate::dev) fn escaped(text: &str) -> String {
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
    fn message_text_is_escaped() {
        assert_eq!(escaped("<b a=\"1\" b='2'>&"), "&lt;b a=&quot;1&quot; b=&#39;2&#39;&gt;&amp;");
        assert!(!page("</title><script>alert", Tab::Inbox, "").contains("<script>"));
        let empty = Page { data: Vec::new(), has_more: false, next: Some(3) };
        let list = list(&empty, "\"><script>&a=b", false, 0);
        assert!(!list.contains("<script>") && list.contains("q=%22%3E%3Cscript%3E%26a%3Db&amp;before=3"), "{list}");
    }
}
