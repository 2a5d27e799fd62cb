//! The buses on one machine: an event is published when every target of every matching rule has it durably.
//!
//! Nothing is kept in the bus itself. What is not delivered when the process dies is published again, because the
//! stream's checkpoint moves only after that.

use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::bus::{BusEvent, BusName, Meta};
use convoy_cloud_core::counters::{Counters, add};
use convoy_cloud_core::enrich::{Enriched, Enricher};
use convoy_cloud_core::ports::{
    CustomerQueue, EventBus, EventStore, FeedEntry, PortError, QueueMessage, QueueName,
};
use convoy_cloud_core::rules::Target;

use crate::provisioner::CurrentRules;

/// The default bus, whose only subscriber is enrichment, and the delivery bus with the customers' rules.
pub struct LocalBus {
    /// The function behind the default bus.
    pub enricher: Enricher,
    /// Rules of the delivery bus.
    pub rules: CurrentRules,
    /// Where feeds are kept.
    pub store: Arc<dyn EventStore>,
    /// Where queues are kept.
    pub queue: Arc<dyn CustomerQueue>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// The clock.
    pub ambient: Ambient,
}

impl LocalBus {
    async fn enrich_and_deliver(&self, events: &[BusEvent]) -> Vec<Result<(), PortError>> {
        let mut enriched = Vec::with_capacity(events.len());
        for event in events {
            match self.enricher.enrich(event).await {
                Err(error) if error.is_transient() => return fail_all(events, &error),
                outcome => enriched.push(outcome),
            }
        }
        let good: Vec<_> = enriched.iter().flatten().flat_map(|one: &Enriched| &one.events).collect();
        match self.deliver(&good).await {
            Err(error) if error.is_transient() => fail_all(events, &error),
            Err(_) => self.deliver_one_by_one(events, enriched).await,
            Ok(()) => enriched.into_iter().map(|outcome| outcome.map(drop)).collect(),
        }
    }

    /// What is refused together is given each alone, so that one event takes no other with it.
    async fn deliver_one_by_one(
        &self,
        events: &[BusEvent],
        enriched: Vec<Result<Enriched, PortError>>,
    ) -> Vec<Result<(), PortError>> {
        let mut results = Vec::with_capacity(events.len());
        for outcome in enriched {
            let result = match &outcome {
                Ok(one) => self.deliver(&one.events.iter().collect::<Vec<_>>()).await,
                Err(error) => Err(error.clone()),
            };
            match result {
                Err(error) if error.is_transient() => return fail_all(events, &error),
                result => results.push(result),
            }
        }
        results
    }

    async fn deliver(&self, events: &[&BusEvent]) -> Result<(), PortError> {
        let rules = Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner));
        let now_us = self.ambient.now_us();
        let (mut feed, mut queued): (Vec<FeedEntry>, Vec<(QueueName, QueueMessage)>) = Default::default();
        let mut in_feed = Vec::new();
        for event in events.iter().copied() {
            let Meta::Delivery { event_id, .. } = &event.meta else { continue };
            for rule in rules.matching(event) {
                let body = event.payload.to_vec();
                match &rule.target {
                    Target::Feed(subscription) => {
                        in_feed.push(event);
                        feed.push(FeedEntry {
                            subscription_id: subscription.clone(),
                            event_id: event_id.clone(),
                            body,
                            committed_us: now_us,
                        });
                    }
                    target => {
                        let message = QueueMessage { event_id: event_id.clone(), body };
                        queued.extend(target.queue().map(|queue| (queue, message)));
                    }
                }
            }
        }
        if !queued.is_empty() {
            self.queue.send(&queued, now_us).await?;
        }
        if !feed.is_empty() {
            let new = self.store.append_feed(&feed).await?;
            self.count(&in_feed, new);
        }
        Ok(())
    }

    fn count(&self, events: &[&BusEvent], new: u64) {
        add(&self.counters.events_delivered, new);
        // Of a batch that was delivered before in part, the store does not say which part.
        if new != events.len() as u64 {
            return;
        }
        let committed_us = self.ambient.now_us();
        for event in events {
            if let Meta::Delivery { count, .. } = &event.meta {
                add(&self.counters.samples_delivered, u64::from(*count));
            }
            self.counters.delivery_latency.record(committed_us.saturating_sub(event.last_us));
        }
    }
}

fn fail_all(events: &[BusEvent], error: &PortError) -> Vec<Result<(), PortError>> {
    events.iter().map(|_| Err(error.clone())).collect()
}

#[async_trait]
impl EventBus for LocalBus {
    async fn publish(&self, bus: BusName, events: Vec<BusEvent>) -> Vec<Result<(), PortError>> {
        match bus {
            BusName::Default => self.enrich_and_deliver(&events).await,
            BusName::Delivery => {
                let outcome = self.deliver(&events.iter().collect::<Vec<_>>()).await;
                events.iter().map(|_| outcome.clone()).collect()
            }
        }
    }
}
