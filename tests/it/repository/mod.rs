//! Checks of the repository: layers, log events, documentation and other files.

mod bound_parameters;
mod checkout;
mod folders;
mod layers;
mod lock_order;
mod logs;
mod readme;
mod shelves;
