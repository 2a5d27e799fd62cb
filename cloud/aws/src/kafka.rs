//! The durable stream on Kafka, which is what MSK speaks.

use std::time::Duration;

use async_trait::async_trait;
use convoy_cloud_core::ports::{PortError, Stream};
use convoy_cloud_core::record::Record;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};

use crate::error::{refused, unavailable};

const SERVICE: &str = "Kafka";
/// A record is delivered, retries included, within this time or given up.
const DELIVERY_TIMEOUT_MS: u32 = 10_000;
/// Records of several appends travel together when they come within this time.
const LINGER_MS: u32 = 5;
/// Records in the producer's queue at most, over all appends.
const QUEUED_RECORDS_MAX: u32 = 100_000;
/// Bytes in the producer's queue at most, KiB.
const QUEUED_KIB_MAX: u32 = 64 << 10;
/// A full queue is tried again this often.
const QUEUE_RETRY: Duration = Duration::from_millis(20);
/// Tries to get into the queue at most: as long as a delivery may take.
const QUEUE_ATTEMPTS_MAX: u32 = 500;
/// One record at most, bytes, unless told otherwise; topics take as much by default.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// Where the records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// The brokers to ask first, `host:port`, separated by commas.
    pub brokers: String,
    /// The topic's name.
    pub name: String,
    /// What the topic takes at most, bytes of one record (`max.message.bytes`).
    pub record_bytes_max: usize,
}

/// The stream. Records of one partition key keep their order, also over retries.
#[derive(Clone)]
pub struct KafkaStream {
    producer: FutureProducer,
    topic: Topic,
}

impl KafkaStream {
    /// A producer for this topic. It connects when the first record is appended.
    pub fn new(topic: Topic) -> Result<Self, PortError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &topic.brokers)
            .set("client.id", "convoy")
            // Each record once and in order within one life of the producer, and on all replicas in sync.
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.codec", "zstd")
            // As Java clients choose: every producer sends a key to the same partition.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", LINGER_MS.to_string())
            .set("delivery.timeout.ms", DELIVERY_TIMEOUT_MS.to_string())
            .set("message.max.bytes", topic.record_bytes_max.to_string())
            .set("queue.buffering.max.messages", QUEUED_RECORDS_MAX.to_string())
            .set("queue.buffering.max.kbytes", QUEUED_KIB_MAX.to_string());
        let producer = config.create().map_err(|error| refused(SERVICE, error.to_string()))?;
        Ok(Self { producer, topic })
    }

    /// Puts a record into the producer's queue, waiting while it is full.
    async fn enqueue(&self, key: &[u8], data: &[u8]) -> Result<DeliveryFuture, PortError> {
        for _ in 0..QUEUE_ATTEMPTS_MAX {
            let record = FutureRecord::to(&self.topic.name).key(key).payload(data);
            match self.producer.send_result(record) {
                Ok(delivery) => return Ok(delivery),
                Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    tokio::time::sleep(QUEUE_RETRY).await;
                }
                Err((error, _)) => return Err(port_error(&error)),
            }
        }
        Err(unavailable(SERVICE, "the producer's queue stays full: brokers do not keep up"))
    }
}

/// What no later try changes is refused; anything else may pass.
fn port_error(error: &KafkaError) -> PortError {
    use RDKafkaErrorCode as Code;
    let reason = error.to_string();
    match error.rdkafka_error_code() {
        Some(
            Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidTopic
            | Code::InvalidRecord
            | Code::InvalidArgument
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Fatal,
        ) => refused(SERVICE, reason),
        _ => unavailable(SERVICE, reason),
    }
}

#[async_trait]
impl Stream for KafkaStream {
    async fn append(&self, records: &[Record]) -> Result<(), PortError> {
        let limit = self.topic.record_bytes_max;
        let encoded: Vec<_> = records.iter().map(Record::encode).collect();
        if let Some(large) = encoded.iter().find(|data| data.len() > limit) {
            let reason = format!("a record of {} bytes, the topic takes {limit}", large.len());
            return Err(refused(SERVICE, reason));
        }
        let mut deliveries = Vec::with_capacity(records.len());
        for (record, data) in records.iter().zip(&encoded) {
            deliveries.push(self.enqueue(&record.partition_key.hash, data).await?);
        }
        for delivery in deliveries {
            let report = delivery.await.map_err(|_| unavailable(SERVICE, "the producer has ended"))?;
            report.map_err(|(error, _)| port_error(&error))?;
        }
        Ok(())
    }
}
