//! The buses on classic EventBridge.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::{PutEventsRequestEntry, PutEventsResultEntry};
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::bus::{BusEvent, BusName};
use convoy_cloud_core::ports::{EventBus, PortError};

use crate::entry::{Packed, pack_default, pack_delivery};
use crate::entry_calls::{CallLimits, CallOutcome, Entries, by_event, entry_error, put_all};
use crate::error::{port_error, refused, unavailable};

const SERVICE: &str = "EventBridge";
/// Of the 10 entries and 1 MB that EventBridge takes; the rest of the megabyte is for what surrounds them.
const LIMITS: CallLimits = CallLimits { entries_max: 10, bytes_max: 900 << 10 };

/// A bus of classic EventBridge: one that publishes to the default bus, or one to the delivery bus.
pub struct ClassicBus {
    client: Client,
    /// The name of each bus, where this process may publish to it.
    default: Option<String>,
    delivery: Option<String>,
    ambient: Ambient,
}

impl ClassicBus {
    /// Publishes to the named buses.
    pub fn new(client: Client, default: Option<String>, delivery: Option<String>, ambient: Ambient) -> Self {
        Self { client, default, delivery, ambient }
    }
}

async fn call(client: Client, bus: String, entries: Entries, indexes: Vec<usize>) -> CallOutcome {
    let request = indexes.iter().map(|index| {
        let entry = &entries[*index];
        PutEventsRequestEntry::builder()
            .event_bus_name(&bus)
            .source(entry.source)
            .detail_type(entry.detail_type)
            .detail(&entry.detail)
            .build()
    });
    let answer = client.put_events().set_entries(Some(request.collect())).send().await;
    let answer = answer.map_err(|error| port_error(SERVICE, &error))?;
    Ok(answer.entries().iter().map(outcome).collect())
}

fn outcome(result: &PutEventsResultEntry) -> Result<(), PortError> {
    match (result.error_code(), result.event_id()) {
        (Some(code), _) => Err(entry_error(SERVICE, code, result.error_message())),
        (None, Some(_)) => Ok(()),
        (None, None) => Err(unavailable(SERVICE, "a result without id and without error")),
    }
}

#[async_trait]
impl EventBus for ClassicBus {
    async fn publish(&self, bus: BusName, events: Vec<BusEvent>) -> Vec<Result<(), PortError>> {
        let name = match bus {
            BusName::Default => &self.default,
            BusName::Delivery => &self.delivery,
        };
        let Some(name) = name else {
            let error = refused(SERVICE, format!("this function may not publish to the {bus:?} bus"));
            return events.iter().map(|_| Err(error.clone())).collect();
        };
        let mut packed = match bus {
            BusName::Default => pack_default(&events),
            BusName::Delivery => pack_delivery(&events),
        };
        let entries = Arc::new(std::mem::take(&mut packed.entries));
        let put = |entries, indexes| call(self.client.clone(), name.clone(), entries, indexes);
        let outcomes = put_all(&entries, LIMITS, &self.ambient, put).await;
        let packed = Packed { entries: Arc::unwrap_or_clone(entries), ..packed };
        by_event(SERVICE, events.len(), &packed, outcomes)
    }
}
