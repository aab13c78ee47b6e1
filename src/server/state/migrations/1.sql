-- Version 1. One text for both databases: BLOB is written BYTEA for PostgreSQL; times are RFC 3339 text, or seconds since 1970 where they
-- are compared. Statements end with a semicolon at the end of a line.

CREATE TABLE tenants (
    tenant TEXT NOT NULL PRIMARY KEY,
    account_id TEXT NOT NULL,
    active BIGINT NOT NULL CHECK (active IN (0, 1)),
    policy TEXT NOT NULL,
    created_at TEXT NOT NULL
);

CREATE TABLE domain_keys (
    id BLOB NOT NULL PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('current', 'retired')),
    created_at TEXT NOT NULL
);
CREATE UNIQUE INDEX one_current_domain_key ON domain_keys (state) WHERE state = 'current';

CREATE TABLE signing_keys (
    id BLOB NOT NULL PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('current', 'retired')),
    spki BLOB NOT NULL UNIQUE,
    endorsed_by BLOB,
    endorsement BLOB,
    created_at TEXT NOT NULL,
    retired_at TEXT,
    CHECK ((endorsed_by IS NULL) = (endorsement IS NULL))
);
CREATE UNIQUE INDEX one_current_signing_key ON signing_keys (state) WHERE state = 'current';

-- The first key of a tenant is version 1 for everybody who makes one: the primary key lets one of them win.
CREATE TABLE customer_keys (
    tenant TEXT NOT NULL REFERENCES tenants (tenant),
    version BIGINT NOT NULL CHECK (version > 0),
    domain BLOB NOT NULL REFERENCES domain_keys (id),
    wrapped BLOB NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (tenant, version)
);
CREATE INDEX customer_keys_by_domain ON customer_keys (domain);

CREATE TABLE tokens (
    hash BLOB NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL REFERENCES tenants (tenant),
    instances TEXT NOT NULL,
    expires_at BIGINT,
    disabled BIGINT NOT NULL CHECK (disabled IN (0, 1)),
    created_at TEXT NOT NULL
);

CREATE TABLE challenges (
    nonce BLOB NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    instance TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX challenges_by_age ON challenges (expires_at);
CREATE INDEX challenges_by_owner ON challenges (tenant, instance);

-- One row per log: the number that its next record gets, the hash of its last one, and up to where signed heads vouch for it.
-- Not every log is a tenant's.
CREATE TABLE audit_heads (
    log TEXT NOT NULL PRIMARY KEY,
    next BIGINT NOT NULL CHECK (next > 0),
    previous BLOB NOT NULL,
    headed BIGINT NOT NULL,
    listed BIGINT NOT NULL
);

CREATE TABLE audit_records (
    log TEXT NOT NULL REFERENCES audit_heads (log),
    number BIGINT NOT NULL CHECK (number > 0),
    record BLOB NOT NULL,
    PRIMARY KEY (log, number)
);

-- The outbox: which number each sink needs next of each log. Everything before it is there.
CREATE TABLE sink_positions (
    sink TEXT NOT NULL,
    log TEXT NOT NULL REFERENCES audit_heads (log),
    next BIGINT NOT NULL CHECK (next > 0),
    PRIMARY KEY (sink, log)
);

-- What one node at a time does. The work is safe to do twice: leases only spare it.
CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    until BIGINT NOT NULL
);
