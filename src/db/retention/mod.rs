//! Deletes data because of its age ([`Periods`]).
//!
//! Most data is in tables with a partition for each week, and a week is dropped as a whole once everything in it is old enough and
//! nothing in it is protected ([`protection`]). Where a few messages keep a week, the content of the others is deleted row by row
//! ([`content`]). What is not partitioned is deleted in small transactions ([`rows`]). [`rules`] names the rule of each table.
//!
//! One worker at a time deletes ([`runs`]). Two would do no harm: each step decides by what it finds.
//!
//! A week that is not protected cannot become protected again: recipients in an end state are never sent to again, except those that
//! are `uncertain` with `on_uncertain: hold`, which are protected.

pub mod content;
pub mod default_rows;
pub mod protection;
pub mod rows;
pub mod rules;
pub mod runs;
pub mod weeks;

pub use crate::domain::records::retention::{Class, Period, Periods, Week};
