//! What the demo prints.
#![expect(clippy::print_stdout, reason = "the demo's output is for a person at a terminal")]

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use super::Numbers;
use super::customer::Customers;
use crate::serve::Running;

/// The live numbers: one line that is renewed on a terminal, a line every few seconds elsewhere.
pub(super) struct Screen {
    is_terminal: bool,
    lines: u32,
}

/// Lines after which the column names are printed again.
const HEADING_EVERY: u32 = 20;

impl Screen {
    pub(super) fn new() -> Self {
        Self { is_terminal: std::io::stdout().is_terminal(), lines: 0 }
    }

    pub(super) const fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    pub(super) fn update(&mut self, before: &Numbers, now: &Numbers) {
        if self.lines.is_multiple_of(HEADING_EVERY) && !(self.is_terminal && self.lines > 0) {
            println!(
                "{:>6} {:>9} {:>11} {:>9} {:>10} {:>10} {:>8} {:>11} {:>11}",
                "time", "vehicles", "samples/s", "B/sample", "stored", "delivered", "alerts", "p50", "p99"
            );
        }
        self.lines += 1;
        let seconds = (now.seconds - before.seconds).max(0.001);
        let rate = (now.samples_stored - before.samples_stored) as f64 / seconds;
        let line = format!(
            "{:>5.0}s {:>6}/{:<2} {:>11.0} {:>9} {:>10} {:>10} {:>8} {:>11} {:>11}",
            now.seconds,
            now.vehicles_connected,
            now.vehicles,
            rate,
            optional(now.bytes_per_sample, "", 2),
            now.envelopes_stored,
            now.events_delivered,
            now.alerts_received,
            optional(now.latency_p50_ms, " ms", 0),
            optional(now.latency_p99_ms, " ms", 0),
        );
        if self.is_terminal {
            print!("\r\x1b[K{line}");
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
    }
}

fn optional(value: Option<f64>, unit: &str, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}{unit}"))
}

/// What is running, and what to try.
pub(super) fn intro(running: &Running, customers: &Customers, vehicles: u16, dir: &Path) {
    let base = format!("http://{}", running.http);
    let customer = &customers.shown;
    println!("Convoy demo: {vehicles} simulated vehicles replay recorded drives; 2 customers are onboarded.");
    if let Some(mqtt) = running.mqtt {
        println!("  API     {base}/   MQTT {mqtt}   data {}", dir.display());
    }
    println!();
    println!("Try, in another terminal, as the customer {}:", customer.name);
    println!();
    println!("  export CONVOY_KEY={}", customer.key);
    let get = r#"curl -s -H "Authorization: Bearer $CONVOY_KEY""#;
    println!("  {get} {base}/v1/vehicles");
    println!("  {get} {base}/v1/subscriptions");
    println!("  {get} '{base}/v1/subscriptions/{}/feed?limit=1'", customers.left_to_the_user);
    println!(
        "  {get} -X POST -d '{{\"max_messages\":1}}' {base}/v1/subscriptions/{}/stream/pull",
        customers.left_to_the_user
    );
    println!("  VEHICLE=$({get} {base}/v1/vehicles | grep -o 'veh_[a-z2-7]*' | head -1)");
    println!("  {get} {base}/v1/vehicles/$VEHICLE/state");
    println!();
    println!(
        "stored: batches of vehicles kept; delivered: events in customers' feeds; p50, p99: from a batch's last"
    );
    println!("sample to the feed. Ctrl-C stops.");
    println!();
}

/// The end.
pub(super) fn summary(numbers: &Numbers, json: bool) {
    if json {
        let line = serde_json::to_string(numbers).unwrap_or_default();
        println!("{line}");
        return;
    }
    println!();
    println!();
    println!("Stopped after {:.0} s.", numbers.seconds);
    println!("  first event at a customer after {}", optional(numbers.first_event_s, " s", 2));
    println!(
        "  vehicles spooled {} batches; {} are acknowledged as stored, the rest waits on their disks",
        numbers.envelopes_spooled, numbers.envelopes_acknowledged
    );
    println!(
        "  cloud stored {} batches with {} samples, {} a sample; {} set aside",
        numbers.envelopes_stored,
        numbers.samples_stored,
        optional(numbers.bytes_per_sample, " B", 2),
        numbers.envelopes_quarantined
    );
    println!(
        "  customers got {} events in feeds, pulled {} and received {} alerts by webhook",
        numbers.events_delivered, numbers.events_pulled, numbers.alerts_received
    );
    println!(
        "  sample to feed: p50 {}, p99 {}",
        optional(numbers.latency_p50_ms, " ms", 0),
        optional(numbers.latency_p99_ms, " ms", 0)
    );
}
