//! Claims: for each event of a feed, from which chunk on it may be.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use convoy_cloud_core::identity::{EventId, SubscriptionId};
use convoy_cloud_core::ports::PortError;

use super::super::attributes::{Item, item, number, number_of};
use super::super::{DynamoEventStore, SERVICE, TTL, days, failed};
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
    claim.insert(FROM.to_owned(), number(from));
    // Longer than the chunk: an event whose claim is there and whose chunk is not is over.
    claim.insert(TTL.to_owned(), number(store.now_s().saturating_add(store.keep_s + days::DAY_S)));
    let put = store
        .client
        .put_item()
        .table_name(&store.tables.feed)
        .set_item(Some(claim))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
    let put = match known {
        None => put.condition_expression("attribute_not_exists(pk)"),
        Some(known) => {
            put.condition_expression("p = :known").expression_attribute_values(":known", number(known))
        }
    };
    let Err(error) = put.send().await else { return Ok(from) };
    match error.as_service_error() {
        Some(aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(lost)) => {
            match &lost.item {
                Some(other) => number_of(other, FROM),
                None => read(store, feed, event).await,
            }
        }
        _ => Err(failed(error)),
    }
}

/// The claim that is there, from an answer that did not bring it along.
async fn read(store: &DynamoEventStore, feed: &SubscriptionId, event: &EventId) -> Result<u64, PortError> {
    let get = store.client.get_item().table_name(&store.tables.feed).set_key(Some(keys(feed, event)));
    let output = get.consistent_read(true).send().await.map_err(failed)?;
    let item: HashMap<_, _> =
        output.item.ok_or_else(|| unavailable(SERVICE, "a claim ended while it was read"))?;
    number_of(&item, FROM)
}
