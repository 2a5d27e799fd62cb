//! Publishes envelopes as fast as the cloud's durable acknowledgements allow.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use convoy_protocol::downlink::Down;
use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use convoy_protocol::id::{EnvelopeKey, Lane, VehicleId};
use convoy_protocol::topic;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Every vehicle's acknowledgements.
const ACKS_FILTER: &str = "convoy/v1/+/down/ack";
const RESEND_AFTER: Duration = Duration::from_secs(5);
const RESEND_POLL: Duration = Duration::from_millis(500);
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// Room for topic and framing around an envelope, bytes.
const PACKET_OVERHEAD_BYTES: usize = 1_024;
/// QoS 1 publishes that the client lets wait for their PUBACK; below the embedded broker's own limit.
const INFLIGHT: u16 = 400;

/// An envelope to send.
pub(crate) struct Envelope {
    pub(crate) vehicle_id: VehicleId,
    pub(crate) key: EnvelopeKey,
    pub(crate) bytes: Vec<u8>,
}

struct Sent {
    at: Instant,
    connection: usize,
    envelope: Envelope,
}

type InFlight = Arc<Mutex<HashMap<(VehicleId, EnvelopeKey), Sent>>>;

fn lock(in_flight: &InFlight) -> std::sync::MutexGuard<'_, HashMap<(VehicleId, EnvelopeKey), Sent>> {
    in_flight.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections to the broker: several that publish, one that hears the acknowledgements of all vehicles.
pub(crate) struct Publisher {
    clients: Vec<AsyncClient>,
    in_flight: InFlight,
    window: Arc<Semaphore>,
    window_size: u32,
    tasks: JoinSet<Result<()>>,
}

impl Publisher {
    /// Connects. At most `window` envelopes are under way without acknowledgement.
    pub(crate) async fn connect(broker: SocketAddr, connections: usize, window: u32) -> Result<Self> {
        let in_flight = InFlight::default();
        let permits = Arc::new(Semaphore::new(window as usize));
        let mut tasks = JoinSet::new();
        let mut clients = Vec::new();
        for number in 0..connections {
            let (client, events) = AsyncClient::new(options(broker, &format!("measure-{number}")), 64);
            tasks.spawn(drive(events));
            clients.push(client);
        }
        let (client, events) = AsyncClient::new(options(broker, "measure-acks"), 64);
        client.subscribe(ACKS_FILTER, QoS::AtMostOnce).await?;
        let (subscribed, mut is_subscribed) = mpsc::channel(1);
        tasks.spawn(hear_acks(events, Arc::clone(&in_flight), Arc::clone(&permits), subscribed));
        tokio::time::timeout(CONNECTED_WITHIN, is_subscribed.recv())
            .await
            .context("the broker does not take the subscription")?
            .context("the connection to the broker broke")?;
        Ok(Self { clients, in_flight, window: permits, window_size: window, tasks })
    }

    /// Sends envelopes until all of them are acknowledged; what is not in time is sent again.
    pub(crate) async fn publish(&mut self, envelopes: impl Iterator<Item = Envelope>) -> Result<()> {
        let sending = async {
            for (number, envelope) in envelopes.enumerate() {
                self.window.acquire().await?.forget();
                self.send(number % self.clients.len(), envelope).await?;
            }
            // All permits back: nothing is under way.
            drop(self.window.acquire_many(self.window_size).await?);
            anyhow::Ok(())
        };
        tokio::select! {
            sent = sending => sent,
            failed = self.resend() => failed,
            Some(ended) = next(&self.tasks) => ended,
        }
    }
}
