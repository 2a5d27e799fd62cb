-- Ids are texts as in the API; vehicle ids are 16 bytes; times are microseconds since the Unix epoch, UTC.
-- A boot's spool id and a sequence are unsigned 64-bit numbers, kept with the highest bit flipped so that they sort.

CREATE TABLE event (
    vehicle_id BLOB NOT NULL,
    first_us INTEGER NOT NULL,
    boot_counter INTEGER NOT NULL,
    boot_spool INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    last_us INTEGER NOT NULL,
    received_us INTEGER NOT NULL,
    bytes BLOB NOT NULL
);
CREATE UNIQUE INDEX event_identity ON event (vehicle_id, boot_counter, boot_spool, lane, sequence);
CREATE INDEX event_time ON event (vehicle_id, first_us, boot_counter, boot_spool, lane, sequence);
CREATE INDEX event_received ON event (received_us);

CREATE TABLE state (
    vehicle_id BLOB NOT NULL,
    path TEXT NOT NULL,
    unit TEXT NOT NULL,
    value REAL,
    sampled_us INTEGER NOT NULL,
    received_us INTEGER NOT NULL,
    PRIMARY KEY (vehicle_id, path)
) WITHOUT ROWID;

CREATE TABLE condition (
    vehicle_id BLOB NOT NULL,
    key TEXT NOT NULL,
    open INTEGER NOT NULL,
    judged_us INTEGER NOT NULL,
    by_envelope TEXT NOT NULL,
    before_open INTEGER NOT NULL,
    before_judged_us INTEGER NOT NULL,
    PRIMARY KEY (vehicle_id, key)
) WITHOUT ROWID;

CREATE TABLE feed (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    subscription_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    body BLOB NOT NULL,
    committed_us INTEGER NOT NULL
);
CREATE UNIQUE INDEX feed_once ON feed (subscription_id, event_id);
CREATE INDEX feed_order ON feed (subscription_id, position);
CREATE INDEX feed_age ON feed (committed_us);

-- Position of the newest entry that retention removed from a feed.
CREATE TABLE feed_trimmed (
    subscription_id TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) WITHOUT ROWID;

-- state: 0 waiting or leased, 1 acknowledged, 2 dead. An acknowledged message keeps its row without its body until
-- retention removes it, so that the same event sent again is not delivered again.
CREATE TABLE queue_message (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    event_id TEXT NOT NULL,
    body BLOB,
    sent_us INTEGER NOT NULL,
    visible_us INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    state INTEGER NOT NULL DEFAULT 0,
    reason TEXT
);
CREATE UNIQUE INDEX queue_once ON queue_message (queue, event_id);
CREATE INDEX queue_ready ON queue_message (queue, state, visible_us, number);
CREATE INDEX queue_age ON queue_message (sent_us);

CREATE TABLE parked (
    manifest_id BLOB NOT NULL,
    digest BLOB NOT NULL,
    record BLOB NOT NULL,
    PRIMARY KEY (manifest_id, digest)
);

CREATE TABLE resource (
    name TEXT PRIMARY KEY,
    body TEXT NOT NULL
) WITHOUT ROWID;
