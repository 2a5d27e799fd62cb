//! What every [`CustomerQueue`] must do.
#![allow(clippy::unwrap_used, reason = "a call that fails is a promise that is broken")]

use std::collections::BTreeSet;

use super::{Clock, Run};
use crate::identity::EventId;
use crate::ports::{CustomerQueue, QueueMessage, QueueName, Receipt, Received};

const SECOND_US: i64 = 1_000_000;
const ANY_BYTES: u64 = u64::MAX;

/// A queue port with the clock it lives by.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The port.
    pub queue: &'a dyn CustomerQueue,
    /// Its clock.
    pub clock: &'a dyn Clock,
    /// How much it knows of what it has seen.
    pub memory: Memory,
}

/// What a queue knows of what it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// It keeps the ids of events, tells stale receipts, and knows the age of its oldest message.
    Kept,
    /// It takes an event twice and may take a stale receipt, as SQS.
    Forgets,
}

impl Subject<'_> {
    fn keeps(&self) -> bool {
        self.memory == Memory::Kept
    }

    async fn send(&self, queue: &QueueName, messages: &[QueueMessage]) {
        let messages: Vec<_> = messages.iter().map(|message| (queue.clone(), message.clone())).collect();
        self.queue.send(&messages, self.clock.now_us()).await.unwrap();
    }

    async fn receive(&self, queue: &QueueName, messages_max: u32, lease_s: u32) -> Vec<Received> {
        let lease_us = i64::from(lease_s) * SECOND_US;
        let now_us = self.clock.now_us();
        self.queue.receive(queue, messages_max, ANY_BYTES, lease_us, now_us).await.unwrap()
    }

    async fn ack(&self, queue: &QueueName, receipt: &Receipt) -> u64 {
        self.queue.ack(queue, std::slice::from_ref(receipt), self.clock.now_us()).await.unwrap()
    }

    async fn numbers(&self, queue: &QueueName) -> [u64; 3] {
        let stats = self.queue.stats(queue, self.clock.now_us()).await.unwrap();
        [stats.visible, stats.in_flight, stats.dead]
    }
}

fn message(run: Run, number: usize) -> QueueMessage {
    let event_id = run.event(&format!("queue {number}"));
    let pad = "x".repeat(number % 2 * 700);
    QueueMessage {
        body: format!("{{\"id\":\"{event_id}\",\"n\":{number},\"x\":\"{pad}\"}}").into_bytes(),
        event_id,
    }
}

/// The one event of a message that was sent alone.
fn only(received: &Received) -> &QueueMessage {
    assert_eq!(received.events.len(), 1);
    &received.events[0]
}

/// An event of this size.
fn padded(event_id: EventId, bytes: usize) -> QueueMessage {
    let head = format!("{{\"id\":\"{event_id}\",\"x\":\"");
    let pad = "x".repeat(bytes - head.len() - 2);
    QueueMessage { event_id, body: format!("{head}{pad}\"}}").into_bytes() }
}

fn ids(received: &[Received]) -> BTreeSet<EventId> {
    received.iter().map(|received| only(received).event_id.clone()).collect()
}

/// The queues that the suites use, for a home where queues are made before they are used.
pub fn names(run: Run) -> Vec<QueueName> {
    let labels = ["ack", "once", "other", "lease", "nack", "bury", "bytes", "stats", "kept"];
    let mut names: Vec<_> = labels.into_iter().map(|label| own(run, label)).collect();
    names.push(webhook(run));
    names
}

fn own(run: Run, label: &str) -> QueueName {
    QueueName::Subscription(run.subscription(label))
}

fn webhook(run: Run) -> QueueName {
    QueueName::Webhook(run.endpoint("webhook"))
}

/// All of the suites below.
pub async fn all(subject: Subject<'_>, run: Run) {
    an_acknowledged_event_never_comes_again(subject, run).await;
    if subject.keeps() {
        an_event_is_in_a_queue_once(subject, run).await;
        the_next_webhook_is_the_earliest_visible_one(subject, run).await;
    }
    a_lease_hides_and_its_end_brings_a_new_receipt(subject, run).await;
    a_message_given_back_waits_for_its_delay(subject, run).await;
    a_buried_message_never_comes_again(subject, run).await;
    bytes_bound_what_is_received_but_one_message_always_comes(subject, run).await;
    numbers_follow_a_message_through_its_life(subject, run).await;
}

/// What was acknowledged is gone, also when its lease would have ended; what was not comes again.
pub async fn an_acknowledged_event_never_comes_again(subject: Subject<'_>, run: Run) {
    let queue = own(run, "ack");
    let (first, second) = (message(run, 50), message(run, 51));
    subject.send(&queue, &[]).await;
    subject.send(&queue, &[first.clone(), second.clone()]).await;
    let received = subject.receive(&queue, 10, 3).await;
    assert_eq!(ids(&received), BTreeSet::from([first.event_id.clone(), second.event_id.clone()]));
    for received in &received {
        let sent = if only(received).event_id == first.event_id { &first } else { &second };
        assert_eq!((only(received), received.attempt), (sent, 1));
    }
    let of_first = received.iter().find(|received| only(received).event_id == first.event_id).unwrap();
    assert_eq!(subject.ack(&queue, &of_first.receipt).await, 1);
    subject.clock.advance(3).await;
    assert_eq!(ids(&subject.receive(&queue, 10, 60).await), BTreeSet::from([second.event_id]));
}

/// Sent twice, together or apart, before or after its acknowledgement: an event comes once a queue.
pub async fn an_event_is_in_a_queue_once(subject: Subject<'_>, run: Run) {
    let (queue, other) = (own(run, "once"), own(run, "other"));
    let (first, second) = (message(run, 0), message(run, 1));
    subject.send(&queue, &[]).await;
    subject.send(&queue, &[first.clone(), second.clone(), first.clone()]).await;
    let changed = padded(first.event_id.clone(), 100);
    subject.send(&queue, std::slice::from_ref(&changed)).await;
    let received = subject.receive(&queue, 10, 60).await;
    assert_eq!(received.len(), 2);
    for (received, sent) in received.iter().map(|received| {
        let id = &only(received).event_id;
        (received, [&first, &second].into_iter().find(|sent| sent.event_id == *id).unwrap())
    }) {
        assert_eq!((&only(received).body, received.attempt), (&sent.body, 1));
        assert_eq!(subject.ack(&queue, &received.receipt).await, 1);
    }
    subject.send(&queue, &[first.clone(), second]).await;
    subject.clock.advance(60).await;
    assert_eq!(subject.receive(&queue, 10, 60).await, [], "acknowledged is for good");
    subject.send(&other, std::slice::from_ref(&first)).await;
    assert_eq!(ids(&subject.receive(&other, 10, 60).await), BTreeSet::from([first.event_id]));
}

/// Under a lease a message is hidden; after it, it comes again and only its newest receipt counts.
pub async fn a_lease_hides_and_its_end_brings_a_new_receipt(subject: Subject<'_>, run: Run) {
    let queue = own(run, "lease");
    subject.send(&queue, &[message(run, 2)]).await;
    let first = subject.receive(&queue, 10, 4).await.remove(0);
    assert_eq!(subject.receive(&queue, 10, 4).await, []);
    subject.clock.advance(2).await;
    assert_eq!(subject.receive(&queue, 10, 4).await, [], "the lease has not ended");
    subject.clock.advance(2).await;
    let second = subject.receive(&queue, 10, 4).await.remove(0);
    assert_eq!((second.attempt, only(&second)), (2, only(&first)));
    assert_ne!(second.receipt, first.receipt);
    if !subject.keeps() {
        assert_eq!(subject.ack(&queue, &second.receipt).await, 1);
        subject.clock.advance(4).await;
        assert_eq!(subject.receive(&queue, 10, 4).await, []);
        return;
    }
    assert_eq!(subject.ack(&queue, &first.receipt).await, 0, "of an earlier reception");
    assert_eq!(subject.queue.nack(&queue, std::slice::from_ref(&first.receipt), 0).await.unwrap(), 0);
    assert_eq!(subject.queue.bury(&queue, std::slice::from_ref(&first.receipt), "x").await.unwrap(), 0);
    assert_eq!(subject.ack(&own(run, "other"), &second.receipt).await, 0, "of another queue");
    let unknown: Receipt = format!("r{}.1", i64::MAX).parse().unwrap();
    let both = [unknown, second.receipt.clone(), second.receipt.clone()];
    assert_eq!(subject.queue.ack(&queue, &both, subject.clock.now_us()).await.unwrap(), 1);
    assert_eq!(subject.ack(&queue, &second.receipt).await, 0, "acknowledged already");
    subject.clock.advance(4).await;
    assert_eq!(subject.receive(&queue, 10, 4).await, []);
}

/// A message given back comes when its delay is over, before its lease would have ended or after.
pub async fn a_message_given_back_waits_for_its_delay(subject: Subject<'_>, run: Run) {
    let queue = own(run, "nack");
    subject.send(&queue, &[message(run, 3)]).await;
    for (attempt, delay_s) in [(1, 0), (2, 2), (3, 9)] {
        let received = subject.receive(&queue, 10, 5).await.remove(0);
        assert_eq!(received.attempt, attempt);
        let visible_us = subject.clock.now_us() + i64::from(delay_s) * SECOND_US;
        assert_eq!(subject.queue.nack(&queue, &[received.receipt], visible_us).await.unwrap(), 1);
        if delay_s > 0 {
            subject.clock.advance(delay_s - 1).await;
            assert_eq!(subject.receive(&queue, 10, 5).await, [], "one second before its delay is over");
            subject.clock.advance(1).await;
        }
    }
    assert_eq!(subject.receive(&queue, 10, 5).await.len(), 1);
}

/// Set aside as dead, a message is counted and never received; sent again it stays dead.
pub async fn a_buried_message_never_comes_again(subject: Subject<'_>, run: Run) {
    let queue = own(run, "bury");
    subject.send(&queue, &[message(run, 4), message(run, 5)]).await;
    let received = subject.receive(&queue, 1, 5).await.remove(0);
    let receipts = [received.receipt];
    assert_eq!(subject.queue.bury(&queue, &receipts, "endpoint is gone").await.unwrap(), 1);
    if subject.keeps() {
        assert_eq!(subject.queue.bury(&queue, &receipts, "endpoint is gone").await.unwrap(), 0);
        assert_eq!(subject.ack(&queue, &receipts[0]).await, 0);
        subject.send(&queue, &[message(run, 4), message(run, 5)]).await;
    }
    subject.clock.advance(5).await;
    let rest = subject.receive(&queue, 10, 5).await;
    assert_eq!(rest.len(), 1);
    assert_ne!(ids(&rest), BTreeSet::from([received.events[0].event_id.clone()]));
    assert_eq!(subject.numbers(&queue).await, [0, 1, 1]);
}

/// `bytes_max` and `messages_max` both bound a reception, and a message larger than `bytes_max` still comes.
pub async fn bytes_bound_what_is_received_but_one_message_always_comes(subject: Subject<'_>, run: Run) {
    let queue = own(run, "bytes");
    let messages: Vec<_> = (10..16).map(|number| padded(message(run, number).event_id, 1_000)).collect();
    subject.send(&queue, &messages).await;
    let now_us = subject.clock.now_us();
    let mut seen = BTreeSet::new();
    for (messages_max, bytes_max, expected) in
        [(10, 1, 1), (10, 1_999, 1), (10, 2_000, 2), (1, ANY_BYTES, 1), (9, ANY_BYTES, 1)]
    {
        let received =
            subject.queue.receive(&queue, messages_max, bytes_max, 60 * SECOND_US, now_us).await.unwrap();
        assert_eq!(received.len(), expected, "{messages_max} messages, {bytes_max} bytes");
        seen.extend(ids(&received));
    }
    assert_eq!(seen.len(), messages.len(), "what was left out of one reception came in another");
}

/// Visible, in flight, dead and the age of the oldest are told as they are.
pub async fn numbers_follow_a_message_through_its_life(subject: Subject<'_>, run: Run) {
    let queue = own(run, "stats");
    let oldest_us = async || subject.queue.stats(&queue, subject.clock.now_us()).await.unwrap().oldest_us;
    assert_eq!((subject.numbers(&queue).await, oldest_us().await), ([0, 0, 0], None));
    let began_us = subject.clock.now_us();
    subject.send(&queue, &[message(run, 20)]).await;
    let first_us = oldest_us().await;
    let is_told = |us: Option<i64>, from_us| match us {
        Some(us) => (from_us..=subject.clock.now_us()).contains(&us),
        None => !subject.keeps(),
    };
    assert!(is_told(first_us, began_us), "{first_us:?} is not when it was sent");
    subject.clock.advance(3).await;
    subject.send(&queue, &[message(run, 21), message(run, 22)]).await;
    assert_eq!((subject.numbers(&queue).await, oldest_us().await), ([3, 0, 0], first_us));
    let received = subject.receive(&queue, 10, 5).await;
    assert_eq!(subject.numbers(&queue).await, [0, 3, 0]);
    for message in received.iter().filter(|received| only(received).event_id == message(run, 20).event_id) {
        match first_us {
            Some(first_us) => assert_eq!(message.sent_us, first_us),
            // SQS tells milliseconds.
            None => assert!((began_us - 1_000..=subject.clock.now_us()).contains(&message.sent_us)),
        }
        assert_eq!(subject.ack(&queue, &message.receipt).await, 1);
    }
    assert_eq!(subject.numbers(&queue).await, [0, 2, 0]);
    assert!(is_told(oldest_us().await, began_us + 3 * SECOND_US), "the oldest that is left");
    subject.clock.advance(5).await;
    assert_eq!(subject.numbers(&queue).await, [2, 0, 0]);
    for message in subject.receive(&queue, 10, 5).await {
        subject.ack(&queue, &message.receipt).await;
    }
    assert_eq!((subject.numbers(&queue).await, oldest_us().await), ([0, 0, 0], None));
}

/// Only webhook queues count, leased and delayed messages with the end of their time, settled ones not at all.
pub async fn the_next_webhook_is_the_earliest_visible_one(subject: Subject<'_>, run: Run) {
    let (queue, next) = (webhook(run), async || subject.queue.next_webhook_us().await.unwrap());
    // Another run's webhooks may wait in the same store: then only an upper bound can be told.
    let idle = next().await.is_none();
    let expect = async |us: Option<i64>| {
        let found = next().await;
        if idle {
            assert_eq!(found, us);
        } else if let Some(us) = us {
            assert!(found.is_some_and(|found| found <= us), "{found:?} is after {us}");
        }
    };
    let sent_us = subject.clock.now_us();
    subject.send(&queue, &[message(run, 30), message(run, 31)]).await;
    expect(Some(sent_us)).await;
    let received = subject.receive(&queue, 10, 8).await;
    expect(Some(subject.clock.now_us() + 8 * SECOND_US)).await;
    let visible_us = subject.clock.now_us() + 3 * SECOND_US;
    let given_back = std::slice::from_ref(&received[0].receipt);
    assert_eq!(subject.queue.nack(&queue, given_back, visible_us).await.unwrap(), 1);
    expect(Some(visible_us)).await;
    assert_eq!(
        subject.ack(&queue, &received[0].receipt).await,
        1,
        "given back, and still its newest receipt"
    );
    expect(Some(subject.clock.now_us() + 8 * SECOND_US)).await;
    let buried = std::slice::from_ref(&received[1].receipt);
    assert_eq!(subject.queue.bury(&queue, buried, "gone").await.unwrap(), 1);
    expect(None).await;
}

/// Sends, receives and acknowledges, for [`kept`] to find after the queues were closed and opened; gives the receipt of
/// the message that is still under its lease.
pub async fn keep(subject: Subject<'_>, run: Run) -> Receipt {
    let queue = own(run, "kept");
    subject.send(&queue, &[message(run, 40), message(run, 41)]).await;
    let mut received = subject.receive(&queue, 10, 60).await;
    received.sort_by_key(|received| only(received).event_id != message(run, 40).event_id);
    assert_eq!(subject.ack(&queue, &received[0].receipt).await, 1);
    received.remove(1).receipt
}

/// A lease goes on over the end of a process, its receipt stays good, and what was acknowledged stays so.
pub async fn kept(subject: Subject<'_>, run: Run, receipt: &Receipt) {
    let queue = own(run, "kept");
    subject.send(&queue, &[message(run, 40), message(run, 41)]).await;
    assert_eq!(subject.receive(&queue, 10, 60).await, []);
    assert_eq!(subject.ack(&queue, receipt).await, 1);
    subject.clock.advance(60).await;
    assert_eq!(subject.receive(&queue, 10, 60).await, []);
}
