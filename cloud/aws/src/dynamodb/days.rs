//! On which days a vehicle has envelopes: without them a read over a long time would ask for every day there was.
//!
//! One item a vehicle; an attribute a day says until when the day has to be looked at. It is written before the first
//! envelope of the day is, and again when envelopes still come at a time that is a day later.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::PoisonError;

use convoy_cloud_core::ambient::civil_from_days;
use convoy_cloud_core::ports::PortError;
use convoy_protocol::id::VehicleId;

use super::attributes::{Item, item, number, number_of};
use super::request::Request;
use super::{CALLS_AT_ONCE, DynamoEventStore, PARTITION_KEY, SERVICE, SORT_KEY, at_once, lost};
use crate::error::refused;

/// Seconds of a day.
pub(super) const DAY_S: i64 = 86_400;
const DAY_US: i64 = DAY_S * 1_000_000;
/// Sort key of the item.
const SORT: &str = "D";
/// A day is noted for this much longer than its envelopes are kept, so that it is written once a day at most.
const SLACK_S: i64 = 2 * DAY_S;
/// Days that one vehicle may have envelopes on at once; a vehicle whose clock jumps about makes the most.
const DAYS_MAX: usize = 4_000;
/// Ended days taken out of an item in one write.
const PRUNED_MAX: usize = 40;
/// Days of vehicles that a process remembers to have noted; then it forgets all and asks again.
const REMEMBERED_MAX: usize = 100_000;

/// A vehicle's day.
pub(super) type Day = (VehicleId, String);

/// The day of a time, `yyyymmdd`; times before year 0 and after 9999 belong to the first and the last day.
pub(super) fn of(timestamp_us: i64) -> String {
    match civil_from_days(timestamp_us.div_euclid(DAY_US)) {
        (..0, ..) => "00000101".to_owned(),
        (10_000.., ..) => "99991231".to_owned(),
        (year, month, day) => format!("{year:04}{month:02}{day:02}"),
    }
}

/// Makes sure that days are noted until envelopes stored now have ended, which is `ttl`.
pub(super) async fn note(store: &DynamoEventStore, days: BTreeSet<Day>, ttl: i64) -> Result<(), PortError> {
    let mut vehicles: BTreeMap<VehicleId, Vec<String>> = BTreeMap::new();
    {
        let remembered = store.days.lock().unwrap_or_else(PoisonError::into_inner);
        for day in days {
            if remembered.get(&day).is_none_or(|until| *until < ttl) {
                vehicles.entry(day.0).or_default().push(day.1);
            }
        }
    }
    let notes = vehicles.into_iter().map(|(vehicle, days)| note_days(store, vehicle, days, ttl)).collect();
    at_once(CALLS_AT_ONCE, notes).await.map(drop)
}

async fn note_days(
    store: &DynamoEventStore,
    vehicle_id: VehicleId,
    days: Vec<String>,
    ttl: i64,
) -> Result<(), PortError> {
    // What a stale read lacks is written once more.
    let known = noted(store, vehicle_id, false).await?;
    let (late, noted): (Vec<_>, Vec<_>) =
        days.into_iter().partition(|day| known.get(day).is_none_or(|until| *until < ttl));
    if !late.is_empty() {
        let live = known.values().filter(|until| **until > store.now_s()).count();
        if live + late.len() > DAYS_MAX {
            let reason = format!("vehicle {vehicle_id} has envelopes on more than {DAYS_MAX} days");
            return Err(refused(SERVICE, reason));
        }
        write(store, vehicle_id, &late, &known, ttl + SLACK_S).await?;
    }
    let mut remembered = store.days.lock().unwrap_or_else(PoisonError::into_inner);
    if remembered.len() >= REMEMBERED_MAX {
        remembered.clear();
    }
    remembered.extend(
        noted.into_iter().map(|day| (known[&day], day)).map(|(until, day)| ((vehicle_id, day), until)),
    );
    remembered.extend(late.into_iter().map(|day| ((vehicle_id, day), ttl + SLACK_S)));
    Ok(())
}

/// Writes days and takes out ended ones, unless another writer has just made one of these last again.
async fn write(
    store: &DynamoEventStore,
    vehicle_id: VehicleId,
    late: &[String],
    known: &HashMap<String, i64>,
    until: i64,
) -> Result<(), PortError> {
    let now_s = store.now_s();
    let ended = known.iter().filter(|(day, until)| **until <= now_s && !late.contains(day));
    let ended: Vec<_> = ended.take(PRUNED_MAX).collect();
    let keys = item(format!("V#{vehicle_id}"), SORT);
    let update = |ended| update(&store.tables.vehicles, keys.clone(), late, ended, until);
    if !lost(store.client.send(&update(&ended)).await)? {
        return Ok(());
    }
    store.client.send(&update(&[])).await?;
    Ok(())
}

fn update<'r>(
    table: &'r str,
    keys: Item,
    late: &[String],
    ended: &[(&String, &i64)],
    until: i64,
) -> Request<'r> {
    let sets: Vec<_> = late.iter().map(|day| format!("d{day} = :until")).collect();
    let mut expression = format!("SET {}", sets.join(", "));
    if !ended.is_empty() {
        let removes: Vec<_> = ended.iter().map(|(day, _)| format!("d{day}")).collect();
        expression = format!("{expression} REMOVE {}", removes.join(", "));
    }
    let mut update = Request::update(table, keys, expression).value(":until", number(until));
    if !ended.is_empty() {
        let conditions: Vec<_> = ended.iter().map(|(day, _)| format!("d{day} = :d{day}")).collect();
        update = update.only_if(conditions.join(" AND "));
    }
    for (day, until) in ended {
        update = update.value(format!(":d{day}"), number(until));
    }
    update
}

/// Days of a vehicle, and until when each has to be looked at, seconds since the Unix epoch.
async fn noted(
    store: &DynamoEventStore,
    vehicle_id: VehicleId,
    consistent: bool,
) -> Result<HashMap<String, i64>, PortError> {
    let keys = item(format!("V#{vehicle_id}"), SORT);
    let get = Request::get(&store.tables.vehicles, keys).consistent(consistent);
    store.client.send(&get).await?.item.as_ref().map_or_else(|| Ok(HashMap::new()), days_of)
}

fn days_of(item: &Item) -> Result<HashMap<String, i64>, PortError> {
    let days = item.keys().filter(|name| *name != PARTITION_KEY && *name != SORT_KEY);
    days.map(|name| Ok((name.trim_start_matches('d').to_owned(), number_of(item, name)?))).collect()
}

/// The days of a vehicle from `first` to `last`, both included, that have to be looked at, in order.
pub(super) async fn between(
    store: &DynamoEventStore,
    vehicle_id: VehicleId,
    first: &str,
    last: &str,
) -> Result<Vec<String>, PortError> {
    let now_s = store.now_s();
    let noted = noted(store, vehicle_id, true).await?;
    let live = noted.into_iter().filter(|(_, until)| *until > now_s).map(|(day, _)| day);
    let mut days: Vec<_> = live.filter(|day| (first..=last).contains(&day.as_str())).collect();
    days.sort_unstable();
    Ok(days)
}

/// Partition key of a vehicle's day in the table of envelopes.
pub(super) fn partition(vehicle_id: VehicleId, day: &str) -> String {
    format!("V#{vehicle_id}#{day}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_sort_as_times_do_up_to_the_edges() {
        let times = [i64::MIN, -62_167_219_200_000_001, -1, 0, 1_795_478_400_000_000, i64::MAX];
        let days = times.map(of);
        assert_eq!(days, ["00000101", "00000101", "19691231", "19700101", "20261124", "99991231"]);
        assert!(days.is_sorted());
    }
}
