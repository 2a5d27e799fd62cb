//! The embedded MQTT broker: rumqttd on a loopback port.
//!
//! It keeps messages in memory only and drops the oldest for a slow reader; both are harmless, because a vehicle keeps
//! an envelope until the bridge says that it is stored.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Context as _, Result, bail};
use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

use crate::mqtt_guard::Credentials;

/// Connections at once, at most. Twice what the listener lets in: rumqttd frees a place some time after the socket is
/// closed, and one that finds no place takes the whole broker down when its client comes back.
const CONNECTIONS_MAX: usize = 40_100;
/// One in-memory segment of a topic filter's messages, bytes.
const SEGMENT_BYTES: usize = 4 << 20;
/// Segments of a topic filter: the oldest goes when they are full.
const SEGMENTS: usize = 16;
/// Room for topic and MQTT framing around an envelope, bytes.
const PACKET_OVERHEAD_BYTES: usize = 1_024;

/// A started broker.
pub struct Started {
    /// For MQTT 3.1.1.
    pub v4: SocketAddr,
    /// For MQTT 5; only where the broker asks for credentials, for the listener that vehicles connect to.
    pub v5: Option<SocketAddr>,
}

/// Starts the broker; it runs until the process ends. `address` gets a port if it has port 0.
///
/// With `credentials` nobody is served without them: vehicles then come through
/// [`VehicleListener`](crate::vehicle_listener::VehicleListener), which has them.
pub async fn start(address: SocketAddr, credentials: Option<&Credentials>) -> Result<Started> {
    if !address.ip().is_loopback() {
        bail!(
            "the embedded broker listens on loopback only, not on {}: for vehicles on a network use --mqtts, or an MQTT \
             broker with TLS and --broker",
            address.ip()
        );
    }
    let v4 = free(address)?;
    let v5 = credentials.map(|_| free(SocketAddr::new(address.ip(), 0))).transpose()?;
    let server = |name: &str, address| (name.to_owned(), server(name, address, credentials));
    let config = Config {
        router: RouterConfig {
            max_connections: CONNECTIONS_MAX,
            max_outgoing_packet_count: 500,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([server("v4", v4)])),
        v5: v5.map(|address| HashMap::from([server("v5", address)])),
        ..Config::default()
    };
    std::thread::Builder::new().name("broker".into()).spawn(move || {
        if let Err(error) = Broker::new(config).start() {
            tracing::error!(%error, "the embedded broker stopped");
        }
    })?;
    for address in [Some(v4), v5].into_iter().flatten() {
        wait_until_open(address).await?;
    }
    Ok(Started { v4, v5 })
}

/// rumqttd reports a taken port only in its log, so the port is tried first.
fn free(address: SocketAddr) -> Result<SocketAddr> {
    TcpListener::bind(address).and_then(|probe| probe.local_addr()).with_context(|| taken(address))
}

fn server(name: &str, listen: SocketAddr, credentials: Option<&Credentials>) -> ServerSettings {
    ServerSettings {
        name: name.into(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: ENVELOPE_BYTES_MAX + PACKET_OVERHEAD_BYTES,
            max_inflight_count: 500,
            auth: credentials.map(|one| HashMap::from([(one.user.clone(), one.password.clone())])),
            external_auth: None,
            dynamic_filters: true,
        },
    }
}

/// The sentence for a port that somebody else has.
pub fn taken(address: SocketAddr) -> String {
    format!(
        "cannot listen on {address}: another program uses the port (see `ss -ltnp 'sport = :{}'`), or it needs more rights",
        address.port()
    )
}

async fn wait_until_open(address: SocketAddr) -> Result<()> {
    const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
    let open = async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, open)
        .await
        .with_context(|| format!("the embedded broker does not answer on {address}"))
}
