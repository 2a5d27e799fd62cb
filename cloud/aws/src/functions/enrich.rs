//! Default bus to delivery bus: one event a customer and package, and the alerts.

use std::sync::Arc;

use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::bus::{BusEvent, BusName};
use convoy_cloud_core::counters::Counters;
use convoy_cloud_core::enrich::Enricher;
use convoy_cloud_core::ports::{EventBus, PortError};
use tokio::time::Instant;

use crate::deployment::Deployment;
use crate::entry::unpack_stored;
use crate::event::{BatchResponse, QueueEvent, QueueItem};
use crate::failure::Failure;
use crate::routing::RoutingObject;
use crate::work_queue::{WorkQueue, Worker};

/// Entries enriched together, at most: events of one subscription out of several share an entry. An entry may hold 100,000
/// samples, and as JSON they take some megabytes a customer.
const SLICE_MESSAGES_MAX: usize = 20;

/// What it keeps.
pub struct State {
    enricher: Enricher,
    bus: Arc<dyn EventBus>,
    routing: Arc<RoutingObject>,
    queue: WorkQueue,
    ambient: Ambient,
    counters: Arc<Counters>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        Ok(Self {
            enricher: Enricher::new(deployment.manifests()?, Arc::clone(&deployment.snapshot)),
            bus: deployment.delivery_bus()?,
            routing: deployment.routing().await?,
            queue: deployment.work_queue()?,
            ambient: deployment.ambient.clone(),
            counters: Arc::clone(&deployment.counters),
        })
    }
}

/// Publishes what entries of the default bus come to. What comes again is published under the same ids.
pub async fn handle(state: &State, event: QueueEvent, deadline: Instant) -> Result<BatchResponse, Failure> {
    let State { queue, ambient, counters, .. } = state;
    let worker = Worker { queue, ambient, counters, slice_messages_max: SLICE_MESSAGES_MAX };
    let work = async |slice: &[QueueItem]| match state.routing.refresh().await {
        Ok(()) => state.publish(slice).await,
        Err(error) => vec![Err(error); slice.len()],
    };
    Ok(worker.work_off(&event.messages, deadline, work).await)
}

impl State {
    /// One result a message: that of the first of its events that failed, where there is one that may pass.
    async fn publish(&self, messages: &[QueueItem]) -> Vec<Result<(), PortError>> {
        let (mut outcomes, mut events, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for (owner, message) in messages.iter().enumerate() {
            let mut of_message = Vec::new();
            let outcome = self.enrich(&message.body, &mut of_message).await;
            owners.extend(std::iter::repeat_n(owner, of_message.len()));
            events.append(&mut of_message);
            outcomes.push(outcome);
        }
        let published = self.bus.publish(BusName::Delivery, events).await;
        for (owner, result) in owners.into_iter().zip(published) {
            let Err(error) = result else { continue };
            let outcome = &mut outcomes[owner];
            if outcome.is_ok() || error.is_transient() {
                *outcome = Err(error);
            }
        }
        outcomes
    }

    /// Enriches all of an entry, also behind an event that fails.
    async fn enrich(&self, body: &str, enriched: &mut Vec<BusEvent>) -> Result<(), PortError> {
        let mut outcome = Ok(());
        for event in unpack_stored(body)? {
            match self.enricher.enrich(&event).await {
                Ok(events) => enriched.extend(events.events),
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }
}
