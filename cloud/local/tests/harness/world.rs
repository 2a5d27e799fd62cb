//! The pipeline and what it stands on, in a temporary folder: no broker, a clock and dice of its own.
#![allow(dead_code, reason = "each suite uses a part")]

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use convoy::bus::LocalBus;
use convoy::database::Database;
use convoy::event_store::SqliteEventStore;
use convoy::provisioner::SqliteProvisioner;
use convoy::queue::SqliteQueue;
use convoy_cloud_core::alerts::Judge;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::counters::Counters;
use convoy_cloud_core::enrich::{Enricher, ManifestCache};
use convoy_cloud_core::identity::{CustomerId, CustomerKey, EventId, OperationId, SubscriptionId};
use convoy_cloud_core::ingest::Ingest;
use convoy_cloud_core::mask::FieldSelection;
use convoy_cloud_core::ports::{CustomerQueue, Downlink, EventBus, EventStore, PortError, QueueName};
use convoy_cloud_core::provision::{OperationStatus, Worker, plan_create};
use convoy_cloud_core::record::{PartitionKey, Record};
use convoy_cloud_core::reference::{
    Customer, Delivery, EndpointClass, MappingOutcome, Operation, ReferenceDatabase, ReferenceManifests,
    Subscription, SubscriptionStatus, SubscriptionTerms, VehicleMapping, VehicleSelector,
};
use convoy_cloud_core::snapshot::SnapshotCell;
use convoy_cloud_core::steering::Steering;
use convoy_protocol::columns::{Column, Columns, Group, Values};
use convoy_protocol::downlink::Down;
use convoy_protocol::dtc::{Dtc, DtcChange, DtcRecord};
use convoy_protocol::envelope::{EnvelopeWriter, Header, SectionKind};
use convoy_protocol::id::{BootId, Lane, ManifestId, VehicleId};
use convoy_protocol::manifest::{Manifest, SignalDef, SignalIndex};
use convoy_protocol::time::{ClockQuality, TimeUnit};
use convoy_reference::{Reference, VinKey};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::Value;
use tempfile::TempDir;

/// When the world's clock starts: 2026-11-24T00:00:00Z.
pub(crate) const START_US: i64 = 1_795_478_400_000_000;
pub(crate) const SECOND_US: i64 = 1_000_000;

/// Remembers what was asked of vehicles.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<(VehicleId, Down)>>);

impl Recorder {
    pub(crate) fn take(&self) -> Vec<(VehicleId, Down)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[async_trait]
impl Downlink for Recorder {
    async fn ack(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError> {
        self.request(vehicle_id, down).await
    }

    async fn request(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError> {
        self.0.lock().unwrap().push((vehicle_id, down.clone()));
        Ok(())
    }
}

pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) reference: Arc<dyn ReferenceDatabase>,
    pub(crate) store: Arc<dyn EventStore>,
    pub(crate) queue: Arc<dyn CustomerQueue>,
    pub(crate) provisioner: SqliteProvisioner,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) snapshot: Arc<SnapshotCell>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) downlink: Arc<Recorder>,
    pub(crate) ambient: Ambient,
    pub(crate) clock_us: Arc<AtomicI64>,
    directory: TempDir,
}

impl World {
    /// Two worlds in which the same is done hold the same: their dice roll alike.
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&directory.path().join("events.db")).unwrap();
        let path = directory.path().join("reference.db");
        let reference: Arc<dyn ReferenceDatabase> =
            Arc::new(Reference::open_file(&path, &VinKey([9; 32])).await.unwrap());
        let snapshot = Arc::new(SnapshotCell::default());
        snapshot.refresh(reference.as_ref()).await.unwrap();
        let clock_us = Arc::new(AtomicI64::new(START_US));
        let (now, rolled) = (Arc::clone(&clock_us), AtomicU64::new(0));
        let ambient = Ambient::new(
            move || now.load(Ordering::Relaxed),
            move |bytes| {
                let seed = rolled.fetch_add(1, Ordering::Relaxed).to_le_bytes();
                blake3::Hasher::new().update(&seed).finalize_xof().fill(bytes);
            },
        );
        Self {
            store: Arc::new(SqliteEventStore::new(database.clone())),
            queue: Arc::new(SqliteQueue::new(database.clone())),
            provisioner: SqliteProvisioner::open(database.clone()).await.unwrap(),
            objects: Arc::new(InMemory::new()),
            counters: Arc::default(),
            downlink: Arc::default(),
            database,
            reference,
            snapshot,
            ambient,
            clock_us,
            directory,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn advance(&self, us: i64) {
        self.clock_us.fetch_add(us, Ordering::Relaxed);
    }

    /// A pipeline with nothing in its memory, as after a start.
    pub(crate) fn ingest(&self) -> Ingest {
        self.ingest_over(Arc::clone(&self.store), Arc::clone(&self.queue))
    }

    pub(crate) fn ingest_over(&self, store: Arc<dyn EventStore>, queue: Arc<dyn CustomerQueue>) -> Ingest {
        let manifests = self.manifests();
        let bus = LocalBus {
            enricher: Enricher::new(Arc::clone(&manifests), Arc::clone(&self.snapshot)),
            rules: self.provisioner.rules(),
            store: Arc::clone(&store),
            queue,
            counters: Arc::clone(&self.counters),
            ambient: self.ambient.clone(),
        };
        let bus = Arc::new(bus);
        Ingest {
            judge: Judge::new(Arc::clone(&self.snapshot), Arc::clone(&store)),
            store,
            reports: Arc::new(self.steering(Arc::clone(&bus) as _)),
            bus,
            manifests,
            objects: Arc::clone(&self.objects),
            downlink: Arc::clone(&self.downlink) as _,
            counters: Arc::clone(&self.counters),
        }
    }

    pub(crate) fn manifests(&self) -> Arc<ManifestCache> {
        Arc::new(ManifestCache::new(Arc::new(ReferenceManifests(Arc::clone(&self.reference)))))
    }

    /// The closed loop over these ports, signing with nothing.
    pub(crate) fn steering(&self, bus: Arc<dyn EventBus>) -> Steering {
        Steering {
            reference: Arc::clone(&self.reference),
            downlink: Arc::clone(&self.downlink) as _,
            snapshot: Arc::clone(&self.snapshot),
            bus,
            ambient: self.ambient.clone(),
            counters: Arc::clone(&self.counters),
            sign: Box::new(|_| [0; 64]),
        }
    }

    pub(crate) async fn customer(&self, name: &str) -> CustomerId {
        let customer = Customer {
            id: CustomerId::random(&self.ambient),
            name: name.into(),
            key: CustomerKey(self.ambient.random()),
            created_us: self.ambient.now_us(),
        };
        self.reference.create_customer(&customer).await.unwrap();
        customer.id
    }

    /// Gives a customer the vehicle of this number, since `valid_from_us` or since ever.
    pub(crate) async fn vehicle(
        &self,
        customer: &CustomerId,
        number: u8,
        valid_from_us: Option<i64>,
    ) -> VehicleId {
        let mapping = VehicleMapping {
            vin: format!("CNVY{number:013}"),
            vehicle_id: Some(VehicleId([number; 16])),
            customer_id: customer.clone(),
            label: Some(format!("truck {number}")),
            valid_from_us: Some(valid_from_us.unwrap_or(0)),
        };
        let outcomes = self.reference.map_vehicles(&[mapping], self.ambient.now_us()).await.unwrap();
        self.snapshot.refresh(self.reference.as_ref()).await.unwrap();
        match &outcomes[0] {
            MappingOutcome::Mapped(vehicle_id) => *vehicle_id,
            MappingOutcome::Refused(reason) => panic!("{reason}"),
        }
    }

    /// Subscribes a customer to version 1 of a package, and provisions it.
    pub(crate) async fn subscribe(
        &self,
        customer: &CustomerId,
        package: &str,
        terms: SubscriptionTerms,
    ) -> SubscriptionId {
        let subscription = Subscription {
            id: SubscriptionId::random(&self.ambient),
            customer_id: customer.clone(),
            package: package.into(),
            package_version: 1,
            terms,
            status: SubscriptionStatus::Provisioning,
            created_us: self.ambient.now_us(),
        };
        let operation = Operation {
            id: OperationId::random(&self.ambient),
            subscription_id: subscription.id.clone(),
            idempotency_key: None,
            request_hash: [0; 32],
            progress: plan_create(&subscription, EndpointClass::Signed),
            created_us: self.ambient.now_us(),
        };
        self.reference.create_subscription(&subscription, &operation).await.unwrap();
        self.work_off_operations().await;
        subscription.id
    }

    /// Carries out every operation that waits.
    pub(crate) async fn work_off_operations(&self) {
        let worker = Worker {
            reference: self.reference.as_ref(),
            provisioner: &self.provisioner,
            snapshot: &self.snapshot,
        };
        for mut operation in self.reference.unfinished_operations().await.unwrap() {
            worker.run(&mut operation).await.unwrap();
            assert_eq!(
                operation.progress.status,
                OperationStatus::Succeeded,
                "{:?}",
                operation.progress.error
            );
        }
    }

    /// The whole feed of a subscription, as bytes.
    pub(crate) async fn feed_bodies(&self, subscription: &SubscriptionId) -> Vec<Vec<u8>> {
        let page = self.store.feed(subscription, 0, 10_000).await.unwrap();
        page.entries.into_iter().map(|entry| entry.body).collect()
    }

    /// The whole feed of a subscription.
    pub(crate) async fn feed(&self, subscription: &SubscriptionId) -> Vec<Value> {
        let bodies = self.feed_bodies(subscription).await;
        bodies.iter().map(|body| serde_json::from_slice(body).unwrap()).collect()
    }

    /// Ids and bodies of everything that waits in a queue, by id; they stay hidden for an hour.
    pub(crate) async fn queued(&self, queue: QueueName) -> Vec<(EventId, Vec<u8>)> {
        let now_us = self.ambient.now_us();
        let received = self.queue.receive(&queue, 10_000, u64::MAX, 3_600 * SECOND_US, now_us).await.unwrap();
        let events = received.into_iter().flat_map(|received| received.events);
        let mut queued: Vec<_> = events.map(|event| (event.event_id, event.body)).collect();
        queued.sort();
        queued
    }
}

/// Everything of a package, for all vehicles, into feed and queue.
pub(crate) fn everything() -> SubscriptionTerms {
    SubscriptionTerms {
        sampling_ms: None,
        latency_s: None,
        vehicles: VehicleSelector::All,
        fields: FieldSelection::default(),
        thresholds: Vec::new(),
        delivery: Delivery::default(),
        starts_us: None,
        ends_us: None,
    }
}

/// A manifest with one signal a path, whose raw values are the values at the path.
pub(crate) fn manifest(paths: &[&str]) -> Manifest {
    let signal = |(number, path): (usize, &&str)| SignalDef {
        message: 0,
        name: format!("dbc_name_{number}_"),
        unit: "raw".into(),
        factor: 1.0,
        offset: 0.0,
        path: (*path).into(),
        path_unit: format!("unit_{number}_"),
        path_factor: 1.0,
        path_offset: 0.0,
    };
    Manifest { messages: vec!["MSG".into()], signals: paths.iter().enumerate().map(signal).collect() }
}

/// An envelope in the making.
#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) vehicle_id: VehicleId,
    pub(crate) boot: u32,
    pub(crate) lane: Lane,
    pub(crate) sequence: u64,
    pub(crate) manifest_id: Option<ManifestId>,
    pub(crate) groups: Vec<Group>,
    pub(crate) dtcs: Vec<DtcRecord>,
    /// Further sections as they are.
    pub(crate) sections: Vec<(SectionKind, Vec<u8>)>,
    /// The encoding of a manifest that comes with it.
    pub(crate) upload: Option<Vec<u8>>,
}

impl Packet {
    pub(crate) fn new(vehicle_id: VehicleId, sequence: u64) -> Self {
        Self {
            vehicle_id,
            boot: 1,
            lane: Lane::Bulk,
            sequence,
            manifest_id: None,
            groups: Vec::new(),
            dtcs: Vec::new(),
            sections: Vec::new(),
            upload: None,
        }
    }

    /// Adds samples of one signal of the manifest.
    pub(crate) fn samples(mut self, manifest: &Manifest, signal: u32, samples: &[(i64, i64)]) -> Self {
        self.manifest_id = Some(manifest.id());
        let (times_us, values) = samples.iter().copied().unzip();
        let column = Column { signal: SignalIndex(signal), values: Values::Raw(values) };
        self.groups.push(Group { times_us, columns: vec![column] });
        self
    }

    pub(crate) fn dtc(mut self, spn: u32, change: DtcChange, timestamp_us: i64) -> Self {
        let dtc = Dtc::J1939 { sa: 0, spn, fmi: 3 };
        self.dtcs.push(DtcRecord { timestamp_us, dtc, change, occurrence_count: Some(1), mil_on: None });
        self
    }

    pub(crate) fn section(mut self, kind: SectionKind, body: Vec<u8>) -> Self {
        self.sections.push((kind, body));
        self
    }

    pub(crate) fn uploads(mut self, manifest: &Manifest) -> Self {
        self.upload = Some(manifest.encode());
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let base_us = START_US;
        let mut writer = EnvelopeWriter::new(&Header {
            vehicle_id: self.vehicle_id,
            boot_id: BootId { counter: self.boot, spool: 5 },
            lane: self.lane,
            sequence: self.sequence,
            base_us,
            monotonic_offset_us: 0,
            clock: ClockQuality::Ntp,
            manifest_id: self.manifest_id,
            campaign_id: None,
        });
        if let Some(encoding) = &self.upload {
            writer.plain(SectionKind::Manifest, encoding);
        }
        if !self.groups.is_empty() {
            let columns = Columns { groups: self.groups.clone() };
            writer.compressed(SectionKind::Samples, &columns.encode(base_us, TimeUnit::Microseconds), 1);
        }
        if !self.dtcs.is_empty() {
            writer.plain(SectionKind::Dtcs, &postcard::to_allocvec(&self.dtcs).unwrap());
        }
        for (kind, body) in &self.sections {
            writer.plain(*kind, body);
        }
        writer.finish().unwrap()
    }

    pub(crate) fn record(&self) -> Record {
        record(self.vehicle_id, self.lane, self.bytes())
    }
}

/// A record as the bridge makes it of a publish.
pub(crate) fn record(vehicle_id: VehicleId, lane: Lane, payload: Vec<u8>) -> Record {
    Record {
        partition_key: PartitionKey { version: 1, hash: vehicle_id.0 },
        vehicle_id,
        lane,
        received_us: START_US,
        payload,
    }
}

/// Makes the checksum of an envelope right again after its bytes were changed.
pub(crate) fn seal(mut envelope: Vec<u8>) -> Vec<u8> {
    let end = envelope.len() - 4;
    let crc = crc32c(&envelope[..end]);
    envelope[end..].copy_from_slice(&crc.to_le_bytes());
    envelope
}

/// CRC-32C bit by bit (RFC 3720, appendix B.4), apart from the one under test.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

/// The `id` of every event.
pub(crate) fn ids(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}
