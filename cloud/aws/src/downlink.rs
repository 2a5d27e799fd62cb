//! The way down to vehicles through SQS: functions send, the bridge publishes.
//!
//! Messages live for a minute: what a vehicle did not get by then is asked for or sent again.

use std::time::Duration;

use async_trait::async_trait;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use convoy_cloud_core::ports::{Downlink, PortError};
use convoy_protocol::downlink::Down;
use convoy_protocol::id::VehicleId;
use serde::{Deserialize, Serialize};

use crate::error::{port_error, refused};

/// Messages taken at once.
const MESSAGES_MAX: i32 = 10;
/// How long one look waits for a message, seconds; SQS's limit.
const WAIT_S: i32 = 20;
/// An answer comes after this time at the latest.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which of a vehicle's topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    Ack,
    State,
}

#[derive(Serialize, Deserialize)]
struct Letter {
    vehicle_id: String,
    way: Way,
    payload: String,
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

    async fn send(&self, vehicle_id: VehicleId, way: Way, down: &Down) -> Result<(), PortError> {
        let letter =
            Letter { vehicle_id: vehicle_id.to_string(), way, payload: STANDARD.encode(down.encode()) };
        let body = serde_json::to_string(&letter).expect("a letter is plain data");
        let sent = self.client.send_message().queue_url(&self.url).message_body(body).send().await;
        sent.map(drop).map_err(|error| port_error("SQS", &error))
    }

    /// Waits up to 20 s for messages and publishes them through `to`; what cannot be published is left to time out.
    pub async fn forward(&self, to: &dyn Downlink) -> Result<(), PortError> {
        let patience = TimeoutConfig::builder().operation_attempt_timeout(PATIENCE).build();
        let received = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(MESSAGES_MAX)
            .wait_time_seconds(WAIT_S)
            .customize()
            .config_override(aws_sdk_sqs::Config::builder().timeout_config(patience))
            .send()
            .await
            .map_err(|error| port_error("SQS", &error))?;
        let mut done = Vec::new();
        for (index, message) in received.messages.unwrap_or_default().into_iter().enumerate() {
            match message.body.as_deref().and_then(read) {
                Some((vehicle_id, way, down)) => {
                    let sent = match way {
                        Way::Ack => to.ack(vehicle_id, &down).await,
                        Way::State => to.request(vehicle_id, &down).await,
                    };
                    if let Err(error) = sent {
                        tracing::warn!(vehicle.id = %vehicle_id, %error, "downlink: not published, it comes again");
                        continue;
                    }
                }
                None => tracing::error!("downlink: a message that cannot be read is left out"),
            }
            let receipt = message.receipt_handle.unwrap_or_default();
            let entry =
                DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(receipt);
            done.push(entry.build().map_err(|error| refused("SQS", error.to_string()))?);
        }
        if done.is_empty() {
            return Ok(());
        }
        let deleted =
            self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(done)).send().await;
        deleted.map(drop).map_err(|error| port_error("SQS", &error))
    }
}

fn read(body: &str) -> Option<(VehicleId, Way, Down)> {
    let letter: Letter = serde_json::from_str(body).ok()?;
    let down = Down::decode(&STANDARD.decode(letter.payload).ok()?).ok()?;
    Some((letter.vehicle_id.parse().ok()?, letter.way, down))
}

#[async_trait]
impl Downlink for SqsDownlink {
    async fn ack(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError> {
        self.send(vehicle_id, Way::Ack, down).await
    }

    async fn request(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError> {
        self.send(vehicle_id, Way::State, down).await
    }
}
