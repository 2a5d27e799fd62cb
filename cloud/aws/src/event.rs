//! What the functions read of the events that invoke them; the rest is left unread, so that new fields change nothing.
//!
//! Shapes follow the AWS Lambda developer guide, "Using Lambda with other services".

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A batch of the stream, from Kinesis or from Kafka.
#[derive(Debug, Default, Deserialize)]
pub struct StreamEvent {
    #[serde(default, rename = "Records")]
    kinesis: Vec<KinesisRecord>,
    /// By topic and partition.
    #[serde(default, rename = "records")]
    kafka: BTreeMap<String, Vec<KafkaRecord>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KinesisRecord {
    kinesis: KinesisData,
    #[serde(default, rename = "eventID")]
    event_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KinesisData {
    data: Data,
    sequence_number: String,
}

#[derive(Debug, Deserialize)]
struct KafkaRecord {
    offset: u64,
    #[serde(default)]
    value: Option<Data>,
}

/// What a record holds: base 64 in the event, decoded as it is read, for as text it takes a third more memory. Where that
/// is not possible, why; the record takes no other one with it.
#[derive(Debug)]
struct Data(Result<Vec<u8>, String>);

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Base64;
        impl Visitor<'_> for Base64 {
            type Value = Data;
            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a text")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Data, E> {
                let wrong = |error| format!("the record's data is not base 64: {error}");
                Ok(Data(STANDARD.decode(text).map_err(wrong)))
            }
        }
        deserializer.deserialize_str(Base64)
    }
}

/// Which service brought the batch: it decides how a failure is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// By the lowest failed sequence number (`ReportBatchItemFailures`).
    Kinesis,
    /// By failing as a whole.
    Kafka,
}

/// One record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamItem {
    /// What names it in an answer: Kinesis' sequence number, Kafka's offset.
    pub id: String,
    /// Its place in the stream, unique and usable in an object's name: `shardId-000000000000-49...`, `topic-0-17`.
    pub place: String,
    /// Its bytes, or why they cannot be read.
    pub data: Result<Vec<u8>, String>,
}

impl StreamEvent {
    /// The records in the order of the stream.
    pub fn items(self) -> (StreamKind, Vec<StreamItem>) {
        if !self.kafka.is_empty() {
            let items = self.kafka.into_iter().flat_map(|(partition, records)| {
                records.into_iter().map(move |record| StreamItem {
                    id: record.offset.to_string(),
                    place: format!("{partition}-{:020}", record.offset),
                    data: record.value.map_or_else(|| Ok(Vec::new()), |value| value.0),
                })
            });
            return (StreamKind::Kafka, items.collect());
        }
        let items = self.kinesis.into_iter().map(|record| StreamItem {
            // `shardId-000000000000:4954...`; the sequence number alone is not unique over a reshard.
            place: match record.event_id.split_once(':') {
                Some((shard, sequence)) => format!("{shard}-{sequence}"),
                None => record.kinesis.sequence_number.clone(),
            },
            data: record.kinesis.data.0,
            id: record.kinesis.sequence_number,
        });
        (StreamKind::Kinesis, items.collect())
    }
}

/// The answer of a function that reports which items failed.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchResponse {
    /// The items to be given again. Of a stream, only the first: everything from it on is given again.
    pub batch_item_failures: Vec<BatchItemFailure>,
}

/// One failed item.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchItemFailure {
    /// Its sequence number or message id.
    pub item_identifier: String,
}

impl BatchResponse {
    /// Everything is done.
    pub fn done() -> Self {
        Self::default()
    }

    /// These are to be given again.
    pub fn failed(ids: impl IntoIterator<Item = String>) -> Self {
        let failure = |item_identifier| BatchItemFailure { item_identifier };
        Self { batch_item_failures: ids.into_iter().map(failure).collect() }
    }
}

/// A batch of an SQS queue.
#[derive(Debug, Deserialize)]
pub struct QueueEvent {
    /// Its messages.
    #[serde(rename = "Records")]
    pub messages: Vec<QueueItem>,
}

/// One message.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueItem {
    /// Names it in an answer.
    pub message_id: String,
    /// Names this reception.
    pub receipt_handle: String,
    /// What was sent.
    pub body: String,
    /// System attributes.
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

impl QueueItem {
    /// How often the message was received, this time included.
    pub fn attempt(&self) -> u32 {
        self.attributes.get("ApproximateReceiveCount").and_then(|count| count.parse().ok()).unwrap_or(1)
    }

    /// How long ago it was sent, microseconds.
    pub fn age_us(&self, now_us: i64) -> Option<i64> {
        let sent_ms: i64 = self.attributes.get("SentTimestamp")?.parse().ok()?;
        Some(now_us.saturating_sub(sent_ms.saturating_mul(1_000)))
    }
}

/// Objects that were written to a bucket.
#[derive(Debug, Deserialize)]
pub struct ObjectsEvent {
    /// One an object.
    #[serde(rename = "Records")]
    pub objects: Vec<ObjectItem>,
}

/// One object.
#[derive(Debug, Deserialize)]
pub struct ObjectItem {
    s3: ObjectPlace,
}

#[derive(Debug, Deserialize)]
struct ObjectPlace {
    object: ObjectName,
}

#[derive(Debug, Deserialize)]
struct ObjectName {
    key: String,
}

impl ObjectItem {
    /// Its key. S3 gives it as in a form: `+` for a space, `%XX` for other bytes.
    pub fn key(&self) -> String {
        let encoded = self.s3.object.key.as_bytes();
        let mut bytes = Vec::with_capacity(encoded.len());
        let mut index = 0;
        while let Some(byte) = encoded.get(index) {
            let hex = (*byte == b'%')
                .then(|| encoded.get(index + 1..index + 3))
                .flatten()
                .and_then(|digits| std::str::from_utf8(digits).ok())
                .and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(match (hex, byte) {
                (Some(decoded), _) => decoded,
                (None, b'+') => b' ',
                (None, other) => *other,
            });
            index += if hex.is_some() { 3 } else { 1 };
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A request to the authorizer of an HTTP API, payload format 2.0.
#[derive(Debug, Deserialize)]
pub struct AuthorizerEvent {
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl AuthorizerEvent {
    /// What was presented as `Authorization: Bearer ...`.
    pub fn bearer(&self) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization"))?;
        value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer "))
    }
}

/// The simple answer of an authorizer.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizerResponse {
    /// May the request go on?
    pub is_authorized: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn batches_of_both_streams_come_in_their_order_with_a_place() {
        let event: StreamEvent = serde_json::from_value(json!({"Records": [
            {"eventID": "shardId-000000000000:49545115243490985018280067714973144582180062593244200961",
             "eventSource": "aws:kinesis",
             "kinesis": {"partitionKey": "p", "data": "SGVsbG8=", "sequenceNumber": "4954"}},
            {"kinesis": {"data": "%%%", "sequenceNumber": "4955"}},
        ]}))
        .unwrap();
        let (kind, items) = event.items();
        assert_eq!(kind, StreamKind::Kinesis);
        assert_eq!((items[0].id.as_str(), items[0].data.clone().unwrap()), ("4954", b"Hello".to_vec()));
        assert!(items[0].place.starts_with("shardId-000000000000-49545"));
        assert!(items[1].data.is_err(), "what is no base 64 is told, and takes no other record with it");
        let event: StreamEvent = serde_json::from_value(json!({"eventSource": "aws:kafka", "records": {
            "telemetry-0": [{"topic": "telemetry", "partition": 0, "offset": 15, "value": "SGVsbG8="}],
        }}))
        .unwrap();
        let (kind, items) = event.items();
        assert_eq!((kind, items[0].place.as_str()), (StreamKind::Kafka, "telemetry-0-00000000000000000015"));
    }

    #[test]
    fn keys_of_objects_are_read_as_s3_writes_them() {
        let event: ObjectsEvent = serde_json::from_value(json!({"Records": [
            {"s3": {"bucket": {"name": "b"}, "object": {"key": "inbox/my+fleet%20%C3%A4.csv"}}},
            {"s3": {"object": {"key": "inbox/100%.csv"}}},
        ]}))
        .unwrap();
        let keys: Vec<_> = event.objects.iter().map(ObjectItem::key).collect();
        assert_eq!(keys, ["inbox/my fleet ä.csv", "inbox/100%.csv"]);
    }

    #[test]
    fn a_key_is_presented_as_bearer_only() {
        let event = |value: &str| -> AuthorizerEvent {
            serde_json::from_value(json!({"headers": {"Authorization": value}})).unwrap()
        };
        assert_eq!(event("Bearer cvk_x").bearer(), Some("cvk_x"));
        assert_eq!(event("Basic cvk_x").bearer(), None);
    }
}
