//! Cursor pages: `{"data": […], "has_more": …, "next": …}`.

use serde::Serialize;
use utoipa::openapi::schema::{ArrayBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoParams, ToSchema};

/// Default page size.
pub(super) const DEFAULT_LIMIT: i64 = 20;
/// Maximum page size.
pub(super) const MAX_LIMIT: i64 = 100;

/// The query parameters of a list, for `params(…)` in its annotation. [`super::request::params::Params`] reads them.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only annotations use it")]
pub struct PageParams {
    /// Page size; defaults to 20
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// Cursor: the `next` value of the previous page
    after: Option<String>,
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    #[schema(schema_with = entries::<T>)]
    pub data: Vec<T>,
    /// Whether more entries follow.
    #[schema(example = false)]
    pub has_more: bool,
    /// The cursor to pass as `after` for the next page; null on the last page.
    #[schema(example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub next: Option<String>,
}

/// Returns the schema of `data` with a reference to the entry's schema, so that generators create one type for the
/// entries of several lists.
fn entries<T: ToSchema>() -> RefOr<Schema> {
    ArrayBuilder::new().items(Ref::from_schema_name(T::name())).description(Some("The entries.")).into()
}

impl<T> Page<T> {
    /// Creates a page of at most `limit` entries from up to `limit + 1` rows.
    pub(super) fn new<R>(mut rows: Vec<R>, limit: i64, cursor: impl Fn(&R) -> String, show: impl Fn(R) -> T) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = if has_more { rows.last().map(cursor) } else { None };
        Self { data: rows.into_iter().map(show).collect(), has_more, next }
    }
}
