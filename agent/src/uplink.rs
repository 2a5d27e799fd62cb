//! The MQTT connection: `rumqttc` behind four events. What to send is decided in [`window`].
//!
//! MQTT 3.1.1, QoS 1, clean session: the spool remembers what must be sent again, so the session need not. Every
//! connection gets a client of its own, so that nothing of a broken one is left over.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use convoy_protocol::downlink::{DOWN_BYTES_MAX, Down};
use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use convoy_protocol::id::{Lane, VehicleId};
use convoy_protocol::topic;
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions, Outgoing, Publish, QoS,
    SubscribeReasonCode, TlsConfiguration, Transport,
};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::{debug, info, warn};

pub mod tls;
pub mod window;

use tls::{TlsError, TlsFiles};

/// Seconds of silence after which the connection is probed.
pub const KEEP_ALIVE_SECONDS: u64 = 10;
/// A connection on which nothing came for this long is dead, whatever TCP says: two and a half probes.
pub const SILENCE_MAX: Duration = Duration::from_secs(25);
/// Time after which an unacknowledged envelope is sent again.
pub const RESEND_AFTER: Duration = Duration::from_secs(10);
/// How fast what an outage left behind is sent where the configuration does not say, bytes a second.
pub const BACKFILL_BYTES_PER_S: u64 = 256 << 10;
/// First and longest wait before connecting again.
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// See [`BACKOFF_MIN`].
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Requests that wait for the connection at most: all in flight, sent again a few times.
const REQUESTS_MAX: usize = 4 * window::INFLIGHT_MAX;
/// Topic and fixed header of a packet, beside its payload.
const PACKET_OVERHEAD_BYTES: usize = 1_024;
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The broker, and how long to wait for an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Host name or address; IPv6 in brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `None` sends in plain text.
    pub tls: Option<TlsFiles>,
    /// See [`RESEND_AFTER`].
    pub resend_after: Duration,
    /// How fast what an outage left behind is sent, bytes a second.
    pub backfill_bytes_per_s: u64,
}

/// What the connection reports.
#[derive(Debug)]
pub enum UplinkEvent {
    /// It stands, and the vehicle's own topics are subscribed.
    Connected,
    /// It is gone; it is set up again by waiting for the next event.
    Disconnected,
    /// The cloud says something.
    Down(Down),
    /// There may be room for the next publish.
    Progress,
}

type Poll = Pin<Box<dyn Future<Output = (EventLoop, Result<Event, ConnectionError>)> + Send>>;

enum State {
    Waiting(Pin<Box<Sleep>>),
    Polling { client: AsyncClient, poll: Poll, silence: Pin<Box<Sleep>> },
}

/// The connection.
pub struct Uplink {
    options: MqttOptions,
    up_topics: [String; 2],
    backfill_topics: [String; 2],
    ack_topic: String,
    down_filter: String,
    state: State,
    backoff: Duration,
    is_connected: bool,
    failure_reported: bool,
    unreadable: u64,
}

impl Uplink {
    /// Prepares the connection; [`Uplink::event`] sets it up.
    pub fn new(config: &BrokerConfig, vehicle_id: VehicleId) -> Result<Self, TlsError> {
        let mut options = MqttOptions::new(vehicle_id.to_string(), &config.host, config.port);
        let max = ENVELOPE_BYTES_MAX + PACKET_OVERHEAD_BYTES;
        options
            .set_keep_alive(Duration::from_secs(KEEP_ALIVE_SECONDS))
            .set_clean_session(true)
            .set_inflight(u16::try_from(REQUESTS_MAX).unwrap_or(u16::MAX))
            .set_max_packet_size(DOWN_BYTES_MAX + PACKET_OVERHEAD_BYTES, max);
        if let Some(files) = &config.tls {
            let config = TlsConfiguration::Rustls(tls::client_config(files)?);
            options.set_transport(Transport::tls_with_config(config));
        }
        Ok(Self {
            options,
            up_topics: Lane::ALL.map(|lane| topic::up(vehicle_id, lane)),
            backfill_topics: Lane::ALL.map(|lane| topic::up_backfill(vehicle_id, lane)),
            ack_topic: topic::down_ack(vehicle_id),
            down_filter: topic::down_filter(vehicle_id),
            state: State::Waiting(Box::pin(sleep(Duration::ZERO))),
            backoff: BACKOFF_MIN,
            is_connected: false,
            failure_reported: false,
            unreadable: 0,
        })
    }

    /// Downlink messages that could not be read, or came on a topic they may not come on.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Waits for the next event, connecting if need be.
    ///
    /// Cancel safe: the connection and its state are kept between calls.
    pub async fn event(&mut self) -> UplinkEvent {
        loop {
            match &mut self.state {
                State::Waiting(pause) => {
                    pause.as_mut().await;
                    let (client, mut event_loop) = AsyncClient::new(self.options.clone(), REQUESTS_MAX);
                    // The first packets are small and would wait for each other's acknowledgements.
                    event_loop.network_options.set_tcp_nodelay(true);
                    let silence = Box::pin(sleep(SILENCE_MAX));
                    self.state = State::Polling { client, poll: poll(event_loop), silence };
                }
                State::Polling { poll: future, silence, .. } => {
                    let polled = tokio::select! {
                        polled = future.as_mut() => Some(polled),
                        () = silence.as_mut() => None,
                    };
                    let Some((event_loop, result)) = polled else {
                        if let Some(event) = self.handle_failure("nothing was heard of the broker") {
                            return event;
                        }
                        continue;
                    };
                    *future = poll(event_loop);
                    if matches!(result, Ok(Event::Incoming(_))) {
                        silence.as_mut().reset(Instant::now() + SILENCE_MAX);
                    }
                    let event = match result {
                        Ok(event) => self.handle(event),
                        Err(error) => self.handle_failure(&error.to_string()),
                    };
                    if let Some(event) = event {
                        return event;
                    }
                }
            }
        }
    }

    fn handle(&mut self, event: Event) -> Option<UplinkEvent> {
        match event {
            Event::Incoming(Incoming::ConnAck(_)) => {
                let State::Polling { client, .. } = &self.state else { return None };
                match client.try_subscribe(&self.down_filter, QoS::AtLeastOnce) {
                    Ok(()) => None,
                    Err(error) => self.handle_failure(&error.to_string()),
                }
            }
            Event::Incoming(Incoming::SubAck(suback)) => {
                if suback.return_codes.contains(&SubscribeReasonCode::Failure) {
                    let refused = format!("broker refuses the topic filter {}", self.down_filter);
                    return self.handle_failure(&refused);
                }
                self.backoff = BACKOFF_MIN;
                self.failure_reported = false;
                self.is_connected = true;
                info!(host = %self.options.broker_address().0, "connected to the broker");
                Some(UplinkEvent::Connected)
            }
            Event::Incoming(Incoming::Publish(publish)) => self.read(&publish).map(UplinkEvent::Down),
            Event::Incoming(Incoming::PubAck(_)) | Event::Outgoing(Outgoing::Publish(_)) => {
                Some(UplinkEvent::Progress)
            }
            _ => None,
        }
    }

    /// Drops the connection and waits before the next one, twice as long each time, at random from the upper half.
    fn handle_failure(&mut self, reason: &str) -> Option<UplinkEvent> {
        let half_ms = u64::try_from(self.backoff.as_millis() / 2).unwrap_or(u64::MAX).max(1);
        // Without random bytes all vehicles wait equally long: worse, but no reason to stop.
        let jitter_ms = getrandom::u64().map_or(half_ms, |random| random % half_ms);
        let pause = Duration::from_millis(half_ms + jitter_ms);
        self.state = State::Waiting(Box::pin(sleep(pause)));
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        if self.failure_reported {
            debug!("still no connection to the broker: {reason}");
        } else {
            self.failure_reported = true;
            let (host, port) = self.options.broker_address();
            warn!("no connection to the broker at {host}:{port}, trying again until there is one: {reason}");
        }
        std::mem::take(&mut self.is_connected).then_some(UplinkEvent::Disconnected)
    }

    fn read(&mut self, publish: &Publish) -> Option<Down> {
        match Down::decode(&publish.payload) {
            // Only on the acknowledgements' topic may something make the vehicle forget.
            Ok(Down::Stored(_) | Down::Quarantined(_)) if publish.topic != self.ack_topic => {
                self.count_unreadable("acknowledgement on another topic");
                None
            }
            Ok(down) => Some(down),
            Err(error) => {
                self.count_unreadable(&error.to_string());
                None
            }
        }
    }

    fn count_unreadable(&mut self, why: &str) {
        self.unreadable += 1;
        if self.unreadable == 1 {
            warn!("downlink message ignored, further ones are only counted: {why}");
        }
    }

    /// Hands an envelope to the connection; false where there is none or it has enough to do.
    pub fn publish(&self, lane: Lane, backfill: bool, bytes: Vec<u8>) -> bool {
        let State::Polling { client, .. } = &self.state else { return false };
        let topics = if backfill { &self.backfill_topics } else { &self.up_topics };
        let topic = topics[lane as usize].as_str();
        self.is_connected && client.try_publish(topic, QoS::AtLeastOnce, false, bytes).is_ok()
    }

    /// Says good-bye to the broker, for half a second at most.
    pub async fn close(mut self) {
        let State::Polling { client, poll: future, .. } = &mut self.state else { return };
        if !self.is_connected || client.try_disconnect().is_err() {
            return;
        }
        let goodbye = async {
            loop {
                let (event_loop, result) = future.as_mut().await;
                if matches!(result, Err(_) | Ok(Event::Outgoing(Outgoing::Disconnect))) {
                    return;
                }
                *future = poll(event_loop);
            }
        };
        // Late or never: the broker notices the closed socket.
        timeout(CLOSE_TIMEOUT, goodbye).await.unwrap_or(());
    }
}

/// One poll that owns its event loop, so that it can be kept and waited for again after a cancelled wait.
fn poll(mut event_loop: EventLoop) -> Poll {
    Box::pin(async move {
        let result = event_loop.poll().await;
        (event_loop, result)
    })
}
