//! The ledger's table.

use convoy_cloud_core::ledger::{LedgerEntry, LedgerRange, Outcome};
use convoy_protocol::id::{BootId, VehicleId};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{damaged, lane_number, lane_of, ordered, unordered};

/// Enters a range; true where all of it was there already.
///
/// The range that begins last before it is extended where the new one touches it. So a lane that comes in order takes
/// one row, and disorder a few more, which readers merge.
pub(super) fn enter(transaction: &Transaction<'_>, entry: &LedgerEntry) -> rusqlite::Result<bool> {
    let (vehicle_id, LedgerRange { boot_id, lane, outcome, first, last }) = entry;
    let (counter, spool) = (boot_id.counter, ordered(boot_id.spool));
    let (lane, outcome) = (lane_number(*lane), *outcome as i64);
    let mut before = transaction.prepare_cached(
        "SELECT first, last FROM ledger WHERE vehicle_id = ?1 AND boot_counter = ?2 AND boot_spool = ?3 AND lane = ?4 \
         AND outcome = ?5 AND first <= ?6 ORDER BY first DESC LIMIT 1",
    )?;
    let known: Option<(i64, i64)> = before
        .query_row(params![vehicle_id.0, counter, spool, lane, outcome, ordered(*first)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    match known {
        Some((_, end)) if unordered(end) >= *last => return Ok(true),
        Some((start, end)) if unordered(end).saturating_add(1) >= *first => {
            let mut extend = transaction.prepare_cached(
                "UPDATE ledger SET last = ?6 WHERE vehicle_id = ?1 AND boot_counter = ?2 AND boot_spool = ?3 \
                 AND lane = ?4 AND outcome = ?5 AND first = ?7",
            )?;
            extend.execute(params![vehicle_id.0, counter, spool, lane, outcome, ordered(*last), start])?;
        }
        _ => {
            let mut insert = transaction.prepare_cached(
                "INSERT INTO ledger (vehicle_id, boot_counter, boot_spool, lane, outcome, first, last) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            let (first, last) = (ordered(*first), ordered(*last));
            insert.execute(params![vehicle_id.0, counter, spool, lane, outcome, first, last])?;
        }
    }
    Ok(false)
}

/// All ranges of a vehicle.
pub(super) fn read(connection: &Connection, vehicle_id: VehicleId) -> rusqlite::Result<Vec<LedgerRange>> {
    let mut select = connection.prepare_cached(
        "SELECT boot_counter, boot_spool, lane, outcome, first, last FROM ledger WHERE vehicle_id = ?1",
    )?;
    let rows = select.query_map([vehicle_id.0], |row| {
        let outcome: i64 = row.get(3)?;
        let known = Outcome::ALL.into_iter().find(|known| *known as i64 == outcome);
        Ok(LedgerRange {
            boot_id: BootId { counter: row.get(0)?, spool: unordered(row.get(1)?) },
            lane: lane_of(row.get(2)?),
            outcome: known.ok_or_else(|| damaged("an outcome of the ledger is unknown"))?,
            first: unordered(row.get(4)?),
            last: unordered(row.get(5)?),
        })
    })?;
    rows.collect()
}
