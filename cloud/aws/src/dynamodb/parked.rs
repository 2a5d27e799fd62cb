//! Records that wait for their manifest, oldest first.
//!
//! Three items change together: the record below the time it was parked at, the digest that keeps it from being parked
//! twice, and one of several numbers that bound how many wait.

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem, Update};
use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::record::Record;
use convoy_protocol::id::ManifestId;

use super::attributes::{Item, item, number, sortable_signed, text, text_of};
use super::{DynamoEventStore, RACE, SERVICE, at_once, bodies, damaged, failed};
use crate::error::{refused, unavailable};

/// Records that may wait for one manifest at most.
const PARKED_MAX: u32 = 100_000;
/// The number of waiting records is kept in so many parts, so that writers do not all want the same item.
const PARTS: u32 = 16;
/// Records taken out at once.
const UNPARK_AT_ONCE: usize = 8;
/// Sort keys of records begin so.
const RECORD: &str = "R#";
/// Sort key of the record, in the digest's item.
const PLACE: &str = "r";
/// Folder in the bucket of records too large for an item.
const FOLDER: &str = "parked";

struct Names {
    partition: String,
    digest: String,
    part: String,
}

impl Names {
    fn of(manifest_id: ManifestId, encoded: &[u8]) -> Self {
        let hash = blake3::hash(encoded);
        let (digest, part) = (hash.to_hex(), u32::from(hash.as_bytes()[0]) % PARTS);
        Self {
            partition: format!("P#{manifest_id}"),
            digest: format!("D#{digest}"),
            part: format!("N#{part:02}"),
        }
    }
}

/// What the three conditions of a transaction said.
enum Outcome {
    Done,
    /// A condition was not met: the first of them, by its place in the transaction.
    Failed(usize),
}

/// Keeps a record; one that is kept already changes nothing.
pub(super) async fn park(
    store: &DynamoEventStore,
    manifest_id: ManifestId,
    record: &Record,
) -> Result<(), PortError> {
    let encoded = record.encode();
    let names = Names::of(manifest_id, &encoded);
    let place = format!("{RECORD}{}#{}", sortable_signed(store.ambient.now_us()), &names.digest[2..]);
    let mut kept = item(&names.partition, &place);
    // Named for this one call: nobody else's object is removed with it.
    let call: [u8; 8] = store.ambient.random();
    let name = |_: &[u8]| format!("{FOLDER}/{manifest_id}/{:016x}", u64::from_be_bytes(call));
    bodies::add(store, &mut kept, name, encoded).await?;
    let mut digest = item(&names.partition, &names.digest);
    digest.insert(PLACE.to_owned(), text(place));
    let table = &store.tables.vehicles;
    let digest = Put::builder()
        .table_name(table)
        .set_item(Some(digest))
        .condition_expression("attribute_not_exists(pk)")
        .build();
    let number = Update::builder()
        .table_name(table)
        .set_key(Some(item(&names.partition, &names.part)))
        .update_expression("ADD n :one")
        .condition_expression("attribute_not_exists(n) OR n < :most")
        .expression_attribute_values(":one", number(1))
        .expression_attribute_values(":most", number(PARKED_MAX / PARTS))
        .build();
    let kept_put = Put::builder().table_name(table).set_item(Some(kept.clone())).build();
    let built = |error| refused(SERVICE, format!("{error}"));
    let actions = vec![
        TransactWriteItem::builder().put(digest.map_err(built)?).build(),
        TransactWriteItem::builder().update(number.map_err(built)?).build(),
        TransactWriteItem::builder().put(kept_put.map_err(built)?).build(),
    ];
    match transact(store, actions).await? {
        Outcome::Done => Ok(()),
        Outcome::Failed(0) => bodies::remove(store, &kept).await,
        Outcome::Failed(_) => {
            bodies::remove(store, &kept).await?;
            let reason = format!("manifest {manifest_id} is not known and {PARKED_MAX} records wait already");
            Err(refused(SERVICE, reason))
        }
    }
}

/// All of the actions or none of them; a conflict with another transaction is tried again.
async fn transact(store: &DynamoEventStore, actions: Vec<TransactWriteItem>) -> Result<Outcome, PortError> {
    for attempt in 1.. {
        let call = store.client.transact_write_items().set_transact_items(Some(actions.clone()));
        let Err(error) = call.send().await else { return Ok(Outcome::Done) };
        let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error()
        else {
            return Err(failed(error));
        };
        let code_of = |code: &str| {
            let mut reasons = cancelled.cancellation_reasons().iter();
            reasons.position(|reason| reason.code() == Some(code))
        };
        if let Some(place) = code_of("ConditionalCheckFailed") {
            return Ok(Outcome::Failed(place));
        }
        let codes: Vec<_> =
            cancelled.cancellation_reasons().iter().filter_map(|reason| reason.code()).collect();
        let is_later = codes.iter().any(|code| LATER.contains(code));
        if !is_later {
            return Err(refused(SERVICE, format!("transaction cancelled: {codes:?}")));
        }
        if !RACE.pause(attempt, &store.ambient).await {
            return Err(unavailable(SERVICE, format!("transaction cancelled {attempt} times: {codes:?}")));
        }
    }
    Ok(Outcome::Done)
}

/// Reasons of a cancelled transaction that may pass.
const LATER: &[&str] = &["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"];

/// Records that wait, oldest first.
pub(super) async fn read(
    store: &DynamoEventStore,
    manifest_id: ManifestId,
    limit: u32,
) -> Result<Vec<Record>, PortError> {
    let mut items = store
        .client
        .query()
        .table_name(&store.tables.vehicles)
        .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
        .expression_attribute_values(":pk", text(format!("P#{manifest_id}")))
        .expression_attribute_values(":prefix", text(RECORD))
        .limit(i32::try_from(limit).unwrap_or(i32::MAX))
        .consistent_read(true)
        .into_paginator()
        .items()
        .send();
    let mut records = Vec::new();
    while records.len() < limit as usize
        && let Some(item) = items.next().await
    {
        let bytes = bodies::of(store, &item.map_err(failed)?).await?;
        records.push(Record::decode(&bytes).map_err(|_| damaged("a parked record"))?);
    }
    Ok(records)
}

/// Forgets records; those that are not there change nothing.
pub(super) async fn unpark(
    store: &DynamoEventStore,
    manifest_id: ManifestId,
    records: &[Record],
) -> Result<(), PortError> {
    let names = records.iter().map(|record| Names::of(manifest_id, &record.encode()));
    let calls = names.map(|names| unpark_one(store, names)).collect();
    at_once(UNPARK_AT_ONCE, calls).await.map(drop)
}

async fn get(store: &DynamoEventStore, keys: Item) -> Result<Option<Item>, PortError> {
    let get = store.client.get_item().table_name(&store.tables.vehicles).set_key(Some(keys));
    Ok(get.consistent_read(true).send().await.map_err(failed)?.item)
}

async fn unpark_one(store: &DynamoEventStore, names: Names) -> Result<(), PortError> {
    let Some(digest) = get(store, item(&names.partition, &names.digest)).await? else { return Ok(()) };
    let place = text_of(&digest, PLACE)?;
    let kept = get(store, item(&names.partition, place)).await?;
    let table = &store.tables.vehicles;
    let digest = Delete::builder()
        .table_name(table)
        .set_key(Some(item(&names.partition, &names.digest)))
        .condition_expression("attribute_exists(pk)")
        .build();
    let number = Update::builder()
        .table_name(table)
        .set_key(Some(item(&names.partition, &names.part)))
        .update_expression("ADD n :less")
        .expression_attribute_values(":less", number(-1))
        .build();
    let record = Delete::builder().table_name(table).set_key(Some(item(&names.partition, place))).build();
    let built = |error| refused(SERVICE, format!("{error}"));
    let actions = vec![
        TransactWriteItem::builder().delete(digest.map_err(built)?).build(),
        TransactWriteItem::builder().update(number.map_err(built)?).build(),
        TransactWriteItem::builder().delete(record.map_err(built)?).build(),
    ];
    // Where the digest is gone another reader was faster.
    transact(store, actions).await?;
    match kept {
        Some(kept) => bodies::remove(store, &kept).await,
        None => Ok(()),
    }
}
