//! The vehicle's side crashes a thousand times: `kill -9` and power cuts between any two writes, on a simulated disk
//! that tears and loses what was not synced, with virtual time.
//!
//! What is promised: a sample is safe [`SYNC_MS`] after it was on the bus, the cloud gets it once, in order in its lane,
//! and what had to be given up for want of room is named exactly.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a step that fails is a test that fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use convoy_agent::spool::{DropPolicy, SEGMENT_BYTES_MIN, Spool, SpoolConfig, SpoolEnvelope, SpoolKey};
use convoy_agent::uplink::window::Window;
use convoy_agent_core::dbc::{self, DbcSource};
use convoy_agent_core::decoder::Decoder;
use convoy_agent_core::gateway::{FrameTimes, Gateway, GatewayConfig, Output};
use convoy_agent_core::vss::VssMap;
use convoy_protocol::campaign::{Campaign, SignalSelector};
use convoy_protocol::checkin::DropReport;
use convoy_protocol::columns::Values;
use convoy_protocol::compact;
use convoy_protocol::downlink::{PayloadDigest, SequenceRange};
use convoy_protocol::envelope::{Envelope, SectionKind};
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use convoy_protocol::id::{BootId, EnvelopeKey, Lane, VehicleId};
use convoy_protocol::time::ClockQuality;
use convoy_segment_log::simulated::SimulatedDisk;

const VEHICLE: VehicleId = VehicleId([7; 16]);
/// The window that is promised.
const SYNC_MS: u32 = 1_000;
const SYNC_US: i64 = SYNC_MS as i64 * 1_000;
const START_US: i64 = 1_700_000_000_000_000;
const SECOND_US: i64 = 1_000_000;
const RESEND_US: i64 = 10 * SECOND_US;
const BACKFILL_BYTES_PER_S: u64 = 1 << 20;

/// SplitMix64: the same seed, the same world.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

fn decoder() -> Arc<Decoder> {
    let text = "VERSION \"\"\n\nNS_ :\n\nBS_:\n\nBU_:\n\nBO_ 1 M: 8 X\n SG_ A : 0|32@1+ (1,0) [0|0] \"\" X\n \
                SG_ B : 32|32@1+ (1,0) [0|0] \"\" X\n";
    let source = DbcSource { name: "m.dbc".into(), bytes: text.into(), bus: None };
    Arc::new(dbc::load(&[source], &VssMap::builtin()).unwrap().0)
}

/// Every sample of `A` in long batches, some of `B` in short ones of the fast lane.
fn campaigns(window_ms: u32) -> Vec<Campaign> {
    let of = |pattern: &str, period_ms| vec![SignalSelector { period_ms, ..SignalSelector::every(pattern) }];
    let bulk = Campaign { window_ms, signals: of("M.A", 0), ..Campaign::everything() };
    let fast = Campaign {
        name: "fast".into(),
        lane: Lane::Fast,
        window_ms: 700,
        signals: of("M.B", 400),
        ..Campaign::everything()
    };
    vec![bulk, fast]
}

/// What survives of a vehicle: its disk. And what a life of the agent has in memory.
struct Vehicle {
    gateway: Gateway,
    spool: Spool,
    window: Window,
}

/// How a world is set up.
#[derive(Clone)]
struct Setup {
    window_ms: u32,
    bytes_max: u64,
    key: Option<SpoolKey>,
}

impl Setup {
    fn new() -> Self {
        Self { window_ms: 5_000, bytes_max: 64 << 20, key: None }
    }
}

struct World {
    setup: Setup,
    disk: SimulatedDisk,
    decoder: Arc<Decoder>,
    now_us: i64,
    /// The next frame and the time between two.
    frame_us: i64,
    period_us: i64,
    online: bool,
    /// Envelopes on their way to the cloud, and acknowledgements on their way back.
    up: Vec<(i64, Vec<u8>)>,
    down: Vec<(i64, EnvelopeKey)>,
    latency_us: i64,
    /// One in so many is lost on its way.
    loss: u64,
    random: Random,
    cloud: BTreeMap<EnvelopeKey, Vec<u8>>,
    /// When each came first.
    arrived_us: BTreeMap<EnvelopeKey, i64>,
    deliveries: u64,
    /// Times of frames that must reach the cloud, and of all that were on the bus.
    safe: BTreeSet<i64>,
    taken: BTreeSet<i64>,
}

impl World {
    fn new(seed: u64, setup: Setup) -> Self {
        Self {
            setup,
            disk: SimulatedDisk::new(seed),
            decoder: decoder(),
            now_us: START_US,
            frame_us: START_US,
            period_us: 50_000,
            online: false,
            up: Vec::new(),
            down: Vec::new(),
            latency_us: 80_000,
            loss: u64::MAX,
            random: Random(seed),
            cloud: BTreeMap::new(),
            arrived_us: BTreeMap::new(),
            deliveries: 0,
            safe: BTreeSet::new(),
            taken: BTreeSet::new(),
        }
    }

    fn start(&mut self) -> Option<Vehicle> {
        let config = SpoolConfig {
            dir: PathBuf::from("spool"),
            bytes_max: self.setup.bytes_max,
            segment_bytes: SEGMENT_BYTES_MIN,
            sync_ms: SYNC_MS / 2,
            drop: DropPolicy::Priority,
            key: self.setup.key.clone(),
        };
        let mut spool = Spool::open_on(Arc::new(self.disk.clone()), config, VEHICLE).ok()?;
        let gateway = GatewayConfig {
            manifest_known: true,
            tails: spool.tails(),
            recovered: spool.take_recovered(),
            clock: ClockQuality::Rtc,
            monotonic_offset_us: self.now_us,
            frame_times: FrameTimes::Live,
            journal_after_us: Some(SYNC_US / 2),
            ..GatewayConfig::new(VEHICLE, spool.boot_id(), campaigns(self.setup.window_ms))
        };
        let gateway = Gateway::new(gateway, Arc::clone(&self.decoder), self.now_us);
        let mut vehicle = Vehicle { gateway, spool, window: Window::new(RESEND_US, BACKFILL_BYTES_PER_S) };
        if self.online {
            vehicle.window.handle_connected(Lane::ALL.map(|lane| vehicle.spool.durable_end(lane)));
        }
        Some(vehicle)
    }

    fn set_online(&mut self, vehicle: &mut Vehicle, online: bool) {
        if online == self.online {
            return;
        }
        self.online = online;
        if online {
            vehicle.window.handle_connected(Lane::ALL.map(|lane| vehicle.spool.durable_end(lane)));
            vehicle.gateway.handle_connected(self.now_us);
        } else {
            vehicle.window.handle_disconnected();
            self.up.clear();
            self.down.clear();
        }
    }

    /// Goes on until `until_us`, event by event; false where the disk stopped.
    fn run(&mut self, vehicle: &mut Vehicle, until_us: i64) -> bool {
        loop {
            self.carry_out(vehicle);
            if self.disk.is_stopped() {
                return false;
            }
            let timers =
                [vehicle.gateway.poll_timeout(), vehicle.spool.poll_timeout(), vehicle.window.poll_timeout()];
            let network = self.up.iter().map(|up| up.0).chain(self.down.iter().map(|down| down.0)).min();
            let next = timers.into_iter().flatten().chain(network).chain([self.frame_us]).min().unwrap();
            if next > until_us {
                self.now_us = until_us;
                return true;
            }
            self.now_us = self.now_us.max(next);
            if self.frame_us <= self.now_us {
                self.frame(vehicle);
            }
            vehicle.gateway.handle_timeout(self.now_us);
            vehicle.window.handle_timeout(self.now_us);
            self.network(vehicle);
        }
    }

    fn frame(&mut self, vehicle: &mut Vehicle) {
        let number = ((self.frame_us - START_US) / 1_000) as u32;
        let data = [number.to_le_bytes(), (!number).to_le_bytes()].concat();
        let frame = CanFrame::new(self.frame_us, BusIndex(0), CanId::Standard(1), &data).unwrap();
        vehicle.gateway.handle_frame(self.now_us, &frame);
        self.taken.insert(self.frame_us);
        self.frame_us += self.period_us;
    }

    fn carry_out(&mut self, vehicle: &mut Vehicle) {
        let Vehicle { gateway, spool, window } = vehicle;
        let drops = spool.take_drops();
        if !drops.is_empty() {
            gateway.handle_drops(self.now_us, &drops);
        }
        while let Some(output) = gateway.poll_output() {
            match output {
                Output::Envelope { key, bytes, samples, closes, .. } => {
                    spool.push(SpoolEnvelope { key, bytes, samples, closes });
                }
                Output::Chunk { batch, record, samples } => spool.push_chunk(batch, record, samples),
                Output::Request { .. } | Output::FlowControl(_) | Output::Tapped { .. } => {
                    panic!("nothing was to be asked")
                }
            }
        }
        spool.handle_timeout(self.now_us);
        if self.disk.is_stopped() {
            return;
        }
        while let Some(dispatch) =
            window.poll_dispatch(self.now_us, |lane, from| spool.next_unacked(lane, from))
        {
            match spool.read(dispatch.lane, dispatch.position, dispatch.again).unwrap() {
                Some(bytes) => {
                    window.handle_sent(self.now_us, dispatch, PayloadDigest::of(&bytes), bytes.len());
                    if !self.random.one_in(self.loss) {
                        self.up.push((self.now_us + self.latency_us, bytes));
                    }
                }
                None => window.handle_done(dispatch.lane, dispatch.position..dispatch.position + 1),
            }
        }
    }

    fn network(&mut self, vehicle: &mut Vehicle) {
        let now_us = self.now_us;
        for (_, bytes) in self.up.extract_if(.., |up| up.0 <= now_us) {
            let key = Envelope::parse(&bytes).unwrap().header.key();
            self.deliveries += 1;
            // The ledger: an envelope counts once, and is acknowledged each time.
            let known = self.cloud.entry(key).or_insert_with(|| bytes.clone());
            assert_eq!(*known, bytes, "two envelopes with one identity");
            self.arrived_us.entry(key).or_insert(now_us);
            if !self.random.one_in(self.loss) {
                self.down.push((now_us + self.latency_us, key));
            }
        }
        for (_, EnvelopeKey { boot_id, lane, sequence }) in self.down.extract_if(.., |down| down.0 <= now_us)
        {
            let range = SequenceRange { boot_id, lane, first: sequence, last: sequence };
            for acked in vehicle.spool.ack_range(now_us, &range) {
                vehicle.window.handle_done(lane, acked.positions.clone());
            }
        }
    }

    /// The process is gone, and with a power cut a part of what was not synced.
    fn crash(&mut self, vehicle: Vehicle, power: bool) {
        drop(vehicle);
        if power {
            self.disk.power_cut()
        } else {
            self.disk.process_killed()
        }
        self.up.clear();
        self.down.clear();
        let until_us = self.now_us - SYNC_US;
        let (taken, safe) = (std::mem::take(&mut self.taken), &mut self.safe);
        safe.extend(taken.into_iter().filter(|time_us| *time_us <= until_us));
        // The next life begins a little later, with frames of its own.
        self.now_us += 300_000;
        // Whole milliseconds, which is what the wire carries.
        self.frame_us = self.frame_us.max(self.now_us) / 1_000 * 1_000 + 1_000;
    }

    /// Ends the last life properly: everything that is on disk or open reaches the cloud.
    fn finish(&mut self, vehicle: &mut Vehicle) {
        self.loss = u64::MAX;
        self.set_online(vehicle, true);
        self.frame_us = i64::MAX;
        vehicle.gateway.flush(self.now_us);
        self.carry_out(vehicle);
        assert!(vehicle.spool.flush(self.now_us), "the disk takes everything");
        let mut turns = 0;
        while !vehicle.spool.is_drained() {
            assert!(self.run(vehicle, self.now_us + SECOND_US));
            turns += 1;
            assert!(turns < 20_000, "the spool is never drained");
        }
        self.safe.append(&mut self.taken);
    }

    fn sections(&self, kind: SectionKind) -> Vec<(EnvelopeKey, i64, Vec<u8>)> {
        let mut found = Vec::new();
        for (key, bytes) in &self.cloud {
            let envelope = Envelope::parse(bytes).unwrap();
            for section in envelope.sections().filter(|section| section.kind == kind) {
                found.push((*key, envelope.header.base_us, section.body().unwrap().into_owned()));
            }
        }
        found
    }

    /// Times of the samples of a lane's campaign in the order of the ledger, each with its value's truth.
    fn samples(&self, of: Lane) -> Vec<i64> {
        let mut times = Vec::new();
        for (_, base_us, body) in
            self.sections(SectionKind::CompactSamples).iter().filter(|found| found.0.lane == of)
        {
            for group in compact::decode(body, *base_us).unwrap().groups {
                let Values::Raw(values) = &group.columns[0].values else { panic!("raw values") };
                for (time_us, value) in group.times_us.iter().zip(values) {
                    let number = ((time_us - START_US) / 1_000) as u32;
                    let expected = if of == Lane::Bulk { number } else { !number };
                    assert_eq!(*value, i64::from(expected), "a value of another time");
                    times.push(*time_us);
                }
            }
        }
        times
    }

    fn dropped(&self) -> Vec<DropReport> {
        let bodies = self.sections(SectionKind::Drops);
        bodies
            .iter()
            .flat_map(|(_, _, body)| postcard::from_bytes::<Vec<DropReport>>(body).unwrap())
            .collect()
    }

    /// Nothing twice, in order in its lane, and nothing lost that was safe; returns how many samples the cloud has.
    fn assert_whole(&self) -> usize {
        for lane in Lane::ALL {
            let times = self.samples(lane);
            assert!(times.is_sorted_by(|earlier, later| earlier < later), "{lane}: twice, or out of order");
        }
        let have: BTreeSet<i64> = self.samples(Lane::Bulk).into_iter().collect();
        let lost: Vec<_> = self.safe.difference(&have).map(|time_us| (time_us - START_US) / 1_000).collect();
        assert!(
            lost.is_empty(),
            "{} samples lost, the first at {} ms, the last at {}",
            lost.len(),
            lost[0],
            lost[lost.len() - 1]
        );
        have.len()
    }
}

/// One world of `rounds` lives, all but the last of which end in a crash. Returns samples that the cloud has.
fn crash_rounds(seed: u64, rounds: u64, setup: Setup) -> usize {
    let mut world = World::new(seed, setup);
    for _ in 0..rounds {
        let power = world.random.one_in(2);
        world.loss = if world.random.one_in(3) { 5 } else { u64::MAX };
        // Sometimes between two writes of the opening already.
        let between_writes = world.random.one_in(2);
        if between_writes {
            let changes = world.random.below(400);
            world.disk.stop_after(changes);
        }
        let Some(mut vehicle) = world.start() else {
            if power {
                world.disk.power_cut()
            } else {
                world.disk.process_killed()
            }
            continue;
        };
        let end_us = world.now_us + world.random.below(20 * SECOND_US as u64) as i64;
        while world.now_us < end_us {
            let next_us = (world.now_us + world.random.below(4 * SECOND_US as u64) as i64).min(end_us);
            if !world.run(&mut vehicle, next_us) {
                break;
            }
            let online = !world.random.one_in(3);
            world.set_online(&mut vehicle, online);
        }
        world.crash(vehicle, power);
    }
    let mut vehicle = world.start().expect("nothing is wrong with the disk");
    world.run(&mut vehicle, world.now_us + SECOND_US);
    world.finish(&mut vehicle);
    world.assert_whole()
}

#[test]
fn thousand_crashes_lose_nothing_beyond_the_window_and_repeat_nothing() {
    let samples: usize = (0..50).map(|seed| crash_rounds(seed, 20, Setup::new())).sum();
    assert!(samples > 100_000, "{samples} samples are too few to prove anything");
    eprintln!("1000 crashes: {samples} samples at the cloud, 0 lost, 0 twice");
}

#[test]
fn crashes_of_an_encrypted_spool_and_of_five_minute_batches_lose_nothing_either() {
    let key = Some(SpoolKey::new(&[5; 32]));
    let setup = Setup { window_ms: 300_000, key, ..Setup::new() };
    let samples: usize = (100..105).map(|seed| crash_rounds(seed, 20, setup.clone())).sum();
    assert!(samples > 10_000, "{samples}");
}

/// uplink: 7,700 of 20,000 points lost.
#[test]
fn broker_down_then_killed_then_restarted_loses_nothing() {
    let mut world = World::new(1, Setup::new());
    world.period_us = 10_000;
    let mut vehicle = world.start().unwrap();
    world.run(&mut vehicle, START_US + 200 * SECOND_US);
    assert_eq!(world.taken.len(), 20_001);
    world.crash(vehicle, false);
    let mut vehicle = world.start().unwrap();
    world.finish(&mut vehicle);
    assert!(world.assert_whole() >= 20_001 - 100, "no more than the window of a second is lost");
}

/// uplink: 12,000 of 50,000 points lost.
#[test]
fn killed_while_draining_loses_and_repeats_nothing() {
    let mut world = World::new(2, Setup::new());
    world.period_us = 10_000;
    let mut vehicle = world.start().unwrap();
    world.run(&mut vehicle, START_US + 500 * SECOND_US);
    world.set_online(&mut vehicle, true);
    let mut kills = 0;
    while !vehicle.spool.is_drained() && kills < 100 {
        world.run(&mut vehicle, world.now_us + SECOND_US / 5);
        world.crash(vehicle, kills % 2 == 0);
        kills += 1;
        vehicle = world.start().unwrap();
    }
    assert!(kills >= 5, "drained before it was killed");
    world.finish(&mut vehicle);
    assert!(world.assert_whole() > 49_900);
}

/// uplink: 61,100 of 200,000 points lost and the cap kept; ours says which.
#[test]
fn long_outage_with_a_cap_gives_up_the_oldest_and_names_it() {
    let bytes_max = 4 * SEGMENT_BYTES_MIN;
    let mut world = World::new(3, Setup { bytes_max, window_ms: 500, ..Setup::new() });
    world.period_us = 5_000;
    let mut vehicle = world.start().unwrap();
    let mut sizes = Vec::new();
    for minute in 1..=180 {
        world.run(&mut vehicle, START_US + minute * 60 * SECOND_US);
        sizes.push(vehicle.spool.bytes());
    }
    assert!(sizes.iter().all(|bytes| *bytes <= bytes_max), "{:?} of {bytes_max}", sizes.iter().max());
    assert!(
        *sizes.iter().max().unwrap() > bytes_max - SEGMENT_BYTES_MIN,
        "the cap is used to within one segment"
    );
    world.finish(&mut vehicle);
    let times = world.samples(Lane::Bulk);
    assert!(times.is_sorted_by(|earlier, later| earlier < later));
    // What is missing is exactly what was reported, and it is the oldest.
    let stored: BTreeSet<u64> =
        world.cloud.keys().filter(|key| key.lane == Lane::Bulk).map(|key| key.sequence).collect();
    let dropped: BTreeSet<u64> = world
        .dropped()
        .iter()
        .filter(|drop| drop.lane == Lane::Bulk)
        .flat_map(|drop| drop.first..=drop.last)
        .collect();
    assert!(!dropped.is_empty(), "{sizes:?}");
    assert!(dropped.is_disjoint(&stored), "{:?}", dropped.intersection(&stored).collect::<Vec<_>>());
    assert_eq!(
        dropped.iter().chain(&stored).copied().collect::<BTreeSet<_>>(),
        (0..=*stored.last().unwrap()).collect()
    );
    assert!(dropped.last() < stored.first(), "the oldest go");
}

/// 24 hours without a broker, in a car that reports once a second; then it comes back, and what happens now is not
/// held up by what happened then.
#[test]
fn day_long_outage_is_drained_behind_what_is_new() {
    let mut world = World::new(4, Setup { window_ms: 10_000, ..Setup::new() });
    world.period_us = 100_000;
    world.latency_us = 100_000;
    let mut vehicle = world.start().unwrap();
    let back_us = START_US + 24 * 3_600 * SECOND_US;
    world.run(&mut vehicle, back_us);
    let backlog = vehicle.spool.unacked(Lane::Bulk);
    assert!(backlog >= 8_000, "{backlog}");
    world.set_online(&mut vehicle, true);
    // Until the backlog is gone, new envelopes arrive as soon as their batch is closed.
    let mut seconds = 0;
    while vehicle.spool.unacked(Lane::Bulk) > 2 || seconds < 60 {
        world.run(&mut vehicle, world.now_us + SECOND_US);
        seconds += 1;
        assert!(seconds < 3_600, "the backlog is never drained");
    }
    let mut latencies: Vec<i64> = Vec::new();
    for (key, base_us, body) in world.sections(SectionKind::CompactSamples) {
        let last_us = compact::decode(&body, base_us).unwrap().span_us().unwrap().1;
        if last_us > back_us {
            latencies.push(world.arrived_us[&key] - last_us);
        }
    }
    latencies.sort_unstable();
    let p99 = latencies[latencies.len() * 99 / 100];
    eprintln!(
        "{backlog} envelopes drained in {seconds} s; live p99 {} ms of {}",
        p99 / 1_000,
        latencies.len()
    );
    assert!(latencies.len() > 50 && p99 < 2 * SECOND_US, "{p99} us");
    world.finish(&mut vehicle);
    world.assert_whole();
}

#[test]
fn disk_that_fails_fills_or_turns_read_only_is_survived() {
    let mut world = World::new(5, Setup::new());
    let mut vehicle = world.start().unwrap();
    world.set_online(&mut vehicle, true);
    for trouble in 0..3 {
        world.run(&mut vehicle, world.now_us + 7 * SECOND_US);
        match trouble {
            0 => world.disk.fail_syncs(5),
            1 => world.disk.limit_bytes(Some(world.disk.bytes())),
            _ => world.disk.set_read_only(true),
        }
        world.run(&mut vehicle, world.now_us + 20 * SECOND_US);
        world.disk.limit_bytes(None);
        world.disk.set_read_only(false);
        world.run(&mut vehicle, world.now_us + 3 * SECOND_US);
        assert!(!vehicle.spool.is_in_trouble(), "trouble {trouble}");
    }
    assert!(vehicle.spool.counters().write_failures > 3);
    world.finish(&mut vehicle);
    world.assert_whole();
    assert_eq!(world.dropped(), []);
}

/// Nobody makes room but the spool itself: every batch is in the journal, whose own records find no room either.
#[test]
fn disk_that_stays_full_gives_up_the_oldest_and_goes_on() {
    let mut world = World::new(7, Setup { window_ms: 2_000, ..Setup::new() });
    world.period_us = 5_000;
    let mut vehicle = world.start().unwrap();
    while vehicle.spool.bytes() < 20 * SEGMENT_BYTES_MIN {
        assert!(world.run(&mut vehicle, world.now_us + 60 * SECOND_US));
    }
    world.disk.limit_bytes(Some(world.disk.bytes()));
    for _ in 0..10 {
        world.run(&mut vehicle, world.now_us + 60 * SECOND_US);
    }
    assert!(!vehicle.spool.is_in_trouble());
    // Acknowledged segments go, with the disk as full as before.
    world.finish(&mut vehicle);
    assert!(!world.dropped().is_empty());
    let times = world.samples(Lane::Bulk);
    assert!(times.is_sorted_by(|earlier, later| earlier < later), "nothing twice");
}

#[test]
fn boots_are_numbered_without_a_gap_in_any_lane() {
    let mut world = World::new(6, Setup::new());
    for life in 1..=5u32 {
        let mut vehicle = world.start().unwrap();
        assert_eq!(vehicle.spool.boot_id().counter, life);
        world.run(&mut vehicle, world.now_us + 8 * SECOND_US);
        world.crash(vehicle, false);
    }
    let mut vehicle = world.start().unwrap();
    world.finish(&mut vehicle);
    let mut next: BTreeMap<(BootId, Lane), u64> = BTreeMap::new();
    for key in world.cloud.keys() {
        let expected = next.entry((key.boot_id, key.lane)).or_default();
        assert_eq!(key.sequence, *expected, "{key}");
        *expected += 1;
    }
    assert_eq!(next.len(), 12);
}
