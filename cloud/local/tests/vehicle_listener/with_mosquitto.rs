//! Mosquitto with the configuration of `cloud/local/deploy/mosquitto`: what a vehicle may do there.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rumqttc::{Packet, QoS, v5};
use tokio::sync::mpsc;

use super::lab::{A, B, Fleet, Identity, free_address, v4_client, v5_client, within};
use super::{v4_packet, v5_packet};

struct Mosquitto {
    process: Child,
    fleet: Fleet,
    vehicles: SocketAddr,
    bridge: SocketAddr,
    dir: tempfile::TempDir,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        if std::thread::panicking() {
            println!("--- mosquitto:\n{}", self.log());
        }
    }
}

fn shipped(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/mosquitto").join(file)).unwrap()
}

/// `None`, with a line that says so, where `cargo xtask test` found that Mosquitto is not to be had.
async fn mosquitto() -> Option<Mosquitto> {
    if std::env::var("CONVOY_SKIP_MOSQUITTO").is_ok_and(|skip| skip == "1") {
        eprintln!("skipped: Mosquitto is not installed");
        return None;
    }
    Some(Mosquitto::start().await)
}

impl Mosquitto {
    async fn start() -> Self {
        let fleet = Fleet::new();
        let dir = tempfile::tempdir().unwrap();
        let (vehicles, bridge) = (free_address(), free_address());
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write("vehicle-ca.pem", fleet.authority.certificate_pem());
        write("server.pem", &fleet.server.0);
        write("server.key", &fleet.server.1);
        write("revoked.pem", &fleet.revocation_list(1, &[]));
        write("acl", &shipped("acl"));
        let conf = shipped("mosquitto.conf")
            .replace("@DIR@", &dir.path().display().to_string())
            .replace("@USER@", "root")
            .replace("@ADDRESS@", "127.0.0.1")
            .replace("@VEHICLE_PORT@", &vehicles.port().to_string())
            .replace("@BRIDGE_PORT@", &bridge.port().to_string());
        write("mosquitto.conf", &(conf + "log_type all\n"));
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let process =
            Command::new(program.expect("install mosquitto, or run the tests with cargo xtask test"))
                .arg("-c")
                .arg(dir.path().join("mosquitto.conf"))
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
        let mosquitto = Self { process, fleet, vehicles, bridge, dir };
        for address in [vehicles, bridge] {
            within("mosquitto listens", async {
                while tokio::net::TcpStream::connect(address).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
        }
        mosquitto
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    async fn says(&self, what: &str) {
        within(what, async {
            while !self.log().contains(what) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Puts a new list of revoked certificates in place, as an operator does.
    async fn revoke(&self, list: &str) {
        fs::write(self.dir.path().join("revoked.pem"), list).unwrap();
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
        self.says("Reloading config").await;
    }

    fn v4(&self, id: &str, identity: &Identity) -> (rumqttc::AsyncClient, rumqttc::EventLoop) {
        v4_client(id, self.vehicles.port(), self.fleet.client_config(Some(identity)))
    }

    fn v5(&self, id: &str, identity: &Identity) -> (v5::AsyncClient, v5::EventLoop) {
        v5_client(id, self.vehicles.port(), self.fleet.client_config(Some(identity)))
    }

    /// The bridge's connection; the topics and payloads that it hears go into the channel.
    async fn bridge(&self) -> (rumqttc::AsyncClient, mpsc::UnboundedReceiver<(String, String)>) {
        let identity = self.fleet.service("convoy-bridge");
        let config = self.fleet.client_config(Some(&identity));
        let (client, mut events) = v4_client("convoy-up-1", self.bridge.port(), config);
        client.subscribe("convoy/v1/+/up/#", QoS::AtMostOnce).await.unwrap();
        v4_packet(&mut events, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
        let (sender, publishes) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                if let rumqttc::Event::Incoming(Packet::Publish(publish)) = event {
                    let text = String::from_utf8_lossy(&publish.payload).into_owned();
                    sender.send((publish.topic, text)).ok();
                }
            }
        });
        (client, publishes)
    }
}

/// What A must not hear, and what it may.
fn filters() -> [String; 6] {
    [
        format!("convoy/v1/{B}/down/+"),
        "#".to_owned(),
        "convoy/v1/+/down/ack".to_owned(),
        format!("$share/g/convoy/v1/{B}/down/+"),
        "$SYS/#".to_owned(),
        format!("convoy/v1/{A}/down/+"),
    ]
}

/// As another, against the stream, and at last as itself.
fn topics() -> [String; 5] {
    [
        format!("convoy/v1/{B}/up/fast"),
        format!("convoy/v1/{B}/up/bulk/backfill"),
        format!("convoy/v1/{A}/down/ack"),
        format!("convoy/v1/{A}/up/fast"),
        format!("convoy/v1/{A}/up/bulk/backfill"),
    ]
}

/// A alone reached the bridge, and only what was sent to A reaches it.
async fn only_a_is_heard(
    bridge: &rumqttc::AsyncClient,
    heard: &mut mpsc::UnboundedReceiver<(String, String)>,
) {
    for topic in [format!("convoy/v1/{A}/up/fast"), format!("convoy/v1/{A}/up/bulk/backfill")] {
        let first = within("the bridge hears A", heard.recv()).await.unwrap();
        assert_eq!(first.0, topic, "what A sent as B reached nobody");
    }
    for (vehicle, text) in [(B, "for B"), (A, "for A")] {
        bridge.publish(format!("convoy/v1/{vehicle}/down/ack"), QoS::AtLeastOnce, false, text).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vehicle_reaches_its_own_topics_alone_on_mqtt_3_1_1_with_mosquitto() {
    let Some(mosquitto) = mosquitto().await else { return };
    let (bridge, mut heard) = mosquitto.bridge().await;
    let (client, mut events) = mosquitto.v4(&A.to_string(), &mosquitto.fleet.vehicle(A));
    for filter in filters() {
        client.subscribe(&filter, QoS::AtLeastOnce).await.unwrap();
        v4_packet(&mut events, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
    }
    for topic in topics() {
        client.publish(&topic, QoS::AtLeastOnce, false, "by A").await.unwrap();
        v4_packet(&mut events, |packet| matches!(packet, Packet::PubAck(_)).then_some(())).await;
    }
    only_a_is_heard(&bridge, &mut heard).await;
    let payload = v4_packet(&mut events, |packet| match packet {
        Packet::Publish(publish) => Some(publish.payload),
        _ => None,
    });
    assert_eq!(payload.await, "for A", "granted or not, A hears nothing of B");
}

#[tokio::test(flavor = "multi_thread")]
async fn vehicle_reaches_its_own_topics_alone_on_mqtt_5_with_mosquitto() {
    use v5::mqttbytes::v5::{Packet, PubAckReason};
    let Some(mosquitto) = mosquitto().await else { return };
    let (bridge, mut heard) = mosquitto.bridge().await;
    let (client, mut events) = mosquitto.v5(&A.to_string(), &mosquitto.fleet.vehicle(A));
    for filter in filters() {
        client.subscribe(&filter, v5::mqttbytes::QoS::AtLeastOnce).await.unwrap();
        v5_packet(&mut events, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
    }
    for topic in topics() {
        client.publish(&topic, v5::mqttbytes::QoS::AtLeastOnce, false, "by A").await.unwrap();
        let reason = v5_packet(&mut events, |packet| match packet {
            Packet::PubAck(puback) => Some(puback.reason),
            _ => None,
        });
        let is_own = topic.starts_with(&format!("convoy/v1/{A}/up/"));
        assert_eq!(reason.await == PubAckReason::NotAuthorized, !is_own, "{topic}");
    }
    only_a_is_heard(&bridge, &mut heard).await;
    let payload = v5_packet(&mut events, |packet| match packet {
        Packet::Publish(publish) => Some(publish.payload),
        _ => None,
    });
    assert_eq!(payload.await, "for A", "granted or not, A hears nothing of B");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_ids_wills_and_certificates_of_others_do_not_help_with_mosquitto() {
    let Some(mosquitto) = mosquitto().await else { return };
    let (_bridge, mut heard) = mosquitto.bridge().await;
    let (a, b) = (mosquitto.fleet.vehicle(A), mosquitto.fleet.vehicle(B));
    let (b_client, mut b_events) = mosquitto.v4(&B.to_string(), &b);
    v4_packet(&mut b_events, |packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await;

    // A with B's client id, and a will on B's topic; then torn off without a good-bye.
    let port = mosquitto.vehicles.port();
    let mut options = rumqttc::MqttOptions::new(B.to_string(), "localhost", port);
    let will = format!("convoy/v1/{B}/up/fast");
    options.set_last_will(rumqttc::LastWill::new(will, "will of A", QoS::AtLeastOnce, false));
    let config = rumqttc::TlsConfiguration::Rustls(mosquitto.fleet.client_config(Some(&a)));
    options.set_transport(rumqttc::Transport::tls_with_config(config));
    let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
    v4_packet(&mut events, |packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await;
    drop((client, events));
    mosquitto.says(&format!("Client {A} closed its connection")).await;
    b_client.publish(format!("convoy/v1/{B}/up/fast"), QoS::AtLeastOnce, false, "by B").await.unwrap();
    v4_packet(&mut b_events, |packet| matches!(packet, Packet::PubAck(_)).then_some(())).await;
    assert_eq!(within("the bridge hears B", heard.recv()).await.unwrap().1, "by B");

    let stranger = Fleet::new().vehicle(A);
    for identity in [None, Some(&stranger)] {
        let (_client, mut events) = v4_client(&A.to_string(), port, mosquitto.fleet.client_config(identity));
        within("an error", events.poll()).await.unwrap_err();
        let (_client, mut events) = v5_client(&A.to_string(), port, mosquitto.fleet.client_config(identity));
        within("an error", events.poll()).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_certificate_is_refused_and_a_late_list_refuses_everyone_with_mosquitto() {
    let Some(mosquitto) = mosquitto().await else { return };
    let (a, b) = (mosquitto.fleet.vehicle(A), mosquitto.fleet.vehicle(B));
    mosquitto.revoke(&mosquitto.fleet.revocation_list(2, &[&a])).await;
    within("A is refused", async { while mosquitto.v4(&A.to_string(), &a).1.poll().await.is_ok() {} }).await;
    let (_client, mut events) = mosquitto.v4(&B.to_string(), &b);
    v4_packet(&mut events, |packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await;

    mosquitto.revoke(&mosquitto.fleet.late_revocation_list()).await;
    within("B is refused too", async { while mosquitto.v4(&B.to_string(), &b).1.poll().await.is_ok() {} })
        .await;
}
