//! `cargo xtask bench cost`: the sizes that the cost model multiplies with prices, for batch windows of 10, 60, 300
//! and 900 seconds.
//!
//! A vehicle as the model assumes it: signals of a passenger car, each at most once in ten seconds, out of the recorded
//! drive, in envelopes as the gateway closes them; then what the cloud makes of them, by the cloud's own functions: the
//! record of the stream, the event that a customer gets (JSON), that event compressed alone and among others of its
//! subscription as on the delivery bus, and the archive's share. What is compressed together is of different vehicles
//! and of different parts of the drive, so that nothing is found twice.
//!
//! The model itself is `cargo xtask cost`; it holds the figures printed here in its data file.

use anyhow::{Context as _, Result, ensure};
use convoy_agent_core::gateway::{Gateway, Output};
use convoy_cloud_core::archive;
use convoy_cloud_core::event::{self, Context};
use convoy_cloud_core::identity::{CustomerId, CustomerKey, SubscriptionId};
use convoy_cloud_core::record::{PartitionKey, Record};
use convoy_cloud_core::reference::{
    Customer, CustomerVehicle, Package, RoutingRows, Subscription, SubscriptionStatus,
};
use convoy_cloud_core::snapshot::Snapshot;
use convoy_protocol::campaign::{Campaign, SignalSelector};
use convoy_protocol::envelope::Envelope;
use convoy_protocol::id::{Lane, VehicleId};
use logs::{Batch, Log};
use serde_json::json;

#[path = "measure/logs.rs"]
mod logs;
#[path = "measure/metric.rs"]
mod metric;

/// The signals, by DBC name, all of which have a VSS path. The engine controller answers in three quarters of the
/// time, so that fifteen samples come in ten seconds.
const SIGNALS: [&str; 18] = [
    "OBD2_7E8.S01_05_ECT",
    "OBD2_7E8.S01_0B_MAP",
    "OBD2_7E8.S01_0C_RPM",
    "OBD2_7E8.S01_0D_VSS",
    "OBD2_7E8.S01_11_TP",
    "OBD2_7E8.S01_2F_FLI",
    "OBD2_7E8.S01_42_VPWR",
    "OBD2_7E8.S01_46_AAT",
    "OBD2_7E8.S01_49_APP_D",
    "gnss_pos.Latitude",
    "gnss_pos.Longitude",
    "gnss_pos.PositionAccuracy",
    "gnss_altitude.Altitude",
    "gnss_altitude.AltitudeAccuracy",
    "gnss_imu.AccelerationX",
    "gnss_imu.AccelerationY",
    "gnss_imu.AccelerationZ",
    "gnss_imu.AngularRateZ",
];
const PERIOD_MS: u32 = 10_000;
const WINDOWS_S: [u32; 4] = [10, 60, 300, 900];
/// Vehicles whose events are packed together.
const VEHICLES: u8 = 8;
/// As the archiver and the delivery bus compress.
const ZSTD_LEVEL: i32 = 3;
const START_US: i64 = 1_700_000_000_000_000;

/// What a window's envelopes come to, bytes, mean of one envelope.
struct Sizes {
    samples: f64,
    envelope: f64,
    record: f64,
    event_json: f64,
    event_alone: f64,
    event_packed: f64,
    archived: f64,
}

fn vehicle(number: u8) -> VehicleId {
    VehicleId([number.wrapping_mul(37) ^ 0x5a; 16])
}

/// The envelopes of the signals that the windows close.
fn envelopes(log: &Log, vehicle_id: VehicleId, window_s: u32) -> Vec<Batch> {
    let selector =
        |pattern: &&str| SignalSelector { period_ms: PERIOD_MS, ..SignalSelector::every(*pattern) };
    let campaign = Campaign {
        name: "telematics".to_owned(),
        // Half a second less, so that a window holds a whole number of readings.
        window_ms: window_s * 1_000 - 500,
        batch_samples: 20_000,
        signals: SIGNALS.iter().map(selector).collect(),
        trouble_codes: false,
        ..Campaign::everything()
    };
    let mut gateway = logs::gateway_with(log, vehicle_id, campaign);
    let mut batches = Vec::new();
    for frame in &log.frames {
        if gateway.poll_timeout().is_some_and(|due_us| due_us <= frame.timestamp_us) {
            gateway.handle_timeout(frame.timestamp_us);
        }
        gateway.handle_frame(frame.timestamp_us, frame);
        take(&mut gateway, &mut batches);
    }
    batches
}

fn take(gateway: &mut Gateway, batches: &mut Vec<Batch>) {
    while let Some(Output::Envelope { bytes, samples, .. }) = gateway.poll_output() {
        if samples > 0 {
            batches.push(Batch { bytes, samples });
        }
    }
}

/// One customer with one subscription to everything, and all vehicles.
fn snapshot() -> Result<Snapshot> {
    let customer_id = CustomerId::from_bytes(&[0x11; 16]);
    let everything: Package = serde_json::from_value(json!({
        "name": "telematics", "version": 1, "description": "all", "paths": ["*"], "diagnostics": false, "alerts": false,
    }))?;
    let terms = serde_json::from_value(json!({
        "vehicles": {"mode": "all"}, "fields": {}, "thresholds": [], "delivery": {}, "starts_us": null, "ends_us": null,
    }))?;
    let subscription = Subscription {
        id: SubscriptionId::from_bytes(&[0x22; 16]),
        customer_id: customer_id.clone(),
        package: "telematics".to_owned(),
        package_version: 1,
        terms,
        status: SubscriptionStatus::Active,
        created_us: 0,
    };
    let customer = Customer {
        id: customer_id.clone(),
        name: "fleet".to_owned(),
        key: CustomerKey([0x33; 32]),
        created_us: 0,
    };
    let vehicles = (0..VEHICLES).map(|number| CustomerVehicle {
        vehicle_id: vehicle(number),
        customer_id: customer_id.clone(),
        label: None,
        valid_from_us: 0,
        valid_to_us: None,
    });
    Ok(Snapshot::compile(&RoutingRows {
        version: 1,
        customers: vec![customer],
        vehicles: vehicles.collect(),
        packages: vec![everything],
        subscriptions: vec![subscription],
    }))
}

/// The event of an envelope as its customer gets it.
fn event_json(log: &Log, snapshot: &Snapshot, bytes: &[u8]) -> Result<Vec<u8>> {
    let envelope = Envelope::parse(bytes)?;
    let manifest = log.decoder.manifest();
    let grant = snapshot.grants(envelope.header.vehicle_id).first().context("a vehicle without a grant")?;
    let context = Context {
        header: &envelope.header,
        grant,
        received_us: START_US,
        snapshot_version: snapshot.version,
    };
    let section = envelope.sections().find(|section| section.kind.is_samples());
    let columns = section.context("an envelope without samples")?.columns(envelope.header.base_us)?;
    let (columns, _) = columns.context("a section without samples")?;
    let mask = grant.entitlement.mask.compile(manifest);
    let rendered = event::telemetry(&context, manifest, &columns, &mask);
    Ok(rendered.context("nothing of the envelope is permitted")?.body)
}

fn record(vehicle_id: VehicleId, payload: &[u8]) -> Vec<u8> {
    let partition_key = PartitionKey {
        version: 1,
        hash: *blake3::hash(payload).as_bytes().first_chunk().unwrap_or(&[0; 16]),
    };
    Record { partition_key, vehicle_id, lane: Lane::Bulk, received_us: START_US, payload: payload.to_vec() }
        .encode()
}

/// An envelope of one vehicle, and what the cloud makes of it.
struct Made {
    record: Vec<u8>,
    event: Vec<u8>,
}

fn compressed(content: &[u8]) -> Result<usize> {
    Ok(zstd::bulk::compress(content, ZSTD_LEVEL)?.len())
}

fn measure(log: &Log, snapshot: &Snapshot, window_s: u32) -> Result<Sizes> {
    let fleet: Vec<Vec<Batch>> =
        (0..VEHICLES).map(|number| envelopes(log, vehicle(number), window_s)).collect();
    let parts = fleet[0].len();
    ensure!(parts > 1, "the log is too short for a window of {window_s} s");
    // One envelope for each part of the drive, of the vehicles in turn.
    let (mut made, mut samples, mut bytes) = (Vec::new(), 0u64, 0usize);
    for (part, number) in (0..VEHICLES).cycle().take(parts).enumerate() {
        let batch = &fleet[usize::from(number)][part];
        samples += u64::from(batch.samples);
        bytes += batch.bytes.len();
        let event = event_json(log, snapshot, &batch.bytes)?;
        made.push(Made { record: record(vehicle(number), &batch.bytes), event });
    }
    let (mut alone, mut packed) = (0, 0);
    for events in made.chunks(usize::from(VEHICLES)) {
        let pack: Vec<&[u8]> = events.iter().map(|made| made.event.as_slice()).collect();
        packed += compressed(&pack.join(&b","[..]))?;
        for event in pack {
            alone += compressed(event)?;
        }
    }
    let content = archive::pack(made.iter().map(|made| made.record.as_slice()));
    let mean = |sum: usize| sum as f64 / parts as f64;
    Ok(Sizes {
        samples: samples as f64 / parts as f64,
        envelope: mean(bytes),
        record: mean(made.iter().map(|made| made.record.len()).sum()),
        event_json: mean(made.iter().map(|made| made.event.len()).sum()),
        event_alone: mean(alone),
        event_packed: mean(packed),
        archived: mean(compressed(&content)?),
    })
}

fn main() -> Result<()> {
    let log = logs::drive()?;
    let snapshot = snapshot()?;
    for window_s in WINDOWS_S {
        let sizes = measure(&log, &snapshot, window_s)?;
        let parts = [
            ("samples", sizes.samples, "1"),
            ("envelope_bytes", sizes.envelope, "B"),
            ("record_bytes", sizes.record, "B"),
            ("event_json_bytes", sizes.event_json, "B"),
            ("event_zstd_bytes", sizes.event_alone, "B"),
            ("event_packed_bytes", sizes.event_packed, "B"),
            ("archived_bytes", sizes.archived, "B"),
        ];
        for (name, value, unit) in parts {
            metric::print(&format!("cost.{name}.{window_s}s"), value, unit)?;
        }
    }
    Ok(())
}
