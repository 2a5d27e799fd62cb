//! Publishes envelopes as fast as the cloud's durable acknowledgements allow.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use convoy_protocol::downlink::Down;
use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use convoy_protocol::id::{EnvelopeKey, VehicleId};
use convoy_protocol::topic;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

/// Every vehicle's acknowledgements.
const ACKS_FILTER: &str = "convoy/v1/+/down/ack";
/// An envelope that is not acknowledged by then is sent again, as an agent does.
const RESEND_AFTER: Duration = Duration::from_secs(5);
const RESEND_POLL: Duration = Duration::from_millis(500);
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// Room for topic and framing around an envelope, bytes.
const PACKET_OVERHEAD_BYTES: usize = 1_024;
/// Publishes that a connection lets wait for their PUBACK, which says nothing; below the embedded broker's limit.
const INFLIGHT: u16 = 400;
/// Publishes that wait for a connection.
const REQUESTS_MAX: usize = 64;

/// An envelope to send.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) vehicle_id: VehicleId,
    pub(crate) key: EnvelopeKey,
    pub(crate) bytes: Vec<u8>,
}

type Waiting = HashMap<(VehicleId, EnvelopeKey), (Instant, Outgoing)>;

/// Envelopes on their way.
struct Window {
    /// Those that are not acknowledged, with the time they were last sent.
    waiting: Mutex<Waiting>,
    permits: Semaphore,
}

impl Window {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle_ack(&self, vehicle_id: VehicleId, down: &Down) {
        let Down::Stored(ranges) = down else { return };
        let mut stored = 0;
        let mut waiting = self.waiting();
        for range in ranges {
            for sequence in range.first..=range.last {
                let key = EnvelopeKey { boot_id: range.boot_id, lane: range.lane, sequence };
                // An envelope that was sent twice is acknowledged twice.
                stored += usize::from(waiting.remove(&(vehicle_id, key)).is_some());
            }
        }
        self.permits.add_permits(stored);
    }

    fn overdue(&self) -> Vec<Outgoing> {
        let mut waiting = self.waiting();
        let overdue = waiting.values_mut().filter(|(at, _)| at.elapsed() >= RESEND_AFTER);
        overdue
            .map(|(at, outgoing)| {
                *at = Instant::now();
                outgoing.clone()
            })
            .collect()
    }
}

/// Connections to the broker: several that publish, one that hears the acknowledgements of all vehicles.
pub(crate) struct Publisher {
    clients: Vec<AsyncClient>,
    window: Arc<Window>,
    window_size: u32,
    /// They end only by failing.
    connections: JoinSet<anyhow::Error>,
}

impl Publisher {
    /// Connects. At most `window_size` envelopes are on their way without acknowledgement.
    pub(crate) async fn connect(broker: SocketAddr, connections: usize, window_size: u32) -> Result<Self> {
        let permits = Semaphore::new(window_size as usize);
        let window = Arc::new(Window { waiting: Mutex::default(), permits });
        let mut tasks = JoinSet::new();
        let mut clients = Vec::new();
        for number in 0..connections {
            let (client, events) = connection(broker, &format!("measure-{number}"));
            tasks.spawn(publish_only(events));
            clients.push(client);
        }
        let (client, events) = connection(broker, "measure-acks");
        client.subscribe(ACKS_FILTER, QoS::AtMostOnce).await?;
        let (subscribed, mut is_subscribed) = mpsc::channel(1);
        tasks.spawn(hear_acks(events, client, Arc::clone(&window), subscribed));
        tokio::time::timeout(CONNECTED_WITHIN, is_subscribed.recv())
            .await
            .context("the broker does not take the subscription")?
            .context("the connection to the broker broke")?;
        Ok(Self { clients, window, window_size, connections: tasks })
    }

    /// Sends the envelopes and returns when all of them are acknowledged.
    pub(crate) async fn publish(&mut self, envelopes: impl Iterator<Item = Outgoing>) -> Result<()> {
        let Self { clients, window, window_size, connections } = self;
        let sending = async {
            for outgoing in envelopes {
                window.permits.acquire().await?.forget();
                window
                    .waiting()
                    .insert((outgoing.vehicle_id, outgoing.key), (Instant::now(), outgoing.clone()));
                send(clients, outgoing).await?;
            }
            // With all permits back nothing is on its way.
            drop(window.permits.acquire_many(*window_size).await?);
            Ok(())
        };
        let resending = async {
            loop {
                tokio::time::sleep(RESEND_POLL).await;
                for outgoing in window.overdue() {
                    send(clients, outgoing).await?;
                }
            }
        };
        tokio::select! {
            sent = sending => sent,
            failed = resending => failed,
            Some(ended) = connections.join_next() => Err(ended?),
        }
    }
}

/// A vehicle keeps to one connection.
async fn send(clients: &[AsyncClient], outgoing: Outgoing) -> Result<()> {
    let client = &clients[usize::from(outgoing.vehicle_id.0[0]) % clients.len()];
    let topic = topic::up(outgoing.vehicle_id, outgoing.key.lane);
    client.publish(topic, QoS::AtLeastOnce, false, outgoing.bytes).await?;
    Ok(())
}

fn connection(broker: SocketAddr, client_id: &str) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(client_id, broker.ip().to_string(), broker.port());
    let packet_max = ENVELOPE_BYTES_MAX + PACKET_OVERHEAD_BYTES;
    options.set_max_packet_size(packet_max, packet_max);
    options.set_inflight(INFLIGHT);
    AsyncClient::new(options, REQUESTS_MAX)
}

async fn publish_only(mut events: EventLoop) -> anyhow::Error {
    loop {
        if let Err(error) = events.poll().await {
            return anyhow::Error::new(error).context("the connection to the broker broke");
        }
    }
}

async fn hear_acks(
    mut events: EventLoop,
    // The event loop ends when its last client does.
    _client: AsyncClient,
    window: Arc<Window>,
    subscribed: mpsc::Sender<()>,
) -> anyhow::Error {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let vehicle = publish.topic.strip_prefix(topic::ROOT).and_then(|rest| rest.split('/').nth(1));
                let vehicle = vehicle.and_then(|id| id.parse().ok());
                if let (Some(vehicle_id), Ok(down)) = (vehicle, Down::decode(&publish.payload)) {
                    window.handle_ack(vehicle_id, &down);
                }
            }
            // Nobody listens any more after the first one, and nobody needs to.
            Ok(Event::Incoming(Packet::SubAck(_))) => drop(subscribed.try_send(())),
            Ok(_) => {}
            Err(error) => return anyhow::Error::new(error).context("the connection to the broker broke"),
        }
    }
}
