//! What our design costs a month, and what it uses of the quotas.

use super::Scenario;
use super::bill::{Bill, Step, chunks, put_units};
use super::book::{Book, Sizes};
use super::design::{Broker, Capacity, Design, Feed, Stream};
use super::naive::{ALERTS, PERIOD_S};
use super::pack::{Packed, Queue, Traffic, simulate};
use super::quota::Used;
use super::units::{Reads, Writes, largest_feed_writes, reads, stored_byte_days, writes};

/// Any number: the model is the same for the same one.
const SEED: u64 = 2_026;
/// A message of IoT Core, bytes.
const IOT_MESSAGE_BYTES: f64 = 5_120.0;
/// Beside the events in an entry of the delivery bus, bytes.
const DELIVERY_META_BYTES: f64 = 250.0;
/// What EventBridge writes around a detail for a queue, bytes.
const MESSAGE_META_BYTES: f64 = 300.0;
/// Lambda's JSON and base64 around a record, bytes.
const PAYLOAD_RECORD_BYTES: f64 = 350.0;
const BASE64: f64 = 4.0 / 3.0;
/// Messages that SQS gives or takes in one request.
const QUEUE_CALL_MESSAGES: f64 = 10.0;
/// On demand, a record counts as so many bytes at least.
const STREAM_UNIT_BYTES: f64 = 1_024.0;
/// Who reads the stream: ingest and archive.
const READERS: f64 = 2.0;
/// Days beyond the first that the stream is kept.
const EXTENDED_DAYS: f64 = 6.0;
/// Smaller objects stay in the dearer class, bytes.
const COLD_OBJECT_BYTES_MIN: f64 = 131_072.0;
/// A lease that a customer takes, seconds.
const LEASE_S: f64 = 60.0;
/// Entries in one answer of `stream/pull`.
const PULL_ENTRIES: f64 = 100.0;
/// How long a customer's key counts as authorized, seconds.
const AUTHORIZED_S: f64 = 60.0;
/// Memory of the authorizer.
const AUTHORIZER_MB: f64 = 256.0;
/// Onboarded again each month; 20 transitions each.
const ONBOARDED_SHARE: f64 = 0.1;
/// Endpoints of the basic class among customers.
const BASIC_ENDPOINTS_SHARE: f64 = 0.1;
/// Queues of an alert: the customer's, the feed's and the webhooks'; a send each, and a receive and a delete for ten.
const ALERT_QUEUE_REQUESTS: f64 = 3.0 * 1.2;
/// Write units of an alert's claim, chunk and head in its feed, alone.
const ALERT_FEED_WRITES: f64 = 3.0;
/// Rules of a customer: feed and queue of its telemetry; feed, queue and webhook of its alerts.
const TELEMETRY_RULES: f64 = 2.0;
const ALERT_RULES: f64 = 3.0;
/// An alert in a post, bytes.
const ALERT_BYTES: f64 = 1_024.0;
/// Stored by the reference database, GB in each of two zones.
const DATABASE_GB: f64 = 2.0 * 20.0;
/// CPUs of a database of size 1, which the proxy is paid by.
const DATABASE_CPUS: f64 = 2.0;
/// Vehicles beyond which the database is the larger one.
const SMALL_FLEET_VEHICLES: f64 = 10_000.0;

/// What flows through a design, worked out once.
pub(crate) struct Flow<'a> {
    scenario: &'a Scenario,
    design: &'a Design,
    pub(crate) sizes: Sizes,
    pub(crate) packed: Packed,
    pub(crate) writes: Writes,
    pub(crate) reads: Reads,
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
        let object_records = design.archive_records_max.min(design.payload_bytes_max / record_bytes);
        let archive_s = design.archive_window_s.min(object_records / (packed.records / packed.shards));
        let writes = writes(scenario, design, &sizes, &packed, archive_s);
        Self {
            scenario,
            design,
            sizes,
            reads: reads(scenario, design, &sizes, &packed, &writes),
            writes,
            packed,
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

    /// Events in a chunk of a feed.
    pub(crate) fn chunk_events(&self) -> f64 {
        self.packed.records / self.packed.all_chunks()
    }

    /// Time that ingest takes for what the hottest shard gets in a second; more than one second and it falls behind.
    pub(crate) fn ingest_load(&self) -> f64 {
        let slices = self.packed.hottest_shard / self.packed.records * self.packed.slices;
        (slices * self.design.ingest_slice_ms + self.packed.hottest_shard * self.ingest_envelope_ms())
            / 1_000.0
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

    fn ingest_envelope_ms(&self) -> f64 {
        let has_thresholds = f64::from(u8::from(self.scenario.thresholds > 0.0));
        self.design.ingest_envelope_ms + has_thresholds * self.design.ingest_condition_ms
    }

    /// Milliseconds of a call.
    fn ingest_ms(&self) -> f64 {
        let slices = self.packed.slices / self.packed.batches;
        let records = self.packed.records / self.packed.batches;
        slices * self.design.ingest_slice_ms + records * self.ingest_envelope_ms()
    }

    fn enrich_ms(&self) -> f64 {
        let [slice, event, entry] = self.design.enrich_ms;
        let subscriptions = self.design.subscriptions_per_vehicle;
        let sum = slice * self.packed.enrich_slices
            + subscriptions * (event * self.packed.records + entry * self.packed.delivery_entries);
        sum / self.packed.enrich_calls
    }

    fn feed_ms(&self) -> f64 {
        let [slice, chunk] = self.design.feed_ms;
        (slice * self.packed.feed_slices + chunk * self.packed.all_chunks()) / self.packed.feed_calls
    }

    fn feed_calls_per_s(&self) -> f64 {
        match self.design.feed {
            Feed::Off => 0.0,
            _ => self.packed.feed_calls * self.design.subscriptions_per_vehicle,
        }
    }

    /// Requests for messages, of all customers a second.
    fn polls_per_s(&self) -> f64 {
        let customers = f64::from(self.scenario.customers);
        (customers * self.design.polls_per_s).max(self.delivery_entries_per_s() / PULL_ENTRIES)
    }

    /// Share of these that find something, with entries that come by chance.
    fn polls_filled(&self) -> f64 {
        1.0 - (-self.delivery_entries_per_s() / self.polls_per_s()).exp()
    }

    /// Requests of all customers a second: for messages, with what was done with, and for what is stored.
    fn api_requests_per_s(&self) -> f64 {
        let reads = self.scenario.vehicles * self.design.reads_per_day / 86_400.0;
        self.polls_per_s() * (1.0 + self.polls_filled()) + reads
    }

    /// The month's bill.
    pub(crate) fn bill<'b>(&self, book: &'b Book, region: &'b str) -> Bill<'b> {
        let mut bill = Bill::new(book, region);
        self.add_uplink(&mut bill);
        self.add_stream(&mut bill);
        self.add_archive(&mut bill);
        self.add_tables(&mut bill);
        self.add_ways(&mut bill);
        self.add_queues(&mut bill);
        self.add_reading(&mut bill);
        self.add_alerts(&mut bill);
        self.add_base(&mut bill);
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
        if self.design.broker == Broker::Own {
            let nodes = self.scenario.vehicles / self.design.connections_per_node;
            let nodes = nodes.ceil().max(self.design.nodes_min);
            bill.add(Step::Uplink, "nodes with brokers", "broker_node_hours", nodes * hours);
            bill.add(Step::Uplink, "load balancer", "nlb_hours", hours);
            let connections = self.scenario.vehicles / 100_000.0;
            let gigabytes = self.packed.records * self.sizes.envelope * 3_600.0 / bill.book.gb_bytes;
            let units = connections.max(gigabytes);
            bill.add(Step::Uplink, "connections", "nlb_lcu_hours", units * hours);
        }
        let tasks = (self.packed.records / self.design.bridge_task_records).ceil();
        let tasks = tasks.max(self.design.bridge_tasks_min);
        bill.add(Step::Uplink, "bridge", "bridge_task_hours", tasks * hours);
    }

    fn add_stream(&self, bill: &mut Bill<'_>) {
        let (hours, gb_bytes) = (bill.book.month_s / 3_600.0, bill.book.gb_bytes);
        let record_bytes = self.sizes.record + self.design.record_overhead_bytes;
        if self.design.stream == Stream::Provisioned {
            let shard_hours = self.packed.shards * hours;
            bill.add(Step::Stream, "shards", "kinesis_shard_hours", shard_hours);
            let units = self.envelopes * put_units(record_bytes);
            bill.add(Step::Stream, "records", "kinesis_put_units", units);
            if self.design.stream_kept_7_days {
                bill.add(Step::Stream, "kept for 7 days", "kinesis_retention_shard_hours", shard_hours);
            }
            return;
        }
        let counted = (record_bytes / STREAM_UNIT_BYTES).ceil() * STREAM_UNIT_BYTES;
        let gb = self.envelopes * counted / gb_bytes;
        bill.add(Step::Stream, "stream", "kinesis_stream_hours", hours);
        bill.add(Step::Stream, "written", "kinesis_on_demand_in", gb);
        let read = READERS * self.envelopes * record_bytes / gb_bytes;
        bill.add(Step::Stream, "read twice", "kinesis_on_demand_out", read);
        if self.design.stream_kept_7_days {
            let months = EXTENDED_DAYS * 86_400.0 / bill.book.month_s;
            bill.add(Step::Stream, "kept for 7 days", "kinesis_on_demand_retention", gb * months);
        }
    }

    fn add_archive(&self, bill: &mut Bill<'_>) {
        let objects = self.month(self.packed.shards / self.archive_s);
        let bytes = self.envelopes * self.sizes.archived;
        bill.add(Step::Archive, "objects", "s3_put", objects);
        let [months, warm_months] = self.design.archive_months;
        let gb = bytes / bill.book.gb_bytes;
        if bytes / objects < COLD_OBJECT_BYTES_MIN {
            bill.add(Step::Archive, "kept", "s3_storage", gb * months);
        } else {
            bill.add(Step::Archive, "kept for 30 days", "s3_storage", gb * warm_months);
            bill.add(Step::Archive, "kept for 12 months", "s3_cold_storage", gb * (months - warm_months));
            bill.add(Step::Archive, "moved", "s3_cold_transitions", objects);
        }
        let ms = 50.0 + self.design.archive_envelope_ms * self.envelopes / objects;
        bill.add_lambda(Step::Archive, "archive", objects, ms, self.design.data_function_mb);
    }

    fn add_tables(&self, bill: &mut Bill<'_>) {
        let writes = self.writes;
        let of_envelopes = [
            (Step::Store, "event items", writes.event),
            (Step::Store, "ledger", writes.ledger),
            (Step::Store, "ledger of the archive", writes.archive_ledger),
            (Step::Store, "state", writes.state),
            (Step::Store, "days", writes.days),
            (Step::Feed, "claims", writes.claims),
            (Step::Feed, "chunks and heads", writes.chunks),
            (Step::Alerts, "conditions", writes.conditions),
        ];
        for (step, what, each) in of_envelopes.into_iter().filter(|(_, _, each)| *each > 0.0) {
            self.add_writes(bill, step, what, self.envelopes * each);
        }
        let reads = self.reads;
        let of_envelopes = [
            (Step::Store, "ledger, state and days", reads.store + reads.archive_ledger),
            (Step::Feed, "heads", reads.feed),
            (Step::Alerts, "conditions", reads.conditions),
        ];
        for (step, what, each) in of_envelopes.into_iter().filter(|(_, _, each)| *each > 0.0) {
            bill.add(step, what, "dynamodb_rru", self.envelopes * each);
        }
        let (stored, feed) = stored_byte_days(self.design, &self.sizes, &self.packed);
        let kept = [(Step::Store, stored), (Step::Feed, feed)];
        for (step, byte_days) in kept.into_iter().filter(|(_, byte_days)| *byte_days > 0.0) {
            let gb = self.envelopes * byte_days * 86_400.0 / bill.book.month_s / bill.book.gb_bytes;
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

    /// Functions and buses from the stream to the customers' queues.
    fn add_ways(&self, bill: &mut Bill<'_>) {
        let memory_mb = self.design.data_function_mb;
        let batches = self.month(self.packed.batches);
        bill.add_lambda(Step::Ingest, "ingest", batches, self.ingest_ms(), memory_mb);
        let default = self.month(self.packed.default_entries);
        let paid = default * chunks(self.default_entry_bytes());
        bill.add(Step::DefaultBus, "entries", "eventbridge_events", paid);
        let calls = self.month(self.packed.enrich_calls);
        let requests = work_queue_requests(default, calls, self.default_entry_bytes() + MESSAGE_META_BYTES);
        bill.add(Step::Enrich, "queue before enrich", "sqs_requests", requests);
        bill.add_lambda(Step::Enrich, "enrich", calls, self.enrich_ms(), memory_mb);
        let delivery = self.month(self.delivery_entries_per_s());
        let paid = delivery * chunks(self.entry_bytes);
        bill.add(Step::Enrich, "entries of the delivery bus", "eventbridge_events", paid);
    }

    fn default_entry_bytes(&self) -> f64 {
        self.packed.per_default_entry() * default_event_bytes(self.design, &self.sizes)
    }

    fn message_bytes(&self) -> f64 {
        self.entry_bytes + MESSAGE_META_BYTES
    }

    fn add_queues(&self, bill: &mut Bill<'_>) {
        let delivery = self.month(self.delivery_entries_per_s());
        let sends = delivery * chunks(self.message_bytes());
        bill.add(Step::Queues, "sends to customers' queues", "sqs_requests", sends);
        let polls = self.polls_per_s() * bill.book.month_s;
        let filled = polls * self.polls_filled();
        let messages = delivery / filled;
        let bytes = QUEUE_CALL_MESSAGES.min(messages) * self.message_bytes();
        // One look more finds nothing left.
        let looks = (messages / QUEUE_CALL_MESSAGES).ceil() * chunks(bytes) + 1.0;
        let looks = filled * looks + (polls - filled) * self.design.empty_looks;
        bill.add(Step::Queues, "looks into them", "sqs_requests", looks);
        let deletes = filled * (messages / QUEUE_CALL_MESSAGES).ceil();
        bill.add(Step::Queues, "deletes", "sqs_requests", deletes);
        let calls = self.month(self.feed_calls_per_s());
        if calls > 0.0 {
            let requests = work_queue_requests(delivery, calls, self.message_bytes());
            bill.add(Step::Feed, "queue before feed", "sqs_requests", requests);
            bill.add_lambda(Step::Feed, "feed", calls, self.feed_ms(), self.design.feed_function_mb);
        }
    }

    fn add_reading(&self, bill: &mut Bill<'_>) {
        let reads = self.scenario.vehicles * self.design.reads_per_day * bill.book.month_s / 86_400.0;
        let requests = self.api_requests_per_s() * bill.book.month_s;
        bill.add(Step::Api, "polls, acknowledgements, reads", "http_api_requests", requests);
        let memory_mb = self.design.feed_function_mb;
        bill.add_lambda(Step::Reading, "fleet API", requests, self.design.api_ms, memory_mb);
        let keys = f64::from(self.scenario.customers) * bill.book.month_s / AUTHORIZED_S;
        let asked = keys.min(requests);
        bill.add_lambda(Step::Reading, "authorizer", asked, self.design.api_ms, AUTHORIZER_MB);
        bill.add(Step::Reading, "reads of state and events", "dynamodb_rru", reads);
        let event_bytes =
            if self.design.api_compresses { self.sizes.event_packed } else { self.sizes.event_json };
        let events = self.envelopes * self.design.subscriptions_per_vehicle;
        bill.add(Step::Reading, "events to customers", "egress", events * event_bytes / bill.book.gb_bytes);
    }

    fn add_alerts(&self, bill: &mut Bill<'_>) {
        let alerts = self.alerts(bill.book);
        bill.add(Step::Alerts, "an entry each", "eventbridge_events", alerts);
        bill.add(Step::Alerts, "three queues", "sqs_requests", alerts * ALERT_QUEUE_REQUESTS);
        let (ms, memory_mb) = (self.design.webhook_ms, self.design.webhook_function_mb);
        bill.add_lambda(Step::Alerts, "signed posts", alerts, ms, memory_mb);
        self.add_writes(bill, Step::Alerts, "feed of alerts", alerts * ALERT_FEED_WRITES);
        if self.writes.conditions == 0.0 {
            self.add_writes(bill, Step::Alerts, "opened and closed", 2.0 * alerts);
        }
    }

    fn add_base(&self, bill: &mut Bill<'_>) {
        let hours = bill.book.month_s / 3_600.0;
        let [small, large] = self.design.database_size;
        let size = if self.scenario.vehicles <= SMALL_FLEET_VEHICLES { small } else { large };
        bill.add(Step::Base, "reference database", "database_hours", size * hours);
        bill.add(Step::Base, "its disks", "database_storage", DATABASE_GB);
        let cpu_hours = size * DATABASE_CPUS * hours;
        bill.add(Step::Base, "its proxy", "database_proxy_cpu_hours", cpu_hours);
        bill.add(Step::Base, "ways out", "nat_hours", self.design.nat_gateways * hours);
        let pulled = self.entry_bytes / self.events_per_entry * self.design.subscriptions_per_vehicle;
        let bytes = self.envelopes * (self.sizes.record * BASE64 + pulled);
        let gb = (bytes + self.alerts(bill.book) * ALERT_BYTES) / bill.book.gb_bytes;
        bill.add(Step::Base, "records, pulled events, posts", "nat_gb", gb);
    }

    fn add_rest(&self, bill: &mut Bill<'_>) {
        let is_call = |line: &&super::bill::Line| line.unit == "requests";
        let calls: Vec<f64> = bill.lines.iter().filter(is_call).map(|line| line.quantity).collect();
        let log_bytes = calls.iter().sum::<f64>() * self.design.log_bytes;
        bill.add(Step::Rest, "logs of calls", "log_ingest", log_bytes / bill.book.gb_bytes);
        // The first call of each second, and a share of the others.
        let first = bill.book.month_s;
        let traced = |calls: &f64| calls.min(first) + (calls - first).max(0.0) * self.design.traced_share;
        bill.add(Step::Rest, "traces", "traces", calls.iter().map(traced).sum());
        bill.add(Step::Rest, "metrics", "metrics", self.design.metrics);
        bill.add(Step::Rest, "alarms", "alarm_metrics", self.design.alarm_metrics);
        let transitions = f64::from(self.scenario.customers) * ONBOARDED_SHARE * 20.0;
        bill.add(Step::Rest, "onboarding", "step_functions_transitions", transitions);
    }

    /// What it uses of the quotas, all vehicles driving at once.
    pub(crate) fn used(&self) -> Vec<Used> {
        let default = self.packed.default_entries;
        let delivery = self.delivery_entries_per_s();
        let alerts = self.alerts_per_s();
        let feed_targets = f64::from(u8::from(self.design.feed != Feed::Off));
        let customers = f64::from(self.scenario.customers);
        let telemetry_rules = self.design.subscriptions_per_vehicle * (TELEMETRY_RULES - 1.0 + feed_targets);
        let rules = customers * (telemetry_rules + ALERT_RULES);
        let entries_of_call = |entries: f64, calls: f64| calls * (entries / calls / 10.0).ceil();
        let puts = entries_of_call(default, self.packed.slices)
            + entries_of_call(delivery, self.packed.enrich_slices);
        let at_once = self.packed.batches * self.ingest_ms()
            + self.packed.enrich_calls * self.enrich_ms()
            + self.feed_calls_per_s() * self.feed_ms()
            + self.api_requests_per_s() * self.design.api_ms
            + alerts * self.design.webhook_ms;
        let writes = self.writes;
        let of_vehicles = writes.ledger + writes.archive_ledger + writes.days + writes.conditions;
        let of_feed = writes.claims + writes.chunks;
        let of_table = writes.event.max(writes.state).max(of_feed).max(of_vehicles);
        let largest_feed = largest_feed_writes(self.design, &self.sizes, &self.packed);
        let endpoints = (customers * BASIC_ENDPOINTS_SHARE).ceil();
        let invocations = default + delivery * (1.0 + feed_targets) + alerts * ALERT_RULES;
        vec![
            Used::new("eventbridge_invocations", invocations),
            Used::new("eventbridge_put_events", puts + alerts),
            Used::new("eventbridge_rules", rules),
            Used::new("eventbridge_subscribers_v2", rules),
            Used::new("eventbridge_api_destinations", endpoints),
            Used::new("lambda_concurrency", at_once / 1_000.0),
            Used::new("kinesis_shards", self.packed.shards),
            Used::new("dynamodb_table_writes", of_table * self.packed.records),
            Used::new("dynamodb_partition_writes", largest_feed),
            Used::new("sqs_in_flight", self.packed.largest_entries * LEASE_S),
            Used::new("api_requests", self.api_requests_per_s()),
        ]
    }
}

/// Requests for messages on their way through a queue to a function: each is sent by the bus, which the queue's owner
/// pays; those of a call are received and deleted ten at a time, and what is received is paid by 64 KB too.
fn work_queue_requests(messages: f64, calls: f64, bytes: f64) -> f64 {
    let of_call = messages / calls;
    let together = of_call.min(QUEUE_CALL_MESSAGES);
    let receives = of_call / together * chunks(together * bytes);
    let deletes = of_call / together;
    messages * chunks(bytes) + calls * (receives + deletes)
}

fn default_event_bytes(design: &Design, sizes: &Sizes) -> f64 {
    sizes.envelope * BASE64 + design.default_event_bytes
}

fn traffic(scenario: &Scenario, design: &Design, sizes: &Sizes) -> Traffic {
    let default_event = sizes.envelope * BASE64 + design.default_event_counted_bytes;
    // The largest pack: each event at the share that it has among many, and once what they repeat.
    let own = sizes.event_among(f64::INFINITY);
    let packed_bytes = (design.entry_bytes - DELIVERY_META_BYTES) / BASE64 - (sizes.event_alone - own);
    // Lambda hands over no more than its payload.
    let messages_max = (design.payload_bytes_max / design.entry_bytes).floor();
    let queue = Queue { call_messages_max: design.queue.call_messages_max.min(messages_max), ..design.queue };
    Traffic {
        customers: scenario.customers,
        records_per_s: scenario.vehicles / scenario.window_s,
        record_bytes: sizes.record + design.record_overhead_bytes,
        key: design.key,
        order: design.order,
        shard_headroom: design.shard_headroom,
        shards_min: design.shards_min,
        batch_records_max: design.ingest_batch_records_max,
        batch_window_s: design.ingest_window_s,
        slice_records_max: design.ingest_slice_records_max,
        default_entry_max: (design.entry_bytes / default_event) as usize,
        queue,
        delivery_entry_max: (packed_bytes / own) as usize,
        chunk_events_max: design.chunk_events_max.min(design.chunk_bytes_max / sizes.event_json) as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::design::{LADDER, Lever};

    fn total(scenario: &Scenario, levers: &[Lever]) -> f64 {
        let book = Book::of_repository().unwrap();
        Flow::new(&book, scenario, &Design::with(levers)).bill(&book, "us-east-1").total()
    }

    #[test]
    fn a_message_alone_is_sent_received_and_deleted() {
        assert_eq!(work_queue_requests(1.0, 1.0, 1_000.0), 3.0);
    }

    #[test]
    fn messages_of_a_call_are_received_and_deleted_by_ten() {
        assert_eq!(work_queue_requests(100.0, 1.0, 1_000.0), 100.0 + 10.0 + 10.0);
        assert_eq!(work_queue_requests(100.0, 10.0, 6_553.6), 100.0 + 10.0 + 10.0);
    }

    #[test]
    fn what_is_received_is_paid_by_64_kb() {
        assert_eq!(work_queue_requests(100.0, 10.0, 6_554.0), 100.0 + 20.0 + 10.0);
        assert_eq!(work_queue_requests(100.0, 10.0, 65_536.0), 100.0 + 100.0 + 10.0);
        assert_eq!(work_queue_requests(100.0, 10.0, 65_537.0), 200.0 + 110.0 + 10.0);
    }

    #[test]
    fn every_step_of_the_ladder_lowers_the_bill() {
        let scenario = Scenario::of(1_000_000.0, 60.0);
        let totals: Vec<f64> = (0..=LADDER.len()).map(|steps| total(&scenario, &LADDER[..steps])).collect();
        assert!(totals.windows(2).all(|pair| pair[1] < pair[0]), "{totals:?}");
        assert!(total(&scenario, &[Lever::IotCore]) > totals[0]);
    }

    #[test]
    fn a_longer_window_costs_less() {
        let total = |window_s: f64| total(&Scenario::of(100_000.0, window_s), &[]);
        assert!(total(300.0) < total(60.0) && total(60.0) < total(10.0));
    }

    #[test]
    fn thresholds_cost_reads_writes_and_time_of_ingest() {
        let book = Book::of_repository().unwrap();
        let (design, with) = (Design::built(), Scenario::of(100_000.0, 60.0));
        let without = Scenario { thresholds: 0.0, ..with.clone() };
        let [with, without] = [&with, &without].map(|scenario| Flow::new(&book, scenario, &design));
        let dollars = |flow: &Flow<'_>| flow.bill(&book, "us-east-1").total();
        // Per envelope: a write of 0.625 and a read of 0.125 millionths of a dollar, and 5 ms of 1 GB.
        let envelopes = 100_000.0 * 43_200.0;
        let of_thresholds = envelopes * (0.625e-6 + 0.125e-6 + 0.005 * 13.3334e-6);
        let alerts_written = 100_000.0 * 259_200.0 * ALERTS * 2.0 * 0.625e-6;
        let differ = dollars(&with) - dollars(&without);
        assert!((differ / (of_thresholds - alerts_written) - 1.0).abs() < 1e-6, "{differ}");
        let slower = (with.ingest_load() - without.ingest_load()) / with.packed.hottest_shard;
        assert!((slower - 0.005).abs() < 1e-9, "{slower}");
    }
}
