//! How pages show the content of a message, with a tab for each part of it: of messages that were sent, that were received, and that
//! the inbox of `dev` has caught. The template `message_content.html` shows a [`ContentView`], which its page has in the field `view`.

use serde::Deserialize;

use super::content::preview_class;
use crate::ui::format::bytes;

/// A tab.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ui::pages) enum Tab {
    Preview,
    Text,
    /// The text without quotations.
    Reply,
    Headers,
    Attachments,
}

impl Tab {
    /// Returns the name in the query of the page.
    fn name(self) -> &'static str {
        match self {
            Self::Preview => "preview",
            Self::Text => "text",
            Self::Reply => "reply",
            Self::Headers => "headers",
            Self::Attachments => "attachments",
        }
    }
}

/// The tabs of a page, with their titles.
pub(in crate::ui::pages) type Tabs = [(Tab, &'static str)];

/// The query of a page that shows a message.
#[derive(Debug, Default, Deserialize)]
pub(in crate::ui::pages) struct ShowQuery {
    #[serde(default)]
    tab: String,
    /// `1` loads the remote images of the HTML, once.
    #[serde(default)]
    images: String,
}

impl ShowQuery {
    /// Returns the chosen one of these tabs; `None` if none of them was chosen.
    pub(in crate::ui::pages) fn tab(&self, tabs: &Tabs) -> Option<Tab> {
        tabs.iter().map(|(tab, _)| *tab).find(|tab| tab.name() == self.tab)
    }

    /// Returns whether the HTML is to be shown with its remote images.
    pub(in crate::ui::pages) fn has_images(&self) -> bool {
        self.images == "1"
    }
}

/// A file in the list of attachments.
#[derive(Debug)]
pub(in crate::ui::pages) struct File {
    pub name: String,
    pub content_type: String,
    pub size: i64,
}

impl File {
    pub(in crate::ui::pages) fn size_text(&self) -> String {
        bytes(self.size)
    }
}

/// The content of a message, as a page shows it.
#[derive(Debug)]
pub(in crate::ui::pages) struct ContentView {
    /// The path of the page.
    pub path: String,
    pub tabs: &'static Tabs,
    pub tab: Tab,
    pub has_images: bool,
    /// Whether the visitor may download the message and its attachments.
    pub may_read: bool,
    /// Why there is no content.
    pub fault: Option<String>,
    pub html: Option<String>,
    pub text: Option<String>,
    /// The text without quotations.
    pub reply_text: Option<String>,
    pub headers: Vec<(String, String)>,
    pub attachments: Vec<File>,
}

impl ContentView {
    /// Returns the name and the title of each tab, and whether it is shown.
    pub(in crate::ui::pages) fn titles(&self) -> Vec<(&'static str, String, bool)> {
        let count = self.attachments.len();
        let title = |(tab, title): &(Tab, &str)| match tab {
            Tab::Attachments if count > 0 => format!("{title} ({count})"),
            _ => (*title).to_owned(),
        };
        self.tabs.iter().map(|entry| (entry.0.name(), title(entry), entry.0 == self.tab)).collect()
    }

    pub(in crate::ui::pages) fn preview_class(&self) -> &'static str {
        preview_class(self.html.as_deref())
    }
}
