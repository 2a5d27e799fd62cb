//! A fleet, its authority, rumqttd behind the listener, and clients of both versions, all on loopback.
#![allow(dead_code, reason = "each suite uses its part")]

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use convoy::mqtt_guard::Credentials;
use convoy::pki::{Authority, Issued, Revoked};
use convoy::vehicle_listener::{BrokerBehind, Limits, ServerTls, TlsPem, VehicleListener};
use convoy_protocol::id::VehicleId;
use rumqttc::{TlsConfiguration, Transport, v5};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const A: VehicleId = VehicleId([0xaa; 16]);
pub(crate) const B: VehicleId = VehicleId([0xbb; 16]);
const LIFETIME: time::Duration = time::Duration::days(90);

/// Waits for a future, and fails with what was waited for.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Polls a counter until it is as expected.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) serial: [u8; 16],
}

pub(crate) struct Fleet {
    pub(crate) authority: Authority,
    pub(crate) server: (String, String),
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let authority = Authority::create("convoy test fleet", now(), LIFETIME * 10).unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let server = authority.issue_server(names, now(), LIFETIME).unwrap();
        Self { authority, server }
    }

    pub(crate) fn vehicle(&self, id: VehicleId) -> Identity {
        self.vehicle_until(id, LIFETIME)
    }

    pub(crate) fn vehicle_until(&self, id: VehicleId, lifetime: time::Duration) -> Identity {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let serial = key.public_key_raw()[1..17].try_into().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let Issued { pem, serial, .. } =
            self.authority.issue_vehicle(&csr, id, serial, now(), lifetime).unwrap();
        Identity { certificate: pem, key: key.serialize_pem(), serial }
    }

    /// A client certificate that names no vehicle.
    pub(crate) fn service(&self, name: &str) -> Identity {
        let authority = rcgen::KeyPair::from_pem(&self.authority.key_pem()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(self.authority.certificate_pem(), authority).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem(), serial: [0; 16] }
    }

    /// A list that should have been replaced an hour ago.
    pub(crate) fn late_revocation_list(&self) -> String {
        let (then, until) = (now() - time::Duration::hours(3), now() - time::Duration::hours(1));
        self.authority.revocation_list(&[], 1, then, until).unwrap()
    }

    pub(crate) fn revocation_list(&self, number: u64, revoked: &[&Identity]) -> String {
        let revoked: Vec<_> =
            revoked.iter().map(|identity| Revoked { serial: identity.serial, at: now() }).collect();
        self.authority.revocation_list(&revoked, number, now(), now() + LIFETIME).unwrap()
    }

    pub(crate) fn tls(&self, revoked: Option<&str>) -> ServerTls {
        ServerTls::new(TlsPem {
            certificate: &self.server.0,
            key: &self.server.1,
            vehicle_ca: self.authority.certificate_pem(),
            revoked,
        })
        .unwrap()
    }

    pub(crate) fn client_config(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        client_config(self.authority.certificate_pem(), identity)
    }
}

pub(crate) fn client_config(ca: &str, identity: Option<&Identity>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    })
}

pub(crate) fn now() -> OffsetDateTime {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    OffsetDateTime::from_unix_timestamp(seconds as i64).unwrap()
}

pub(crate) fn free_address() -> SocketAddr {
    StdListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap()
}

fn server(name: &str, listen: SocketAddr, auth: Option<&Credentials>) -> ServerSettings {
    ServerSettings {
        name: name.into(),
        listen,
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 10_000,
            max_payload_size: convoy::mqtt_guard::PACKET_BYTES_MAX,
            max_inflight_count: 500,
            auth: auth.map(|auth| HashMap::from([(auth.user.clone(), auth.password.clone())])),
            external_auth: None,
            dynamic_filters: true,
        },
    }
}

/// rumqttd with a port for each version.
pub(crate) async fn broker(auth: bool, max_connections: usize) -> BrokerBehind {
    let credentials = Credentials { user: "guard".into(), password: "random-in-the-product".into() };
    let (v4, v5) = (free_address(), free_address());
    let login = auth.then_some(&credentials);
    let config = Config {
        router: RouterConfig {
            max_connections,
            max_outgoing_packet_count: 500,
            max_segment_size: 4 << 20,
            max_segment_count: 16,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("v4".to_owned(), server("v4", v4, login))])),
        v5: Some(HashMap::from([("v5".to_owned(), server("v5", v5, login))])),
        ..Config::default()
    };
    std::thread::spawn(move || Broker::new(config).start().map_err(Box::new));
    for address in [v4, v5] {
        within("rumqttd listens", async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    BrokerBehind { v4, v5, credentials }
}

pub(crate) struct Lab {
    pub(crate) fleet: Fleet,
    pub(crate) broker: BrokerBehind,
    pub(crate) listener: VehicleListener,
}

impl Lab {
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        let fleet = Fleet::new();
        let broker = broker(true, 1_000).await;
        let tls = fleet.tls(Some(&fleet.revocation_list(1, &[])));
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = VehicleListener::start(address, tls, broker.clone(), limits).await.unwrap();
        Self { fleet, broker, listener }
    }

    pub(crate) fn v4(
        &self,
        id: VehicleId,
        identity: &Identity,
    ) -> (rumqttc::AsyncClient, rumqttc::EventLoop) {
        let config = self.fleet.client_config(Some(identity));
        v4_client(&id.to_string(), self.listener.address.port(), config)
    }

    pub(crate) fn v5(&self, id: VehicleId, identity: &Identity) -> (v5::AsyncClient, v5::EventLoop) {
        let config = self.fleet.client_config(Some(identity));
        v5_client(&id.to_string(), self.listener.address.port(), config)
    }

    /// The bridge: on rumqttd itself, with the listener's credentials.
    pub(crate) async fn bridge(
        &self,
    ) -> (rumqttc::AsyncClient, tokio::sync::mpsc::Receiver<rumqttc::Publish>) {
        let mut options = rumqttc::MqttOptions::new("bridge", "127.0.0.1", self.broker.v4.port());
        options.set_credentials(&self.broker.credentials.user, &self.broker.credentials.password);
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
        client.subscribe("convoy/v1/+/up/#", rumqttc::QoS::AtMostOnce).await.unwrap();
        let (sender, publishes) = tokio::sync::mpsc::channel(1_000);
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut ready = Some(ready);
            loop {
                let rumqttc::Event::Incoming(packet) = events.poll().await.unwrap() else { continue };
                if let rumqttc::Packet::SubAck(_) = packet {
                    ready.take().unwrap().send(()).unwrap();
                } else if let rumqttc::Packet::Publish(publish) = packet
                    && sender.send(publish).await.is_err()
                {
                    return;
                }
            }
        });
        within("the bridge is subscribed", is_ready).await.unwrap();
        (client, publishes)
    }
}

pub(crate) fn v4_client(
    id: &str,
    port: u16,
    config: Arc<ClientConfig>,
) -> (rumqttc::AsyncClient, rumqttc::EventLoop) {
    let mut options = rumqttc::MqttOptions::new(id, "localhost", port);
    options.set_keep_alive(Duration::from_secs(10)).set_max_packet_size(1 << 20, 1 << 20);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    rumqttc::AsyncClient::new(options, 100)
}

pub(crate) fn v5_client(id: &str, port: u16, config: Arc<ClientConfig>) -> (v5::AsyncClient, v5::EventLoop) {
    let mut options = v5::MqttOptions::new(id, "localhost", port);
    options.set_keep_alive(Duration::from_secs(10)).set_max_packet_size(Some(1 << 20));
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(config)));
    v5::AsyncClient::new(options, 100)
}
