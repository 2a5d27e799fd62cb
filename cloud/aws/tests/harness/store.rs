//! Event stores on the emulator, perhaps with a clock of their own and a bad way to it.
#![allow(dead_code, reason = "each suite uses a part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use convoy_aws::clients::Http;
use convoy_aws::dynamodb::{Client, DynamoEventStore, Tables};
use convoy_cloud_core::ambient::Ambient;
use object_store::ObjectStore;

use crate::emulator::{bucket_at, config, create_bucket, create_tables, emulator, now_us};

pub(crate) const KEEP_DAYS: u32 = 30;
pub(crate) const DAY_US: i64 = 86_400_000_000;

/// The tables and the bucket of a test, and its clock.
pub(crate) struct Home {
    pub(crate) tables: Tables,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) bucket: String,
    /// How far the clock is ahead of the true one, microseconds.
    ahead_us: Arc<AtomicI64>,
}

impl Home {
    /// Empty tables and an empty bucket, named for the test.
    pub(crate) async fn new(name: &str) -> Self {
        let url = &emulator().url;
        let (tables, objects) = tokio::join!(create_tables(url, name), create_bucket(url, name));
        Self { tables, objects, bucket: name.to_owned(), ahead_us: Arc::default() }
    }

    /// A store in them, with clients of its own.
    pub(crate) fn store(&self) -> DynamoEventStore {
        self.store_by(&emulator().url)
    }

    /// A store in them that is reached by this URL.
    pub(crate) fn store_by(&self, url: &str) -> DynamoEventStore {
        let ahead_us = Arc::clone(&self.ahead_us);
        let now = move || now_us() + ahead_us.load(Ordering::Relaxed);
        let ambient = Ambient::new(now, |bytes| getrandom::fill(bytes).unwrap());
        let client = Client::new(&config(url), Http::default(), ambient.clone()).unwrap();
        let objects = bucket_at(&emulator().url, &self.bucket);
        DynamoEventStore::new(client, self.tables.clone(), objects, KEEP_DAYS, ambient)
    }

    /// Lets days go by.
    pub(crate) fn days_go_by(&self, days: u32) {
        self.ahead_us.fetch_add(i64::from(days) * DAY_US, Ordering::Relaxed);
    }

    /// Does what DynamoDB does at some time after an item has ended; returns how many were deleted.
    pub(crate) async fn delete_ended(&self, table: &str) -> usize {
        let client = aws_sdk_dynamodb::Client::new(&config(&emulator().url));
        let now_s = (now_us() + self.ahead_us.load(Ordering::Relaxed)) / 1_000_000;
        let page = client.scan().table_name(table).send().await.unwrap();
        assert_eq!(page.last_evaluated_key, None, "more than one page");
        let mut deleted = 0;
        for mut item in page.items.unwrap_or_default() {
            let ttl =
                item.get("ttl").and_then(|value| value.as_n().ok()).and_then(|text| text.parse::<i64>().ok());
            if ttl.is_some_and(|ttl| ttl <= now_s) {
                item.retain(|name, _| name == "pk" || name == "sk");
                client.delete_item().table_name(table).set_key(Some(item)).send().await.unwrap();
                deleted += 1;
            }
        }
        deleted
    }
}
