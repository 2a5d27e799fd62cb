//! What the cloud counts, and how it is shown to Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $help:literal])* $name:ident),* $(,)?) => {
        /// Counters since the process started; all grow only.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $help])* pub $name: AtomicU64,)*
            /// From an event's latest sample to its commit in the customer's feed.
            pub delivery_latency: Latency,
        }

        impl Counters {
            /// Every counter with its value.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed))),*]
            }

            /// The Prometheus text format, version 0.0.4.
            pub fn prometheus(&self) -> String {
                let mut out = String::new();
                $(
                    let help = concat!($($help),*).trim();
                    let name = concat!("convoy_", stringify!($name), "_total");
                    let value = self.$name.load(Ordering::Relaxed);
                    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
                )*
                self.delivery_latency.prometheus("convoy_delivery_latency_seconds", &mut out);
                out
            }
        }
    };
}

counters! {
    /// MQTT publishes received by the bridge.
    publishes,
    /// Publishes on topics that name no vehicle and lane.
    publishes_foreign,
    /// Publishes larger than an envelope may be; cut, and so quarantined.
    publishes_oversize,
    /// Records appended to the durable stream.
    records_appended,
    /// Acknowledgements sent to vehicles.
    acks_sent,
    /// Records read by ingest.
    records_ingested,
    /// Envelopes stored for the first time.
    envelopes_stored,
    /// Envelopes that were stored already.
    envelopes_duplicate,
    /// Records set aside in quarantine.
    records_quarantined,
    /// Envelopes that wait for their manifest.
    envelopes_parked,
    /// Records given up after a permanent failure.
    records_dead,
    /// Samples in stored envelopes.
    samples_stored,
    /// Bytes of stored envelopes.
    bytes_stored,
    /// Events committed to feeds for the first time.
    events_delivered,
    /// Samples in events committed to feeds.
    samples_delivered,
    /// Webhook attempts answered with success.
    webhooks_delivered,
    /// Webhook attempts that failed and will be repeated.
    webhooks_retried,
    /// Webhook events given up.
    webhooks_dead,
    /// Raw archive objects written.
    archive_objects,
    /// Envelopes that came again after their events were deleted, and were left out.
    envelopes_forgotten,
    /// Vehicles whose campaigns changed.
    desired_changes,
    /// Alerts about vehicles that do not report their campaigns.
    desired_overdue,
    /// Reports of vehicles taken.
    reports,
    /// Ingest batches repeated because a service was not available.
    batches_retried,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Reads a counter.
pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Latencies in buckets that grow by a quarter, from 1 ms to about 40 minutes.
#[derive(Debug)]
pub struct Latency {
    buckets: [AtomicU64; Self::BUCKETS],
    sum_us: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; Self::BUCKETS], sum_us: AtomicU64::new(0) }
    }
}

impl Latency {
    const BUCKETS: usize = 66;

    fn limit_us(bucket: usize) -> f64 {
        1_000.0 * 1.25f64.powi(i32::try_from(bucket).unwrap_or(i32::MAX))
    }

    /// Takes one latency, microseconds; a negative one (clock steps) counts as zero.
    pub fn record(&self, latency_us: i64) {
        let us = latency_us.max(0);
        let bucket = (0..Self::BUCKETS - 1)
            .find(|bucket| us as f64 <= Self::limit_us(*bucket))
            .unwrap_or(Self::BUCKETS - 1);
        add(&self.buckets[bucket], 1);
        add(&self.sum_us, us.unsigned_abs());
    }

    /// Upper limit, milliseconds, of the bucket that holds the given share (0 to 1) of all; `None` without any.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let counts: Vec<u64> = self.buckets.iter().map(get).collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let wanted = (share * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        bucket.map(|bucket| Self::limit_us(bucket) / 1_000.0)
    }

    fn prometheus(&self, name: &str, out: &mut String) {
        let _ = writeln!(out, "# HELP {name} From an event's latest sample to its commit in the feed.");
        let _ = writeln!(out, "# TYPE {name} histogram");
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += get(count);
            let limit = Self::limit_us(bucket) / 1e6;
            if bucket == Self::BUCKETS - 1 {
                let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {seen}");
            } else {
                let _ = writeln!(out, "{name}_bucket{{le=\"{limit:.6}\"}} {seen}");
            }
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {seen}", get(&self.sum_us) as f64 / 1e6);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_name_the_bucket_that_holds_them() {
        let latency = Latency::default();
        assert_eq!(latency.quantile_ms(0.5), None);
        for _ in 0..99 {
            latency.record(900);
        }
        latency.record(1_000_000);
        assert_eq!(latency.quantile_ms(0.5), Some(1.0));
        assert_eq!(latency.quantile_ms(0.99), Some(1.0));
        assert!(latency.quantile_ms(1.0).unwrap() >= 1_000.0);
    }

    #[test]
    fn prometheus_text_names_every_counter_once() {
        let counters = Counters::default();
        add(&counters.publishes, 3);
        let text = counters.prometheus();
        assert!(text.contains("# TYPE convoy_publishes_total counter\nconvoy_publishes_total 3\n"));
        assert!(text.contains("convoy_delivery_latency_seconds_bucket{le=\"+Inf\"} 0"));
    }
}
