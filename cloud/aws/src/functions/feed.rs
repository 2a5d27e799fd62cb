//! Delivery bus to feeds: appends each event once.

use std::sync::Arc;

use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::counters::{Counters, add};
use convoy_cloud_core::ports::{EventStore, FeedEntry, PortError};
use tokio::time::Instant;

use crate::deployment::Deployment;
use crate::entry::{Pack, unpack_message};
use crate::event::{BatchResponse, QueueEvent, QueueItem};
use crate::failure::Failure;
use crate::work_queue::{WorkQueue, Worker};

/// Entries appended together, at most: events of one feed share a chunk.
const SLICE_MESSAGES_MAX: usize = 20;

/// What it keeps.
pub struct State {
    store: Arc<dyn EventStore>,
    queue: WorkQueue,
    ambient: Ambient,
    counters: Arc<Counters>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        Ok(Self {
            store: deployment.store()?,
            queue: deployment.work_queue()?,
            ambient: deployment.ambient.clone(),
            counters: Arc::clone(&deployment.counters),
        })
    }
}

/// Appends the events of entries to the feeds of their subscriptions.
pub async fn handle(state: &State, event: QueueEvent, deadline: Instant) -> Result<BatchResponse, Failure> {
    let State { queue, ambient, counters, .. } = state;
    let worker = Worker { queue, ambient, counters, slice_messages_max: SLICE_MESSAGES_MAX };
    Ok(worker.work_off(&event.messages, deadline, async |slice| state.append(slice).await).await)
}

impl State {
    async fn append(&self, messages: &[QueueItem]) -> Vec<Result<(), PortError>> {
        let packs: Vec<_> = messages.iter().map(|message| unpack_message(&message.body)).collect();
        let appended = self.append_packs(packs.iter().flatten()).await;
        // What one of them is refused for must not take the others along.
        let is_one_refused = appended.as_ref().is_err_and(|error| !error.is_transient());
        let mut outcomes = Vec::with_capacity(packs.len());
        for pack in packs {
            outcomes.push(match pack {
                Err(error) => Err(error),
                Ok(pack) if is_one_refused => self.append_packs([&pack].into_iter()).await,
                Ok(_) => appended.clone(),
            });
        }
        outcomes
    }

    async fn append_packs<'p>(&self, packs: impl Iterator<Item = &'p Pack>) -> Result<(), PortError> {
        let committed_us = self.ambient.now_us();
        let (mut entries, mut samples) = (Vec::new(), 0);
        for pack in packs {
            samples += u64::from(pack.count);
            entries.extend(pack.events.iter().map(|event| FeedEntry {
                subscription_id: pack.subscription_id.clone(),
                event_id: event.event_id.clone(),
                body: event.body.clone(),
                committed_us,
            }));
        }
        let new = self.store.append_feed(&entries).await?;
        add(&self.counters.events_delivered, new);
        if new == entries.len() as u64 {
            add(&self.counters.samples_delivered, samples);
        }
        Ok(())
    }
}
