//! Bad input gets a clear sentence, and nothing is lost.

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use convoy_protocol::downlink::{Down, PayloadDigest};
use convoy_protocol::envelope::{ENVELOPE_BYTES_MAX, EnvelopeWriter, Header};
use convoy_protocol::id::{BootId, Lane, VehicleId};
use convoy_protocol::time::ClockQuality;
use convoy_protocol::topic;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};

use crate::golden::TRUCK;
use crate::harness::{
    AgentConfig, BrokerMode, Cloud, agent, agent_config, binary, free_address, mosquitto, repository,
    samples, until,
};

const VEHICLE: VehicleId = VehicleId([0xba; 16]);

fn envelope(vehicle_id: VehicleId) -> Vec<u8> {
    let header = Header {
        vehicle_id,
        boot_id: BootId { counter: 1, spool: 2 },
        lane: Lane::Bulk,
        sequence: 0,
        base_us: 1_700_000_000_000_000,
        monotonic_offset_us: 0,
        clock: ClockQuality::Rtc,
        manifest_id: None,
        campaign_id: None,
    };
    EnvelopeWriter::new(&header).finish().unwrap()
}

/// Publishes payloads as a vehicle and collects what is said back until each was answered.
async fn publish(cloud: &Cloud, payloads: &[Vec<u8>]) -> Vec<Down> {
    let mut options = MqttOptions::new("attacker", cloud.mqtt.ip().to_string(), cloud.mqtt.port());
    options.set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut events) = AsyncClient::new(options, 100);
    client.subscribe(topic::down_filter(VEHICLE), QoS::AtLeastOnce).await.unwrap();
    let mut answers = Vec::new();
    let talk = async {
        while answers.len() < payloads.len() {
            match events.poll().await.unwrap() {
                Event::Incoming(Packet::SubAck(_)) => {
                    for payload in payloads {
                        let topic = topic::up(VEHICLE, Lane::Bulk);
                        client.publish(topic, QoS::AtLeastOnce, false, payload.clone()).await.unwrap();
                    }
                }
                Event::Incoming(Packet::Publish(publish)) => {
                    answers.push(Down::decode(&publish.payload).unwrap());
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), talk).await.expect("every payload is answered");
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_acknowledged_and_kept_in_quarantine_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), BrokerMode::Embedded, free_address()).await;
    let mut newer = envelope(VEHICLE);
    newer[2] = 9;
    let mut damaged = envelope(VEHICLE);
    *damaged.last_mut().unwrap() ^= 1;
    let foreign = envelope(VehicleId([1; 16]));
    let expected = [
        (b"garbage".to_vec(), "not an envelope"),
        (newer, "envelope version 9 is not known here"),
        (damaged, "envelope checksum is"),
        (foreign, "identity mismatch"),
    ];
    let payloads: Vec<_> = expected.iter().map(|(payload, _)| payload.clone()).collect();
    let answers = publish(&cloud, &payloads).await;
    for payload in &payloads {
        assert!(answers.contains(&Down::Quarantined(PayloadDigest::of(payload))), "{answers:?}");
    }
    cloud.settled().await;
    let listed = cloud.admin.get("/admin/v1/set-aside/quarantine").await;
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), expected.len(), "{listed:?}");
    for (payload, reason) in &expected {
        let entry = listed.iter().find(|entry| entry["reason"].as_str().unwrap().contains(reason));
        let id = entry.unwrap_or_else(|| panic!("no {reason:?} in {listed:?}"))["id"].as_str().unwrap();
        let shown = cloud.admin.get(&format!("/admin/v1/set-aside/quarantine/{id}")).await;
        assert_eq!(STANDARD.decode(shown["payload"].as_str().unwrap()).unwrap(), *payload);
    }
    assert_eq!(cloud.metric("envelopes_stored").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_too_large_for_an_envelope_does_not_end_the_reading_of_others() {
    if !BrokerMode::all().contains(&BrokerMode::Mosquitto) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mqtt = free_address();
    let _broker = mosquitto(dir.path(), mqtt);
    let cloud = Cloud::start(dir.path(), BrokerMode::Mosquitto, mqtt).await;
    let large = vec![b'x'; ENVELOPE_BYTES_MAX + 40_000];
    let answers = publish(&cloud, &[large.clone(), b"small".to_vec()]).await;
    for kept in [&large[..ENVELOPE_BYTES_MAX], b"small"] {
        assert!(answers.contains(&Down::Quarantined(PayloadDigest::of(kept))), "{answers:?}");
    }
    assert_eq!(cloud.metric("publishes_oversize").await, 1);
    // At its start it may have been ahead of the broker.
    let output = cloud.process.output();
    let (_, since) = output.split_once("convoy: ready").unwrap();
    assert!(!since.contains("connection to the broker is down"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_without_a_right_get_a_problem_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), BrokerMode::Embedded, free_address()).await;
    let (owner, other) = (cloud.customer("Owner").await, cloud.customer("Other").await);
    cloud.import(&[("CNVYTRUCK00000001", &owner.id, &VEHICLE.to_string())]).await;
    let vehicles = owner.client.get("/v1/vehicles").await;
    let vehicle = format!("/v1/vehicles/{}", vehicles["data"][0]["vehicle_ref"].as_str().unwrap());
    assert_eq!(owner.client.status(&vehicle).await, Some(200));
    assert_eq!(other.client.status(&vehicle).await, Some(404));
    assert_eq!(owner.client.with_key("").status(&vehicle).await, Some(401));
    assert_eq!(owner.client.with_key("cvk_wrong_key").status(&vehicle).await, Some(401));
    assert_eq!(owner.client.status("/admin/v1/customers").await, Some(403));
    let revoked =
        cloud.admin.request("DELETE", &format!("/admin/v1/keys/{}", owner.key_id)).send().await.unwrap();
    assert_eq!(revoked.status().as_u16(), 204);
    assert_eq!(owner.client.status(&vehicle).await, Some(401));

    let bad = cloud.admin.request("POST", "/admin/v1/customers").body("{\"name\": }").send().await.unwrap();
    assert_eq!(bad.status().as_u16(), 400);
    assert_eq!(bad.headers()["content-type"], "application/problem+json");
    let wrong =
        cloud.admin.request("POST", "/admin/v1/customers").json(&json!({"name": 7})).send().await.unwrap();
    let problem: Value = wrong.json().await.unwrap();
    assert_eq!(problem["errors"][0]["pointer"], "/name", "{problem}");
    assert_eq!(problem["type"], "urn:convoy:problem:validation-failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_line_is_named_and_the_rest_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), BrokerMode::Embedded, free_address()).await;
    let owner = cloud.customer("Owner").await;
    cloud.import(&[("CNVYTRUCK00000001", &owner.id, &VEHICLE.to_string())]).await;
    let subscription = cloud.subscribe(&owner, json!({"package": "raw"})).await;
    let log = dir.path().join("drive.log");
    let lines = "(1635188455.029900) can1 0CF00400#607D84481400F084\n\
                 (1635188455.039900) can1 0CF00400#607D8448140\n\
                 (1635188455.049900) can1 0CF00400#607D84581400F084\n";
    std::fs::write(&log, lines).unwrap();
    let vehicle_id = VEHICLE.to_string();
    let config = AgentConfig {
        vehicle_id: &vehicle_id,
        mqtt: cloud.mqtt,
        log: &log,
        dbcs: &[repository(TRUCK.dbc)],
        speed: "1.0",
        repeat: false,
        window_ms: 1_000,
        batch_samples: 100,
    };
    let mut vehicle = agent(&agent_config(&dir.path().join("agent"), &config));
    assert!(vehicle.ended().await.success(), "{}", vehicle.output());
    let output = vehicle.output();
    assert!(output.lines().any(|line| line.contains("WARN") && line.contains("line 2")), "{output}");
    let feed = until("both good frames are delivered", || async {
        Some(owner.client.feed(&subscription).await).filter(|feed| !feed.is_empty())
    })
    .await;
    let delivered = samples(&feed);
    let speed: Vec<_> = delivered["EEC1.SPN190_EngineSpeed"].values.iter().map(|(_, value)| *value).collect();
    assert_eq!(speed, [Some(649.0), Some(651.0)]);
}

#[test]
fn check_reports_every_fault_at_once_with_exit_64() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("agent.toml");
    let text = "[vehicle]\nid = \"short\"\ncolour = \"red\"\n[broker]\nurl = \"http://x\"\n[spool]\ndir = \"spool\"\n\
                [source]\nkind = \"replay\"\nlog = \"missing.log\"\n[[dbc]]\nfile = \"missing.dbc\"\n";
    std::fs::write(&config, text).unwrap();
    let checked =
        Command::new(binary("convoy-agent")).args(["check", "--config"]).arg(&config).output().unwrap();
    assert_eq!(checked.status.code(), Some(64));
    let said = String::from_utf8(checked.stderr).unwrap() + &String::from_utf8(checked.stdout).unwrap();
    for fault in ["vehicle.id", "colour", "broker.url", "missing.log", "missing.dbc"] {
        assert!(said.contains(fault), "no word of {fault}:\n{said}");
    }
}

#[test]
fn decode_prints_one_sample_a_line() {
    let log = repository(TRUCK.log);
    let decoded = Command::new(binary("convoy-agent"))
        .args(["decode", "--dbc"])
        .arg(repository(TRUCK.dbc))
        .arg(&log)
        .output()
        .unwrap();
    assert!(decoded.status.success());
    let text = String::from_utf8(decoded.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("SPN190_EngineSpeed")).unwrap();
    let expected = r#"{"t_us":1635188455029900,"bus":"can1","id":"0x0CF00400","message":"EEC1","signal":"SPN190_EngineSpeed","value":649.0,"unit":"rpm"}"#;
    assert_eq!(line, expected);
    let valid: u64 = TRUCK.golden().values().map(|golden| golden["valid_count"].as_u64().unwrap()).sum();
    assert_eq!(text.lines().count() as u64, valid);
}
