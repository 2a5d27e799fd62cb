//! The closed loop and the ledger: what is subscribed to is sent down, what is reported is compared, what came is
//! accounted for.

use std::sync::Arc;

use convoy_cloud_core::bus::{BusEvent, BusName};
use convoy_cloud_core::counters::get;
use convoy_cloud_core::ledger::accounts;
use convoy_cloud_core::ports::{EventBus, PortError};
use convoy_cloud_core::reference::{SubscriptionTerms, Threshold, ThresholdSide};
use convoy_cloud_core::steering::OVERDUE_US;
use convoy_protocol::checkin::{CheckIn, DropReason, DropReport, VinCheck};
use convoy_protocol::desired::{DesiredState, Sealed};
use convoy_protocol::downlink::Down;
use convoy_protocol::envelope::{EnvelopeWriter, Header, SectionKind};
use convoy_protocol::id::{BootId, EnvelopeKey, Lane, ManifestId, VehicleId};
use convoy_protocol::report::Report;
use convoy_protocol::time::ClockQuality;

use crate::world::{Packet, SECOND_US, START_US, World, everything, manifest, record};

const VEHICLE: VehicleId = VehicleId([1; 16]);
const BOOT: BootId = BootId { counter: 1, spool: 5 };

/// The bus of a test that publishes nothing.
struct NoBus;

#[async_trait::async_trait]
impl EventBus for NoBus {
    async fn publish(&self, _: BusName, events: Vec<BusEvent>) -> Vec<Result<(), PortError>> {
        events.iter().map(|_| Ok(())).collect()
    }
}

/// An envelope of the fast lane with one section.
fn fast(sequence: u64, kind: SectionKind, body: &impl serde::Serialize) -> convoy_cloud_core::record::Record {
    let mut writer = EnvelopeWriter::new(&Header {
        vehicle_id: VEHICLE,
        boot_id: BOOT,
        lane: Lane::Fast,
        sequence,
        base_us: START_US,
        monotonic_offset_us: 0,
        clock: ClockQuality::Ntp,
        manifest_id: None,
        campaign_id: None,
    });
    writer.plain(kind, &postcard::to_allocvec(body).unwrap());
    record(VEHICLE, Lane::Fast, writer.finish().unwrap())
}

/// The desired states that were sent since the last call.
fn sent(world: &World) -> Vec<DesiredState> {
    let down = |(_, down)| match down {
        Down::Desired(sealed) => Some(Sealed::parse(&sealed).unwrap().read().unwrap()),
        _ => None,
    };
    world.downlink.take().into_iter().filter_map(down).collect()
}

#[tokio::test]
async fn campaigns_follow_the_subscriptions_and_are_sent_again_to_whoever_runs_others() {
    let world = World::new().await;
    let customer = world.customer("customer").await;
    world.vehicle(&customer, 1, None).await;
    let steering = world.steering(Arc::new(NoBus));
    steering.refresh().await.unwrap();
    assert!(sent(&world).is_empty(), "nobody wants anything");

    world.subscribe(&customer, "telematics", everything()).await;
    steering.refresh().await.unwrap();
    let first = sent(&world).pop().unwrap();
    assert_eq!((first.vehicle_id, first.campaigns.len()), (VEHICLE, 1));
    assert_eq!(first.campaigns[0].window_ms, 60_000);
    steering.refresh().await.unwrap();
    assert!(sent(&world).is_empty(), "nothing changed");

    let terms = SubscriptionTerms { latency_s: Some(5), ..everything() };
    world.subscribe(&customer, "track-and-trace", terms).await;
    steering.refresh().await.unwrap();
    let second = sent(&world).pop().unwrap();
    assert!(second.version > first.version);
    assert_eq!(second.campaigns.iter().map(|one| one.window_ms).collect::<Vec<_>>(), [5_000, 60_000]);

    // The vehicle runs the old ones: it gets the new ones again, until it says that it has them.
    let ingest = world.ingest();
    let report = |version| Report { version: Some(version), ..Report::default() };
    ingest.handle(&[fast(0, SectionKind::Report, &report(first.version))]).await.unwrap();
    assert_eq!(sent(&world), std::slice::from_ref(&second));
    ingest.handle(&[fast(1, SectionKind::Report, &report(second.version))]).await.unwrap();
    assert!(sent(&world).is_empty());
    let known = world.reference.vehicle_campaigns(VEHICLE).await.unwrap().unwrap();
    assert_eq!(known.reported.unwrap().report, report(second.version));
    world.advance(60 * SECOND_US);
    assert_eq!(steering.resend(None).await.unwrap(), None);
    assert!(sent(&world).is_empty(), "all is reported");

    // A greater version than was ever given out here, from before the database was restored.
    let ahead = second.version + 1_000_000;
    ingest.handle(&[fast(2, SectionKind::Report, &report(ahead))]).await.unwrap();
    let third = sent(&world).pop().unwrap();
    assert_eq!((third.version > ahead, third.campaigns), (true, second.campaigns));
    // It was lost on its way.
    steering.resend(None).await.unwrap();
    assert!(sent(&world).is_empty(), "too soon");
    world.advance(60 * SECOND_US);
    steering.resend(None).await.unwrap();
    assert_eq!(sent(&world).pop().unwrap().version, third.version);
    // What no clock can have given out is not believed.
    ingest.handle(&[fast(3, SectionKind::Report, &report(u64::MAX))]).await.unwrap();
    assert!(sent(&world).is_empty());
    let known = world.reference.vehicle_campaigns(VEHICLE).await.unwrap().unwrap();
    assert_eq!(known.reported.unwrap().report, report(ahead));
}

#[tokio::test]
async fn an_envelope_that_says_too_much_of_others_is_set_aside() {
    let world = World::new().await;
    let drop =
        DropReport { boot_id: BOOT, lane: Lane::Bulk, first: 1, last: 1, reason: DropReason::SpoolFull };
    let ingest = world.ingest();
    ingest.handle(&[fast(0, SectionKind::Drops, &vec![drop; 2_001])]).await.unwrap();
    assert_eq!(get(&world.counters.records_quarantined), 1);
    ingest.handle(&[fast(1, SectionKind::Drops, &vec![drop; 2_000])]).await.unwrap();
    assert_eq!(get(&world.counters.records_quarantined), 1);
}

#[tokio::test]
async fn vehicle_that_does_not_report_raises_one_alert_a_version() {
    let world = World::new().await;
    let customer = world.customer("customer").await;
    world.vehicle(&customer, 1, None).await;
    let limit =
        Threshold { path: "Vehicle.Speed".into(), side: ThresholdSide::Above, limit: 90.0, hysteresis: 0.0 };
    let terms = SubscriptionTerms { thresholds: vec![limit], ..everything() };
    let subscription = world.subscribe(&customer, "alerts", terms).await;
    let steering = world.steering(world.ingest().bus);
    steering.refresh().await.unwrap();
    world.advance(OVERDUE_US);
    steering.raise_overdue().await.unwrap();
    assert!(world.feed(&subscription).await.is_empty(), "not yet longer than it may take");
    world.advance(SECOND_US);
    for _ in 0..3 {
        steering.raise_overdue().await.unwrap();
    }
    let feed = world.feed(&subscription).await;
    assert_eq!(feed.len(), 1, "{feed:?}");
    assert_eq!(feed[0]["data"]["alert"]["kind"], "campaigns_not_reported");
    assert_eq!(get(&world.counters.desired_overdue), 1);
}

#[tokio::test]
async fn ledger_knows_what_came_what_was_given_up_and_what_is_missing() {
    let world = World::new().await;
    let customer = world.customer("customer").await;
    world.vehicle(&customer, 1, None).await;
    let manifest = manifest(&["Vehicle.Speed"]);
    let ingest = world.ingest();
    let packet = |sequence| Packet::new(VEHICLE, sequence).samples(&manifest, 0, &[(START_US, 1)]);
    let unknown = Packet { manifest_id: Some(ManifestId([9; 16])), ..packet(3) };
    let foreign = Packet { manifest_id: Some(manifest.id()), ..Packet::new(VEHICLE, 4) };
    let foreign = foreign.samples(&manifest, 99, &[(START_US, 1)]);
    let tails = vec![EnvelopeKey { boot_id: BOOT, lane: Lane::Bulk, sequence: 9 }];
    let check_in = CheckIn {
        agent_version: String::new(),
        manifest_id: manifest.id(),
        campaigns: Vec::new(),
        tails,
        vin: VinCheck::NotSeen,
    };
    let drops = vec![DropReport {
        boot_id: BOOT,
        lane: Lane::Bulk,
        first: 5,
        last: 6,
        reason: DropReason::SpoolFull,
    }];
    let records = [
        packet(0).uploads(&manifest).record(),
        packet(1).record(),
        packet(1).record(),
        unknown.record(),
        foreign.record(),
        fast(0, SectionKind::CheckIn, &check_in),
        fast(1, SectionKind::Drops, &drops),
    ];
    for _ in 0..2 {
        ingest.handle(&records).await.unwrap();
    }
    let accounts = accounts(&world.store.ledger(VEHICLE).await.unwrap());
    let [fast, bulk] = accounts.as_slice() else { panic!("{accounts:?}") };
    assert_eq!((fast.accepted, fast.stored), (2, 2));
    assert_eq!((bulk.accepted, bulk.stored, bulk.rejected, bulk.parked), (4, 2, 1, 1));
    let dropped: Vec<_> = bulk.dropped.iter().map(|drop| (drop.first, drop.last)).collect();
    let missing: Vec<_> = bulk.missing.iter().map(|range| (range.first, range.last)).collect();
    assert_eq!((bulk.last, dropped, missing), (9, vec![(5, 6)], vec![(2, 2), (7, 9)]));
}

#[tokio::test]
async fn envelope_that_comes_again_after_its_events_are_gone_is_not_delivered_again() {
    let world = World::new().await;
    let customer = world.customer("customer").await;
    world.vehicle(&customer, 1, None).await;
    let subscription = world.subscribe(&customer, "raw", everything()).await;
    let manifest = manifest(&["Vehicle.Speed"]);
    let packet = Packet::new(VEHICLE, 0).samples(&manifest, 0, &[(START_US, 1)]).uploads(&manifest).record();
    world.ingest().handle(std::slice::from_ref(&packet)).await.unwrap();
    let delivered = world.feed(&subscription).await;
    assert_eq!(delivered.len(), 1);
    // Retention takes the event and the feed's entry.
    world
        .database
        .write(|transaction| {
            transaction.execute("DELETE FROM event", [])?;
            transaction.execute("DELETE FROM feed", [])
        })
        .await
        .unwrap();
    world.ingest().handle(&[packet]).await.unwrap();
    assert!(world.feed(&subscription).await.is_empty());
    assert_eq!(get(&world.counters.envelopes_forgotten), 1);
}
