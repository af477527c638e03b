-- Whether the DMARC policy of a sender's domain wants exact alignment, so that a 202 can say which messages fail it.
ALTER TABLE domains
    ADD COLUMN dmarc_strict_dkim boolean NOT NULL DEFAULT false,
    ADD COLUMN dmarc_strict_spf boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN domains.dmarc_strict_dkim IS 'The record that was last found says adkim=s: only signatures of the very domain count.';
COMMENT ON COLUMN domains.dmarc_strict_spf IS 'It says aspf=s: SPF counts only where bounces go to the very domain.';
