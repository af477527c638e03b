//! The SMTP client against scripted servers.

mod auth;
mod canceled_before_data;
mod delivery;
mod extensions;
mod faults;
mod final_reply;
mod oauth;
mod recipient_limits;
mod stages;
mod tarpit;
