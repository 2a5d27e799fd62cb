//! The way down to vehicles through SQS: functions send, the bridge publishes.
//!
//! Messages live for a minute: what a vehicle did not get by then is asked for or sent again.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Config;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use convoy_cloud_core::ports::{Downlink, PortError};
use convoy_protocol::downlink::Down;
use convoy_protocol::id::VehicleId;
use serde::{Deserialize, Serialize};

use crate::clients::CONNECT_TIMEOUT;
use crate::error::{port_error, refused};

const SERVICE: &str = "SQS";
/// Messages taken at once, SQS's limit.
const MESSAGES_MAX: i32 = 10;
/// How long one look waits for a message, seconds; SQS's limit.
const WAIT_S: i32 = 20;
/// One look ends after this time: longer than it may wait.
const LOOK_TIMEOUT: Duration = Duration::from_secs(25);

/// Which of a vehicle's topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An acknowledgement.
    Ack,
    /// A request.
    Request,
}

#[derive(Serialize, Deserialize)]
struct Letter {
    vehicle: String,
    kind: Kind,
    /// Base 64 of the encoded message.
    bytes: String,
}

/// A message on its way down, taken from the queue; it comes again unless it is settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// To which vehicle.
    pub vehicle_id: VehicleId,
    /// On which of its topics.
    pub kind: Kind,
    /// What is said.
    pub down: Down,
    receipt: String,
}

/// Both sides of the queue.
#[derive(Clone)]
pub struct SqsDownlink {
    client: Client,
    url: String,
}

impl SqsDownlink {
    /// The queue at `url`.
    pub fn new(client: Client, url: impl Into<String>) -> Self {
        Self { client, url: url.into() }
    }

    async fn send(&self, vehicle_id: VehicleId, kind: Kind, down: &Down) -> Result<(), PortError> {
        let letter = Letter { vehicle: vehicle_id.to_string(), kind, bytes: STANDARD.encode(down.encode()) };
        let body = serde_json::to_string(&letter).expect("a letter is plain data");
        let sent = self.client.send_message().queue_url(&self.url).message_body(body).send().await;
        sent.map(drop).map_err(|error| port_error(SERVICE, &error))
    }

    /// Waits up to 20 s for messages, at most ten. What cannot be read is deleted.
    pub async fn take(&self) -> Result<Vec<Taken>, PortError> {
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT);
        let timeouts = timeouts.operation_attempt_timeout(LOOK_TIMEOUT).build();
        let answer = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(MESSAGES_MAX)
            .wait_time_seconds(WAIT_S)
            .customize()
            .config_override(Config::builder().timeout_config(timeouts))
            .send()
            .await
            .map_err(|error| port_error(SERVICE, &error))?;
        let (mut taken, mut unreadable) = (Vec::new(), Vec::new());
        for message in answer.messages.unwrap_or_default() {
            let receipt = message.receipt_handle.unwrap_or_default();
            match message.body.as_deref().and_then(read) {
                Some((vehicle_id, kind, down)) => taken.push(Taken { vehicle_id, kind, down, receipt }),
                None => unreadable.push(receipt),
            }
        }
        if !unreadable.is_empty() {
            tracing::error!(
                messages = unreadable.len(),
                "downlink: messages that cannot be read are left out"
            );
            self.delete(unreadable).await?;
        }
        Ok(taken)
    }

    /// Deletes messages that were published; one whose deletion fails is published again, which a vehicle does not mind.
    pub async fn settle(&self, published: Vec<Taken>) -> Result<(), PortError> {
        self.delete(published.into_iter().map(|taken| taken.receipt).collect()).await
    }

    async fn delete(&self, receipts: Vec<String>) -> Result<(), PortError> {
        if receipts.is_empty() {
            return Ok(());
        }
        let entry = |(index, receipt): (usize, String)| {
            DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt).build()
        };
        let entries = receipts.into_iter().enumerate().map(entry).collect::<Result<Vec<_>, _>>();
        let entries = entries.map_err(|error| refused(SERVICE, error.to_string()))?;
        let call = self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries));
        call.send().await.map(drop).map_err(|error| port_error(SERVICE, &error))
    }

    /// Waits for messages and publishes them through `to`; what cannot be published comes again.
    pub async fn forward(&self, to: &dyn Downlink) -> Result<(), PortError> {
        let mut published = Vec::new();
        for taken in self.take().await? {
            let sent = match taken.kind {
                Kind::Ack => to.ack(taken.vehicle_id, &taken.down).await,
                Kind::Request => to.request(taken.vehicle_id, &taken.down).await,
            };
            match sent {
                Ok(()) => published.push(taken),
                Err(error) => {
                    tracing::warn!(vehicle.id = %taken.vehicle_id, %error, "downlink: not published, it comes again");
                }
            }
        }
        self.settle(published).await
    }
}

fn read(body: &str) -> Option<(VehicleId, Kind, Down)> {
    let letter: Letter = serde_json::from_str(body).ok()?;
    let down = Down::decode(&STANDARD.decode(letter.bytes).ok()?).ok()?;
    Some((letter.vehicle.parse().ok()?, letter.kind, down))
}

#[async_trait]
impl Downlink for SqsDownlink {
    async fn ack(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError> {
        self.send(vehicle_id, Kind::Ack, down).await
    }

    async fn request(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError> {
        self.send(vehicle_id, Kind::Request, down).await
    }
}
