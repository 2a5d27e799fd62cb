//! A queue that a function works off: what failed comes again after a while, what can never work goes to the dead letters.
//!
//! Between a rule and a function stands a queue, because a rule calls a function without waiting for it: after two
//! failures the event would be gone. A queue keeps it for two weeks, and hands over many at once.

use aws_sdk_sqs::Client;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::counters::{Counters, add};
use convoy_cloud_core::ports::PortError;
use tokio::time::Instant;

use crate::error::{port_error, unavailable};
use crate::event::{BatchResponse, QueueItem};
use crate::sqs::{HIDDEN_S_MAX, REASON_ATTRIBUTE, reason_attribute};
use crate::stream_batch::RESERVE;

/// Longest wait before a message comes again, seconds.
const WAIT_S_MAX: i64 = 300;

/// The queue and its dead letters.
pub struct WorkQueue {
    /// The client.
    pub client: Client,
    /// The queue's url.
    pub url: String,
    /// The dead letters' url.
    pub dead_url: String,
}

impl WorkQueue {
    /// Hides a message for about this long, microseconds; at most for the twelve hours that SQS hides one, so that the
    /// attempt after a longer wait comes earlier.
    pub async fn hide(&self, receipt: &str, wait_us: i64) -> Result<(), PortError> {
        let wait_s = (wait_us / 1_000_000).clamp(0, HIDDEN_S_MAX);
        self.client
            .change_message_visibility()
            .queue_url(&self.url)
            .receipt_handle(receipt)
            .visibility_timeout(i32::try_from(wait_s).unwrap_or(0))
            .send()
            .await
            .map(drop)
            .map_err(|error| port_error("SQS", &error))
    }

    /// Keeps a message among the dead letters, with the reason.
    pub async fn bury(&self, body: &str, reason: &str) -> Result<(), PortError> {
        self.client
            .send_message()
            .queue_url(&self.dead_url)
            .message_body(body)
            .message_attributes(REASON_ATTRIBUTE, reason_attribute(reason)?)
            .send()
            .await
            .map(drop)
            .map_err(|error| port_error("SQS", &error))
    }
}

/// A function's way of working off its queue.
pub struct Worker<'a> {
    /// The queue.
    pub queue: &'a WorkQueue,
    /// Randomness.
    pub ambient: &'a Ambient,
    /// What is counted.
    pub counters: &'a Counters,
    /// Messages that are worked off together, at most: what is done before a deadline is not done again.
    pub slice_messages_max: usize,
}

impl Worker<'_> {
    /// Works messages off in slices until the reserve before `deadline`; `work` gives one result a message, in order.
    /// The answer names those that come again.
    pub async fn work_off(
        &self,
        messages: &[QueueItem],
        deadline: Instant,
        work: impl AsyncFn(&[QueueItem]) -> Vec<Result<(), PortError>>,
    ) -> BatchResponse {
        let stop = deadline.checked_sub(RESERVE).unwrap_or(deadline);
        let mut failed = Vec::new();
        for slice in messages.chunks(self.slice_messages_max) {
            let outcomes = tokio::time::timeout_at(stop, work(slice)).await.unwrap_or_else(|_| {
                vec![Err(unavailable("function", "the invocation's time is over")); slice.len()]
            });
            for (message, outcome) in slice.iter().zip(outcomes) {
                // The answer is worth more than the place of a message: what is not settled in time comes again too.
                let settled = tokio::time::timeout_at(deadline, self.settle(message, outcome));
                if !settled.await.unwrap_or(false) {
                    failed.push(message.message_id.clone());
                }
            }
        }
        BatchResponse::failed(failed)
    }

    /// `true` where the message is done with.
    async fn settle(&self, message: &QueueItem, outcome: Result<(), PortError>) -> bool {
        let Err(error) = outcome else { return true };
        let id = &message.message_id;
        if error.is_transient() {
            add(&self.counters.batches_retried, 1);
            tracing::warn!(message.id = id, %error, attempt = message.attempt(), "the message comes again");
            if let Err(error) =
                self.queue.hide(&message.receipt_handle, self.wait_us(message.attempt())).await
            {
                tracing::warn!(message.id = id, %error, "it comes when its visibility timeout is over");
            }
            return false;
        }
        tracing::error!(message.id = id, %error, "the message can never work and goes to the dead letters");
        add(&self.counters.records_dead, 1);
        let buried = self.queue.bury(&message.body, &error.to_string()).await;
        if let Err(error) = &buried {
            tracing::warn!(message.id = id, %error, "the dead letters do not take it: it comes again");
        }
        buried.is_ok()
    }

    /// 1 s after the first attempt, doubled with each, half of it by chance.
    fn wait_us(&self, attempt: u32) -> i64 {
        let whole_us = (1i64 << attempt.saturating_sub(1).min(16)).min(WAIT_S_MAX) * 1_000_000;
        let dice = i64::from(u16::from_le_bytes(self.ambient.random()));
        whole_us / 2 + whole_us / 2 * dice / i64::from(u16::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes_and_half_of_each_is_chance() {
        let client = Client::from_conf(aws_sdk_sqs::Config::builder().build());
        let queue = WorkQueue { client, url: String::new(), dead_url: String::new() };
        let waits = |dice: u8| {
            let ambient = Ambient::new(|| 0, move |bytes| bytes.fill(dice));
            let counters = Counters::default();
            let worker =
                Worker { queue: &queue, ambient: &ambient, counters: &counters, slice_messages_max: 1 };
            [1, 2, 3, 9, 10, 1_000].map(|attempt| worker.wait_us(attempt) / 1_000)
        };
        assert_eq!(waits(0xff), [1_000, 2_000, 4_000, 256_000, 300_000, 300_000]);
        assert_eq!(waits(0), [500, 1_000, 2_000, 128_000, 150_000, 150_000]);
    }
}
