//! The dashboard, as a browser without scripts sees it.

mod actions;
mod browser;
mod dev_link;
mod hostile_text;
mod other_sites;
mod pages;
mod sessions;
