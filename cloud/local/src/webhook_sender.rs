//! The task that keeps posting webhooks.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::counters::Counters;
use convoy_cloud_core::identity::WebhookEndpointId;
use convoy_cloud_core::ports::{CustomerQueue, WebhookSender};
use convoy_cloud_core::reference::{ReferenceDatabase, WebhookEndpoint};
use convoy_cloud_core::webhook::{Dispatcher, Poster, WebhookMasterKey};
use tokio::sync::{Notify, Semaphore, watch};

/// Endpoints served at once, at most.
const ENDPOINTS_AT_ONCE: usize = 16;
/// Longest wait before the queues are looked at again.
const IDLE: Duration = Duration::from_secs(5);

/// What the dispatching task works on.
#[derive(Clone)]
pub struct Webhooks {
    /// Where endpoints are kept.
    pub reference: Arc<dyn ReferenceDatabase>,
    /// Where events wait.
    pub queue: Arc<dyn CustomerQueue>,
    /// How they are posted.
    pub sender: Arc<dyn WebhookSender>,
    /// Signs them.
    pub key: WebhookMasterKey,
    /// Time and jitter.
    pub ambient: Ambient,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// Wakes the task when something was queued.
    pub sent: Arc<Notify>,
}

/// Posts what waits, each endpoint on its own, so that a slow one holds up nobody else.
pub async fn run(webhooks: Webhooks, mut shutdown: watch::Receiver<bool>) -> Result<()> {
    let busy: Arc<Mutex<HashSet<WebhookEndpointId>>> = Arc::default();
    let slots = Arc::new(Semaphore::new(ENDPOINTS_AT_ONCE));
    loop {
        match webhooks.reference.endpoints().await {
            Ok(endpoints) => {
                for endpoint in endpoints {
                    let free = lock(&busy).insert(endpoint.id.clone());
                    if free {
                        tokio::spawn(serve(
                            webhooks.clone(),
                            endpoint,
                            Arc::clone(&busy),
                            Arc::clone(&slots),
                        ));
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "webhooks: endpoints cannot be read, trying again"),
        }
        let idle = until_next(&webhooks).await;
        tokio::select! {
            () = webhooks.sent.notified() => {}
            () = tokio::time::sleep(idle) => {}
            _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

/// Time until the next message is due; at least 10 ms so that a message under way is not polled for.
async fn until_next(webhooks: &Webhooks) -> Duration {
    let next_us = webhooks.queue.next_webhook_us().await.ok().flatten();
    let wait_us = next_us.map_or(i64::MAX, |next_us| next_us - webhooks.ambient.now_us());
    Duration::from_micros(wait_us.max(10_000).unsigned_abs()).min(IDLE)
}

async fn serve(
    webhooks: Webhooks,
    mut endpoint: WebhookEndpoint,
    busy: Arc<Mutex<HashSet<WebhookEndpointId>>>,
    slots: Arc<Semaphore>,
) {
    let dispatcher = Dispatcher {
        reference: webhooks.reference.as_ref(),
        queue: webhooks.queue.as_ref(),
        poster: Poster { sender: webhooks.sender.as_ref(), key: &webhooks.key, ambient: &webhooks.ambient },
        counters: &webhooks.counters,
    };
    // A slot is given back after each batch: an endpoint that hangs waits behind the others for its next one.
    while let Ok(_slot) = slots.acquire().await {
        let outcome = match dispatcher.dispatch(&endpoint).await {
            Ok(true) => webhooks.reference.endpoint(&endpoint.id).await,
            Ok(false) => break,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Some(current)) => endpoint = current,
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(endpoint.id = %endpoint.id, %error, "webhooks: trying again");
                break;
            }
        }
    }
    lock(&busy).remove(&endpoint.id);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
