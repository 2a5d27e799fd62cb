//! Customers' queues on SQS: at least once, no order, a message may hold several events.

mod held;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::ports::{
    CustomerQueue, PortError, QueueMessage, QueueName, QueueStats, Receipt, Received,
};

use crate::backoff::Backoff;
use crate::entry::{message, unpack_message};
use crate::error::{answered, port_error, refused, unavailable};
use held::Held;

const SERVICE: &str = "SQS";
/// Messages in one call, SQS's limit.
const CALL_MESSAGES_MAX: usize = 10;
/// Bytes of bodies in one call; SQS takes 1 MiB with everything.
const CALL_BYTES_MAX: usize = 1_000_000;
/// SQS hides a message for twelve hours at most.
pub(crate) const HIDDEN_S_MAX: i64 = 43_200;
/// Looks into a queue that seems empty. An API answers at once, so a look does not wait for messages, and then SQS asks
/// only some of its servers: a second look finds what the first one missed.
const EMPTY_LOOKS_MAX: u32 = 2;
/// Queue urls kept in memory; beyond it they are asked for again.
const URLS_MAX: usize = 10_000;
/// How what a call left behind is tried again.
const AGAIN: Backoff =
    Backoff { attempts_max: 4, first: Duration::from_millis(50), longest: Duration::from_secs(1) };
/// What the name of a queue's dead letters ends with.
pub const DEAD_SUFFIX: &str = "-dead";
/// Attribute of a dead letter that says why it is one.
pub const REASON_ATTRIBUTE: &str = "reason";

/// Customers' queues.
pub struct SqsQueue {
    client: Client,
    /// What names of customers' queues begin with.
    prefix: String,
    ambient: Ambient,
    urls: Mutex<HashMap<String, String>>,
    held: Mutex<Held>,
    unreadable: AtomicU64,
}

/// What is done to messages by their receipts.
#[derive(Clone, Copy)]
enum Settle {
    Delete,
    Hide { seconds: i32 },
}

/// How many messages a call settled, and what it did not.
type Settled = (usize, Vec<BatchResultErrorEntry>);

/// The name of a queue on SQS.
pub fn queue_name(prefix: &str, queue: &QueueName) -> String {
    match queue {
        QueueName::Subscription(id) => format!("{prefix}{id}"),
        QueueName::Webhook(id) => format!("{prefix}{id}"),
    }
}

/// Does this code say that there is no such queue?
pub(crate) fn is_no_queue(code: &str) -> bool {
    matches!(code, "QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue")
}

impl SqsQueue {
    /// Queues whose names begin with `prefix`.
    pub fn new(client: Client, prefix: impl Into<String>, ambient: Ambient) -> Self {
        let (urls, held, unreadable) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Self { client, prefix: prefix.into(), ambient, urls, held, unreadable }
    }

    /// Messages that could not be read so far; they are among the dead letters.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    async fn url(&self, name: &str) -> Result<String, PortError> {
        if let Some(url) = lock(&self.urls).get(name) {
            return Ok(url.clone());
        }
        let found = self.client.get_queue_url().queue_name(name).send().await;
        let url = found.map_err(|error| self.failed(name, &error))?.queue_url.unwrap_or_default();
        let mut urls = lock(&self.urls);
        if urls.len() >= URLS_MAX {
            urls.clear();
        }
        urls.insert(name.to_owned(), url.clone());
        Ok(url)
    }

    /// The error of a call about a queue. One that is gone is forgotten: it may be made again.
    fn failed<E: ProvideErrorMetadata>(&self, name: &str, error: &SdkError<E, HttpResponse>) -> PortError {
        let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
        if code.is_some_and(is_no_queue) {
            lock(&self.urls).remove(name);
            let reason =
                format!("there is no queue {name}: the subscription has none, or is not provisioned");
            return refused(SERVICE, reason);
        }
        port_error(SERVICE, error)
    }

    fn names(&self, queue: &QueueName) -> (String, String) {
        let name = queue_name(&self.prefix, queue);
        let dead = format!("{name}{DEAD_SUFFIX}");
        (name, dead)
    }

    async fn look(&self, name: &str, messages: usize, lease_s: i32) -> Result<Vec<Message>, PortError> {
        let messages = i32::try_from(messages.min(CALL_MESSAGES_MAX)).unwrap_or(1);
        let url = self.url(name).await?;
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
            .map_err(|error| self.failed(name, &error))?;
        Ok(answer.messages.unwrap_or_default())
    }

    /// Keeps a message among the dead letters and then takes it out of its queue.
    async fn set_aside(
        &self,
        queue: &QueueName,
        body: &str,
        receipt: &str,
        why: &str,
    ) -> Result<(), PortError> {
        let (name, dead) = self.names(queue);
        self.client
            .send_message()
            .queue_url(self.url(&dead).await?)
            .message_body(body)
            .message_attributes(REASON_ATTRIBUTE, reason_attribute(why)?)
            .send()
            .await
            .map_err(|error| self.failed(&dead, &error))?;
        let url = self.url(&name).await?;
        let deleted = self.client.delete_message().queue_url(url).receipt_handle(receipt).send().await;
        deleted.map(drop).map_err(|error| self.failed(&name, &error))
    }

    /// Sets a message aside that is not in our form. If that fails it comes again after its lease.
    async fn set_aside_unreadable(&self, queue: &QueueName, message: &Message, why: &PortError) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
        tracing::error!(queue = %queue, reason = %why, "a message cannot be read, it goes to the dead letters");
        let (body, receipt) = (message.body.as_deref(), message.receipt_handle.as_deref());
        let moved =
            self.set_aside(queue, body.unwrap_or("-"), receipt.unwrap_or("-"), &why.to_string()).await;
        if let Err(error) = moved {
            tracing::warn!(queue = %queue, %error, "a message that cannot be read stays in its queue");
        }
    }

    /// Deletes or hides messages; how many of the receipts were good. What SQS could not do now is tried again.
    async fn settle(&self, queue: &QueueName, receipts: &[Receipt], what: Settle) -> Result<u64, PortError> {
        let (name, _) = self.names(queue);
        let mut settled = 0;
        for batch in receipts.chunks(CALL_MESSAGES_MAX) {
            let mut waiting: Vec<&Receipt> = batch.iter().collect();
            for attempt in 1.. {
                let (good, failed) = self.settle_once(&name, &waiting, what).await?;
                settled += good as u64;
                // A receipt that SQS does not take is stale, which is no error.
                let passing: Vec<_> =
                    failed.iter().filter(|failure| failed_entry(failure).is_transient()).collect();
                let Some(first) = passing.first().map(|failure| failed_entry(failure)) else { break };
                waiting =
                    passing.iter().filter_map(|failure| by_id(&waiting, failure.id()).copied()).collect();
                if !AGAIN.pause(attempt, &self.ambient).await {
                    return Err(first);
                }
            }
        }
        Ok(settled)
    }

    async fn settle_once(
        &self,
        name: &str,
        receipts: &[&Receipt],
        what: Settle,
    ) -> Result<Settled, PortError> {
        let (url, numbered) = (self.url(name).await?, receipts.iter().enumerate());
        match what {
            Settle::Delete => {
                let entry = |(id, receipt): (usize, &&Receipt)| {
                    let entry = DeleteMessageBatchRequestEntry::builder().id(id.to_string());
                    entry.receipt_handle(receipt.as_str()).build().map_err(unbuilt)
                };
                let entries = numbered.map(entry).collect::<Result<Vec<_>, _>>()?;
                let call = self.client.delete_message_batch().queue_url(url).set_entries(Some(entries));
                let answer = call.send().await.map_err(|error| self.failed(name, &error))?;
                Ok((answer.successful.len(), answer.failed))
            }
            Settle::Hide { seconds } => {
                let entry = |(id, receipt): (usize, &&Receipt)| {
                    let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(id.to_string());
                    entry
                        .receipt_handle(receipt.as_str())
                        .visibility_timeout(seconds)
                        .build()
                        .map_err(unbuilt)
                };
                let entries = numbered.map(entry).collect::<Result<Vec<_>, _>>()?;
                let call =
                    self.client.change_message_visibility_batch().queue_url(url).set_entries(Some(entries));
                let answer = call.send().await.map_err(|error| self.failed(name, &error))?;
                Ok((answer.successful.len(), answer.failed))
            }
        }
    }

    /// Puts bodies into one queue, what a call left behind again.
    async fn send_all(&self, name: &str, mut bodies: Vec<String>) -> Result<(), PortError> {
        for attempt in 1.. {
            let entry = |(id, body): (usize, &String)| {
                SendMessageBatchRequestEntry::builder()
                    .id(id.to_string())
                    .message_body(body)
                    .build()
                    .map_err(unbuilt)
            };
            let entries = bodies.iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>()?;
            let call =
                self.client.send_message_batch().queue_url(self.url(name).await?).set_entries(Some(entries));
            let answer = call.send().await.map_err(|error| self.failed(name, &error))?;
            let Some(first) = answer.failed.first().map(failed_entry) else { break };
            let permanent = answer.failed.iter().map(failed_entry).find(|error| !error.is_transient());
            if let Some(error) = permanent {
                return Err(error);
            }
            bodies =
                answer.failed.iter().filter_map(|failure| by_id(&bodies, failure.id()).cloned()).collect();
            if !AGAIN.pause(attempt, &self.ambient).await {
                return Err(first);
            }
        }
        Ok(())
    }

    async fn counts(&self, name: &str) -> Result<(u64, u64), PortError> {
        let request = self.client.get_queue_attributes().queue_url(self.url(name).await?);
        let answer = request
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesDelayed)
            .send()
            .await
            .map_err(|error| self.failed(name, &error))?;
        let attributes = answer.attributes.unwrap_or_default();
        let of = |name| attributes.get(&name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let hidden = of(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)
            + of(QueueAttributeName::ApproximateNumberOfMessagesDelayed);
        Ok((of(QueueAttributeName::ApproximateNumberOfMessages), hidden))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The value of [`REASON_ATTRIBUTE`].
pub(crate) fn reason_attribute(why: &str) -> Result<MessageAttributeValue, PortError> {
    MessageAttributeValue::builder().data_type("String").string_value(why).build().map_err(unbuilt)
}

fn unbuilt(error: aws_sdk_sqs::error::BuildError) -> PortError {
    refused(SERVICE, error.to_string())
}

/// The item that a failure of a batch is about.
fn by_id<'a, T>(items: &'a [T], id: &str) -> Option<&'a T> {
    items.get(id.parse::<usize>().ok()?)
}

fn failed_entry(failure: &BatchResultErrorEntry) -> PortError {
    let status = if failure.sender_fault { 400 } else { 500 };
    answered(SERVICE, status, Some(failure.code()), failure.message())
}

fn number(message: &Message, name: &MessageSystemAttributeName) -> Option<i64> {
    message.attributes.as_ref()?.get(name)?.parse().ok()
}

/// A message as a rule delivers it: the event of the bus, whose detail holds ours.
fn read(message: &Message) -> Result<Received, PortError> {
    let events = unpack_message(message.body.as_deref().unwrap_or_default())?.events;
    // SQS writes them in base 64, of up to 1,024 characters.
    let receipt = message.receipt_handle.as_deref().and_then(|receipt| receipt.parse().ok());
    Ok(Received {
        receipt: receipt
            .ok_or_else(|| unavailable(SERVICE, "a receipt in a form that cannot be handed on"))?,
        attempt: number(message, &MessageSystemAttributeName::ApproximateReceiveCount)
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(1),
        events,
        sent_us: number(message, &MessageSystemAttributeName::SentTimestamp).unwrap_or(0) * 1_000,
    })
}

fn bytes(received: &Received) -> u64 {
    received.events.iter().map(|event| event.body.len() as u64).sum()
}

/// Seconds that are not less than this.
fn seconds(us: i64) -> i64 {
    us.saturating_add(999_999) / 1_000_000
}

#[async_trait]
impl CustomerQueue for SqsQueue {
    async fn send(&self, messages: &[(QueueName, QueueMessage)], _: i64) -> Result<(), PortError> {
        let mut batches: HashMap<String, (Vec<String>, usize)> = HashMap::new();
        for (queue, event) in messages {
            let QueueName::Subscription(subscription) = queue else {
                return Err(refused(SERVICE, "webhooks come from the bus only"));
            };
            let (body, (name, _)) = (message(subscription, event), self.names(queue));
            let (batch, bytes) = batches.entry(name.clone()).or_default();
            if batch.len() == CALL_MESSAGES_MAX || (!batch.is_empty() && *bytes + body.len() > CALL_BYTES_MAX)
            {
                *bytes = 0;
                self.send_all(&name, std::mem::take(batch)).await?;
            }
            *bytes += body.len();
            batch.push(body);
        }
        for (name, (batch, _)) in batches {
            self.send_all(&name, batch).await?;
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
        let (name, _) = self.names(queue);
        let (messages_max, lease_s) = (messages_max as usize, seconds(lease_us).clamp(1, HIDDEN_S_MAX));
        let lease_s = i32::try_from(lease_s).unwrap_or(1);
        let (mut taken, mut beyond): (Vec<Received>, Vec<Receipt>) = (Vec::new(), Vec::new());
        let (mut size, mut empty) = (0, 0);
        while taken.len() < messages_max && size < bytes_max && beyond.is_empty() && empty < EMPTY_LOOKS_MAX {
            let messages = match self.look(&name, messages_max - taken.len(), lease_s).await {
                // What is taken is under its lease already.
                Err(_) if !taken.is_empty() => break,
                messages => messages?,
            };
            if messages.is_empty() {
                empty += if taken.is_empty() { 1 } else { EMPTY_LOOKS_MAX };
            }
            for message in messages {
                let received = match read(&message) {
                    Ok(received) => received,
                    Err(error) if error.is_transient() => return Err(error),
                    Err(error) => {
                        self.set_aside_unreadable(queue, &message, &error).await;
                        continue;
                    }
                };
                if !taken.is_empty() && size + bytes(&received) > bytes_max {
                    beyond.push(received.receipt);
                    continue;
                }
                size += bytes(&received);
                lock(&self.held).keep(&received.receipt, message.body.unwrap_or_default());
                taken.push(received);
            }
        }
        if let Err(error) = self.settle(queue, &beyond, Settle::Hide { seconds: 0 }).await {
            tracing::warn!(queue = %queue, %error, "messages beyond the limit come again after their lease only");
        }
        Ok(taken)
    }

    async fn ack(&self, queue: &QueueName, receipts: &[Receipt], _: i64) -> Result<u64, PortError> {
        let settled = self.settle(queue, receipts, Settle::Delete).await?;
        lock(&self.held).forget(receipts);
        Ok(settled)
    }

    async fn nack(&self, queue: &QueueName, receipts: &[Receipt], visible_us: i64) -> Result<u64, PortError> {
        let wait_us = visible_us.saturating_sub(self.ambient.now_us()).max(0);
        let seconds = i32::try_from(seconds(wait_us).min(HIDDEN_S_MAX)).unwrap_or(0);
        self.settle(queue, receipts, Settle::Hide { seconds }).await
    }

    /// SQS has no way from a receipt to its message: only what this process received, and not long ago, can be buried.
    async fn bury(&self, queue: &QueueName, receipts: &[Receipt], reason: &str) -> Result<u64, PortError> {
        for receipt in receipts {
            let body = lock(&self.held).body(receipt);
            let Some(body) = body else {
                let reason = "the message of a receipt is not at hand: receive it again and bury it at once";
                return Err(refused(SERVICE, reason));
            };
            self.set_aside(queue, &body, receipt.as_str(), reason).await?;
            lock(&self.held).forget(std::slice::from_ref(receipt));
        }
        Ok(receipts.len() as u64)
    }

    async fn stats(&self, queue: &QueueName, _: i64) -> Result<QueueStats, PortError> {
        let (name, dead) = self.names(queue);
        let ((visible, in_flight), (dead, _)) = (self.counts(&name).await?, self.counts(&dead).await?);
        Ok(QueueStats { visible, in_flight, dead, oldest_us: None })
    }

    async fn next_webhook_us(&self) -> Result<Option<i64>, PortError> {
        // SQS invokes the webhook function itself.
        Ok(None)
    }
}
