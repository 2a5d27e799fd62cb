//! A shard of the stream that hands its records to a function, and hands them again as the function's answers say.
#![allow(dead_code, reason = "each suite uses a part")]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::runtime::{Function, Outcome};

/// A batch is given so often at most.
const GIVEN_MAX: usize = 50;
/// The function's answer to a batch that it has worked off.
const NONE_FAILED: &str = r#"{"batchItemFailures":[]}"#;

/// Records that follow each other in a shard.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// Number of the first one.
    first: u64,
    records: Vec<Vec<u8>>,
}

/// The sequence number of the record of this number.
pub(crate) fn sequence_number(number: u64) -> String {
    format!("4954511524349098501828006771497314458218006{number:013}")
}

/// The name of its place, as in names of objects.
pub(crate) fn place(number: u64) -> String {
    format!("shardId-000000000000-{}", sequence_number(number))
}

/// The answer that everything is done.
pub(crate) fn done() -> Value {
    serde_json::from_str(NONE_FAILED).unwrap()
}

/// The answer that everything from this record on comes again.
pub(crate) fn failed_from(number: u64) -> Value {
    json!({ "batchItemFailures": [{ "itemIdentifier": sequence_number(number) }] })
}

impl Batch {
    pub(crate) fn new(first: u64, records: Vec<Vec<u8>>) -> Self {
        Self { first, records }
    }

    /// What is left of it from the record of this number on.
    pub(crate) fn from(&self, number: u64) -> Self {
        let skipped = usize::try_from(number - self.first).unwrap();
        Self { first: number, records: self.records[skipped..].to_vec() }
    }

    /// As Kinesis' event source mapping gives it to a function.
    pub(crate) fn event(&self) -> Value {
        let record = |(number, data): (u64, &Vec<u8>)| {
            let sequence_number = sequence_number(number);
            json!({
                "eventID": format!("shardId-000000000000:{sequence_number}"),
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventName": "aws:kinesis:record",
                "eventSourceARN": "arn:aws:kinesis:eu-central-1:000000000000:stream/stream",
                "awsRegion": "eu-central-1",
                "invokeIdentityArn": "arn:aws:iam::000000000000:role/role",
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": "key",
                    "sequenceNumber": sequence_number,
                    "data": STANDARD.encode(data),
                    "approximateArrivalTimestamp": 1_795_478_400.0,
                },
            })
        };
        json!({ "Records": (self.first..).zip(&self.records).map(record).collect::<Vec<_>>() })
    }

    /// Gives it to a function until all is worked off, each time from the first record on that the answer says is not
    /// done. Returns with which record each further time began.
    pub(crate) async fn give(&self, function: &Function, time: Duration) -> Vec<u64> {
        let (mut rest, mut begun) = (self.clone(), Vec::new());
        for _ in 0..GIVEN_MAX {
            let answer = match function.invoke(&rest.event(), time).await {
                Outcome::Answer(answer) => answer,
                // The service gives the whole batch again.
                Outcome::Error(_) => failed_from(rest.first),
                other => panic!("{other:?}: {}", function.output()),
            };
            if answer == done() {
                return begun;
            }
            let number =
                (rest.first..).take(rest.records.len()).find(|number| answer == failed_from(*number));
            let number = number.unwrap_or_else(|| panic!("{answer} names no record that was given"));
            begun.push(number);
            rest = rest.from(number);
        }
        panic!("not worked off in {GIVEN_MAX} times, which began with {begun:?}: {}", function.output());
    }
}
