//! Lists: `{"object": "list", "has_more", "data"}`, newest first. The parameters are `limit`, and `after` or `before`
//! with the id of an entry.

use serde::Serialize;
use uuid::Uuid;

use super::ids::{self, UuidId};
use crate::domain::api::fault::{Code, Fault};
use crate::http::ApiError;
use crate::http::request::params::Params;

/// A page of a list.
#[derive(Debug, Serialize)]
pub(super) struct List<T> {
    object: &'static str,
    has_more: bool,
    data: Vec<T>,
}

impl<T> List<T> {
    pub(super) fn new(data: Vec<T>, has_more: bool) -> Self {
        Self { object: "list", has_more, data }
    }

    /// Creates a page of at most `limit` entries from rows, of which one more is read than the page has.
    pub(super) fn cut<R>(mut rows: Vec<R>, limit: i64, view: impl FnMut(R) -> T) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        Self::new(rows.into_iter().map(view).collect(), has_more)
    }
}

/// The position of a page in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start<T> {
    /// The page starts with the newest entry.
    Newest,
    /// The page starts with the next older entry after this one.
    After(T),
    /// The page ends with the next newer entry before this one.
    Before(T),
}

impl<T> Start<T> {
    /// Converts the id.
    pub(super) fn map<U>(self, convert: impl FnOnce(T) -> U) -> Start<U> {
        match self {
            Self::Newest => Start::Newest,
            Self::After(id) => Start::After(convert(id)),
            Self::Before(id) => Start::Before(convert(id)),
        }
    }
}

/// The page that a request asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageRequest<T> {
    /// Maximum number of entries, 1–100.
    pub limit: i64,
    pub start: Start<T>,
}

impl<T: UuidId> PageRequest<T> {
    /// Reads the query parameters; ignores unknown ones.
    pub(super) fn read(mut params: Params) -> Result<Self, ApiError> {
        const HINT: &str = "Pass the id of an entry.";
        let limit = params.limit();
        let after = params.read("after", HINT, ids::parse);
        let before = params.read("before", HINT, ids::parse);
        params.finish_ignoring_unknown()?;
        let start = match (after, before) {
            (None, None) => Start::Newest,
            (Some(after), None) => Start::After(after),
            (None, Some(before)) => Start::Before(before),
            (Some(_), Some(_)) => {
                return Err(ApiError::Invalid(vec![Fault {
                    pointer: "before".into(),
                    code: Code::InvalidValue.as_str(),
                    message: "use `after` or `before`, not both".into(),
                }]));
            }
        };
        Ok(Self { limit, start })
    }
}

/// Returns a page of a complete list, newest first, and whether there are more entries in the direction of paging. If
/// the id is not in the list, the page is empty.
pub(super) fn page<R>(mut rows: Vec<R>, id: impl Fn(&R) -> Uuid, limit: i64, start: Start<Uuid>) -> (Vec<R>, bool) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let position = |wanted: Uuid| rows.iter().position(|row| id(row) == wanted);
    match start {
        Start::Newest => {}
        Start::After(after) => {
            let first = position(after).map_or(rows.len(), |index| index + 1);
            rows.drain(..first);
        }
        Start::Before(before) => {
            let end = position(before).unwrap_or(0);
            rows.truncate(end);
            let first = end.saturating_sub(limit);
            rows.drain(..first);
            return (rows, first > 0);
        }
    }
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    (rows, has_more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_complete_list() {
        let ids: Vec<Uuid> = (1..=5).map(Uuid::from_u128).collect();
        let of = |limit, start| {
            let (rows, has_more) = page(ids.clone(), |id| *id, limit, start);
            (rows.iter().map(Uuid::as_u128).collect::<Vec<_>>(), has_more)
        };
        assert_eq!(of(2, Start::Newest), (vec![1, 2], true));
        assert_eq!(of(5, Start::Newest), (vec![1, 2, 3, 4, 5], false));
        assert_eq!(of(2, Start::After(ids[1])), (vec![3, 4], true));
        assert_eq!(of(2, Start::After(ids[4])), (vec![], false));
        assert_eq!(of(2, Start::Before(ids[3])), (vec![2, 3], true));
        assert_eq!(of(2, Start::Before(ids[1])), (vec![1], false));
        assert_eq!(of(2, Start::Before(ids[0])), (vec![], false));
        let unknown = Uuid::from_u128(99);
        assert_eq!((of(2, Start::After(unknown)), of(2, Start::Before(unknown))), ((vec![], false), (vec![], false)));
    }
}
