//! Envelopes, an item each, below their vehicle and the day of their first sample.

use std::collections::{BTreeSet, HashMap};

use convoy_cloud_core::ledger::{LedgerEntry, LedgerRange, Outcome};
use convoy_cloud_core::ports::{EventQuery, Novelty, PortError, StoredEnvelope};
use convoy_protocol::campaign::WINDOW_MS_MAX;
use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use convoy_protocol::id::{BootId, EnvelopeKey, Lane, VehicleId};

use super::attributes::{
    Item, binary, binary_of, item, number, number_of, signed_of, sortable, sortable_signed, text, text_of,
};
use super::request::Request;
use super::{
    BODY_BYTES_MAX, CALLS_AT_ONCE, DynamoEventStore, ITEM_BYTES_MAX, SERVICE, SORT_KEY, TTL, at_once,
    damaged, days, ledger, lost,
};
use crate::error::refused;

/// How far an envelope can reach back before its last sample: a range read looks that much earlier.
const WINDOW_US: i64 = WINDOW_MS_MAX as i64 * 1_000;
/// The envelope as the vehicle sent it.
const BYTES: &str = "b";
/// Its latest sample, microseconds since the Unix epoch.
const LAST: &str = "l";
/// When the bridge received it, likewise.
const RECEIVED: &str = "r";

/// Puts that are prepared at once: one that waits for its turn takes as much memory as one on its way.
const PREPARED_MAX: usize = 2 * CALLS_AT_ONCE;

// Every envelope fits into an item.
const _: () = assert!(ENVELOPE_BYTES_MAX <= BODY_BYTES_MAX && BODY_BYTES_MAX < ITEM_BYTES_MAX);

/// Sort key: in the order of reading, all parts of fixed length.
fn sort_key(first_us: i64, key: EnvelopeKey) -> String {
    let EnvelopeKey { boot_id: BootId { counter, spool }, lane, sequence } = key;
    let (time, spool, sequence) = (sortable_signed(first_us), sortable(spool), sortable(sequence));
    let lane = match lane {
        Lane::Fast => 0,
        Lane::Bulk => 1,
    };
    format!("{time}#{counter:08x}#{spool}#{lane}#{sequence}")
}

fn parse_sort_key(text: &str) -> Option<(i64, EnvelopeKey)> {
    let mut parts = text.split('#');
    let first_us = signed_of(parts.next()?)?;
    let counter = u32::from_str_radix(parts.next()?, 16).ok()?;
    let spool = u64::from_str_radix(parts.next()?, 16).ok()?;
    let lane = match parts.next()? {
        "0" => Lane::Fast,
        "1" => Lane::Bulk,
        _ => return None,
    };
    let sequence = u64::from_str_radix(parts.next()?, 16).ok()?;
    Some((first_us, EnvelopeKey { boot_id: BootId { counter, spool }, lane, sequence }))
}

fn keys(event: &StoredEnvelope) -> Item {
    let partition = days::partition(event.vehicle_id, &days::of(event.first_us));
    item(partition, sort_key(event.first_us, event.key))
}

/// Stores envelopes.
///
/// First the days are noted, then envelopes are put, then the ledger is written. So a crash in between leaves at
/// worst an envelope that the ledger lacks, and the batch, given again, completes it; and what the ledger has and the
/// table lacks was deleted when its time was over.
pub(super) async fn put(
    store: &DynamoEventStore,
    events: &[StoredEnvelope],
) -> Result<Vec<Novelty>, PortError> {
    if let Some(large) = events.iter().find(|event| event.bytes.len() > BODY_BYTES_MAX) {
        let reason =
            format!("an envelope of {} bytes, at most {ENVELOPE_BYTES_MAX} are allowed", large.bytes.len());
        return Err(refused(SERVICE, reason));
    }
    let mut first: HashMap<(VehicleId, EnvelopeKey), usize> = HashMap::new();
    let mut once: Vec<&StoredEnvelope> = Vec::with_capacity(events.len());
    for event in events {
        first.entry((event.vehicle_id, event.key)).or_insert_with(|| {
            once.push(event);
            once.len() - 1
        });
    }
    let ttl = store.now_s().saturating_add(store.keep_s);
    let noted = once.iter().map(|event| (event.vehicle_id, days::of(event.first_us))).collect();
    let boots: BTreeSet<_> = once.iter().map(|event| (event.vehicle_id, event.key.boot_id)).collect();
    let ((), known) = futures_util::try_join!(days::note(store, noted, ttl), ledger::look_up(store, boots))?;
    let mut novelty = Vec::with_capacity(once.len());
    for some in once.chunks(PREPARED_MAX) {
        let puts = some.iter().map(|event| {
            let was_stored = known.was_stored(event.vehicle_id, event.key);
            async move { if was_stored { find(store, event).await } else { put_one(store, event, ttl).await } }
        });
        novelty.extend(at_once(CALLS_AT_ONCE, puts.collect()).await?);
    }
    let entries: Vec<LedgerEntry> =
        once.iter().map(|event| (event.vehicle_id, LedgerRange::one(event.key, Outcome::Stored))).collect();
    ledger::enter(store, &entries, known).await?;
    Ok(told(events, &first, &novelty))
}

/// What to say of each given envelope: one that was given before in the call is known, or as forgotten as the first.
fn told(
    events: &[StoredEnvelope],
    first: &HashMap<(VehicleId, EnvelopeKey), usize>,
    novelty: &[Novelty],
) -> Vec<Novelty> {
    let mut is_told = vec![false; novelty.len()];
    let said = events.iter().map(|event| {
        let index = first[&(event.vehicle_id, event.key)];
        let is_repeated = std::mem::replace(&mut is_told[index], true);
        match novelty[index] {
            Novelty::New if is_repeated => Novelty::Known,
            novelty => novelty,
        }
    });
    said.collect()
}

/// Puts an envelope that the ledger does not have.
async fn put_one(store: &DynamoEventStore, event: &StoredEnvelope, ttl: i64) -> Result<Novelty, PortError> {
    let mut item = keys(event);
    item.insert(BYTES.into(), binary(event.bytes.clone()));
    item.insert(LAST.into(), number(event.last_us));
    item.insert(RECEIVED.into(), number(event.received_us));
    item.insert(TTL.into(), number(ttl));
    let put = Request::put(&store.tables.events, item).only_if("attribute_not_exists(pk)");
    let is_there = lost(store.client.send(&put).await)?;
    Ok(if is_there { Novelty::Known } else { Novelty::New })
}

/// Is an envelope that the ledger has still there?
async fn find(store: &DynamoEventStore, event: &StoredEnvelope) -> Result<Novelty, PortError> {
    let get = Request::get(&store.tables.events, keys(event)).consistent(true);
    let get = get.projected("#ttl").name("#ttl", TTL);
    let Some(item) = store.client.send(&get).await?.item else { return Ok(Novelty::Forgotten) };
    let is_over = number_of::<i64>(&item, TTL)? <= store.now_s();
    Ok(if is_over { Novelty::Forgotten } else { Novelty::Known })
}

fn envelope(vehicle_id: VehicleId, item: &Item) -> Result<StoredEnvelope, PortError> {
    let (first_us, key) =
        parse_sort_key(text_of(item, SORT_KEY)?).ok_or_else(|| damaged("an envelope's key"))?;
    Ok(StoredEnvelope {
        vehicle_id,
        key,
        first_us,
        last_us: number_of(item, LAST)?,
        received_us: number_of(item, RECEIVED)?,
        bytes: binary_of(item, BYTES)?.to_vec(),
    })
}

/// Reads envelopes in order, day after day.
pub(super) async fn read(
    store: &DynamoEventStore,
    query: EventQuery,
) -> Result<Vec<StoredEnvelope>, PortError> {
    let from_us = query.from_us.saturating_sub(WINDOW_US);
    let mut low = sortable_signed(from_us);
    let mut first_us = from_us;
    if let Some((after_us, key)) = query.after {
        // Keys are of one length, so this lies behind the key itself and before every later one.
        low = low.max(format!("{}!", sort_key(after_us, key)));
        first_us = first_us.max(after_us);
    }
    // Shorter than every key of its time: not included.
    let high = sortable_signed(query.to_us);
    let mut found = Vec::new();
    if low > high {
        return Ok(found);
    }
    let days = days::between(store, query.vehicle_id, &days::of(first_us), &days::of(query.to_us)).await?;
    for day in days {
        if found.len() >= query.limit as usize {
            break;
        }
        read_day(store, query, &day, (&low, &high), &mut found).await?;
    }
    Ok(found)
}

async fn read_day(
    store: &DynamoEventStore,
    query: EventQuery,
    day: &str,
    (low, high): (&str, &str),
    found: &mut Vec<StoredEnvelope>,
) -> Result<(), PortError> {
    let mut next = None;
    loop {
        let left = query.limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
        let page = Request::query(&store.tables.events, "pk = :pk AND sk BETWEEN :low AND :high")
            .filtered("l >= :from AND #ttl > :now")
            .name("#ttl", TTL)
            .value(":pk", text(days::partition(query.vehicle_id, day)))
            .value(":low", text(low))
            .value(":high", text(high))
            .value(":from", number(query.from_us))
            .value(":now", number(store.now_s()))
            .limit(left)
            .after(next);
        let page = store.client.send(&page).await?;
        for item in &page.items {
            found.push(envelope(query.vehicle_id, item)?);
        }
        next = page.last_evaluated_key;
        if next.is_none() || found.len() >= query.limit as usize {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(counter: u32, spool: u64, lane: Lane, sequence: u64) -> EnvelopeKey {
        EnvelopeKey { boot_id: BootId { counter, spool }, lane, sequence }
    }

    #[test]
    fn sort_keys_sort_as_envelopes_do_and_come_back() {
        let envelopes = [
            (i64::MIN, key(u32::MAX, u64::MAX, Lane::Bulk, u64::MAX)),
            (-1, key(0, 0, Lane::Fast, 0)),
            (0, key(0, 0, Lane::Fast, 0)),
            (0, key(0, 0, Lane::Fast, u64::MAX)),
            (0, key(0, 0, Lane::Bulk, 0)),
            (0, key(0, 1 << 63, Lane::Fast, 0)),
            (0, key(1, 0, Lane::Fast, 0)),
            (i64::MAX, key(0, 0, Lane::Fast, 0)),
        ];
        let texts = envelopes.map(|(first_us, key)| sort_key(first_us, key));
        assert!(texts.is_sorted());
        assert_eq!(texts.map(|text| parse_sort_key(&text).unwrap()), envelopes);
        assert_eq!(parse_sort_key("8000000000000000#1"), None);
    }
}
