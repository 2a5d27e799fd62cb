//! What a function finds around it: tables, bucket, queues, secret and bus on the emulator, and the way to them.
#![allow(dead_code, reason = "each suite uses a part")]

use std::collections::BTreeMap;

use aws_sdk_eventbridge::types::Target;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, QueueAttributeName};
use convoy_aws::entry::unpack_stored;
use convoy_aws::environment::{Function, names};
use convoy_cloud_core::bus::{SOURCE_INGEST, TYPE_ENVELOPE};
use convoy_cloud_core::ledger::{LaneLedger, accounts};
use convoy_cloud_core::ports::{EventQuery, EventStore as _, StoredEnvelope};
use convoy_protocol::envelope::Envelope;
use convoy_protocol::id::{EnvelopeKey, VehicleId};
use serde_json::{Value, json};

use crate::emulator::{KEY, REGION, config, emulator};
use crate::proxy::Proxy;
use crate::runtime::Launch;
use crate::store::{Home, KEEP_DAYS};
use crate::vehicle::Vehicle;

/// SQS gives this many messages at most.
const MESSAGES_MAX: i32 = 10;
/// The secret that all keys are derived from.
pub(crate) const SECRET: &str = "of-this-emulator-and-nothing-else-0123456789abcdef0123456789abcd";

/// The stage of a test.
pub(crate) struct Stage {
    pub(crate) home: Home,
    /// How functions reach the services.
    pub(crate) proxy: Proxy,
    pub(crate) queues: aws_sdk_sqs::Client,
    /// Url of the queue that gets what is published to the default bus.
    watched: String,
    variables: BTreeMap<String, String>,
}

impl Stage {
    /// An empty one, its resources named for the test.
    pub(crate) async fn new(name: &str) -> Self {
        let sdk = config(&emulator().url);
        let queues = aws_sdk_sqs::Client::new(&sdk);
        let (home, proxy) = tokio::join!(Home::new(name), Proxy::before(&emulator().url));
        let watched = create_queue(&queues, &format!("{name}-published")).await;
        create_bus(&aws_sdk_eventbridge::Client::new(&sdk), name, &arn(&queues, &watched).await).await;
        let secrets = aws_sdk_secretsmanager::Client::new(&sdk);
        secrets.create_secret().name(name).secret_string(SECRET).send().await.unwrap();
        let variables = [
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", KEY.to_owned()),
            ("AWS_SESSION_TOKEN", KEY.to_owned()),
            ("AWS_ENDPOINT_URL", proxy.url().to_owned()),
            (names::SECRET, name.to_owned()),
            (names::BUCKET, home.bucket.clone()),
            (names::EVENTS, home.tables.events.clone()),
            (names::STATE, home.tables.state.clone()),
            (names::FEED, home.tables.feed.clone()),
            (names::VEHICLES, home.tables.vehicles.clone()),
            (names::KEEP_DAYS, KEEP_DAYS.to_string()),
            (names::DEFAULT_BUS, name.to_owned()),
            (names::DOWNLINK_QUEUE, create_queue(&queues, &format!("{name}-downlink")).await),
            (names::REPORTS_QUEUE, create_queue(&queues, &format!("{name}-reports")).await),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Self { home, proxy, queues, watched, variables }
    }

    /// How a function is started on it.
    pub(crate) fn launch(&self, program: &str, function: Function) -> Launch {
        Launch::new(program, self.variables.clone()).with(names::FUNCTION, function.name())
    }

    /// The envelopes that were published to the default bus since the last look, in the order of the queue behind it.
    pub(crate) async fn published(&self) -> Vec<(VehicleId, EnvelopeKey)> {
        let mut published = Vec::new();
        // The emulator puts an event into the queue before it answers the call, so nothing is on its way.
        loop {
            let receive = self.queues.receive_message().queue_url(&self.watched);
            let received = receive.max_number_of_messages(MESSAGES_MAX).send().await.unwrap();
            let messages = received.messages.unwrap_or_default();
            if messages.is_empty() {
                return published;
            }
            let mut delete = self.queues.delete_message_batch().queue_url(&self.watched);
            for (index, message) in messages.iter().enumerate() {
                let body = message.body().unwrap();
                let delivered: Value = serde_json::from_str(body).unwrap();
                assert_eq!(
                    (&delivered["source"], &delivered["detail-type"]),
                    (&SOURCE_INGEST.into(), &TYPE_ENVELOPE.into())
                );
                for event in unpack_stored(body).unwrap() {
                    let header = Envelope::parse(&event.payload).unwrap().header;
                    published.push((header.vehicle_id, header.key()));
                }
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                let entry = entry.receipt_handle(message.receipt_handle().unwrap());
                delete = delete.entries(entry.build().unwrap());
            }
            delete.send().await.unwrap();
        }
    }

    /// The account of a vehicle that has one boot and one lane.
    pub(crate) async fn account(&self, vehicle_id: VehicleId) -> LaneLedger {
        let accounts = accounts(&self.home.store().ledger(vehicle_id).await.unwrap());
        let [account] = &accounts[..] else { panic!("{accounts:?}") };
        account.clone()
    }

    /// The envelopes of a vehicle that are stored, in order.
    pub(crate) async fn stored(&self, vehicle_id: VehicleId) -> Vec<StoredEnvelope> {
        let query =
            EventQuery { vehicle_id, from_us: i64::MIN, to_us: i64::MAX, after: None, limit: u32::MAX };
        self.home.store().events(query).await.unwrap()
    }

    /// Asserts that the first `count` envelopes of a vehicle are stored and in the ledger, and no others, and that none
    /// is missing.
    pub(crate) async fn assert_whole(&self, vehicle: &Vehicle, count: u64) {
        let account = self.account(vehicle.id).await;
        let counts = (account.accepted, account.stored, account.rejected, account.parked);
        assert_eq!(counts, (count, count, 0, 0), "{account:?}");
        assert_eq!((account.last, account.missing), (count - 1, vec![]));
        let stored: Vec<_> = self.stored(vehicle.id).await.iter().map(|stored| stored.key).collect();
        assert_eq!(stored, (0..count).map(|sequence| vehicle.key(sequence)).collect::<Vec<_>>());
    }
}

/// Makes a queue and returns its url.
pub(crate) async fn create_queue(queues: &aws_sdk_sqs::Client, name: &str) -> String {
    queues.create_queue().queue_name(name).send().await.unwrap().queue_url.unwrap()
}

async fn arn(queues: &aws_sdk_sqs::Client, url: &str) -> String {
    let asked = queues.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::QueueArn);
    asked.send().await.unwrap().attributes.unwrap()[&QueueAttributeName::QueueArn].clone()
}

/// Makes a bus whose events all go to a queue.
async fn create_bus(events: &aws_sdk_eventbridge::Client, name: &str, queue_arn: &str) {
    events.create_event_bus().name(name).send().await.unwrap();
    let pattern = json!({ "source": [SOURCE_INGEST] }).to_string();
    events.put_rule().event_bus_name(name).name(name).event_pattern(pattern).send().await.unwrap();
    let target = Target::builder().id("queue").arn(queue_arn).build().unwrap();
    let put = events.put_targets().event_bus_name(name).rule(name).targets(target).send().await.unwrap();
    assert_eq!(put.failed_entry_count(), 0, "{put:?}");
}
