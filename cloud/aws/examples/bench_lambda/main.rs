//! `cargo xtask bench lambda`: the ingest function as Lambda runs it, beside a Python function that does the same step.
//!
//! Both are processes behind the Runtime API and get the same batches: 500 records, as many as the template lets Kinesis
//! give at once, of 500 vehicles, each an envelope of 90 samples. Once all services are the emulator, which is slower
//! than either; once a fake answers for DynamoDB and the bus, so that what is measured is the function.
//! `CONVOY_BOOTSTRAP` names our program as it is deployed, `CONVOY_LAMBDA_ZIP` its zip, `CONVOY_PEER_PYTHON` the Python
//! that has awslambdaric and boto3, `CONVOY_MINISTACK` the emulator.
#![allow(clippy::unwrap_used, reason = "a step that fails is a measurement that fails")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints what it measured")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use convoy_aws::environment::{Function, names};
use convoy_protocol::id::VehicleId;
use serde_json::{Value, json};

use crate::fake::{Fake, Reply, Request};
use crate::runtime::Launch;
use crate::shard::{Batch, done};
use crate::stage::Stage;
use crate::vehicle::{Course, Vehicle};

#[path = "../../tests/harness/emulator.rs"]
mod emulator;
#[path = "../../tests/harness/fake.rs"]
mod fake;
#[path = "../../tests/harness/proxy.rs"]
mod proxy;
#[path = "../../tests/harness/runtime.rs"]
mod runtime;
#[path = "../../tests/harness/shard.rs"]
mod shard;
#[path = "../../tests/harness/stage.rs"]
mod stage;
#[path = "../../tests/harness/store.rs"]
mod store;
#[path = "../../tests/harness/vehicle.rs"]
mod vehicle;

const VEHICLES: u16 = 500;
/// What the template sets for every function: what is freed goes back at once.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "65536"), ("MALLOC_TOP_PAD_", "65536")];
/// What a window of 60 s holds at 15 samples each ten seconds.
const SAMPLES: usize = 90;
/// Batches that are measured, after one that is not.
const BATCHES: u64 = 10;
const STARTS: usize = 11;
const PEER_STARTS: usize = 5;
/// Threads that the peer is measured with; the faster one counts.
const PEER_THREADS: [usize; 2] = [1, 16];
/// Far more than any of it takes.
const TIME: Duration = Duration::from_secs(600);
const PEER: &str = "python";

/// DynamoDB's operations and how often each was called.
type Calls = BTreeMap<String, u32>;

/// What came of the batches.
struct Measured {
    ms_per_1000: f64,
    cpu_ms_per_1000: f64,
    rss_mib: f64,
    calls: Calls,
}

fn vehicles() -> impl Iterator<Item = Vehicle> {
    (0..VEHICLES).map(|number| {
        let mut id = VehicleId([1; 16]);
        id.0[14..].copy_from_slice(&number.to_be_bytes());
        Vehicle { id, samples: SAMPLES, course: Course::Smooth }
    })
}

/// A window of all vehicles.
fn ours(sequence: u64) -> Batch {
    let records = vehicles().map(|vehicle| vehicle.record(sequence).encode());
    Batch::new(sequence * u64::from(VEHICLES), records.collect())
}

/// The same window in the peer's form.
fn peers(sequence: u64) -> Batch {
    let record = |vehicle: Vehicle| {
        let record = vehicle.record(sequence);
        let first_us = record.received_us - 99;
        let times_us: Vec<_> = (0..SAMPLES as i64).map(|row| first_us + row).collect();
        let values: Vec<_> = (0..SAMPLES).map(|row| ((row * 37) % 1_000) as f64 / 10.0).collect();
        let envelope = json!({
            "vehicle_id": vehicle.id.to_string(), "boot": vehicle.key(0).boot_id.to_string(), "lane": "bulk",
            "sequence": sequence, "received_us": record.received_us,
            "signals": {"Vehicle.Speed": {"times_us": times_us, "values": values}},
        });
        envelope.to_string().into_bytes()
    };
    Batch::new(sequence * u64::from(VEHICLES), vehicles().map(record).collect())
}

/// Answers for DynamoDB and the bus at once; everything else, which is the start's, goes to the emulator.
async fn fast_services(calls: &Arc<Mutex<Calls>>) -> Fake {
    let calls = Arc::clone(calls);
    Fake::before(&emulator::emulator().url, move |request: &Request| {
        let target = request.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
        match target.and_then(|target| target.split_once('.')) {
            Some(("DynamoDB_20120810", operation)) => {
                *calls.lock().unwrap().entry(operation.to_owned()).or_default() += 1;
                Reply::Answer(200, json!({}))
            }
            Some(("AWSEvents", _)) => {
                let count = request.json()["Entries"].as_array().unwrap().len();
                let entries = vec![json!({ "EventId": "1" }); count];
                Reply::Answer(200, json!({ "FailedEntryCount": 0, "Entries": entries }))
            }
            _ => Reply::Forward,
        }
    })
    .await
}

/// Milliseconds from the start of a process to its first question for an event: the median.
async fn init_ms(launch: &Launch, starts: usize) -> f64 {
    let mut all = Vec::with_capacity(starts);
    for _ in 0..starts {
        let began = Instant::now();
        let function = launch.start().await.unwrap_or_else(|ended| panic!("{}", ended.output));
        all.push(began.elapsed().as_secs_f64() * 1_000.0);
        function.kill().await;
    }
    all.sort_by(f64::total_cmp);
    all[starts / 2]
}

/// Gives batches to a process of its own, the first one unmeasured.
async fn measure(
    launch: &Launch,
    batch: fn(u64) -> Batch,
    batches: u64,
    calls: &Arc<Mutex<Calls>>,
) -> Measured {
    let function = launch.start().await.unwrap_or_else(|ended| panic!("{}", ended.output));
    let give = async |event: &Value| {
        let answer = function.invoke(event, TIME).await.answer();
        assert_eq!(answer, done(), "{}", function.output());
    };
    give(&batch(0).event()).await;
    calls.lock().unwrap().clear();
    let events: Vec<_> = (1..=batches).map(|sequence| batch(sequence).event()).collect();
    let (mut took, cpu_before) = (Duration::ZERO, cpu_ms(function.pid()));
    for event in &events {
        let began = Instant::now();
        give(event).await;
        took += began.elapsed();
    }
    let thousands = batches as f64 * f64::from(VEHICLES) / 1_000.0;
    let measured = Measured {
        ms_per_1000: took.as_secs_f64() * 1_000.0 / thousands,
        cpu_ms_per_1000: (cpu_ms(function.pid()) - cpu_before) / thousands,
        rss_mib: peak_rss_mib(function.pid()),
        calls: calls.lock().unwrap().clone(),
    };
    function.kill().await;
    measured
}

/// Processor time of all its threads, user and system. The kernel counts in hundredths of a second.
fn cpu_ms(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let field = |index: usize| fields.split(' ').nth(index).unwrap().parse::<f64>().unwrap();
    (field(11) + field(12)) * 10.0
}

fn peak_rss_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<f64>().unwrap() / 1_024.0
}

fn print(metric: &str, value: f64, unit: &str, peer: Option<f64>) {
    let mut line = json!({ "metric": format!("lambda.{metric}"), "value": rounded(value), "unit": unit });
    if let Some(value) = peer {
        line["peer"] = PEER.into();
        line["peer_value"] = rounded(value).into();
    }
    println!("{line}");
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// The peer with so many threads.
fn peer(stage: &Stage, threads: usize) -> Launch {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bench_lambda");
    let python = std::env::var("CONVOY_PEER_PYTHON").expect("CONVOY_PEER_PYTHON names a Python");
    stage
        .launch(&python, Function::Ingest)
        .with_arguments(&["-m", "awslambdaric", "peer.handler"])
        .with("PYTHONPATH", folder)
        // Otherwise each start would compile the sources of the SDK.
        .with("PYTHONPYCACHEPREFIX", &std::env::temp_dir().join("convoy-peer-cache").to_string_lossy())
        .with("AWS_DEFAULT_REGION", emulator::REGION)
        .with("PEER_THREADS", &threads.to_string())
        .without(names::FUNCTION)
}

#[tokio::main]
async fn main() {
    let bootstrap =
        PathBuf::from(std::env::var("CONVOY_BOOTSTRAP").expect("CONVOY_BOOTSTRAP names a program"));
    let (calls, stage) = (Arc::default(), Stage::new("bench").await);
    let fake = fast_services(&calls).await;
    let us = stage.launch(bootstrap.to_str().unwrap(), Function::Ingest);
    let us = ALLOCATOR.iter().fold(us, |launch, (name, value)| launch.with(name, value));
    let on = |launch: &Launch, url: &str| launch.clone().with("AWS_ENDPOINT_URL", url);

    let (our_init, peer_init) =
        (init_ms(&us, STARTS).await, init_ms(&peer(&stage, PEER_THREADS[0]), PEER_STARTS).await);
    print("init_ms", our_init, "ms", Some(peer_init));
    let zip = PathBuf::from(std::env::var("CONVOY_LAMBDA_ZIP").expect("CONVOY_LAMBDA_ZIP names the zip"));
    print("zip_mib", std::fs::metadata(zip).unwrap().len() as f64 / f64::from(1 << 20), "MiB", None);

    let our = measure(&on(&us, &fake.url), ours, BATCHES, &calls).await;
    let mut fastest: Option<Measured> = None;
    for threads in PEER_THREADS {
        let theirs = measure(&on(&peer(&stage, threads), &fake.url), peers, BATCHES, &calls).await;
        assert_eq!(theirs.calls, our.calls, "the same calls to DynamoDB");
        eprintln!("{PEER}, {threads} threads: {:.0} ms per 1,000 records", theirs.ms_per_1000);
        if fastest.as_ref().is_none_or(|known| theirs.ms_per_1000 < known.ms_per_1000) {
            fastest = Some(theirs);
        }
    }
    let theirs = fastest.unwrap();
    eprintln!("DynamoDB calls in {BATCHES} batches: {:?}", our.calls);
    print("ms_per_1000_records", our.ms_per_1000, "ms", Some(theirs.ms_per_1000));
    print("cpu_ms_per_1000_records", our.cpu_ms_per_1000, "ms", Some(theirs.cpu_ms_per_1000));
    print("records_per_s", 1e6 / our.ms_per_1000, "1/s", Some(1e6 / theirs.ms_per_1000));
    print("rss_mib", our.rss_mib, "MiB", Some(theirs.rss_mib));
    print("speed_ratio", theirs.ms_per_1000 / our.ms_per_1000, "x", None);
    print("rss_ratio", our.rss_mib / theirs.rss_mib, "x", None);

    let url = &emulator::emulator().url;
    let our = measure(&on(&us, url), ours, 1, &calls).await;
    let theirs = measure(&on(&peer(&Stage::new("bench-peer").await, 16), url), peers, 1, &calls).await;
    print("emulator_ms_per_1000_records", our.ms_per_1000, "ms", Some(theirs.ms_per_1000));
}
