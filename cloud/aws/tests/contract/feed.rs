//! Feeds on DynamoDB: writers at once, what is over, what is large.

use std::collections::HashSet;

use convoy_cloud_core::identity::{EventId, SubscriptionId};
use convoy_cloud_core::ports::{EventStore, FeedEntry};
use tokio::sync::watch;

use crate::emulator::emulator;
use crate::fake::{Fake, Reply, Request};
use crate::store::{Home, KEEP_DAYS};

fn feed() -> SubscriptionId {
    SubscriptionId::from_bytes(&[5; 16])
}

fn entry(number: u16) -> FeedEntry {
    let mut id = [0; 16];
    // Ids are hashes in real life: their first bytes differ.
    id[..2].copy_from_slice(&number.wrapping_mul(40_503).to_be_bytes());
    FeedEntry {
        subscription_id: feed(),
        event_id: EventId::from_bytes(&id),
        body: format!("{{\"n\":{number}}}").into_bytes(),
        committed_us: i64::from(number),
    }
}

/// All of a feed, in pages.
async fn read(store: &dyn EventStore, limit: u32) -> Vec<FeedEntry> {
    let (mut entries, mut after) = (Vec::new(), 0);
    loop {
        let page = store.feed(&feed(), after, limit).await.unwrap();
        after = page.position;
        entries.extend(page.entries);
        if !page.has_more {
            return entries;
        }
    }
}

/// Writers that race with the same events, over a way on which answers get lost, and a reader that follows them.
#[tokio::test(flavor = "multi_thread")]
async fn racing_writers_leave_each_event_once_and_a_reader_misses_none() {
    for seed in [1, 2] {
        race(seed).await;
    }
}

async fn race(seed: u32) {
    const EVENTS: u16 = 150;
    const WRITERS: u16 = 6;
    println!("seed {seed}");
    let home = Home::new(&format!("race{seed}")).await;
    let mut dice = seed;
    let fake = Fake::before(&emulator().url, move |request| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match (request.operation(), (dice >> 16) % 16) {
            (_, 0) => Reply::error(400, "ThrottlingException"),
            ("PutItem" | "UpdateItem", 1) => Reply::ForwardAndLose,
            _ => Reply::Forward,
        }
    })
    .await;
    let (done, is_done) = watch::channel(false);
    let reader = tokio::spawn(follow(home.store(), is_done));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = home.store_by(&fake.url);
        writers.spawn(async move {
            // Every event is appended by three writers, in batches of different sizes.
            let mine: Vec<_> = (0..EVENTS).filter(|number| (number + writer) % 6 < 3).map(entry).collect();
            let mut new = 0;
            for batch in mine.chunks(1 + usize::from(writer)) {
                new += loop {
                    match store.append_feed(batch).await {
                        Ok(new) => break new,
                        // As a function is called again that failed.
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                };
            }
            new
        });
    }
    let new: u64 = writers.join_all().await.into_iter().sum();
    done.send(true).unwrap();
    let (seen, all) = (reader.await.unwrap(), read(&home.store(), 7).await);
    let ids: HashSet<_> = all.iter().map(|entry| entry.event_id.clone()).collect();
    assert_eq!((ids.len(), all.len()), (usize::from(EVENTS), usize::from(EVENTS)));
    assert_eq!(seen, all, "a reader that follows sees the same as one that comes later");
    assert!(new <= u64::from(EVENTS), "{new} new ones of {EVENTS}");
    assert_eq!(home.store().feed_end(&feed()).await.unwrap(), u64::from(EVENTS), "positions have no gap");
}

async fn follow(store: impl EventStore, is_done: watch::Receiver<bool>) -> Vec<FeedEntry> {
    let (mut entries, mut after) = (Vec::new(), 0);
    loop {
        let was_done = *is_done.borrow();
        let page = store.feed(&feed(), after, 5).await.unwrap();
        assert_eq!(page.oldest, 0, "nothing is over");
        assert_eq!(page.position, after + page.entries.len() as u64);
        after = page.position;
        if was_done && page.entries.is_empty() {
            return entries;
        }
        entries.extend(page.entries);
    }
}

#[tokio::test]
async fn a_writer_that_ended_before_it_moved_the_head_holds_up_nobody() {
    let home = Home::new("head").await;
    // The heads of this one are never written.
    let fake = Fake::before(&emulator().url, |request| match request.operation() {
        "UpdateItem" => Reply::error(400, "ValidationException"),
        _ => Reply::Forward,
    })
    .await;
    let halting = home.store_by(&fake.url);
    let entries: Vec<_> = (0..9).map(entry).collect();
    assert!(halting.append_feed(&entries[..2]).await.is_err());
    assert!(halting.append_feed(&entries[2..4]).await.is_err());
    let store = home.store();
    assert_eq!(store.feed_end(&feed()).await.unwrap(), 4);
    assert_eq!(store.feed(&feed(), 0, 9).await.unwrap().entries, entries[..4]);
    assert_eq!(store.feed(&feed(), 3, 9).await.unwrap().entries, entries[3..4]);
    assert_eq!(store.append_feed(&entries[..4]).await.unwrap(), 0, "all were there");
    assert!(halting.append_feed(&entries[4..6]).await.is_err());
    assert_eq!(store.append_feed(&entries[3..]).await.unwrap(), 3);
    assert_eq!(read(&store, 2).await, entries);
}

#[tokio::test]
async fn an_event_that_was_claimed_and_not_appended_is_appended_once_however_late() {
    let home = Home::new("claimed").await;
    let is_chunk = |request: &Request| request.body.windows(3).any(|bytes| bytes == b"\"C#");
    // It claims and never comes to its chunk.
    let fake = Fake::before(&emulator().url, move |request| match request.operation() {
        "PutItem" if is_chunk(request) => Reply::error(400, "ValidationException"),
        _ => Reply::Forward,
    })
    .await;
    let (halting, store) = (home.store_by(&fake.url), home.store());
    let mut appended = 0;
    // Within the reach of the claim, at its end, and behind it.
    for chunks in [0, 1, 7, 8, 9, 20] {
        let (late, others) = (entry(1_000 + chunks), (0..chunks).map(|number| entry(100 * chunks + number)));
        assert!(halting.append_feed(std::slice::from_ref(&late)).await.is_err());
        for other in others {
            assert_eq!(store.append_feed(&[other]).await.unwrap(), 1);
        }
        for new in [1, 0, 0] {
            assert_eq!(store.append_feed(std::slice::from_ref(&late)).await.unwrap(), new, "{chunks} chunks");
        }
        appended += usize::from(chunks) + 1;
        let entries = read(&store, 9).await;
        assert_eq!((entries.len(), entries.last()), (appended, Some(&late)));
    }
}

#[tokio::test]
async fn a_reader_learns_that_what_it_has_not_read_is_over() {
    let home = Home::new("over").await;
    let store = home.store();
    let entries: Vec<_> = (0..12).map(entry).collect();
    store.append_feed(&entries[..5]).await.unwrap();
    home.days_go_by(1);
    store.append_feed(&entries[5..8]).await.unwrap();
    home.days_go_by(KEEP_DAYS - 1);
    // Whether DynamoDB has come to deleting what is over or not.
    for _ in 0..2 {
        let page = store.feed(&feed(), 2, 9).await.unwrap();
        assert_eq!((page.oldest, page.position, page.entries), (5, 8, entries[5..8].to_vec()));
        let page = store.feed(&feed(), 6, 9).await.unwrap();
        assert!(page.oldest <= 6, "nothing is lost");
        assert_eq!(page.entries, entries[6..8]);
        assert_eq!(store.append_feed(&entries[..8]).await.unwrap(), 0, "also what is over was there");
        home.delete_ended(&home.tables.feed).await;
    }
    home.days_go_by(1);
    for _ in 0..2 {
        let page = store.feed(&feed(), 6, 9).await.unwrap();
        assert_eq!((page.oldest, page.position, page.entries.len(), page.has_more), (8, 8, 0, false));
        let page = store.feed(&feed(), 8, 9).await.unwrap();
        assert_eq!((page.position, page.entries.len()), (8, 0));
        assert!(page.oldest <= 8, "a reader at the end has lost nothing");
        assert_eq!(store.feed_end(&feed()).await.unwrap(), 8);
        home.delete_ended(&home.tables.feed).await;
    }
    // Positions go on where they were.
    assert_eq!(store.append_feed(&entries[8..]).await.unwrap(), 4);
    let page = store.feed(&feed(), 8, 9).await.unwrap();
    assert_eq!((page.position, page.entries), (12, entries[8..].to_vec()));
    assert_eq!(store.feed(&feed(), 0, 9).await.unwrap().oldest, 8);
}

#[tokio::test]
async fn an_event_too_large_for_an_item_lies_in_the_bucket() {
    let home = Home::new("largefeed").await;
    let store = home.store();
    let mut entries: Vec<_> = (0..3).map(entry).collect();
    // Not to be compressed.
    entries[1].body = vec![0; 1_500_000];
    getrandom::fill(&mut entries[1].body).unwrap();
    assert_eq!(store.append_feed(&entries).await.unwrap(), 3);
    assert_eq!(store.append_feed(&entries).await.unwrap(), 0);
    assert_eq!(read(&store, 1).await, entries);
    let page = home.objects.list_with_delimiter(Some(&"bodies/feed".into())).await.unwrap();
    assert_eq!(page.objects.len(), 1);
}

#[tokio::test]
async fn an_append_of_more_than_a_chunk_keeps_its_order() {
    let home = Home::new("chunks").await;
    let store = home.store();
    let entries: Vec<_> = (0..250).map(entry).collect();
    assert_eq!(store.append_feed(&entries[..120]).await.unwrap(), 120);
    assert_eq!(store.append_feed(&entries).await.unwrap(), 130);
    assert_eq!(read(&store, 99).await, entries);
}
