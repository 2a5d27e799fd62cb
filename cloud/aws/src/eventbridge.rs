//! The buses on EventBridge.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::bus::{BusEvent, BusName};
use convoy_cloud_core::ports::{EventBus, PortError};

use crate::backoff::Backoff;
use crate::entry::{Entry, TooLarge, pack_default, pack_delivery};
use crate::error::{answered, port_error, refused, unavailable};

const SERVICE: &str = "EventBridge";
/// Entries in one call, EventBridge's limit.
const ENTRIES_MAX: usize = 10;
/// Bytes of details in one call; EventBridge takes 1 MB with everything.
const CALL_BYTES_MAX: usize = 950_000;
/// How refused entries are tried again.
const AGAIN: Backoff =
    Backoff { attempts_max: 5, first: Duration::from_millis(50), longest: Duration::from_secs(1) };

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

    /// One outcome an entry. What is refused for now is tried again, alone, up to the named maximum.
    async fn put(&self, bus: &str, entries: &[Entry]) -> Vec<Result<(), PortError>> {
        let mut outcomes: Vec<Result<(), PortError>> = entries.iter().map(|_| Ok(())).collect();
        let mut waiting: Vec<usize> = (0..entries.len()).collect();
        let mut attempt = 1;
        loop {
            let mut again = Vec::new();
            for call in calls(entries, &waiting) {
                for (index, outcome) in call.iter().zip(self.call(bus, entries, &call).await) {
                    if outcome.as_ref().is_err_and(PortError::is_transient) {
                        again.push(*index);
                    }
                    outcomes[*index] = outcome;
                }
            }
            if again.is_empty() || !AGAIN.pause(attempt, &self.ambient).await {
                return outcomes;
            }
            waiting = again;
            attempt += 1;
        }
    }

    async fn call(&self, bus: &str, entries: &[Entry], indexes: &[usize]) -> Vec<Result<(), PortError>> {
        let request = indexes.iter().map(|index| {
            let entry = &entries[*index];
            PutEventsRequestEntry::builder()
                .event_bus_name(bus)
                .source(entry.source)
                .detail_type(entry.detail_type)
                .detail(&entry.detail)
                .build()
        });
        let answer = match self.client.put_events().set_entries(Some(request.collect())).send().await {
            Ok(answer) => answer,
            Err(error) => {
                let error = port_error(SERVICE, &error);
                return indexes.iter().map(|_| Err(error.clone())).collect();
            }
        };
        let results = answer.entries();
        if results.len() != indexes.len() {
            let error = unavailable(SERVICE, "it did not answer for every entry");
            return indexes.iter().map(|_| Err(error.clone())).collect();
        }
        let outcome = results.iter().map(|result| match result.error_code() {
            // A refused entry has no HTTP status of its own; 400 leaves the decision to the code.
            Some(code) => Err(answered(SERVICE, 400, Some(code), result.error_message())),
            None => Ok(()),
        });
        outcome.collect()
    }
}

/// The entries of each call.
fn calls(entries: &[Entry], indexes: &[usize]) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for index in indexes {
        let size = entries[*index].detail.len();
        let fits =
            calls.last().is_some_and(|call| call.len() < ENTRIES_MAX && bytes + size <= CALL_BYTES_MAX);
        if !fits {
            calls.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(call) = calls.last_mut() {
            call.push(*index);
        }
    }
    calls
}

/// Spreads the outcomes of entries over the events in them.
pub(crate) fn by_event(
    events: usize,
    entries: &[Entry],
    outcomes: Vec<Result<(), PortError>>,
    too_large: &[TooLarge],
) -> Vec<Result<(), PortError>> {
    let mut of_events: Vec<Result<(), PortError>> = (0..events).map(|_| Ok(())).collect();
    for (entry, outcome) in entries.iter().zip(outcomes) {
        for event in &entry.events {
            of_events[*event] = outcome.clone();
        }
    }
    for large in too_large {
        let reason = format!("an event of {} bytes fits into no entry", large.bytes);
        of_events[large.event] = Err(refused(SERVICE, reason));
    }
    of_events
}

#[async_trait]
impl EventBus for ClassicBus {
    async fn publish(&self, bus: BusName, events: Vec<BusEvent>) -> Vec<Result<(), PortError>> {
        let (name, (entries, too_large)) = match bus {
            BusName::Default => (&self.default, pack_default(&events)),
            BusName::Delivery => (&self.delivery, pack_delivery(&events)),
        };
        let Some(name) = name else {
            let error = refused(SERVICE, format!("this function may not publish to the {bus:?} bus"));
            return events.iter().map(|_| Err(error.clone())).collect();
        };
        let outcomes = self.put(name, &entries).await;
        by_event(events.len(), &entries, outcomes, &too_large)
    }
}
