//! What the worker has to say while a mail is under way: whether it is still ours to send, and, where the sender wants no
//! second copy, that its text is about to leave.

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use super::mail::Mail;
use super::{Parts, deliver};
use crate::db::marks::{self, Mark};
use crate::db::queue::Claimed;
use crate::domain::outcome::OnUncertain;
use crate::smtp::Watch;

/// About one mail on one route.
pub(super) struct LastWord<'a> {
    pub parts: &'a Parts,
    pub mail: &'a Mail,
    pub claimed: &'a [Claimed],
}

impl LastWord<'_> {
    /// The claims as they are now.
    fn claims(&self) -> Vec<Claimed> {
        let mut claims = self.claimed.to_vec();
        for row in &mut claims {
            self.parts.hands.refresh(row);
        }
        claims
    }

    /// Puts on record that the text leaves. Without the record it must not: after a crash it would be sent again.
    async fn record(&self) -> bool {
        match marks::set(&self.parts.db, &self.claims(), Mark::DataStarted).await {
            // The database may have taken its time: the lease must still stand.
            Ok(recorded) => recorded && self.go(),
            Err(error) => {
                tracing::warn!(%error, "could not put on record that a mail's text is sent; not sending it");
                false
            }
        }
    }
}

impl Watch for LastWord<'_> {
    /// Asked maybe long after the claim: others may have taken over, time may have run out.
    fn go(&self) -> bool {
        let now = self.parts.clock.now();
        self.claims()
            .iter()
            .all(|row| self.parts.identity.holds(row.lease) && now < deliver::deadline(self.parts, self.mail, row))
    }

    fn before_text(&self) -> BoxFuture<'_, bool> {
        match self.mail.on_uncertain() {
            OnUncertain::Retry => ready(true).boxed(),
            OnUncertain::Hold | OnUncertain::Fail => self.record().boxed(),
        }
    }
}
