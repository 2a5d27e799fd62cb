use super::*;
use crate::isotp::IsoTpAssembler;

const ENGINE: CanId = CanId::Standard(0x7E8);
const GEARBOX: CanId = CanId::Standard(0x7E9);

fn options() -> PollOptions {
    PollOptions {
        bus: BusIndex(0),
        frames_per_s_max: 100,
        quiet_after_us: 5_000_000,
        voltage_min_v: None,
        only_on_traffic: true,
        obd_period_us: None,
        trouble_codes_period_us: None,
        requests: Vec::new(),
        by_adapter: false,
    }
}

fn request(id: u16, payload: &[u8], period_us: i64) -> PollRequest {
    PollRequest { id: CanId::Standard(id), answers_on: None, payload: payload.to_vec(), period_us }
}

/// A vehicle that answers by a function, and a clock.
struct Vehicle {
    poller: Poller,
    isotp: IsoTpAssembler,
    now_us: i64,
    has_traffic: bool,
    asked: Vec<(i64, CanId, Vec<u8>)>,
    flow: Vec<CanFrame>,
}

type Answer = Vec<(CanId, Vec<u8>)>;

impl Vehicle {
    fn new(options: PollOptions) -> Self {
        Self {
            poller: Poller::new(options, 0),
            isotp: IsoTpAssembler::new(),
            now_us: 0,
            has_traffic: true,
            asked: Vec::new(),
            flow: Vec::new(),
        }
    }

    fn hear(&mut self, id: CanId, data: &[u8]) {
        let frame = CanFrame::new(self.now_us, BusIndex(0), id, data).unwrap();
        self.poller.handle_frame(self.now_us, &frame);
        self.flow.extend(self.poller.poll_flow_control());
        let message = self.isotp.handle_frame(self.now_us, (BusIndex(0), id), false, data);
        if let Some(message) = message {
            self.poller.handle_message(self.now_us, &message);
        }
    }

    /// Millisecond by millisecond; an answer comes 10 ms after its request.
    fn run(&mut self, ms: i64, ecus: impl Fn(CanId, &[u8]) -> Answer) {
        let mut answers: Vec<(i64, CanId, Vec<u8>)> = Vec::new();
        for _ in 0..ms {
            self.now_us += 1_000;
            if self.has_traffic && self.now_us % 100_000 == 0 {
                self.hear(CanId::Standard(0x123), &[1, 2, 3]);
            }
            let (due, later): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(at, ..)| *at <= self.now_us);
            answers = later;
            for (_, id, frame) in due {
                self.hear(id, &frame);
            }
            while let Some((id, payload)) = self.poller.poll_request(self.now_us) {
                for (at, (from, message)) in ecus(id, &payload).into_iter().enumerate() {
                    let at_us = self.now_us + 10_000 + at as i64 * 1_000;
                    answers.extend(frames(&message).into_iter().map(|frame| (at_us, from, frame)));
                }
                self.asked.push((self.now_us, id, payload));
            }
        }
    }

    fn payloads(&self) -> Vec<&[u8]> {
        self.asked.iter().map(|(_, _, payload)| payload.as_slice()).collect()
    }
}

fn frames(message: &[u8]) -> Vec<Vec<u8>> {
    if message.len() <= 7 {
        return vec![[&[message.len() as u8][..], message].concat()];
    }
    let first = [&[0x10, message.len() as u8][..], &message[..6]].concat();
    let rest = message[6..].chunks(7).zip(1u8..).map(|(chunk, at)| [&[0x20 | at & 0xF][..], chunk].concat());
    std::iter::once(first).chain(rest).collect()
}

/// Two ECUs: 0C, 0D and 20.. of the engine, 0D of the gearbox.
fn car(_: CanId, payload: &[u8]) -> Answer {
    match payload {
        [1, 0x00] => vec![(ENGINE, vec![0x41, 0, 0, 0x18, 0, 1]), (GEARBOX, vec![0x41, 0, 0, 0x08, 0, 0])],
        [1, 0x20] => vec![(ENGINE, vec![0x41, 0x20, 0, 0x02, 0, 0])],
        [1, pid @ (0x0C | 0x2F)] => vec![(ENGINE, vec![0x41, *pid, 1, 2])],
        [1, 0x0D] => vec![(ENGINE, vec![0x41, 0x0D, 1]), (GEARBOX, vec![0x41, 0x0D, 1])],
        [3] => vec![(ENGINE, vec![0x43, 1, 0x03, 0x01]), (GEARBOX, vec![0x43, 0])],
        [2, 2, 0] => vec![(ENGINE, vec![0x42, 2, 0, 0x03, 0x01])],
        [2, 0, 0] => vec![(ENGINE, vec![0x42, 0, 0, 0x40, 0x10, 0, 0])],
        [2, 0x0C, 0] => vec![(ENGINE, vec![0x42, 0x0C, 0, 0x1A, 0xF8])],
        [service, ..] => vec![(ENGINE, vec![0x7F, *service, 0x11])],
        [] => vec![],
    }
}

#[test]
fn what_the_ecus_have_is_found_out_and_asked_for_at_its_period() {
    let mut vehicle = Vehicle::new(PollOptions { obd_period_us: Some(1_000_000), ..options() });
    vehicle.run(10_000, car);
    let payloads = vehicle.payloads();
    assert_eq!(payloads[..5], [&[1, 0x00][..], &[1, 0x20], &[1, 0x0C], &[1, 0x0D], &[1, 0x2F]]);
    let count = |payload: &[u8]| payloads.iter().filter(|asked| **asked == payload).count();
    assert_eq!((count(&[1, 0]), count(&[1, 0x0C]), count(&[1, 0x0D]), count(&[1, 0x2F])), (1, 10, 10, 10));
    let ecus: Vec<_> = vehicle.poller.ecus().map(|(id, pids)| (id, pids.len())).collect();
    assert_eq!(ecus, [(ENGINE, 4), (GEARBOX, 1)]);
    assert_eq!(vehicle.poller.counters().unanswered, 0);
    // Once it is known who has a parameter, nobody else is waited for.
    let gap_us = vehicle.asked[4].0 - vehicle.asked[3].0;
    assert!(gap_us < 20_000, "{gap_us}");
}

#[test]
fn vehicles_with_29_bit_ids_are_found_and_asked_with_them() {
    let mut vehicle = Vehicle::new(PollOptions { obd_period_us: Some(1_000_000), ..options() });
    vehicle.run(3_000, |id, payload| match (id, payload) {
        (CanId::Extended(0x18DB_33F1), [1, 0]) => {
            vec![(CanId::Extended(0x18DA_F110), vec![0x41, 0, 0, 0x10, 0, 0])]
        }
        (CanId::Extended(0x18DB_33F1), [1, 0x0C]) => {
            vec![(CanId::Extended(0x18DA_F110), vec![0x41, 0x0C, 1, 2])]
        }
        _ => vec![],
    });
    let ids: Vec<_> = vehicle.asked.iter().map(|(_, id, _)| *id).collect();
    assert_eq!(ids[..3], [FUNCTIONAL[0], FUNCTIONAL[1], FUNCTIONAL[1]]);
    assert!(vehicle.poller.counters().answered >= 3);
}

#[test]
fn no_more_frames_are_sent_in_a_second_than_allowed() {
    let requests = (0..50).map(|pid| request(0x7E0, &[1, pid], 10_000)).collect();
    let mut vehicle = Vehicle::new(PollOptions { frames_per_s_max: 8, requests, ..options() });
    vehicle.run(10_000, |_, payload| vec![(ENGINE, vec![0x41, payload[1], 0, 1, 2, 3, 4, 5, 6, 7])]);
    // Each answer takes two frames, and flow control between them.
    assert!((36..=41).contains(&vehicle.asked.len()), "{}", vehicle.asked.len());
    assert_eq!(vehicle.poller.counters().frames_sent, 2 * vehicle.asked.len() as u64);
    for window in vehicle.asked.windows(5) {
        assert!(window[4].0 - window[0].0 >= 900_000, "{window:?}");
    }
}

#[test]
fn nothing_is_sent_when_the_bus_has_gone_quiet_and_all_again_when_it_wakes() {
    let requests = vec![request(0x7DF, &[1, 0x0D], 100_000)];
    let mut vehicle = Vehicle::new(PollOptions { requests, ..options() });
    vehicle.run(2_000, car);
    assert!(vehicle.asked.len() >= 18, "{}", vehicle.asked.len());
    vehicle.has_traffic = false;
    // The answers to its own requests, and late ones, keep nothing awake.
    vehicle.run(5_100, car);
    let at_sleep = vehicle.asked.len();
    vehicle.hear(ENGINE, &[3, 0x41, 0x0D, 1]);
    vehicle.run(3_600_000, car);
    assert_eq!((vehicle.asked.len(), vehicle.poller.state(vehicle.now_us)), (at_sleep, PollState::BusQuiet));
    assert_eq!(vehicle.poller.poll_timeout(vehicle.now_us), None);
    vehicle.has_traffic = true;
    vehicle.run(1_000, car);
    assert!(vehicle.asked.len() >= at_sleep + 8, "{}", vehicle.asked.len() - at_sleep);
}

#[test]
fn nothing_is_sent_below_the_voltage_and_a_socket_without_traffic_lives_by_it() {
    let requests = vec![request(0x7DF, &[1, 0x0D], 100_000)];
    let mut vehicle = Vehicle::new(PollOptions { voltage_min_v: Some(13.0), requests, ..options() });
    vehicle.has_traffic = false;
    vehicle.run(1_000, car);
    assert_eq!(vehicle.asked.len(), 0);
    vehicle.poller.handle_voltage(vehicle.now_us, Some(13.0));
    vehicle.run(1_000, car);
    assert!(vehicle.asked.len() >= 8);
    let before = vehicle.asked.len();
    vehicle.has_traffic = true;
    vehicle.poller.handle_voltage(vehicle.now_us, Some(12.9));
    vehicle.run(10_000, car);
    assert_eq!((vehicle.asked.len(), vehicle.poller.state(vehicle.now_us)), (before, PollState::VoltageLow));
    // Nobody measures any more: traffic decides, and a voltage of long ago does not.
    vehicle.run(30_000, car);
    assert_eq!(vehicle.poller.state(vehicle.now_us), PollState::Asking);
    vehicle.poller.handle_voltage(vehicle.now_us, Some(14.1));
    vehicle.has_traffic = false;
    vehicle.run(40_000, car);
    let before = vehicle.asked.len();
    vehicle.run(600_000, car);
    assert_eq!((vehicle.asked.len(), vehicle.poller.state(vehicle.now_us)), (before, PollState::BusQuiet));
}

#[test]
fn a_request_of_an_adapter_is_over_when_the_adapter_says_so() {
    let requests = vec![request(0x7DF, &[1, 0x0D], 100_000)];
    let mut vehicle = Vehicle::new(PollOptions { requests, by_adapter: true, ..options() });
    vehicle.run(2_000, car);
    assert_eq!(vehicle.asked.len(), 1);
    vehicle.poller.handle_end(vehicle.now_us);
    vehicle.run(10, car);
    assert_eq!((vehicle.asked.len(), vehicle.poller.counters().answered), (2, 1));
}

#[test]
fn an_ecu_that_answers_later_is_waited_for_although_another_one_has_answered() {
    let mut vehicle =
        Vehicle::new(PollOptions { requests: vec![request(0x7DF, &[3], 60_000_000)], ..options() });
    vehicle.run(200, |_, _| vec![(ENGINE, vec![0x7F, 3, 0x78]), (GEARBOX, vec![0x43, 0])]);
    vehicle.run(1_000, car);
    vehicle.hear(ENGINE, &[0x10, 8, 0x43, 3, 1, 2, 3, 4]);
    assert_eq!(vehicle.flow.last().map(|frame| frame.id), Some(CanId::Standard(0x7E0)));
}

#[test]
fn a_slow_ecus_long_answer_is_let_go_on_although_its_request_is_over() {
    let mut vehicle =
        Vehicle::new(PollOptions { requests: vec![request(0x7DF, &[9, 2], 60_000_000)], ..options() });
    vehicle.run(500, |_, _| vec![]);
    assert_eq!((vehicle.asked.len(), vehicle.poller.counters().unanswered), (1, 1));
    vehicle.hear(ENGINE, &[0x10, 20, 0x49, 2, 1, 0, 0, 0]);
    assert_eq!(vehicle.flow.iter().map(|frame| frame.id).collect::<Vec<_>>(), [CanId::Standard(0x7E0)]);
    vehicle.run(2_000, |_, _| vec![]);
    vehicle.hear(ENGINE, &[0x10, 20, 0x49, 2, 1, 0, 0, 0]);
    assert_eq!(vehicle.flow.len(), 1);
}

#[test]
fn after_a_pause_and_a_sleep_it_begins_anew() {
    let mut vehicle =
        Vehicle::new(PollOptions { requests: vec![request(0x7E0, &[1, 0], 100_000)], ..options() });
    vehicle.run(5_000, |_, _| vec![]);
    assert_eq!(vehicle.poller.state(vehicle.now_us), PollState::Unanswered);
    vehicle.has_traffic = false;
    vehicle.run(20_000, car);
    vehicle.asked.clear();
    vehicle.has_traffic = true;
    vehicle.run(1_000, car);
    assert!(vehicle.asked.len() >= 8, "{}", vehicle.asked.len());
}

#[test]
fn an_answer_that_comes_later_is_waited_for() {
    let mut vehicle =
        Vehicle::new(PollOptions { requests: vec![request(0x7E0, &[0x22, 1, 1], 60_000_000)], ..options() });
    vehicle.run(200, |_, _| vec![(ENGINE, vec![0x7F, 0x22, 0x78])]);
    assert_eq!(vehicle.asked.len(), 1);
    vehicle.run(4_900, car);
    assert_eq!(vehicle.poller.counters().unanswered, 0);
    vehicle.hear(ENGINE, &[5, 0x62, 1, 1, 7, 7]);
    vehicle.run(10, car);
    assert_eq!(vehicle.poller.counters().answered, 1);
}

#[test]
fn what_an_ecu_does_not_have_is_asked_for_twice() {
    let mut vehicle =
        Vehicle::new(PollOptions { requests: vec![request(0x7E0, &[0x22, 1, 1], 100_000)], ..options() });
    vehicle.run(5_000, car);
    assert_eq!((vehicle.asked.len(), vehicle.poller.counters().refused), (2, 2));
}

#[test]
fn flow_control_goes_to_the_one_ecu_that_answers_a_request_to_all() {
    let mut vehicle =
        Vehicle::new(PollOptions { requests: vec![request(0x7DF, &[9, 2], 60_000_000)], ..options() });
    vehicle.run(500, |_, _| vec![(GEARBOX, vec![0x49; 20])]);
    let flow: Vec<_> = vehicle.flow.iter().map(|frame| (frame.id, frame.data().to_vec())).collect();
    assert_eq!(flow, [(CanId::Standard(0x7E1), CONTINUE.to_vec())]);
    // Somebody else's conversation is not interfered with.
    vehicle.run(2_000, |_, _| vec![]);
    vehicle.hear(GEARBOX, &[0x10, 20, 0x49, 2, 1, 0, 0, 0]);
    assert_eq!(vehicle.flow.len(), 1);
}

#[test]
fn new_codes_have_their_freeze_frame_read_once() {
    let mut vehicle = Vehicle::new(PollOptions { trouble_codes_period_us: Some(1_000_000), ..options() });
    vehicle.run(5_000, car);
    let payloads = vehicle.payloads();
    let frozen: Vec<_> = payloads.iter().filter(|payload| payload[0] == 2).copied().collect();
    assert_eq!(frozen, [&[2, 2, 0][..], &[2, 0, 0], &[2, 0x0C, 0]]);
    assert!(
        vehicle
            .asked
            .iter()
            .filter(|(_, _, payload)| payload[0] == 2)
            .all(|(_, id, _)| *id == CanId::Standard(0x7E0))
    );
    assert_eq!(payloads.iter().filter(|payload| **payload == [3]).count(), 5);
}

#[test]
fn each_new_code_of_uds_has_its_snapshot_read() {
    let requests = vec![request(0x7E0, &[0x19, 2, 0xFF], 1_000_000)];
    let mut vehicle = Vehicle::new(PollOptions { requests, ..options() });
    vehicle.run(3_000, |_, payload| match payload {
        [0x19, 2, ..] => vec![(ENGINE, vec![0x59, 2, 0xFF, 1, 2, 3, 0x08])],
        [0x19, 4, ..] => vec![(ENGINE, vec![0x59, 4, 1, 2, 3, 0x08, 1, 1, 0xF4, 0x0C, 9])],
        _ => vec![(ENGINE, vec![0x59, 6, 1, 2, 3, 0x08])],
    });
    let read: Vec<_> = vehicle.payloads().into_iter().filter(|payload| payload[1] != 2).collect();
    assert_eq!(read, [&[0x19, 4, 1, 2, 3, 0xFF][..], &[0x19, 6, 1, 2, 3, 0xFF]]);
}

#[test]
fn requests_that_nobody_answers_come_more_and_more_rarely() {
    let mut vehicle =
        Vehicle::new(PollOptions { requests: vec![request(0x7E0, &[1, 0], 100_000)], ..options() });
    vehicle.run(600_000, |_, _| vec![]);
    // Three, a pause of 2 s, three, 4 s, ...
    assert!((15..=30).contains(&vehicle.asked.len()), "{}", vehicle.asked.len());
    vehicle.run(600_000, car);
    vehicle.asked.clear();
    vehicle.run(2_000, car);
    assert!(vehicle.asked.len() >= 15, "{}", vehicle.asked.len());
}
