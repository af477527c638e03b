//! Cursor pages: `{"data": […], "has_more": …, "next": …}`.

use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};

/// How many entries a page has unless the caller says otherwise.
pub(super) const DEFAULT_LIMIT: i64 = 20;
/// How many it may have.
pub(super) const MAX_LIMIT: i64 = 100;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    #[schema(schema_with = entries::<T>)]
    pub data: Vec<T>,
    /// Whether there are more behind them.
    pub has_more: bool,
    /// What to pass as `after` for the next page; null at the end.
    pub next: Option<String>,
}

/// The entries by reference: a generator makes one type of them, whoever lists them.
fn entries<T: ToSchema>() -> RefOr<Schema> {
    ArrayBuilder::new().items(Ref::from_schema_name(T::name())).description(Some("The entries.")).into()
}

impl<T> Page<T> {
    /// Makes a page of at most `limit` entries from one more than that.
    pub(super) fn of<R>(mut rows: Vec<R>, limit: i64, cursor: impl Fn(&R) -> String, show: impl Fn(R) -> T) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = if has_more { rows.last().map(cursor) } else { None };
        Self { data: rows.into_iter().map(show).collect(), has_more, next }
    }
}
