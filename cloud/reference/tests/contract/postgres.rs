//! What is particular to a database over a network: it may be away, another program migrates it, passwords change.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::reference::{ReferenceDatabase as _, SubscriptionStatus};
use convoy_reference::{OpenOptions, PasswordProvider, Reference, VinKey};
use sqlx::{Connection as _, PgConnection};

use crate::server::Server;
use crate::{customer, mapping, operation, subscription};

const KEY: VinKey = VinKey([9; 32]);
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// As the functions of the cloud open it.
fn lazy() -> OpenOptions {
    OpenOptions { migrate: false, acquire_timeout: ACQUIRE_TIMEOUT, ..OpenOptions::default() }
}

async fn execute(url: &str, sql: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn database_that_is_away_is_unavailable_in_time_and_works_again_without_reopening() {
    let Some(server) = Server::start() else { return };
    let url = server.database().await;
    let early = Reference::open_with(&url, &KEY, &lazy(), None).await.unwrap();
    let options = OpenOptions { acquire_timeout: ACQUIRE_TIMEOUT, ..OpenOptions::default() };
    let reference = Reference::open_with(&url, &KEY, &options, None).await.unwrap();
    let owner = customer(1, 1);
    reference.create_customer(&owner).await.unwrap();

    server.stop();
    for reference in [&reference, &early] {
        let started = Instant::now();
        let error = reference.customers().await.unwrap_err();
        assert!(matches!(error, PortError::Unavailable { .. }), "{error}");
        let error = reference.map_vehicles(&[mapping(1, &owner)], 1).await.unwrap_err();
        assert!(matches!(error, PortError::Unavailable { .. }), "{error}");
        assert!(started.elapsed() < 3 * ACQUIRE_TIMEOUT, "{:?}", started.elapsed());
    }
    let late = Reference::open_with(&url, &KEY, &lazy(), None).await.unwrap();

    server.start_again();
    for reference in [&reference, &early, &late] {
        assert_eq!(reference.customers().await.unwrap(), std::slice::from_ref(&owner));
    }
}

#[tokio::test]
async fn schema_and_key_of_another_are_refused_at_first_use_until_they_fit() {
    let Some(server) = Server::shared() else { return };
    let url = server.database().await;
    let reference = Reference::open_with(&url, &KEY, &lazy(), None).await.unwrap();
    let refused = async |words: &str| {
        let error = reference.packages().await.unwrap_err();
        assert!(matches!(error, PortError::Refused { .. }) && error.to_string().contains(words), "{error}");
    };
    refused("its schema has version 0 and this program needs version 4").await;
    Reference::open(&url, &KEY).await.unwrap().close().await;
    execute(&url, "UPDATE schema_version SET version = 1000").await;
    refused("its schema has version 1000").await;
    let error = Reference::open(&url, &KEY).await.unwrap_err();
    assert!(error.to_string().contains("knows versions up to 4"), "{error}");
    execute(&url, "UPDATE schema_version SET version = 4").await;
    assert_eq!(reference.packages().await.unwrap().len(), 5);

    let stranger = Reference::open_with(&url, &VinKey([8; 32]), &lazy(), None).await.unwrap();
    let error = stranger.packages().await.unwrap_err();
    assert!(matches!(&error, PortError::Refused { reason, .. } if reason.contains("vin key")), "{error}");
}

#[tokio::test]
async fn password_of_now_is_used_for_new_connections() {
    let Some(server) = Server::shared() else { return };
    let url = server.database().await;
    let password = Arc::new(Mutex::new("first".to_owned()));
    let given = Arc::clone(&password);
    let provider: PasswordProvider = Arc::new(move || {
        let password = given.lock().unwrap().clone();
        Box::pin(async move { Ok(password) })
    });
    let reference =
        Reference::open_with(&url, &KEY, &OpenOptions::default(), Some(provider.clone())).await.unwrap();
    reference.close().await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    // Its group is in the server's pg_hba.conf.
    let sql = "CREATE ROLE asked; CREATE ROLE one LOGIN PASSWORD 'first' IN ROLE asked; \
               GRANT ALL ON ALL TABLES IN SCHEMA public TO one";
    sqlx::raw_sql(sql).execute(&mut admin).await.unwrap();
    let asked = url.replace("convoy@", "one@");
    let options = OpenOptions { connections_max: 1, ..lazy() };
    let reference = Reference::open_with(&asked, &KEY, &options, Some(provider)).await.unwrap();
    assert_eq!(reference.packages().await.unwrap().len(), 5);

    let sql = "ALTER ROLE one PASSWORD 'second/?#'; \
               SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'one'";
    sqlx::raw_sql(sql).execute(&mut admin).await.unwrap();
    let error = reference.packages().await.unwrap_err();
    assert!(matches!(error, PortError::Unavailable { .. }), "{error}");
    "second/?#".clone_into(&mut password.lock().unwrap());
    assert_eq!(reference.packages().await.unwrap().len(), 5);
}

#[tokio::test]
async fn two_programs_that_open_a_new_database_and_write_at_once_lose_nothing() {
    const WRITES: u32 = 30;
    let Some(server) = Server::shared() else { return };
    let url = server.database().await;
    let (one, two) = tokio::join!(Reference::open(&url, &KEY), Reference::open(&url, &KEY));
    let (one, two) = (one.unwrap(), two.unwrap());
    let owner = customer(1, 1);
    one.create_customer(&owner).await.unwrap();
    assert_eq!(two.routing_version().await.unwrap(), 2, "packages were stored once");
    let write = async |reference: &Reference, first: u32| {
        for number in first..first + WRITES {
            reference.map_vehicles(&[mapping(number, &owner)], 1).await.unwrap();
        }
    };
    tokio::join!(write(&one, 1), write(&two, 1 + WRITES));
    let rows = one.routing_rows().await.unwrap();
    assert_eq!((rows.vehicles.len(), rows.version), (2 * WRITES as usize, 2 + u64::from(2 * WRITES)));
}

/// Seen before the fix: the second change judged by the state before the first, and routing was not told of the end.
#[tokio::test]
async fn subscription_that_becomes_active_at_the_same_moment_leaves_it_and_routing_is_told() {
    let Some(server) = Server::shared() else { return };
    let url = server.database().await;
    let reference = Arc::new(Reference::open(&url, &KEY).await.unwrap());
    let owner = customer(1, 1);
    reference.create_customer(&owner).await.unwrap();
    let wanted = subscription(1, &owner);
    reference.create_subscription(&wanted, &operation(1, &wanted, None)).await.unwrap();
    let version = reference.routing_version().await.unwrap();
    let mut first = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; UPDATE subscription SET status = 'active'").execute(&mut first).await.unwrap();
    let (second, id) = (Arc::clone(&reference), wanted.id.clone());
    let ending =
        tokio::spawn(
            async move { second.set_subscription_status(&id, SubscriptionStatus::Deprovisioning).await },
        );
    let mut watch = PgConnection::connect(&url).await.unwrap();
    let waits = "SELECT 1 FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database \
                 WHERE datname = current_database() AND NOT granted \
                 UNION ALL SELECT 1 FROM pg_stat_activity \
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query(waits).fetch_all(&mut watch).await.unwrap().is_empty() {
        assert!(!ending.is_finished(), "it does not wait for the first");
        tokio::task::yield_now().await;
    }
    sqlx::raw_sql("COMMIT").execute(&mut first).await.unwrap();
    ending.await.unwrap().unwrap();
    assert_eq!(reference.routing_version().await.unwrap(), version + 1);
}
