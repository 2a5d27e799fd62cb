-- What each vehicle shall collect and what it said of it. Campaigns and report are postcard.
CREATE TABLE vehicle_campaigns (
    vehicle_id BLOB NOT NULL PRIMARY KEY,
    -- 0: nothing was wanted of it yet, it only reported.
    version BIGINT NOT NULL,
    campaigns BLOB NOT NULL,
    changed_us BIGINT NOT NULL,
    reported_version BIGINT,
    reported_us BIGINT,
    report BLOB,
    -- The version whose missing report has raised an alert.
    overdue_raised BIGINT NOT NULL
);
CREATE INDEX vehicle_campaigns_by_change ON vehicle_campaigns (changed_us);
