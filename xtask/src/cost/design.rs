//! Our design as parameters, each with its reason: what changes in the design changes here, one line.

use clap::ValueEnum;

use super::pack::{Key, Order, Queue};

/// How vehicles reach the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broker {
    /// Brokers on nodes of our own, and the bridge.
    Own,
    /// AWS IoT Core: the envelope comes and goes to the bridge, the acknowledgement comes and goes to the vehicle.
    IotCore,
}

/// How the stream is bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// By what flows; AWS counts the shards.
    OnDemand,
    /// By shards that somebody counts.
    Provisioned,
}

/// What keeps an event from coming twice in a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feed {
    /// A claim for each event.
    ClaimEvents,
    /// A claim for each entry of the delivery bus.
    ClaimEntries,
    /// There is no feed of telemetry.
    Off,
}

/// How write capacity of the tables is bought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Capacity {
    OnDemand,
    /// Provisioned, used to this part, 0 to 1.
    Provisioned(f64),
}

/// The parameters. `built`: so it is in `cloud/aws`, its template included; `documented`: by AWS; `measured`: by
/// `cargo xtask bench`; `assumed`: nobody has measured it yet.
#[derive(Clone, Debug)]
pub(crate) struct Design {
    /// built: any MQTT broker, the bridge is a service of its own.
    pub(crate) broker: Broker,
    /// assumed: TLS connections on a broker's node of 4 GiB.
    pub(crate) connections_per_node: f64,
    /// assumed: two zones.
    pub(crate) nodes_min: f64,
    /// built: tasks of the bridge.
    pub(crate) bridge_tasks_min: f64,
    /// assumed: records a second that a task of half a CPU takes.
    pub(crate) bridge_task_records: f64,

    /// built: on demand.
    pub(crate) stream: Stream,
    /// documented: on demand a stream has room for double its peak; assumed: provisioned it has a third more.
    pub(crate) shard_headroom: f64,
    /// documented: on demand a stream begins with four.
    pub(crate) shards_min: usize,
    /// built: the stream is kept for seven days.
    pub(crate) stream_kept_7_days: bool,
    /// built: blake3(customer, one of 16 buckets), `BUCKETS` in the bridge.
    pub(crate) key: Key,
    /// built: the partition key in hex.
    pub(crate) record_overhead_bytes: f64,

    /// built: event source mapping of ingest.
    pub(crate) ingest_batch_records_max: f64,
    /// built: the same.
    pub(crate) ingest_window_s: f64,
    /// built: records that ingest works off together.
    pub(crate) ingest_slice_records_max: usize,
    /// assumed: what a slice takes besides, a call of the bus mostly.
    pub(crate) ingest_slice_ms: f64,
    /// assumed: five calls of 6 ms each, 32 at once.
    pub(crate) ingest_envelope_ms: f64,
    /// assumed: a query of the vehicle's conditions, one after the other.
    pub(crate) ingest_condition_ms: f64,
    /// built: memory of ingest, archive and enrich.
    pub(crate) data_function_mb: f64,
    /// built: memory of feed and of the fleet API.
    pub(crate) feed_function_mb: f64,
    /// built: memory of the function that posts webhooks.
    pub(crate) webhook_function_mb: f64,

    /// built: event source mapping of the archive.
    pub(crate) archive_window_s: f64,
    /// built: the same.
    pub(crate) archive_records_max: f64,
    /// documented: Lambda's payload of 6 MB; assumed: 350 bytes beside each record in base64.
    pub(crate) payload_bytes_max: f64,
    /// built: months that the archive is kept, and how many of them before it goes to the cheaper class.
    pub(crate) archive_months: [f64; 2],
    /// assumed: a read and a write of the ledger, 32 at once, and packing.
    pub(crate) archive_envelope_ms: f64,

    /// built: keys, times and attribute names beside an envelope in its item.
    pub(crate) item_overhead_bytes: f64,
    /// built: ingest writes the ledger of a boot with every slice. Without, the items of envelopes are the ledger.
    pub(crate) has_ledger: bool,
    /// built: the archive writes it with every object. A longer interval merges writes.
    pub(crate) archive_ledger_s: Option<f64>,
    /// assumed: a signal's share of the packed state. 18 of them take 670 bytes with made-up values.
    pub(crate) state_signal_bytes: f64,
    /// measured: signals of the recorded vehicle.
    pub(crate) state_signals: f64,
    /// built: state is written with each envelope; at most once in this time where it is given.
    pub(crate) state_s: Option<f64>,
    /// assumed: processes that look up a vehicle's days within a day.
    pub(crate) day_reads: f64,
    /// built: a condition is written whenever it was observed; with it, when it opened or closed.
    pub(crate) conditions_on_change: bool,
    /// built: on demand.
    pub(crate) capacity: Capacity,
    /// built: CONVOY_KEEP_DAYS.
    pub(crate) keep_days: f64,
    /// built: point-in-time recovery on all tables.
    pub(crate) has_pitr: bool,

    /// built: `PACKED_BYTES_MAX`.
    pub(crate) entry_bytes: f64,
    /// built: envelopes are packed in stream order.
    pub(crate) order: Order,
    /// built: what packing counts for an envelope besides its payload.
    pub(crate) default_event_counted_bytes: f64,
    /// built: lane, count, times and quotes around it.
    pub(crate) default_event_bytes: f64,
    /// built: event source mappings and slices of enrich and feed; documented: five calls are gathered at once.
    pub(crate) queue: Queue,
    /// assumed: subscriptions that a vehicle's telemetry goes to.
    pub(crate) subscriptions_per_vehicle: f64,
    /// assumed: a slice of enrichment, each event in it, and each entry that comes of it.
    pub(crate) enrich_ms: [f64; 3],

    /// built: a feed for each subscription.
    pub(crate) feed: Feed,
    /// built: events in a chunk.
    pub(crate) chunk_events_max: f64,
    /// built: bytes of JSON in a chunk.
    pub(crate) chunk_bytes_max: f64,
    /// assumed: share of chunks whose first place another writer takes.
    pub(crate) chunks_lost: f64,
    /// assumed: a slice of the feed, and each chunk of it, eight feeds at once.
    pub(crate) feed_ms: [f64; 2],

    /// built: what the API tells customers to wait for, or as often as their entries need at 100 a request.
    pub(crate) polls_per_s: f64,
    /// built: looks into a queue that seems empty.
    pub(crate) empty_looks: f64,
    /// built: the API compresses no answer.
    pub(crate) api_compresses: bool,
    /// assumed: milliseconds of a request.
    pub(crate) api_ms: f64,
    /// assumed: reads of a vehicle's state or events a day.
    pub(crate) reads_per_day: f64,
    /// assumed: a post.
    pub(crate) webhook_ms: f64,

    /// built: db.t4g.medium in two zones; assumed: four times as large beyond 10,000 vehicles.
    pub(crate) database_size: [f64; 2],
    /// assumed: NAT gateways, one in each zone.
    pub(crate) nat_gateways: f64,
    /// documented: share of calls that are traced, beyond one a second.
    pub(crate) traced_share: f64,
    /// assumed: the platform's lines of a call, the line with its counters, or that of the API.
    pub(crate) log_bytes: f64,
    /// built: counters without a tenant in their dimensions; assumed: so many are not zero.
    pub(crate) metrics: f64,
    /// built: metrics in alarms.
    pub(crate) alarm_metrics: f64,
}

impl Design {
    /// As it is built.
    pub(crate) fn built() -> Self {
        Self {
            broker: Broker::Own,
            connections_per_node: 50_000.0,
            nodes_min: 2.0,
            bridge_tasks_min: 2.0,
            bridge_task_records: 10_000.0,
            stream: Stream::OnDemand,
            shard_headroom: 2.0,
            shards_min: 4,
            stream_kept_7_days: true,
            key: Key::Buckets(16),
            record_overhead_bytes: 32.0,
            ingest_batch_records_max: 500.0,
            ingest_window_s: 1.0,
            ingest_slice_records_max: 128,
            ingest_slice_ms: 15.0,
            ingest_envelope_ms: 0.95,
            ingest_condition_ms: 5.0,
            data_function_mb: 1_024.0,
            feed_function_mb: 512.0,
            webhook_function_mb: 256.0,
            archive_window_s: 60.0,
            archive_records_max: 10_000.0,
            payload_bytes_max: 6_291_456.0,
            archive_months: [12.0, 1.0],
            archive_envelope_ms: 0.4,
            item_overhead_bytes: 140.0,
            has_ledger: true,
            archive_ledger_s: None,
            state_signal_bytes: 37.0,
            state_signals: 18.0,
            state_s: None,
            day_reads: 8.0,
            conditions_on_change: false,
            capacity: Capacity::OnDemand,
            keep_days: 30.0,
            has_pitr: true,
            entry_bytes: 60_000.0,
            order: Order::Stream,
            default_event_counted_bytes: 256.0,
            default_event_bytes: 100.0,
            queue: Queue { call_messages_max: 100.0, window_s: 1.0, pollers: 5.0, slice_messages_max: 20 },
            subscriptions_per_vehicle: 1.0,
            enrich_ms: [20.0, 0.1, 0.4],
            feed: Feed::ClaimEvents,
            chunk_events_max: 100.0,
            chunk_bytes_max: 1_048_576.0,
            chunks_lost: 0.1,
            feed_ms: [10.0, 2.5],
            polls_per_s: 1.0,
            empty_looks: 2.0,
            api_compresses: false,
            api_ms: 30.0,
            reads_per_day: 12.0,
            webhook_ms: 60.0,
            database_size: [1.0, 4.0],
            nat_gateways: 2.0,
            traced_share: 0.05,
            log_bytes: 1_000.0,
            metrics: 20.0,
            alarm_metrics: 31.0,
        }
    }

    /// With levers pulled.
    pub(crate) fn with(levers: &[Lever]) -> Self {
        let mut design = Self::built();
        levers.iter().for_each(|lever| lever.pull(&mut design));
        design
    }
}

/// A change of the design that lowers the bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lever {
    /// A condition is stored when it opened or closed, not whenever it was observed.
    ConditionsOnChange,
    /// The archive enters a vehicle into the ledger once an hour.
    ArchiveHourly,
    /// Enrich and feed gather messages for five seconds, and work off a hundred together.
    WideSlices,
    /// One bucket for every 600 records a second of a customer, instead of sixteen.
    KeyByRate,
    /// Ingest packs a batch customer by customer.
    PackByCustomer,
    /// A feed claims entries of the delivery bus, not each event.
    ClaimEntries,
    /// The event item itself is the ledger's row.
    LedgerInItem,
    /// Shards are counted by an operator, a third more than needed.
    ProvisionedStream,
    /// Write capacity is provisioned, 70 % used.
    Provisioned,
    /// No point-in-time recovery: the archive has the events.
    NoPitr,
    /// The API compresses its answers.
    CompressApi,
    /// Tables keep 7 days; older history is read from the archive.
    #[value(name = "keep-7-days")]
    Keep7Days,
    /// The API tells customers to ask again after five seconds.
    #[value(name = "poll-every-5-s")]
    PollEvery5S,
    /// State is written every five minutes.
    #[value(name = "state-every-5-min")]
    StateEvery5Min,
    /// No feed for telemetry.
    NoFeed,
    /// AWS IoT Core instead of brokers of our own; it raises the bill.
    IotCore,
}

/// In the order of what they ask for: first what no customer sees, last what one does.
pub(crate) const LADDER: [Lever; 14] = [
    Lever::ConditionsOnChange,
    Lever::ArchiveHourly,
    Lever::WideSlices,
    Lever::KeyByRate,
    Lever::PackByCustomer,
    Lever::ClaimEntries,
    Lever::LedgerInItem,
    Lever::ProvisionedStream,
    Lever::Provisioned,
    Lever::NoPitr,
    Lever::CompressApi,
    Lever::Keep7Days,
    Lever::PollEvery5S,
    Lever::StateEvery5Min,
];

impl Lever {
    fn pull(self, design: &mut Design) {
        match self {
            Self::ConditionsOnChange => design.conditions_on_change = true,
            Self::ArchiveHourly => design.archive_ledger_s = Some(3_600.0),
            Self::WideSlices => {
                design.queue = Queue { window_s: 5.0, slice_messages_max: 100, ..design.queue };
            }
            Self::KeyByRate => design.key = Key::BucketsByRate(600.0),
            Self::PackByCustomer => design.order = Order::Customer,
            Self::ClaimEntries => design.feed = Feed::ClaimEntries,
            Self::LedgerInItem => design.has_ledger = false,
            Self::ProvisionedStream => {
                design.stream = Stream::Provisioned;
                (design.shard_headroom, design.shards_min) = (1.3, 1);
            }
            Self::Provisioned => design.capacity = Capacity::Provisioned(0.7),
            Self::NoPitr => design.has_pitr = false,
            Self::CompressApi => design.api_compresses = true,
            Self::Keep7Days => design.keep_days = 7.0,
            Self::PollEvery5S => design.polls_per_s = 0.2,
            Self::StateEvery5Min => design.state_s = Some(300.0),
            Self::NoFeed => design.feed = Feed::Off,
            Self::IotCore => design.broker = Broker::IotCore,
        }
    }

    /// As it is typed.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
