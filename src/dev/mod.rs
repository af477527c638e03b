//! What makes `postrider dev` the whole product on one machine: a private [`postgres`], an [`inbox`] that catches every
//! mail over real SMTP, the [`routes`] that read it back and a [`page`] to look at it. Nothing here runs in production.

pub mod inbox;
pub mod page;
pub mod postgres;
pub mod routes;
