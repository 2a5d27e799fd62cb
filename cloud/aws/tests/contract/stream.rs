//! Kinesis and Kafka as the stream.

use std::time::Duration;

use aws_sdk_kinesis::types::ShardIteratorType;
use convoy_aws::kafka::{self, KafkaStream, Topic};
use convoy_aws::kinesis::{self, KinesisStream};
use convoy_cloud_core::contract::{Run, stream};
use convoy_cloud_core::ports::{PortError, Stream as _};
use convoy_cloud_core::record::{PartitionKey, Record};
use convoy_protocol::id::{Lane, VehicleId};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::emulator::{ambient, config, emulator};

const SHARDS: i32 = 3;
const PARTITIONS: i32 = 3;

async fn create_stream(client: &aws_sdk_kinesis::Client, name: &str) {
    client.create_stream().stream_name(name).shard_count(SHARDS).send().await.unwrap();
    let is_active = async || {
        let summary = client.describe_stream_summary().stream_name(name).send().await.unwrap();
        let summary = summary.stream_description_summary.unwrap();
        summary.stream_status == aws_sdk_kinesis::types::StreamStatus::Active
    };
    while !is_active().await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Everything in a stream, shard after shard.
async fn read_kinesis(client: &aws_sdk_kinesis::Client, name: &str) -> Vec<Record> {
    let mut found = Vec::new();
    let shards = client.list_shards().stream_name(name).send().await.unwrap();
    for shard in shards.shards() {
        let iterator = client
            .get_shard_iterator()
            .stream_name(name)
            .shard_id(shard.shard_id())
            .shard_iterator_type(ShardIteratorType::TrimHorizon);
        let mut next = iterator.send().await.unwrap().shard_iterator;
        while let Some(iterator) = next {
            let page = client.get_records().shard_iterator(iterator).send().await.unwrap();
            found.extend(page.records().iter().map(|record| Record::decode(record.data().as_ref()).unwrap()));
            let is_end = page.records().is_empty() && page.millis_behind_latest().unwrap_or_default() == 0;
            next = page.next_shard_iterator.filter(|_| !is_end);
        }
    }
    found
}

fn record(key: u8, payload: Vec<u8>) -> Record {
    Record {
        partition_key: PartitionKey { version: 1, hash: [key; 16] },
        vehicle_id: VehicleId([key; 16]),
        lane: Lane::Fast,
        received_us: 1,
        payload,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kinesis_is_a_stream() {
    let client = aws_sdk_kinesis::Client::new(&config(&emulator().url));
    create_stream(&client, "contract").await;
    let opened = || KinesisStream::new(client.clone(), "contract", kinesis::RECORD_BYTES_MAX, ambient());
    let read = async || read_kinesis(&client, "contract").await;
    stream::what_is_appended_can_be_read(&opened(), Run(1), read).await;
    stream::what_is_appended_can_be_read(&opened(), Run(2), read).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinesis_takes_more_than_a_call_and_refuses_a_record_over_the_limit() {
    let client = aws_sdk_kinesis::Client::new(&config(&emulator().url));
    create_stream(&client, "calls").await;
    let stream = KinesisStream::new(client.clone(), "calls", kinesis::RECORD_BYTES_MAX, ambient());
    let large = record(1, vec![0; kinesis::RECORD_BYTES_MAX]);
    let refused = stream.append(&[record(1, vec![]), large]).await;
    assert!(matches!(refused, Err(PortError::Refused { .. })), "{refused:?}");
    assert_eq!(read_kinesis(&client, "calls").await, [], "what is refused leaves nothing behind");
    let records: Vec<_> = (0..1_201u16).map(|number| record(1, number.to_be_bytes().to_vec())).collect();
    stream.append(&records).await.unwrap();
    assert_eq!(read_kinesis(&client, "calls").await, records);
}

fn topic(cluster: &MockCluster<'_, rdkafka::producer::DefaultProducerContext>, name: &str) -> Topic {
    cluster.create_topic(name, PARTITIONS, 3).unwrap();
    Topic {
        brokers: cluster.bootstrap_servers(),
        name: name.to_owned(),
        record_bytes_max: kafka::RECORD_BYTES_MAX,
    }
}

/// Everything in a topic, as far as it went when this was called.
fn read_kafka(topic: &Topic) -> Vec<Record> {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &topic.brokers).set("group.id", "test").set("fetch.wait.max.ms", "20");
    let consumer: BaseConsumer = client.create().unwrap();
    let timeout = Duration::from_secs(10);
    let (mut found, mut assignment, mut left) = (Vec::new(), TopicPartitionList::new(), 0);
    for partition in 0..PARTITIONS {
        let (first, end) = consumer.fetch_watermarks(&topic.name, partition, timeout).unwrap();
        left += end - first;
        assignment.add_partition_offset(&topic.name, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    while left > 0 {
        let message = consumer.poll(timeout).expect("all that was appended comes in time").unwrap();
        found.push(Record::decode(message.payload().unwrap()).unwrap());
        left -= 1;
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_a_stream() {
    let cluster = MockCluster::new(3).unwrap();
    let topic = topic(&cluster, "contract");
    let read = async || tokio::task::block_in_place(|| read_kafka(&topic));
    let first = KafkaStream::new(topic.clone()).unwrap();
    stream::what_is_appended_can_be_read(&first, Run(1), read).await;
    drop(first);
    let second = KafkaStream::new(topic.clone()).unwrap();
    stream::what_is_appended_can_be_read(&second, Run(2), read).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_refuses_a_record_over_the_limit_and_is_unavailable_without_brokers() {
    let cluster = MockCluster::new(1).unwrap();
    let stream = KafkaStream::new(topic(&cluster, "limits")).unwrap();
    let refused = stream.append(&[record(1, vec![0; kafka::RECORD_BYTES_MAX])]).await;
    assert!(matches!(refused, Err(PortError::Refused { .. })), "{refused:?}");
    stream.append(&[record(1, vec![1])]).await.unwrap();
    cluster.broker_down(1).unwrap();
    let unavailable = stream.append(&[record(1, vec![2])]).await.unwrap_err();
    assert!(unavailable.is_transient(), "{unavailable}");
}
