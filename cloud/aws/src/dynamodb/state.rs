//! Last known state: one item a vehicle, all signals packed into one value.
//!
//! DynamoDB charges an update by the size of the whole item, whatever part of it changes. A hundred signals take 7 KB
//! as a map of maps and 2 KB packed, and are written with every batch.

use std::collections::BTreeMap;

use convoy_cloud_core::ports::{PortError, SignalState};
use convoy_protocol::id::VehicleId;
use serde::{Deserialize, Serialize};

use super::revision::{self, Place};
use super::{CALLS_AT_ONCE, DynamoEventStore, at_once, damaged};

/// Sort key of the item.
const SORT: &str = "S";
/// First byte of the packed value: zstd of the postcard of [`Columns`].
const VERSION: u8 = 1;
const ZSTD_LEVEL: i32 = 3;

/// Newest value of each path.
type Newest<'s> = BTreeMap<&'s str, &'s SignalState>;

/// Signals in columns, by path: what is alike lies together, which compresses best.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Columns {
    paths: Vec<String>,
    units: Vec<String>,
    values: Vec<Option<f64>>,
    /// The latest time of all.
    latest_us: i64,
    /// How long before it each signal was sampled, wrapping.
    sampled_before_us: Vec<i64>,
    /// How long after its sample each signal was received, wrapping.
    received_after_us: Vec<i64>,
}

fn pack<'s>(states: impl Iterator<Item = &'s SignalState> + Clone) -> Result<Vec<u8>, PortError> {
    let latest_us = states.clone().map(|state| state.sampled_us).max().unwrap_or_default();
    let mut columns = Columns { latest_us, ..Columns::default() };
    for state in states {
        columns.paths.push(state.path.clone());
        columns.units.push(state.unit.clone());
        columns.values.push(state.value);
        columns.sampled_before_us.push(latest_us.wrapping_sub(state.sampled_us));
        columns.received_after_us.push(state.received_us.wrapping_sub(state.sampled_us));
    }
    let plain = postcard::to_allocvec(&columns).map_err(|_| damaged("state cannot be packed"))?;
    let mut packed = vec![VERSION];
    let compressed = zstd::bulk::compress(&plain, ZSTD_LEVEL);
    packed.extend(compressed.map_err(|_| damaged("state cannot be compressed"))?);
    Ok(packed)
}

fn unpack(packed: &[u8]) -> Result<Vec<SignalState>, PortError> {
    let (version, compressed) = match packed {
        [] => return Ok(Vec::new()),
        [version, compressed @ ..] => (*version, compressed),
    };
    if version != VERSION {
        return Err(damaged("state of a version not known here"));
    }
    let plain = zstd::decode_all(compressed).map_err(|_| damaged("state"))?;
    let columns: Columns = postcard::from_bytes(&plain).map_err(|_| damaged("state"))?;
    let times = columns.sampled_before_us.iter().zip(&columns.received_after_us);
    let texts = columns.paths.into_iter().zip(columns.units);
    let rows = texts.zip(columns.values).zip(times);
    Ok(rows
        .map(|(((path, unit), value), (before_us, after_us))| {
            let sampled_us = columns.latest_us.wrapping_sub(*before_us);
            SignalState { path, unit, value, sampled_us, received_us: sampled_us.wrapping_add(*after_us) }
        })
        .collect())
}

/// Takes a signal where it is newer; true where it was.
fn take<'s>(newest: &mut Newest<'s>, state: &'s SignalState) -> bool {
    match newest.get(state.path.as_str()) {
        Some(known) if known.sampled_us >= state.sampled_us => false,
        _ => newest.insert(&state.path, state).is_none_or(|_| true),
    }
}

/// The packed value after these signals, or none where all are old.
fn changed(packed: &[u8], news: &Newest<'_>) -> Result<Option<Vec<u8>>, PortError> {
    let known = unpack(packed)?;
    let mut newest: Newest<'_> = known.iter().map(|state| (state.path.as_str(), state)).collect();
    let mut is_changed = false;
    for state in news.values() {
        is_changed |= take(&mut newest, state);
    }
    if is_changed { pack(newest.values().copied()).map(Some) } else { Ok(None) }
}

/// Takes newer values.
pub(super) async fn put(
    store: &DynamoEventStore,
    states: &[(VehicleId, Vec<SignalState>)],
) -> Result<(), PortError> {
    let mut vehicles: BTreeMap<VehicleId, Newest<'_>> = BTreeMap::new();
    for (vehicle_id, signals) in states {
        let newest = vehicles.entry(*vehicle_id).or_default();
        for state in signals {
            take(newest, state);
        }
    }
    vehicles.retain(|_, news| !news.is_empty());
    let writes = vehicles.into_iter().map(|(vehicle_id, news)| put_one(store, vehicle_id, news)).collect();
    at_once(CALLS_AT_ONCE, writes).await.map(drop)
}

async fn put_one(store: &DynamoEventStore, vehicle_id: VehicleId, news: Newest<'_>) -> Result<(), PortError> {
    let partition = format!("V#{vehicle_id}");
    let place = Place { table: &store.tables.state, partition: &partition, sort: SORT };
    // A stale read only loses the race below.
    let known = revision::read(store, place, false).await?;
    revision::write(store, place, known, |packed| changed(packed, &news)).await
}

/// State of a vehicle, by path.
pub(super) async fn read(
    store: &DynamoEventStore,
    vehicle_id: VehicleId,
) -> Result<Vec<SignalState>, PortError> {
    let partition = format!("V#{vehicle_id}");
    let place = Place { table: &store.tables.state, partition: &partition, sort: SORT };
    unpack(&revision::read(store, place, true).await?.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(number: i64, sampled_us: i64) -> SignalState {
        SignalState {
            path: format!("Vehicle.Powertrain.CombustionEngine.Signal{number:03}"),
            unit: ["km/h", "degC", "percent", "rpm"][number as usize % 4].into(),
            value: (number % 7 != 0).then(|| (number as f64).sin() * 100.0),
            sampled_us,
            received_us: sampled_us.wrapping_add(250_000),
        }
    }

    #[test]
    fn state_comes_back_as_it_was_at_all_times() {
        let states = [i64::MIN, -1, 0, i64::MAX].map(|time| signal(time & 63, time));
        assert_eq!(unpack(&pack(states.iter()).unwrap()).unwrap(), states);
        assert_eq!(unpack(&[]).unwrap(), []);
        assert!(unpack(&[9, 1]).is_err());
    }

    #[test]
    fn a_hundred_signals_take_less_than_3_kib() {
        let states: Vec<_> = (0..100).map(|number| signal(number, 1_795_478_400_000_000 + number)).collect();
        let len = pack(states.iter()).unwrap().len();
        assert!(len < 3 << 10, "{len} bytes");
    }

    #[test]
    fn old_values_change_nothing_and_one_new_one_does() {
        let packed = pack([signal(1, 10), signal(2, 10)].iter()).unwrap();
        let (same, old, new) = (signal(1, 10), signal(2, 9), signal(2, 11));
        let news = |states: &[&'static SignalState]| {
            states.iter().map(|state| (state.path.as_str(), *state)).collect::<Newest<'static>>()
        };
        let [same, old, new]: [&'static SignalState; 3] =
            [same, old, new].map(|state| &*Box::leak(Box::new(state)));
        assert_eq!(changed(&packed, &news(&[same, old])).unwrap(), None);
        let after = unpack(&changed(&packed, &news(&[same, new])).unwrap().unwrap()).unwrap();
        assert_eq!(after, [same.clone(), new.clone()]);
    }
}
