//! Records that wait for their manifest, oldest first.
//!
//! Three items change together: the record below the time it was parked at, the digest that keeps it from being parked
//! twice, and one of several numbers that bound how many wait.

use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::record::Record;
use convoy_protocol::id::ManifestId;

use super::attributes::{Item, item, number, sortable_signed, text, text_of};
use super::client::Failed;
use super::request::Request;
use super::{DynamoEventStore, RACE, SERVICE, at_once, bodies, damaged};
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
    digest.insert(PLACE.into(), text(place));
    let table = &store.tables.vehicles;
    let digest = Request::put(table, digest).only_if("attribute_not_exists(pk)");
    let number = Request::update(table, item(&names.partition, &names.part), "ADD n :one")
        .only_if("attribute_not_exists(n) OR n < :most")
        .value(":one", number(1))
        .value(":most", number(PARKED_MAX / PARTS));
    let writes = [digest, number, Request::put(table, kept.clone())];
    match transact(store, writes).await? {
        Outcome::Done => Ok(()),
        Outcome::Failed(0) => bodies::remove(store, &kept).await,
        Outcome::Failed(_) => {
            bodies::remove(store, &kept).await?;
            let reason = format!("manifest {manifest_id} is not known and {PARKED_MAX} records wait already");
            Err(refused(SERVICE, reason))
        }
    }
}

/// All of the writes or none of them; a conflict with another transaction is tried again.
async fn transact<'r>(store: &DynamoEventStore, writes: [Request<'r>; 3]) -> Result<Outcome, PortError> {
    for attempt in 1.. {
        let token: [u8; 16] = store.ambient.random();
        let token = format!("{:032x}", u128::from_be_bytes(token));
        let codes = match store.client.send(&Request::transaction(writes.clone(), token)).await {
            Ok(_) => return Ok(Outcome::Done),
            Err(Failed::Cancelled(codes)) => codes,
            Err(failed) => return Err(failed.into()),
        };
        if let Some(place) = codes.iter().position(|code| code == "ConditionalCheckFailed") {
            return Ok(Outcome::Failed(place));
        }
        let is_later = codes.iter().any(|code| LATER.contains(&code.as_str()));
        if !is_later {
            return Err(Failed::Cancelled(codes).into());
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
    let (mut records, mut next) = (Vec::new(), None);
    loop {
        let left = limit.saturating_sub(u32::try_from(records.len()).unwrap_or(u32::MAX));
        if left == 0 {
            return Ok(records);
        }
        let page = Request::query(&store.tables.vehicles, "pk = :pk AND begins_with(sk, :prefix)")
            .value(":pk", text(format!("P#{manifest_id}")))
            .value(":prefix", text(RECORD))
            .limit(left)
            .after(next);
        let page = store.client.send(&page).await?;
        for item in &page.items {
            let bytes = bodies::of(store, item).await?;
            records.push(Record::decode(&bytes).map_err(|_| damaged("a parked record"))?);
        }
        next = page.last_evaluated_key;
        if next.is_none() {
            return Ok(records);
        }
    }
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
    Ok(store.client.send(&Request::get(&store.tables.vehicles, keys).consistent(true)).await?.item)
}

async fn unpark_one(store: &DynamoEventStore, names: Names) -> Result<(), PortError> {
    let Some(digest) = get(store, item(&names.partition, &names.digest)).await? else { return Ok(()) };
    let place = text_of(&digest, PLACE)?;
    let kept = get(store, item(&names.partition, place)).await?;
    let table = &store.tables.vehicles;
    let digest =
        Request::delete(table, item(&names.partition, &names.digest)).only_if("attribute_exists(pk)");
    let number = Request::update(table, item(&names.partition, &names.part), "ADD n :less");
    let record = Request::delete(table, item(&names.partition, place));
    let writes = [digest, number.value(":less", super::attributes::number(-1)), record];
    // Where the digest is gone another reader was faster.
    transact(store, writes).await?;
    match kept {
        Some(kept) => bodies::remove(store, &kept).await,
        None => Ok(()),
    }
}
