//! The repository: layers, log events, README, files.

mod checkout;
mod layers;
mod logs;
mod readme;
mod shelves;
