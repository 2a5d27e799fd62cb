//! How full bus entries and chunks of feeds get: a seeded simulation of stream, ingest, enrich and feed, without any of
//! them.
//!
//! Customers' fleets are sizes by Zipf's law. A record goes to the shard that its partition key hashes to; a shard's
//! records reach ingest in batches; ingest packs slices of a batch into entries of the default bus. These wait in a queue
//! with those of all shards; enrich takes some of them, and packs the events of each subscription out of a slice into
//! entries of the delivery bus. These wait in a queue again; feed takes some, and makes the events of each subscription
//! out of a slice a chunk.

use std::rc::Rc;

/// Exponent of Zipf's law: the largest of 200 fleets holds a tenth of the vehicles.
const ZIPF_EXPONENT: f64 = 0.8;
/// Records a second that a shard takes.
const SHARD_RECORDS_MAX: f64 = 1_000.0;
/// Bytes a second that a shard takes.
const SHARD_BYTES_MAX: f64 = 1_048_576.0;
/// More shards than the mean needs, at most by this factor.
const SHARDS_MAX_FACTOR: usize = 4;
/// Shards looked at; more give the same means.
const SHARDS_SAMPLED_MAX: usize = 40;
/// Seconds that are looked at.
const SECONDS_SAMPLED: usize = 12;

/// Which records share a shard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Key {
    /// The vehicle: every shard sees every customer.
    Vehicle,
    /// Customer and bucket, this many buckets for each customer.
    Buckets(u32),
    /// Customer and bucket, one bucket for this many records a second.
    BucketsByRate(f64),
}

/// In which order ingest packs a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As the records came.
    Stream,
    /// Customer by customer; a vehicle's records keep their order.
    Customer,
}

/// How a function takes messages of a queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Queue {
    /// Messages in one call at most.
    pub(crate) call_messages_max: f64,
    /// Seconds that messages are gathered for one call.
    pub(crate) window_s: f64,
    /// Calls that are gathered at once, each of its own messages.
    pub(crate) pollers: f64,
    /// Messages that the function works off together.
    pub(crate) slice_messages_max: usize,
}

impl Queue {
    /// Messages in one call, when so many come in a second; its window begins with its first message.
    pub(crate) fn call_messages(&self, messages_per_s: f64) -> f64 {
        (1.0 + messages_per_s / self.pollers * self.window_s).min(self.call_messages_max)
    }
}

/// What is simulated.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    pub(crate) customers: u32,
    /// Of all vehicles together.
    pub(crate) records_per_s: f64,
    pub(crate) record_bytes: f64,
    pub(crate) key: Key,
    pub(crate) order: Order,
    /// More shards than the mean needs, by this factor.
    pub(crate) shard_headroom: f64,
    pub(crate) shards_min: usize,
    pub(crate) batch_records_max: f64,
    pub(crate) batch_window_s: f64,
    /// Records of a batch that ingest works off and packs together.
    pub(crate) slice_records_max: usize,
    /// Envelopes that fit into an entry of the default bus.
    pub(crate) default_entry_max: usize,
    /// Before enrich, and before feed.
    pub(crate) queue: Queue,
    /// Events that fit into an entry of the delivery bus.
    pub(crate) delivery_entry_max: usize,
    /// Events that fit into a chunk of a feed.
    pub(crate) chunk_events_max: usize,
}

/// What came out, each figure a second.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Packed {
    pub(crate) records: f64,
    pub(crate) shards: f64,
    /// Records of the shard that gets most.
    pub(crate) hottest_shard: f64,
    pub(crate) batches: f64,
    /// Slices of ingest's batches.
    pub(crate) slices: f64,
    pub(crate) default_entries: f64,
    pub(crate) enrich_calls: f64,
    pub(crate) enrich_slices: f64,
    /// For one subscription a vehicle.
    pub(crate) delivery_entries: f64,
    pub(crate) feed_calls: f64,
    pub(crate) feed_slices: f64,
    /// Chunks of feeds, by how many events are in one.
    pub(crate) chunks: Vec<f64>,
    /// Share of the largest customer in all records, 0 to 1.
    pub(crate) largest_customer: f64,
    /// Entries of the delivery bus for the largest customer.
    pub(crate) largest_entries: f64,
    /// Chunks of its feed.
    pub(crate) largest_chunks: f64,
}

impl Packed {
    /// Envelopes in an entry of the default bus.
    pub(crate) fn per_default_entry(&self) -> f64 {
        self.records / self.default_entries
    }

    /// Envelopes in an entry of the delivery bus.
    pub(crate) fn per_delivery_entry(&self) -> f64 {
        self.records / self.delivery_entries
    }

    /// Chunks of all feeds.
    pub(crate) fn all_chunks(&self) -> f64 {
        self.chunks.iter().sum()
    }
}

/// SplitMix64: enough for a simulation, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// From 0, below 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f64) as usize
    }

    fn poisson(&mut self, mean: f64) -> usize {
        if mean > 50.0 {
            // Twelve uniform numbers are nearly normal.
            let normal = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
            return (mean + mean.sqrt() * normal).round().max(0.0) as usize;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }
}

fn mixed(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Shares of the customers, largest first; together 1.
pub(crate) fn fleet_shares(customers: u32) -> Vec<f64> {
    let weights: Vec<f64> = (1..=customers.max(1)).map(|rank| f64::from(rank).powf(-ZIPF_EXPONENT)).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Records a second of the customers that a shard sees.
type Shard = Rc<Vec<(usize, f64)>>;

fn shard_rates(traffic: &Traffic, shares: &[f64], shards: usize, seed: u64) -> Vec<Shard> {
    let rates = shares.iter().map(|share| share * traffic.records_per_s);
    let buckets_of = |rate: f64| match traffic.key {
        Key::Vehicle => None,
        Key::Buckets(buckets) => Some(u64::from(buckets)),
        Key::BucketsByRate(each) => Some((rate / each).ceil().max(1.0) as u64),
    };
    let mut everywhere = Vec::new();
    let mut seen: Vec<Vec<(usize, f64)>> = vec![Vec::new(); shards];
    for (customer, rate) in rates.enumerate() {
        let Some(buckets) = buckets_of(rate) else {
            everywhere.push((customer, rate / shards as f64));
            continue;
        };
        for bucket in 0..buckets {
            let hash = mixed(seed ^ mixed((customer as u64) << 32 | bucket));
            let shard = &mut seen[(hash % shards as u64) as usize];
            match shard.last_mut().filter(|(last, _)| *last == customer) {
                Some((_, sum)) => *sum += rate / buckets as f64,
                None => shard.push((customer, rate / buckets as f64)),
            }
        }
    }
    if traffic.key == Key::Vehicle {
        let everywhere = Rc::new(everywhere);
        return vec![everywhere; shards];
    }
    seen.into_iter().map(Rc::new).collect()
}

fn rate_of(shard: &[(usize, f64)]) -> f64 {
    shard.iter().map(|(_, rate)| rate).sum()
}

fn hottest(shards: &[Shard], key: Key) -> f64 {
    let looked_at = if key == Key::Vehicle { 1 } else { shards.len() };
    shards[..looked_at].iter().map(|shard| rate_of(shard)).fold(0.0, f64::max)
}

/// As many shards as the mean rate needs with head-room, and then more until the hottest one holds its records.
fn shards_needed(traffic: &Traffic, shares: &[f64], seed: u64) -> Vec<Shard> {
    let by_records = traffic.records_per_s / SHARD_RECORDS_MAX;
    let by_bytes = traffic.records_per_s * traffic.record_bytes / SHARD_BYTES_MAX;
    let mean = (traffic.shard_headroom * by_records.max(by_bytes)).ceil() as usize;
    let mean = mean.max(traffic.shards_min).max(1);
    let records_max = SHARD_RECORDS_MAX.min(SHARD_BYTES_MAX / traffic.record_bytes);
    let mut shards = mean;
    loop {
        let rates = shard_rates(traffic, shares, shards, seed);
        // One bucket that is too much for a shard stays so however many shards there are.
        if hottest(&rates, traffic.key) <= records_max || shards >= SHARDS_MAX_FACTOR * mean {
            return rates;
        }
        shards += (shards / 20).max(1);
    }
}

/// Customers of the records of one batch, in stream order.
fn batch(shard: &[(usize, f64)], records: f64, random: &mut Random) -> Vec<usize> {
    let scale = records / rate_of(shard);
    let mut batch = Vec::new();
    for (customer, rate) in shard {
        let count = random.poisson(rate * scale);
        batch.extend(std::iter::repeat_n(*customer, count));
    }
    for index in (1..batch.len()).rev() {
        batch.swap(index, random.below(index + 1));
    }
    batch
}

/// What has been seen of the sampled shards.
struct Sum {
    packed: Packed,
    /// Events of the largest customer, in its entries and chunks.
    largest_events: f64,
}

/// Simulates; the same seed gives the same numbers.
pub(crate) fn simulate(traffic: &Traffic, seed: u64) -> Packed {
    let shares = fleet_shares(traffic.customers);
    let shards = shards_needed(traffic, &shares, seed);
    let mut random = Random(seed);
    let mut sum = Sum {
        packed: Packed {
            records: 0.0,
            shards: shards.len() as f64,
            hottest_shard: hottest(&shards, traffic.key),
            batches: 0.0,
            slices: 0.0,
            default_entries: 0.0,
            enrich_calls: 0.0,
            enrich_slices: 0.0,
            delivery_entries: 0.0,
            feed_calls: 0.0,
            feed_slices: 0.0,
            chunks: Vec::new(),
            largest_customer: shares[0],
            largest_entries: 0.0,
            largest_chunks: 0.0,
        },
        largest_events: 0.0,
    };
    let step = shards.len().div_ceil(SHARDS_SAMPLED_MAX);
    let sampled: Vec<&Shard> = shards.iter().step_by(step).filter(|shard| !shard.is_empty()).collect();
    let sampled_rate: f64 = sampled.iter().map(|shard| rate_of(shard)).sum();
    // A call may gather for longer than a second.
    let span_s = traffic.queue.window_s.ceil().max(1.0);
    // How much more flows than in the sampled shards in that time.
    let factor = traffic.records_per_s / sampled_rate / span_s;
    for _ in 0..SECONDS_SAMPLED.div_ceil(span_s as usize) {
        let stored = ingest(&sampled, span_s, traffic, &mut random, &mut sum);
        let delivered = enrich(stored, factor, traffic, &mut random, &mut sum);
        feed(delivered, factor, traffic, &mut random, &mut sum);
    }
    scaled(sum, traffic.records_per_s)
}

/// Records of a batch of this shard; its window begins with its first record.
fn batch_records(shard: &[(usize, f64)], traffic: &Traffic) -> f64 {
    (1.0 + rate_of(shard) * traffic.batch_window_s).min(traffic.batch_records_max)
}

fn ordered_batch(shard: &[(usize, f64)], traffic: &Traffic, random: &mut Random) -> Vec<usize> {
    let mut batch = batch(shard, batch_records(shard, traffic), random);
    if traffic.order == Order::Customer {
        batch.sort_unstable();
    }
    batch
}

/// What all sampled shards come to in a time: entries of the default bus, each with the customers of its envelopes.
fn ingest(
    shards: &[&Shard],
    span_s: f64,
    traffic: &Traffic,
    random: &mut Random,
    sum: &mut Sum,
) -> Vec<Vec<usize>> {
    let mut entries = Vec::new();
    for shard in shards {
        let batches = span_s * rate_of(shard) / batch_records(shard, traffic);
        for _ in 0..(batches + random.unit()) as usize {
            let batch = ordered_batch(shard, traffic, random);
            sum.packed.batches += 1.0;
            sum.packed.records += batch.len() as f64;
            for slice in batch.chunks(traffic.slice_records_max.max(1)) {
                sum.packed.slices += 1.0;
                entries.extend(slice.chunks(traffic.default_entry_max.max(1)).map(<[usize]>::to_vec));
            }
        }
    }
    sum.packed.default_entries += entries.len() as f64;
    entries
}

/// Deals messages out to calls as pollers do, by chance; `factor` times as many come in a second.
fn dealt<M>(mut messages: Vec<M>, factor: f64, queue: &Queue, random: &mut Random) -> Vec<Vec<M>> {
    let mean = queue.call_messages(messages.len() as f64 * factor);
    for index in (1..messages.len()).rev() {
        messages.swap(index, random.below(index + 1));
    }
    let mut calls = Vec::new();
    let mut rest = messages.into_iter().peekable();
    while rest.peek().is_some() {
        calls.push(rest.by_ref().take((mean + random.unit()) as usize).collect());
    }
    calls
}

/// Entries of the delivery bus, each with its customer and the number of its events.
fn enrich(
    entries: Vec<Vec<usize>>,
    factor: f64,
    traffic: &Traffic,
    random: &mut Random,
    sum: &mut Sum,
) -> Vec<(usize, usize)> {
    let mut delivered = Vec::new();
    for call in dealt(entries, factor, &traffic.queue, random) {
        sum.packed.enrich_calls += 1.0;
        for slice in call.chunks(traffic.queue.slice_messages_max) {
            sum.packed.enrich_slices += 1.0;
            let mut customers = slice.concat();
            customers.sort_unstable();
            for events in customers.chunk_by(|left, right| left == right) {
                let parts = halves(events.len(), traffic.delivery_entry_max.max(1));
                delivered.extend(parts.into_iter().map(|events_in_part| (events[0], events_in_part)));
            }
        }
    }
    sum.packed.delivery_entries += delivered.len() as f64;
    for (_, events) in delivered.iter().filter(|(customer, _)| *customer == 0) {
        sum.packed.largest_entries += 1.0;
        sum.largest_events += *events as f64;
    }
    delivered
}

/// What does not fit is cut in halves until it does.
fn halves(events: usize, entry_max: usize) -> Vec<usize> {
    if events <= entry_max {
        return vec![events];
    }
    let left = events / 2;
    [halves(left, entry_max), halves(events - left, entry_max)].concat()
}

fn feed(entries: Vec<(usize, usize)>, factor: f64, traffic: &Traffic, random: &mut Random, sum: &mut Sum) {
    for call in dealt(entries, factor, &traffic.queue, random) {
        sum.packed.feed_calls += 1.0;
        for slice in call.chunks(traffic.queue.slice_messages_max) {
            sum.packed.feed_slices += 1.0;
            let mut slice = slice.to_vec();
            slice.sort_unstable();
            for of_feed in slice.chunk_by(|left, right| left.0 == right.0) {
                let mut rest: usize = of_feed.iter().map(|(_, events)| events).sum();
                while rest > 0 {
                    let events = rest.min(traffic.chunk_events_max.max(1));
                    add_chunk(sum, of_feed[0].0, events);
                    rest -= events;
                }
            }
        }
    }
}

fn add_chunk(sum: &mut Sum, customer: usize, events: usize) {
    let chunks = &mut sum.packed.chunks;
    if chunks.len() <= events {
        chunks.resize(events + 1, 0.0);
    }
    chunks[events] += 1.0;
    if customer == 0 {
        sum.packed.largest_chunks += 1.0;
    }
}

/// Brings the sampled shards' figures to all records.
fn scaled(Sum { packed, largest_events }: Sum, records_per_s: f64) -> Packed {
    let scale = records_per_s / packed.records.max(f64::MIN_POSITIVE);
    // Of the largest customer chance may have sampled more or fewer shards than its share.
    let of_largest = records_per_s * packed.largest_customer / largest_events.max(1.0);
    Packed {
        records: records_per_s,
        batches: packed.batches * scale,
        slices: packed.slices * scale,
        default_entries: packed.default_entries * scale,
        enrich_calls: packed.enrich_calls * scale,
        enrich_slices: packed.enrich_slices * scale,
        delivery_entries: packed.delivery_entries * scale,
        feed_calls: packed.feed_calls * scale,
        feed_slices: packed.feed_slices * scale,
        chunks: packed.chunks.iter().map(|chunks| chunks * scale).collect(),
        largest_entries: packed.largest_entries * of_largest,
        largest_chunks: packed.largest_chunks * of_largest,
        ..packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 1;
    const ONE_BY_ONE: Queue =
        Queue { call_messages_max: 1.0, window_s: 0.0, pollers: 1.0, slice_messages_max: 1 };

    /// Single messages every ten seconds, a whole second of a shard packed at once: what the first estimate simulated.
    fn unbatched(vehicles: f64, customers: u32, key: Key) -> Traffic {
        Traffic {
            customers,
            records_per_s: vehicles / 10.0,
            record_bytes: 1_024.0,
            key,
            order: Order::Customer,
            shard_headroom: 1.3,
            shards_min: 1,
            batch_records_max: f64::INFINITY,
            batch_window_s: 1.0,
            slice_records_max: usize::MAX,
            default_entry_max: usize::MAX,
            queue: ONE_BY_ONE,
            delivery_entry_max: usize::MAX,
            chunk_events_max: usize::MAX,
        }
    }

    fn factor(vehicles: f64, customers: u32, key: Key) -> f64 {
        simulate(&unbatched(vehicles, customers, key), SEED).per_delivery_entry()
    }

    #[test]
    fn keys_by_vehicle_pack_as_the_first_estimate_says() {
        assert!((4.2..4.9).contains(&factor(100_000.0, 200, Key::Vehicle)));
        assert!((1.9..2.3).contains(&factor(1_000_000.0, 1_000, Key::Vehicle)));
    }

    #[test]
    fn keys_by_customer_and_rate_pack_as_the_first_estimate_says() {
        let by_rate = Key::BucketsByRate(600.0);
        assert!((18.0..24.0).contains(&factor(1_000.0, 5, by_rate)));
        assert!((43.0..56.0).contains(&factor(100_000.0, 200, by_rate)));
        let million = factor(1_000_000.0, 1_000, by_rate);
        // The notes have 88, with fewer shards than their hottest one would need.
        assert!((75.0..95.0).contains(&million), "{million}");
    }

    #[test]
    fn sixteen_buckets_a_customer_spread_it_over_most_of_few_shards() {
        let sixteen = factor(100_000.0, 200, Key::Buckets(16));
        assert!(sixteen < 10.0 && sixteen > factor(100_000.0, 200, Key::Vehicle), "{sixteen}");
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_one_nearly_the_same() {
        let traffic = unbatched(100_000.0, 200, Key::Buckets(16));
        assert_eq!(simulate(&traffic, 7), simulate(&traffic, 7));
        let ratio = simulate(&traffic, 7).delivery_entries / simulate(&traffic, 8).delivery_entries;
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn an_entry_holds_no_more_than_fits() {
        let mut traffic = unbatched(100_000.0, 1, Key::BucketsByRate(600.0));
        traffic.delivery_entry_max = 20;
        let packed = simulate(&traffic, SEED);
        assert!((10.0..=20.0).contains(&packed.per_delivery_entry()), "{packed:?}");
        assert!((packed.largest_entries / packed.delivery_entries - 1.0).abs() < 0.05, "{packed:?}");
        traffic.chunk_events_max = 7;
        assert_eq!(simulate(&traffic, SEED).chunks.len(), 8);
    }

    #[test]
    fn a_call_holds_what_comes_in_its_window_up_to_its_maximum() {
        let queue = Queue { call_messages_max: 100.0, window_s: 1.0, pollers: 5.0, slice_messages_max: 20 };
        assert_eq!(
            [0.0, 50.0, 495.0, 496.0].map(|rate| queue.call_messages(rate)),
            [1.0, 11.0, 100.0, 100.0]
        );
        assert_eq!(Queue { window_s: 5.0, ..queue }.call_messages(50.0), 51.0);
    }

    #[test]
    fn what_does_not_fit_is_cut_in_halves() {
        assert_eq!(halves(86, 86), [86]);
        assert_eq!(halves(87, 86), [43, 44]);
        assert_eq!(halves(173, 86), [86, 43, 44]);
    }

    #[test]
    fn messages_of_a_slice_share_entries_and_chunks() {
        let mut traffic = unbatched(100_000.0, 200, Key::Buckets(16));
        let alone = simulate(&traffic, SEED);
        assert!((alone.all_chunks() / alone.delivery_entries - 1.0).abs() < 1e-9, "a chunk each: {alone:?}");
        traffic.queue =
            Queue { call_messages_max: 100.0, window_s: 1.0, pollers: 1.0, slice_messages_max: 20 };
        let shared = simulate(&traffic, SEED);
        assert!(shared.per_delivery_entry() > 3.0 * alone.per_delivery_entry(), "{shared:?}");
        assert!(shared.enrich_calls < alone.enrich_calls / 5.0, "{shared:?}");
        let in_chunks: f64 =
            (0..).zip(&shared.chunks).map(|(events, chunks)| f64::from(events) * chunks).sum();
        assert!((in_chunks / shared.records - 1.0).abs() < 1e-9, "no event is lost: {in_chunks}");
    }

    #[test]
    fn a_slice_of_a_batch_ends_an_entry() {
        let mut traffic = unbatched(100_000.0, 200, Key::Vehicle);
        (traffic.batch_records_max, traffic.default_entry_max) = (500.0, 97);
        let whole = simulate(&traffic, SEED).per_default_entry();
        traffic.slice_records_max = 128;
        let sliced = simulate(&traffic, SEED).per_default_entry();
        // Some 500 are 97, 97, 97, 97, 97, 15, and in slices 97, 31, 97, 31, 97, 31, 97, 19.
        assert!((83.0..90.0).contains(&whole) && (60.0..64.0).contains(&sliced), "{whole} {sliced}");
    }

    #[test]
    fn no_shard_gets_more_than_it_takes() {
        for key in [Key::Vehicle, Key::Buckets(16), Key::BucketsByRate(600.0)] {
            let packed = simulate(&unbatched(100_000.0, 200, key), SEED);
            assert!(packed.hottest_shard <= 1_000.0, "{key:?}: {packed:?}");
            assert!(packed.shards >= 13.0);
        }
    }

    #[test]
    fn shares_of_fleets_are_whole() {
        let shares = fleet_shares(200);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!((0.08..0.11).contains(&shares[0]));
    }
}
