//! Claims: for each event of a feed, from which chunk on it may be.

use convoy_cloud_core::identity::{EventId, SubscriptionId};
use convoy_cloud_core::ports::PortError;

use super::super::attributes::{Item, item, number, number_of};
use super::super::client::Failed;
use super::super::request::Request;
use super::super::{DynamoEventStore, SERVICE, TTL, days};
use crate::error::unavailable;

/// Position of the first chunk that may hold the event.
const FROM: &str = "p";
/// Characters of an event's id that spread the claims of a feed over partitions, after its prefix.
const SPREAD: std::ops::Range<usize> = 4..6;

/// Not beside the feed's chunks: claims are most of the writes, and a partition takes 1,000 a second.
fn keys(feed: &SubscriptionId, event: &EventId) -> Item {
    let spread = event.as_str().get(SPREAD).unwrap_or_default();
    item(format!("F#{feed}#{spread}"), event.as_str())
}

/// Claims an event for the chunk at `from`, in place of the claim that was `known`. Returns the claim that holds: this
/// one, or another writer's.
pub(super) async fn put(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    event: &EventId,
    from: u64,
    known: Option<u64>,
) -> Result<u64, PortError> {
    let mut claim = keys(feed, event);
    claim.insert(FROM.into(), number(from));
    // Longer than the chunk: an event whose claim is there and whose chunk is not is over.
    claim.insert(TTL.into(), number(store.now_s().saturating_add(store.keep_s + days::DAY_S)));
    let put = Request::put(&store.tables.feed, claim).telling();
    let put = match known {
        None => put.only_if("attribute_not_exists(pk)"),
        Some(known) => put.only_if("p = :known").value(":known", number(known)),
    };
    match store.client.send(&put).await {
        Ok(_) => Ok(from),
        Err(Failed::Condition(Some(other))) => number_of(&other, FROM),
        Err(Failed::Condition(None)) => read(store, feed, event).await,
        Err(failed) => Err(failed.into()),
    }
}

/// The claim that is there, from an answer that did not bring it along.
async fn read(store: &DynamoEventStore, feed: &SubscriptionId, event: &EventId) -> Result<u64, PortError> {
    let get = Request::get(&store.tables.feed, keys(feed, event)).consistent(true);
    let item = store.client.send(&get).await?.item;
    let item = item.ok_or_else(|| unavailable(SERVICE, "a claim ended while it was read"))?;
    number_of(&item, FROM)
}
