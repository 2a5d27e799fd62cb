//! The event store on SQLite.

use std::collections::HashMap;

use async_trait::async_trait;
use convoy_cloud_core::condition::{Before, Condition};
use convoy_cloud_core::identity::SubscriptionId;
use convoy_cloud_core::ledger::{LedgerEntry, LedgerRange, Outcome, merged};
use convoy_cloud_core::ports::{
    EventQuery, EventStore, FeedEntry, FeedPage, Novelty, PortError, SignalState, StoredEnvelope,
};
use convoy_cloud_core::record::Record;
use convoy_protocol::campaign::WINDOW_MS_MAX;
use convoy_protocol::id::{BootId, EnvelopeKey, Lane, ManifestId, VehicleId};
use rusqlite::{Row, params};

use crate::database::{Database, pack, unpack};

mod ledger;

/// Records that may wait for manifests at most, over all vehicles.
const PARKED_MAX: i64 = 100_000;
/// A page of a feed ends after the event that takes it over this size, bytes.
const PAGE_BYTES_TARGET: usize = 5 << 20;
/// How far an envelope can reach back before its last sample: a range read looks that much earlier.
const WINDOW_US: i64 = WINDOW_MS_MAX as i64 * 1_000;

/// The event store.
#[derive(Clone)]
pub struct SqliteEventStore {
    database: Database,
}

impl SqliteEventStore {
    /// A store in this database.
    pub const fn new(database: Database) -> Self {
        Self { database }
    }
}

const fn lane_number(lane: Lane) -> i64 {
    match lane {
        Lane::Fast => 0,
        Lane::Bulk => 1,
    }
}

const fn lane_of(number: i64) -> Lane {
    if number == 0 { Lane::Fast } else { Lane::Bulk }
}

/// A signed number that is ordered among its kind as the unsigned one: SQLite has no unsigned ones.
const fn ordered(number: u64) -> i64 {
    (number ^ (1 << 63)).cast_signed()
}

const fn unordered(number: i64) -> u64 {
    number.cast_unsigned() ^ (1 << 63)
}

fn stored_envelope(row: &Row<'_>) -> rusqlite::Result<StoredEnvelope> {
    Ok(StoredEnvelope {
        vehicle_id: VehicleId(row.get("vehicle_id")?),
        first_us: row.get("first_us")?,
        last_us: row.get("last_us")?,
        received_us: row.get("received_us")?,
        key: EnvelopeKey {
            boot_id: BootId { counter: row.get("boot_counter")?, spool: unordered(row.get("boot_spool")?) },
            lane: lane_of(row.get("lane")?),
            sequence: unordered(row.get("sequence")?),
        },
        bytes: row.get("bytes")?,
    })
}

/// The newest value of each path of each vehicle, so that a batch writes each row once.
fn newest(states: &[(VehicleId, Vec<SignalState>)]) -> Vec<(VehicleId, SignalState)> {
    let mut newest: HashMap<(VehicleId, &str), &SignalState> = HashMap::new();
    for (vehicle_id, signals) in states {
        for state in signals {
            let slot = newest.entry((*vehicle_id, &state.path)).or_insert(state);
            if state.sampled_us > slot.sampled_us {
                *slot = state;
            }
        }
    }
    newest.into_iter().map(|((vehicle_id, _), state)| (vehicle_id, state.clone())).collect()
}

fn signal_state(row: &Row<'_>) -> rusqlite::Result<SignalState> {
    Ok(SignalState {
        path: row.get("path")?,
        unit: row.get("unit")?,
        value: row.get("value")?,
        sampled_us: row.get("sampled_us")?,
        received_us: row.get("received_us")?,
    })
}

fn condition(row: &Row<'_>) -> rusqlite::Result<Condition> {
    let by: String = row.get("by_envelope")?;
    Ok(Condition {
        key: row.get("key")?,
        open: row.get("open")?,
        judged_us: row.get("judged_us")?,
        by: by.parse().map_err(|_| damaged("an envelope's identity cannot be read"))?,
        before: Before { open: row.get("before_open")?, judged_us: row.get("before_judged_us")? },
    })
}

fn damaged(reason: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, reason.into())
}

fn digest(record: &[u8]) -> [u8; 16] {
    let mut digest = [0; 16];
    digest.copy_from_slice(&blake3::hash(record).as_bytes()[..16]);
    digest
}

#[async_trait]
impl EventStore for SqliteEventStore {
    async fn put_events(&self, events: &[StoredEnvelope]) -> Result<Vec<Novelty>, PortError> {
        let events = events.to_vec();
        self.database
            .write(move |transaction| {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO event (vehicle_id, first_us, boot_counter, boot_spool, lane, sequence, last_us, \
                     received_us, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
                )?;
                events
                    .iter()
                    .map(|event| {
                        let changed = insert.execute(params![
                            event.vehicle_id.0,
                            event.first_us,
                            event.key.boot_id.counter,
                            ordered(event.key.boot_id.spool),
                            lane_number(event.key.lane),
                            ordered(event.key.sequence),
                            event.last_us,
                            event.received_us,
                            event.bytes,
                        ])?;
                        if changed == 0 {
                            return Ok(Novelty::Known);
                        }
                        let entry = (event.vehicle_id, LedgerRange::one(event.key, Outcome::Stored));
                        if !ledger::enter(transaction, &entry)? {
                            return Ok(Novelty::New);
                        }
                        // Retention has deleted it once: it is not kept again.
                        let mut delete = transaction.prepare_cached("DELETE FROM event WHERE rowid = ?1")?;
                        delete.execute([transaction.last_insert_rowid()])?;
                        Ok(Novelty::Forgotten)
                    })
                    .collect()
            })
            .await
    }

    async fn put_ledger(&self, entries: &[LedgerEntry]) -> Result<(), PortError> {
        if entries.is_empty() {
            return Ok(());
        }
        let entries = merged(entries.to_vec());
        self.database
            .write(move |transaction| {
                entries.iter().try_for_each(|entry| ledger::enter(transaction, entry).map(drop))
            })
            .await
    }

    async fn ledger(&self, vehicle_id: VehicleId) -> Result<Vec<LedgerRange>, PortError> {
        self.database.read(move |connection| ledger::read(connection, vehicle_id)).await
    }

    async fn events(&self, query: EventQuery) -> Result<Vec<StoredEnvelope>, PortError> {
        // Before every envelope there can be: no boot's counter is negative.
        const START: (i64, i64, i64, i64, i64) = (i64::MIN, -1, 0, 0, 0);
        self.database
            .read(move |connection| {
                let after = query.after.map_or(START, |(first_us, key)| {
                    let (counter, spool) = (i64::from(key.boot_id.counter), ordered(key.boot_id.spool));
                    (first_us, counter, spool, lane_number(key.lane), ordered(key.sequence))
                });
                let mut select = connection.prepare_cached(
                    "SELECT * FROM event WHERE vehicle_id = ?1 AND first_us >= ?2 AND first_us < ?3 AND last_us >= ?4 \
                     AND (first_us, boot_counter, boot_spool, lane, sequence) > (?5, ?6, ?7, ?8, ?9) \
                     ORDER BY first_us, boot_counter, boot_spool, lane, sequence LIMIT ?10",
                )?;
                let rows = select.query_map(
                    params![
                        query.vehicle_id.0,
                        query.from_us.saturating_sub(WINDOW_US),
                        query.to_us,
                        query.from_us,
                        after.0,
                        after.1,
                        after.2,
                        after.3,
                        after.4,
                        query.limit,
                    ],
                    stored_envelope,
                )?;
                rows.collect()
            })
            .await
    }

    async fn put_state(&self, states: &[(VehicleId, Vec<SignalState>)]) -> Result<(), PortError> {
        let states = newest(states);
        self.database
            .write(move |transaction| {
                let mut upsert = transaction.prepare_cached(
                    "INSERT INTO state (vehicle_id, path, unit, value, sampled_us, received_us) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (vehicle_id, path) DO UPDATE SET unit = excluded.unit, \
                     value = excluded.value, sampled_us = excluded.sampled_us, received_us = excluded.received_us \
                     WHERE excluded.sampled_us > state.sampled_us",
                )?;
                for (vehicle_id, state) in &states {
                    upsert.execute(params![
                        vehicle_id.0,
                        state.path,
                        state.unit,
                        state.value,
                        state.sampled_us,
                        state.received_us
                    ])?;
                }
                Ok(())
            })
            .await
    }

    async fn state(&self, vehicle_id: VehicleId) -> Result<Vec<SignalState>, PortError> {
        self.database
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT * FROM state WHERE vehicle_id = ?1 ORDER BY path")?
                    .query_map([vehicle_id.0], signal_state)?
                    .collect()
            })
            .await
    }

    async fn conditions(&self, vehicle_id: VehicleId) -> Result<Vec<Condition>, PortError> {
        self.database
            .read(move |connection| {
                connection
                    .prepare_cached("SELECT * FROM condition WHERE vehicle_id = ?1 ORDER BY key")?
                    .query_map([vehicle_id.0], condition)?
                    .collect()
            })
            .await
    }

    async fn put_conditions(&self, conditions: &[(VehicleId, Condition)]) -> Result<(), PortError> {
        let conditions = conditions.to_vec();
        self.database
            .write(move |transaction| {
                let mut upsert = transaction.prepare_cached(
                    "INSERT OR REPLACE INTO condition (vehicle_id, key, open, judged_us, by_envelope, before_open, \
                     before_judged_us) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?;
                for (vehicle_id, condition) in &conditions {
                    upsert.execute(params![
                        vehicle_id.0,
                        condition.key,
                        condition.open,
                        condition.judged_us,
                        condition.by.to_string(),
                        condition.before.open,
                        condition.before.judged_us
                    ])?;
                }
                Ok(())
            })
            .await
    }

    async fn append_feed(&self, entries: &[FeedEntry]) -> Result<u64, PortError> {
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| {
                let ids = (entry.subscription_id.to_string(), entry.event_id.to_string());
                (ids.0, ids.1, pack(&entry.body), entry.committed_us)
            })
            .collect();
        self.database
            .write(move |transaction| {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO feed (subscription_id, event_id, body, committed_us) VALUES (?1, ?2, ?3, ?4) \
                     ON CONFLICT DO NOTHING",
                )?;
                let mut new = 0;
                for (subscription, event, body, committed_us) in &entries {
                    new += insert.execute(params![subscription, event, body, committed_us])? as u64;
                }
                Ok(new)
            })
            .await
    }

    async fn feed(
        &self,
        subscription: &SubscriptionId,
        after: u64,
        limit: u32,
    ) -> Result<FeedPage, PortError> {
        let subscription = subscription.clone();
        self.database
            .read(move |connection| {
                let oldest: Option<i64> = connection
                    .prepare_cached("SELECT max(position) FROM feed_trimmed WHERE subscription_id = ?1")?
                    .query_row([subscription.as_str()], |row| row.get(0))?;
                let mut select = connection.prepare_cached(
                    "SELECT * FROM feed WHERE subscription_id = ?1 AND position > ?2 ORDER BY position LIMIT ?3",
                )?;
                let mut rows = select.query(params![
                    subscription.as_str(),
                    after.cast_signed(),
                    i64::from(limit) + 1
                ])?;
                let oldest = oldest.unwrap_or(0).cast_unsigned();
                // Where retention took everything there is nothing to lose before the oldest that is kept.
                let mut page = FeedPage { position: after.max(oldest), oldest, ..FeedPage::default() };
                let mut bytes = 0;
                while let Some(row) = rows.next()? {
                    if page.entries.len() == limit as usize || bytes >= PAGE_BYTES_TARGET {
                        page.has_more = true;
                        break;
                    }
                    page.position = row.get::<_, i64>("position")?.cast_unsigned();
                    let event_id: String = row.get("event_id")?;
                    let body = unpack(&row.get::<_, Vec<u8>>("body")?)?;
                    bytes += body.len();
                    page.entries.push(FeedEntry {
                        subscription_id: subscription.clone(),
                        event_id: event_id.parse().map_err(|_| damaged("an event id cannot be read"))?,
                        body,
                        committed_us: row.get("committed_us")?,
                    });
                }
                Ok(page)
            })
            .await
    }

    async fn feed_end(&self, subscription: &SubscriptionId) -> Result<u64, PortError> {
        let subscription = subscription.to_string();
        self.database
            .read(move |connection| {
                let end: Option<i64> = connection
                    .prepare_cached(
                        "SELECT max(position) FROM (SELECT max(position) AS position FROM feed WHERE subscription_id = ?1 \
                         UNION ALL SELECT position FROM feed_trimmed WHERE subscription_id = ?1)",
                    )?
                    .query_row([subscription], |row| row.get(0))?;
                Ok(end.unwrap_or(0).cast_unsigned())
            })
            .await
    }

    async fn park(&self, manifest_id: ManifestId, record: &Record) -> Result<(), PortError> {
        let bytes = record.encode();
        let parked = self
            .database
            .write(move |transaction| {
                let waiting: i64 =
                    transaction.query_row("SELECT count(*) FROM parked", [], |row| row.get(0))?;
                if waiting >= PARKED_MAX {
                    return Ok(false);
                }
                transaction.execute(
                    "INSERT INTO parked (manifest_id, digest, record) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                    params![manifest_id.0, digest(&bytes), bytes],
                )?;
                Ok(true)
            })
            .await?;
        if parked {
            return Ok(());
        }
        let reason = format!("manifest {manifest_id} is not known and {PARKED_MAX} records wait already");
        Err(PortError::Refused { service: "event store", reason })
    }

    async fn parked(&self, manifest_id: ManifestId, limit: u32) -> Result<Vec<Record>, PortError> {
        self.database
            .read(move |connection| {
                let mut select = connection.prepare_cached(
                    "SELECT record FROM parked WHERE manifest_id = ?1 ORDER BY rowid LIMIT ?2",
                )?;
                let rows = select.query_map(params![manifest_id.0, limit], |row| row.get::<_, Vec<u8>>(0))?;
                rows.map(|bytes| {
                    Record::decode(&bytes?).map_err(|_| damaged("a parked record cannot be read"))
                })
                .collect()
            })
            .await
    }

    async fn unpark(&self, manifest_id: ManifestId, records: &[Record]) -> Result<(), PortError> {
        let digests: Vec<_> = records.iter().map(|record| digest(&record.encode())).collect();
        self.database
            .write(move |transaction| {
                let mut delete = transaction
                    .prepare_cached("DELETE FROM parked WHERE manifest_id = ?1 AND digest = ?2")?;
                for digest in &digests {
                    delete.execute(params![manifest_id.0, digest])?;
                }
                Ok(())
            })
            .await
    }
}
