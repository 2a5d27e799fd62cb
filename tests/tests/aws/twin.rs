//! The single machine beside the deployment: the same customers, keys and subscriptions, the same envelopes.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use convoy_cloud_core::archive;
use convoy_cloud_core::identity::OperationId;
use convoy_cloud_core::provision::plan_create;
use convoy_cloud_core::record::Record;
use convoy_cloud_core::reference::{
    EndpointClass, Operation, ReferenceDatabase, SubscriptionStatus, VehicleMapping, WebhookEndpoint,
};
use convoy_protocol::envelope::Envelope;
use convoy_protocol::id::VehicleId;
use convoy_protocol::topic;
use convoy_reference::{Reference, VinKey};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::Value;

use crate::harness::{BrokerMode, Client, Cloud, Customer, free_address, until};
use crate::stack::Stack;

/// What the two homes may differ in: when an envelope came in, and the version of the routing snapshot.
const MAY_DIFFER: [&str; 2] = ["/recordedtime", "/data/snapshot_version"];

/// A customer with its subscriptions.
pub(crate) type Held<'a> = (&'a Customer, Vec<&'a String>);

/// Every event of every subscription is the same in both homes: its id, its values, its masks, all of it.
pub(crate) async fn assert_same(
    stack: &Stack,
    dir: &Path,
    vehicles: &[(&str, &str, &str)],
    customers: &[Held<'_>],
) {
    let records = archived(stack, dir);
    let mut cloud = Cloud::start(dir, BrokerMode::Embedded, free_address()).await;
    cloud.stop_and(async |data| copy(stack, data, vehicles, customers).await).await;
    for (_, subscriptions) in customers {
        for id in subscriptions {
            let path = format!("/admin/v1/subscriptions/{id}");
            until("the single machine has provisioned it", || async {
                (cloud.admin.get(&path).await["status"] == "active").then_some(())
            })
            .await;
        }
    }
    send(cloud.mqtt, &records).await;
    until("the single machine has every record", || async {
        (cloud.metric("records_appended").await >= records.len() as u64).then_some(())
    })
    .await;
    cloud.settled().await;
    let mut compared = 0;
    for (customer, subscriptions) in customers {
        let there = Client::new(cloud.http, "").with_key_of(&customer.client);
        for id in subscriptions {
            let (ours, theirs) = (by_id(&customer.client.feed(id).await), by_id(&there.feed(id).await));
            assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{id}");
            for (event, other) in ours.values().zip(theirs.values()) {
                assert_eq!(event, other, "{id}");
            }
            compared += ours.len();
        }
    }
    assert!(compared > 100, "{compared} events compared");
    eprintln!("{compared} events are the same in both homes");
    cloud.stop().await;
}

/// Events by id, without what may differ.
fn by_id(events: &[Value]) -> BTreeMap<String, Value> {
    let keyed = events.iter().cloned().map(|mut event| {
        for place in MAY_DIFFER {
            let value = event.pointer_mut(place);
            *value.expect("every event says when it came in, and by which snapshot") = Value::Null;
        }
        (event["id"].as_str().unwrap().to_owned(), event)
    });
    keyed.collect()
}

/// The records that the deployment archived, in the order in which they were received.
pub(crate) fn archived(stack: &Stack, dir: &Path) -> Vec<Record> {
    let folder = dir.join("raw");
    let from = format!("s3://{}/raw/v1/", stack.output("Bucket"));
    stack.cli().run(&["s3", "cp", "--recursive", "--only-show-errors", &from, folder.to_str().unwrap()]);
    let mut records: Vec<Record> = files(&folder)
        .iter()
        .flat_map(|file| archive::unpack(&zstd::decode_all(fs::File::open(file).unwrap()).unwrap()).unwrap())
        .collect();
    // Some are received in the same microsecond, and lie in different objects.
    let sequence = |record: &Record| Envelope::parse(&record.payload).map_or(0, |one| one.header.sequence);
    records.sort_by_key(|record| (record.received_us, sequence(record)));
    assert!(!records.is_empty(), "the archive holds records");
    records
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Copies customers, keys, vehicles and subscriptions from the deployment's database into that of the data folder.
async fn copy(stack: &Stack, data: &Path, vehicles: &[(&str, &str, &str)], customers: &[Held<'_>]) {
    let secret = stack.secret();
    let key = VinKey(blake3::derive_key("convoy 2026-11-24 vin key v1", secret.as_bytes()));
    let source = Reference::open(&stack.database.url, &key).await.unwrap();
    let master = fs::read(data.join("secrets/master.key")).unwrap();
    let key = VinKey(blake3::derive_key("convoy data folder 2026 vin", &master));
    let target = Reference::open_file(&data.join("reference.db"), &key).await.unwrap();
    for (customer, _) in customers {
        let id = customer.id.parse().unwrap();
        target.create_customer(&source.customer(&id).await.unwrap().unwrap()).await.unwrap();
        let key = source.principal(&customer.key_id.parse().unwrap()).await.unwrap().unwrap();
        target.create_principal(&key).await.unwrap();
    }
    let mappings: Vec<_> = vehicles
        .iter()
        .map(|(vin, customer, vehicle)| VehicleMapping {
            vin: (*vin).to_owned(),
            vehicle_id: Some(vehicle.parse::<VehicleId>().unwrap()),
            customer_id: customer.parse().unwrap(),
            label: None,
            valid_from_us: convoy_cloud_core::ambient::parse_rfc3339("2020-01-01T00:00:00Z"),
        })
        .collect();
    let outcomes = target.map_vehicles(&mappings, 0).await.unwrap();
    assert_eq!(outcomes.len(), mappings.len(), "{outcomes:?}");
    let mut endpoints: BTreeMap<String, WebhookEndpoint> = BTreeMap::new();
    for endpoint in source.endpoints().await.unwrap() {
        target.create_endpoint(&endpoint).await.unwrap();
        endpoints.insert(endpoint.id.to_string(), endpoint);
    }
    for (number, id) in customers.iter().flat_map(|(_, subscriptions)| subscriptions).enumerate() {
        let mut subscription = source.subscription(&id.parse().unwrap()).await.unwrap().unwrap();
        subscription.status = SubscriptionStatus::Provisioning;
        let endpoint = subscription.terms.delivery.webhook.as_ref();
        let class = endpoint.map_or(EndpointClass::Signed, |id| endpoints[id.as_str()].class);
        let operation = Operation {
            id: OperationId::from_bytes(&[number as u8; 16]),
            subscription_id: subscription.id.clone(),
            idempotency_key: None,
            request_hash: [0; 32],
            progress: plan_create(&subscription, class),
            created_us: subscription.created_us,
        };
        target.create_subscription(&subscription, &operation).await.unwrap();
    }
    source.close().await;
    target.close().await;
}

/// Publishes envelopes as their vehicles do, and returns when the broker has all of them.
async fn send(mqtt: SocketAddr, records: &[Record]) {
    let mut options = MqttOptions::new("twin", mqtt.ip().to_string(), mqtt.port());
    options.set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut events) = AsyncClient::new(options, records.len().max(1));
    for record in records {
        let topic = topic::up(record.vehicle_id, record.lane);
        client.publish(topic, QoS::AtLeastOnce, false, record.payload.clone()).await.unwrap();
    }
    let mut acked = 0;
    let all = async {
        while acked < records.len() {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
                acked += 1;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("the broker takes every envelope");
}
