//! CAN interfaces of the Linux kernel, through a raw socket.
//!
//! Times are the kernel's; the kernel lets through only what is needed; what it drops because nobody took it in time is
//! counted to the frame (`SO_RXQ_OVFL`, which rides on the next frame). Whether the controller listens only is a mode of the
//! interface, which is read and shown: nothing here changes an interface.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::time::Duration;

use convoy_agent_core::filters::IdFilter;
use convoy_protocol::frame::{BusIndex, CanFrame, CanId, FRAME_DATA_BYTES_MAX};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use socketcan::nl::{CanCtrlMode, CanInterface};
use socketcan::{CanAnyFrame, CanFdSocket, CanFilter, EmbeddedFrame as _, Socket as _, SocketOptions as _};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::serial::single_frame;
use super::{Command, OPENING, Port, RETRY_MAX, RETRY_MIN, UP};
use crate::clock::wall_us;
use crate::source::SourceEvent;

/// Bytes of the receive buffer that is asked for: half a second of a bus under full load.
const RECEIVE_BYTES: usize = 1 << 20;
/// Frames taken in one go, so that commands are not kept waiting.
const FRAMES_AT_ONCE: usize = 128;
/// How often the interface is asked how it does.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// An interface that goes down or away makes an error, and nothing to read.
const READABLE: Interest = Interest::READABLE.add(Interest::ERROR);

/// Flags and bits of the id in a frame of SocketCAN (linux/can.h).
const EFF_FLAG: u32 = 0x8000_0000;
const RTR_FLAG: u32 = 0x4000_0000;
const ERR_FLAG: u32 = 0x2000_0000;
/// Sizes of `struct can_frame` and `struct canfd_frame`.
const CLASSIC_BYTES: usize = 16;
const FD_BYTES: usize = 72;
const DATA_AT: usize = 8;

/// What one reading of the socket gave.
enum Received {
    Frame(CanFrame),
    /// Class bits and data of an error frame.
    Error(u32, [u8; 8]),
    /// A remote frame, which has no data, or something that is no frame.
    Other,
}

/// Opens the interface again and again, and reads it.
pub(super) async fn serve(
    interface: String,
    mut port: Port,
    mut filters: watch::Receiver<Option<Vec<IdFilter>>>,
) {
    let mut pause = RETRY_MIN;
    loop {
        port.link.set_state(OPENING);
        let opened = Instant::now();
        let why = match open(&interface) {
            Ok(socket) => run(&socket, &interface, &mut port, &mut filters).await,
            Err(error) => error.to_string(),
        };
        port.link.set_state(&format!("down: {why}"));
        port.link.change(|status| status.reopened += 1);
        pause = if opened.elapsed() > RETRY_MAX { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
        let until = Instant::now() + pause;
        while let Ok(Some(command)) = timeout_at(until, port.commands.recv()).await {
            port.link.change(|status| status.sends_dropped += 1);
            if matches!(command, Command::Request(..)) {
                port.tell(SourceEvent::RequestEnd(port.bus)).await;
            }
        }
    }
}

fn open(interface: &str) -> io::Result<AsyncFd<CanFdSocket>> {
    let socket = CanFdSocket::open(interface)?;
    socket.set_nonblocking(true)?;
    socket.set_error_filter_accept_all()?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    // More than the kernel gives to everyone takes a privilege.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BYTES).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BYTES)?;
    }
    // What took its place is unsafe. This is sound: the socket owns its descriptor for as long as it lives.
    #[allow(deprecated, reason = "no safe constructor has taken its place")]
    AsyncFd::with_interest(socket, READABLE)
}

fn set_filters(socket: &CanFdSocket, filters: Option<&[IdFilter]>) -> io::Result<()> {
    let Some(filters) = filters else { return socket.set_filter_accept_all() };
    let filter = |filter: &IdFilter| {
        let flag = if filter.extended { EFF_FLAG } else { 0 };
        CanFilter::new(filter.id | flag, filter.mask | EFF_FLAG | RTR_FLAG)
    };
    let filters: Vec<CanFilter> = filters.iter().map(filter).collect();
    socket.set_filters(&filters)
}

/// Reads one open socket until it fails; returns why.
async fn run(
    socket: &AsyncFd<CanFdSocket>,
    interface: &str,
    port: &mut Port,
    filters: &mut watch::Receiver<Option<Vec<IdFilter>>>,
) -> String {
    let before = port.link.status();
    let (mut look, mut frames) = (Instant::now(), Vec::with_capacity(FRAMES_AT_ONCE));
    let mut reader = Reader { bus: port.bus, dropped: 0, ancillary: nix::cmsg_space!([u8; 64]) };
    let first = filters.borrow_and_update().clone();
    if let Err(error) = set_filters(socket.get_ref(), first.as_deref()) {
        return error.to_string();
    }
    port.link.set_state(UP);
    loop {
        tokio::select! {
            ready = socket.ready(READABLE) => {
                let mut ready = match ready {
                    Ok(ready) => ready,
                    Err(error) => return error.to_string(),
                };
                match reader.read(socket.get_ref(), port, &mut frames) {
                    Ok(true) => {}
                    Ok(false) => ready.clear_ready(),
                    // The interface was taken down: the socket hears again when it is up.
                    Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENETDOWN as i32) => {
                        port.link.set_state("down: the interface is down");
                    }
                    Err(error) => return error.to_string(),
                }
            }
            changed = filters.changed() => {
                let wanted = filters.borrow_and_update().clone();
                if changed.is_err() {
                    return "the agent ends".to_owned();
                }
                if let Err(error) = set_filters(socket.get_ref(), wanted.as_deref()) {
                    return error.to_string();
                }
            }
            command = port.commands.recv() => {
                let Some(command) = command else { return "the agent ends".to_owned() };
                send(socket.get_ref(), port, command).await;
            }
            () = sleep_until(look) => {
                look = Instant::now() + LOOK_EVERY;
                if !look_at(interface, port) {
                    return "the interface is gone".to_owned();
                }
            }
        }
        port.link.change(|status| {
            status.frames += frames.len() as u64;
            status.dropped = before.dropped + u64::from(reader.dropped);
        });
        for frame in frames.drain(..) {
            if !port.tell(SourceEvent::Frame(frame)).await {
                return "the agent ends".to_owned();
            }
        }
    }
}

struct Reader {
    bus: BusIndex,
    /// Frames that the kernel dropped since the socket was opened.
    dropped: u32,
    ancillary: Vec<u8>,
}

impl Reader {
    /// Reads what is there; false where nothing is left.
    fn read(&mut self, socket: &CanFdSocket, port: &Port, frames: &mut Vec<CanFrame>) -> io::Result<bool> {
        let mut buffer = [0; FD_BYTES];
        for _ in 0..FRAMES_AT_ONCE {
            let (len, time_us) = {
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let received = recvmsg::<()>(
                    socket.as_raw_fd(),
                    &mut parts,
                    Some(&mut self.ancillary),
                    MsgFlags::MSG_DONTWAIT,
                );
                let received = match received {
                    Err(nix::errno::Errno::EAGAIN) => return Ok(false),
                    Err(nix::errno::Errno::EINTR) => continue,
                    received => received?,
                };
                let mut time_us = None;
                for message in received.cmsgs()? {
                    match message {
                        ControlMessageOwned::ScmTimestampns(at) => {
                            time_us = Some(
                                at.tv_sec().saturating_mul(1_000_000).saturating_add(at.tv_nsec() / 1_000),
                            );
                        }
                        ControlMessageOwned::RxqOvfl(dropped) => self.dropped = dropped,
                        _ => {}
                    }
                }
                (received.bytes, time_us)
            };
            match parse(&buffer[..len], time_us.unwrap_or_else(wall_us), self.bus) {
                Received::Frame(frame) => {
                    port.link.set_state(UP);
                    frames.push(frame);
                }
                Received::Error(class, data) => report_error(port, class, data),
                Received::Other => {}
            }
        }
        Ok(true)
    }
}

/// Takes a frame of the kernel apart.
fn parse(bytes: &[u8], time_us: i64, bus: BusIndex) -> Received {
    let Some((&[i0, i1, i2, i3, len], _)) = bytes.split_first_chunk::<5>() else { return Received::Other };
    let bits = u32::from_ne_bytes([i0, i1, i2, i3]);
    let max = match bytes.len() {
        CLASSIC_BYTES => 8,
        FD_BYTES => FRAME_DATA_BYTES_MAX,
        _ => return Received::Other,
    };
    let data = &bytes[DATA_AT..DATA_AT + usize::from(len).min(max)];
    if bits & ERR_FLAG != 0 {
        let mut detail = [0; 8];
        detail[..data.len().min(8)].copy_from_slice(&data[..data.len().min(8)]);
        return Received::Error(bits & CanId::EXTENDED_MAX, detail);
    }
    if bits & RTR_FLAG != 0 {
        return Received::Other;
    }
    #[allow(clippy::cast_possible_truncation, reason = "11 bits")]
    let id = match bits & EFF_FLAG {
        0 => CanId::Standard(bits as u16 & CanId::STANDARD_MAX),
        _ => CanId::Extended(bits & CanId::EXTENDED_MAX),
    };
    CanFrame::new(time_us, bus, id, data).map_or(Received::Other, Received::Frame)
}

/// Counts an error frame, and shows what it says of the bus.
fn report_error(port: &Port, class: u32, data: [u8; 8]) {
    let text = error_text(class, data);
    port.link.change(|status| {
        status.error_frames += 1;
        status.last_error.clone_from(&text);
    });
    match class {
        class if class & 0x40 != 0 => port.link.set_state("down: bus-off"),
        class if class & 0x100 != 0 => port.link.set_state(UP),
        _ => {}
    }
}

/// The classes of an error frame (linux/can/error.h), with the controller's state where it says it.
fn error_text(class: u32, data: [u8; 8]) -> String {
    const CLASSES: [(u32, &str); 10] = [
        (0x001, "transmit timeout"),
        (0x002, "lost arbitration"),
        (0x004, "controller"),
        (0x008, "protocol violation"),
        (0x010, "transceiver"),
        (0x020, "no acknowledgement"),
        (0x040, "bus-off"),
        (0x080, "bus error"),
        (0x100, "controller restarted"),
        (0x200, "error counters"),
    ];
    const CONTROLLER: [(u8, &str); 7] = [
        (0x01, "receive buffer overflow"),
        (0x02, "transmit buffer overflow"),
        (0x04, "receive error warning"),
        (0x08, "transmit error warning"),
        (0x10, "receive error passive"),
        (0x20, "transmit error passive"),
        (0x40, "error active again"),
    ];
    let named = |(bit, name): &(u32, &str)| (class & bit != 0).then(|| (*name).to_owned());
    let mut parts: Vec<String> = CLASSES.iter().filter_map(named).collect();
    if class & 0x004 != 0 {
        parts.extend(
            CONTROLLER.iter().filter(|(bit, _)| data[1] & bit != 0).map(|(_, name)| (*name).to_owned()),
        );
    }
    if parts.is_empty() { format!("error class {class:#x}") } else { parts.join(", ") }
}

/// What the interface says of itself; false where there is none of this name.
fn look_at(interface: &str, port: &Port) -> bool {
    let Ok(interface) = CanInterface::open(interface) else { return false };
    // It may not be asked.
    let Ok(details) = interface.details() else { return true };
    let mut parts = Vec::new();
    if let Some(timing) = &details.can.bit_timing {
        parts.push(format!("{} bit/s", timing.bitrate));
    }
    let listens_only = details.can.ctrl_mode.map(|modes| modes.has_mode(CanCtrlMode::ListenOnly));
    match listens_only {
        Some(true) => parts.push("listen-only".to_owned()),
        Some(false) => parts.push("takes part in the bus (not listen-only)".to_owned()),
        // Virtual interfaces have no controller.
        None => {}
    }
    if let Some(state) = details.can.state {
        parts.push(format!("{state:?}"));
    }
    port.link.change(|status| status.detail = parts.join(", "));
    if !details.is_up {
        port.link.set_state("down: the interface is down");
    } else if port.link.status().state == "down: the interface is down" {
        port.link.set_state(UP);
    }
    true
}

async fn send(socket: &CanFdSocket, port: &Port, command: Command) {
    let (frame, is_request) = match command {
        Command::Request(id, payload) => (single_frame(port.bus, id, &payload), true),
        Command::Frame(frame) => (Some(frame), false),
    };
    let sent = frame.as_ref().and_then(outgoing).map(|frame| socket.write_frame(&frame));
    if !matches!(sent, Some(Ok(()))) {
        port.link.change(|status| status.sends_dropped += 1);
        if is_request {
            // Nobody is left to tell where the agent ends.
            port.tell(SourceEvent::RequestEnd(port.bus)).await;
        }
    }
}

fn outgoing(frame: &CanFrame) -> Option<CanAnyFrame> {
    let id: socketcan::Id = match frame.id {
        CanId::Standard(id) => socketcan::StandardId::new(id)?.into(),
        CanId::Extended(id) => socketcan::ExtendedId::new(id)?.into(),
    };
    socketcan::CanDataFrame::new(id, frame.data()).map(CanAnyFrame::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(id: u32, len: u8, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        bytes[..4].copy_from_slice(&id.to_ne_bytes());
        bytes[4] = len;
        for (at, byte) in (0..).zip(&mut bytes[DATA_AT..]) {
            *byte = at;
        }
        bytes
    }

    #[test]
    fn frames_of_the_kernel_are_told_apart() {
        let frame = |bytes: &[u8]| match parse(bytes, 7, BusIndex(2)) {
            Received::Frame(frame) => format!("{frame:?}"),
            Received::Error(class, _) => format!("error {class:#x}"),
            Received::Other => "other".to_owned(),
        };
        assert_eq!(frame(&raw(0x123, 3, CLASSIC_BYTES)), "(7) bus2 0x123#000102");
        assert_eq!(frame(&raw(0x18DA_F110 | EFF_FLAG, 0, CLASSIC_BYTES)), "(7) bus2 0x18DAF110#");
        assert!(frame(&raw(0x123, 64, FD_BYTES)).ends_with("3C3D3E3F"));
        assert_eq!(frame(&raw(0x123, 200, CLASSIC_BYTES)), "(7) bus2 0x123#0001020304050607");
        assert_eq!(frame(&raw(0x123 | RTR_FLAG, 0, CLASSIC_BYTES)), "other");
        assert_eq!(frame(&raw(0x40 | ERR_FLAG, 8, CLASSIC_BYTES)), "error 0x40");
        assert_eq!((frame(&[]), frame(&[0; 17])), ("other".to_owned(), "other".to_owned()));
    }

    #[test]
    fn error_frames_say_what_is_wrong() {
        assert_eq!(
            error_text(0x4, [0, 0x30, 0, 0, 0, 0, 0, 0]),
            "controller, receive error passive, transmit error passive"
        );
        assert_eq!(error_text(0x60, [0; 8]), "no acknowledgement, bus-off");
        assert_eq!(error_text(0x1000, [0; 8]), "error class 0x1000");
    }
}
