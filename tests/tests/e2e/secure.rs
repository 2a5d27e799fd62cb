//! Vehicles on TLS: a key made on the vehicle, a certificate claimed with a token, the broker that lets nobody act as
//! another, and a revocation that takes effect at once.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{
    AgentConfig, BrokerMode, Client, Cloud, agent, agent_config, binary, free_address, repository, until,
};

const VEHICLE: &str = "00112233445566778899aabbccddeeff";
const OTHER: &str = "ffeeddccbbaa99887766554433221100";

/// Key, certificate and authority of a vehicle, claimed as its owner would.
async fn enrol(cloud: &Cloud, dir: &Path, vehicle: &str) -> Value {
    std::fs::create_dir_all(dir).unwrap();
    let enrolment = cloud.admin.post(&format!("/admin/v1/vehicles/{vehicle}/enrolments"), &json!({})).await;
    let token = enrolment["token"].as_str().unwrap();
    let key = dir.join("vehicle.key");
    let csr = Command::new(binary("convoy-agent"))
        .args(["csr", "--vehicle", vehicle, "--key"])
        .arg(&key)
        .output()
        .unwrap();
    assert!(csr.status.success(), "{}", String::from_utf8_lossy(&csr.stderr));
    let vehicle_side: Client = cloud.admin.with_key(token);
    let csr = String::from_utf8(csr.stdout).unwrap();
    let issued = vehicle_side.post_text("/provision/v1/certificates", csr.clone()).await;
    assert_eq!(issued["vehicle_id"], vehicle);
    // The token is used up.
    let again = vehicle_side.request("POST", "/provision/v1/certificates").body(csr).send().await.unwrap();
    assert_eq!(again.status(), 401);
    std::fs::write(dir.join("vehicle.pem"), issued["certificate"].as_str().unwrap()).unwrap();
    std::fs::write(dir.join("ca.pem"), issued["authority"].as_str().unwrap()).unwrap();
    issued
}

/// An agent's configuration with the certificate in its folder.
fn secure_config(cloud: &Cloud, dir: &Path, vehicle: &str, campaign_key: &str) -> PathBuf {
    let log = repository("tests/data/css-j1939-truck-gps/11111111_00000012_00000001_candump.log.gz");
    let mqtts = cloud.mqtts.unwrap();
    let config = AgentConfig {
        vehicle_id: vehicle,
        mqtt: mqtts,
        log: &log,
        dbcs: &[repository("tests/data/css-j1939-truck-gps/j1939_excerpt.dbc")],
        speed: "1.0",
        repeat: true,
        window_ms: 0,
        batch_samples: 1_000,
    };
    let path = agent_config(dir, &config);
    let plain = format!("url = \"mqtt://{mqtts}\"");
    let files = "ca_file = \"ca.pem\"\ncert_file = \"vehicle.pem\"\nkey_file = \"vehicle.key\"";
    let secure = format!("url = \"mqtts://localhost:{}\"\n{files}", mqtts.port());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(&plain));
    let text = text.replace(&plain, &secure) + &format!("[cloud]\ncampaign_key = \"{campaign_key}\"\n");
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolled_vehicle_sends_signed_campaigns_reach_it_and_a_revoked_one_is_out() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), BrokerMode::Tls, free_address()).await;
    let customer = cloud.customer("Northwind").await;
    cloud
        .import(&[("CNVYTRUCK00000001", &customer.id, VEHICLE), ("CNVYTRUCK00000002", &customer.id, OTHER)])
        .await;
    cloud.subscribe(&customer, json!({"package": "telematics", "latency_s": 1})).await;

    let home = dir.path().join("vehicle");
    let issued = enrol(&cloud, &home, VEHICLE).await;
    let config = secure_config(&cloud, &home, VEHICLE, issued["campaign_key"].as_str().unwrap());
    let mut running = agent(&config);
    until("samples are stored", || async { (cloud.metric("samples_stored").await > 0).then_some(()) }).await;
    let view = cloud.admin.get(&format!("/admin/v1/vehicles/{VEHICLE}/campaigns")).await;
    assert_eq!(view["reported"]["refused"], Value::Null, "the signature is good: {view}");

    // Another vehicle's certificate under this vehicle's name: the broker does not let it in.
    let thief = dir.path().join("thief");
    let stolen = enrol(&cloud, &thief, OTHER).await;
    let config = secure_config(&cloud, &thief, VEHICLE, stolen["campaign_key"].as_str().unwrap());
    let impostor = agent(&config);
    until("the impostor is refused", || async {
        impostor.output().contains("no connection to the broker").then_some(())
    })
    .await;
    assert!(!impostor.output().contains("connected to the broker host"), "{}", impostor.output());
    drop(impostor);

    // A key that signs nothing here: the campaigns are refused, and the cloud is told.
    let home = dir.path().join("other");
    enrol(&cloud, &home, OTHER).await;
    let config = secure_config(&cloud, &home, OTHER, &"0b".repeat(32));
    let mut suspicious = agent(&config);
    until("unsigned campaigns are refused", || async {
        let view = cloud.admin.get(&format!("/admin/v1/vehicles/{OTHER}/campaigns")).await;
        let refused = view["reported"]["refused"].as_str().unwrap_or_default().to_owned();
        refused.contains("not signed by the configured key").then_some(())
    })
    .await;
    suspicious.terminate();
    suspicious.ended().await;

    let revocation = cloud.admin.post(&format!("/admin/v1/vehicles/{VEHICLE}/revocations"), &json!({})).await;
    assert_eq!(revocation["revoked"], 1);
    until("the revoked vehicle is out", || async {
        running.output().contains("no connection to the broker").then_some(())
    })
    .await;
    cloud.settled().await;
    let stored = cloud.metric("records_appended").await;
    until("it has tried again", || async {
        (running.output().matches("still no connection").count() >= 2).then_some(())
    })
    .await;
    assert_eq!(cloud.metric("records_appended").await, stored);
    running.terminate();
    running.ended().await;

    // A new certificate brings it back, with all that it kept.
    let home = dir.path().join("vehicle");
    enrol(&cloud, &home, VEHICLE).await;
    let mut back = agent(&home.join("agent.toml"));
    until("it sends again", || async { (cloud.metric("records_appended").await > stored).then_some(()) })
        .await;
    back.terminate();
    back.ended().await;
}
