//! Vehicles of both protocol versions, and attackers, at the listener in front of rumqttd.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may fail and may print"
)]

mod lab;
mod with_mosquitto;

use std::sync::Arc;
use std::time::{Duration, Instant};

use convoy::mqtt_guard::{PACKET_BYTES_MAX, Violation};
use convoy::vehicle_listener::{End, Limits};
use lab::{A, B, Fleet, Identity, Lab, client_config, until, v4_client, v5_client, within};
use rumqttc::{Event, Packet, QoS, SubscribeReasonCode, v5};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

async fn v4_packet<T>(events: &mut rumqttc::EventLoop, wanted: impl Fn(Packet) -> Option<T>) -> T {
    within("a packet of MQTT 3.1.1", async {
        loop {
            if let Event::Incoming(packet) = events.poll().await.unwrap()
                && let Some(found) = wanted(packet)
            {
                return found;
            }
        }
    })
    .await
}

async fn v5_packet<T>(
    events: &mut v5::EventLoop,
    wanted: impl Fn(v5::mqttbytes::v5::Packet) -> Option<T>,
) -> T {
    within("a packet of MQTT 5", async {
        loop {
            if let v5::Event::Incoming(packet) = events.poll().await.unwrap()
                && let Some(found) = wanted(packet)
            {
                return found;
            }
        }
    })
    .await
}

async fn v4_error(events: &mut rumqttc::EventLoop) -> String {
    within("an error of MQTT 3.1.1", async {
        loop {
            if let Err(error) = events.poll().await {
                return format!("{error} / {error:?}");
            }
        }
    })
    .await
}

async fn v5_error(events: &mut v5::EventLoop) -> String {
    within("an error of MQTT 5", async {
        loop {
            if let Err(error) = events.poll().await {
                return format!("{error} / {error:?}");
            }
        }
    })
    .await
}

async fn v4_connected(events: &mut rumqttc::EventLoop) {
    v4_packet(events, |packet| matches!(packet, Packet::ConnAck(_)).then_some(())).await;
}

async fn v5_connected(events: &mut v5::EventLoop) -> v5::mqttbytes::v5::ConnAck {
    v5_packet(events, |packet| match packet {
        v5::mqttbytes::v5::Packet::ConnAck(connack) => Some(connack),
        _ => None,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn vehicles_of_both_versions_send_and_are_answered() {
    let lab = Lab::start().await;
    let (bridge, mut publishes) = lab.bridge().await;
    let (a, b) = (lab.fleet.vehicle(A), lab.fleet.vehicle(B));
    let envelope = vec![7; 256 << 10];

    let (client, mut events) = lab.v4(A, &a);
    client.subscribe(format!("convoy/v1/{A}/down/+"), QoS::AtLeastOnce).await.unwrap();
    let code = v4_packet(&mut events, |packet| match packet {
        Packet::SubAck(suback) => Some(suback.return_codes),
        _ => None,
    });
    assert_eq!(code.await, [SubscribeReasonCode::Success(QoS::AtLeastOnce)]);
    client
        .publish(format!("convoy/v1/{A}/up/fast"), QoS::AtLeastOnce, false, envelope.clone())
        .await
        .unwrap();
    v4_packet(&mut events, |packet| matches!(packet, Packet::PubAck(_)).then_some(())).await;
    let seen = within("the bridge hears A", publishes.recv()).await.unwrap();
    assert_eq!((seen.topic, seen.payload.len()), (format!("convoy/v1/{A}/up/fast"), envelope.len()));
    bridge.publish(format!("convoy/v1/{A}/down/ack"), QoS::AtMostOnce, false, "stored").await.unwrap();
    let down = v4_packet(&mut events, |packet| match packet {
        Packet::Publish(publish) => Some(publish),
        _ => None,
    });
    assert_eq!(down.await.payload, "stored");

    let (client, mut events) = lab.v5(B, &b);
    let limits = v5_connected(&mut events).await.properties.unwrap();
    assert_eq!(limits.max_packet_size, Some(PACKET_BYTES_MAX as u32));
    assert_eq!((limits.max_qos, limits.retain_available, limits.topic_alias_max), (Some(1), Some(0), None));
    client.subscribe(format!("convoy/v1/{B}/down/+"), v5::mqttbytes::QoS::AtLeastOnce).await.unwrap();
    let topic = format!("convoy/v1/{B}/up/bulk");
    client.publish(&topic, v5::mqttbytes::QoS::AtLeastOnce, false, envelope.clone()).await.unwrap();
    let reason = v5_packet(&mut events, |packet| match packet {
        v5::mqttbytes::v5::Packet::PubAck(puback) => Some(puback.reason),
        _ => None,
    });
    assert_eq!(reason.await, v5::mqttbytes::v5::PubAckReason::Success);
    assert_eq!(within("the bridge hears B", publishes.recv()).await.unwrap().topic, topic);
    bridge.publish(format!("convoy/v1/{B}/down/state"), QoS::AtMostOnce, false, "wanted").await.unwrap();
    let down = v5_packet(&mut events, |packet| match packet {
        v5::mqttbytes::v5::Packet::Publish(publish) => Some(publish),
        _ => None,
    });
    let down = down.await;
    assert_eq!((down.payload, down.topic), ("wanted".into(), format!("convoy/v1/{B}/down/state").into()));
    assert_eq!((lab.listener.counters().admitted(), lab.listener.connections()), (2, 2));

    client.disconnect().await.unwrap();
    println!("v5 after disconnect: {}", v5_error(&mut events).await);
    until("the good-bye is counted", || lab.listener.counters().ended(End::Goodbye) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_as_another_ends_the_connection_and_reaches_nobody() {
    let lab = Lab::start().await;
    let (_bridge, mut publishes) = lab.bridge().await;
    let a = lab.fleet.vehicle(A);
    let topic = format!("convoy/v1/{B}/up/fast");

    let (client, mut events) = lab.v4(A, &a);
    v4_connected(&mut events).await;
    client.publish(&topic, QoS::AtLeastOnce, false, "forged").await.unwrap();
    println!("v4 publish as B: {}", v4_error(&mut events).await);
    drop((client, events));

    let (client, mut events) = lab.v5(A, &a);
    v5_connected(&mut events).await;
    client.publish(&topic, v5::mqttbytes::QoS::AtLeastOnce, false, "forged").await.unwrap();
    let error = v5_error(&mut events).await;
    println!("v5 publish as B: {error}");
    assert!(error.contains("NotAuthorized"), "{error}");
    until("both are counted", || lab.listener.counters().ended(End::Violation(Violation::Topic)) == 2).await;

    // What the bridge hears first is what A sends in its own name.
    let (client, mut events) = lab.v4(A, &a);
    client.publish(format!("convoy/v1/{A}/up/fast"), QoS::AtLeastOnce, false, "own").await.unwrap();
    v4_packet(&mut events, |packet| matches!(packet, Packet::PubAck(_)).then_some(())).await;
    assert_eq!(within("the bridge hears A", publishes.recv()).await.unwrap().payload, "own");
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_to_anything_else_fail_and_the_connection_lives() {
    let lab = Lab::start().await;
    let (bridge, _publishes) = lab.bridge().await;
    let a = lab.fleet.vehicle(A);
    let filters = [format!("convoy/v1/{B}/down/+"), "#".into(), "$share/g/convoy/v1/+/down/ack".into()];

    let (client, mut events) = lab.v4(A, &a);
    for filter in &filters {
        client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        let codes = v4_packet(&mut events, |packet| match packet {
            Packet::SubAck(suback) => Some(suback.return_codes),
            _ => None,
        });
        assert_eq!(codes.await, [SubscribeReasonCode::Failure], "{filter}");
    }
    client.subscribe(format!("convoy/v1/{A}/down/+"), QoS::AtLeastOnce).await.unwrap();
    v4_packet(&mut events, |packet| matches!(packet, Packet::SubAck(_)).then_some(())).await;
    bridge.publish(format!("convoy/v1/{B}/down/ack"), QoS::AtMostOnce, false, "for B").await.unwrap();
    bridge.publish(format!("convoy/v1/{A}/down/ack"), QoS::AtMostOnce, false, "for A").await.unwrap();
    let first = v4_packet(&mut events, |packet| match packet {
        Packet::Publish(publish) => Some(publish.payload),
        _ => None,
    });
    assert_eq!(first.await, "for A");
    drop((client, events));

    let (client, mut events) = lab.v5(A, &a);
    for filter in &filters {
        client.subscribe(filter, v5::mqttbytes::QoS::AtLeastOnce).await.unwrap();
        let codes = v5_packet(&mut events, |packet| match packet {
            v5::mqttbytes::v5::Packet::SubAck(suback) => Some(suback.return_codes),
            _ => None,
        });
        assert_eq!(codes.await, [v5::mqttbytes::v5::SubscribeReasonCode::NotAuthorized], "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_living_certificates_of_the_fleet_get_in() {
    let lab = Lab::start().await;
    let (a, b) = (lab.fleet.vehicle(A), lab.fleet.vehicle(B));
    lab.listener.replace_tls(lab.fleet.tls(Some(&lab.fleet.revocation_list(2, &[&b]))));
    let stranger = Fleet::new().vehicle(A);
    let expired = lab.fleet.vehicle_until(A, time::Duration::minutes(-5));
    let bridge = lab.fleet.service("convoy-bridge");
    let port = lab.listener.address.port();
    let cases: [(&str, Option<&Identity>); 5] = [
        ("no certificate", None),
        ("another authority", Some(&stranger)),
        ("revoked", Some(&b)),
        ("expired", Some(&expired)),
        ("no vehicle", Some(&bridge)),
    ];
    for (what, identity) in cases {
        let config = lab.fleet.client_config(identity);
        let (_client, mut events) = v4_client(&A.to_string(), port, Arc::clone(&config));
        println!("v4, {what}: {}", v4_error(&mut events).await);
        let (_client, mut events) = v5_client(&A.to_string(), port, config);
        println!("v5, {what}: {}", v5_error(&mut events).await);
    }
    let counters = lab.listener.counters();
    until("all are counted", || (counters.ended(End::Handshake), counters.ended(End::NoVehicle)) == (8, 2))
        .await;
    assert_eq!(counters.admitted(), 0);
    let (_client, mut events) = v4_client(&B.to_string(), port, lab.fleet.client_config(Some(&a)));
    println!("v4, client id of another: {}", v4_error(&mut events).await);
    let (_client, mut events) = v5_client(&B.to_string(), port, lab.fleet.client_config(Some(&a)));
    println!("v5, client id of another: {}", v5_error(&mut events).await);
    until("counted", || counters.ended(End::Violation(Violation::ClientId)) == 2).await;
    let (_client, mut events) = lab.v5(A, &a);
    v5_connected(&mut events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_ends_the_connection_that_stands_and_no_other() {
    let lab = Lab::start().await;
    let (a, b) = (lab.fleet.vehicle(A), lab.fleet.vehicle(B));
    let (_a_client, mut a_events) = lab.v5(A, &a);
    v5_connected(&mut a_events).await;
    let (b_client, mut b_events) = lab.v4(B, &b);
    v4_connected(&mut b_events).await;
    let started = Instant::now();
    lab.listener.replace_tls(lab.fleet.tls(Some(&lab.fleet.revocation_list(2, &[&a]))));
    let error = v5_error(&mut a_events).await;
    println!("revoked while connected, after {:?}: {error}", started.elapsed());
    assert!(error.contains("NotAuthorized"), "{error}");
    println!("connecting again: {}", v5_error(&mut a_events).await);
    b_client.publish(format!("convoy/v1/{B}/up/fast"), QoS::AtLeastOnce, false, "x").await.unwrap();
    v4_packet(&mut b_events, |packet| matches!(packet, Packet::PubAck(_)).then_some(())).await;
    assert_eq!(lab.listener.counters().ended(End::Unauthorized), 1);
    assert_eq!(lab.listener.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_vehicle_on_mqtt_3_1_1_sees_a_closed_connection() {
    let lab = Lab::start().await;
    let a = lab.fleet.vehicle(A);
    let (_client, mut events) = lab.v4(A, &a);
    v4_connected(&mut events).await;
    lab.listener.replace_tls(lab.fleet.tls(Some(&lab.fleet.revocation_list(2, &[&a]))));
    println!("v4 revoked while connected: {}", v4_error(&mut events).await);
    println!("v4 revoked, connecting again: {}", v4_error(&mut events).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_behind_takes_nobody_without_the_listeners_credentials() {
    let lab = Lab::start().await;
    let options = rumqttc::MqttOptions::new(A.to_string(), "127.0.0.1", lab.broker.v4.port());
    let (_client, mut events) = rumqttc::AsyncClient::new(options, 10);
    println!("rumqttd without credentials: {}", v4_error(&mut events).await);
    let mut options = v5::MqttOptions::new(A.to_string(), "127.0.0.1", lab.broker.v5.port());
    options.set_credentials("guard", "guess");
    let (_client, mut events) = v5::AsyncClient::new(options, 10);
    println!("rumqttd with wrong credentials: {}", v5_error(&mut events).await);
}

/// A TLS connection without an MQTT library on it.
async fn raw(lab: &Lab, identity: &Identity) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(lab.listener.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(lab.fleet.client_config(Some(identity))).connect(name, stream).await.unwrap()
}

fn connect_packet(keep_alive: u8) -> Vec<u8> {
    let id = A.to_string();
    let head = [&[0, 4][..], b"MQTT", &[4, 2, 0, keep_alive, 0, 32]].concat();
    [&[0x10, 44][..], &head, id.as_bytes()].concat()
}

async fn raw_connected(lab: &Lab, identity: &Identity, keep_alive: u8) -> TlsStream<TcpStream> {
    let mut stream = raw(lab, identity).await;
    stream.write_all(&connect_packet(keep_alive)).await.unwrap();
    let mut connack = [0; 4];
    within("CONNACK", stream.read_exact(&mut connack)).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream
}

fn quick() -> Limits {
    Limits {
        connections_max: 1,
        handshakes_max: 2,
        handshake_timeout: Duration::from_millis(700),
        packet_timeout: Duration::from_millis(500),
        write_timeout: Duration::from_millis(500),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_silent_connections_are_ended() {
    let lab = Lab::start_with(quick()).await;
    let counters = lab.listener.counters();
    let a = lab.fleet.vehicle(A);
    // No TLS at all, TLS without MQTT, and half a CONNECT.
    let _plain = TcpStream::connect(lab.listener.address).await.unwrap();
    until("counted", || counters.ended(End::HandshakeTimeout) == 1).await;
    let _mute = raw(&lab, &a).await;
    until("counted", || counters.ended(End::HandshakeTimeout) == 2).await;
    let mut half = raw(&lab, &a).await;
    half.write_all(&connect_packet(10)[..20]).await.unwrap();
    until("counted", || counters.ended(End::HandshakeTimeout) == 3).await;

    // A byte now and then, inside one packet.
    let mut slow = raw_connected(&lab, &a, 10).await;
    let started = Instant::now();
    for byte in [0x30, 0xff, 0x7f].into_iter().chain(std::iter::repeat(0)) {
        if counters.ended(End::SlowPacket) > 0 {
            break;
        }
        slow.write_all(&[byte]).await.ok();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(2));

    until("the place is free", || lab.listener.connections() == 0).await;
    let started = Instant::now();
    let mut silent = raw_connected(&lab, &a, 1).await;
    within("closed", silent.read_to_end(&mut Vec::new())).await.ok();
    assert_eq!(counters.ended(End::Silence), 1);
    assert!(started.elapsed() >= Duration::from_millis(1_400), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_in_a_row_are_not_taken_for_a_slow_one() {
    let lab = Lab::start_with(quick()).await;
    let a = lab.fleet.vehicle(A);
    let mut stream = raw_connected(&lab, &a, 10).await;
    // Always cut in the middle: the guard is inside a packet at every read, for longer than one packet may take.
    let topic = format!("convoy/v1/{A}/up/fast");
    let packet = [&[0x30, topic.len() as u8 + 2, 0, topic.len() as u8][..], topic.as_bytes()].concat();
    let (mut head, tail) = (packet[..10].to_vec(), &packet[10..]);
    stream.write_all(&head).await.unwrap();
    head.splice(0..0, tail.iter().copied());
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1_500) {
        stream.write_all(&head).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(lab.listener.connections(), 1);
    assert_eq!(lab.listener.counters().ended(End::SlowPacket), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_cap_are_told_and_closed() {
    let lab = Lab::start_with(quick()).await;
    let counters = lab.listener.counters();
    let (a, b) = (lab.fleet.vehicle(A), lab.fleet.vehicle(B));
    let _first = raw_connected(&lab, &a, 10).await;
    let (_client, mut events) = lab.v4(B, &b);
    println!("v4 beyond the cap: {}", v4_error(&mut events).await);
    let (_client, mut events) = lab.v5(B, &b);
    println!("v5 beyond the cap: {}", v5_error(&mut events).await);
    until("counted", || counters.ended(End::Capacity) == 2).await;
    let _waiting = [
        TcpStream::connect(lab.listener.address).await.unwrap(),
        TcpStream::connect(lab.listener.address).await.unwrap(),
    ];
    let mut third = TcpStream::connect(lab.listener.address).await.unwrap();
    within("closed at once", third.read_to_end(&mut Vec::new())).await.ok();
    until("counted", || counters.ended(End::Capacity) == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_connection_takes_over_and_torn_ones_leave_the_broker_alive() {
    let lab = Lab::start().await;
    let a = lab.fleet.vehicle(A);
    // Torn right behind CONNECT, before CONNACK can be written.
    for _ in 0..100 {
        let mut torn = raw(&lab, &a).await;
        torn.write_all(&connect_packet(10)).await.unwrap();
        drop(torn);
    }
    let first = raw_connected(&lab, &a, 10).await;
    let second = raw_connected(&lab, &a, 10).await;
    until("the first is ended", || lab.listener.connections() == 1).await;
    assert!(lab.listener.counters().ended(End::Broker) >= 1);
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_certificates_of_the_server_are_refused_by_the_vehicle() {
    let lab = Lab::start().await;
    let a = lab.fleet.vehicle(A);
    let other = Fleet::new();
    let config = client_config(other.authority.certificate_pem(), Some(&a));
    let (_client, mut events) = v4_client(&A.to_string(), lab.listener.address.port(), Arc::clone(&config));
    println!("v4, server of another authority: {}", v4_error(&mut events).await);
    let (_client, mut events) = v5_client(&A.to_string(), lab.listener.address.port(), config);
    println!("v5, server of another authority: {}", v5_error(&mut events).await);
    for (what, names, lifetime) in [
        ("expired", vec!["localhost".to_owned()], time::Duration::minutes(-5)),
        ("another name", vec!["broker.example".to_owned()], time::Duration::days(1)),
    ] {
        let server = lab.fleet.authority.issue_server(names, lab::now(), lifetime).unwrap();
        let fleet = Fleet {
            server,
            authority: convoy::pki::Authority::load(
                lab.fleet.authority.certificate_pem(),
                &lab.fleet.authority.key_pem(),
            )
            .unwrap(),
        };
        lab.listener.replace_tls(fleet.tls(None));
        let (_client, mut events) = lab.v4(A, &a);
        println!("v4, {what}: {}", v4_error(&mut events).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_list_of_revoked_certificates_locks_everyone_out() {
    let lab = Lab::start().await;
    let a = lab.fleet.vehicle(A);
    lab.listener.replace_tls(lab.fleet.tls(Some(&lab.fleet.late_revocation_list())));
    let (_client, mut events) = lab.v4(A, &a);
    println!("v4, list is late: {}", v4_error(&mut events).await);
    // With a list of another authority alone, nothing is known about ours.
    lab.listener.replace_tls(lab.fleet.tls(Some(&Fleet::new().revocation_list(1, &[]))));
    let (_client, mut events) = lab.v4(A, &a);
    println!("v4, list of another authority: {}", v4_error(&mut events).await);
}
