-- Goes out although an address is suppressed: for an administrator's own key, such as for a legal notice.
ALTER TABLE messages ADD ignore_suppression boolean NOT NULL DEFAULT false;
