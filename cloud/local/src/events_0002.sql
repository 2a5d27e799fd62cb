-- What became of every envelope, as ranges of sequences; kept for ever. Numbers as in `event`; outcome as in
-- `convoy_cloud_core::ledger::Outcome`. Ranges of one outcome may touch or overlap: readers merge them.
CREATE TABLE ledger (
    vehicle_id BLOB NOT NULL,
    boot_counter INTEGER NOT NULL,
    boot_spool INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (vehicle_id, boot_counter, boot_spool, lane, outcome, first)
) WITHOUT ROWID;
-- What was stored before there was a ledger.
INSERT INTO ledger SELECT vehicle_id, boot_counter, boot_spool, lane, 0, sequence, sequence FROM event;
