//! The agent on interfaces of a real kernel: nothing lost that is not counted, nothing heard that is not needed, and
//! whatever the interface does survived.

use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use convoy_agent_core::dbc::{self, DbcSource};
use convoy_agent_core::decoder::Row;
use convoy_agent_core::vss::VssMap;
use convoy_protocol::envelope::{Envelope, SectionKind};
use convoy_protocol::frame::{BusIndex, CanFrame, CanId};
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use socketcan::{CanSocket, EmbeddedFrame as _, Socket as _, StandardId};

use crate::agent::{Agent, PATIENCE};
use crate::{run, told};

const TRUCK_LOG: &[u8] =
    include_bytes!("../../../tests/data/css-j1939-truck-gps/11111111_00000012_00000001_candump.log.gz");
const TRUCK_DBC: &[u8] = include_bytes!("../../../tests/data/css-j1939-truck-gps/j1939_excerpt.dbc");
/// A message of 64 bytes, whose last one is a signal, and one of 8.
const FD_DBC: &str = "VERSION \"\"\nBU_: X\nBO_ 256 Long: 64 X\n SG_ Last : 504|8@1+ (1,0) [0|0] \"\" X\n\
                      BO_ 257 Short: 8 X\n SG_ First : 0|8@1+ (1,0) [0|0] \"\" X\n\
                      BA_DEF_ BO_ \"VFrameFormat\" ENUM \"StandardCAN\",\"StandardCAN_FD\";\n\
                      BA_DEF_DEF_ \"VFrameFormat\" \"StandardCAN\";\nBA_ \"VFrameFormat\" BO_ 256 1;\n";
/// Frames of the log that are played.
const PLAYED: usize = 4_000;
/// Frames of a flood, far more than any receive buffer of this kernel holds.
const FLOOD: u32 = 20_000;

/// The first lines of the truck's log, of its first bus alone.
fn log_lines() -> Vec<String> {
    let mut text = String::new();
    MultiGzDecoder::new(TRUCK_LOG).read_to_string(&mut text).unwrap();
    text.lines().filter(|line| line.contains(" can1 ")).take(PLAYED).map(str::to_owned).collect()
}

fn dir(dbc: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.dbc"), dbc).unwrap();
    dir
}

fn sources(interface: &str, more: &str) -> String {
    format!("[[source]]\nurl = \"socketcan:{interface}\"\n[[dbc]]\nfile = \"a.dbc\"\n{more}")
}

fn campaign(pattern: &str) -> String {
    format!(
        "[[campaign]]\nname = \"c\"\nlane = \"fast\"\nwindow_ms = 100\nsignals = [{{ pattern = \"{pattern}\" }}]\n"
    )
}

fn source(status: &Value) -> &Value {
    &status["sources"][0]
}

fn count(status: &Value, name: &str) -> u64 {
    source(status)[name].as_u64().unwrap()
}

fn wait_for_state(agent: &Agent, state: &str) -> Value {
    agent.wait_for(state, |status| source(status)["state"].as_str().unwrap().starts_with(state))
}

/// Plays lines of a log with can-utils, at the speed at which they were recorded.
fn play(dir: &Path, lines: &[String], interface: &str) {
    let log = dir.join("played.log");
    std::fs::write(&log, lines.join("\n") + "\n").unwrap();
    run("canplayer", &["-I", log.to_str().unwrap(), "-g", "1", &format!("{interface}=can1")]);
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn frames_of_a_log_played_with_can_utils_arrive_complete_and_decoded() {
    let mut agent = Agent::start_unwatched(dir(TRUCK_DBC), "mqtt://127.0.0.1:9", &sources("vcan0", ""));
    wait_for_state(&agent, "up");
    agent.watch();
    // While somebody watches, everything is let through.
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string("/proc/net/can/rcvlist_all").unwrap().contains(" vcan0 ") {
        assert!(Instant::now() < deadline, "the socket has filters");
        thread::sleep(Duration::from_millis(20));
    }
    let (lines, dbc) = (log_lines(), DbcSource { name: "a.dbc".into(), bytes: TRUCK_DBC.into(), bus: None });
    let (decoder, _) = dbc::load(&[dbc], &VssMap::builtin()).unwrap();
    let (mut row, mut samples) = (Row::new(), 0);
    for line in &lines {
        let (id, data) = line.split(' ').nth(2).unwrap().split_once('#').unwrap();
        let data: Vec<u8> = (0..data.len() / 2)
            .map(|at| u8::from_str_radix(&data[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let id = CanId::Extended(u32::from_str_radix(id, 16).unwrap());
        if decoder.decode(&CanFrame::new(0, BusIndex(0), id, &data).unwrap(), &mut row).has_row() {
            samples += row.signals().len();
        }
    }
    assert!(samples > PLAYED / 2, "{samples}");
    let place = tempfile::tempdir().unwrap();
    play(place.path(), &lines, "vcan0");
    let status = agent.wait_for("every frame", |status| count(status, "frames") >= PLAYED as u64);
    assert_eq!((count(&status, "frames"), count(&status, "dropped")), (PLAYED as u64, 0));
    for _ in 0..samples {
        assert!(agent.next().1["signal"].is_string());
    }
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn frames_of_can_fd_arrive_with_all_their_bytes() {
    let agent = Agent::start(dir(FD_DBC.as_bytes()), &sources("vcan1", &campaign("*")));
    wait_for_state(&agent, "up");
    let data: String = (0..64).map(|at| format!("{:02X}", at + 7)).collect();
    run("cansend", &["vcan1", &format!("100##1{data}")]);
    run("cansend", &["vcan1", "101#2A"]);
    assert_eq!(agent.values(&["Last", "First"]).into_values().collect::<Vec<_>>(), [42.0, 70.0]);
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn the_kernel_lets_through_only_what_a_campaign_needs() {
    let sources = sources("vcan0", &campaign("EEC1.*"));
    let agent = Agent::start_unwatched(dir(TRUCK_DBC), "mqtt://127.0.0.1:9", &sources);
    wait_for_state(&agent, "up");
    let lines = log_lines();
    let is_needed = |line: &&String| {
        let id = line.split(' ').nth(2).unwrap().split('#').next().unwrap();
        // EEC1, DM1 and the transport protocol.
        ["F004", "FECA"].contains(&&id[2..6]) || ["EC", "EB"].contains(&&id[2..4])
    };
    let needed = lines.iter().filter(is_needed).count() as u64;
    assert!((100..PLAYED as u64 / 2).contains(&needed), "{needed}");
    let place = tempfile::tempdir().unwrap();
    play(place.path(), &lines, "vcan0");
    let status = agent.wait_for("every frame needed", |status| count(status, "frames") >= needed);
    assert_eq!(count(&status, "frames"), needed);
    let filters = std::fs::read_to_string("/proc/net/can/rcvlist_fil").unwrap();
    // can_id and can_mask of the group of EEC1.
    assert!(filters.contains("80f00400") && filters.contains("c3ffff00"), "{filters}");
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn error_frames_are_counted_with_what_they_say_and_bus_off_ends_with_the_next_frame() {
    let agent = Agent::start_unwatched(
        dir(FD_DBC.as_bytes()),
        "mqtt://127.0.0.1:9",
        &sources("vcan1", &campaign("*")),
    );
    wait_for_state(&agent, "up");
    run("cansend", &["vcan1", "20000004#0010000000000000"]);
    let status = agent.wait_for("an error frame", |status| count(status, "error_frames") == 1);
    assert_eq!(source(&status)["last_error"], "controller, receive error passive");
    run("cansend", &["vcan1", "20000040#0000000000000000"]);
    wait_for_state(&agent, "down: bus-off");
    run("cansend", &["vcan1", "101#01"]);
    let status = wait_for_state(&agent, "up");
    assert_eq!((count(&status, "error_frames"), count(&status, "frames")), (2, 1));
}

/// Stops the agent's process, and lets it go on when dropped.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Self {
        run("kill", &["-STOP", &pid.to_string()]);
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        while !state().contains(") T ") {
            thread::sleep(Duration::from_millis(5));
        }
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        run("kill", &["-CONT", &self.0.to_string()]);
    }
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn frames_that_the_kernel_drops_are_counted_to_the_frame() {
    let agent = Agent::start_unwatched(
        dir(FD_DBC.as_bytes()),
        "mqtt://127.0.0.1:9",
        &sources("vcan2", &campaign("*")),
    );
    wait_for_state(&agent, "up");
    let sender = CanSocket::open("vcan2").unwrap();
    let frame = |number: u32| {
        let frame = socketcan::CanDataFrame::new(StandardId::new(0x101).unwrap(), &number.to_be_bytes());
        socketcan::CanFrame::from(frame.unwrap())
    };
    let stopped = Stopped::new(agent.pid());
    for number in 0..FLOOD {
        sender.write_frame(&frame(number)).unwrap();
    }
    drop(stopped);
    // The count rides on the next frame that finds a place.
    let deadline = Instant::now() + PATIENCE;
    let mut sent = u64::from(FLOOD);
    loop {
        sender.write_frame(&frame(0)).unwrap();
        sent += 1;
        thread::sleep(Duration::from_millis(100));
        let status = agent.status();
        let (taken, dropped) = (count(&status, "frames"), count(&status, "dropped"));
        if taken + dropped == sent {
            assert!(dropped > u64::from(FLOOD) / 4, "{dropped} of {FLOOD} dropped");
            break;
        }
        assert!(taken + dropped < sent && Instant::now() < deadline, "{taken} + {dropped} of {sent}");
    }
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn times_are_those_at_which_the_kernel_had_the_frames() {
    let agent = Agent::start(dir(FD_DBC.as_bytes()), &sources("vcan1", &campaign("*")));
    wait_for_state(&agent, "up");
    run("cansend", &["vcan1", "101#00"]);
    agent.values(&["First"]);
    let now_us = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
    let stopped = Stopped::new(agent.pid());
    let before_us = now_us();
    run("cansend", &["vcan1", "101#01"]);
    let after_us = now_us();
    thread::sleep(Duration::from_millis(1_000));
    drop(stopped);
    let time_us = agent.next().1["t_us"].as_i64().unwrap();
    // The wall clock and the agent's own, set at its start, differ by little.
    let margin_us = 200_000;
    assert!(
        (before_us - margin_us..=after_us + margin_us).contains(&time_us),
        "{before_us} {time_us} {after_us}"
    );
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn an_interface_that_goes_down_or_away_is_heard_again_when_it_is_back() {
    let link = |arguments: &[&str]| run("ip", &[&["link"], arguments].concat());
    link(&["add", "dev", "vcan9", "type", "vcan"]);
    link(&["set", "vcan9", "up"]);
    let agent = Agent::start_unwatched(
        dir(FD_DBC.as_bytes()),
        "mqtt://127.0.0.1:9",
        &sources("vcan9", &campaign("*")),
    );
    wait_for_state(&agent, "up");
    link(&["set", "vcan9", "down"]);
    wait_for_state(&agent, "down: the interface is down");
    link(&["set", "vcan9", "up"]);
    run("cansend", &["vcan9", "101#01"]);
    agent.wait_for("the frame", |status| count(status, "frames") == 1);
    wait_for_state(&agent, "up");
    link(&["del", "vcan9"]);
    wait_for_state(&agent, "down");
    link(&["add", "dev", "vcan9", "type", "vcan"]);
    link(&["set", "vcan9", "up"]);
    wait_for_state(&agent, "up");
    run("cansend", &["vcan9", "101#02"]);
    let status = agent.wait_for("the frame", |status| count(status, "frames") == 2);
    assert!(count(&status, "reopened") >= 1);
    link(&["del", "vcan9"]);
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn bit_rate_and_listen_only_mode_of_a_controller_are_shown() {
    run("ip", &["link", "set", "can1", "down"]);
    for (mode, shown) in [("on", "250000 bit/s, listen-only"), ("off", "250000 bit/s, takes part in the bus")]
    {
        run("ip", &["link", "set", "can1", "type", "can", "bitrate", "250000", "listen-only", mode]);
        run("ip", &["link", "set", "can1", "up"]);
        let agent =
            Agent::start_unwatched(dir(FD_DBC.as_bytes()), "mqtt://127.0.0.1:9", &sources("can1", ""));
        agent.wait_for(shown, |status| source(status)["detail"].as_str().unwrap().starts_with(shown));
        drop(agent);
        run("ip", &["link", "set", "can1", "down"]);
    }
}

/// Frames of one interface, written down by another program.
struct Dump(Child);

impl Dump {
    fn start(interface: &str) -> Self {
        let dump = Command::new("candump").args(["-L", interface]).stdout(Stdio::piped()).spawn().unwrap();
        Self(dump)
    }

    fn end(mut self) -> Vec<String> {
        run("kill", &[&self.0.id().to_string()]);
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        text.lines().map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect()
    }
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn nothing_is_sent_to_a_bus_that_sleeps_and_requests_come_again_when_it_wakes() {
    let poll = "[[poll]]\nbus = \"vcan3\"\nquiet_after_ms = 1000\nrequests = [{ data = \"010D\", period_ms = 100 }]\n";
    let agent = Agent::start_unwatched(dir(FD_DBC.as_bytes()), "mqtt://127.0.0.1:9", &sources("vcan3", poll));
    wait_for_state(&agent, "up");
    let polling = |agent: &Agent, wanted: &str| {
        agent.wait_for(wanted, |status| source(status)["polling"].as_str().unwrap().starts_with(wanted))
    };
    polling(&agent, "silent: the bus is quiet");
    let asleep = Dump::start("vcan3");
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(asleep.end(), [""; 0]);
    let awake = Dump::start("vcan3");
    for _ in 0..10 {
        run("cansend", &["vcan3", "123#00"]);
        thread::sleep(Duration::from_millis(100));
    }
    polling(&agent, "silent: the bus is quiet");
    let frames = awake.end();
    assert!(frames.iter().filter(|frame| *frame == "7DF#02010DCCCCCCCCCC").count() >= 3, "{frames:?}");
    let asleep = Dump::start("vcan3");
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(asleep.end(), [""; 0]);
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn long_answers_get_flow_control_at_their_ecus_own_address() {
    let poll = "[[poll]]\nbus = \"vcan3\"\nrequests = [{ data = \"0902\", period_ms = 200 }]\n";
    let agent = Agent::start_unwatched(dir(FD_DBC.as_bytes()), "mqtt://127.0.0.1:9", &sources("vcan3", poll));
    wait_for_state(&agent, "up");
    let dump = Dump::start("vcan3");
    // The kernel's own ISO-TP is the ECU: its answer ends only if it is let go on.
    let message = [&[0x49, 2, 1][..], b"CNVY23456789ABCDE"].concat();
    let text: String = message.iter().map(|byte| format!("{byte:02X} ")).collect();
    let deadline = Instant::now() + PATIENCE;
    while agent.status()["counters"]["isotp_messages"].as_u64() == Some(0) {
        run("cansend", &["vcan3", "123#00"]);
        let mut send = Command::new("isotpsend");
        let mut send = send.args(["-s", "7E8", "-d", "7E0", "vcan3"]).stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut send.stdin.take().unwrap(), text.as_bytes()).unwrap();
        send.wait().unwrap();
        assert!(Instant::now() < deadline, "{}", agent.status());
    }
    let frames = dump.end();
    let at = |wanted: &str| frames.iter().position(|frame| frame.starts_with(wanted));
    let (first, go_on, last) = (at("7E8#1014490201"), at("7E0#3000000000000000"), at("7E8#22"));
    assert!(first.is_some() && first < go_on && go_on < last, "{frames:?}");
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn what_is_heard_in_the_machine_is_delivered_to_a_broker_outside() {
    let broker = told("CONVOY_VM_BROKER");
    let (host, port) = broker.split_once(':').unwrap();
    drop(TcpStream::connect(&broker).unwrap());
    let mut options = rumqttc::MqttOptions::new("customer", host, port.parse().unwrap());
    options.set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut connection) = rumqttc::Client::new(options, 16);
    client.subscribe("convoy/v1/+/up/#", rumqttc::QoS::AtLeastOnce).unwrap();
    let sources = sources("vcan1", &campaign("*"));
    let agent = Agent::start_unwatched(dir(FD_DBC.as_bytes()), &format!("mqtt://{broker}"), &sources);
    wait_for_state(&agent, "up");
    agent.wait_for("a connection", |status| status["connection"]["connected"] == true);
    run("cansend", &["vcan1", "101#2A"]);
    let deadline = Instant::now() + PATIENCE;
    for event in connection.iter() {
        assert!(Instant::now() < deadline, "no samples arrive: {}", agent.status());
        let Ok(rumqttc::Event::Incoming(rumqttc::Packet::Publish(publish))) = event else { continue };
        let envelope = Envelope::parse(&publish.payload).unwrap();
        if envelope
            .sections()
            .any(|section| matches!(section.kind, SectionKind::CompactSamples | SectionKind::Samples))
        {
            return;
        }
    }
    panic!("the broker ended");
}
