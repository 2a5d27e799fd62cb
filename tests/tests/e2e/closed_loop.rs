//! What is subscribed to decides what is sent; what the vehicle says of it is visible, and every envelope accounted
//! for.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    AgentConfig, BrokerMode, Cloud, agent, agent_config, binary, free_address, repository, until,
};

const VEHICLE: &str = "00112233445566778899aabbccddeeff";

/// `convoy-agent status --json`, once the agent answers.
async fn first_status(config: &Path) -> Value {
    let ask = || {
        Command::new(binary("convoy-agent"))
            .args(["status", "--json", "--config"])
            .arg(config)
            .output()
            .unwrap()
    };
    until("the agent answers", || async { ask().status.success().then_some(()) }).await;
    status(config)
}

/// `convoy-agent status --json`.
fn status(config: &Path) -> Value {
    let output = Command::new(binary("convoy-agent"))
        .args(["status", "--json", "--config"])
        .arg(config)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn truck(cloud: &Cloud, dir: &Path) -> PathBuf {
    let log = repository("tests/data/css-j1939-truck-gps/11111111_00000012_00000001_candump.log.gz");
    let config = AgentConfig {
        vehicle_id: VEHICLE,
        mqtt: cloud.mqtt,
        log: &log,
        dbcs: &[repository("tests/data/css-j1939-truck-gps/j1939_excerpt.dbc")],
        speed: "1.0",
        repeat: true,
        window_ms: 0,
        batch_samples: 1_000,
    };
    agent_config(dir, &config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_starts_the_bytes_within_five_seconds_and_its_end_stops_them() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), BrokerMode::Embedded, free_address()).await;
    let customer = cloud.customer("Northwind").await;
    cloud.import(&[("CNVYTRUCK00000001", &customer.id, VEHICLE)]).await;
    let config = truck(&cloud, &dir.path().join("vehicle"));
    let mut running = agent(&config);
    first_status(&config).await;
    let campaigns = format!("/admin/v1/vehicles/{VEHICLE}/campaigns");
    until("the vehicle has reported", || async {
        (!cloud.admin.get(&campaigns).await["reported"].is_null()).then_some(())
    })
    .await;
    until("frames come", || async {
        (status(&config)["counters"]["frames"].as_u64() > Some(500)).then_some(())
    })
    .await;
    let before = status(&config);
    assert_eq!((&before["counters"]["samples"], &before["campaigns"]), (&json!(0), &json!([])), "{before}");
    assert_eq!(cloud.metric("samples_stored").await, 0);

    let asked = Instant::now();
    let request = json!({"package": "telematics", "latency_s": 1, "sampling_ms": 0});
    let subscription = cloud.subscribe(&customer, request).await;
    until("samples are stored", || async { (cloud.metric("samples_stored").await > 0).then_some(()) }).await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    until("the vehicle says that it runs them", || async {
        let view = cloud.admin.get(&campaigns).await;
        let reported = &view["reported"]["campaigns"][0];
        (view["in_sync"] == true && reported["status"] == "active").then(|| {
            assert_eq!(view["desired"]["version"], view["reported"]["version"]);
            assert_eq!(view["desired"]["campaigns"][0]["window_ms"], 1_000);
            assert_eq!(reported["name"], "telemetry within 1 s");
            assert!(reported["signals_seen"].as_u64() > Some(5), "{view}");
        })
    })
    .await;

    let path = format!("/admin/v1/subscriptions/{subscription}");
    let ended = cloud.admin.request("DELETE", &path).send().await.unwrap();
    assert_eq!(ended.status(), 202);
    until("the vehicle runs none", || async {
        let status = status(&config);
        (status["campaigns"] == json!([])).then_some(())
    })
    .await;
    until("what was collected before is stored", || async {
        (status(&config)["spool"]["unacked"] == json!([0, 0])).then_some(())
    })
    .await;
    cloud.settled().await;
    let (stopped, sent) = (status(&config), cloud.metric("samples_stored").await);
    let frames = |status: &Value| status["counters"]["frames"].as_u64().unwrap();
    until("frames still come", || async {
        (frames(&status(&config)) > frames(&stopped) + 1_000).then_some(())
    })
    .await;
    assert_eq!(status(&config)["counters"]["samples"], stopped["counters"]["samples"]);
    assert_eq!(cloud.metric("samples_stored").await, sent);

    running.terminate();
    running.ended().await;
    assert!(!customer.client.feed(&subscription).await.is_empty(), "the feed stays readable");
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_need_no_telemetry_and_cross_the_limit_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), BrokerMode::Embedded, free_address()).await;
    let customer = cloud.customer("Northwind").await;
    cloud.import(&[("CNVYTRUCK00000001", &customer.id, VEHICLE)]).await;
    let limit = json!([{"path": "Vehicle.Powertrain.CombustionEngine.Speed", "side": "above", "limit": 652.0, "hysteresis": 2.0}]);
    let subscription = cloud.subscribe(&customer, json!({"package": "alerts", "thresholds": limit})).await;
    let config = truck(&cloud, &dir.path().join("vehicle"));
    let mut running = agent(&config);
    first_status(&config).await;
    let alerts = || async {
        let events = customer.client.feed(&subscription).await;
        let crossed = |event: &Value| event["data"]["alert"]["kind"] == "threshold_crossed";
        events.into_iter().filter(crossed).collect::<Vec<_>>()
    };
    until("the limit is crossed", || async { (!alerts().await.is_empty()).then_some(()) }).await;
    running.terminate();
    running.ended().await;
    assert!(alerts().await[0]["data"]["alert"]["value"].as_f64() > Some(652.0));
    let view = cloud.admin.get(&format!("/admin/v1/vehicles/{VEHICLE}/campaigns")).await;
    let names: Vec<_> = view["desired"]["campaigns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|campaign| campaign["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "one for the limit, one for trouble codes: {names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ledger_adds_up_and_status_and_metrics_say_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), BrokerMode::Embedded, free_address()).await;
    let customer = cloud.customer("Northwind").await;
    cloud.import(&[("CNVYTRUCK00000001", &customer.id, VEHICLE)]).await;
    cloud.subscribe(&customer, json!({"package": "raw", "latency_s": 1})).await;
    let config = truck(&cloud, &dir.path().join("vehicle"));
    let metrics = free_address();
    let text = std::fs::read_to_string(&config).unwrap() + &format!("[metrics]\nlisten = \"{metrics}\"\n");
    std::fs::write(&config, text).unwrap();
    let mut running = agent(&config);
    first_status(&config).await;
    until("envelopes are stored", || async {
        (status(&config)["acks"]["stored"].as_u64() > Some(5)).then_some(())
    })
    .await;
    let scraped = reqwest::get(format!("http://{metrics}/metrics")).await.unwrap().text().await.unwrap();
    let metric = |name: &str| -> f64 {
        let line = scraped.lines().find_map(|line| line.strip_prefix(&format!("convoy_agent_{name} ")));
        line.unwrap_or_else(|| panic!("no metric {name} in\n{scraped}")).parse().unwrap()
    };
    assert!(
        metric("envelopes_stored_total") > 5.0
            && metric("connected") == 1.0
            && metric("gateway_frames_total") > 0.0
    );
    assert!(scraped.contains("convoy_agent_campaign_status{campaign=\"telemetry within 1 s\""), "{scraped}");
    let table =
        Command::new(binary("convoy-agent")).args(["status", "--config"]).arg(&config).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    for part in ["telemetry within 1 s", "active", "signals seen", "connected", "acks", "spool", "recording"]
    {
        assert!(table.contains(part), "{part} is missing in\n{table}");
    }
    running.terminate();
    running.ended().await;
    cloud.settled().await;
    let ledger = cloud.admin.get(&format!("/admin/v1/vehicles/{VEHICLE}/ledger")).await;
    let lanes = ledger.as_array().unwrap();
    assert_eq!(lanes.len(), 2, "{ledger}");
    for lane in lanes {
        assert_eq!(lane["accepted"], lane["last"].as_u64().unwrap() + 1, "{lane}");
        assert_eq!(
            (&lane["stored"], &lane["missing"], &lane["dropped"]),
            (&lane["accepted"], &json!([]), &json!([]))
        );
    }
    until("everything is archived", || async {
        let ledger = cloud.admin.get(&format!("/admin/v1/vehicles/{VEHICLE}/ledger")).await;
        ledger.as_array().unwrap().iter().all(|lane| lane["archived"] == lane["accepted"]).then_some(())
    })
    .await;
    let stopped =
        Command::new(binary("convoy-agent")).args(["status", "--config"]).arg(&config).output().unwrap();
    assert_eq!(stopped.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&stopped.stderr).contains("is it running?"));
}
