-- Whether the mail carries such a link: what its stream said when it was accepted, so that every attempt is the same mail.
ALTER TABLE messages ADD unsubscribe boolean NOT NULL DEFAULT false;
