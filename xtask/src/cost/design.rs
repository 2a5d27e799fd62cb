//! Our design as parameters, each with its reason: what changes in the design changes here, one line.

use clap::ValueEnum;

use super::pack::{Key, Order};

/// How vehicles reach the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broker {
    /// Brokers with the bridge beside them, on nodes of our own.
    Own,
    /// AWS IoT Core: the envelope comes and goes to the bridge, the acknowledgement comes and goes to the vehicle.
    IotCore,
}

/// What the feed writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feed {
    /// A row for each event.
    Event,
    /// A row for each entry of the delivery bus, which holds several events compressed together.
    Entry,
    /// None.
    Off,
}

/// How write capacity of the tables is bought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Capacity {
    OnDemand,
    /// Provisioned, used to this part, 0 to 1.
    Provisioned(f64),
}

/// The parameters. `spec`: so it is designed; `measured`: by `cargo xtask bench`; `assumed`: nobody has measured it yet.
#[derive(Clone, Debug)]
pub(crate) struct Design {
    /// spec: any MQTT broker, the bridge is a program of its own.
    pub(crate) broker: Broker,
    /// assumed: TLS connections on a node of 4 GiB.
    pub(crate) connections_per_node: f64,
    /// assumed: two zones.
    pub(crate) nodes_min: f64,

    /// assumed: what the mean is exceeded by in a shard.
    pub(crate) shard_headroom: f64,
    /// spec: the stream is kept for seven days.
    pub(crate) stream_kept_7_days: bool,
    /// spec: blake3(customer, one of 16 buckets), `BUCKETS` in the bridge.
    pub(crate) key: Key,
    /// Partition key and Kinesis' own fields beside the record's bytes; assumed.
    pub(crate) record_overhead_bytes: f64,

    /// spec: event source mapping of ingest.
    pub(crate) ingest_batch_records_max: f64,
    /// spec: the same.
    pub(crate) ingest_window_s: f64,
    /// assumed: a batch's time is its writes, 32 at once, 5 ms each.
    pub(crate) ingest_ms: f64,
    /// assumed: see `ingest_ms`.
    pub(crate) ingest_envelope_ms: f64,
    /// spec: memory of the functions of the stream.
    pub(crate) stream_function_mb: f64,

    /// spec: event source mapping of the archive.
    pub(crate) archive_window_s: f64,
    /// Lambda's payload of 6 MB, of records in base64 with 350 bytes beside each: documented, and assumed.
    pub(crate) archive_payload_bytes: f64,
    /// assumed: months that the archive is kept.
    pub(crate) archive_months: f64,

    /// Keys, times and attribute names beside an envelope in its item; assumed.
    pub(crate) item_overhead_bytes: f64,
    /// spec: a row of the ledger for each envelope, written beside its item; it is never larger than 1 KB.
    pub(crate) ledger_rows: f64,
    /// spec: a row of the ledger for each vehicle in an archive object. A longer interval merges rows.
    pub(crate) archive_row_s: Option<f64>,
    /// assumed: path, unit, value and two times of a signal in the state item.
    pub(crate) state_signal_bytes: f64,
    /// measured: signals of the recorded vehicle.
    pub(crate) state_signals: f64,
    /// spec: state is written with each envelope; at most once in this time where it is given.
    pub(crate) state_s: Option<f64>,
    /// spec: on demand.
    pub(crate) capacity: Capacity,
    /// spec: CONVOY_KEEP_DAYS.
    pub(crate) keep_days: f64,
    /// spec: point-in-time recovery on all tables.
    pub(crate) has_pitr: bool,

    /// spec: detail of an entry.
    pub(crate) entry_bytes: f64,
    /// spec: several envelopes are packed in stream order.
    pub(crate) order: Order,
    /// Lane, count, times and quotes around an envelope of the default bus; assumed.
    pub(crate) default_event_bytes: f64,
    /// assumed: subscriptions that a vehicle's telemetry goes to.
    pub(crate) subscriptions_per_vehicle: f64,
    /// assumed: a call of enrichment, and each event in it.
    pub(crate) enrich_ms: f64,
    /// assumed: see `enrich_ms`.
    pub(crate) enrich_event_ms: f64,

    /// spec: the customer's queue, fed by a rule: a send by the bus, a receive and a delete for ten.
    pub(crate) queue_requests: f64,
    /// spec: a function that a rule of each subscription calls.
    pub(crate) feed: Feed,
    /// spec: entry and marker are written in a transaction, which doubles their units.
    pub(crate) feed_transaction: f64,
    /// spec: the marker that makes appending again change nothing.
    pub(crate) feed_markers: f64,
    /// assumed: a transaction of the feed.
    pub(crate) feed_row_ms: f64,

    /// assumed: a customer asks once a second, or as often as its entries need at 100 a request.
    pub(crate) polls_per_s: f64,
    /// The API compresses no answer yet.
    pub(crate) api_compresses: bool,
    /// assumed: reads of a vehicle's state or events a day.
    pub(crate) reads_per_day: f64,
    /// spec: one dispatcher signs and posts.
    pub(crate) webhook_ms: f64,

    /// assumed: Aurora capacity units, up to 10,000 vehicles and beyond.
    pub(crate) database_acu: [f64; 2],
    /// assumed: interface endpoints in two zones, for streams, queues, buses, secrets, functions and logs.
    pub(crate) endpoints: f64,
    /// assumed: log bytes of a call.
    pub(crate) log_bytes: f64,
    /// assumed: metrics without a tenant in their dimensions.
    pub(crate) metrics: f64,
}

impl Design {
    /// As it is specified.
    pub(crate) fn specified() -> Self {
        Self {
            broker: Broker::Own,
            connections_per_node: 50_000.0,
            nodes_min: 2.0,
            shard_headroom: 1.3,
            stream_kept_7_days: true,
            key: Key::Buckets(16),
            record_overhead_bytes: 60.0,
            ingest_batch_records_max: 500.0,
            ingest_window_s: 1.0,
            ingest_ms: 20.0,
            ingest_envelope_ms: 0.6,
            stream_function_mb: 512.0,
            archive_window_s: 60.0,
            archive_payload_bytes: 6_291_456.0,
            archive_months: 12.0,
            item_overhead_bytes: 230.0,
            ledger_rows: 1.0,
            archive_row_s: None,
            state_signal_bytes: 90.0,
            state_signals: 18.0,
            state_s: None,
            capacity: Capacity::OnDemand,
            keep_days: 30.0,
            has_pitr: true,
            entry_bytes: 61_440.0,
            order: Order::Stream,
            default_event_bytes: 110.0,
            subscriptions_per_vehicle: 1.0,
            enrich_ms: 20.0,
            enrich_event_ms: 0.1,
            queue_requests: 1.2,
            feed: Feed::Event,
            feed_transaction: 2.0,
            feed_markers: 1.0,
            feed_row_ms: 8.0,
            polls_per_s: 1.0,
            api_compresses: false,
            reads_per_day: 12.0,
            webhook_ms: 60.0,
            database_acu: [1.5, 3.0],
            endpoints: 12.0,
            log_bytes: 500.0,
            metrics: 20.0,
        }
    }

    /// With levers pulled.
    pub(crate) fn with(levers: &[Lever]) -> Self {
        let mut design = Self::specified();
        levers.iter().for_each(|lever| lever.pull(&mut design));
        design
    }
}

/// A change of the design that lowers the bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lever {
    /// Ingest packs a batch customer by customer.
    PackByCustomer,
    /// One bucket for every 600 records a second of a customer, instead of sixteen.
    KeyByRate,
    /// The feed writes a row for each bus entry, not for each event.
    FeedByEntry,
    /// No feed for telemetry.
    NoFeed,
    /// The archive enters a vehicle into the ledger once an hour.
    ArchiveHourly,
    /// The event item itself is the ledger's row.
    LedgerInItem,
    /// State is written every five minutes.
    #[value(name = "state-every-5-min")]
    StateEvery5Min,
    /// Write capacity is provisioned, 70 % used.
    Provisioned,
    /// Tables keep 7 days; older history is read from the archive.
    #[value(name = "keep-7-days")]
    Keep7Days,
    /// No point-in-time recovery: the archive has the events.
    NoPitr,
    /// The API compresses its answers.
    CompressApi,
    /// AWS IoT Core instead of brokers of our own; it raises the bill.
    IotCore,
}

/// In the order of what they change: the last steps change no behaviour that a customer sees.
pub(crate) const LADDER: [Lever; 10] = [
    Lever::PackByCustomer,
    Lever::KeyByRate,
    Lever::FeedByEntry,
    Lever::ArchiveHourly,
    Lever::LedgerInItem,
    Lever::StateEvery5Min,
    Lever::Provisioned,
    Lever::NoPitr,
    Lever::Keep7Days,
    Lever::CompressApi,
];

impl Lever {
    fn pull(self, design: &mut Design) {
        match self {
            Self::PackByCustomer => design.order = Order::Customer,
            Self::KeyByRate => design.key = Key::BucketsByRate(600.0),
            Self::FeedByEntry => design.feed = Feed::Entry,
            Self::NoFeed => design.feed = Feed::Off,
            Self::ArchiveHourly => design.archive_row_s = Some(3_600.0),
            Self::LedgerInItem => design.ledger_rows = 0.0,
            Self::StateEvery5Min => design.state_s = Some(300.0),
            Self::Provisioned => design.capacity = Capacity::Provisioned(0.7),
            Self::Keep7Days => design.keep_days = 7.0,
            Self::NoPitr => design.has_pitr = false,
            Self::CompressApi => design.api_compresses = true,
            Self::IotCore => design.broker = Broker::IotCore,
        }
    }

    /// As it is typed.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
