//! Commands that administer the database: its schema, keys, tenants, retention and statistics.

pub(super) mod audit;
pub(super) mod keys;
pub(super) mod migrate;
pub(super) mod release;
pub(super) mod retention;
pub(super) mod sql_grant;
pub(super) mod statistics;
pub(super) mod tenant;
