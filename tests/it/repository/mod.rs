//! Checks of the repository: layers, log events, documentation and other files.

mod bound_parameters;
mod checkout;
mod folders;
mod layers;
mod logs;
mod readme;
mod shelves;
