//! What surrounds the content of every page: the navigation, the account, the colour scheme, and the note about what was
//! just done.

use axum::Form;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;

use super::call::with_query;
use super::session::{Role, Visitor};
use crate::domain::key::KeyMode;

/// The name of the cookie with the colour scheme.
const THEME_COOKIE: &str = "postrider_theme";

/// A section of the dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Messages,
    Received,
    Bulks,
    Templates,
    Lanes,
    Streams,
    Suppressions,
    Domains,
    InboundRoutes,
    Webhooks,
    Keys,
    Audit,
    Tenants,
    Service,
    Inbox,
}

/// A link of the navigation.
#[derive(Debug)]
pub(super) struct NavLink {
    pub path: &'static str,
    pub title: &'static str,
    /// The key that opens it after `g`.
    pub key: &'static str,
    pub is_current: bool,
}

impl Section {
    /// The navigation, in groups.
    const GROUPS: [&'static [Self]; 5] = [
        &[Self::Overview, Self::Messages, Self::Received, Self::Bulks, Self::Templates],
        &[Self::Lanes, Self::Streams, Self::Suppressions],
        &[Self::Domains, Self::InboundRoutes, Self::Webhooks, Self::Keys, Self::Audit],
        &[Self::Tenants, Self::Service],
        &[Self::Inbox],
    ];

    /// Returns whether the visitor's key can open the section.
    fn is_open_to(self, visitor: &Visitor) -> bool {
        match self {
            Self::Tenants | Self::Service => visitor.is_operator,
            _ if !visitor.may_look => false,
            // What is received belongs to no sender domain, either.
            Self::Lanes
            | Self::Suppressions
            | Self::Webhooks
            | Self::Templates
            | Self::Received
            | Self::InboundRoutes => visitor.sees_all,
            Self::Keys | Self::Audit => visitor.role >= Role::Admin,
            Self::Inbox => visitor.has_inbox() && visitor.sees_all && visitor.may_read,
            _ => true,
        }
    }

    fn link(self, current: Self) -> NavLink {
        let (path, title, key) = match self {
            Self::Overview => ("/ui", "Overview", "o"),
            Self::Messages => ("/ui/messages", "Messages", "m"),
            Self::Received => ("/ui/received", "Received", "e"),
            Self::Bulks => ("/ui/bulks", "Bulks", "b"),
            Self::Templates => ("/ui/templates", "Templates", "t"),
            Self::Lanes => ("/ui/lanes", "Lanes", "l"),
            Self::Streams => ("/ui/streams", "Streams", "r"),
            Self::Suppressions => ("/ui/suppressions", "Suppressions", "s"),
            Self::Domains => ("/ui/domains", "Domains", "d"),
            Self::InboundRoutes => ("/ui/inbound-routes", "Inbound routes", "u"),
            Self::Webhooks => ("/ui/webhooks", "Webhooks", "w"),
            Self::Keys => ("/ui/keys", "API keys", "k"),
            Self::Audit => ("/ui/audit", "Audit log", "a"),
            Self::Tenants => ("/ui/tenants", "Tenants", "n"),
            Self::Service => ("/ui/service", "Workers and database", "p"),
            Self::Inbox => ("/ui/inbox", "Inbox", "i"),
        };
        NavLink { path, title, key, is_current: self == current }
    }
}

/// What was just done, named by the parameter `done`: a fixed text, so that a link cannot show another one.
const DONE: &[(&str, &str)] = &[
    ("retried", "The message is due now."),
    ("canceled", "The message was canceled."),
    ("paused", "Paused. Messages are accepted and wait."),
    ("resumed", "Resumed."),
    ("reset", "The lane was reset: what was learned about its destination is forgotten."),
    ("lane-retried", "The lane's deferred recipients are due now."),
    ("traced", "The next 10 SMTP conversations of the lane are recorded; they appear on the pages of the messages."),
    ("added", "Added."),
    ("removed", "Removed."),
    ("tested", "A test event is on its way; it appears in the deliveries."),
    ("enabled", "Enabled. Deliveries continue at the cursor."),
    ("disabled", "Disabled. Events wait at the cursor."),
    ("replayed", "The cursor was moved back; the events after it are delivered again."),
    ("verified", "The records were looked up."),
    ("rotated", "New keys were created. Publish their records; until then the current keys sign."),
    ("revoked", "The key was revoked. It stops working on every replica within a second."),
    ("changed", "Changed."),
    ("limits-changed", "The limits were changed. They take effect on every replica within a second."),
    ("lane-limits", "The limits of the lane were changed."),
    ("suspended", "The tenant was suspended. None of its messages are accepted or sent until it is resumed."),
    ("tenant-resumed", "The tenant was resumed. Its messages that wait are sent."),
    ("tenant-deleted", "The API keys of the tenant were revoked. Its data is being deleted."),
    ("redacted", "The content of the message was erased. Its addresses, states and events are kept."),
    ("action-started", "The action has started. It continues if this page is closed."),
    ("action-canceled", "The action was canceled. What it has changed stays changed."),
    ("saved", "The draft was saved. Publish it to use it."),
    ("created", "Created."),
    ("test-sent", "The test message was accepted."),
    ("deleted", "Deleted."),
    ("bounced", "The bounce was received."),
    ("complained", "The complaint was received."),
    ("bulk-canceled", "The bulk was canceled: nothing more is sent."),
    ("published", "The draft was published. New messages use it."),
];

/// What could not be done, or only in part; named like [`DONE`].
const NOT_DONE: &[(&str, &str)] = &[
    ("canceled-partly", "Canceled for some recipients; the others were already being sent, or finished before."),
    ("cancel-too-late", "Too late to cancel: the message is already being sent, or finished before."),
    (
        "report-unused",
        "The report changed nothing: it was received before, or the message was not sent by this service.",
    ),
    ("lane-retried-none", "The lane has no deferred recipients. Nothing was changed."),
    ("lane-retried-part", "Many deferred recipients are due now, and there are more. Retry again to continue."),
];

/// What a user must know on every page.
#[derive(Debug)]
pub(super) struct Banner {
    /// The colour: `bad` or `info`.
    pub tone: &'static str,
    pub text: String,
}

/// Everything around the content of a page.
#[derive(Debug)]
pub(super) struct Shell {
    pub title: String,
    /// The title of the section.
    pub section: &'static str,
    pub groups: Vec<Vec<NavLink>>,
    pub key_name: String,
    /// What the key may do, as a word.
    pub role: &'static str,
    pub theme: Option<&'static str>,
    pub path: String,
    pub may_send: bool,
    pub may_admin: bool,
    /// Whether the key sees live or test data.
    pub mode: KeyMode,
    pub banners: Vec<Banner>,
    /// What was just done: its colour and its text.
    pub done: Option<(&'static str, &'static str)>,
    /// Where the API is reached, for examples.
    pub base: String,
    /// The API key for examples.
    pub example_key: Option<String>,
}

impl Shell {
    pub(super) fn new(visitor: &Visitor, section: Section, title: impl Into<String>) -> Self {
        let open = |group: &'static [Section]| group.iter().filter(|one| one.is_open_to(visitor));
        let groups = Section::GROUPS.map(|group| open(group).map(|one| one.link(section)).collect::<Vec<_>>());
        let groups = groups.into_iter().filter(|group| !group.is_empty()).collect();
        Self {
            title: title.into(),
            section: section.link(section).title,
            groups,
            key_name: visitor.key_name.clone(),
            role: match visitor.role {
                _ if !visitor.may_look => "operator",
                Role::Admin => "admin",
                Role::Sender => "send and read",
                Role::Reader if visitor.may_read => "read only",
                Role::Reader => "read only, without content",
            },
            theme: visitor.theme,
            done: done(&visitor.path),
            path: visitor.path.clone(),
            may_send: visitor.may_send(),
            may_admin: visitor.may_admin(),
            mode: visitor.mode,
            banners: banners(visitor),
            base: visitor.base.clone(),
            example_key: visitor.example_key().map(str::to_owned),
        }
    }

    /// Returns whether the key may change now what test and live keys share: domains, templates and keys.
    pub(super) fn may_admin_live(&self) -> bool {
        self.may_admin && self.mode == KeyMode::Live
    }

    /// Sets the path of the page, for a page that is the response to a form with another path.
    pub(super) fn at(self, path: String) -> Self {
        Self { path, ..self }
    }
}

impl Shell {
    /// Returns whether the visitor may open this section.
    pub(super) fn links_to(&self, path: &str) -> bool {
        self.groups.iter().flatten().any(|link| link.path == path)
    }

    /// Returns the path of the page without the note about what was done: where its forms lead back to.
    pub(super) fn here(&self) -> String {
        without(&self.path, &["done"])
    }

    /// Returns the path of the list's first page, with the same filters.
    pub(super) fn first_page(&self) -> String {
        without(&self.path, &["done", "after"])
    }
}

/// Returns a path without these parameters of its query.
fn without(path: &str, names: &[&str]) -> String {
    let Some((page, query)) = path.split_once('?') else { return path.to_owned() };
    let kept: Vec<_> =
        url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| !names.contains(&name.as_ref())).collect();
    let kept: Vec<(&str, &str)> = kept.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    with_query(page, &kept)
}

fn banners(visitor: &Visitor) -> Vec<Banner> {
    let suspended = visitor.suspension.as_ref().map(|suspended| {
        let reason = suspended.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        let end = if reason.ends_with(['.', '!', '?']) { "" } else { "." };
        let since = suspended.at.format("%Y-%m-%d %H:%M UTC");
        let text = format!("This tenant is suspended since {since}{reason}{end} Nothing is accepted or sent.");
        Banner { tone: "bad", text }
    });
    let test = (visitor.mode == KeyMode::Test)
        .then(|| Banner { tone: "info", text: "Test data. Nothing leaves this machine.".to_owned() });
    suspended.into_iter().chain(test).collect()
}

/// Returns the colour and the text of the note about what was just done.
fn done(path: &str) -> Option<(&'static str, &'static str)> {
    let query = path.split_once('?')?.1;
    let (_, word) = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "done")?;
    let text = |table: &[(&str, &'static str)]| table.iter().find(|(known, _)| *known == word).map(|(_, text)| *text);
    text(DONE).map(|text| ("good", text)).or_else(|| text(NOT_DONE).map(|text| ("warn", text)))
}

/// Returns a redirect to a page that says what was done.
pub(super) fn redirect_done(path: &str, done: &'static str) -> Redirect {
    let (page, fragment) = path.find('#').map_or((path, ""), |at| path.split_at(at));
    let separator = if page.contains('?') { '&' } else { '?' };
    Redirect::to(&format!("{page}{separator}done={done}{fragment}"))
}

/// Returns the page that a form was on; `page` if the form does not say.
pub(super) fn back<'a>(next: &'a str, page: &'a str) -> &'a str {
    if next.is_empty() { page } else { local_path(next) }
}

/// Returns the path if it is one of the dashboard, and otherwise that of the overview: a form must not lead elsewhere.
pub(super) fn local_path(path: &str) -> &str {
    let is_local = path == "/ui" || path.starts_with("/ui/") || path.starts_with("/ui?");
    if is_local && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') { path } else { "/ui" }
}

/// Returns the colour scheme that the user chose; `None` follows the system.
pub(super) fn theme(headers: &HeaderMap) -> Option<&'static str> {
    let chosen = super::session::cookie_value(headers, THEME_COOKIE)?;
    ["light", "dark"].into_iter().find(|theme| *theme == chosen)
}

/// The form of the colour scheme.
#[derive(Debug, Deserialize)]
pub(super) struct ThemeForm {
    theme: String,
    #[serde(default)]
    next: String,
}

/// Sets the colour scheme. Needs no session, because it is also on the page to sign in.
pub(super) async fn set_theme(Form(form): Form<ThemeForm>) -> Response {
    let mut response = Redirect::to(local_path(&form.next)).into_response();
    let (value, age) = match form.theme.as_str() {
        "light" => ("light", ONE_YEAR),
        "dark" => ("dark", ONE_YEAR),
        _ => ("", 0),
    };
    let cookie = format!("{THEME_COOKIE}={value}; Path=/ui; HttpOnly; SameSite=Lax; Max-Age={age}");
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// In seconds.
const ONE_YEAR: u32 = 31_536_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_lead_only_to_pages_of_the_dashboard() {
        for path in ["/ui", "/ui/messages?q=to%3Aann", "/ui?done=x"] {
            assert_eq!(local_path(path), path);
        }
        for path in ["", "/", "//evil.test", "/ui\\evil", "/uix", "https://evil.test/ui", "/ui/\r\nSet-Cookie: a=b"] {
            assert_eq!(local_path(path), "/ui", "{path:?}");
        }
    }

    #[test]
    fn filters_are_kept_without_the_page_and_the_note() {
        for (path, here, first) in [
            ("/ui/lanes", "/ui/lanes", "/ui/lanes"),
            ("/ui/lanes?done=paused", "/ui/lanes", "/ui/lanes"),
            ("/ui/lanes?after=7&q=a%26b&done=reset", "/ui/lanes?after=7&q=a%26b", "/ui/lanes?q=a%26b"),
        ] {
            assert_eq!(without(path, &["done"]), here);
            assert_eq!(without(path, &["done", "after"]), first);
        }
    }

    #[test]
    fn sections_have_keys_of_their_own() {
        let links = || Section::GROUPS.into_iter().flatten().map(|one| one.link(Section::Overview));
        let keys: std::collections::BTreeSet<&str> = links().map(|link| link.key).collect();
        assert_eq!(keys.len(), links().count());
    }

    #[test]
    fn note_goes_before_the_fragment() {
        for (path, location) in [
            ("/ui/keys", "/ui/keys?done=paused"),
            ("/ui/lanes?q=a#lane_1-details", "/ui/lanes?q=a&done=paused#lane_1-details"),
        ] {
            let response = redirect_done(path, "paused").into_response();
            assert_eq!(response.headers()[header::LOCATION], location);
        }
    }

    #[test]
    fn note_is_one_of_the_known_texts() {
        assert_eq!(done("/ui/lanes?done=resumed"), Some(("good", "Resumed.")));
        assert_eq!(done("/ui/lanes?done=Your+account+is+locked"), None);
        assert_eq!(done("/ui/lanes"), None);
    }
}
