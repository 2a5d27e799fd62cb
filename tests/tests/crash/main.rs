//! Kill anything at any moment: what the agent's spool accepted reaches the feed, once.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a failed step is a failed test, and says so")]

#[path = "../harness/harness.rs"]
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use harness::{AgentConfig, BrokerMode, Cloud, agent, agent_config, free_address, mosquitto, repository};
use serde_json::{Value, json};

const VEHICLE: &str = "c0ffee00c0ffee00c0ffee00c0ffee00";
const ROUNDS: u32 = 50;

/// Numbers that look random and are the same in every run (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The boot's counter, lane, sequence of an envelope.
type Envelope = (String, String, u64);

/// Envelopes with samples that the agent says are on its disk, from its log.
fn accepted(log: &str) -> BTreeSet<Envelope> {
    let field = |line: &str, name: &str| {
        let rest = line.split_once(&format!(" {name}="))?.1;
        Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
    };
    log.lines()
        .filter(|line| line.contains("envelope spooled"))
        .filter_map(|line| {
            let samples: u32 = field(line, "samples")?.parse().ok()?;
            let sequence = field(line, "sequence")?.parse().ok()?;
            // One spool here, so that its boots differ by their counters.
            let counter = field(line, "boot_id")?.split_once('-')?.0.to_owned();
            (samples > 0).then_some((counter, field(line, "lane")?, sequence))
        })
        .collect()
}

/// Envelopes that events came from; fails if one came twice.
fn delivered(events: &[Value]) -> BTreeSet<Envelope> {
    let mut ids: BTreeMap<&str, u32> = BTreeMap::new();
    for event in events {
        *ids.entry(event["id"].as_str().unwrap()).or_default() += 1;
    }
    let twice: Vec<_> = ids.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "delivered twice: {twice:?}");
    let types = ["vehicle.telemetry.batch.v1", "vehicle.snapshot.v1"];
    let telemetry: Vec<_> =
        events.iter().filter(|event| types.contains(&event["type"].as_str().unwrap())).collect();
    let envelopes: BTreeSet<_> = telemetry.iter().map(|event| harness::envelope_of(event)).collect();
    assert_eq!(envelopes.len(), telemetry.len(), "one telemetry event an envelope");
    envelopes
}

fn config<'a>(mqtt: std::net::SocketAddr, log: &'a Path, dbcs: &'a [std::path::PathBuf]) -> AgentConfig<'a> {
    AgentConfig {
        vehicle_id: VEHICLE,
        mqtt,
        log,
        dbcs,
        speed: "8",
        repeat: true,
        window_ms: 400,
        batch_samples: 150,
    }
}

async fn survive(mode: BrokerMode, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mqtt = free_address();
    let mut broker = (mode == BrokerMode::Mosquitto).then(|| mosquitto(dir.path(), mqtt));
    let mut cloud = Cloud::start(dir.path(), mode, mqtt).await;
    let customer = cloud.customer("Crash").await;
    cloud.import(&[("CNVYCRASH00000001", &customer.id, VEHICLE)]).await;
    let subscription = cloud.subscribe(&customer, json!({"package": "raw"})).await;

    let log = repository("tests/data/css-j1939-truck-gps/11111111_00000012_00000001_candump.log.gz");
    let dbcs = [repository("tests/data/css-j1939-truck-gps/j1939_excerpt.dbc")];
    let path = agent_config(&dir.path().join("agent"), &config(mqtt, &log, &dbcs));
    let (mut vehicle, mut before_last) = (agent(&path), 0);
    let (mut dice, mut killed) = (Dice(seed), [0u32; 3]);
    for _ in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(100 + dice.below(500))).await;
        let victim = dice.below(if broker.is_some() { 3 } else { 2 }) as usize;
        killed[victim] += 1;
        match victim {
            0 => {
                vehicle.kill();
                before_last = vehicle.output().len();
                vehicle = agent(&path);
            }
            1 => cloud.kill_and_restart(),
            _ => {
                drop(broker.take());
                broker = Some(mosquitto(dir.path(), mqtt));
            }
        }
    }
    harness::until("the last agent handles signals", || async {
        vehicle.output()[before_last..].contains("agent started").then_some(())
    })
    .await;
    vehicle.terminate();
    assert!(vehicle.ended().await.success(), "{}", vehicle.output());
    cloud.ready().await;
    drain(&dir.path().join("agent"), mqtt).await;
    cloud.settled().await;

    let spooled = accepted(&vehicle.output());
    let fed = delivered(&customer.client.feed(&subscription).await);
    let lost: Vec<_> = spooled.difference(&fed).collect();
    eprintln!(
        "{mode:?}, seed {seed}: killed agent {}, cloud {}, broker {} times; {} envelopes accepted, {} delivered, {} lost",
        killed[0],
        killed[1],
        killed[2],
        spooled.len(),
        fed.len(),
        lost.len()
    );
    assert!(spooled.len() > 100, "the rounds did something: {}", spooled.len());
    assert!(lost.is_empty(), "accepted but not delivered: {lost:?}");
    let pulled = delivered(&customer.client.pull_all(&subscription).await);
    assert_eq!(pulled, fed, "the queue holds what the feed holds");
    drop(broker);
}

/// Runs the agent on a recording without frames: it ends when its spool is empty.
async fn drain(dir: &Path, mqtt: std::net::SocketAddr) {
    let log = dir.join("empty.log");
    fs::write(&log, "").unwrap();
    let dbcs = [repository("tests/data/css-j1939-truck-gps/j1939_excerpt.dbc")];
    let empty = AgentConfig { repeat: false, ..config(mqtt, &log, &dbcs) };
    let mut last = agent(&agent_config(dir, &empty));
    let status = last.ended().await;
    assert!(status.success(), "{status}:\n{}", last.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_or_delivered_twice_with_the_embedded_broker() {
    survive(BrokerMode::Embedded, 0x00C0_FFEE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_or_delivered_twice_with_an_external_broker() {
    if BrokerMode::all().contains(&BrokerMode::Mosquitto) {
        survive(BrokerMode::Mosquitto, 0x0BAD_CAFE).await;
    }
}
