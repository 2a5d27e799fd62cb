//! Conditions, an item each.

use std::collections::HashMap;

use convoy_cloud_core::condition::{Before, Condition};
use convoy_cloud_core::ports::PortError;
use convoy_protocol::id::VehicleId;

use super::attributes::{Item, Value, flag_of, item, number, number_of, text, text_of};
use super::request::Request;
use super::{CALLS_AT_ONCE, DynamoEventStore, SORT_KEY, at_once, damaged};

/// Sort keys of conditions begin so.
const PREFIX: &str = "C#";

fn packed(vehicle_id: VehicleId, condition: &Condition) -> Item {
    let mut item = item(format!("V#{vehicle_id}"), format!("{PREFIX}{}", condition.key));
    item.insert("open".into(), Value::Flag(condition.open));
    item.insert("at".into(), number(condition.judged_us));
    item.insert("by".into(), text(condition.by.to_string()));
    item.insert("was_open".into(), Value::Flag(condition.before.open));
    item.insert("was_at".into(), number(condition.before.judged_us));
    item
}

fn unpacked(item: &Item) -> Result<Condition, PortError> {
    let key = text_of(item, SORT_KEY)?.strip_prefix(PREFIX).ok_or_else(|| damaged("a condition's key"))?;
    Ok(Condition {
        key: key.to_owned(),
        open: flag_of(item, "open")?,
        judged_us: number_of(item, "at")?,
        by: text_of(item, "by")?.parse().map_err(|_| damaged("a condition's envelope"))?,
        before: Before { open: flag_of(item, "was_open")?, judged_us: number_of(item, "was_at")? },
    })
}

/// Replaces conditions; of several with one key the last one stays.
pub(super) async fn put(
    store: &DynamoEventStore,
    conditions: &[(VehicleId, Condition)],
) -> Result<(), PortError> {
    let last: HashMap<_, _> =
        conditions.iter().map(|(vehicle_id, condition)| ((*vehicle_id, &condition.key), condition)).collect();
    let puts = last.into_iter().map(|((vehicle_id, _), condition)| {
        let put = Request::put(&store.tables.vehicles, packed(vehicle_id, condition));
        async move { Ok(store.client.send(&put).await?) }
    });
    at_once(CALLS_AT_ONCE, puts.collect()).await.map(drop)
}

/// All conditions of a vehicle, by key.
pub(super) async fn read(
    store: &DynamoEventStore,
    vehicle_id: VehicleId,
) -> Result<Vec<Condition>, PortError> {
    let query = Request::query(&store.tables.vehicles, "pk = :pk AND begins_with(sk, :prefix)")
        .value(":pk", text(format!("V#{vehicle_id}")))
        .value(":prefix", text(PREFIX));
    store.client.items(query).await?.iter().map(unpacked).collect()
}
