//! Packed values that several writers change: read, changed, and written if nobody else did meanwhile.

use convoy_cloud_core::ports::PortError;

use super::attributes::{Item, binary, binary_of, item, number, number_of};
use super::request::Request;
use super::{BODY_BYTES_MAX, DynamoEventStore, PARTITION_KEY, RACE, SERVICE, SORT_KEY, lost};
use crate::error::{refused, unavailable};

/// The packed value.
const VALUE: &str = "b";
/// How often it was written.
const REVISION: &str = "v";

/// Names an item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'p> {
    /// Its table.
    pub(super) table: &'p str,
    /// Its partition key.
    pub(super) partition: &'p str,
    /// Its sort key.
    pub(super) sort: &'p str,
}

/// A value as it was read; none, revision 0, where there is no item.
#[derive(Debug, Clone, Default)]
pub(super) struct Revision {
    number: u64,
    /// The packed value, empty where there is none.
    pub(super) value: Vec<u8>,
}

impl Revision {
    /// The value of an item.
    pub(super) fn of(item: &Item) -> Result<Self, PortError> {
        Ok(Self { number: number_of(item, REVISION)?, value: binary_of(item, VALUE)?.to_vec() })
    }
}

/// Reads a value. One that is read without `consistent` may lack the last writes and costs half.
pub(super) async fn read(
    store: &DynamoEventStore,
    place: Place<'_>,
    consistent: bool,
) -> Result<Revision, PortError> {
    let get = Request::get(place.table, item(place.partition, place.sort)).consistent(consistent);
    store.client.send(&get).await?.item.as_ref().map_or_else(|| Ok(Revision::default()), Revision::of)
}

/// Changes a value, beginning with what was read. `change` gives the value that follows from another one, or `None`
/// where nothing changes; it is asked again whenever somebody else was faster.
pub(super) async fn write(
    store: &DynamoEventStore,
    place: Place<'_>,
    mut known: Revision,
    change: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, PortError> + Send,
) -> Result<(), PortError> {
    for attempt in 1.. {
        let Some(value) = change(&known.value)? else { return Ok(()) };
        if value.len() > BODY_BYTES_MAX {
            let reason = format!("{} of {} would take {} bytes", place.sort, place.partition, value.len());
            return Err(refused(SERVICE, format!("{reason}, an item takes {BODY_BYTES_MAX}")));
        }
        if !put(store, place, known.number, value).await? {
            return Ok(());
        }
        if !RACE.pause(attempt, &store.ambient).await {
            let reason = format!("{} writers were faster at {} of {}", attempt, place.sort, place.partition);
            return Err(unavailable(SERVICE, reason));
        }
        known = read(store, place, true).await?;
    }
    Ok(())
}

/// Writes the revision after `known`; true where another one is there.
async fn put(
    store: &DynamoEventStore,
    place: Place<'_>,
    known: u64,
    value: Vec<u8>,
) -> Result<bool, PortError> {
    let mut new = item(place.partition, place.sort);
    new.insert(VALUE.into(), binary(value));
    new.insert(REVISION.into(), number(known.saturating_add(1)));
    let put = Request::put(place.table, new);
    let put = if known == 0 {
        put.only_if("attribute_not_exists(pk)")
    } else {
        put.only_if("v = :known").value(":known", number(known))
    };
    debug_assert_eq!((PARTITION_KEY, SORT_KEY, REVISION), ("pk", "sk", "v"), "as in the conditions");
    lost(store.client.send(&put).await)
}
