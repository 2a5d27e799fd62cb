//! Delivery bus to feeds: appends each event once, in the order of the entry.

use std::sync::Arc;

use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::counters::{Counters, add};
use convoy_cloud_core::ports::{EventStore, FeedEntry};

use crate::deployment::Deployment;
use crate::entry::unpack_delivery;
use crate::event::BusDelivery;
use crate::failure::Failure;

/// What it keeps.
pub struct State {
    store: Arc<dyn EventStore>,
    ambient: Ambient,
    counters: Arc<Counters>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        let (ambient, counters) = (deployment.ambient.clone(), Arc::clone(&deployment.counters));
        Ok(Self { store: deployment.store()?, ambient, counters })
    }
}

/// Appends the events of an entry to the feed of its subscription.
pub async fn handle(state: &State, event: BusDelivery) -> Result<(), Failure> {
    let committed_us = state.ambient.now_us();
    let pack = unpack_delivery(&event.detail)?;
    let samples = pack.count;
    let entries: Vec<_> = pack
        .events
        .into_iter()
        .map(|event| FeedEntry {
            subscription_id: pack.subscription_id.clone(),
            event_id: event.event_id,
            body: event.body,
            committed_us,
        })
        .collect();
    let new = state.store.append_feed(&entries).await?;
    add(&state.counters.events_delivered, new);
    if new == entries.len() as u64 {
        add(&state.counters.samples_delivered, u64::from(samples));
    }
    Ok(())
}
