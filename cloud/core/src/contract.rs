//! What every implementation of a port must do: suites that run against each home's, so that homes cannot drift apart.
//!
//! A suite takes the port and a [`Run`], and panics with a sentence where a promise of the port is broken. It touches
//! only what the run names, so it may be run on a store that is in use; a later run needs a number of its own.

pub mod customer_queue;
pub mod event_store;
pub mod provisioner;
pub mod stream;

use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use convoy_protocol::id::{ManifestId, VehicleId};

use crate::identity::{CustomerId, EventId, SubscriptionId, WebhookEndpointId};

/// One run of the suites; its number keeps apart what runs write, and seeds what they roll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run(pub u64);

impl Run {
    fn bytes(self, label: &str) -> [u8; 16] {
        let mut bytes = [0; 16];
        let hash = blake3::hash(format!("{}/{label}", self.0).as_bytes());
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        bytes
    }

    fn vehicle(self, label: &str) -> VehicleId {
        VehicleId(self.bytes(label))
    }

    fn manifest(self, label: &str) -> ManifestId {
        ManifestId(self.bytes(label))
    }

    fn customer(self, label: &str) -> CustomerId {
        CustomerId::from_bytes(&self.bytes(label))
    }

    fn subscription(self, label: &str) -> SubscriptionId {
        SubscriptionId::from_bytes(&self.bytes(label))
    }

    fn endpoint(self, label: &str) -> WebhookEndpointId {
        WebhookEndpointId::from_bytes(&self.bytes(label))
    }

    fn event(self, label: &str) -> EventId {
        EventId::from_bytes(&self.bytes(label))
    }

    fn dice(self) -> Dice {
        Dice(self.0)
    }
}

/// Repeatable randomness: SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to but without `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The clock a queue lives by: jumps where time is an argument, waits where the service has its own.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Microseconds since the Unix epoch, UTC.
    fn now_us(&self) -> i64;
    /// Returns when at least `seconds` more have passed.
    async fn advance(&self, seconds: u32);
}

/// A clock that only moves when it is told to.
#[derive(Debug)]
pub struct JumpingClock(AtomicI64);

impl JumpingClock {
    /// A clock that stands at `now_us`, microseconds since the Unix epoch, UTC.
    pub const fn at(now_us: i64) -> Self {
        Self(AtomicI64::new(now_us))
    }
}

#[async_trait]
impl Clock for JumpingClock {
    fn now_us(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    async fn advance(&self, seconds: u32) {
        self.0.fetch_add(i64::from(seconds) * 1_000_000, Ordering::Relaxed);
    }
}
