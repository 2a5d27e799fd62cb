//! How full the bus entries get: a seeded simulation of stream, ingest and enrichment, without any of them.
//!
//! Customers' fleets are sizes by Zipf's law. A record goes to the shard that its partition key hashes to; a shard's
//! records reach ingest in batches; ingest packs a batch into entries of the default bus, enrichment packs each of these
//! into entries of the delivery bus, one for each subscription that occurs in it.

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
/// Shards of the largest customer that are looked at for its own figures.
const LARGEST_SHARDS_SAMPLED: usize = 4;
/// Batches drawn of each shard.
const BATCHES_SAMPLED: usize = 12;

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
    pub(crate) batch_records_max: f64,
    pub(crate) batch_window_s: f64,
    /// Envelopes that fit into an entry of the default bus.
    pub(crate) default_entry_max: usize,
    /// Events that fit into an entry of the delivery bus.
    pub(crate) delivery_entry_max: usize,
}

/// What came out, each figure a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Packed {
    pub(crate) records: f64,
    pub(crate) shards: f64,
    /// Records of the shard that gets most.
    pub(crate) hottest_shard: f64,
    pub(crate) batches: f64,
    pub(crate) default_entries: f64,
    /// For one subscription a vehicle.
    pub(crate) delivery_entries: f64,
    /// Share of the largest customer in all records, 0 to 1.
    pub(crate) largest_customer: f64,
    /// Entries of the delivery bus for the largest customer.
    pub(crate) largest_entries: f64,
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
    let mean = (traffic.shard_headroom * by_records.max(by_bytes)).ceil().max(1.0) as usize;
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

/// Simulates; the same seed gives the same numbers.
pub(crate) fn simulate(traffic: &Traffic, seed: u64) -> Packed {
    let shares = fleet_shares(traffic.customers);
    let shards = shards_needed(traffic, &shares, seed);
    let mut random = Random(seed);
    let mut sum = Packed {
        records: 0.0,
        shards: shards.len() as f64,
        hottest_shard: hottest(&shards, traffic.key),
        batches: 0.0,
        default_entries: 0.0,
        delivery_entries: 0.0,
        largest_customer: shares[0],
        largest_entries: 0.0,
    };
    let step = shards.len().div_ceil(SHARDS_SAMPLED_MAX);
    for shard in shards.iter().step_by(step).filter(|shard| !shard.is_empty()) {
        let batches_per_s = rate_of(shard) / batch_records(shard, traffic);
        for _ in 0..BATCHES_SAMPLED {
            let batch = ordered_batch(shard, traffic, &mut random);
            let weight = batches_per_s / BATCHES_SAMPLED as f64;
            sum.batches += weight;
            sum.records += weight * batch.len() as f64;
            pack(&batch, traffic, weight, &mut sum);
        }
    }
    let mut packed = scaled(sum, traffic.records_per_s);
    packed.largest_entries = largest_entries(traffic, &shards, shares[0], &mut random);
    packed
}

/// Entries of the delivery bus a second for the largest customer, on the shards that see it.
fn largest_entries(traffic: &Traffic, shards: &[Shard], share: f64, random: &mut Random) -> f64 {
    let (mut records, mut entries) = (0.0, 0.0);
    let sees_it = |shard: &&Shard| shard.first().is_some_and(|(customer, _)| *customer == 0);
    for shard in shards.iter().filter(sees_it).take(LARGEST_SHARDS_SAMPLED) {
        for _ in 0..BATCHES_SAMPLED {
            let batch = ordered_batch(shard, traffic, random);
            for entry in batch.chunks(traffic.default_entry_max.max(1)) {
                let events = entry.iter().filter(|customer| **customer == 0).count();
                records += events as f64;
                entries += events.div_ceil(traffic.delivery_entry_max.max(1)) as f64;
            }
        }
    }
    share * traffic.records_per_s * entries / f64::max(records, 1.0)
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

/// Brings the sampled shards' figures to all records.
fn scaled(sum: Packed, records_per_s: f64) -> Packed {
    let scale = records_per_s / sum.records.max(f64::MIN_POSITIVE);
    Packed {
        records: records_per_s,
        batches: sum.batches * scale,
        default_entries: sum.default_entries * scale,
        delivery_entries: sum.delivery_entries * scale,
        ..sum
    }
}

fn pack(batch: &[usize], traffic: &Traffic, weight: f64, sum: &mut Packed) {
    for entry in batch.chunks(traffic.default_entry_max.max(1)) {
        sum.default_entries += weight;
        let mut customers = entry.to_vec();
        customers.sort_unstable();
        for events in customers.chunk_by(|left, right| left == right) {
            let entries = events.len().div_ceil(traffic.delivery_entry_max.max(1)) as f64;
            sum.delivery_entries += weight * entries;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 1;

    /// Single messages every ten seconds, a whole second of a shard packed at once: what the first estimate simulated.
    fn unbatched(vehicles: f64, customers: u32, key: Key) -> Traffic {
        Traffic {
            customers,
            records_per_s: vehicles / 10.0,
            record_bytes: 1_024.0,
            key,
            order: Order::Customer,
            shard_headroom: 1.3,
            batch_records_max: f64::INFINITY,
            batch_window_s: 1.0,
            default_entry_max: usize::MAX,
            delivery_entry_max: usize::MAX,
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
        assert!(packed.per_delivery_entry() <= 20.0 && packed.per_delivery_entry() > 18.0, "{packed:?}");
        assert!((packed.largest_entries / packed.delivery_entries - 1.0).abs() < 0.05, "{packed:?}");
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
