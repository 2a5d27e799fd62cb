//! What every reference database must do, method by method, on each of them.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use convoy_cloud_core::enrol::RevokedCertificate;
use convoy_cloud_core::identity::{
    CustomerId, CustomerKey, ImportId, KeyId, OperationId, SubscriptionId, WebhookEndpointId,
};
use convoy_cloud_core::mask::FieldSelection;
use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::provision::{OperationStatus, plan_create};
use convoy_cloud_core::reference::{
    Customer, Delivery, EndpointClass, Import, MappingOutcome, Operation, Principal, ReferenceDatabase, Role,
    RowError, Subscription, SubscriptionStatus, SubscriptionTerms, Threshold, ThresholdSide, VehicleIdText,
    VehicleMapping, VehicleSelector, WebhookEndpoint,
};
use convoy_protocol::campaign::Campaign;
use convoy_protocol::id::{ManifestId, VehicleId};
use convoy_protocol::report::Report;
use convoy_reference::{Reference, VinKey};
use tempfile::TempDir;

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
#[allow(clippy::print_stderr, reason = "what is skipped is said")]
mod server;

/// Every case below on every database; one that is missing here is dead code to the compiler.
macro_rules! on_each_database {
    ($($case:ident,)*) => {
        #[cfg(feature = "sqlite")]
        mod on_sqlite {
            $(#[tokio::test] async fn $case() { super::$case(super::Home::Sqlite).await; })*
        }
        #[cfg(feature = "postgres")]
        mod on_postgres {
            $(#[tokio::test] async fn $case() {
                if let Some(server) = super::server::Server::shared() {
                    super::$case(super::Home::Postgres(server)).await;
                }
            })*
        }
    };
}

on_each_database! {
    customers_come_back_whole_and_oldest_first,
    key_is_revoked_once_and_its_first_revocation_stays,
    key_of_an_unknown_customer_is_refused,
    vehicle_is_mapped_and_its_vin_comes_back,
    mapping_again_updates_the_label_and_takes_the_earlier_start,
    rows_that_contradict_the_database_are_refused_without_the_vin,
    repeated_rows_within_one_batch_act_in_order,
    batch_larger_than_a_round_maps_every_row_once,
    packages_are_there_from_the_start,
    endpoint_is_disabled_once,
    subscription_and_operation_are_stored_both_or_not_at_all,
    subscription_that_cannot_work_is_refused,
    idempotency_key_is_taken_once_per_customer,
    unfinished_operations_are_those_running_or_undoing,
    routing_holds_subscriptions_of_every_status,
    routing_version_grows_when_routing_changes_and_only_then,
    imports_come_newest_first_and_limited,
    manifest_is_stored_once,
    desired_campaigns_only_grow_and_reports_come_in_any_order,
    enrolment_is_used_once_in_its_time_and_revocation_ends_all_certificates,
}

/// What the database runs on.
#[derive(Clone, Copy)]
enum Home {
    #[cfg(feature = "sqlite")]
    Sqlite,
    #[cfg(feature = "postgres")]
    Postgres(&'static server::Server),
}

/// A new, empty database; on SQLite it lives as long as the directory.
async fn fresh(home: Home) -> (Reference, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let key = VinKey([9; 32]);
    let reference = match home {
        #[cfg(feature = "sqlite")]
        Home::Sqlite => Reference::open_file(&directory.path().join("reference.sqlite"), &key).await,
        #[cfg(feature = "postgres")]
        Home::Postgres(server) => Reference::open(&server.database().await, &key).await,
    };
    (reference.unwrap(), directory)
}

/// A text of a VIN's form that no maker gives out.
fn vin(number: u32) -> String {
    format!("{number:017}")
}

fn customer(number: u8, created_us: i64) -> Customer {
    Customer {
        id: CustomerId::from_bytes(&[number; 16]),
        name: format!("Customer {number} «ÄÖ»"),
        key: CustomerKey([number; 32]),
        created_us,
    }
}

async fn with_customers(home: Home, count: u8) -> (Reference, TempDir, Vec<Customer>) {
    let (reference, directory) = fresh(home).await;
    let customers: Vec<Customer> = (1..=count).map(|number| customer(number, i64::from(number))).collect();
    for customer in &customers {
        reference.create_customer(customer).await.unwrap();
    }
    (reference, directory, customers)
}

fn mapping(vin_number: u32, customer: &Customer) -> VehicleMapping {
    VehicleMapping {
        vin: vin(vin_number),
        vehicle_id: None,
        customer_id: customer.id.clone(),
        label: None,
        valid_from_us: None,
    }
}

fn subscription(number: u8, customer: &Customer) -> Subscription {
    Subscription {
        id: SubscriptionId::from_bytes(&[number; 16]),
        customer_id: customer.id.clone(),
        package: "telematics".into(),
        package_version: 1,
        terms: SubscriptionTerms {
            sampling_ms: Some(500),
            latency_s: None,
            vehicles: VehicleSelector::List { vehicle_ids: vec![VehicleIdText(VehicleId([255; 16]))] },
            fields: FieldSelection { include: vec!["Vehicle.*".into()], exclude: vec![] },
            thresholds: vec![Threshold {
                path: "Vehicle.Speed".into(),
                side: ThresholdSide::Above,
                limit: 80.5,
                hysteresis: 0.0,
            }],
            delivery: Delivery::default(),
            starts_us: Some(i64::MIN),
            ends_us: Some(i64::MAX),
        },
        status: SubscriptionStatus::Provisioning,
        created_us: i64::from(number),
    }
}

fn operation(number: u8, subscription: &Subscription, idempotency_key: Option<&str>) -> Operation {
    Operation {
        id: OperationId::from_bytes(&[number; 16]),
        subscription_id: subscription.id.clone(),
        idempotency_key: idempotency_key.map(str::to_owned),
        request_hash: [number; 32],
        progress: plan_create(subscription, EndpointClass::Signed),
        created_us: i64::from(number),
    }
}

async fn map_one(reference: &Reference, mapping: VehicleMapping, now_us: i64) -> MappingOutcome {
    reference.map_vehicles(&[mapping], now_us).await.unwrap().remove(0)
}

fn mapped(outcome: &MappingOutcome) -> VehicleId {
    match outcome {
        MappingOutcome::Mapped(id) => *id,
        MappingOutcome::Refused(reason) => panic!("refused: {reason}"),
    }
}

fn refusal(outcome: &MappingOutcome) -> &str {
    match outcome {
        MappingOutcome::Refused(reason) => reason,
        MappingOutcome::Mapped(id) => panic!("mapped as {id}"),
    }
}

async fn customers_come_back_whole_and_oldest_first(home: Home) {
    let (reference, _directory) = fresh(home).await;
    let (young, old) = (customer(1, i64::MAX), customer(2, i64::MIN));
    reference.create_customer(&young).await.unwrap();
    reference.create_customer(&old).await.unwrap();
    assert_eq!(reference.customer(&young.id).await.unwrap(), Some(young.clone()));
    assert_eq!(reference.customer(&CustomerId::from_bytes(&[3; 16])).await.unwrap(), None);
    assert_eq!(reference.customers().await.unwrap(), [old, young.clone()]);
    let again = Customer { name: "other".into(), ..young.clone() };
    assert!(matches!(reference.create_customer(&again).await, Err(PortError::Conflict { .. })));
    assert_eq!(reference.customer(&young.id).await.unwrap(), Some(young));
}

async fn key_is_revoked_once_and_its_first_revocation_stays(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 1).await;
    assert!(!reference.has_admin().await.unwrap());
    let admin = Principal {
        key_id: KeyId::from_bytes(&[1; 16]),
        role: Role::Admin,
        secret_hash: [0xff; 32],
        created_us: 5,
        revoked_us: None,
    };
    let fleet = Principal {
        key_id: KeyId::from_bytes(&[2; 16]),
        role: Role::Customer(customers[0].id.clone()),
        ..admin.clone()
    };
    reference.create_principal(&fleet).await.unwrap();
    assert!(!reference.has_admin().await.unwrap(), "a customer's key is no admin key");
    reference.create_principal(&admin).await.unwrap();
    assert!(reference.has_admin().await.unwrap());
    assert!(matches!(reference.create_principal(&admin).await, Err(PortError::Conflict { .. })));
    assert_eq!(reference.principal(&fleet.key_id).await.unwrap(), Some(fleet));
    assert!(reference.revoke_principal(&admin.key_id, 7).await.unwrap());
    assert!(reference.revoke_principal(&admin.key_id, 9).await.unwrap());
    assert!(!reference.has_admin().await.unwrap());
    let revoked = Principal { revoked_us: Some(7), ..admin };
    assert_eq!(reference.principal(&revoked.key_id).await.unwrap(), Some(revoked));
    let unknown = KeyId::from_bytes(&[3; 16]);
    assert_eq!(reference.principal(&unknown).await.unwrap(), None);
    assert!(!reference.revoke_principal(&unknown, 7).await.unwrap());
}

async fn key_of_an_unknown_customer_is_refused(home: Home) {
    let (reference, _directory) = fresh(home).await;
    let principal = Principal {
        key_id: KeyId::from_bytes(&[1; 16]),
        role: Role::Customer(CustomerId::from_bytes(&[1; 16])),
        secret_hash: [0; 32],
        created_us: 0,
        revoked_us: None,
    };
    assert!(matches!(reference.create_principal(&principal).await, Err(PortError::Refused { .. })));
}

async fn vehicle_is_mapped_and_its_vin_comes_back(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 1).await;
    let given = VehicleId([7; 16]);
    let first = VehicleMapping { vehicle_id: Some(given), ..mapping(1, &customers[0]) };
    assert_eq!(mapped(&map_one(&reference, first, 50).await), given);
    let drawn = mapped(&map_one(&reference, mapping(2, &customers[0]), 50).await);
    assert_ne!(drawn, given);
    assert_eq!(reference.vin(given).await.unwrap(), Some(vin(1)));
    assert_eq!(reference.vin(drawn).await.unwrap(), Some(vin(2)));
    assert_eq!(reference.vin(VehicleId([8; 16])).await.unwrap(), None);
    assert_eq!(mapped(&map_one(&reference, mapping(2, &customers[0]), 60).await), drawn);
}

async fn mapping_again_updates_the_label_and_takes_the_earlier_start(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 1).await;
    let row = |label: Option<&str>, valid_from_us| VehicleMapping {
        label: label.map(str::to_owned),
        valid_from_us,
        ..mapping(1, &customers[0])
    };
    for (label, valid_from_us, label_after, from_after) in [
        (Some("A"), None, "A", 100),
        (Some("B"), Some(101), "B", 100),
        (None, Some(99), "B", 99),
        (Some("B"), None, "B", 99),
        (Some("B"), Some(i64::MIN), "B", i64::MIN),
    ] {
        mapped(&map_one(&reference, row(label, valid_from_us), 100).await);
        let rows = reference.routing_rows().await.unwrap();
        assert_eq!(rows.vehicles.len(), 1);
        assert_eq!(rows.vehicles[0].label.as_deref(), Some(label_after));
        assert_eq!((rows.vehicles[0].valid_from_us, rows.vehicles[0].valid_to_us), (from_after, None));
    }
}

async fn rows_that_contradict_the_database_are_refused_without_the_vin(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 2).await;
    let bound = VehicleMapping { vehicle_id: Some(VehicleId([1; 16])), ..mapping(1, &customers[0]) };
    mapped(&map_one(&reference, bound.clone(), 0).await);
    let before = reference.routing_version().await.unwrap();
    let stranger = customer(9, 0);
    let other_id = Some(VehicleId([2; 16]));
    let refused = [
        (VehicleMapping { vehicle_id: other_id, ..bound.clone() }, "another vehicle_id"),
        (VehicleMapping { vin: vin(2), ..bound.clone() }, "another vin"),
        (VehicleMapping { customer_id: stranger.id, ..mapping(3, &customers[0]) }, "no such customer"),
        (mapping(1, &customers[1]), "held by another customer"),
        (VehicleMapping { vin: "0".repeat(16), ..mapping(4, &customers[0]) }, "vin is not 17"),
    ];
    let rows: Vec<VehicleMapping> = refused.iter().map(|(row, _)| row.clone()).collect();
    let outcomes = reference.map_vehicles(&rows, 1).await.unwrap();
    for ((row, words), outcome) in refused.iter().zip(&outcomes) {
        assert!(refusal(outcome).contains(words), "{outcome:?}");
        assert!(!refusal(outcome).contains(&row.vin));
    }
    assert_eq!(reference.routing_version().await.unwrap(), before);
    assert_eq!(reference.routing_rows().await.unwrap().vehicles.len(), 1);
    assert_eq!(reference.vin(VehicleId([2; 16])).await.unwrap(), None);
}

async fn repeated_rows_within_one_batch_act_in_order(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 2).await;
    let id = VehicleId([5; 16]);
    let labelled = |label: &str, valid_from_us| VehicleMapping {
        label: Some(label.into()),
        valid_from_us,
        ..mapping(1, &customers[0])
    };
    let rows = [
        labelled("first", Some(20)),
        labelled("second", Some(10)),
        mapping(1, &customers[1]),
        VehicleMapping { vehicle_id: Some(id), ..mapping(2, &customers[0]) },
        VehicleMapping { vehicle_id: Some(id), ..mapping(3, &customers[0]) },
        mapping(2, &customers[0]),
    ];
    let outcomes = reference.map_vehicles(&rows, 30).await.unwrap();
    assert_eq!(outcomes[0], outcomes[1]);
    assert!(refusal(&outcomes[2]).contains("another customer"));
    assert_eq!(mapped(&outcomes[3]), id);
    assert!(refusal(&outcomes[4]).contains("another vin"));
    assert_eq!(mapped(&outcomes[5]), id);
    let vehicles = reference.routing_rows().await.unwrap().vehicles;
    assert_eq!(vehicles.len(), 2);
    let first = vehicles.iter().find(|vehicle| vehicle.vehicle_id != id).unwrap();
    assert_eq!((first.label.as_deref(), first.valid_from_us), (Some("second"), 10));
}

async fn batch_larger_than_a_round_maps_every_row_once(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 1).await;
    let mut rows: Vec<VehicleMapping> = (0..1000).map(|number| mapping(number, &customers[0])).collect();
    rows.push(mapping(0, &customers[0]));
    let outcomes = reference.map_vehicles(&rows, 1).await.unwrap();
    assert_eq!(outcomes.len(), 1001);
    assert_eq!(outcomes[0], outcomes[1000]);
    let ids: std::collections::HashSet<VehicleId> = outcomes.iter().map(mapped).collect();
    assert_eq!(ids.len(), 1000);
    assert_eq!(reference.routing_rows().await.unwrap().vehicles.len(), 1000);
    assert_eq!(reference.map_vehicles(&rows, 2).await.unwrap(), outcomes);
}

async fn packages_are_there_from_the_start(home: Home) {
    let (reference, _directory) = fresh(home).await;
    let packages = reference.packages().await.unwrap();
    let names: Vec<(&str, u32)> =
        packages.iter().map(|package| (package.name.as_str(), package.version)).collect();
    assert_eq!(
        names,
        [("alerts", 1), ("diagnostics", 1), ("raw", 1), ("telematics", 1), ("track-and-trace", 1)]
    );
    let marks: Vec<(bool, bool)> =
        packages.iter().map(|package| (package.diagnostics, package.alerts)).collect();
    assert_eq!(marks, [(false, true), (true, false), (true, false), (false, false), (false, false)]);
    assert_eq!(packages[2].paths, ["Vehicle.*"]);
    assert!(packages[0].paths.is_empty());
}

async fn endpoint_is_disabled_once(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 1).await;
    let endpoint = |number: u8, created_us| WebhookEndpoint {
        id: WebhookEndpointId::from_bytes(&[number; 16]),
        customer_id: customers[0].id.clone(),
        url: "https://fleet.example/convoy?x=1".into(),
        class: EndpointClass::Signed,
        disabled_us: None,
        created_us,
    };
    let (young, old) = (endpoint(1, 2), endpoint(2, 1));
    reference.create_endpoint(&young).await.unwrap();
    reference.create_endpoint(&old).await.unwrap();
    assert!(matches!(reference.create_endpoint(&old).await, Err(PortError::Conflict { .. })));
    assert_eq!(reference.endpoints().await.unwrap(), [old.clone(), young.clone()]);
    reference.disable_endpoint(&young.id, 10).await.unwrap();
    reference.disable_endpoint(&young.id, 11).await.unwrap();
    let disabled = WebhookEndpoint { disabled_us: Some(10), ..young };
    assert_eq!(reference.endpoint(&disabled.id).await.unwrap(), Some(disabled));
    assert_eq!(reference.endpoint(&old.id).await.unwrap(), Some(old));
    let unknown = WebhookEndpointId::from_bytes(&[3; 16]);
    assert_eq!(reference.endpoint(&unknown).await.unwrap(), None);
    assert!(matches!(reference.disable_endpoint(&unknown, 1).await, Err(PortError::Refused { .. })));
}

async fn subscription_and_operation_are_stored_both_or_not_at_all(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 2).await;
    let (first, second) = (subscription(2, &customers[0]), subscription(1, &customers[0]));
    reference.create_subscription(&first, &operation(1, &first, None)).await.unwrap();
    assert_eq!(reference.subscription(&first.id).await.unwrap(), Some(first.clone()));

    let duplicate = reference.create_subscription(&second, &operation(1, &second, None)).await;
    assert!(matches!(duplicate, Err(PortError::Conflict { .. })));
    assert_eq!(reference.subscription(&second.id).await.unwrap(), None);
    let foreign = reference.create_subscription(&second, &operation(2, &first, None)).await;
    assert!(matches!(foreign, Err(PortError::Refused { .. })));
    assert_eq!(reference.operation(&OperationId::from_bytes(&[2; 16])).await.unwrap(), None);

    reference.create_subscription(&second, &operation(2, &second, None)).await.unwrap();
    assert_eq!(reference.subscriptions(&customers[0].id).await.unwrap(), [second, first]);
    assert!(reference.subscriptions(&customers[1].id).await.unwrap().is_empty());
}

async fn subscription_that_cannot_work_is_refused(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 1).await;
    let sound = subscription(1, &customers[0]);
    let unknown_package = Subscription { package_version: 99, ..sound.clone() };
    let unknown_customer = subscription(1, &customer(9, 0));
    let mut not_a_number = sound.clone();
    not_a_number.terms.thresholds[0].limit = f64::NAN;
    for broken in [unknown_package, unknown_customer, not_a_number] {
        let outcome = reference.create_subscription(&broken, &operation(1, &broken, None)).await;
        assert!(matches!(outcome, Err(PortError::Refused { .. })), "{outcome:?}");
        assert_eq!(reference.subscription(&broken.id).await.unwrap(), None);
    }
    reference.create_subscription(&sound, &operation(1, &sound, None)).await.unwrap();
}

async fn idempotency_key_is_taken_once_per_customer(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 2).await;
    let (mine, theirs) = (subscription(1, &customers[0]), subscription(2, &customers[1]));
    let started = operation(1, &mine, Some("key"));
    reference.create_subscription(&mine, &started).await.unwrap();
    reference.create_subscription(&theirs, &operation(2, &theirs, Some("key"))).await.unwrap();
    let again = reference.create_operation(&operation(3, &mine, Some("key"))).await;
    assert!(matches!(again, Err(PortError::Conflict { .. })));
    for number in [4, 5] {
        reference.create_operation(&operation(number, &mine, None)).await.unwrap();
    }
    assert_eq!(reference.operation_by_key(&customers[0].id, "key").await.unwrap(), Some(started));
    let other = reference.operation_by_key(&customers[1].id, "key").await.unwrap().unwrap();
    assert_eq!(other.subscription_id, theirs.id);
    assert_eq!(reference.operation_by_key(&customers[0].id, "Key").await.unwrap(), None);
    let lost = operation(6, &subscription(9, &customers[0]), None);
    assert!(matches!(reference.create_operation(&lost).await, Err(PortError::Refused { .. })));
}

async fn unfinished_operations_are_those_running_or_undoing(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 1).await;
    let target = subscription(1, &customers[0]);
    let mut operations: Vec<Operation> = (1..=5).map(|number| operation(number, &target, None)).collect();
    reference.create_subscription(&target, &operations[0]).await.unwrap();
    for operation in operations[1..].iter().rev() {
        reference.create_operation(operation).await.unwrap();
    }
    assert_eq!(reference.unfinished_operations().await.unwrap(), operations);
    let states = [
        OperationStatus::Succeeded,
        OperationStatus::Undoing,
        OperationStatus::Failed,
        OperationStatus::NeedsAttention,
        OperationStatus::Running,
    ];
    for (operation, status) in operations.iter_mut().zip(states) {
        operation.progress.status = status;
        operation.progress.error = Some("why".into());
        reference.save_progress(&operation.id, &operation.progress).await.unwrap();
        assert_eq!(reference.operation(&operation.id).await.unwrap().as_ref(), Some(&*operation));
    }
    let unfinished = [operations[1].clone(), operations[4].clone()];
    assert_eq!(reference.unfinished_operations().await.unwrap(), unfinished);
    let unknown = OperationId::from_bytes(&[99; 16]);
    let saved = reference.save_progress(&unknown, &operations[0].progress).await;
    assert!(matches!(saved, Err(PortError::Refused { .. })));
}

async fn routing_holds_subscriptions_of_every_status(home: Home) {
    let (reference, _directory, customers) = with_customers(home, 1).await;
    let target = subscription(1, &customers[0]);
    reference.create_subscription(&target, &operation(1, &target, None)).await.unwrap();
    for status in [
        SubscriptionStatus::Provisioning,
        SubscriptionStatus::Active,
        SubscriptionStatus::Deprovisioning,
        SubscriptionStatus::Ended,
        SubscriptionStatus::Failed,
    ] {
        reference.set_subscription_status(&target.id, status).await.unwrap();
        let now = Subscription { status, ..target.clone() };
        assert_eq!(reference.subscription(&target.id).await.unwrap().as_ref(), Some(&now));
        assert_eq!(reference.routing_rows().await.unwrap().subscriptions, [now]);
    }
    let unknown = SubscriptionId::from_bytes(&[9; 16]);
    let moved = reference.set_subscription_status(&unknown, SubscriptionStatus::Active).await;
    assert!(matches!(moved, Err(PortError::Refused { .. })));
}

/// Asserts by how much the routing version grew since the last call.
struct Version<'a>(&'a Reference, u64);

impl Version<'_> {
    async fn grew_by(&mut self, growth: u64, what: &str) {
        let now = self.0.routing_version().await.unwrap();
        assert_eq!(now - self.1, growth, "{what}");
        assert_eq!(self.0.routing_rows().await.unwrap().version, now);
        self.1 = now;
    }
}

async fn routing_version_grows_when_routing_changes_and_only_then(home: Home) {
    let (reference, _directory) = fresh(home).await;
    let mut version = Version(&reference, 0);
    version.grew_by(1, "a new database is at 1").await;
    let owner = customer(1, 1);
    reference.create_customer(&owner).await.unwrap();
    version.grew_by(1, "a customer").await;
    assert!(reference.create_customer(&owner).await.is_err());
    version.grew_by(0, "the same customer, refused").await;
    let row = VehicleMapping { label: Some("x".into()), ..mapping(1, &owner) };
    map_one(&reference, row.clone(), 5).await;
    version.grew_by(1, "a vehicle").await;
    map_one(&reference, row.clone(), 6).await;
    version.grew_by(0, "the same vehicle again").await;
    reference.map_vehicles(&[], 6).await.unwrap();
    version.grew_by(0, "an empty batch").await;
    map_one(&reference, VehicleMapping { valid_from_us: Some(4), ..row }, 6).await;
    version.grew_by(1, "an earlier start").await;

    let target = subscription(1, &owner);
    reference.create_subscription(&target, &operation(1, &target, None)).await.unwrap();
    version.grew_by(0, "a subscription that is not active yet").await;
    for (status, growth) in [
        (SubscriptionStatus::Active, 1),
        (SubscriptionStatus::Active, 0),
        (SubscriptionStatus::Deprovisioning, 1),
        (SubscriptionStatus::Ended, 0),
    ] {
        reference.set_subscription_status(&target.id, status).await.unwrap();
        version.grew_by(growth, status.as_str()).await;
    }
    let active = Subscription { status: SubscriptionStatus::Active, ..subscription(2, &owner) };
    reference.create_subscription(&active, &operation(2, &active, None)).await.unwrap();
    version.grew_by(1, "a subscription that is active at once").await;
    reference.put_manifest(ManifestId([1; 16]), b"x").await.unwrap();
    version.grew_by(0, "a manifest").await;
}

async fn imports_come_newest_first_and_limited(home: Home) {
    let (reference, _directory) = fresh(home).await;
    let import = |number: u8, finished_us| Import {
        id: ImportId::from_bytes(&[number; 16]),
        source: "fleet ☂.csv".into(),
        rows: i64::MAX as u64,
        accepted: 0,
        rejected: 1,
        errors: vec![RowError { line: u64::MAX, reason: "there is no such customer".into() }],
        finished_us,
    };
    let imports = [import(1, 30), import(2, 20), import(3, 10)];
    for import in imports.iter().rev() {
        reference.create_import(import).await.unwrap();
    }
    assert_eq!(reference.imports(u32::MAX).await.unwrap(), imports);
    assert_eq!(reference.imports(2).await.unwrap(), imports[..2]);
    assert_eq!(reference.imports(0).await.unwrap(), []);
    assert_eq!(reference.import(&imports[1].id).await.unwrap().as_ref(), Some(&imports[1]));
    assert_eq!(reference.import(&ImportId::from_bytes(&[9; 16])).await.unwrap(), None);
    let again = reference.create_import(&imports[0]).await;
    assert!(matches!(again, Err(PortError::Conflict { .. })));
    let too_many = Import { rows: i64::MAX as u64 + 1, ..import(4, 40) };
    assert!(matches!(reference.create_import(&too_many).await, Err(PortError::Refused { .. })));
}

async fn manifest_is_stored_once(home: Home) {
    let (reference, _directory) = fresh(home).await;
    let (large, empty) = (ManifestId([1; 16]), ManifestId([0; 16]));
    let encoding: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    for _ in 0..2 {
        reference.put_manifest(large, &encoding).await.unwrap();
        reference.put_manifest(empty, &[]).await.unwrap();
    }
    assert_eq!(reference.manifest(large).await.unwrap(), Some(encoding));
    assert_eq!(reference.manifest(empty).await.unwrap(), Some(vec![]));
    assert_eq!(reference.manifest(ManifestId([2; 16])).await.unwrap(), None);
}

async fn desired_campaigns_only_grow_and_reports_come_in_any_order(home: Home) {
    let (reference, _directory) = fresh(home).await;
    let (vehicle, silent) = (VehicleId([1; 16]), VehicleId([2; 16]));
    assert_eq!(reference.vehicle_campaigns(vehicle).await.unwrap(), None);
    let report = |version| Report { version, ..Report::default() };
    // A vehicle may report before anything is wanted of it.
    reference.put_report(vehicle, &report(None), 5).await.unwrap();
    let known = reference.vehicle_campaigns(vehicle).await.unwrap().unwrap();
    assert_eq!((known.version, known.campaigns.len()), (0, 0));
    for (version, count) in [(7, 1), (9, 2), (8, 3)] {
        let campaigns = vec![Campaign::everything(); count];
        for id in [vehicle, silent] {
            reference.put_desired(id, version, &campaigns, i64::try_from(version).unwrap()).await.unwrap();
        }
    }
    reference.put_report(vehicle, &report(Some(9)), 20).await.unwrap();
    reference.put_report(vehicle, &report(Some(7)), 19).await.unwrap();
    let all = reference.vehicle_campaigns_all().await.unwrap();
    assert_eq!(
        (all.len(), &all[&vehicle]),
        (2, &reference.vehicle_campaigns(vehicle).await.unwrap().unwrap())
    );
    let known = &all[&vehicle];
    assert_eq!((known.version, known.campaigns.len(), known.changed_us), (9, 2, 9));
    let reported = known.reported.as_ref().unwrap();
    assert_eq!((reported.report.version, reported.received_us), (Some(9), 20));

    assert_eq!(reference.overdue_campaigns(9, 10).await.unwrap(), []);
    assert_eq!(reference.overdue_campaigns(10, 10).await.unwrap(), [(silent, 9, 9)]);
    reference.mark_overdue_raised(silent, 9).await.unwrap();
    assert_eq!(reference.overdue_campaigns(10, 10).await.unwrap(), []);
}

async fn enrolment_is_used_once_in_its_time_and_revocation_ends_all_certificates(home: Home) {
    let (reference, _directory) = fresh(home).await;
    let vehicle = VehicleId([1; 16]);
    reference.create_enrolment([5; 32], vehicle, 100).await.unwrap();
    assert_eq!(reference.enrolment([6; 32], 1).await.unwrap(), None);
    assert_eq!(reference.enrolment([5; 32], 100).await.unwrap(), None, "expired");
    assert_eq!(reference.enrolment([5; 32], 99).await.unwrap(), Some(vehicle));
    assert!(!reference.use_enrolment([5; 32], vehicle, [1; 16], 1_000, 100).await.unwrap());
    assert!(reference.use_enrolment([5; 32], vehicle, [1; 16], 1_000, 99).await.unwrap());
    assert!(!reference.use_enrolment([5; 32], vehicle, [2; 16], 1_000, 99).await.unwrap());
    assert_eq!(reference.enrolment([5; 32], 99).await.unwrap(), None, "used");

    assert_eq!(reference.revoked_certificates(200).await.unwrap(), []);
    assert_eq!(reference.revoke_certificates(vehicle, 200).await.unwrap(), 1);
    assert_eq!(reference.revoke_certificates(vehicle, 300).await.unwrap(), 0);
    let revoked = RevokedCertificate { serial: [1; 16], revoked_us: 200 };
    assert_eq!(reference.revoked_certificates(999).await.unwrap(), [revoked]);
    assert_eq!(reference.revoked_certificates(1_000).await.unwrap(), [], "it ended by itself");

    // A token that was given out before is of no use after a revocation.
    reference.create_enrolment([7; 32], vehicle, 1_000).await.unwrap();
    reference.revoke_certificates(vehicle, 400).await.unwrap();
    assert_eq!(reference.enrolment([7; 32], 401).await.unwrap(), None);
    assert!(!reference.use_enrolment([7; 32], vehicle, [3; 16], 1_000, 401).await.unwrap());
}
