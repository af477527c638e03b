//! Direct handoff: messages that this process accepted are sent from memory, without a claim ([`direct`]), while
//! nothing older waits ([`gate`]).

pub(crate) mod direct;
pub(crate) mod gate;
