//! Limits of requests: rates and quotas, concurrency, and memory.

pub(super) mod allowances;
pub(super) mod concurrency_limit;
pub(super) mod memory_limit;
