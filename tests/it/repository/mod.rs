//! The repository: layers, README, files.

mod checkout;
mod layers;
mod readme;
mod shelves;
