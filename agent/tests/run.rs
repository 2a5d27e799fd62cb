//! The whole agent against a cloud on a socket: whatever the cloud does, each spooled envelope gets stored.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use convoy_agent::config::{AgentConfig, DbcFile};
use convoy_agent::log::LogInput;
use convoy_agent::metrics::{Metrics, Summary};
use convoy_agent::replay::{ReplayOptions, ReplaySource, Speed, TimeBase};
use convoy_agent::run::{RunError, run};
use convoy_agent::spool::{DropPolicy, SpoolConfig};
use convoy_agent::uplink::BrokerConfig;
use convoy_protocol::campaign::Campaign;
use convoy_protocol::compact;
use convoy_protocol::downlink::{Down, PayloadDigest, SequenceRange};
use convoy_protocol::envelope::{Envelope, SectionKind};
use convoy_protocol::id::{EnvelopeKey, Lane, VehicleId};
use convoy_protocol::manifest;
use convoy_protocol::topic;
use rumqttc::{
    ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, SubscribeReasonCode, mqttbytes,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const VEHICLE: VehicleId = VehicleId([7; 16]);
const PACKET_BYTES_MAX: usize = 1 << 20;
const DBC: &str = "VERSION \"\"\nBU_: ECU\nBO_ 291 Body: 2 ECU\n SG_ Temp : 0|8@1+ (1,-40) [-40|215] \"degC\" ECU\n \
                   SG_ Fan : 8|8@1+ (1,0) [0|255] \"\" ECU\n";

/// What the cloud does with an envelope, beside the PUBACK that it always sends.
enum Reply {
    Store,
    Silence,
    Quarantine,
    Busy(u32),
    HangUp,
    StoreAndWantManifest,
}

/// Decides by the number of publishes so far, from 1, and how often this envelope was seen before.
type Behaviour = Box<dyn FnMut(usize, usize, &EnvelopeKey) -> Reply + Send>;

#[derive(Default)]
struct Received {
    publishes: usize,
    seen: BTreeMap<EnvelopeKey, usize>,
    stored: BTreeMap<EnvelopeKey, Vec<u8>>,
}

impl Received {
    fn samples(&self) -> usize {
        self.sections(SectionKind::CompactSamples)
            .into_iter()
            .map(|(base_us, body)| compact::decode(&body, base_us).unwrap().samples())
            .sum()
    }

    fn sections(&self, kind: SectionKind) -> Vec<(i64, Vec<u8>)> {
        let mut found = Vec::new();
        for bytes in self.stored.values() {
            let envelope = Envelope::parse(bytes).unwrap();
            let sections = envelope.sections().filter(|section| section.kind == kind);
            found.extend(
                sections.map(|section| (envelope.header.base_us, section.body().unwrap().into_owned())),
            );
        }
        found
    }

    /// Each boot and lane from 0 without a hole.
    fn assert_no_holes(&self) {
        let mut next: BTreeMap<_, u64> = BTreeMap::new();
        for key in self.stored.keys() {
            let expected = next.entry((key.boot_id, key.lane)).or_default();
            assert_eq!(key.sequence, *expected, "{key}");
            *expected += 1;
        }
    }
}

struct Cloud {
    port: u16,
    received: Arc<Mutex<Received>>,
}

impl Cloud {
    async fn start(mut behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Arc::new(Mutex::new(Received::default()));
        let shared = Arc::clone(&received);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A lost connection is the agent's to mend.
                serve(stream, &mut behaviour, &shared).await.unwrap_or(());
            }
        });
        Self { port, received }
    }

    /// Snapshots that were stored: as many as connections that stood after something was seen.
    fn snapshots(&self) -> u64 {
        self.received().sections(SectionKind::CompactSnapshot).len() as u64
    }

    fn received(&self) -> std::sync::MutexGuard<'_, Received> {
        self.received.lock().unwrap()
    }
}

async fn serve(
    mut stream: TcpStream,
    behaviour: &mut Behaviour,
    received: &Mutex<Received>,
) -> std::io::Result<()> {
    let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
    loop {
        match Packet::read(&mut input, PACKET_BYTES_MAX) {
            Ok(Packet::Connect(connect)) => {
                assert_eq!(
                    (connect.client_id.as_str(), connect.clean_session),
                    (&*VEHICLE.to_string(), true)
                );
                let connack = ConnAck::new(ConnectReturnCode::Success, false);
                Packet::ConnAck(connack).write(&mut output, PACKET_BYTES_MAX).unwrap();
            }
            Ok(Packet::Subscribe(subscribe)) => {
                assert_eq!(subscribe.filters[0].path, topic::down_filter(VEHICLE));
                let codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
                Packet::SubAck(SubAck::new(subscribe.pkid, codes))
                    .write(&mut output, PACKET_BYTES_MAX)
                    .unwrap();
            }
            Ok(Packet::Publish(publish)) => {
                if !answer(&publish, behaviour, received, &mut output) {
                    return Ok(());
                }
            }
            Ok(Packet::Disconnect) => return Ok(()),
            Ok(_) => {}
            Err(mqttbytes::Error::InsufficientBytes(_)) => {
                stream.write_all_buf(&mut output).await?;
                if stream.read_buf(&mut input).await? == 0 {
                    return Ok(());
                }
            }
            Err(error) => panic!("agent sent what is not MQTT: {error}"),
        }
    }
}

/// False to hang up.
fn answer(
    publish: &Publish,
    behaviour: &mut Behaviour,
    received: &Mutex<Received>,
    output: &mut BytesMut,
) -> bool {
    let envelope = Envelope::parse(&publish.payload).unwrap();
    let key = envelope.header.key();
    let up = topic::parse_up(&publish.topic).unwrap();
    assert_eq!((up.vehicle_id, up.lane), (VEHICLE, key.lane));
    Packet::PubAck(PubAck::new(publish.pkid)).write(output, PACKET_BYTES_MAX).unwrap();
    let mut received = received.lock().unwrap();
    received.publishes += 1;
    let seen = received.seen.entry(key).or_default();
    *seen += 1;
    let before = *seen - 1;
    let reply = behaviour(received.publishes, before, &key);
    let EnvelopeKey { boot_id, lane, sequence } = key;
    let stored = Down::Stored(vec![SequenceRange { boot_id, lane, first: sequence, last: sequence }]);
    let downs = match reply {
        Reply::Store => vec![stored],
        Reply::StoreAndWantManifest => {
            vec![stored, Down::WantManifest(envelope.header.manifest_id.expect("samples have a manifest"))]
        }
        Reply::Quarantine => vec![Down::Quarantined(PayloadDigest::of(&publish.payload))],
        Reply::Busy(retry_after_ms) => vec![Down::Busy { retry_after_ms }],
        Reply::Silence => Vec::new(),
        Reply::HangUp => return false,
    };
    if matches!(downs.first(), Some(Down::Stored(_))) {
        received.stored.insert(key, publish.payload.to_vec());
    }
    for down in downs {
        let packet = Publish::new(topic::down_ack(VEHICLE), QoS::AtMostOnce, down.encode());
        Packet::Publish(packet).write(output, PACKET_BYTES_MAX).unwrap();
    }
    true
}

fn config(dir: &Path, port: u16) -> AgentConfig {
    AgentConfig {
        vehicle_id: VEHICLE,
        vin: None,
        broker: BrokerConfig {
            host: "127.0.0.1".into(),
            port,
            tls: None,
            resend_after: Duration::from_millis(50),
            backfill_bytes_per_s: 1 << 30,
        },
        spool: SpoolConfig {
            dir: dir.into(),
            bytes_max: 64 << 20,
            segment_bytes: 1 << 20,
            sync_ms: 5,
            drop: DropPolicy::Priority,
            key: None,
        },
        dbcs: vec![DbcFile { name: "body.dbc".into(), bytes: DBC.into(), bus: Some("can1".into()) }],
        campaigns: vec![Campaign { batch_samples: 100, ..Campaign::everything() }],
        campaign_key: None,
        takes_cloud_campaigns: true,
        metrics: None,
        polls: Vec::new(),
        follows_wall_clock: true,
    }
}

fn source(frames: usize, repeat: bool) -> ReplaySource {
    let line = |at: usize| format!("({}.{:06}) can1 123#{:02X}01\n", 100 + at / 1_000, at % 1_000, at % 256);
    let log: String = (0..frames).map(line).collect();
    let options = ReplayOptions {
        log: LogInput::Memory(log.into_bytes().into()),
        speed: Speed::Max,
        time: TimeBase::Recorded,
        repeat,
        buses: vec!["can1".into()],
    };
    ReplaySource::open(options).unwrap()
}

/// Runs to the end of the log and until everything is stored.
async fn run_to_end(dir: &Path, port: u16, frames: usize) -> (Summary, Arc<Metrics>) {
    let (_stop, shutdown) = watch::channel(false);
    let metrics = Arc::new(Metrics::default());
    let running = run(config(dir, port), source(frames, false), shutdown, Arc::clone(&metrics));
    let summary = tokio::time::timeout(Duration::from_secs(60), running).await;
    (summary.expect("everything is stored within a minute").unwrap(), metrics)
}

#[tokio::test]
async fn every_sample_is_stored_and_the_manifest_is_sent_once_over_two_runs() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Box::new(|_, _, _| Reply::Store)).await;
    let (summary, metrics) = run_to_end(dir.path(), cloud.port, 5_000).await;
    assert_eq!((summary.frames, summary.samples, summary.is_drained), (5_000, 10_000, true));
    // A check-in, 100 batches of 100 samples, and a snapshot where something was seen before the connection stood.
    let expected = 101 + cloud.snapshots();
    assert_eq!((summary.envelopes_spooled, summary.envelopes_stored), (expected, expected));
    assert_eq!(metrics.envelopes_stored.load(Ordering::Relaxed), expected);
    let (second, _) = run_to_end(dir.path(), cloud.port, 50).await;
    assert_eq!(second.envelopes_stored, 2 + 101 + cloud.snapshots() - expected);
    let received = cloud.received();
    received.assert_no_holes();
    assert_eq!(received.samples(), 10_100);
    let manifests = received.sections(SectionKind::Manifest);
    assert_eq!(manifests.len(), 1);
    assert_eq!(received.sections(SectionKind::CheckIn).len(), 2);
    let last = Envelope::parse(received.stored.values().last().unwrap()).unwrap();
    assert_eq!(last.header.manifest_id, Some(manifest::id_of_encoding(&manifests[0].1)));
}

#[tokio::test]
async fn lost_acknowledgements_pauses_and_broken_connections_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Hanging up first: whether another reply would come in its place depends on the order of what is sent again.
    let cloud = Cloud::start(Box::new(|publishes, seen, key| match (publishes, seen) {
        (publishes, _) if publishes.is_multiple_of(37) => Reply::HangUp,
        (_, 0) if key.sequence.is_multiple_of(3) => Reply::Silence,
        (_, 0) if key.sequence.is_multiple_of(40) => Reply::Busy(20),
        _ => Reply::Store,
    }))
    .await;
    let (summary, metrics) = run_to_end(dir.path(), cloud.port, 5_000).await;
    assert_eq!((summary.envelopes_stored, summary.is_drained), (101 + cloud.snapshots(), true));
    assert!(metrics.resent.load(Ordering::Relaxed) >= 34);
    assert!(metrics.connections.load(Ordering::Relaxed) >= 2);
    let received = cloud.received();
    received.assert_no_holes();
    assert_eq!(received.samples(), 10_000);
}

#[tokio::test]
async fn quarantine_ends_the_sending_and_a_wanted_manifest_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut asked = false;
    let cloud = Cloud::start(Box::new(move |_, _, key| match (key.lane, key.sequence) {
        (Lane::Bulk, 3) => Reply::Quarantine,
        (Lane::Bulk, _) if !asked => {
            asked = true;
            Reply::StoreAndWantManifest
        }
        _ => Reply::Store,
    }))
    .await;
    let (summary, _) = run_to_end(dir.path(), cloud.port, 500).await;
    // Check-in, 10 batches of which one is quarantined, and the manifest again.
    assert_eq!((summary.envelopes_stored, summary.envelopes_quarantined), (11 + cloud.snapshots(), 1));
    let received = cloud.received();
    assert_eq!(received.sections(SectionKind::Manifest).len(), 2);
    let quarantined = received.seen.iter().find(|(key, _)| key.lane == Lane::Bulk && key.sequence == 3);
    assert_eq!(quarantined.map(|(_, seen)| *seen), Some(1));
}

#[tokio::test]
async fn a_source_that_is_always_ready_does_not_starve_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(Box::new(|_, _, _| Reply::Store)).await;
    let (stop, shutdown) = watch::channel(false);
    let metrics = Arc::new(Metrics::default());
    let endless = source(1_000, true);
    let running = tokio::spawn(run(config(dir.path(), cloud.port), endless, shutdown, Arc::clone(&metrics)));
    let stored = async {
        while metrics.envelopes_stored.load(Ordering::Relaxed) < 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), stored).await.expect("envelopes are stored meanwhile");
    stop.send_replace(true);
    assert!(running.await.unwrap().unwrap().frames > 1_000);
}

#[tokio::test]
async fn stopped_without_a_broker_everything_waits_in_the_spool_for_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let (stop, shutdown) = watch::channel(false);
    let metrics = Arc::new(Metrics::default());
    let running =
        tokio::spawn(run(config(dir.path(), port), source(1_000, false), shutdown, Arc::clone(&metrics)));
    let spooled = async {
        while metrics.envelopes_spooled.load(Ordering::Relaxed) < 21 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), spooled)
        .await
        .expect("the log is spooled without a broker");
    stop.send_replace(true);
    let first = running.await.unwrap().unwrap();
    assert_eq!((first.envelopes_spooled, first.envelopes_stored, first.is_drained), (21, 0, false));
    let cloud = Cloud::start(Box::new(|_, _, _| Reply::Store)).await;
    let (second, _) = run_to_end(dir.path(), cloud.port, 50).await;
    let new = 2 + cloud.snapshots();
    assert_eq!((second.envelopes_spooled, second.envelopes_stored), (new, 21 + new));
    let received = cloud.received();
    received.assert_no_holes();
    assert_eq!(received.samples(), 2_100);
    let boots: std::collections::BTreeSet<_> =
        received.stored.keys().map(|key| key.boot_id.counter).collect();
    assert_eq!(boots.into_iter().collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_dbc_for_a_bus_that_the_source_does_not_have_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), 1);
    config.dbcs[0].bus = Some("can7".into());
    let (_stop, shutdown) = watch::channel(false);
    let error = run(config, source(1, false), shutdown, Arc::default()).await.unwrap_err();
    assert!(matches!(error, RunError::UnknownBus { .. }));
    assert_eq!(
        error.to_string(),
        "DBC file body.dbc is for bus can7, which the source does not have: it has can1"
    );
}
