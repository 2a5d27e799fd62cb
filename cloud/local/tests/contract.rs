//! The single-machine ports against the suites that every home's must pass, also over a close and an open.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::path::Path;

use convoy::database::Database;
use convoy::event_store::SqliteEventStore;
use convoy::provisioner::SqliteProvisioner;
use convoy::queue::SqliteQueue;
use convoy::stream::{LocalStream, read_batch};
use convoy_cloud_core::contract::customer_queue::{self, Memory, Subject};
use convoy_cloud_core::contract::{JumpingClock, Run, event_store, provisioner, stream};
use convoy_cloud_core::identity::{EventId, SubscriptionId};
use convoy_cloud_core::ports::{
    CustomerQueue as _, EventStore as _, FeedEntry, Provisioner as _, QueueMessage, QueueName, Resource,
    Stream as _,
};
use convoy_cloud_core::record::Record;
use convoy_segment_log::Position;

const STREAM_BYTES_MAX: u64 = 1 << 30;

fn database(directory: &Path) -> Database {
    Database::open(&directory.join("events.db")).unwrap()
}

#[tokio::test]
async fn sqlite_is_an_event_store() {
    let directory = tempfile::tempdir().unwrap();
    for run in [1, 2, 3].map(Run) {
        let store = SqliteEventStore::new(database(directory.path()));
        event_store::all(&store, run).await;
        event_store::keep(&store, run).await;
        drop(store);
        let store = SqliteEventStore::new(database(directory.path()));
        event_store::kept(&store, run).await;
    }
}

#[tokio::test]
async fn sqlite_is_a_customer_queue() {
    let directory = tempfile::tempdir().unwrap();
    let clock = JumpingClock::at(1_000_000_000);
    for run in [1, 2, 3].map(Run) {
        let queue = SqliteQueue::new(database(directory.path()));
        let subject = Subject { queue: &queue, clock: &clock, memory: Memory::Kept };
        customer_queue::all(subject, run).await;
        let receipt = customer_queue::keep(subject, run).await;
        drop(queue);
        let queue = SqliteQueue::new(database(directory.path()));
        customer_queue::kept(Subject { queue: &queue, clock: &clock, memory: Memory::Kept }, run, &receipt)
            .await;
    }
}

#[tokio::test]
async fn a_lease_ends_at_its_microsecond() {
    let directory = tempfile::tempdir().unwrap();
    let queue = SqliteQueue::new(database(directory.path()));
    let name = QueueName::Subscription(SubscriptionId::from_bytes(&[1; 16]));
    let message = QueueMessage { event_id: EventId::from_bytes(&[2; 16]), body: b"{}".to_vec() };
    queue.send(&[(name.clone(), message)], 100).await.unwrap();
    let received = async |now_us| queue.receive(&name, 1, 1, 50, now_us).await.unwrap().len();
    assert_eq!(received(99).await, 0, "not sent yet");
    assert_eq!([received(100).await, received(149).await, received(150).await], [1, 0, 1]);
    let forever = queue.receive(&name, 1, 1, i64::MAX, 200).await.unwrap().remove(0).receipt;
    assert_eq!(received(i64::MAX - 1).await, 0);
    assert_eq!(queue.ack(&name, &[forever], 0).await.unwrap(), 1);
}

#[tokio::test]
async fn sqlite_is_a_provisioner() {
    let directory = tempfile::tempdir().unwrap();
    for run in [1, 2].map(Run) {
        let provisioner = SqliteProvisioner::open(database(directory.path())).await.unwrap();
        provisioner::all(&provisioner, run).await;
    }
}

#[tokio::test]
async fn rules_and_queues_are_there_after_an_open_and_a_removed_queue_is_empty() {
    let directory = tempfile::tempdir().unwrap();
    let database = database(directory.path());
    let id = SubscriptionId::from_bytes(&[1; 16]);
    let (name, resource) =
        (QueueName::Subscription(id.clone()), Resource::Queue(QueueName::Subscription(id)));
    let (queue, provisioner) =
        (SqliteQueue::new(database.clone()), SqliteProvisioner::open(database.clone()).await.unwrap());
    provisioner.create(&resource).await.unwrap();
    let message = QueueMessage { event_id: EventId::from_bytes(&[2; 16]), body: b"{}".to_vec() };
    queue.send(&[(name.clone(), message.clone())], 0).await.unwrap();
    let reopened = SqliteProvisioner::open(database).await.unwrap();
    assert_eq!(reopened.describe(&resource).await.unwrap().as_ref(), Some(&resource));
    reopened.delete(&resource).await.unwrap();
    assert_eq!(queue.stats(&name, 0).await.unwrap(), Default::default());
    reopened.create(&resource).await.unwrap();
    queue.send(&[(name.clone(), message)], 0).await.unwrap();
    assert_eq!(queue.stats(&name, 0).await.unwrap().visible, 1, "a queue made anew remembers nothing");
}

async fn read_all(stream: &LocalStream) -> Vec<Record> {
    let (mut reader, mut from, mut found) = (stream.reader(), Position(0), Vec::new());
    loop {
        let batch = read_batch(&mut reader, from, 7, 4 << 20).unwrap();
        if batch.next == from {
            return found;
        }
        from = batch.next;
        found.extend(batch.records.into_iter().map(|(_, record)| record));
    }
}

#[tokio::test]
async fn a_segment_log_is_a_stream() {
    let directory = tempfile::tempdir().unwrap();
    let opened = || LocalStream::open(directory.path(), STREAM_BYTES_MAX).unwrap();
    let first = opened();
    stream::what_is_appended_can_be_read(&first, Run(1), async || read_all(&first).await).await;
    drop(first);
    let second = opened();
    stream::what_was_appended_stays(&second, Run(1), async || read_all(&second).await).await;
    stream::what_is_appended_can_be_read(&second, Run(2), async || read_all(&second).await).await;
}

#[tokio::test]
async fn a_full_stream_takes_nothing_more_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let stream = LocalStream::open(directory.path(), 1).unwrap();
    let error = stream.append(&[]).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("a consumer is behind"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_beside_several_writers_sees_each_entry_once() {
    const WRITERS: u8 = 4;
    const ENTRIES: u8 = 50;
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteEventStore::new(database(directory.path()));
    let mine = SubscriptionId::from_bytes(&[1; 16]);
    let entry = |writer: u8, number: u8| FeedEntry {
        subscription_id: SubscriptionId::from_bytes(&[1; 16]),
        event_id: EventId::from_bytes(&[[writer; 8], [number; 8]].concat().try_into().unwrap()),
        body: vec![writer, number],
        committed_us: 0,
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..ENTRIES {
                    store.append_feed(&[entry(writer, number)]).await.unwrap();
                }
            })
        })
        .collect();
    let (mut position, mut seen) = (0, Vec::new());
    while seen.len() < usize::from(WRITERS) * usize::from(ENTRIES) {
        let page = store.feed(&mine, position, 3).await.unwrap();
        position = page.position;
        seen.extend(page.entries.into_iter().map(|entry| entry.body));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for writer in 0..WRITERS {
        let numbers: Vec<_> = seen.iter().filter(|body| body[0] == writer).map(|body| body[1]).collect();
        assert_eq!(numbers, (0..ENTRIES).collect::<Vec<_>>(), "each writer's in its order, each once");
    }
}
