//! The dashboard in Chromium, as people see it. Skipped, with a line on standard error, without `chromium` and
//! `chromedriver`.

mod accessibility;
mod every_page;
mod first_run;
mod keyboard;
mod live;
pub mod pages;
mod session;
mod webdriver;
