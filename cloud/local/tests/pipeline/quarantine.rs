//! What cannot be used is set aside with its reason and its bytes, and hurts nothing beside it; what waits for a
//! manifest waits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use convoy_cloud_core::counters::get;
use convoy_cloud_core::quarantine::{Shelf, list, show};
use convoy_cloud_core::record::Record;
use convoy_protocol::columns::{Column, Group, Values};
use convoy_protocol::downlink::Down;
use convoy_protocol::envelope::SectionKind;
use convoy_protocol::id::{Lane, VehicleId};
use convoy_protocol::manifest::{Manifest, SignalIndex};

use crate::world::{Packet, START_US, World, everything, manifest, record, seal};

const VEHICLE: VehicleId = VehicleId([1; 16]);

fn speed() -> Manifest {
    manifest(&["Vehicle.Speed"])
}

fn healthy(sequence: u64) -> Packet {
    Packet::new(VEHICLE, sequence).samples(&speed(), 0, &[(START_US, 50)])
}

fn of_vehicle(payload: Vec<u8>) -> Record {
    record(VEHICLE, Lane::Bulk, payload)
}

/// Bad records, each with a part of the reason that must be given for it.
fn bad() -> Vec<(Record, String)> {
    let good = healthy(7).bytes();
    let mut version = good.clone();
    version[2] = 2;
    let mut checksum = good.clone();
    *checksum.last_mut().unwrap() ^= 1;
    let mut flipped = good.clone();
    let middle = flipped.len() - 8;
    flipped[middle] ^= 0x10;
    let mut unknown_signal = healthy(8);
    unknown_signal.groups.push(Group {
        times_us: vec![START_US],
        columns: vec![Column { signal: SignalIndex(1), values: Values::Bool(vec![true]) }],
    });
    let broken = |kind: SectionKind, body: &[u8]| {
        let manifest_id = Some(speed().id());
        let mut bytes = Packet { manifest_id, ..Packet::new(VEHICLE, 9) }.bytes();
        bytes.truncate(bytes.len() - 4);
        bytes.extend([kind as u8, 0, body.len() as u8]);
        bytes.extend(body);
        bytes.extend([0; 4]);
        of_vehicle(seal(bytes))
    };
    let mut dangling = speed();
    dangling.signals[0].message = 5;
    let samples_without = Packet { manifest_id: None, ..healthy(10) };
    let manifest_id = speed().id();
    vec![
        (of_vehicle(b"garbage".to_vec()), "not an envelope: it does not begin with the bytes 43 56".into()),
        (of_vehicle(Vec::new()), "not an envelope".into()),
        (of_vehicle(seal(version)), "envelope version 2 is not known here, only version 1".into()),
        (of_vehicle(checksum), "envelope checksum is".into()),
        (of_vehicle(flipped), "envelope checksum is".into()),
        (of_vehicle(good[..good.len() / 2].to_vec()), "envelope is cut short".into()),
        (
            record(VehicleId([2; 16]), Lane::Bulk, good.clone()),
            "identity mismatch: topic says vehicle 0202".into(),
        ),
        (record(VEHICLE, Lane::Fast, good), "lane fast, envelope says".into()),
        (unknown_signal.record(), format!("names signal 1, which manifest {manifest_id} does not have")),
        (samples_without.record(), "samples without a manifest id".into()),
        (broken(SectionKind::Manifest, b"\xff\xff"), "manifest cannot be read".into()),
        (Packet::new(VEHICLE, 11).uploads(&dangling).record(), "refers to message 5".into()),
        (broken(SectionKind::Dtcs, b"\x05"), "trouble code section cannot be read".into()),
        (broken(SectionKind::DtcStates, b"\x05"), "trouble code section cannot be read".into()),
        (broken(SectionKind::DtcExtendedData, b"\x05"), "trouble code section cannot be read".into()),
        (
            broken(SectionKind::FreezeFrame, b"\x00\x01\x00\x00\x00\x09"),
            "freeze frame section cannot be read".into(),
        ),
        (broken(SectionKind::Samples, b"\x09"), "samples section".into()),
    ]
}

#[tokio::test]
async fn bad_records_are_set_aside_with_reason_and_bytes_and_healthy_ones_beside_them_are_delivered() {
    let world = World::new().await;
    let customer = world.customer("customer").await;
    world.vehicle(&customer, 1, None).await;
    let subscription = world.subscribe(&customer, "raw", everything()).await;
    let ingest = world.ingest();
    let bad = bad();
    let mut batch = vec![healthy(0).uploads(&speed()).record()];
    batch.extend(bad.iter().map(|(record, _)| record.clone()));
    batch.push(healthy(1).record());
    ingest.handle(&batch).await.unwrap();
    let seen: Vec<_> =
        world.feed(&subscription).await.iter().map(|event| event["data"]["seq"].as_u64()).collect();
    assert_eq!(seen, [Some(0), Some(1)]);
    assert_eq!(get(&world.counters.records_quarantined), bad.len() as u64);

    // The batch comes again: each record is still one entry.
    ingest.handle(&batch).await.unwrap();
    let listed = list(&world.objects, Shelf::Quarantine).await.unwrap();
    assert_eq!(listed.len(), bad.len());
    assert!(listed.iter().all(|entry| entry.payload.is_empty()), "listings come without payloads");
    let mut shown = Vec::new();
    for entry in listed {
        let found = show(&world.objects, Shelf::Quarantine, &entry.id).await.unwrap().unwrap();
        assert_eq!(found.reason, entry.reason);
        shown.push(found);
    }
    for (record, reason) in bad {
        let bytes = STANDARD.encode(&record.payload);
        let of_record = |entry: &&convoy_cloud_core::quarantine::SetAside| {
            (&entry.payload, &entry.vehicle_id, &entry.lane)
                == (&bytes, &record.vehicle_id.to_string(), &record.lane.to_string())
        };
        let entry = shown.iter().find(of_record).unwrap_or_else(|| panic!("nothing shown for {reason}"));
        assert!(entry.reason.contains(&reason), "{} instead of {reason}", entry.reason);
        assert_eq!(entry.payload_bytes, record.payload.len());
    }
    assert_eq!(list(&world.objects, Shelf::DeadLetters).await.unwrap(), []);
    assert_eq!(world.feed(&subscription).await.len(), 2);
    assert_eq!(show(&world.objects, Shelf::Quarantine, "../../etc/passwd").await.unwrap(), None);
}

#[tokio::test]
async fn a_damaged_manifest_is_not_stored() {
    let world = World::new().await;
    let mut damaged = speed();
    damaged.signals[0].message = 5;
    world.ingest().handle(&[Packet::new(VEHICLE, 0).uploads(&damaged).record()]).await.unwrap();
    assert_eq!(world.reference.manifest(damaged.id()).await.unwrap(), None);
}

#[tokio::test]
async fn an_unknown_manifest_parks_is_asked_for_and_brings_what_waited_when_it_comes() {
    let world = World::new().await;
    let customer = world.customer("customer").await;
    let vehicle = world.vehicle(&customer, 1, None).await;
    let other = world.vehicle(&customer, 2, None).await;
    let subscription = world.subscribe(&customer, "raw", everything()).await;
    let ingest = world.ingest();
    let waiting =
        [healthy(0), healthy(1), Packet { vehicle_id: other, ..healthy(2) }].map(|packet| packet.record());
    ingest.handle(&waiting).await.unwrap();
    let mut asked = world.downlink.take();
    asked.sort_by_key(|(vehicle_id, _)| *vehicle_id);
    let want = Down::WantManifest(speed().id());
    assert_eq!(asked, [(vehicle, want.clone()), (other, want.clone())], "once a vehicle");
    assert_eq!(world.feed(&subscription).await.len(), 0);
    assert_eq!(get(&world.counters.envelopes_parked), 3);
    assert_eq!(list(&world.objects, Shelf::Quarantine).await.unwrap(), []);
    // They come again, after a start: still parked once, asked again since the first request may be lost.
    let ingest = world.ingest();
    ingest.handle(&waiting[..1]).await.unwrap();
    assert_eq!(world.downlink.take(), [(vehicle, want)]);

    // Any vehicle that has the manifest frees all that wait for it.
    let upload = Packet::new(other, 9).uploads(&speed()).record();
    ingest.handle(&[healthy(3).record(), upload]).await.unwrap();
    assert_eq!(world.downlink.take(), []);
    let mut seen: Vec<_> =
        world.feed(&subscription).await.iter().map(|event| event["data"]["seq"].as_u64().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
    assert_eq!(world.store.parked(speed().id(), 10).await.unwrap(), []);
    ingest.handle(&waiting).await.unwrap();
    assert_eq!(world.feed(&subscription).await.len(), 4);
}
