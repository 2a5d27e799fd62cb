use proptest::prelude::*;

use super::*;

const ASK: ElmOptions = ElmOptions { mode: ElmMode::Requests, protocol: '0' };
const EVERYONE: CanId = CanId::Standard(0x7DF);

struct Bench {
    session: ElmSession,
    now_us: i64,
    frames: Vec<String>,
    sent: Vec<String>,
}

impl Bench {
    fn new(options: ElmOptions) -> Self {
        Self {
            session: ElmSession::new(options, BusIndex(0), 0),
            now_us: 0,
            frames: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// An adapter that was set up and answers everything with OK.
    fn ready() -> Self {
        let mut bench = Self::new(ASK);
        bench.settle(|command| match command {
            "ATZ" => "\r\rELM327 v1.5\r\r>".into(),
            "ATDPN" => "A6\r\r>".into(),
            _ => "OK\r\r>".into(),
        });
        bench.sent.clear();
        bench
    }

    fn say(&mut self, text: &str) {
        let frames = &mut self.frames;
        self.session.handle_bytes(self.now_us, 0, text.as_bytes(), |frame| {
            let data: String = frame.data().iter().map(|byte| format!("{byte:02X}")).collect();
            frames.push(format!("{}#{data}", frame.id));
        });
    }

    fn commands(&mut self) -> Vec<String> {
        let sent = String::from_utf8(self.session.poll_transmit()).unwrap();
        let commands: Vec<String> = sent.split_terminator('\r').map(str::to_owned).collect();
        self.sent.extend(commands.iter().cloned());
        commands
    }

    /// Answers commands until none comes any more.
    fn settle(&mut self, answer: impl Fn(&str) -> String) {
        loop {
            let commands = self.commands();
            if commands.is_empty() {
                return;
            }
            for command in commands {
                self.say(&answer(&command));
            }
        }
    }

    fn ask(&mut self, payload: &[u8], answer: &str) -> Option<RequestEnd> {
        assert!(self.session.request(self.now_us, EVERYONE, payload));
        self.settle(|_| answer.into());
        self.session.poll_end()
    }

    /// Lets time pass until something is due, and that happen.
    fn wait(&mut self) {
        self.now_us = self.session.poll_timeout().unwrap().max(self.now_us);
        self.session.handle_timeout(self.now_us);
    }
}

#[test]
fn adapter_is_set_up_command_by_command() {
    let mut bench = Bench::new(ElmOptions { protocol: '6', ..ASK });
    assert_eq!(bench.commands(), ["ATZ"]);
    bench.say("ATZ\r\r\rELM327 v1.5\r\r");
    assert!(bench.commands().is_empty() && !bench.session.is_ready());
    bench.say(">");
    bench.settle(|_| "?\r\r>".into());
    assert_eq!(
        bench.sent[1..],
        ["ATE0", "ATL0", "ATS1", "ATH1", "ATAT1", "ATCAF1", "ATJHF0", "ATSP6", "ATDPN"]
    );
    assert!(bench.session.is_ready());
}

#[test]
fn answers_of_several_ecus_are_frames_whatever_stands_around_them() {
    let mut bench = Bench::ready();
    let answers = [
        "7E8 04 41 0C 1A F8 \r7E9 04 41 0C 1A F0 \r\r>",
        "010C\r7E8 04 41 0C 1A F8 \r7E9 04 41 0C 1A F0 \r\r>",
        "SEARCHING...7E8 04 41 0C 1A F8\r\n7E9 04 41 0C 1A F0\r\n>",
        "010C\rSEARCHING...\r\x00\x007E8\x00044 1\r7E804410C1AF8\r7E904410C1AF0\r>",
    ];
    for answer in answers {
        bench.frames.clear();
        assert_eq!(bench.ask(&[1, 0x0C], answer), Some(RequestEnd::Answered), "{answer:?}");
        assert_eq!(bench.frames, ["0x7E8#04410C1AF8", "0x7E9#04410C1AF0"], "{answer:?}");
    }
    assert_eq!(bench.sent, ["010C"; 4]);
    assert_eq!(bench.session.counters().malformed, 1);
}

#[test]
fn an_ecu_of_its_own_gets_its_head_once() {
    let mut bench = Bench::ready();
    for _ in 0..2 {
        assert!(bench.session.request(0, CanId::Standard(0x7E4), &[0x22, 1, 1]));
        bench.settle(|command| {
            if command.starts_with("AT") { "OK\r>" } else { "7EC 10 09 62 01 01 1 2 3\r>" }.into()
        });
    }
    assert_eq!(bench.sent, ["ATSH 7E4", "220101", "220101"]);
    bench.ask(&[1, 0], "NO DATA\r>");
    assert_eq!(bench.sent[3..], ["ATSH 7DF", "0100"]);
}

#[test]
fn a_request_that_was_stopped_is_sent_again_and_one_without_data_is_not() {
    let mut bench = Bench::ready();
    assert_eq!(bench.ask(&[1, 0x0C], "STOPPED\r\r>"), Some(RequestEnd::Failed));
    assert_eq!(bench.sent, ["010C"; 3]);
    assert_eq!(bench.ask(&[1, 0x0C], "NO DATA\r\r>"), Some(RequestEnd::NoData));
    assert_eq!(bench.ask(&[1, 0x0C], "CAN ERROR\r\r>"), Some(RequestEnd::Failed));
    assert_eq!(bench.ask(&[1, 0x0C], "7E8 04 41 0C 1A F8\rBUFFER FULL\r\r>"), Some(RequestEnd::Answered));
    let counters = bench.session.counters();
    assert_eq!((counters.failed, counters.no_data, counters.answered, counters.buffer_full), (2, 1, 1, 1));
}

#[test]
fn half_lines_are_counted_and_never_frames() {
    let mut bench = Bench::ready();
    for answer in ["7E8 04 41 0C 1A\r>", "7E8 04 41 0C 1A F\r>", "7E8 10 14 49 02 01\r>", "7E\r>"] {
        assert_eq!(bench.ask(&[1, 0x0C], answer), Some(RequestEnd::NoData), "{answer}");
    }
    assert_eq!((bench.frames.len(), bench.session.counters().malformed), (0, 4));
}

#[test]
fn messages_that_the_adapter_puts_together_are_frames_again() {
    let mut bench = Bench::ready();
    bench.session.dialect = Dialect::Unknown;
    let vin = "014\r0: 49 02 01 31 44 34\r1: 47 50 30 30 52 35 35\r2: 42 31 32 33 34 35 36\r\r>";
    assert_eq!(bench.ask(&[9, 2], vin), Some(RequestEnd::Answered));
    assert_eq!(bench.frames, ["0x7E8#1014490201314434", "0x7E8#2147503030523535", "0x7E8#2242313233343536"]);
    bench.frames.clear();
    assert_eq!(bench.ask(&[1, 0x0D], "41 0D 32\r>"), Some(RequestEnd::Answered));
    assert_eq!(bench.frames, ["0x7E8#03410D32"]);
    // A part is missing.
    assert_eq!(
        bench.ask(&[9, 2], "014\r0: 49 02 01 31 44 34\r2: 42 31 32 33 34 35 36\r>"),
        Some(RequestEnd::NoData)
    );
}

#[test]
fn an_adapter_that_starts_anew_is_set_up_anew() {
    let mut bench = Bench::ready();
    assert!(bench.session.request(0, EVERYONE, &[1, 0]));
    bench.commands();
    bench.say("\r\rELM327 v1.5\r\r>");
    assert_eq!(bench.commands(), [""; 0]);
    bench.wait();
    assert_eq!(bench.session.poll_end(), Some(RequestEnd::Failed));
    assert_eq!(bench.commands(), ["ATZ"]);
}

#[test]
fn a_hang_is_interrupted_then_reset_then_given_up_within_the_promised_time() {
    let mut bench = Bench::ready();
    assert!(bench.session.request(0, EVERYONE, &[1, 0]));
    bench.say("SEARCHING...");
    bench.wait();
    bench.commands();
    bench.wait();
    bench.wait();
    assert!(bench.session.is_hung());
    assert_eq!((bench.now_us, &bench.sent[1..]), (RECOVERY_US_MAX, &["ATI".to_owned()][..]));
    const { assert!(RECOVERY_US_MAX < 10_000_000 - RESET_WITHIN_US) };
}

#[test]
fn an_interrupted_adapter_that_comes_to_its_prompt_is_set_up_and_asked_again() {
    let mut bench = Bench::ready();
    assert!(bench.session.request(0, EVERYONE, &[1, 0]));
    bench.commands();
    bench.wait();
    assert_eq!(bench.commands(), ["ATI"]);
    bench.say("STOPPED\r\r>");
    bench.say("?\r\r>");
    bench.wait();
    assert_eq!(bench.session.poll_end(), Some(RequestEnd::Failed));
    bench.settle(|_| "OK\r>".into());
    assert_eq!(bench.ask(&[1, 0x0D], "7E8 03 41 0D 32\r>"), Some(RequestEnd::Answered));
}

#[test]
fn the_voltage_is_read_while_there_is_nothing_else_to_do() {
    let mut bench = Bench::ready();
    bench.wait();
    assert_eq!(bench.commands(), ["ATRV"]);
    assert!(!bench.session.is_ready());
    bench.say("12.6V\r\r>");
    assert_eq!(bench.session.voltage(), Some(12.6));
    assert_eq!(bench.session.poll_timeout(), Some(VOLTAGE_INTERVAL_US));
}

#[test]
fn monitor_begins_again_when_the_buffer_was_full() {
    let mut bench = Bench::new(ElmOptions { mode: ElmMode::Monitor, protocol: '6' });
    bench.settle(|_| "OK\r>".into());
    bench.wait();
    assert_eq!(bench.commands(), ["ATMA"]);
    assert!(bench.sent.contains(&"ATCAF0".to_owned()), "{:?}", bench.sent);
    bench.say("123 01 02\r7E8 03 41 0D\r12345\rBUFFER FULL\r>");
    bench.wait();
    assert_eq!((bench.commands(), bench.now_us), (vec!["ATMA".to_owned()], 0));
    assert_eq!(bench.frames, ["0x123#0102", "0x7E8#03410D", "0x123#45"]);
    // Whatever else ends it, it is not told to go on and on.
    bench.say("?\r>");
    bench.wait();
    assert_eq!((bench.commands(), bench.now_us), (vec!["ATMA".to_owned()], MONITOR_PAUSE_US));
    bench.say("123 01 <DATA ERROR\r");
    assert_eq!((bench.session.counters().buffer_full, bench.session.counters().malformed), (1, 1));
}

#[test]
fn codes_of_protocols_before_can_are_one_list_with_its_count() {
    let mut bench = Bench::ready();
    bench.session.dialect = Dialect::Legacy;
    let two_lines = "48 6B 10 43 01 33 03 00 01 04 7A\r48 6B 10 43 02 05 00 00 00 00 C3\r\r>";
    assert_eq!(bench.ask(&[3], two_lines), Some(RequestEnd::Answered));
    assert_eq!(bench.frames, ["0x7E8#100A430401330300", "0x7E8#2101040205"]);
    bench.frames.clear();
    assert_eq!(bench.ask(&[3], "48 6B 10 43 00 00 00 00 00 00 AA\r>"), Some(RequestEnd::Answered));
    assert_eq!(bench.frames, ["0x7E8#024300"]);
}

#[test]
fn an_adapter_that_babbles_without_a_prompt_is_interrupted() {
    let mut bench = Bench::ready();
    assert!(bench.session.request(0, EVERYONE, &[1, 0]));
    bench.commands();
    while !bench.commands().contains(&"ATI".to_owned()) {
        bench.say(".");
        bench.now_us += 1_000_000;
        bench.session.handle_timeout(bench.now_us);
        assert!(bench.now_us <= ANSWER_US_MAX, "{}", bench.now_us);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken_and_a_sound_adapter_is_heard_afterwards(
        garbage in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'>'), Just(b'\r'), Just(b'4')], 0..200),
        waits in 0usize..4,
    ) {
        let mut bench = Bench::ready();
        prop_assert!(bench.session.request(0, EVERYONE, &[1, 0x0D]));
        bench.commands();
        bench.session.handle_bytes(0, 0, &garbage, |_| {});
        for _ in 0..waits {
            if bench.session.poll_timeout().is_some() {
                bench.wait();
            }
        }
        // As the shell does: what hung is opened anew.
        if bench.session.is_hung() {
            bench = Bench::new(ASK);
        }
        for _ in 0..40 {
            bench.settle(|command| if command.starts_with("AT") { "OK\r>" } else { "7E8 03 41 0D 32\r>" }.into());
            if bench.session.is_ready() {
                break;
            }
            bench.say(">");
            if bench.session.poll_timeout().is_some() {
                bench.wait();
            }
        }
        prop_assert!(bench.session.is_ready());
        while bench.session.poll_end().is_some() {}
        bench.frames.clear();
        prop_assert_eq!(bench.ask(&[1, 0x0D], "7E8 03 41 0D 32\r>"), Some(RequestEnd::Answered));
        prop_assert_eq!(bench.frames, ["0x7E8#03410D32"]);
    }
}
