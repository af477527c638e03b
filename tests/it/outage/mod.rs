//! Postgres and clocks that fail, and several replicas.

mod database_clock;
mod fault_table;
mod pgbouncer;
mod postgres;
mod quota;
mod replicas;
mod session_settings;
