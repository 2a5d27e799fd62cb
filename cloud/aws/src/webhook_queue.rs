//! What the webhook function does with messages besides answering: hide one until its next attempt, keep a dead one.

use aws_sdk_sqs::Client;
use convoy_cloud_core::ports::PortError;

use crate::error::port_error;
use crate::sqs::{HIDDEN_S_MAX, REASON_ATTRIBUTE, reason_attribute};

/// The webhook queue and its dead letters.
pub struct WebhookQueue {
    /// The client.
    pub client: Client,
    /// The queue's url.
    pub url: String,
    /// The dead letters' url.
    pub dead_url: String,
}

impl WebhookQueue {
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
