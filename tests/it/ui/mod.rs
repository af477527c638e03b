//! The dashboard, as a browser without scripts sees it.

mod actions;
mod browser;
mod dev_link;
mod forms;
mod hostile_text;
mod other_sites;
mod overview;
mod pages;
mod sessions;
