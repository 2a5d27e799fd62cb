//! Trouble codes with their stages, and what was frozen with them.

use convoy_protocol::columns::{Column, Columns, Group, Values};
use convoy_protocol::dtc::{Dtc, DtcChange, DtcStage, DtcState, ExtendedData, FreezeFrameHeader, Lamps};
use convoy_protocol::envelope::SectionKind;
use convoy_protocol::id::VehicleId;
use convoy_protocol::manifest::{Manifest, SignalIndex};
use convoy_protocol::time::TimeUnit;
use serde_json::{Value, json};

use crate::world::{Packet, SECOND_US, START_US, World, everything, manifest};

const VEHICLE: VehicleId = VehicleId([1; 16]);
const CODE: Dtc = Dtc::Obd { ecu: 0x7E8, code: 0x0301 };
const UDS_CODE: Dtc = Dtc::Uds { ecu: 0x7E8, code: 0x03_0113 };

fn state(dtc: Dtc, stage: DtcStage, change: DtcChange, at_s: i64) -> DtcState {
    let lamps = Lamps { malfunction: Some(true), red_stop: Some(false), ..Lamps::default() };
    DtcState {
        timestamp_us: START_US + at_s * SECOND_US,
        dtc,
        stage,
        change,
        occurrence_count: None,
        lamps: Some(lamps),
        uds_status: None,
    }
}

fn states(sequence: u64, states: &[DtcState]) -> Packet {
    Packet::new(VEHICLE, sequence).section(SectionKind::DtcStates, postcard::to_allocvec(&states).unwrap())
}

/// Values of the manifest's signals, frozen with a code.
fn frozen(manifest: &Manifest, sequence: u64, dtc: Dtc, values: &[(u32, i64)]) -> Packet {
    let header = FreezeFrameHeader { timestamp_us: START_US + SECOND_US, dtc, number: 2 };
    let column = |(signal, value): &(u32, i64)| Column {
        signal: SignalIndex(*signal),
        values: Values::Raw(vec![*value]),
    };
    let group = Group { times_us: vec![header.timestamp_us], columns: values.iter().map(column).collect() };
    let columns = Columns { groups: vec![group] }.encode(START_US, TimeUnit::Milliseconds);
    let body = [postcard::to_allocvec(&header).unwrap(), columns].concat();
    let packet = Packet::new(VEHICLE, sequence).section(SectionKind::FreezeFrame, body);
    Packet { manifest_id: Some(manifest.id()), ..packet }
}

async fn handle(world: &World, packets: &[Packet]) {
    let records: Vec<_> = packets.iter().map(Packet::record).collect();
    world.ingest().handle(&records).await.unwrap();
}

fn of_type<'e>(events: &'e [Value], name: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["type"] == name).collect()
}

#[tokio::test]
async fn every_stage_is_delivered_and_only_an_active_code_alerts() {
    let world = World::new().await;
    let customer = world.customer("customer").await;
    world.vehicle(&customer, 1, None).await;
    let alerts = world.subscribe(&customer, "alerts", everything()).await;
    let diagnostics = world.subscribe(&customer, "diagnostics", everything()).await;
    use DtcChange::{Closed, Opened, StillPresent};
    use DtcStage::{Active, Pending, Permanent};
    let packets = [
        states(0, &[state(CODE, Pending, Opened, 1)]),
        states(1, &[state(CODE, Active, Opened, 2), state(CODE, Pending, Closed, 2)]),
        states(2, &[state(CODE, Active, StillPresent, 3), state(CODE, Permanent, Opened, 3)]),
        // Nobody told that this one opened: it is there all the same.
        states(3, &[state(UDS_CODE, Active, StillPresent, 4)]),
        states(4, &[state(CODE, Active, Closed, 5), state(CODE, Active, Opened, 6)]),
    ];
    handle(&world, &packets).await;

    let feed = world.feed(&alerts).await;
    let alerted: Vec<_> = feed
        .iter()
        .map(|event| (&event["data"]["alert"]["dtc"]["text"], event["time"].as_str().unwrap()))
        .collect();
    let expected = [("P0301", "02"), ("P0301-13", "04"), ("P0301", "06")];
    let expected = expected.map(|(code, at)| (json!(code), format!("2026-11-24T00:00:{at}.000Z")));
    assert_eq!(alerted, expected.each_ref().map(|(code, at)| (code, at.as_str())));

    let feed = world.feed(&diagnostics).await;
    let changes = of_type(&feed, "vehicle.dtc.changed.v1").into_iter();
    let changes: Vec<&Value> =
        changes.flat_map(|event| event["data"]["changes"].as_array().unwrap()).collect();
    let stages: Vec<_> = changes.iter().map(|change| (&change["stage"], &change["change"])).collect();
    let pairs = [
        ("pending", "opened"),
        ("active", "opened"),
        ("pending", "closed"),
        ("active", "still_present"),
        ("permanent", "opened"),
        ("active", "still_present"),
        ("active", "closed"),
        ("active", "opened"),
    ]
    .map(|(stage, change)| (json!(stage), json!(change)));
    assert_eq!(stages, pairs.each_ref().map(|(stage, change)| (stage, change)));
    assert_eq!(changes[0]["mil_on"], true);
    assert_eq!(changes[0]["red_stop_on"], false);
    assert_eq!(changes[0].get("protect_on"), None);
    assert_eq!(changes[0]["description"], "Cylinder 1 Misfire Detected");
}

#[tokio::test]
async fn a_freeze_frame_comes_whole_and_a_snapshot_as_far_as_it_is_permitted() {
    let world = World::new().await;
    let customer = world.customer("customer").await;
    world.vehicle(&customer, 1, None).await;
    let diagnostics = world.subscribe(&customer, "diagnostics", everything()).await;
    let raw = world.subscribe(&customer, "raw", everything()).await;
    let telematics = world.subscribe(&customer, "telematics", everything()).await;
    let manifest =
        manifest(&["Vehicle.OBD.ShortTermFuelTrim1", "Vehicle.Speed", "Vehicle.CurrentLocation.Latitude"]);
    let all = [(0, 7), (1, 50), (2, 48)];
    let data =
        ExtendedData { timestamp_us: START_US, dtc: UDS_CODE, uds_status: 0x2F, records: vec![1, 0xA4] };
    let data = postcard::to_allocvec(&vec![data]).unwrap();
    let packets = [
        // It waits for its manifest.
        frozen(&manifest, 1, CODE, &all),
        Packet::new(VEHICLE, 0).uploads(&manifest),
        frozen(&manifest, 2, UDS_CODE, &all),
        frozen(&manifest, 3, UDS_CODE, &all[2..]),
        Packet::new(VEHICLE, 4).section(SectionKind::DtcExtendedData, data),
    ];
    handle(&world, &packets).await;

    let signals = |feed: &[Value]| -> Vec<Vec<(String, i64)>> {
        let frames = of_type(feed, "vehicle.dtc.frozen.v1").into_iter();
        let frames = frames.flat_map(|event| event["data"]["frames"].as_array().unwrap());
        let values = |frame: &Value| {
            let of =
                |signal: &Value| (signal["path"].as_str().unwrap().to_owned(), signal["v"].as_i64().unwrap());
            frame["signals"].as_array().unwrap().iter().map(of).collect()
        };
        frames.map(values).collect()
    };
    let trim = ("Vehicle.OBD.ShortTermFuelTrim1".to_owned(), 7);
    let latitude = ("Vehicle.CurrentLocation.Latitude".to_owned(), 48);
    let speed = ("Vehicle.Speed".to_owned(), 50);
    let whole = vec![trim.clone(), speed.clone(), latitude.clone()];
    let feed = world.feed(&diagnostics).await;
    assert_eq!(signals(&feed), [vec![trim.clone(), speed], vec![trim]]);
    assert_eq!(signals(&world.feed(&raw).await), [whole.clone(), whole, vec![latitude]]);
    assert_eq!(world.feed(&telematics).await, [] as [Value; 0]);

    let events = of_type(&feed, "vehicle.dtc.frozen.v1");
    let mut frames = events.iter().flat_map(|event| event["data"]["frames"].as_array().unwrap());
    let frame = frames.find(|frame| frame["system"] == "obd").unwrap();
    let head = (&frame["text"], &frame["number"], &frame["time"]);
    assert_eq!(head, (&json!("P0301"), &json!(2), &json!("2026-11-24T00:00:01.000Z")));
    let mut extended = events.iter().flat_map(|event| event["data"]["extended_data"].as_array().unwrap());
    assert_eq!(extended.next().unwrap()["records"], "01a4");
    // Frozen values are no samples: nothing else tells of them.
    assert!(of_type(&world.feed(&raw).await, "vehicle.telemetry.batch.v1").is_empty());
}
