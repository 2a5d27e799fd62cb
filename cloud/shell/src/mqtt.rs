//! The bridge: MQTT publishes of the vehicles into the stream, acknowledgements back when they are durable.
//!
//! Two connections to the broker, so that a reader that waits for the disk never holds up what is written. Reading is
//! at QoS 0: a publish that gets lost here was not acknowledged, and the vehicle sends it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::bridge;
use convoy_cloud_core::counters::{Counters, add};
use convoy_cloud_core::ports::{Downlink, PortError, Stream};
use convoy_cloud_core::record::Record;
use convoy_cloud_core::snapshot::SnapshotCell;
use convoy_protocol::downlink::{DOWN_BYTES_MAX, Down};
use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use convoy_protocol::id::VehicleId;
use convoy_protocol::topic;
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS, SubscribeReasonCode, TlsConfiguration,
    Transport,
};
use tokio::sync::{mpsc, watch};

use crate::broker_url::BrokerUrl;

/// Publishes that wait for the stream, at most; beyond it the connection is not read.
const WAITING_MAX: usize = 4_096;
/// Records in one append, at most.
const APPEND_RECORDS_MAX: usize = 1_024;
/// Payload bytes in one append, at most; far less than a stream segment.
const APPEND_BYTES_MAX: usize = 16 << 20;
/// MQTT packets waiting to be written, at most.
const REQUESTS_MAX: usize = 4_096;
/// What a vehicle is told to wait when the stream takes nothing.
const RETRY_AFTER_MS: u32 = 2_000;
/// Largest packet that MQTT 3.1.1 has, bytes.
const MQTT_PACKET_BYTES_MAX: usize = 268_435_455;
const RECONNECT_MIN: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The bridge's ports.
pub struct Bridge {
    /// Where records go.
    pub stream: Arc<dyn Stream>,
    /// Where acknowledgements go.
    pub downlink: Arc<MqttDownlink>,
    /// For partition keys.
    pub snapshot: Arc<SnapshotCell>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// The clock.
    pub ambient: Ambient,
    /// How vehicles are shared with other bridges.
    pub sharing: Sharing,
}

/// How the vehicles' publishes come to bridges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sharing {
    /// All to this one.
    Alone,
    /// Each to one of the bridges that name the same group: `$share/GROUP/...` (MQTT 5, and 3.1.1 with brokers that
    /// know it). One vehicle's may come to several bridges, so their order in the stream is not promised.
    Group(String),
}

impl Sharing {
    fn filter(&self) -> String {
        match self {
            Self::Alone => topic::UPLINK_FILTER.to_owned(),
            Self::Group(group) => format!("$share/{group}/{}", topic::UPLINK_FILTER),
        }
    }
}

/// Publishes to vehicles.
pub struct MqttDownlink {
    client: AsyncClient,
    connected: Arc<AtomicBool>,
    /// The state of the bridge's reading connection, kept here because both are asked for together.
    subscribed: Arc<AtomicBool>,
}

impl MqttDownlink {
    /// Can vehicles be heard and answered now?
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed) && self.subscribed.load(Ordering::Relaxed)
    }

    fn send(&self, topic: String, down: &Down) -> Result<(), PortError> {
        // Never waits: a lost acknowledgement costs one repeated envelope, a wait would hold up the bridge.
        self.client
            .try_publish(topic, QoS::AtMostOnce, false, down.encode())
            .map_err(|error| PortError::Unavailable { service: "broker", reason: error.to_string() })
    }
}

#[async_trait]
impl Downlink for MqttDownlink {
    async fn ack(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError> {
        self.send(topic::down_ack(vehicle_id), down)
    }

    async fn request(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError> {
        self.send(topic::down_state(vehicle_id), down)
    }
}

fn options(url: &BrokerUrl, client_id: String) -> Result<MqttOptions> {
    let mut options = MqttOptions::new(client_id, url.host.clone(), url.port);
    options.set_keep_alive(KEEP_ALIVE);
    // A larger packet would end the connection, and with it the reading of all vehicles: MQTT 3.1.1 cannot tell the
    // broker a limit. So everything that MQTT allows is read, and what is no envelope by its size is cut.
    options.set_max_packet_size(MQTT_PACKET_BYTES_MAX, DOWN_BYTES_MAX + 1_024);
    if let Some(login) = &url.login {
        options.set_credentials(&login.user, &login.password);
    }
    if let Some(tls) = &url.tls {
        let read =
            |path: &std::path::Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
        let client_auth = match &tls.client {
            Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
            None => None,
        };
        options.set_transport(Transport::Tls(TlsConfiguration::Simple {
            ca: read(&tls.ca_file)?,
            alpn: None,
            client_auth,
        }));
    }
    Ok(options)
}

/// Starts the writing connection.
pub fn start_downlink(
    url: &BrokerUrl,
    ambient: &Ambient,
    shutdown: watch::Receiver<bool>,
) -> Result<Arc<MqttDownlink>> {
    let id = format!("convoy-down-{:016x}", u64::from_le_bytes(ambient.random()));
    let (client, events) = AsyncClient::new(options(url, id)?, REQUESTS_MAX);
    let connected = Arc::new(AtomicBool::new(false));
    tokio::spawn(drive(events, Arc::clone(&connected), shutdown, None));
    Ok(Arc::new(MqttDownlink { client, connected, subscribed: Arc::default() }))
}

/// Where the reading connection hands on what it reads.
struct Uplink {
    client: AsyncClient,
    filter: String,
    publishes: mpsc::Sender<Publish>,
}

/// Runs a connection until shutdown, connecting again whenever it breaks.
async fn drive(
    mut events: EventLoop,
    connected: Arc<AtomicBool>,
    mut shutdown: watch::Receiver<bool>,
    uplink: Option<Uplink>,
) {
    let mut wait = RECONNECT_MIN;
    let filter = uplink.as_ref().map_or("", |uplink| &uplink.filter);
    loop {
        let event = tokio::select! {
            event = events.poll() => event,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        match event {
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                wait = RECONNECT_MIN;
                connected.store(uplink.is_none(), Ordering::Relaxed);
                if let Some(uplink) = &uplink
                    && uplink.client.try_subscribe(&uplink.filter, QoS::AtMostOnce).is_err()
                {
                    tracing::error!("bridge: no room for the subscription, connecting again");
                    events.clean();
                }
            }
            Ok(Event::Incoming(Packet::SubAck(ack))) => {
                let is_granted = !ack.return_codes.contains(&SubscribeReasonCode::Failure);
                connected.store(is_granted, Ordering::Relaxed);
                if !is_granted {
                    tracing::error!("bridge: the broker refuses {filter}: check its access list");
                }
            }
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                if let Some(uplink) = &uplink
                    && uplink.publishes.send(publish).await.is_err()
                {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => {
                if connected.swap(false, Ordering::Relaxed) || wait == RECONNECT_MIN {
                    tracing::warn!(%error, "bridge: connection to the broker is down, trying again");
                }
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = shutdown.wait_for(|stop| *stop) => return,
                }
                wait = (wait * 2).min(RECONNECT_MAX);
            }
        }
    }
}

impl Bridge {
    /// Reads the broker until shutdown. What was read by then is appended and acknowledged before it returns.
    pub async fn run(self, url: &BrokerUrl, shutdown: watch::Receiver<bool>) -> Result<()> {
        let id = format!("convoy-up-{:016x}", u64::from_le_bytes(self.ambient.random()));
        let (client, events) = AsyncClient::new(options(url, id)?, REQUESTS_MAX);
        let (publishes, mut waiting) = mpsc::channel(WAITING_MAX);
        let uplink = Uplink { client, filter: self.sharing.filter(), publishes };
        let reader =
            tokio::spawn(drive(events, Arc::clone(&self.downlink.subscribed), shutdown, Some(uplink)));
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, APPEND_RECORDS_MAX).await > 0 {
            add(&self.counters.publishes, batch.len() as u64);
            let mut records: Vec<Record> = Vec::with_capacity(batch.len());
            let mut bytes = 0;
            for publish in batch.drain(..) {
                let Some(record) = self.record(&publish) else { continue };
                bytes += record.payload.len();
                records.push(record);
                if bytes >= APPEND_BYTES_MAX {
                    self.append(&std::mem::take(&mut records)).await?;
                    bytes = 0;
                }
            }
            self.append(&records).await?;
        }
        reader.await?;
        Ok(())
    }

    fn record(&self, publish: &Publish) -> Option<Record> {
        let snapshot = self.snapshot.current();
        if publish.payload.len() > ENVELOPE_BYTES_MAX {
            add(&self.counters.publishes_oversize, 1);
        }
        // What is cut ends in quarantine: its checksum cannot fit any more.
        let payload = publish.payload[..publish.payload.len().min(ENVELOPE_BYTES_MAX)].to_vec();
        let record = bridge::record(&snapshot, &publish.topic, payload, self.ambient.now_us());
        if record.is_none() {
            add(&self.counters.publishes_foreign, 1);
        }
        record
    }

    /// An error means that the stream takes nothing until it is opened again.
    async fn append(&self, records: &[Record]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let downs = match self.stream.append(records).await {
            Ok(()) => {
                add(&self.counters.records_appended, records.len() as u64);
                bridge::acks(records)
            }
            Err(error) if !error.is_transient() => return Err(error).context("start convoy again"),
            Err(error) => {
                tracing::error!(%error, records = records.len(), "bridge: records not taken, vehicles are told to wait");
                let mut vehicles: Vec<_> = records.iter().map(|record| record.vehicle_id).collect();
                vehicles.sort_unstable();
                vehicles.dedup();
                let busy = Down::Busy { retry_after_ms: RETRY_AFTER_MS };
                vehicles.into_iter().map(|vehicle_id| (vehicle_id, busy.clone())).collect()
            }
        };
        for (vehicle_id, down) in downs {
            match self.downlink.ack(vehicle_id, &down).await {
                Ok(()) => add(&self.counters.acks_sent, 1),
                Err(error) => {
                    tracing::debug!(vehicle.id = %vehicle_id, %error, "bridge: acknowledgement not sent")
                }
            }
        }
        Ok(())
    }
}
