-- Tokens with which vehicles claim certificates, and the certificates.
CREATE TABLE enrolment (
    token_hash BLOB NOT NULL PRIMARY KEY,
    vehicle_id BLOB NOT NULL,
    expires_us BIGINT NOT NULL,
    used_us BIGINT
);

CREATE TABLE vehicle_certificate (
    serial BLOB NOT NULL PRIMARY KEY,
    vehicle_id BLOB NOT NULL,
    issued_us BIGINT NOT NULL,
    not_after_us BIGINT NOT NULL,
    revoked_us BIGINT
);
CREATE INDEX vehicle_certificate_by_vehicle ON vehicle_certificate (vehicle_id);
