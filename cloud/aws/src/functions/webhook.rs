//! Signed webhooks: posts what the rules put into the webhook queue.

use std::sync::Arc;

use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::counters::{Counters, add};
use convoy_cloud_core::ports::{PortError, WebhookSender};
use convoy_cloud_core::reference::{ReferenceDatabase, WebhookEndpoint};
use convoy_cloud_core::webhook::{Next, Poster, WebhookMasterKey, attempt_at};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::deployment::Deployment;
use crate::entry::unpack_delivery;
use crate::event::{BatchResponse, QueueEvent, QueueItem};
use crate::failure::Failure;
use crate::work_queue::WorkQueue;

/// Until a message comes again that could not be posted because a service of ours is away, microseconds.
const AWAY_WAIT_US: i64 = 30_000_000;

/// What it keeps.
pub struct State {
    reference: Arc<dyn ReferenceDatabase>,
    sender: Arc<dyn WebhookSender>,
    queue: WorkQueue,
    key: WebhookMasterKey,
    ambient: Ambient,
    counters: Arc<Counters>,
}

/// A message of the webhook queue, as a rule's input transformer writes it.
#[derive(Debug, Deserialize)]
struct Posting {
    endpoint_id: String,
    event: Box<RawValue>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        Ok(Self {
            reference: deployment.reference().await?,
            sender: deployment.webhook_sender()?,
            queue: deployment.work_queue()?,
            key: deployment.keys().await?.webhook.clone(),
            ambient: deployment.ambient.clone(),
            counters: Arc::clone(&deployment.counters),
        })
    }
}

/// Posts each message once, all at the same time. One that shall be tried again stays in the queue, hidden until its
/// time; one that is given up goes to the dead letters first.
pub async fn handle(state: &Arc<State>, event: QueueEvent) -> Result<BatchResponse, Failure> {
    let mut posts = tokio::task::JoinSet::new();
    for message in event.messages {
        let state = Arc::clone(state);
        posts.spawn(async move { (message.message_id.clone(), state.post_or_wait(&message).await) });
    }
    let mut failed = Vec::new();
    while let Some(posted) = posts.join_next().await {
        let (id, outcome) = posted.map_err(|error| Failure::Unavailable(error.to_string()))?;
        match outcome {
            Ok(true) => {}
            Ok(false) => failed.push(id),
            Err(error) => {
                tracing::warn!(%error, "webhook: the message comes again");
                failed.push(id);
            }
        }
    }
    Ok(BatchResponse::failed(failed))
}

impl State {
    /// As [`State::post`]; where a service of ours is away, the message waits less than its visibility timeout, and no
    /// attempt is counted.
    async fn post_or_wait(&self, message: &QueueItem) -> Result<bool, PortError> {
        let posted = self.post(message).await;
        if posted.is_err() {
            self.queue.hide(&message.receipt_handle, AWAY_WAIT_US).await?;
        }
        posted
    }

    /// `true` where the message is done with.
    async fn post(&self, message: &QueueItem) -> Result<bool, PortError> {
        let Some((endpoint_id, event)) = read(&message.body) else {
            self.queue.bury(&message.body, "the message cannot be read").await?;
            add(&self.counters.webhooks_dead, 1);
            return Ok(true);
        };
        let Some(endpoint) = self.endpoint(&endpoint_id).await? else {
            self.queue.bury(&message.body, "there is no such endpoint").await?;
            add(&self.counters.webhooks_dead, 1);
            return Ok(true);
        };
        let poster = Poster { sender: self.sender.as_ref(), key: &self.key, ambient: &self.ambient };
        let age_us = message.age_us(self.ambient.now_us());
        let attempt = age_us.map_or_else(|| message.attempt(), attempt_at);
        match poster.attempt(&endpoint, &event, attempt).await {
            Next::Delivered => {
                add(&self.counters.webhooks_delivered, 1);
                Ok(true)
            }
            Next::Retry { wait_s } => {
                self.queue.hide(&message.receipt_handle, poster.jittered_us(wait_s)).await?;
                add(&self.counters.webhooks_retried, 1);
                Ok(false)
            }
            Next::GiveUp { reason, disable } => {
                tracing::warn!(endpoint.id = %endpoint.id, reason, "webhook given up");
                self.queue.bury(&message.body, &reason).await?;
                add(&self.counters.webhooks_dead, 1);
                if disable {
                    self.reference.disable_endpoint(&endpoint.id, self.ambient.now_us()).await?;
                }
                Ok(true)
            }
        }
    }

    async fn endpoint(&self, id: &str) -> Result<Option<WebhookEndpoint>, PortError> {
        match id.parse() {
            Ok(id) => self.reference.endpoint(&id).await,
            Err(_) => Ok(None),
        }
    }
}

fn read(body: &str) -> Option<(String, convoy_cloud_core::ports::QueueMessage)> {
    let posting: Posting = serde_json::from_str(body).ok()?;
    let mut pack = unpack_delivery(&posting.event).ok()?;
    (pack.events.len() == 1).then(|| pack.events.pop()).flatten().map(|event| (posting.endpoint_id, event))
}
