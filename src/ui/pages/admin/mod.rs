//! Pages for administrators and operators.

pub(super) mod audit;
pub(super) mod keys;
pub(super) mod service;
pub(super) mod tenants;
