//! A customer gets the fields, vehicles and times it is entitled to, and not a byte more.

use std::collections::{BTreeMap, BTreeSet};

use convoy_cloud_core::identity::{CustomerId, SubscriptionId};
use convoy_cloud_core::mask::FieldSelection;
use convoy_cloud_core::ports::QueueName;
use convoy_cloud_core::reference::{Package, SubscriptionTerms, VehicleIdText, VehicleSelector};
use convoy_protocol::columns::{Column, Group, Values};
use convoy_protocol::dtc::DtcChange;
use convoy_protocol::id::VehicleId;
use convoy_protocol::manifest::{Manifest, SignalIndex};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::world::{Packet, SECOND_US, START_US, World, everything, manifest};

const PATHS: [&str; 12] = [
    "Vehicle.Speed",
    "Vehicle.TraveledDistance",
    "Vehicle.CurrentLocation.Latitude",
    "Vehicle.CurrentLocation.Longitude",
    "Vehicle.Powertrain.CombustionEngine.Speed",
    "Vehicle.Powertrain.TractionBattery.StateOfCharge",
    "Vehicle.Chassis.Axle.Row1.Weight",
    "Vehicle.Cabin.Door.Row1.IsOpen",
    "Vehicle.Private.EEC1.Torque",
    "Vehicle.Private.gnss_pos.Altitude",
    "Vehicle.OBD.CoolantTemperature",
    "Vehicle.LowVoltageBattery.CurrentVoltage",
];
const PACKAGES: [&str; 4] = ["raw", "telematics", "track-and-trace", "diagnostics"];
const MASKS_PER_CUSTOMER: usize = 8;

/// `*`, a path, or a path whose beginning or end is a `*`.
fn pattern() -> impl Strategy<Value = String> {
    (select(PATHS.as_slice()), 0usize..60, 0u8..7).prop_map(|(path, cut, kind)| {
        let cut = cut % path.len();
        match kind {
            0 => "*".to_owned(),
            1 | 2 => path.to_owned(),
            3 | 4 => format!("{}*", &path[..cut]),
            5 => format!("*{}", &path[cut..]),
            _ => format!("{}x", &path[..cut]),
        }
    })
}

fn mask() -> impl Strategy<Value = (&'static str, FieldSelection)> {
    (select(PACKAGES.as_slice()), vec(pattern(), 0..4), vec(pattern(), 0..3))
        .prop_map(|(package, include, exclude)| (package, FieldSelection { include, exclude }))
}

/// Matching said once more, for patterns with one `*` at most.
fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((head, tail)) => {
            path.len() >= head.len() + tail.len() && path.starts_with(head) && path.ends_with(tail)
        }
    }
}

fn permitted(package: &Package, fields: &FieldSelection, path: &str) -> bool {
    let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, path));
    any(&package.paths) && (fields.include.is_empty() || any(&fields.include)) && !any(&fields.exclude)
}

/// A text that only this signal of this vehicle ever has.
fn secret(vehicle: usize, signal: usize) -> String {
    format!("v{vehicle}s{signal}_")
}

/// All signals, in the groups given by `group_of`, each row holding the signal's secret.
fn packet(vehicle_id: VehicleId, vehicle: usize, manifest: &Manifest, group_of: &[usize]) -> Packet {
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    for (signal, group) in group_of.iter().enumerate() {
        let rows = 1 + group % 3;
        let group = groups.entry(*group).or_default();
        group.times_us = (0..rows as i64).map(|row| START_US + row * 1_500).collect();
        group.columns.push(Column {
            signal: SignalIndex(signal as u32),
            values: Values::Text(vec![secret(vehicle, signal); rows]),
        });
    }
    let groups = groups.into_values().collect();
    Packet { groups, manifest_id: Some(manifest.id()), ..Packet::new(vehicle_id, 0) }.uploads(manifest)
}

fn values_by_path(events: &[Value]) -> BTreeMap<String, Vec<Value>> {
    let mut found = BTreeMap::new();
    for event in events {
        for series in event["data"]["series"].as_array().unwrap() {
            let rows = series["dt"].as_array().unwrap().len();
            for signal in series["signals"].as_array().unwrap() {
                let values = signal["v"].as_array().unwrap().clone();
                assert_eq!(values.len(), rows);
                let before = found.insert(signal["path"].as_str().unwrap().to_owned(), values);
                assert_eq!(before, None, "a path twice");
            }
        }
    }
    found
}

type Masks = Vec<(&'static str, FieldSelection)>;

/// One subscription with a random mask.
struct Subscribed<'m> {
    /// Which of the two customers, 0 or 1.
    owner: usize,
    id: SubscriptionId,
    package: &'m Package,
    fields: &'m FieldSelection,
}

/// What was set up: by the number of the customer.
struct Scene {
    customers: Vec<CustomerId>,
    vehicles: Vec<VehicleId>,
    group_of: Vec<usize>,
}

impl Scene {
    /// What the subscription must give: values by path.
    fn expected(&self, subscribed: &Subscribed<'_>) -> BTreeMap<String, Vec<Value>> {
        let permitted = |(_, path): &(usize, &&str)| permitted(subscribed.package, subscribed.fields, path);
        let value = |(signal, path): (usize, &&str)| {
            let rows = 1 + self.group_of[signal] % 3;
            ((*path).to_owned(), vec![json!(secret(subscribed.owner, signal)); rows])
        };
        PATHS.iter().enumerate().filter(permitted).map(value).collect()
    }

    /// Texts that may be in none of the subscription's bodies: what is masked, what is foreign, what is internal.
    fn forbidden(&self, subscribed: &Subscribed<'_>, all: &[Subscribed<'_>]) -> Vec<String> {
        let (own, other) = (subscribed.owner, 1 - subscribed.owner);
        let mut forbidden = vec![
            self.vehicles[own].to_string(),
            self.customers[own].to_string(),
            format!("CNVY{:013}", own + 1),
            self.customers[other].to_string(),
            self.vehicles[other].to_string(),
            format!("truck {}", other + 1),
            format!("\"v{other}s"),
        ];
        let foreign = all.iter().filter(|one| one.owner == other);
        forbidden.extend(foreign.map(|one| one.id.to_string()));
        for (signal, path) in PATHS.iter().enumerate() {
            if !permitted(subscribed.package, subscribed.fields, path) {
                forbidden.extend([
                    format!("\"{path}\""),
                    format!("dbc_name_{signal}_"),
                    format!("unit_{signal}_"),
                    secret(own, signal),
                ]);
            }
        }
        forbidden
    }
}

async fn check_masks(masks: Masks, group_of: Vec<usize>) {
    let world = World::new().await;
    let packages = world.reference.packages().await.unwrap();
    let mut scene = Scene { customers: Vec::new(), vehicles: Vec::new(), group_of };
    let mut all = Vec::new();
    for (owner, masks) in masks.chunks(MASKS_PER_CUSTOMER).enumerate() {
        let customer = world.customer("customer").await;
        scene.vehicles.push(world.vehicle(&customer, owner as u8 + 1, None).await);
        for (package, fields) in masks {
            let terms = SubscriptionTerms { fields: fields.clone(), ..everything() };
            let id = world.subscribe(&customer, package, terms).await;
            let package = packages.iter().find(|known| known.name == *package).unwrap();
            all.push(Subscribed { owner, id, package, fields });
        }
        scene.customers.push(customer);
    }
    let manifest = manifest(&PATHS);
    let records: Vec<_> = (0..)
        .zip(&scene.vehicles)
        .map(|(number, vehicle_id)| packet(*vehicle_id, number, &manifest, &scene.group_of).record())
        .collect();
    world.ingest().handle(&records).await.unwrap();

    let mut subjects = BTreeSet::new();
    for subscribed in &all {
        let events = check_subscription(&world, &scene, subscribed, &all).await;
        subjects.extend(
            events.iter().map(|event| (subscribed.owner, event["subject"].as_str().unwrap().to_owned())),
        );
    }
    let names: BTreeSet<_> = subjects.iter().map(|(_, subject)| subject).collect();
    assert!(subjects.len() <= 2 && names.len() == subjects.len(), "one name a vehicle, none shared");
}

async fn check_subscription(
    world: &World,
    scene: &Scene,
    subscribed: &Subscribed<'_>,
    all: &[Subscribed<'_>],
) -> Vec<Value> {
    let bodies = world.feed_bodies(&subscribed.id).await;
    let queued = world.queued(QueueName::Subscription(subscribed.id.clone())).await;
    let queued: Vec<_> = queued.into_iter().map(|(_, body)| body).collect();
    assert_eq!(queued, bodies, "feed and queue say the same");
    let events: Vec<Value> = bodies.iter().map(|body| serde_json::from_slice(body).unwrap()).collect();
    let expected = scene.expected(subscribed);
    assert_eq!(values_by_path(&events), expected, "{:?} {:?}", subscribed.package, subscribed.fields);
    assert_eq!(events.len(), usize::from(!expected.is_empty()));
    let forbidden = scene.forbidden(subscribed, all);
    for body in &bodies {
        let body = std::str::from_utf8(body).unwrap();
        for text in &forbidden {
            assert!(!body.contains(text.as_str()), "{text} is in {body}");
        }
    }
    events
}

proptest! {
    // 24 cases of 16 masks each.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_customer_gets_exactly_the_fields_it_is_entitled_to(
        masks in vec(mask(), 2 * MASKS_PER_CUSTOMER),
        group_of in vec(0usize..5, PATHS.len()),
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(check_masks(masks, group_of));
    }
}

/// The values of the one path that was sampled, over all events.
fn sampled(events: &[Value]) -> Vec<i64> {
    let telemetry = events.iter().flat_map(|event| event["data"]["series"].as_array().into_iter().flatten());
    telemetry
        .flat_map(|series| series["signals"][0]["v"].as_array().unwrap().clone())
        .map(|v| v.as_i64().unwrap())
        .collect()
}

fn spns(events: &[Value]) -> Vec<u64> {
    let changes = events.iter().flat_map(|event| event["data"]["changes"].as_array().into_iter().flatten());
    changes.map(|change| change["spn"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn windows_cut_rows_codes_and_alerts_to_the_microsecond() {
    let world = World::new().await;
    let customer = world.customer("customer").await;
    let [valid_us, starts_us, ends_us] = [10, 20, 30].map(|second| START_US + second * SECOND_US);
    let vehicle = world.vehicle(&customer, 1, Some(valid_us)).await;
    let terms = |starts_us, ends_us| SubscriptionTerms { starts_us, ends_us, ..everything() };
    let windows = [
        (terms(None, None), vec![1, 2, 3, 4, 5, 6]),
        (terms(Some(starts_us), Some(ends_us)), vec![3, 4]),
        (terms(Some(START_US), None), vec![1, 2, 3, 4, 5, 6]),
        (terms(None, Some(starts_us)), vec![1, 2]),
        (terms(None, Some(valid_us)), vec![]),
    ];
    let mut subscribed = Vec::new();
    for (terms, expected) in windows {
        let raw = world.subscribe(&customer, "raw", terms.clone()).await;
        let alerts = world.subscribe(&customer, "alerts", terms).await;
        subscribed.push((raw, alerts, expected));
    }
    let manifest = manifest(&["Vehicle.Speed"]);
    let times = [valid_us - 1, valid_us, starts_us - 1, starts_us, ends_us - 1, ends_us, ends_us + 1];
    let samples: Vec<_> = times.into_iter().zip(0..).collect();
    let mut packet = Packet::new(vehicle, 0).uploads(&manifest).samples(&manifest, 0, &samples);
    for (spn, time_us) in (0..).zip(times) {
        packet = packet.dtc(spn, DtcChange::Opened, time_us);
    }
    world.ingest().handle(&[packet.record()]).await.unwrap();

    for (raw, alerts, expected) in subscribed {
        let events = world.feed(&raw).await;
        assert_eq!(sampled(&events), expected);
        assert_eq!(spns(&events), expected.iter().map(|spn| *spn as u64).collect::<Vec<_>>());
        let mut alerted: Vec<_> = world
            .feed(&alerts)
            .await
            .iter()
            .map(|event| event["data"]["alert"]["dtc"]["spn"].as_i64().unwrap())
            .collect();
        alerted.sort_unstable();
        assert_eq!(alerted, expected);
    }
}

#[tokio::test]
async fn a_listed_vehicle_is_delivered_and_another_of_the_same_customer_is_not() {
    let world = World::new().await;
    let customer = world.customer("customer").await;
    let listed = world.vehicle(&customer, 1, None).await;
    let other = world.vehicle(&customer, 2, None).await;
    let unmapped = VehicleId([3; 16]);
    let vehicles = VehicleSelector::List { vehicle_ids: vec![VehicleIdText(listed)] };
    let subscription =
        world.subscribe(&customer, "raw", SubscriptionTerms { vehicles, ..everything() }).await;
    let manifest = manifest(&["Vehicle.Speed"]);
    let records: Vec<_> = [listed, other, unmapped]
        .into_iter()
        .zip(1..)
        .map(|(vehicle, value)| {
            Packet::new(vehicle, 0).uploads(&manifest).samples(&manifest, 0, &[(START_US, value)]).record()
        })
        .collect();
    world.ingest().handle(&records).await.unwrap();
    assert_eq!(sampled(&world.feed(&subscription).await), [1]);
}
