//! Lists that the API returns in pages.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::api::{Api, with_query};
use super::output::terminal::{Output, note};

/// Maximum size of a page.
const PAGE: usize = 100;

#[derive(Debug, Deserialize)]
struct Page<T> {
    data: Vec<T>,
    has_more: bool,
    next: Option<String>,
}

/// A list to read.
#[derive(Debug)]
pub(super) struct List<'a> {
    pub path: &'a str,
    /// The filters.
    pub query: Vec<(&'a str, Option<&'a str>)>,
    /// Maximum number of entries.
    pub limit: usize,
    /// Whether to print the pages as JSON, one per line.
    pub is_json: bool,
}

impl List<'_> {
    /// Reads the entries, up to the limit. Prints the pages if JSON is requested.
    pub(super) async fn read<T: DeserializeOwned>(&self, api: &Api, output: &mut Output) -> anyhow::Result<Vec<T>> {
        let (mut entries, mut read, mut after) = (Vec::new(), 0, None::<String>);
        loop {
            let size = (self.limit - read).min(PAGE).to_string();
            let page_query = [("limit", Some(size.as_str())), ("after", after.as_deref())];
            let path = with_query(self.path, self.query.iter().copied().chain(page_query));
            let reply = api.get(&path).await?;
            let page: Page<T> = reply.parse()?;
            read += page.data.len();
            if self.is_json {
                output.json(reply.text())?;
                output.flush()?;
            } else {
                entries.extend(page.data);
            }
            if !page.has_more || page.next.is_none() {
                return Ok(entries);
            }
            if read >= self.limit {
                note("note", &format!("there are more than {read}; pass a larger --limit to see them"));
                return Ok(entries);
            }
            after = page.next;
        }
    }
}

/// Parses the option `--limit`.
pub(super) fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| "pass a number above 0".to_owned())
}
