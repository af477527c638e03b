//! What operators rely on: metrics, alert rules, dashboards, probes, and a log without secrets.

mod cached_settings;
mod idle;
mod log_canaries;
mod metrics_access;
mod metrics_pages;
mod packaging;
mod prometheus;
mod readiness;
mod scaling;
mod service_figures;
mod traces;
mod volume;
