//! Asking the vehicle: what to send on a bus, and when not to.
//!
//! Nothing is sent unless requests are configured. One request is on its way at a time; all frames together, flow control
//! included, keep to a number a second. And nothing is sent while the vehicle sleeps: a request would wake its controllers,
//! and empty its battery. It is known to be awake by frames on the bus that nobody asked for, or by the voltage of its
//! generator:
//!
//! | traffic within `quiet_after_us` | voltage | sends |
//! |---|---|---|
//! | yes | not known, or at least `voltage_min_v` | yes |
//! | any | below `voltage_min_v` | no |
//! | no | at least `voltage_min_v` | yes |
//! | no | not known | only with `only_on_traffic` off, for sockets behind a gateway that lets no traffic through |
//!
//! Where requests stay without an answer, the next one waits longer and longer, up to [`PAUSE_US_MAX`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use convoy_protocol::dtc::DtcStage;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};

use crate::isotp::{ISOTP_N_CR_US, IsoTpMessage};
use crate::obd::{self, ObdResponse};
use crate::uds::{self, UdsAnswer};

/// Requests that are configured at most.
pub const REQUESTS_MAX: usize = 512;
/// Requests that follow from answers (freeze frames, snapshots) at most; further ones are left out and counted.
pub const FOLLOW_UPS_MAX: usize = 256;
/// How long an ECU may take to answer, microseconds: ISO 15765-4 allows 50 ms, old ones take more.
pub const P2_US: i64 = 150_000;
/// How long further ECUs may take once one has answered, microseconds, counted from the request.
pub const P2_FURTHER_US: i64 = 75_000;
/// How long one may take that said that its answer comes later (P2*), microseconds.
pub const P2_STAR_US: i64 = 5_100_000;
/// Answers "comes later" taken for one request at most.
pub const PENDING_MAX: u32 = 10;
/// Refusals after which a request is not made any more.
pub const REFUSALS_MAX: u32 = 2;
/// Requests in a row without an answer after which it pauses.
pub const UNANSWERED_MAX: u32 = 3;
/// First pause, microseconds; each one doubles.
pub const PAUSE_US: i64 = 2_000_000;
/// Longest pause, microseconds.
pub const PAUSE_US_MAX: i64 = 600_000_000;

/// A voltage is forgotten after this time, microseconds: it may have been the last one before the vehicle slept.
pub const VOLTAGE_AGE_US_MAX: i64 = 30_000_000;
/// A request that an adapter carries out is over when the adapter says so, or after this time, microseconds.
pub const ADAPTER_US: i64 = 15_000_000;

/// To every ECU, with 11 and 29 bits (ISO 15765-4).
const FUNCTIONAL: [CanId; 2] = [CanId::Standard(0x7DF), CanId::Extended(0x18DB_33F1)];
/// Flow control: go on, everything at once.
const CONTINUE: [u8; 8] = [0x30, 0, 0, 0, 0, 0, 0, 0];
/// Bytes of a request that fit one frame.
const REQUEST_BYTES_MAX: usize = 7;

/// A request that is made again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollRequest {
    /// Whom to ask; 0x7DF and 0x18DB33F1 are every ECU.
    pub id: CanId,
    /// Who answers, where that is not 8 more (11 bits) or the two addresses exchanged (29 bits).
    pub answers_on: Option<CanId>,
    /// Service and parameters, 1 to 7 bytes.
    pub payload: Vec<u8>,
    /// How often, microseconds.
    pub period_us: i64,
}

/// What to ask on one bus, and how gently.
#[derive(Debug, Clone, PartialEq)]
pub struct PollOptions {
    /// The bus.
    pub bus: BusIndex,
    /// Frames sent in a second at most.
    pub frames_per_s_max: u32,
    /// A bus without frames that nobody asked for sleeps after this time, microseconds.
    pub quiet_after_us: i64,
    /// Below it the generator does not run.
    pub voltage_min_v: Option<f64>,
    /// Without traffic and without a voltage nothing is sent.
    pub only_on_traffic: bool,
    /// How often each parameter of service 01 that the ECUs have is asked for, microseconds; `None`: not at all.
    pub obd_period_us: Option<i64>,
    /// How often trouble codes are asked for (services 03, 07, 0A), microseconds; `None`: not at all.
    pub trouble_codes_period_us: Option<i64>,
    /// What else, or the same parameters more often.
    pub requests: Vec<PollRequest>,
    /// An adapter carries requests out, one at a time, and says when each is over ([`Poller::handle_end`]).
    pub by_adapter: bool,
}

/// What it does now, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollState {
    /// It asks.
    Asking,
    /// No frames on the bus that nobody asked for, and no voltage that says that the vehicle is awake.
    BusQuiet,
    /// The voltage is too low.
    VoltageLow,
    /// Nobody answers: the next request comes later.
    Unanswered,
}

impl PollState {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::BusQuiet => "silent: the bus is quiet",
            Self::VoltageLow => "silent: the voltage is low",
            Self::Unanswered => "pausing: nobody answers",
        }
    }
}

/// What was asked and answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PollCounters {
    /// Frames sent, flow control included.
    pub frames_sent: u64,
    /// Requests made.
    pub requests: u64,
    /// Requests with at least one answer.
    pub answered: u64,
    /// Requests that nobody answered in time.
    pub unanswered: u64,
    /// Requests that an ECU refused.
    pub refused: u64,
    /// Requests that follow from answers and had no place.
    pub follow_ups_dropped: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    request: PollRequest,
    due_us: i64,
    refusals: u32,
}

/// What is on its way.
#[derive(Debug)]
struct Outstanding {
    id: CanId,
    answers_on: Option<CanId>,
    payload: Vec<u8>,
    /// Place among the items; `None`: it follows from an answer, or finds out what there is.
    item: Option<usize>,
    asked_us: i64,
    until_us: i64,
    /// ECUs that have said that their answer comes later, or have sent a part of a long one, and how long each is waited for.
    later: BTreeMap<CanId, i64>,
    pending: u32,
    is_answered: bool,
    /// ECUs that have the parameter and have not answered; `None`: not known.
    missing: Option<usize>,
}

/// Asks on one bus. A state machine: it is told what it hears and what time it is, and says what to send.
#[derive(Debug)]
pub struct Poller {
    options: PollOptions,
    items: Vec<Item>,
    follow_ups: VecDeque<(CanId, Vec<u8>)>,
    outstanding: Option<Outstanding>,
    flow_control: Option<CanFrame>,
    /// The request before, and how long an answer to it is let go on.
    recent: Option<(CanId, Option<CanId>, i64)>,
    /// Which parameters each ECU has; the next range to find out, and to whom it is asked.
    supported: BTreeMap<CanId, BTreeSet<u8>>,
    discovery: Option<(usize, u8)>,
    /// Codes that a freeze frame was asked for.
    frozen: BTreeMap<CanId, Vec<u8>>,
    traffic_us: Option<i64>,
    /// Volts, and when they were measured.
    voltage: Option<(f64, i64)>,
    in_a_row: u32,
    pause_us: i64,
    paused_until_us: Option<i64>,
    /// Frames that may be sent now, in millionths, and when that was.
    credit: i64,
    credit_us: i64,
    was_asking: bool,
    counters: PollCounters,
}

impl Poller {
    /// A poller that has heard nothing yet. More than [`REQUESTS_MAX`] requests are cut off by whoever reads them.
    pub fn new(options: PollOptions, now_us: i64) -> Self {
        let mut poller = Self {
            items: Vec::new(),
            follow_ups: VecDeque::new(),
            outstanding: None,
            flow_control: None,
            recent: None,
            supported: BTreeMap::new(),
            discovery: None,
            frozen: BTreeMap::new(),
            traffic_us: None,
            voltage: None,
            in_a_row: 0,
            pause_us: PAUSE_US,
            paused_until_us: None,
            credit: 0,
            credit_us: now_us,
            was_asking: false,
            counters: PollCounters::default(),
            options,
        };
        poller.start(now_us);
        poller
    }

    /// The id that answers the request on its way, where that is another than usual.
    pub fn answers_on(&self) -> Option<CanId> {
        self.outstanding.as_ref()?.answers_on
    }

    /// The bus it asks on.
    pub fn bus(&self) -> BusIndex {
        self.options.bus
    }

    /// What was counted so far.
    pub fn counters(&self) -> PollCounters {
        self.counters
    }

    /// The ECUs that have answered, and the parameters of service 01 that each has.
    pub fn ecus(&self) -> impl Iterator<Item = (CanId, &BTreeSet<u8>)> {
        self.supported.iter().map(|(id, pids)| (*id, pids))
    }

    /// What it does now.
    pub fn state(&self, now_us: i64) -> PollState {
        let has_traffic = self
            .traffic_us
            .is_some_and(|heard_us| now_us.saturating_sub(heard_us) < self.options.quiet_after_us);
        let is_fresh = |at_us: i64| now_us.saturating_sub(at_us) <= VOLTAGE_AGE_US_MAX;
        let voltage_v = self.voltage.filter(|(_, at_us)| is_fresh(*at_us)).map(|(volts, _)| volts);
        let is_charging = match (voltage_v, self.options.voltage_min_v) {
            (Some(volts), Some(min)) if volts < min => return PollState::VoltageLow,
            (Some(_), Some(_)) => true,
            _ => false,
        };
        if !has_traffic && !is_charging && self.options.only_on_traffic {
            return PollState::BusQuiet;
        }
        match self.paused_until_us {
            Some(until_us) if now_us < until_us => PollState::Unanswered,
            _ => PollState::Asking,
        }
    }

    /// Takes the voltage at the vehicle's socket; `None` where it is not known any more.
    pub fn handle_voltage(&mut self, now_us: i64, volts: Option<f64>) {
        self.voltage = volts.map(|volts| (volts, now_us));
    }

    /// Takes a frame of its bus.
    pub fn handle_frame(&mut self, now_us: i64, frame: &CanFrame) {
        // Neither late answers nor what another tester asks are a sign of a vehicle that is awake by itself.
        let is_asked_for = is_diagnostic(frame.id)
            || self.items.iter().any(|item| answers((item.request.id, item.request.answers_on), frame.id));
        if !is_asked_for {
            // It may have waited in a queue while the vehicle fell asleep.
            self.traffic_us = self.traffic_us.max(Some(frame.timestamp_us.min(now_us)));
            return;
        }
        let kind = frame.data().first().map_or(0xF, |head| head >> 4);
        match &mut self.outstanding {
            Some(outstanding) if answers((outstanding.id, outstanding.answers_on), frame.id) => {
                let is_known = outstanding.later.contains_key(&frame.id);
                if kind == 1 || (kind == 2 && is_known) {
                    outstanding.later.insert(frame.id, now_us.saturating_add(ISOTP_N_CR_US));
                }
                if kind == 1 {
                    let asked_on = outstanding.id;
                    self.let_go_on(now_us, frame, asked_on);
                }
            }
            // A slow ECU: the request is over, and its answer is of use all the same.
            _ if kind == 1 => {
                if let Some((id, answers_on, until_us)) = self.recent
                    && now_us <= until_us
                    && answers((id, answers_on), frame.id)
                {
                    self.let_go_on(now_us, frame, id);
                }
            }
            _ => {}
        }
    }

    fn let_go_on(&mut self, now_us: i64, frame: &CanFrame, asked_on: CanId) {
        self.flow_control = CanFrame::new(now_us, frame.bus, physical(frame.id, asked_on), &CONTINUE).ok();
    }

    /// Takes a whole message of its bus, after its frames.
    pub fn handle_message(&mut self, now_us: i64, message: &IsoTpMessage) {
        let Some(outstanding) =
            self.outstanding.as_mut().filter(|one| answers((one.id, one.answers_on), message.id))
        else {
            return;
        };
        let service = outstanding.payload.first().copied().unwrap_or(0);
        outstanding.later.remove(&message.id);
        match message.data() {
            &[0x7F, of, code] if of == service => {
                if code == uds::RESPONSE_PENDING && outstanding.pending < PENDING_MAX {
                    outstanding.pending += 1;
                    outstanding.later.insert(message.id, now_us.saturating_add(P2_STAR_US));
                    return;
                }
                self.handle_refusal(code);
            }
            [answer, ..] if *answer == service.wrapping_add(uds::POSITIVE) => {
                self.learn(message);
                self.handle_answer(now_us);
            }
            _ => {}
        }
    }

    /// The request on its way is over: whoever carried it out knows that nobody answers any more.
    pub fn handle_end(&mut self, now_us: i64) {
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.until_us = now_us;
            outstanding.later.clear();
        }
    }

    /// The next request, where one is due and may be made. Its payload is to be sent as a single frame.
    pub fn poll_request(&mut self, now_us: i64) -> Option<(CanId, Vec<u8>)> {
        self.finish(now_us);
        let is_asking = self.state(now_us) == PollState::Asking;
        if !is_asking {
            if !matches!(self.state(now_us), PollState::Unanswered) && self.was_asking {
                self.was_asking = false;
                self.outstanding = None;
                (self.flow_control, self.recent) = (None, None);
                // Awake again it is another vehicle, or the same one refreshed.
                (self.paused_until_us, self.pause_us, self.in_a_row) = (None, PAUSE_US, 0);
            }
            return None;
        }
        if !std::mem::replace(&mut self.was_asking, true) && self.paused_until_us.is_none() {
            // Awake again: another vehicle may hang on the same plug.
            self.start(now_us);
        }
        if self.outstanding.is_some() || !self.has_credit(now_us) {
            return None;
        }
        let (id, payload, item) = self.next(now_us)?;
        let answers_on = item.and_then(|at| self.items.get(at)?.request.answers_on);
        self.spend();
        self.counters.requests += 1;
        let until_us = now_us.saturating_add(if self.options.by_adapter { ADAPTER_US } else { P2_US });
        self.outstanding = Some(Outstanding {
            id,
            answers_on,
            payload: payload.clone(),
            item,
            asked_us: now_us,
            until_us,
            later: BTreeMap::new(),
            pending: 0,
            is_answered: false,
            missing: self.owners(&payload),
        });
        Some((id, payload))
    }

    /// Flow control for an answer to its request. It may not wait, and is paid for afterwards.
    pub fn poll_flow_control(&mut self) -> Option<CanFrame> {
        let frame = self.flow_control.take()?;
        self.spend();
        Some(frame)
    }

    /// When to ask [`poll_request`](Self::poll_request) again, without anything heard before.
    pub fn poll_timeout(&self, now_us: i64) -> Option<i64> {
        match self.state(now_us) {
            PollState::BusQuiet | PollState::VoltageLow => None,
            PollState::Unanswered => self.paused_until_us,
            PollState::Asking => {
                let rate = i64::from(self.options.frames_per_s_max.max(1));
                let credit_us = self.credit_us.saturating_add((1_000_000 - self.credit).max(0) / rate + 1);
                let due_us = match &self.outstanding {
                    Some(outstanding) => outstanding.ends_us(),
                    None if self.discovery.is_some() || !self.follow_ups.is_empty() => credit_us,
                    None => self
                        .items
                        .iter()
                        .filter(|item| item.is_wanted())
                        .map(|item| item.due_us)
                        .min()?
                        .max(credit_us),
                };
                Some(due_us)
            }
        }
    }

    fn start(&mut self, now_us: i64) {
        self.supported.clear();
        self.frozen.clear();
        self.follow_ups.clear();
        let requests = self.options.requests.iter().take(REQUESTS_MAX);
        self.items = requests.map(|request| Item::new(request.clone(), now_us)).collect();
        self.discovery = self.options.obd_period_us.map(|_| (0, 0x00));
        if let Some(period_us) = self.options.trouble_codes_period_us {
            for service in [0x03, 0x07, 0x0A] {
                let request =
                    PollRequest { id: FUNCTIONAL[0], answers_on: None, payload: vec![service], period_us };
                self.items.push(Item::new(request, now_us));
            }
        }
    }

    fn next(&mut self, now_us: i64) -> Option<(CanId, Vec<u8>, Option<usize>)> {
        if let Some((way, range)) = self.discovery {
            return Some((FUNCTIONAL[way], vec![0x01, range], None));
        }
        if let Some((id, payload)) = self.follow_ups.pop_front() {
            return Some((id, payload, None));
        }
        let due = self.items.iter().enumerate().filter(|(_, item)| item.is_wanted() && item.due_us <= now_us);
        let (at, _) = due.min_by_key(|(_, item)| item.due_us)?;
        let item = &mut self.items[at];
        // What could not be asked in time is asked once, not once for each time missed.
        item.due_us = item.due_us.saturating_add(item.request.period_us).max(now_us);
        Some((item.request.id, item.request.payload.clone(), Some(at)))
    }

    /// Ends the request on its way when its time is over.
    fn finish(&mut self, now_us: i64) {
        let Some(outstanding) = self.outstanding.take_if(|outstanding| outstanding.ends_us() <= now_us)
        else {
            return;
        };
        let until_us = now_us.saturating_add(ISOTP_N_CR_US);
        self.recent = Some((outstanding.id, outstanding.answers_on, until_us));
        if outstanding.is_answered {
            self.counters.answered += 1;
            (self.in_a_row, self.pause_us) = (0, PAUSE_US);
        } else {
            self.counters.unanswered += 1;
            self.in_a_row += 1;
        }
        if self.discovery.is_some()
            && outstanding.item.is_none()
            && outstanding.payload.first() == Some(&0x01)
        {
            self.discover(now_us, outstanding.is_answered);
        }
        if self.in_a_row >= UNANSWERED_MAX {
            self.paused_until_us = Some(now_us.saturating_add(self.pause_us));
            self.pause_us = (self.pause_us * 2).min(PAUSE_US_MAX);
            self.in_a_row = 0;
        }
    }

    /// Goes on to the next range, to 29 bits, or to asking for what was found.
    fn discover(&mut self, now_us: i64, is_answered: bool) {
        let Some((way, range)) = self.discovery else { return };
        if is_answered {
            let next = range.saturating_add(0x20);
            let goes_on = next > range && self.supported.values().any(|pids| pids.contains(&next));
            self.discovery = if goes_on { Some((way, next)) } else { None };
            if !goes_on {
                self.ask_for_supported(now_us, FUNCTIONAL[way]);
            }
        } else if range == 0 {
            // Nobody there: with the other ids, and from the start again after a pause.
            self.discovery = Some((1 - way, 0x00));
        } else {
            self.discovery = None;
            self.ask_for_supported(now_us, FUNCTIONAL[way]);
        }
    }

    fn ask_for_supported(&mut self, now_us: i64, to: CanId) {
        let Some(period_us) = self.options.obd_period_us else { return };
        for item in &mut self.items {
            if FUNCTIONAL.contains(&item.request.id) {
                item.request.id = to;
            }
        }
        let pids: BTreeSet<u8> = self.supported.values().flatten().copied().collect();
        // The ranges themselves are no parameters.
        for pid in pids.into_iter().filter(|pid| pid % 0x20 != 0) {
            let payload = vec![0x01, pid];
            if self.items.len() < REQUESTS_MAX
                && self.items.iter().all(|item| item.request.payload != payload)
            {
                self.items
                    .push(Item::new(PollRequest { id: to, answers_on: None, payload, period_us }, now_us));
            }
        }
    }

    /// A service or parameter that an ECU does not have is not asked for again and again.
    fn handle_refusal(&mut self, code: u8) {
        self.counters.refused += 1;
        let Some(outstanding) = &mut self.outstanding else { return };
        outstanding.is_answered = true;
        let is_final = matches!(code, 0x11 | 0x12 | 0x31 | 0x33 | 0x7E | 0x7F);
        if is_final && let Some(item) = outstanding.item.and_then(|at| self.items.get_mut(at)) {
            item.refusals += 1;
        }
    }

    fn handle_answer(&mut self, now_us: i64) {
        let Some(outstanding) = &mut self.outstanding else { return };
        outstanding.is_answered = true;
        if let Some(item) = outstanding.item.and_then(|at| self.items.get_mut(at)) {
            item.refusals = 0;
        }
        outstanding.missing = outstanding.missing.map(|missing| missing.saturating_sub(1));
        // Further ECUs may answer a request to everyone; a request to one is done. An adapter has its own idea of it.
        if self.options.by_adapter {
            return;
        }
        outstanding.until_us = match outstanding.missing {
            _ if !FUNCTIONAL.contains(&outstanding.id) => now_us,
            Some(0) => now_us,
            _ => outstanding.asked_us.saturating_add(P2_FURTHER_US).max(now_us),
        };
    }

    /// How many ECUs have what is asked for, where that is known.
    fn owners(&self, payload: &[u8]) -> Option<usize> {
        let &[0x01, pid] = payload else { return None };
        let owners = self.supported.values().filter(|pids| pids.contains(&pid)).count();
        Some(owners).filter(|owners| *owners > 0)
    }

    /// What an answer says of what there is to ask for.
    fn learn(&mut self, message: &IsoTpMessage) {
        // A request to one ECU goes on with that one.
        let asked = self.outstanding.as_ref().map(|outstanding| outstanding.id);
        let ecu = physical(message.id, asked.unwrap_or(FUNCTIONAL[0]));
        match message.data() {
            [0x41, range, b3, b2, b1, b0] if range % 0x20 == 0 => {
                let pids = supported(*range, [*b3, *b2, *b1, *b0]);
                self.supported.entry(message.id).or_default().extend(pids);
            }
            // The same for frozen parameters: each of them is asked for.
            [0x42, range, number, b3, b2, b1, b0] if range % 0x20 == 0 => {
                for pid in supported(*range, [*b3, *b2, *b1, *b0]).filter(|pid| *pid != 0x02) {
                    self.follow_up(ecu, vec![0x02, pid, *number]);
                }
            }
            data => self.learn_codes(message.id, ecu, data),
        }
    }

    /// New codes: what was frozen with them is asked for.
    fn learn_codes(&mut self, id: CanId, ecu: CanId, data: &[u8]) {
        if let Some(ObdResponse::Dtcs(DtcStage::Active, codes)) = obd::parse(data) {
            let is_new = self.frozen.get(&id).is_none_or(|before| before != data);
            if is_new {
                self.frozen.insert(id, data.to_vec());
                if codes.codes().next().is_some() {
                    self.follow_up(ecu, vec![0x02, 0x02, 0x00]);
                    self.follow_up(ecu, vec![0x02, 0x00, 0x00]);
                }
            }
        } else if let Some(UdsAnswer::DtcsByStatus(codes)) = uds::parse(data) {
            let before = self.frozen.insert(id, data.to_vec());
            let known: BTreeSet<u32> = match before.as_deref().and_then(uds::parse) {
                Some(UdsAnswer::DtcsByStatus(codes)) => codes.dtcs().map(|dtc| dtc.code).collect(),
                _ => BTreeSet::new(),
            };
            for dtc in codes.dtcs().filter(|dtc| !known.contains(&dtc.code)) {
                let [_, high, middle, low] = dtc.code.to_be_bytes();
                // Every snapshot and every record of extended data.
                self.follow_up(ecu, vec![0x19, 0x04, high, middle, low, 0xFF]);
                self.follow_up(ecu, vec![0x19, 0x06, high, middle, low, 0xFF]);
            }
        }
    }

    fn follow_up(&mut self, id: CanId, payload: Vec<u8>) {
        debug_assert!(payload.len() <= REQUEST_BYTES_MAX, "a follow-up fits one frame");
        if self.follow_ups.len() < FOLLOW_UPS_MAX {
            self.follow_ups.push_back((id, payload));
        } else {
            self.counters.follow_ups_dropped += 1;
        }
    }

    fn has_credit(&mut self, now_us: i64) -> bool {
        let rate = i64::from(self.options.frames_per_s_max.max(1));
        let passed_us = now_us.saturating_sub(self.credit_us).clamp(0, 1_000_000);
        // No more than one frame ahead: bursts are what a cap is against.
        self.credit = self.credit.saturating_add(passed_us * rate).min(1_000_000);
        self.credit_us = now_us;
        self.credit >= 1_000_000
    }

    fn spend(&mut self) {
        self.counters.frames_sent += 1;
        self.credit -= 1_000_000;
    }
}

impl Outstanding {
    fn ends_us(&self) -> i64 {
        self.later.values().copied().fold(self.until_us, i64::max)
    }
}

impl Item {
    fn new(request: PollRequest, due_us: i64) -> Self {
        Self { request, due_us, refusals: 0 }
    }

    fn is_wanted(&self) -> bool {
        self.refusals < REFUSALS_MAX
    }
}

/// Parameters `range + 1` to `range + 32` whose bits are set, the first one in the highest bit.
fn supported(range: u8, bits: [u8; 4]) -> impl Iterator<Item = u8> {
    let bits = u32::from_be_bytes(bits);
    (1..=32u8).filter(move |at| bits >> (32 - at) & 1 == 1).filter_map(move |at| range.checked_add(at))
}

/// Is it an id of OBD-II (ISO 15765-4), of requests or of answers?
fn is_diagnostic(id: CanId) -> bool {
    match id {
        CanId::Standard(id) => matches!(id, 0x7DF..=0x7EF),
        CanId::Extended(id) => matches!(id >> 16, 0x18DA | 0x18DB),
    }
}

/// May `answer` be the id of an answer to a request on `request`?
pub(crate) fn answers((request, answers_on): (CanId, Option<CanId>), answer: CanId) -> bool {
    match (request, answer) {
        _ if answers_on.is_some() => answers_on == Some(answer),
        (CanId::Standard(0x7DF), CanId::Standard(id)) => matches!(id, 0x7E8..=0x7EF),
        (CanId::Extended(0x18DB_33F1), CanId::Extended(id)) => id >> 8 == 0x18_DAF1,
        (CanId::Standard(request), CanId::Standard(answer)) => request.checked_add(8) == Some(answer),
        (CanId::Extended(request), CanId::Extended(answer)) => answer == exchanged(request),
        _ => false,
    }
}

/// Where the ECU that answers on `answer` to a request on `request` is spoken to alone.
fn physical(answer: CanId, request: CanId) -> CanId {
    match answer {
        _ if !FUNCTIONAL.contains(&request) => request,
        CanId::Standard(id) => CanId::Standard(id.saturating_sub(8)),
        CanId::Extended(id) => CanId::Extended(exchanged(id)),
    }
}

/// Target and source address exchanged (ISO 15765-2, normal fixed addressing).
fn exchanged(id: u32) -> u32 {
    id & !0xFFFF | (id & 0xFF) << 8 | id >> 8 & 0xFF
}

#[cfg(test)]
mod tests;
