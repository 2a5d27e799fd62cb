//! The demo as a person starts it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a failed step is a failed test, and says so")]

#[path = "../harness/harness.rs"]
mod harness;

use std::net::TcpListener;
use std::process::Command;
use std::time::Instant;

use harness::{Client, Process, binary, free_address};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn demo_delivers_within_five_seconds_and_ends_by_itself_with_everything_accounted_for() {
    let dir = tempfile::tempdir().unwrap();
    let http = free_address().to_string();
    let mut demo = Command::new(binary("convoy"));
    demo.args(["demo", "--duration", "8s", "--json", "--http", &http]);
    let started = Instant::now();
    let mut demo = Process::start(&mut demo, &dir.path().join("demo.log"));
    let status = demo.ended().await;
    assert!(status.success(), "{}", demo.output());
    assert!(started.elapsed().as_secs() >= 8);
    let output = demo.output();
    let summary: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    assert!(summary["first_event_s"].as_f64().unwrap() <= 5.0, "{summary}");
    assert_eq!(summary["vehicles"], 20);
    assert_eq!(summary["vehicles_connected"], 0, "all agents were stopped in order");
    assert!(summary["envelopes_stored"].as_u64() >= summary["envelopes_acknowledged"].as_u64(), "{summary}");
    assert_eq!(summary["envelopes_quarantined"], 0);
    assert!(summary["samples_stored"].as_u64().unwrap() > 10_000, "{summary}");
    assert!(summary["events_pulled"].as_u64().unwrap() > 0);
    assert!(summary["alerts_received"].as_u64().unwrap() >= 4, "the trucks' four trouble codes: {summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_stops_the_demo_with_a_summary_and_success() {
    let dir = tempfile::tempdir().unwrap();
    let http = free_address();
    let mut demo = Command::new(binary("convoy"));
    demo.args(["demo", "--vehicles", "3", "--http", &http.to_string()]);
    let mut demo = Process::start(&mut demo, &dir.path().join("demo.log"));
    let key = harness::until("the demo prints its commands", || async {
        let output = demo.output();
        Some(output.split_once("export CONVOY_KEY=")?.1.lines().next()?.to_owned())
    })
    .await;
    let vehicles = Client::new(http, &key).get("/v1/vehicles").await;
    assert_eq!(
        vehicles["data"].as_array().unwrap().len(),
        2,
        "the printed key works, for two vehicles of three"
    );
    harness::until("the live numbers show all vehicles connected", || async {
        demo.output().contains(" 3/3 ").then_some(())
    })
    .await;
    demo.terminate();
    assert!(demo.ended().await.success(), "{}", demo.output());
    assert!(demo.output().contains("Stopped after"), "{}", demo.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_gets_a_clear_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let holder = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let http = holder.local_addr().unwrap().to_string();
    let mut demo = Command::new(binary("convoy"));
    demo.args(["demo", "--duration", "5s", "--http", &http]);
    let mut demo = Process::start(&mut demo, &dir.path().join("demo.log"));
    assert!(!demo.ended().await.success());
    let output = demo.output();
    assert!(output.contains(&format!("cannot listen on {http}: another program uses the port")), "{output}");
    assert_eq!(output.lines().count(), 1, "{output}");
}
