//! Conditions, an item each.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use convoy_cloud_core::condition::{Before, Condition};
use convoy_cloud_core::ports::PortError;
use convoy_protocol::id::VehicleId;

use super::attributes::{Item, flag_of, item, number, number_of, text, text_of};
use super::{CALLS_AT_ONCE, DynamoEventStore, SORT_KEY, at_once, damaged, failed};

/// Sort keys of conditions begin so.
const PREFIX: &str = "C#";

fn packed(vehicle_id: VehicleId, condition: &Condition) -> Item {
    let mut item = item(format!("V#{vehicle_id}"), format!("{PREFIX}{}", condition.key));
    item.insert("open".to_owned(), AttributeValue::Bool(condition.open));
    item.insert("at".to_owned(), number(condition.judged_us));
    item.insert("by".to_owned(), text(condition.by.to_string()));
    item.insert("was_open".to_owned(), AttributeValue::Bool(condition.before.open));
    item.insert("was_at".to_owned(), number(condition.before.judged_us));
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
        let item = packed(vehicle_id, condition);
        let put = store.client.put_item().table_name(&store.tables.vehicles).set_item(Some(item));
        async move { put.send().await.map_err(failed) }
    });
    at_once(CALLS_AT_ONCE, puts.collect()).await.map(drop)
}

/// All conditions of a vehicle, by key.
pub(super) async fn read(
    store: &DynamoEventStore,
    vehicle_id: VehicleId,
) -> Result<Vec<Condition>, PortError> {
    let mut pages = store
        .client
        .query()
        .table_name(&store.tables.vehicles)
        .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
        .expression_attribute_values(":pk", text(format!("V#{vehicle_id}")))
        .expression_attribute_values(":prefix", text(PREFIX))
        .consistent_read(true)
        .into_paginator()
        .items()
        .send();
    let mut conditions = Vec::new();
    while let Some(item) = pages.next().await {
        conditions.push(unpacked(&item.map_err(failed)?)?);
    }
    Ok(conditions)
}
