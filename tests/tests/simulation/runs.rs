//! One bad day of a dongle's line, from a seed, and what must be true of it.

use std::ops::AddAssign;
use std::sync::Arc;

use convoy_agent::live::{LiveOptions, LiveSources};
use convoy_agent::source::{FrameSource as _, LinkStatus};
use convoy_agent_core::dbc::{self, DbcSource};
use convoy_agent_core::gateway::{Gateway, GatewayConfig};
use convoy_agent_core::obd;
use convoy_agent_core::poll::{PollOptions, PollRequest};
use convoy_agent_core::vss::VssMap;
use convoy_protocol::campaign::Campaign;
use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::id::{BootId, VehicleId};
use convoy_simulator::dice::Dice;
use convoy_simulator::dongle::bench::{Attached, Bench};
use convoy_simulator::dongle::controller::BusFrame;
use convoy_simulator::dongle::device::Device;
use convoy_simulator::dongle::faults::{Kinds, draw};
use convoy_simulator::dongle::rig::{Rig, Shared, WALL_US, live};
use convoy_simulator::dongle::vehicle::{Traffic, Vehicle};
use convoy_simulator::recording::J1939_DBC;

pub(crate) const VIN: [u8; 17] = *b"CNVYS1M0000000001";
pub(crate) const UP: &str = "up";
/// What the status says of a dongle that has started anew.
const ANEW: &str = "started anew";
/// The link is up for the first time within this time, milliseconds.
const UP_WITHIN_MS: u64 = 2_000;
/// Faults come from here on, milliseconds; before, nothing may go wrong.
const FAULTS_FROM_MS: u64 = 1_000;
/// The link is up again this long after the last fault, milliseconds: 4 s until the agent sees that a dongle hangs and one
/// until the ping that says so, the longest pause of 2 s, and half a second for greeting and opening the bus.
const UP_AGAIN_WITHIN_MS: u64 = 8_000;
/// Until everything is said, milliseconds: requests end, and a health record comes each second.
const SETTLED_AFTER_MS: u64 = 3_000;
/// A dongle that says nothing for less is not hung, milliseconds.
const HANGS_AFTER_MS: u64 = 4_000;

/// What happened in a run, or in many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) emitted: u64,
    pub(crate) arrived: u64,
    pub(crate) lost: u64,
    pub(crate) unwanted: u64,
    pub(crate) remote: u64,
    /// Lost around resets, which are reported.
    pub(crate) uncounted: u64,
    pub(crate) sent: u64,
    pub(crate) resets: u64,
    pub(crate) reopened: u64,
    pub(crate) malformed: u64,
    /// The longest, milliseconds.
    pub(crate) up_again_ms: u64,
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.emitted += other.emitted;
        self.arrived += other.arrived;
        self.lost += other.lost;
        self.unwanted += other.unwanted;
        self.remote += other.remote;
        self.uncounted += other.uncounted;
        self.sent += other.sent;
        self.resets += other.resets;
        self.reopened += other.reopened;
        self.malformed += other.malformed;
        self.up_again_ms = self.up_again_ms.max(other.up_again_ms);
    }
}

/// Runs in tokio's paused time, on this thread alone.
pub(crate) fn in_simulated_time<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(future)
}

/// A truck's agent that collects everything.
pub(crate) fn gateway(polls: PollOptions, asks: bool) -> Gateway {
    let files = [("j1939", J1939_DBC.to_vec()), ("obd", obd::signal_set())];
    let sources = files.map(|(name, bytes)| DbcSource { name: name.into(), bytes, bus: Some(BusIndex(0)) });
    let (decoder, _) = dbc::load(&sources, &VssMap::builtin()).unwrap();
    let boot_id = BootId { counter: 1, spool: 1 };
    let config = GatewayConfig {
        vin_expected: Some(std::str::from_utf8(&VIN).unwrap().parse().unwrap()),
        manifest_known: true,
        polls: asks.then_some(polls).into_iter().collect(),
        ..GatewayConfig::new(VehicleId([7; 16]), boot_id, vec![Campaign::everything()])
    };
    Gateway::new(config, Arc::new(decoder), WALL_US)
}

/// Parameters and the VIN, while there is traffic.
pub(crate) fn polls() -> PollOptions {
    let vin = PollRequest {
        id: CanId::Standard(0x7DF),
        answers_on: None,
        payload: vec![0x09, 0x02],
        period_us: 4_000_000,
    };
    PollOptions {
        bus: BusIndex(0),
        frames_per_s_max: 50,
        quiet_after_us: 1_000_000,
        voltage_min_v: None,
        only_on_traffic: true,
        obd_period_us: Some(200_000),
        trouble_codes_period_us: None,
        requests: vec![vin],
        by_adapter: false,
    }
}

pub(crate) fn options(poll: Option<PollOptions>) -> LiveOptions {
    LiveOptions { url: "dongle:/dev/simulated?bitrate=250000".parse().unwrap(), bus: "bus".to_owned(), poll }
}

/// What a seed says of its run.
struct Day {
    asks: bool,
    kinds: Kinds,
    /// From then on nothing goes wrong.
    quiet_from_ms: u64,
}

impl Day {
    fn draw(seed: u64, dice: &mut Dice) -> Self {
        let asks = seed % 2 == 1;
        let kinds = Kinds { resets: seed / 2 % 4 == 1, unplugs: seed / 2 % 4 == 2, forged: !asks };
        // Long enough for a dongle to be taken for hung, now and then.
        let lasts_ms = if dice.is_hit(150) { 12_000 } else { 2_500 };
        Self { asks, kinds, quiet_from_ms: FAULTS_FROM_MS + lasts_ms }
    }
}

/// A run that is under way.
struct Running {
    rig: Rig<LiveSources>,
    day: Day,
    status: LinkStatus,
    /// When the agent said that the dongle has started anew, microseconds.
    reported_us: Vec<u64>,
}

/// How the status says that the dongle has started anew.
fn starts(status: &LinkStatus) -> Option<&str> {
    Some(&status.detail[status.detail.find(ANEW)?..])
}

impl Running {
    fn now_us(&self) -> u64 {
        self.rig.world.bench().now_us()
    }

    async fn tick(&mut self) {
        self.rig.tick().await;
        let status = self.rig.source.links().remove(0);
        if starts(&status) != starts(&self.status) {
            self.reported_us.push(self.now_us());
        }
        self.status = status;
    }

    async fn run_until(&mut self, ms: u64) {
        while self.now_us() < ms * 1_000 {
            self.tick().await;
        }
    }

    /// Has a frame come that was on the bus later than this?
    fn has_heard_since(&self, us: u64) -> bool {
        let bench = self.rig.world.bench();
        let Some(last) = self.rig.arrived.last() else { return false };
        let later = bench.emitted.iter().rev().take_while(|(at_us, _)| *at_us > us);
        later.into_iter().any(|(_, frame)| is_same(frame, &last.frame))
    }

    /// Until the link is up after the last fault, milliseconds.
    async fn come_up_again(&mut self) -> u64 {
        let quiet_us = self.day.quiet_from_ms * 1_000;
        let passed_ms = |running: &Self| (running.now_us() - quiet_us) / 1_000;
        let listens_only = Some(!self.day.asks);
        while self.status.state != UP
            || !self.has_heard_since(quiet_us)
            || self.rig.world.bench().device().unwrap().listens_only() != listens_only
        {
            assert!(passed_ms(self) < UP_AGAIN_WITHIN_MS, "it does not come up again: {:?}", self.status);
            self.tick().await;
        }
        passed_ms(self)
    }
}

fn is_same(frame: &BusFrame, arrived: &convoy_protocol::frame::CanFrame) -> bool {
    frame.id == arrived.id && frame.data.as_deref() == Some(arrived.data())
}

/// Runs a day and holds it to everything that must be true of it.
pub(crate) fn bad_day(seed: u64) -> Figures {
    let mut dice = Dice::new(seed);
    let day = Day::draw(seed, &mut dice);
    let mut bench = Bench::new(Vehicle::new(VIN, seed), Attached::Dongle(Box::new(Device::new(dice.any()))));
    let until_us = day.quiet_from_ms * 1_000;
    bench.plan(draw(&mut dice, day.kinds, FAULTS_FROM_MS * 1_000 + 1, until_us));
    let world = Shared::new(bench);
    in_simulated_time(async {
        let source = live(&world, seed, options(day.asks.then(polls)));
        let rig = Rig::new(world.clone(), source, gateway(polls(), day.asks));
        let mut running = Running { rig, day, status: LinkStatus::default(), reported_us: Vec::new() };
        while running.status.state != UP {
            assert!(running.now_us() < UP_WITHIN_MS * 1_000, "it does not come up: {:?}", running.status);
            running.tick().await;
        }
        world.bench().play(Traffic::generated(seed));
        running.run_until(running.day.quiet_from_ms).await;
        let up_again_ms = running.come_up_again().await;
        world.bench().play(Traffic::Silence);
        let now_ms = running.now_us() / 1_000;
        running.run_until(now_ms + SETTLED_AFTER_MS).await;
        judge(&running, up_again_ms)
    })
}

/// Where each frame that arrived was among those on the bus.
fn places(running: &Running, emitted: &[(u64, BusFrame)]) -> Vec<usize> {
    let mut next = 0;
    let mut places = Vec::with_capacity(running.rig.arrived.len());
    for arrival in &running.rig.arrived {
        let place = (next..emitted.len()).find(|at| is_same(&emitted[*at].1, &arrival.frame));
        let place =
            place.unwrap_or_else(|| panic!("after frame {next}, {:?} was never on the bus", arrival.frame));
        let time_us = u64::try_from(arrival.frame.timestamp_us - WALL_US).unwrap();
        assert!((emitted[place].0..=arrival.at_us).contains(&time_us), "{time_us}: {:?}", emitted[place]);
        places.push(place);
        next = place + 1;
    }
    places
}

/// Frames that may have been lost uncounted: those between two that arrived, where the dongle was said to have started anew.
fn excused(running: &Running, places: &[usize], emitted: usize) -> u64 {
    let arrived_us = |at: usize| running.rig.arrived.get(at).map_or(u64::MAX, |arrival| arrival.at_us);
    let mut excused = 0;
    for at in 0..=places.len() {
        let after = at.checked_sub(1).map_or(0, |before| places[before] + 1);
        let missing = places.get(at).copied().unwrap_or(emitted) - after;
        let between = at.checked_sub(1).map_or(0, arrived_us)..=arrived_us(at);
        if missing > 0 && running.reported_us.iter().any(|us| between.contains(us)) {
            excused += missing;
        }
    }
    excused as u64
}

fn judge(running: &Running, up_again_ms: u64) -> Figures {
    let Running { rig, day, status, .. } = running;
    let bench = rig.world.bench();
    let device = bench.device().unwrap();
    let past = device.past();
    let places = places(running, &bench.emitted);
    let excused = excused(running, &places, bench.emitted.len());
    let figures = Figures {
        emitted: bench.emitted.len() as u64,
        arrived: places.len() as u64,
        lost: status.dropped,
        unwanted: past.unwanted,
        remote: past.remote,
        uncounted: 0,
        sent: bench.sent.len() as u64,
        resets: past.starts,
        reopened: status.reopened,
        malformed: status.malformed,
        up_again_ms,
    };
    let counted = figures.arrived + figures.lost + figures.unwanted + figures.remote;
    assert!(counted <= figures.emitted, "more is counted than there was: {figures:?}");
    let uncounted = figures.emitted - counted;
    assert!(
        uncounted <= excused,
        "{uncounted} frames are lost and not counted, {excused} may be: {figures:?}"
    );

    assert_eq!(past.forbidden, 0, "a controller that only listens was told to send");
    assert!(day.asks || bench.sent.is_empty(), "{:?} was sent by one that listens only", bench.sent);
    assert!(!day.asks || figures.sent > 0, "nothing was ever asked");
    // A reset is reported. Without one, no reset is, unless the line was closed for longer than the dongle was known.
    let reports = running.reported_us.len();
    assert!(past.starts == 0 || reports > 0, "{} resets: {status:?}", past.starts);
    assert!(past.starts + status.reopened > 0 || reports == 0, "no reset was: {status:?}");
    let may_hang = day.quiet_from_ms - FAULTS_FROM_MS >= HANGS_AFTER_MS;
    assert!(day.kinds.unplugs || may_hang || status.reopened == 0, "opened again for nothing: {status:?}");
    assert_eq!(status.frames, figures.arrived);
    assert_eq!(device.filters() == 0, day.asks, "a bus that is asked is heard as a whole");
    Figures { uncounted, ..figures }
}
