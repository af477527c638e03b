//! The repository: layers, README, files.

mod bound_parameters;
mod checkout;
mod layers;
mod readme;
mod shelves;
