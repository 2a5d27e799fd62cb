//! Customers' queues on SQS: at least once, no order, a message may hold several events.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::operation::get_queue_url::GetQueueUrlError;
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::ports::{
    CustomerQueue, PortError, QueueMessage, QueueName, QueueStats, Receipt, Received,
};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::entry::unpack_delivery;
use crate::error::{answered, port_error, refused};

const SERVICE: &str = "SQS";
/// Messages in one call, SQS's limit.
const CALL_MESSAGES_MAX: usize = 10;
/// SQS hides a message for twelve hours at most.
const HIDDEN_S_MAX: i64 = 43_200;
/// SQS asks only some of its servers when it is asked once and shortly: an empty answer is asked for again.
const EMPTY_ANSWERS_MAX: u32 = 2;
/// What the name of a queue's dead letters ends with.
pub const DEAD_SUFFIX: &str = "-dead";

/// Customers' queues.
pub struct SqsQueue {
    client: Client,
    /// What names of customers' queues begin with.
    prefix: String,
    ambient: Ambient,
    urls: Mutex<HashMap<String, String>>,
}

/// The name of a queue on SQS.
pub fn queue_name(prefix: &str, queue: &QueueName) -> String {
    match queue {
        QueueName::Subscription(id) => format!("{prefix}{id}"),
        QueueName::Webhook(id) => format!("{prefix}{id}"),
    }
}

impl SqsQueue {
    /// Queues whose names begin with `prefix`.
    pub fn new(client: Client, prefix: impl Into<String>, ambient: Ambient) -> Self {
        Self { client, prefix: prefix.into(), ambient, urls: Mutex::default() }
    }

    async fn url(&self, name: &str) -> Result<String, PortError> {
        if let Some(url) = self.lock().get(name) {
            return Ok(url.clone());
        }
        let found = self.client.get_queue_url().queue_name(name).send().await;
        let url = match found {
            Ok(found) => found.queue_url.unwrap_or_default(),
            Err(error)
                if matches!(error.as_service_error(), Some(GetQueueUrlError::QueueDoesNotExist(_))) =>
            {
                let reason = format!("there is no queue {name}: provision the subscription again");
                return Err(refused(SERVICE, reason));
            }
            Err(error) => return Err(port_error(SERVICE, &error)),
        };
        self.lock().insert(name.to_owned(), url.clone());
        Ok(url)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dead_url(&self, queue: &QueueName) -> Result<String, PortError> {
        self.url(&format!("{}{DEAD_SUFFIX}", queue_name(&self.prefix, queue))).await
    }

    async fn take(&self, url: &str, messages: usize, lease_s: i32) -> Result<Vec<Message>, PortError> {
        let messages = i32::try_from(messages.min(CALL_MESSAGES_MAX)).unwrap_or(1);
        let answer = self
            .client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(messages)
            .visibility_timeout(lease_s)
            .wait_time_seconds(0)
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .send()
            .await
            .map_err(|error| port_error(SERVICE, &error))?;
        Ok(answer.messages.unwrap_or_default())
    }

    /// Keeps a message among the dead letters and takes it out of the queue.
    async fn set_aside(
        &self,
        queue: &QueueName,
        body: &str,
        receipt: &str,
        why: &str,
    ) -> Result<(), PortError> {
        let (url, dead_url) =
            (self.url(&queue_name(&self.prefix, queue)).await?, self.dead_url(queue).await?);
        let reason = MessageAttributeValue::builder().data_type("String").string_value(why).build();
        self.client
            .send_message()
            .queue_url(dead_url)
            .message_body(body)
            .message_attributes("reason", reason.map_err(|error| refused(SERVICE, error.to_string()))?)
            .send()
            .await
            .map_err(|error| port_error(SERVICE, &error))?;
        let deleted = self.client.delete_message().queue_url(url).receipt_handle(receipt).send().await;
        deleted.map(drop).map_err(|error| port_error(SERVICE, &error))
    }

    async fn hide(&self, queue: &QueueName, receipts: &[Receipt], seconds: i64) -> Result<u64, PortError> {
        let url = self.url(&queue_name(&self.prefix, queue)).await?;
        let seconds = i32::try_from(seconds.clamp(0, HIDDEN_S_MAX)).unwrap_or(0);
        let mut accepted = 0;
        for call in receipts.chunks(CALL_MESSAGES_MAX) {
            let entry = |(index, receipt): (usize, &Receipt)| {
                ChangeMessageVisibilityBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(receipt.as_str())
                    .visibility_timeout(seconds)
                    .build()
                    .map_err(|error| refused(SERVICE, error.to_string()))
            };
            let entries = call.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>()?;
            let request = self.client.change_message_visibility_batch().queue_url(&url);
            let answer = request.set_entries(Some(entries)).send().await;
            let answer = answer.map_err(|error| port_error(SERVICE, &error))?;
            accepted += accepted_of(answer.successful.len(), &answer.failed)?;
        }
        Ok(accepted)
    }
}

/// How many were accepted; a failure that may pass fails the whole call, a stale receipt only does not count.
fn accepted_of(successful: usize, failed: &[BatchResultErrorEntry]) -> Result<u64, PortError> {
    for failure in failed {
        let status = if failure.sender_fault { 400 } else { 500 };
        let error = answered(SERVICE, status, Some(failure.code()), failure.message());
        if error.is_transient() {
            return Err(error);
        }
    }
    Ok(successful as u64)
}

fn number(message: &Message, name: &MessageSystemAttributeName) -> Option<i64> {
    message.attributes.as_ref()?.get(name)?.parse().ok()
}

/// A message as a rule delivers it: the event of the bus, whose detail holds ours.
fn read(message: &Message) -> Option<(Received, u64)> {
    let body = message.body.as_deref()?;
    let delivery: Value = serde_json::from_str(body).ok()?;
    let events = unpack_delivery(&delivery["detail"]).ok()?.events;
    let bytes = events.iter().map(|event| event.body.len() as u64).sum();
    let received = Received {
        receipt: message.receipt_handle.as_deref()?.parse().ok()?,
        attempt: number(message, &MessageSystemAttributeName::ApproximateReceiveCount)
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(1),
        events,
        sent_us: number(message, &MessageSystemAttributeName::SentTimestamp).unwrap_or(0) * 1_000,
    };
    Some((received, bytes))
}

/// A body as a rule would deliver it, for one event that is sent without a bus.
fn body(queue: &QueueName, message: &QueueMessage) -> Result<String, PortError> {
    #[derive(serde::Serialize)]
    struct Detail<'a> {
        meta: Value,
        event: &'a RawValue,
    }
    let subscription = match queue {
        QueueName::Subscription(id) => id.to_string(),
        QueueName::Webhook(_) => return Err(refused(SERVICE, "webhooks come from the bus only")),
    };
    // A body of another form is carried as it is, under its id.
    let event = serde_json::from_slice::<&RawValue>(&message.body)
        .map_err(|error| refused(SERVICE, format!("an event is not JSON: {error}")))?;
    let meta = serde_json::json!({"subscription_id": subscription, "count": 1, "event_id": message.event_id});
    let detail =
        serde_json::to_value(Detail { meta, event }).map_err(|error| refused(SERVICE, error.to_string()))?;
    Ok(serde_json::json!({"source": "convoy.delivery", "detail": detail}).to_string())
}

#[async_trait]
impl CustomerQueue for SqsQueue {
    async fn send(&self, messages: &[(QueueName, QueueMessage)], _: i64) -> Result<(), PortError> {
        for (queue, message) in messages {
            let url = self.url(&queue_name(&self.prefix, queue)).await?;
            let entry = SendMessageBatchRequestEntry::builder()
                .id("0")
                .message_body(body(queue, message)?)
                .build()
                .map_err(|error| refused(SERVICE, error.to_string()))?;
            let answer = self.client.send_message_batch().queue_url(url).entries(entry).send().await;
            let answer = answer.map_err(|error| port_error(SERVICE, &error))?;
            if let Some(failure) = answer.failed.first() {
                let status = if failure.sender_fault { 400 } else { 500 };
                return Err(answered(SERVICE, status, Some(failure.code()), failure.message()));
            }
        }
        Ok(())
    }

    async fn receive(
        &self,
        queue: &QueueName,
        messages_max: u32,
        bytes_max: u64,
        lease_us: i64,
        _: i64,
    ) -> Result<Vec<Received>, PortError> {
        let url = self.url(&queue_name(&self.prefix, queue)).await?;
        let lease_s = i32::try_from((lease_us / 1_000_000).clamp(1, HIDDEN_S_MAX)).unwrap_or(1);
        let (mut taken, mut bytes, mut empty) = (Vec::new(), 0, 0);
        let mut beyond: Vec<Receipt> = Vec::new();
        while taken.len() < messages_max as usize && bytes < bytes_max && empty < EMPTY_ANSWERS_MAX {
            let messages = self.take(&url, messages_max as usize - taken.len(), lease_s).await?;
            empty = if messages.is_empty() { empty + 1 } else { 0 };
            for message in messages {
                let Some((received, size)) = read(&message) else {
                    let (body, receipt) = (message.body.as_deref(), message.receipt_handle.as_deref());
                    tracing::error!(queue = %queue, "a message that cannot be read goes to the dead letters");
                    self.set_aside(queue, body.unwrap_or("-"), receipt.unwrap_or("-"), "it cannot be read")
                        .await?;
                    continue;
                };
                if !taken.is_empty() && bytes + size > bytes_max {
                    beyond.push(received.receipt);
                    continue;
                }
                bytes += size;
                taken.push(received);
            }
            if !beyond.is_empty() {
                break;
            }
        }
        if !beyond.is_empty() {
            self.hide(queue, &beyond, 0).await?;
        }
        Ok(taken)
    }

    async fn ack(&self, queue: &QueueName, receipts: &[Receipt], _: i64) -> Result<u64, PortError> {
        let url = self.url(&queue_name(&self.prefix, queue)).await?;
        let mut accepted = 0;
        for call in receipts.chunks(CALL_MESSAGES_MAX) {
            let entry = |(index, receipt): (usize, &Receipt)| {
                DeleteMessageBatchRequestEntry::builder()
                    .id(index.to_string())
                    .receipt_handle(receipt.as_str())
                    .build()
                    .map_err(|error| refused(SERVICE, error.to_string()))
            };
            let entries = call.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>()?;
            let request = self.client.delete_message_batch().queue_url(&url);
            let answer = request.set_entries(Some(entries)).send().await;
            let answer = answer.map_err(|error| port_error(SERVICE, &error))?;
            accepted += accepted_of(answer.successful.len(), &answer.failed)?;
        }
        Ok(accepted)
    }

    async fn nack(&self, queue: &QueueName, receipts: &[Receipt], visible_us: i64) -> Result<u64, PortError> {
        // Rounded up: never earlier than asked for.
        let wait_us = visible_us.saturating_sub(self.ambient.now_us()).max(0);
        self.hide(queue, receipts, wait_us.saturating_add(999_999) / 1_000_000).await
    }

    async fn bury(&self, queue: &QueueName, receipts: &[Receipt], reason: &str) -> Result<u64, PortError> {
        // SQS has no way back from a receipt to its message: only its name can be kept.
        for receipt in receipts {
            self.set_aside(queue, receipt.as_str(), receipt.as_str(), reason).await?;
        }
        Ok(receipts.len() as u64)
    }

    async fn stats(&self, queue: &QueueName, _: i64) -> Result<QueueStats, PortError> {
        let numbers = async |url: String| {
            let request = self.client.get_queue_attributes().queue_url(url);
            let answer = request
                .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
                .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
                .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesDelayed)
                .send()
                .await
                .map_err(|error| port_error(SERVICE, &error))?;
            let attributes = answer.attributes.unwrap_or_default();
            let of = |name| attributes.get(&name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            let visible = of(QueueAttributeName::ApproximateNumberOfMessages);
            let hidden = of(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
                + of(QueueAttributeName::ApproximateNumberOfMessagesDelayed);
            Ok::<_, PortError>((visible, hidden))
        };
        let (visible, in_flight) = numbers(self.url(&queue_name(&self.prefix, queue)).await?).await?;
        let (dead, _) = numbers(self.dead_url(queue).await?).await?;
        Ok(QueueStats { visible, in_flight, dead, oldest_us: None })
    }

    async fn next_webhook_us(&self) -> Result<Option<i64>, PortError> {
        // SQS invokes the webhook function itself.
        Ok(None)
    }
}
