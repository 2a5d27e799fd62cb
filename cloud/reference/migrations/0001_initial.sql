-- Common to SQLite and PostgreSQL, where BLOB is read as BYTEA. Times are microseconds since the Unix epoch, UTC;
-- truth values are 0 and 1; ids are text but for vehicles and manifests, which are 16 bytes.

-- Starts at 0: storing the packages at the first opening makes it 1.
CREATE TABLE routing_version (
    only_row BIGINT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    version BIGINT NOT NULL
);
INSERT INTO routing_version (only_row, version) VALUES (1, 0);

-- Tells a wrong key at opening, before anything is written under it.
CREATE TABLE key_check (
    only_row BIGINT NOT NULL PRIMARY KEY CHECK (only_row = 1),
    tag BLOB NOT NULL
);

CREATE TABLE customer (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    pseudonym_key_encrypted BLOB NOT NULL,
    created_us BIGINT NOT NULL
);

CREATE TABLE principal (
    key_id TEXT NOT NULL PRIMARY KEY,
    customer_id TEXT REFERENCES customer (id),
    secret_hash BLOB NOT NULL,
    created_us BIGINT NOT NULL,
    revoked_us BIGINT
);

CREATE TABLE vehicle (
    vehicle_id BLOB NOT NULL PRIMARY KEY,
    vin_hmac BLOB NOT NULL UNIQUE,
    vin_encrypted BLOB NOT NULL
);

CREATE TABLE customer_vehicle (
    vehicle_id BLOB NOT NULL REFERENCES vehicle (vehicle_id),
    customer_id TEXT NOT NULL REFERENCES customer (id),
    label TEXT,
    valid_from_us BIGINT NOT NULL,
    valid_to_us BIGINT
);
CREATE INDEX customer_vehicle_by_vehicle ON customer_vehicle (vehicle_id);
-- One holder at a time.
CREATE UNIQUE INDEX customer_vehicle_current ON customer_vehicle (vehicle_id) WHERE valid_to_us IS NULL;

CREATE TABLE package (
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    description TEXT NOT NULL,
    paths TEXT NOT NULL,
    diagnostics BIGINT NOT NULL,
    alerts BIGINT NOT NULL,
    PRIMARY KEY (name, version)
);

CREATE TABLE webhook_endpoint (
    id TEXT NOT NULL PRIMARY KEY,
    customer_id TEXT NOT NULL REFERENCES customer (id),
    url TEXT NOT NULL,
    disabled_us BIGINT,
    created_us BIGINT NOT NULL
);

CREATE TABLE subscription (
    id TEXT NOT NULL PRIMARY KEY,
    customer_id TEXT NOT NULL REFERENCES customer (id),
    package TEXT NOT NULL,
    package_version BIGINT NOT NULL,
    terms TEXT NOT NULL,
    status TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    FOREIGN KEY (package, package_version) REFERENCES package (name, version)
);
CREATE INDEX subscription_by_customer ON subscription (customer_id, created_us);

CREATE TABLE operation (
    id TEXT NOT NULL PRIMARY KEY,
    subscription_id TEXT NOT NULL REFERENCES subscription (id),
    customer_id TEXT NOT NULL REFERENCES customer (id),
    idempotency_key TEXT,
    request_hash BLOB NOT NULL,
    progress TEXT NOT NULL,
    finished BIGINT NOT NULL,
    created_us BIGINT NOT NULL,
    UNIQUE (customer_id, idempotency_key)
);
CREATE INDEX operation_unfinished ON operation (created_us) WHERE finished = 0;

CREATE TABLE import (
    id TEXT NOT NULL PRIMARY KEY,
    source TEXT NOT NULL,
    row_count BIGINT NOT NULL,
    accepted BIGINT NOT NULL,
    rejected BIGINT NOT NULL,
    errors TEXT NOT NULL,
    finished_us BIGINT NOT NULL
);
CREATE INDEX import_by_time ON import (finished_us);

CREATE TABLE manifest (
    id BLOB NOT NULL PRIMARY KEY,
    encoding BLOB NOT NULL
);
