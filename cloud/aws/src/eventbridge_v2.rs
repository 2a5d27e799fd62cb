//! The delivery bus on EventBridge's custom event bus of 2026, the API `eventbridgev2`.
//!
//! Only the delivery bus: every account has its default bus, which is classic, and its one rule gains nothing. The
//! delivery bus has a rule for each subscription and target, of which a classic bus takes 300 unless raised and this one
//! 10,000 subscribers; and what enrichment publishes again within five minutes, the bus leaves out.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_eventbridgev2::Client;
use aws_sdk_eventbridgev2::types::{PutEventsRequestEntry, PutEventsResultEntry, PutEventsSystemMetadata};
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::bus::{BusEvent, BusName, Meta};
use convoy_cloud_core::ports::{EventBus, PortError};

use crate::entry::{Entry, Packed, pack_delivery};
use crate::entry_calls::{CallLimits, CallOutcome, Entries, by_event, entry_error, put_all};
use crate::error::{port_error, refused, unavailable};

const SERVICE: &str = "EventBridge";
/// The bus takes 100 entries; bytes as on a classic bus.
const LIMITS: CallLimits = CallLimits { entries_max: 100, bytes_max: 900 << 10 };
/// Groups over which one customer's subscriptions are spread: a group is what the bus deduplicates within, and what a
/// FIFO subscriber would keep in order.
const BUCKETS: u8 = 16;

/// The delivery bus.
pub struct DeliveryBusV2 {
    client: Client,
    arn: String,
    ambient: Ambient,
}

/// Group and deduplication id of an entry.
type Marks = (String, String);

impl DeliveryBusV2 {
    /// Publishes to the bus of this arn.
    pub fn new(client: Client, arn: impl Into<String>, ambient: Ambient) -> Self {
        Self { client, arn: arn.into(), ambient }
    }
}

/// The group is `customer#bucket`, the bucket that of the subscription: bounded, and nothing of a vehicle. The
/// deduplication id is a hash of the ids of the events in the entry.
fn marks(events: &[BusEvent], entry: &Entry) -> Marks {
    let (mut group, mut hasher) = (String::new(), blake3::Hasher::new());
    for index in &entry.events {
        if let Meta::Delivery { customer_id, subscription_id, event_id, .. } = &events[*index].meta {
            hasher.update(event_id.as_str().as_bytes());
            if group.is_empty() {
                let bucket = blake3::hash(subscription_id.as_str().as_bytes()).as_bytes()[0] % BUCKETS;
                group = format!("{customer_id}#{bucket}");
            }
        }
    }
    (group, hasher.finalize().to_hex().to_string())
}

async fn call(
    client: Client,
    arn: String,
    entries: Entries,
    marks: Arc<Vec<Marks>>,
    indexes: Vec<usize>,
) -> CallOutcome {
    let request = indexes.iter().map(|index| {
        let (entry, (group, id)) = (&entries[*index], &marks[*index]);
        PutEventsRequestEntry::builder()
            .source(entry.source)
            .detail_type(entry.detail_type)
            .detail(&entry.detail)
            .system_metadata(
                PutEventsSystemMetadata::builder().event_group_id(group).deduplication_id(id).build(),
            )
            .build()
    });
    let request = request.collect::<Result<Vec<_>, _>>();
    let request = request.map_err(|error| refused(SERVICE, error.to_string()))?;
    let answer = client.put_events().event_bus_arn(arn).set_entries(Some(request)).send().await;
    let answer = answer.map_err(|error| port_error(SERVICE, &error))?;
    Ok(answer.entries().iter().map(outcome).collect())
}

/// `PUBLISHED` and `DEDUPLICATED` both say that the bus has the entry.
fn outcome(result: &PutEventsResultEntry) -> Result<(), PortError> {
    match (result.error_code(), result.success_code()) {
        (Some(code), _) => Err(entry_error(SERVICE, code, result.error_message())),
        (None, Some(_)) => Ok(()),
        (None, None) => Err(unavailable(SERVICE, "a result without success and without error")),
    }
}

#[async_trait]
impl EventBus for DeliveryBusV2 {
    async fn publish(&self, bus: BusName, events: Vec<BusEvent>) -> Vec<Result<(), PortError>> {
        if bus != BusName::Delivery {
            let error = refused(SERVICE, "this bus is the delivery bus, the default bus is a classic one");
            return events.iter().map(|_| Err(error.clone())).collect();
        }
        let mut packed = pack_delivery(&events);
        let entries = Arc::new(std::mem::take(&mut packed.entries));
        let marks = Arc::new(entries.iter().map(|entry| marks(&events, entry)).collect());
        let put = |entries, indexes| {
            call(self.client.clone(), self.arn.clone(), entries, Arc::clone(&marks), indexes)
        };
        let outcomes = put_all(&entries, LIMITS, &self.ambient, put).await;
        let packed = Packed { entries: Arc::unwrap_or_clone(entries), ..packed };
        by_event(SERVICE, events.len(), &packed, outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoy_cloud_core::bus::{EventClass, SOURCE_DELIVERY, TYPE_TELEMETRY};
    use convoy_cloud_core::identity::{CustomerId, EventId, SubscriptionId, VehicleRef};

    fn event(subscription: u8, number: u8) -> BusEvent {
        BusEvent {
            source: SOURCE_DELIVERY,
            detail_type: TYPE_TELEMETRY,
            meta: Meta::Delivery {
                customer_id: CustomerId::from_bytes(&[1; 16]),
                subscription_id: SubscriptionId::from_bytes(&[subscription; 16]),
                package: "telematics@1".into(),
                class: EventClass::Telemetry,
                event_id: EventId::from_bytes(&[number; 16]),
                vehicle_ref: VehicleRef::from_bytes(&[9; 16]),
                count: 1,
            },
            payload: format!("{{\"id\":\"{}\"}}", EventId::from_bytes(&[number; 16])).into(),
            received_us: 0,
            last_us: 0,
            opened: Vec::new(),
        }
    }

    #[test]
    fn the_same_events_are_marked_the_same_and_others_otherwise() {
        let of = |events: &[BusEvent]| {
            pack_delivery(events).entries.iter().map(|entry| marks(events, entry)).collect::<Vec<_>>()
        };
        let first = of(&[event(1, 1), event(1, 2)]);
        assert_eq!(first, of(&[event(1, 1), event(1, 2)]));
        assert_ne!(first[0].1, of(&[event(1, 1), event(1, 3)])[0].1);
        assert_eq!(first[0].0, of(&[event(1, 7)])[0].0, "one subscription, one group");
        let (group, id) = &first[0];
        assert!(group.starts_with(&format!("{}#", CustomerId::from_bytes(&[1; 16]))) && group.len() <= 128);
        assert!(!group.contains("veh_") && id.len() == 64);
    }
}
