//! What our design costs a month, and what it uses of the quotas.

use super::Scenario;
use super::bill::{Bill, Step, chunks, put_units, write_units};
use super::book::{Book, Sizes};
use super::design::{Broker, Capacity, Design, Feed};
use super::naive::{ALERTS, PERIOD_S};
use super::pack::{Packed, Traffic, simulate};
use super::quota::Used;

/// Any number: the model is the same for the same one.
const SEED: u64 = 2_026;
/// A message of IoT Core, bytes.
const IOT_MESSAGE_BYTES: f64 = 5_120.0;
/// What DynamoDB adds to an item's bytes.
const STORED_ITEM_BYTES: f64 = 100.0;
/// Row of the ledger, marker of the feed, bytes.
const SMALL_ROW_BYTES: f64 = 180.0;
/// Beside the body of a row of the feed, bytes.
const FEED_ROW_BYTES: f64 = 150.0;
/// Beside the events in an entry of the delivery bus, bytes.
const DELIVERY_META_BYTES: f64 = 400.0;
/// Lambda's JSON and base64 around a record, bytes.
const PAYLOAD_RECORD_BYTES: f64 = 350.0;
const BASE64: f64 = 4.0 / 3.0;
/// A lease that a customer takes, seconds.
const LEASE_S: f64 = 60.0;
/// Entries in one answer of `stream/pull`.
const PULL_ENTRIES: f64 = 100.0;
/// Onboarded again each month; 20 transitions each.
const ONBOARDED_SHARE: f64 = 0.1;
/// Endpoints of the basic class among customers.
const BASIC_ENDPOINTS_SHARE: f64 = 0.1;

/// Write units of one envelope, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Writes {
    pub(crate) event: f64,
    pub(crate) ledger: f64,
    pub(crate) archive_ledger: f64,
    pub(crate) state: f64,
    /// Of all subscriptions that it goes to.
    pub(crate) feed: f64,
}

/// What flows through a design, worked out once.
pub(crate) struct Flow<'a> {
    scenario: &'a Scenario,
    design: &'a Design,
    pub(crate) sizes: Sizes,
    pub(crate) packed: Packed,
    pub(crate) writes: Writes,
    /// A month's envelopes, the duty considered.
    envelopes: f64,
    /// Events in an entry of the delivery bus.
    events_per_entry: f64,
    /// Bytes of `detail` of such an entry.
    entry_bytes: f64,
    /// Seconds of a shard's records in one archive object.
    archive_s: f64,
}

impl<'a> Flow<'a> {
    pub(crate) fn new(book: &Book, scenario: &'a Scenario, design: &'a Design) -> Self {
        let sizes = book.sizes(scenario.samples_per_window);
        let packed = simulate(&traffic(scenario, design, &sizes), SEED);
        let events_per_entry = packed.per_delivery_entry();
        let events_bytes = events_per_entry * sizes.event_among(events_per_entry);
        let record_bytes = sizes.record * BASE64 + PAYLOAD_RECORD_BYTES;
        let shard_rate = packed.records / packed.shards;
        let archive_s = design.archive_window_s.min(design.archive_payload_bytes / record_bytes / shard_rate);
        Self {
            scenario,
            design,
            sizes,
            packed,
            writes: writes(scenario, design, &sizes, events_per_entry, archive_s),
            envelopes: scenario.vehicles * book.month_s / scenario.window_s * scenario.duty_hours / 24.0,
            events_per_entry,
            entry_bytes: events_bytes * BASE64 + DELIVERY_META_BYTES,
            archive_s,
        }
    }

    /// Readings of one vehicle in an entry of the delivery bus: what the first estimate calls samples.
    pub(crate) fn pack_factor(&self) -> f64 {
        self.events_per_entry * self.scenario.window_s / PERIOD_S
    }

    /// A month's things of which `per_s` happen while all vehicles drive.
    fn month(&self, per_s: f64) -> f64 {
        per_s / self.packed.records * self.envelopes
    }

    fn delivery_entries_per_s(&self) -> f64 {
        self.packed.delivery_entries * self.design.subscriptions_per_vehicle
    }

    fn alerts_per_s(&self) -> f64 {
        self.scenario.vehicles / PERIOD_S * ALERTS
    }

    fn alerts(&self, book: &Book) -> f64 {
        self.alerts_per_s() * book.month_s * self.scenario.duty_hours / 24.0
    }

    /// What the functions of the stream do a second: calls, and executions at once.
    fn ingest_ms(&self) -> f64 {
        self.design.ingest_ms + self.design.ingest_envelope_ms * self.packed.records / self.packed.batches
    }

    fn enrich_ms(&self) -> f64 {
        let events = self.packed.per_default_entry() * self.design.subscriptions_per_vehicle;
        self.design.enrich_ms + self.design.enrich_event_ms * events
    }

    fn feed_ms(&self) -> f64 {
        match self.design.feed {
            Feed::Event => self.design.feed_row_ms + self.events_per_entry,
            Feed::Entry => self.design.feed_row_ms,
            Feed::Off => 0.0,
        }
    }

    /// Requests of all customers a second.
    fn polls_per_s(&self) -> f64 {
        let customers = f64::from(self.scenario.customers);
        (customers * self.design.polls_per_s).max(self.delivery_entries_per_s() / PULL_ENTRIES)
    }

    /// The month's bill.
    pub(crate) fn bill<'b>(&self, book: &'b Book, region: &'b str) -> Bill<'b> {
        let mut bill = Bill::new(book, region);
        self.add_uplink(&mut bill);
        self.add_stream(&mut bill);
        self.add_functions(&mut bill);
        self.add_tables(&mut bill);
        self.add_buses(&mut bill);
        self.add_reading(&mut bill);
        self.add_alerts(&mut bill);
        self.add_rest(&mut bill);
        bill
    }

    fn add_uplink(&self, bill: &mut Bill<'_>) {
        let hours = bill.book.month_s / 3_600.0;
        if self.design.broker == Broker::IotCore {
            let each = (self.sizes.envelope / IOT_MESSAGE_BYTES).ceil();
            let messages = self.envelopes * (2.0 * each + 2.0);
            bill.add(Step::Uplink, "envelopes and acknowledgements, in and out", "iot_messages", messages);
            let minutes = self.scenario.vehicles * hours * 60.0 * self.scenario.duty_hours / 24.0;
            bill.add(Step::Uplink, "connections", "iot_connect_minutes", minutes);
        }
        let nodes = match self.design.broker {
            Broker::Own => self.scenario.vehicles / self.design.connections_per_node,
            Broker::IotCore => self.packed.records / 10_000.0,
        };
        let nodes = nodes.ceil().max(self.design.nodes_min);
        bill.add(Step::Uplink, "nodes with bridge and broker", "broker_node_hours", nodes * hours);
        if self.design.broker == Broker::Own {
            bill.add(Step::Uplink, "load balancer", "nlb_hours", hours);
            let connections = self.scenario.vehicles / 100_000.0;
            let gigabytes = self.packed.records * self.sizes.envelope * 3_600.0 / bill.book.gb_bytes;
            let units = connections.max(gigabytes);
            bill.add(Step::Uplink, "connections", "nlb_lcu_hours", units * hours);
        }
    }

    fn add_stream(&self, bill: &mut Bill<'_>) {
        let shard_hours = self.packed.shards * bill.book.month_s / 3_600.0;
        bill.add(Step::Stream, "shards", "kinesis_shard_hours", shard_hours);
        let record_bytes = self.sizes.record + self.design.record_overhead_bytes;
        bill.add(Step::Stream, "records", "kinesis_put_units", self.envelopes * put_units(record_bytes));
        if self.design.stream_kept_7_days {
            bill.add(Step::Stream, "kept for 7 days", "kinesis_retention_shard_hours", shard_hours);
        }
        let objects = self.archive_objects();
        bill.add(Step::Archive, "objects", "s3_put", objects);
        let gb = self.envelopes * self.sizes.archived / bill.book.gb_bytes;
        bill.add(Step::Archive, "kept for 12 months", "s3_storage", gb * self.design.archive_months);
        let ms = 50.0 + 0.02 * self.envelopes / objects;
        bill.add_lambda(Step::Archive, "archive", objects, ms, self.design.stream_function_mb);
    }

    fn archive_objects(&self) -> f64 {
        self.month(self.packed.shards / self.archive_s)
    }

    fn add_functions(&self, bill: &mut Bill<'_>) {
        let memory_mb = self.design.stream_function_mb;
        let batches = self.month(self.packed.batches);
        bill.add_lambda(Step::Ingest, "ingest", batches, self.ingest_ms(), memory_mb);
        let entries = self.month(self.packed.default_entries);
        bill.add_lambda(Step::Enrich, "enrich", entries, self.enrich_ms(), memory_mb);
        if self.design.feed != Feed::Off {
            let entries = self.month(self.delivery_entries_per_s());
            bill.add_lambda(Step::Feed, "feed", entries, self.feed_ms(), 256.0);
        }
    }

    fn add_tables(&self, bill: &mut Bill<'_>) {
        let writes = self.writes;
        let of_envelopes = [
            (Step::Store, "event items", writes.event),
            (Step::Store, "ledger rows", writes.ledger),
            (Step::Store, "ledger rows of the archive", writes.archive_ledger),
            (Step::Store, "state", writes.state),
            (Step::Feed, "feed rows and markers", writes.feed),
        ];
        for (step, what, each) in of_envelopes.into_iter().filter(|(_, _, each)| *each > 0.0) {
            self.add_writes(bill, step, what, self.envelopes * each);
        }
        let (stored, feed) = self.stored_bytes();
        let months = self.design.keep_days * 86_400.0 / bill.book.month_s;
        for (step, bytes) in [(Step::Store, stored), (Step::Feed, feed)].into_iter().filter(|(_, b)| *b > 0.0)
        {
            let gb = self.envelopes * bytes * months / bill.book.gb_bytes;
            bill.add(step, "kept", "dynamodb_storage", gb);
            if self.design.has_pitr {
                bill.add(step, "point-in-time recovery", "dynamodb_pitr", gb);
            }
        }
    }

    fn add_writes(&self, bill: &mut Bill<'_>, step: Step, what: &'static str, units: f64) {
        match self.design.capacity {
            Capacity::OnDemand => bill.add(step, what, "dynamodb_wru", units),
            Capacity::Provisioned(used) => {
                bill.add(step, what, "dynamodb_wcu_hours", units / 3_600.0 / used);
            }
        }
    }

    /// Bytes that an envelope leaves in the event table and the ledger, and in the feed.
    fn stored_bytes(&self) -> (f64, f64) {
        let small = SMALL_ROW_BYTES + STORED_ITEM_BYTES;
        let item = self.sizes.envelope + self.design.item_overhead_bytes + STORED_ITEM_BYTES;
        let stored = item + small * (self.design.ledger_rows + self.writes.archive_ledger);
        let overhead = FEED_ROW_BYTES + STORED_ITEM_BYTES + small * self.design.feed_markers;
        let events = self.events_per_entry;
        let feed = match self.design.feed {
            Feed::Event => self.sizes.event_alone + overhead,
            Feed::Entry => self.sizes.event_among(events) + overhead / events,
            Feed::Off => 0.0,
        };
        (stored, feed * self.design.subscriptions_per_vehicle)
    }

    fn add_buses(&self, bill: &mut Bill<'_>) {
        let envelope_bytes = default_event_bytes(self.design, &self.sizes);
        let default = self.month(self.packed.default_entries);
        let paid = default * chunks(self.packed.per_default_entry() * envelope_bytes);
        bill.add(Step::DefaultBus, "entries", "eventbridge_events", paid);
        let delivery = self.month(self.delivery_entries_per_s());
        let paid = delivery * chunks(self.entry_bytes);
        bill.add(Step::Enrich, "entries of the delivery bus", "eventbridge_events", paid);
        bill.add(Step::Queues, "send, receive, delete", "sqs_requests", paid * self.design.queue_requests);
    }

    fn add_reading(&self, bill: &mut Bill<'_>) {
        let polls = self.polls_per_s() * bill.book.month_s;
        let reads = self.scenario.vehicles * self.design.reads_per_day * bill.book.month_s / 86_400.0;
        bill.add(Step::Api, "polls of queues, reads", "http_api_requests", polls + reads);
        bill.add_lambda(Step::Reading, "fleet API", polls + reads, 30.0, 256.0);
        bill.add(Step::Reading, "reads of state and events", "dynamodb_rru", reads);
        let event_bytes =
            if self.design.api_compresses { self.sizes.event_packed } else { self.sizes.event_json };
        let events = self.envelopes * self.design.subscriptions_per_vehicle;
        bill.add(Step::Reading, "events to customers", "egress", events * event_bytes / bill.book.gb_bytes);
    }

    fn add_alerts(&self, bill: &mut Bill<'_>) {
        let alerts = self.alerts(bill.book);
        bill.add(Step::Alerts, "an entry each", "eventbridge_events", alerts);
        bill.add(Step::Alerts, "webhook queue", "sqs_requests", alerts * self.design.queue_requests);
        bill.add_lambda(Step::Alerts, "signed posts", alerts, self.design.webhook_ms, 256.0);
        self.add_writes(bill, Step::Alerts, "conditions", alerts);
    }

    fn add_rest(&self, bill: &mut Bill<'_>) {
        let hours = bill.book.month_s / 3_600.0;
        let [small, large] = self.design.database_acu;
        let acu = if self.scenario.vehicles <= 10_000.0 { small } else { large };
        bill.add(Step::Base, "reference database", "aurora_acu_hours", acu * hours);
        bill.add(Step::Base, "endpoints", "endpoint_hours", self.design.endpoints * hours);
        let bus_bytes =
            default_event_bytes(self.design, &self.sizes) + self.entry_bytes / self.events_per_entry;
        let gb = self.envelopes * (self.sizes.record + bus_bytes) / bill.book.gb_bytes;
        bill.add(Step::Base, "data through endpoints", "endpoint_gb", gb);
        let is_call = |line: &&super::bill::Line| line.unit == "requests";
        let calls: f64 = bill.lines.iter().filter(is_call).map(|line| line.quantity).sum();
        bill.add(
            Step::Rest,
            "logs of calls",
            "log_ingest",
            calls * self.design.log_bytes / bill.book.gb_bytes,
        );
        bill.add(Step::Rest, "metrics", "metrics", self.design.metrics);
        let transitions = f64::from(self.scenario.customers) * ONBOARDED_SHARE * 20.0;
        bill.add(Step::Rest, "onboarding", "step_functions_transitions", transitions);
    }

    /// What it uses of the quotas, all vehicles driving at once.
    pub(crate) fn used(&self) -> Vec<Used> {
        let default = self.packed.default_entries;
        let delivery = self.delivery_entries_per_s();
        let alerts = self.alerts_per_s();
        let has_feed = self.design.feed != Feed::Off;
        let subscriptions = f64::from(self.scenario.customers) * self.design.subscriptions_per_vehicle;
        let targets_each = 1.0 + f64::from(u8::from(has_feed));
        let entries_of_call = |entries: f64, calls: f64| calls * (entries / calls / 10.0).ceil();
        let puts = entries_of_call(default, self.packed.batches) + entries_of_call(delivery, default);
        let at_once = self.packed.batches * self.ingest_ms()
            + default * self.enrich_ms()
            + delivery * self.feed_ms()
            + self.polls_per_s() * 30.0
            + alerts * self.design.webhook_ms;
        let of_table = self.writes.event.max(self.writes.state).max(self.writes.feed);
        let of_table = of_table.max(self.writes.ledger + self.writes.archive_ledger);
        let largest_feed = self.writes.feed * self.packed.records * self.packed.largest_customer;
        let endpoints = (f64::from(self.scenario.customers) * BASIC_ENDPOINTS_SHARE).ceil();
        vec![
            Used::new("eventbridge_invocations", default + delivery * targets_each + 2.0 * alerts),
            Used::new("eventbridge_put_events", puts + alerts),
            Used::new("eventbridge_rules", subscriptions * (targets_each + 1.0)),
            Used::new("eventbridge_subscribers_v2", subscriptions * (targets_each + 1.0)),
            Used::new("eventbridge_api_destinations", endpoints),
            Used::new("lambda_concurrency", at_once / 1_000.0),
            Used::new("kinesis_shards", self.packed.shards),
            Used::new("dynamodb_table_writes", of_table * self.packed.records),
            Used::new("dynamodb_partition_writes", largest_feed),
            Used::new("sqs_in_flight", self.packed.largest_entries * LEASE_S),
            Used::new("api_requests", self.polls_per_s()),
        ]
    }
}

fn default_event_bytes(design: &Design, sizes: &Sizes) -> f64 {
    sizes.envelope * BASE64 + design.default_event_bytes
}

fn traffic(scenario: &Scenario, design: &Design, sizes: &Sizes) -> Traffic {
    let default_event = default_event_bytes(design, sizes);
    // The largest pack: each event at the share that it has among many.
    let delivery_event = sizes.event_among(f64::INFINITY) * BASE64;
    Traffic {
        customers: scenario.customers,
        records_per_s: scenario.vehicles / scenario.window_s,
        record_bytes: sizes.record + design.record_overhead_bytes,
        key: design.key,
        order: design.order,
        shard_headroom: design.shard_headroom,
        batch_records_max: design.ingest_batch_records_max,
        batch_window_s: design.ingest_window_s,
        default_entry_max: (design.entry_bytes / default_event) as usize,
        delivery_entry_max: ((design.entry_bytes - DELIVERY_META_BYTES) / delivery_event) as usize,
    }
}

fn writes(scenario: &Scenario, design: &Design, sizes: &Sizes, events: f64, archive_s: f64) -> Writes {
    let state_bytes = 100.0 + design.state_signals * design.state_signal_bytes;
    // Less than one where a row or a write stands for several envelopes.
    let share = |interval_s: f64| (scenario.window_s / interval_s).min(1.0);
    let marker = design.feed_markers * write_units(SMALL_ROW_BYTES);
    let feed = match design.feed {
        Feed::Event => write_units(sizes.event_alone + FEED_ROW_BYTES) + marker,
        Feed::Entry => (write_units(sizes.event_among(events) * events + FEED_ROW_BYTES) + marker) / events,
        Feed::Off => 0.0,
    };
    Writes {
        event: write_units(sizes.envelope + design.item_overhead_bytes),
        ledger: design.ledger_rows * write_units(SMALL_ROW_BYTES),
        archive_ledger: share(design.archive_row_s.unwrap_or(archive_s)) * write_units(SMALL_ROW_BYTES),
        state: share(design.state_s.unwrap_or(0.0)) * write_units(state_bytes),
        feed: feed * design.feed_transaction * design.subscriptions_per_vehicle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::design::{LADDER, Lever};

    fn writes_of(window_s: f64, levers: &[Lever]) -> Writes {
        let book = Book::of_repository().unwrap();
        let (scenario, design) = (Scenario::of(100_000.0, window_s), Design::with(levers));
        Flow::new(&book, &scenario, &design).writes
    }

    #[test]
    fn an_envelope_is_written_as_the_design_says() {
        let expected = Writes { event: 1.0, ledger: 1.0, archive_ledger: 1.0, state: 2.0, feed: 6.0 };
        assert_eq!(writes_of(60.0, &[]), expected);
    }

    #[test]
    fn a_row_that_stands_for_several_envelopes_costs_each_its_share() {
        let writes = writes_of(60.0, &[Lever::ArchiveHourly, Lever::StateEvery5Min]);
        assert!((writes.archive_ledger - 1.0 / 60.0).abs() < 1e-9);
        assert!((writes.state - 2.0 / 5.0).abs() < 1e-9);
        assert_eq!(writes_of(300.0, &[Lever::StateEvery5Min]).state, 2.0);
    }

    #[test]
    fn a_transaction_counts_twice_and_a_lever_takes_it_away() {
        assert_eq!(writes_of(60.0, &[Lever::NoFeed]).feed, 0.0);
        assert!(writes_of(60.0, &[Lever::FeedByEntry]).feed < writes_of(60.0, &[]).feed);
    }

    #[test]
    fn every_step_of_the_ladder_lowers_the_bill() {
        let book = Book::of_repository().unwrap();
        let scenario = Scenario::of(1_000_000.0, 60.0);
        let total = |levers: &[Lever]| {
            let design = Design::with(levers);
            Flow::new(&book, &scenario, &design).bill(&book, "us-east-1").total()
        };
        let totals: Vec<f64> = (0..=LADDER.len()).map(|steps| total(&LADDER[..steps])).collect();
        assert!(totals.windows(2).all(|pair| pair[1] < pair[0]), "{totals:?}");
        assert!(total(&[Lever::IotCore]) > totals[0]);
    }

    #[test]
    fn a_longer_window_costs_less_and_is_packed_as_full() {
        let book = Book::of_repository().unwrap();
        let design = Design::specified();
        let total = |window_s: f64| {
            let scenario = Scenario::of(100_000.0, window_s);
            Flow::new(&book, &scenario, &design).bill(&book, "us-east-1").total()
        };
        assert!(total(300.0) < total(60.0) && total(60.0) < total(10.0));
    }
}
