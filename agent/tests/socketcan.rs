//! SocketCAN as a real kernel has it. The suite `vm` of `cargo xtask test` runs this program as root in a virtual machine
//! with vcan0 to vcan3, two controllers can0 and can1 on one bus, and the can-utils. Elsewhere its tests are ignored, since most
//! kernels that build have no CAN.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

#[path = "harness/agent.rs"]
mod agent;
#[path = "socketcan/agent.rs"]
mod on_the_agent;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use socketcan::errors::ControllerProblems;
use socketcan::{
    CanDataFrame, CanError, CanFrame, CanSocket, EmbeddedFrame, ErrorCause, ExtendedId, Socket,
    SocketOptions, StandardId,
};

/// Nothing that is sent on a virtual bus is under way for so long.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

const FRAMES: u32 = 1_000;

/// Frames that a receive buffer of the usual size holds.
const UNDER_WAY: u32 = 100;

/// What the suite says in a variable.
fn told(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("the suite vm sets {name}"))
}

fn open(interface: &str) -> CanSocket {
    let socket = CanSocket::open(interface).unwrap_or_else(|error| panic!("open {interface}: {error}"));
    socket.set_read_timeout(ARRIVES_WITHIN).unwrap();
    socket
}

/// Runs a program of the machine to its end; returns what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("start {program}: {error}"));
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}: {problem}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A data frame that is another one for each number below 2^29: both lengths of id, payloads of 0 to 8 bytes.
fn numbered(number: u32) -> CanFrame {
    let bytes = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let payload = &bytes[..number as usize % 9];
    let frame = if number.is_multiple_of(2) {
        CanDataFrame::new(StandardId::new((number % 0x800) as u16).unwrap(), payload)
    } else {
        CanDataFrame::new(ExtendedId::new(number).unwrap(), payload)
    };
    frame.unwrap().into()
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn a_thousand_frames_arrive_in_order_and_unchanged() {
    let (sender, receiver) = (open("vcan0"), open("vcan0"));
    for first in (0..FRAMES).step_by(UNDER_WAY as usize) {
        let frames: Vec<CanFrame> = (first..first + UNDER_WAY).map(numbered).collect();
        for frame in &frames {
            sender.write_frame(frame).unwrap();
        }
        let received: Vec<CanFrame> = frames.iter().map(|_| receiver.read_frame().unwrap()).collect();
        assert_eq!(received, frames);
    }
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn an_error_frame_is_read_with_its_cause() {
    let receiver = open("vcan0");
    receiver.set_error_filter_accept_all().unwrap();
    // The flag of an error frame and CAN_ERR_CRTL; CAN_ERR_CRTL_RX_WARNING in the second byte.
    run("cansend", &["vcan0", "20000004#0004000000000000"]);
    let CanFrame::Error(frame) = receiver.read_frame().unwrap() else {
        panic!("not an error frame");
    };
    let expected = CanError::new(ErrorCause::Controller(ControllerProblems::RX_WARNING));
    assert_eq!(CanError::from(frame), expected);
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn two_controllers_exchange_frames_at_their_bit_rate() {
    for controller in ["can0", "can1"] {
        run("ip", &["link", "set", controller, "type", "can", "bitrate", "500000"]);
        run("ip", &["link", "set", controller, "up"]);
    }
    let details = run("ip", &["-details", "link", "show", "can0"]);
    assert!(details.contains("can state ERROR-ACTIVE"), "{details}");
    assert!(details.contains("bitrate 500000"), "{details}");
    let (sender, receiver) = (open("can0"), open("can1"));
    for frame in (0..20).map(numbered) {
        sender.write_frame(&frame).unwrap();
        assert_eq!(receiver.read_frame().unwrap(), frame);
    }
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn a_port_of_the_host_answers_one_connection_after_another() {
    for text in ["first", "second"] {
        let mut connection = TcpStream::connect(told("CONVOY_VM_ECHO")).unwrap();
        connection.set_read_timeout(Some(ARRIVES_WITHIN)).unwrap();
        connection.write_all(text.as_bytes()).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut echo = String::new();
        connection.read_to_string(&mut echo).unwrap();
        assert_eq!(echo, text);
    }
}

#[test]
#[ignore = "needs the machine of cargo xtask test vm"]
fn the_agent_runs_in_the_machine() {
    let printed = run(&told("CONVOY_AGENT_BIN"), &["--version"]);
    assert_eq!(printed.trim(), concat!("convoy-agent ", env!("CARGO_PKG_VERSION")));
}
