//! Default bus to delivery bus: one event a customer and package, and the alerts.

use std::sync::Arc;

use convoy_cloud_core::bus::BusName;
use convoy_cloud_core::counters::{Counters, add};
use convoy_cloud_core::enrich::Enricher;
use convoy_cloud_core::ports::EventBus;

use crate::deployment::Deployment;
use crate::entry::unpack_default;
use crate::event::BusDelivery;
use crate::failure::Failure;
use crate::routing::RoutingObject;

/// What it keeps.
pub struct State {
    enricher: Enricher,
    bus: Arc<dyn EventBus>,
    routing: Arc<RoutingObject>,
    counters: Arc<Counters>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        Ok(Self {
            enricher: Enricher::new(deployment.manifests()?, Arc::clone(&deployment.snapshot)),
            bus: deployment.delivery_bus()?,
            routing: deployment.routing().await?,
            counters: Arc::clone(&deployment.counters),
        })
    }
}

/// Publishes what an entry of the default bus comes to. An error gives the whole entry again; ids stay the same. What
/// is refused for good ends the invocation as refused, so that the entry is kept by the function's failure destination.
pub async fn handle(state: &State, event: BusDelivery) -> Result<(), Failure> {
    state.routing.refresh().await?;
    let (mut delivered, mut refused) = (Vec::new(), None);
    for event in unpack_default(&event.detail)? {
        match state.enricher.enrich(&event).await {
            Ok(enriched) => delivered.extend(enriched.events),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => refused = Some(error),
        }
    }
    for outcome in state.bus.publish(BusName::Delivery, delivered).await {
        match outcome {
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => refused = Some(error),
            Ok(()) => {}
        }
    }
    if let Some(error) = refused {
        add(&state.counters.records_dead, 1);
        return Err(error.into());
    }
    Ok(())
}
