-- What keeps a blocked destination from being reached, as a person would put it, and which host said so.
ALTER TABLE lanes
    -- auth, certificate, tls, dns, connection_refused, timeout, network, disconnected or refused; null where it is not
    -- blocked, or was blocked by a version that did not record it.
    ADD block_cause text,
    -- Host name of the relay or MX that was tried last; null where none was found.
    ADD block_host text;
