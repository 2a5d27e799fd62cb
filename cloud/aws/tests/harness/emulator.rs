//! An emulator of AWS on this machine: one server a test process, on a free port, with its state in a folder that goes
//! with it.
//!
//! `CONVOY_MINISTACK` names the program. What it does not emulate (throttling, partial failures) is tested with a fake.
#![allow(dead_code, reason = "each suite uses a part")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TimeToLiveSpecification,
};
use convoy_aws::clients::{Http, Place, sdk_config};
use convoy_aws::dynamodb::{PARTITION_KEY, SORT_KEY, TTL, Tables};
use convoy_aws::objects;
use convoy_cloud_core::ambient::Ambient;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;

/// Variable that names the emulator's program.
const PROGRAM: &str = "CONVOY_MINISTACK";
/// The emulator answers after this time at the latest.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A static is never dropped. So a shell starts the server and waits for the end of its own input, which is the end of
/// the test process, however that ends; then it ends the server by its id and removes the state.
const GUARD: &str = r#""$0" & server=$!; read -r line; kill $server; wait $server; rm -rf "$1""#;
pub(crate) const REGION: &str = "eu-central-1";
/// Key id, key and session of everybody.
pub(crate) const KEY: &str = "test";

/// A running emulator.
pub(crate) struct Emulator {
    /// Its endpoint, for all services.
    pub(crate) url: String,
    /// See [`GUARD`].
    _guard: Child,
}

/// The emulator of this test process.
pub(crate) fn emulator() -> &'static Emulator {
    static EMULATOR: OnceLock<Emulator> = OnceLock::new();
    EMULATOR.get_or_init(start)
}

fn start() -> Emulator {
    let program = std::env::var(PROGRAM).unwrap_or_else(|_| {
        panic!("{PROGRAM} is not set: name the program of the AWS emulator, `ministack` of `pip install 'ministack[full]==1.5.33'`")
    });
    let state = tempfile::tempdir().unwrap().keep();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let guard = Command::new("sh")
        .args(["-c", GUARD, &program])
        .arg(&state)
        .env("GATEWAY_PORT", port.to_string())
        // Otherwise it listens for everybody, and on IoT's port too.
        .env("BIND_HOST", Ipv4Addr::LOCALHOST.to_string())
        .env("IOT_MTLS_ENABLED", "0")
        .env("MINISTACK_HOST", "localhost")
        .env("STATE_DIR", state.join("state"))
        .env("S3_DATA_DIR", state.join("s3"))
        .env("TMPDIR", &state)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (address, began) = (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Instant::now());
    while TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < START_TIMEOUT, "{program} does not listen on {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Emulator { url: format!("http://{address}"), _guard: guard }
}

/// Where services are, behind this URL.
pub(crate) fn place(url: &str) -> Place {
    Place { region: REGION.to_owned(), endpoint_url: Some(url.to_owned()) }
}

/// The SDK's configuration for services behind this URL.
pub(crate) fn config(url: &str) -> SdkConfig {
    let credentials = Credentials::new(KEY, KEY, None, None, "test");
    sdk_config(&place(url), SharedCredentialsProvider::new(credentials), &Http::default())
}

/// The true clock and true dice.
pub(crate) fn ambient() -> Ambient {
    Ambient::new(now_us, |bytes| getrandom::fill(bytes).unwrap())
}

/// Microseconds since the Unix epoch, UTC.
pub(crate) fn now_us() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as i64
}

/// Makes the tables of the event store, with names that begin so.
pub(crate) async fn create_tables(url: &str, prefix: &str) -> Tables {
    let client = aws_sdk_dynamodb::Client::new(&config(url));
    let name = |table: &str| format!("{prefix}-{table}");
    let tables = Tables {
        events: name("events"),
        state: name("state"),
        feed: name("feed"),
        vehicles: name("vehicles"),
    };
    for table in tables.names() {
        create_table(&client, table).await;
    }
    tables
}

async fn create_table(client: &aws_sdk_dynamodb::Client, table: &str) {
    let keys = [(PARTITION_KEY, KeyType::Hash), (SORT_KEY, KeyType::Range)];
    let (mut attributes, mut schema) = (Vec::new(), Vec::new());
    for (name, kind) in keys {
        let attribute = AttributeDefinition::builder().attribute_name(name);
        attributes.push(attribute.attribute_type(ScalarAttributeType::S).build().unwrap());
        schema.push(KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap());
    }
    client
        .create_table()
        .table_name(table)
        .set_attribute_definitions(Some(attributes))
        .set_key_schema(Some(schema))
        .billing_mode(BillingMode::PayPerRequest)
        .send()
        .await
        .unwrap();
    let ttl = TimeToLiveSpecification::builder().attribute_name(TTL).enabled(true).build().unwrap();
    client.update_time_to_live().table_name(table).time_to_live_specification(ttl).send().await.unwrap();
}

/// Makes a bucket.
pub(crate) async fn create_bucket(url: &str, bucket: &str) -> Arc<dyn ObjectStore> {
    // Making buckets is the deployment's work, for which the object store has no call.
    let body = format!(
        "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
    );
    let made = http().put(format!("{url}/{bucket}")).body(body).send().await.unwrap();
    assert!(made.status().is_success(), "bucket {bucket}: {}", made.status());
    bucket_at(url, bucket)
}

/// A bucket that exists.
pub(crate) fn bucket_at(url: &str, bucket: &str) -> Arc<dyn ObjectStore> {
    let builder = AmazonS3Builder::new().with_access_key_id(KEY).with_secret_access_key(KEY);
    Arc::new(objects::open_with(builder, &place(url), bucket, Http::default()).unwrap())
}

/// A client for plain HTTP.
pub(crate) fn http() -> reqwest::Client {
    // An error means that another test has installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
