//! The dashboard, as a browser without scripts sees it.

mod actions;
mod browser;
mod dev_link;
mod forms;
mod hostile_text;
mod live;
mod other_sites;
mod overview;
mod pages;
mod role_matrix;
mod sections;
mod sessions;
