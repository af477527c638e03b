//! The repository: layers, log events, README, files.

mod bound_parameters;
mod checkout;
mod layers;
mod logs;
mod readme;
mod shelves;
