//! The tables of statistics. `count` adds events to the figures, `query` reads them, `queue_samples` measures the queue,
//! `cleanup` deletes old time spans, and `rebuild` lets everything be counted again.

pub mod cleanup;
pub mod count;
mod increment;
pub mod query;
pub mod queue_samples;
pub mod rebuild;
