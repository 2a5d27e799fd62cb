//! What is particular to the file: what it holds in clear, opening it again, two writers, other versions, other keys.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::path::Path;

use convoy_cloud_core::identity::{CustomerId, CustomerKey};
use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::reference::{Customer, MappingOutcome, ReferenceDatabase, VehicleMapping};
use convoy_protocol::id::VehicleId;
use convoy_reference::{Reference, VinKey};
use sqlx::AnyPool;

const KEY: VinKey = VinKey([9; 32]);

fn customer(number: u8) -> Customer {
    Customer {
        id: CustomerId::from_bytes(&[number; 16]),
        name: format!("customer {number}"),
        key: CustomerKey([0xc0 | number; 32]),
        created_us: 1,
    }
}

fn mapping(vin_number: u32, customer: &Customer) -> VehicleMapping {
    VehicleMapping {
        vin: format!("{vin_number:017}"),
        vehicle_id: Some(VehicleId(u128::from(vin_number).to_be_bytes())),
        customer_id: customer.id.clone(),
        label: Some("truck".into()),
        valid_from_us: Some(3),
    }
}

/// A connection beside the port, for what no method of it does.
async fn raw(file: &Path) -> AnyPool {
    AnyPool::connect(&format!("sqlite://{}?mode=rw", file.display())).await.unwrap()
}

fn occurs(needle: &[u8], directory: &Path) -> bool {
    let files =
        std::fs::read_dir(directory).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    files.into_iter().any(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
}

#[tokio::test]
async fn neither_vin_nor_pseudonym_key_is_on_disk_in_clear() {
    let directory = tempfile::tempdir().unwrap();
    let reference = Reference::open_file(&directory.path().join("r.sqlite"), &KEY).await.unwrap();
    let owner = customer(1);
    reference.create_customer(&owner).await.unwrap();
    let row = mapping(40_302_010, &owner);
    reference.map_vehicles(std::slice::from_ref(&row), 1).await.unwrap();
    for closed in [false, true] {
        if closed {
            reference.close().await;
        }
        assert!(occurs(b"customer 1", directory.path()), "the search sees what is stored");
        assert!(!occurs(row.vin.as_bytes(), directory.path()));
        assert!(!occurs(&owner.key.0, directory.path()));
        assert!(!occurs(&KEY.0, directory.path()));
    }
}

#[tokio::test]
async fn reopened_database_has_everything() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("name with spaces, 100% #1?.sqlite");
    let reference = Reference::open_file(&file, &KEY).await.unwrap();
    let owner = customer(1);
    reference.create_customer(&owner).await.unwrap();
    reference.map_vehicles(&[mapping(1, &owner)], 1).await.unwrap();
    let before = reference.routing_rows().await.unwrap();
    reference.close().await;
    assert!(matches!(reference.customers().await, Err(PortError::Unavailable { .. })));
    assert!(file.exists());

    let reference = Reference::open_file(&file, &KEY).await.unwrap();
    let after = reference.routing_rows().await.unwrap();
    assert_eq!(after.version, before.version, "opening again changes nothing");
    assert_eq!(after.customers, [owner]);
    assert_eq!(after.vehicles, before.vehicles);
    assert_eq!(after.packages, before.packages);
    assert_eq!(reference.vin(VehicleId(1_u128.to_be_bytes())).await.unwrap(), Some(format!("{:017}", 1)));
}

#[tokio::test]
async fn newer_schema_is_refused_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.sqlite");
    Reference::open_file(&file, &KEY).await.unwrap().close().await;
    let pool = raw(&file).await;
    sqlx::query("UPDATE schema_version SET version = 1000").execute(&pool).await.unwrap();
    pool.close().await;
    let error = Reference::open_file(&file, &KEY).await.unwrap_err();
    assert!(matches!(error, PortError::Refused { .. }));
    assert!(error.to_string().contains("schema has version 1000 and this program knows versions up to 4"));
}

#[tokio::test]
async fn another_key_is_refused_at_opening() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.sqlite");
    Reference::open_file(&file, &KEY).await.unwrap().close().await;
    let error = Reference::open_file(&file, &VinKey([8; 32])).await.unwrap_err();
    assert!(matches!(&error, PortError::Refused { reason, .. } if reason.contains("vin key")), "{error}");
    Reference::open_file(&file, &KEY).await.unwrap();
}

#[tokio::test]
async fn file_that_is_no_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.sqlite");
    let text = "not a database, but a text that someone may still want\n".repeat(50);
    std::fs::write(&file, &text).unwrap();
    let error = Reference::open_file(&file, &KEY).await.unwrap_err();
    assert!(matches!(error, PortError::Refused { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[tokio::test]
async fn past_hold_stays_in_routing_and_guards_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.sqlite");
    let reference = Reference::open_file(&file, &KEY).await.unwrap();
    let (first, second) = (customer(1), customer(2));
    for customer in [&first, &second] {
        reference.create_customer(customer).await.unwrap();
    }
    reference.map_vehicles(&[mapping(1, &first)], 1).await.unwrap();
    let pool = raw(&file).await;
    sqlx::query("UPDATE customer_vehicle SET valid_to_us = 10").execute(&pool).await.unwrap();

    let from = |valid_from_us| VehicleMapping { valid_from_us: Some(valid_from_us), ..mapping(1, &second) };
    let outcomes = reference.map_vehicles(&[from(9), from(10), from(9)], 1).await.unwrap();
    let early =
        MappingOutcome::Refused("valid_from is before the end of an earlier hold of this vehicle".into());
    assert_eq!(outcomes, [early.clone(), MappingOutcome::Mapped(VehicleId(1_u128.to_be_bytes())), early]);
    let vehicles = reference.routing_rows().await.unwrap().vehicles;
    let holds: Vec<_> = vehicles
        .iter()
        .map(|hold| (hold.customer_id.clone(), hold.valid_from_us, hold.valid_to_us))
        .collect();
    assert_eq!(holds, [(first.id, 3, Some(10)), (second.id, 10, None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pools_writing_at_once_lose_nothing() {
    const WRITES: u32 = 60;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("r.sqlite");
    // Both make the schema at the same time.
    let (one, two) = tokio::join!(Reference::open_file(&file, &KEY), Reference::open_file(&file, &KEY));
    let (one, two) = (one.unwrap(), two.unwrap());
    let owner = customer(1);
    one.create_customer(&owner).await.unwrap();
    let start = one.routing_version().await.unwrap();
    assert_eq!(start, 2, "packages were stored once");
    let write = async |reference: Reference, first: u32| {
        for number in first..first + WRITES {
            let outcomes = reference.map_vehicles(&[mapping(number, &owner)], 1).await.unwrap();
            assert!(matches!(outcomes[0], MappingOutcome::Mapped(_)));
        }
        reference
    };
    let (one, two) = tokio::join!(write(one, 1), write(two, 1 + WRITES));
    for reference in [one, two] {
        let rows = reference.routing_rows().await.unwrap();
        assert_eq!(rows.vehicles.len(), 2 * WRITES as usize);
        assert_eq!(rows.version, start + u64::from(2 * WRITES));
    }
}

#[test]
fn nothing_secret_is_printed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let reference = runtime.block_on(Reference::open_file(&directory.path().join("r.sqlite"), &KEY)).unwrap();
    assert_eq!(format!("{reference:?}"), "Reference { dialect: Sqlite, .. }");
}
