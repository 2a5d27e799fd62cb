//! The door for vehicles: TLS with a client certificate, one [`Guard`] a connection, the broker behind.
//!
//! The broker listens on loopback and asks for credentials that only this listener knows. Every connection of a
//! vehicle has one to the broker. What TLS is made of can be replaced while running ([`VehicleListener::replace_tls`]): new
//! connections use it at once, and those that stand are ended if their certificate would not be accepted any more.

mod counters;
mod relay;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use counters::{Counters, End};
pub use tls::{ServerTls, TlsError, TlsPem};

use crate::mqtt_guard::{self, BROKER_PACKET_BYTES_MAX, Credentials, Guard, Level, Splitter, Step};
use crate::pki;

/// Bytes read from a socket at once.
const READ_BYTES: usize = 16 << 10;
/// Time for the broker to accept a connection.
const BROKER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which fails again at once where the cause is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds that protect the machine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Vehicles connected at once. Must stay below the broker's own limit: rumqttd answers nobody beyond it.
    pub connections_max: usize,
    /// Connections at once that have not proved yet who they are.
    pub handshakes_max: usize,
    /// Time from the accepted socket to an accepted CONNECT.
    pub handshake_timeout: Duration,
    /// Time for one packet from its first byte to its last.
    pub packet_timeout: Duration,
    /// Time for a vehicle to take what is written to it.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            handshakes_max: 512,
            handshake_timeout: Duration::from_secs(10),
            packet_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// The broker behind: rumqttd has a port for each version of the protocol.
#[derive(Clone)]
pub struct BrokerBehind {
    /// For MQTT 3.1.1.
    pub v4: SocketAddr,
    /// For MQTT 5.
    pub v5: SocketAddr,
    /// What it asks for.
    pub credentials: Credentials,
}

/// A running listener. It stops when this is dropped; connections that stand end with it.
pub struct VehicleListener {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

struct Shared {
    tls: watch::Sender<Arc<ServerTls>>,
    broker: BrokerBehind,
    limits: Limits,
    counters: Counters,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

impl VehicleListener {
    /// Listens on `address`; with port 0 on a free one.
    pub async fn start(
        address: SocketAddr,
        tls: ServerTls,
        broker: BrokerBehind,
        limits: Limits,
    ) -> std::io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            tls: watch::Sender::new(Arc::new(tls)),
            broker,
            limits,
            counters: Counters::default(),
            connections: Arc::new(Semaphore::new(limits.connections_max)),
            handshakes: Arc::new(Semaphore::new(limits.handshakes_max)),
        });
        tokio::spawn(accept(socket, Arc::clone(&shared), stopped));
        Ok(Self { address, shared, stop })
    }

    /// Uses other certificates or lists of revoked ones from now on.
    pub fn replace_tls(&self, tls: ServerTls) {
        self.shared.tls.send_replace(Arc::new(tls));
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Vehicles connected now.
    pub fn connections(&self) -> usize {
        self.shared.limits.connections_max - self.shared.connections.available_permits()
    }
}

impl Drop for VehicleListener {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn accept(socket: TcpListener, shared: Arc<Shared>, stopped: watch::Receiver<bool>) {
    let mut stop = stopped.clone();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "cannot accept connections: see the limit of open files");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(handshake) = Arc::clone(&shared.handshakes).try_acquire_owned() else {
            shared.counters.count(End::Capacity);
            continue;
        };
        let (shared, mut stop) = (Arc::clone(&shared), stopped.clone());
        tokio::spawn(async move {
            let connection = connection(&shared, stream, handshake);
            let end = tokio::select! {
                end = connection => end,
                _ = stop.wait_for(|stop| *stop) => End::Stopped,
            };
            shared.counters.count(end);
            tracing::debug!(%end, "vehicle connection ended");
        });
    }
}

/// A vehicle that may talk to the broker.
struct Admitted {
    vehicle: TlsStream<TcpStream>,
    certificates: Vec<CertificateDer<'static>>,
    guard: Guard,
    level: Level,
    silence_max: Duration,
    broker: TcpStream,
    _connection: OwnedSemaphorePermit,
}

async fn connection(shared: &Shared, stream: TcpStream, handshake: OwnedSemaphorePermit) -> End {
    let mut tls = shared.tls.subscribe();
    let current = Arc::clone(&tls.borrow_and_update());
    let admitted = match timeout(shared.limits.handshake_timeout, admit(shared, stream, &current)).await {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(end)) => return end,
        Err(_) => return End::HandshakeTimeout,
    };
    drop(handshake);
    shared.counters.count_admitted();
    relay::run(admitted, shared.limits, tls).await
}

/// From the accepted socket to the accepted CONNECT.
async fn admit(shared: &Shared, stream: TcpStream, tls: &ServerTls) -> Result<Admitted, End> {
    // Acknowledgements are small and must not wait for more.
    stream.set_nodelay(true).map_err(|_| End::Socket)?;
    let accepted = TlsAcceptor::from(Arc::clone(&tls.config)).accept(stream).await;
    let mut vehicle = accepted.map_err(|error| {
        tracing::debug!(%error, "TLS handshake failed");
        End::Handshake
    })?;
    let certificates: Vec<_> = vehicle.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let vehicle_id = certificates.first().and_then(|der| pki::vehicle_id(der).ok()).ok_or(End::NoVehicle)?;
    let mut guard = Guard::new(vehicle_id);
    let (level, silence_max) = first_packet(&mut vehicle, &mut guard).await?;
    let Ok(connection) = Arc::clone(&shared.connections).try_acquire_owned() else {
        say(&mut vehicle, &mqtt_guard::unavailable_connack(level)).await;
        return Err(End::Capacity);
    };
    let connect = guard.broker_connect(level, &shared.broker.credentials);
    let address = if level == Level::V4 { shared.broker.v4 } else { shared.broker.v5 };
    // A task of its own, so that it goes on if the vehicle gives up: rumqttd 0.20 must be heard out until its CONNACK,
    // because a connection that breaks before leaves a trap behind which the vehicle's next one kills the broker's
    // accepting task for all vehicles.
    let opened = tokio::spawn(timeout(BROKER_TIMEOUT, open_broker(address, connect))).await;
    let Ok(Ok(Some(broker))) = opened else {
        say(&mut vehicle, &mqtt_guard::unavailable_connack(level)).await;
        return Err(End::BrokerUnavailable);
    };
    vehicle.write_all(&mqtt_guard::accepted_connack(level)).await.map_err(|_| End::Socket)?;
    vehicle.flush().await.map_err(|_| End::Socket)?;
    Ok(Admitted { vehicle, certificates, guard, level, silence_max, broker, _connection: connection })
}

async fn first_packet(
    vehicle: &mut TlsStream<TcpStream>,
    guard: &mut Guard,
) -> Result<(Level, Duration), End> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match guard.poll_step() {
            Ok(Some(Step::Connect { level, silence_max })) => return Ok((level, silence_max)),
            // The guard lets nothing pass before CONNECT.
            Ok(Some(_)) => return Err(End::Socket),
            Ok(None) => {}
            Err(refusal) => {
                say(vehicle, &refusal.last_words).await;
                return Err(End::Violation(refusal.violation));
            }
        }
        match vehicle.read(&mut buffer).await {
            // Here TLS 1.3 tells of a refused client certificate on the client's side, never on ours.
            Ok(0) | Err(_) => return Err(End::Socket),
            Ok(length) => guard.handle_bytes(&buffer[..length]),
        }
    }
}

/// Last words: whether they arrive does not matter.
async fn say(vehicle: &mut TlsStream<TcpStream>, words: &[u8]) {
    if vehicle.write_all(words).await.is_ok() {
        vehicle.shutdown().await.ok();
    }
}

/// `None` where the broker refuses.
async fn open_broker(address: SocketAddr, connect: Vec<u8>) -> Option<TcpStream> {
    let mut broker = TcpStream::connect(address).await.ok()?;
    broker.set_nodelay(true).ok()?;
    broker.write_all(&connect).await.ok()?;
    let mut splitter = Splitter::new(BROKER_PACKET_BYTES_MAX);
    loop {
        // One byte at a time, so that nothing behind CONNACK is read: it belongs to the relay.
        splitter.handle_bytes(&[broker.read_u8().await.ok()?]);
        if let Some(connack) = splitter.poll_frame().ok()? {
            return (mqtt_guard::is_accepted(&connack) == Some(true)).then_some(broker);
        }
    }
}

impl ServerTls {
    /// Would this certificate be accepted now?
    fn accepts(&self, certificates: &[CertificateDer<'_>]) -> bool {
        let Some((vehicle, intermediates)) = certificates.split_first() else { return false };
        self.verifier.verify_client_cert(vehicle, intermediates, UnixTime::now()).is_ok()
    }
}
