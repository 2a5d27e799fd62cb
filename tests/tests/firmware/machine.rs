//! QEMU with an image in it: one socket is the bus, one the agent's end of the link.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use convoy_protocol::frame::CanId;
use tempfile::TempDir;

/// For anything that the emulated board does; it takes milliseconds where nothing else runs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at whether QEMU has ended: processes have no wait with a limit.
const POLL: Duration = Duration::from_millis(10);

/// How long one look at the link waits for bytes: the agent's timers are not kept waiting.
const TICK: Duration = Duration::from_millis(5);

/// What `cargo xtask test firmware` names.
fn told(name: &str) -> PathBuf {
    let value = std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test firmware`"));
    PathBuf::from(value)
}

/// A running board; it is switched off when this is dropped.
pub(crate) struct Machine {
    pub(crate) bus: Bus,
    pub(crate) link: UnixStream,
    monitor: UnixStream,
    qemu: Child,
    _sockets: TempDir,
}

/// How the board ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// QEMU's exit code: 1 where the board panicked.
    pub(crate) code: Option<i32>,
    /// What the board said last: its counters.
    pub(crate) output: String,
}

impl Machine {
    /// The LM3S6965 board, running.
    pub(crate) fn lm3s6965() -> Self {
        let sockets = tempfile::tempdir().unwrap();
        let mut command = Command::new(told("CONVOY_QEMU_ARM"));
        command.args(["-M", "lm3s6965evb", "-nodefaults", "-display", "none", "-nic", "none"]);
        command.args(["-semihosting-config", "enable=on,target=native"]);
        command.arg("-kernel").arg(told("CONVOY_FIRMWARE_LM3S6965"));
        // In this order they are UART0 and UART1. QEMU connects, so there is nothing to wait for but its connection.
        let [link, bus] = ["link", "bus"].map(|name| {
            let path = sockets.path().join(name);
            let accepted = accept(UnixListener::bind(&path).unwrap());
            command.arg("-serial").arg(format!("unix:{}", path.display()));
            accepted
        });
        let path = sockets.path().join("monitor");
        let monitor = accept(UnixListener::bind(&path).unwrap());
        command.arg("-monitor").arg(format!("unix:{}", path.display()));
        let qemu = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let qemu = qemu.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let connected = |socket: Receiver<UnixStream>| {
            let stream = socket.recv_timeout(PATIENCE).expect("QEMU connects, or says above why it ended");
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            stream
        };
        let (mut link, bus, monitor) = (connected(link), connected(bus), connected(monitor));
        // What comes before the board listens is lost, as on a desk. When it does, it sends the end of a message.
        link.read_exact(&mut [0]).expect("the board starts");
        link.set_read_timeout(Some(TICK)).unwrap();
        Self { bus: Bus { stream: bus, sequence: 0 }, link, monitor, qemu, _sockets: sockets }
    }

    /// Resets the board, as its button does.
    pub(crate) fn reset(&mut self) {
        self.monitor.write_all(b"system_reset\n").unwrap();
    }

    /// Waits until the board has ended by itself, as it does after [`Bus::end`].
    pub(crate) fn ended(mut self) -> End {
        let started = Instant::now();
        while self.qemu.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "the board still runs");
            std::thread::sleep(POLL);
        }
        let code = self.qemu.wait().unwrap().code();
        let output = std::io::read_to_string(self.qemu.stdout.take().unwrap()).unwrap();
        End { code, output: output.trim().to_owned() }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The one connection, from a thread of its own: accepting has no limit.
fn accept(listener: UnixListener) -> Receiver<UnixStream> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            let _ = sender.send(stream);
        }
    });
    receiver
}

/// The bus side: records as the board's `bus` module reads them.
pub(crate) struct Bus {
    stream: UnixStream,
    /// Of the next record.
    pub(crate) sequence: u32,
}

impl Bus {
    pub(crate) const EXTENDED: u32 = 1 << 31;
    pub(crate) const REMOTE: u32 = 1 << 30;
    const END: u32 = 1 << 29;

    /// `bits` is the identifier with [`Self::EXTENDED`] or [`Self::REMOTE`]. Waits while the board has no room.
    pub(crate) fn send(&mut self, bits: u32, data: &[u8]) {
        let record = self.record(bits, data);
        self.stream.write_all(&record).unwrap();
    }

    /// The next record as it goes over the line.
    pub(crate) fn record(&mut self, bits: u32, data: &[u8]) -> Vec<u8> {
        let mut plain = [self.sequence.to_le_bytes(), bits.to_le_bytes()].concat();
        self.sequence = self.sequence.wrapping_add(1);
        plain.push(u8::try_from(data.len()).unwrap());
        plain.extend(data);
        plain.extend(crc32c::crc32c(&plain).to_le_bytes());
        let mut stuffed = vec![0; plain.len() + 2];
        let len = cobs::try_encode(&plain, &mut stuffed).unwrap();
        stuffed.truncate(len + 1);
        stuffed
    }

    /// As [`Self::send`].
    pub(crate) fn send_frame(&mut self, id: CanId, data: &[u8]) {
        let kind = if matches!(id, CanId::Extended(_)) { Self::EXTENDED } else { 0 };
        self.send(id.bits() | kind, data);
    }

    /// The next record that the board sent: its number, its identifier and its data.
    pub(crate) fn receive(&mut self) -> (u32, u32, Vec<u8>) {
        let mut stuffed = Vec::new();
        while stuffed.last() != Some(&0) {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("the board sends a record");
            stuffed.extend(byte);
        }
        stuffed.pop();
        let len = cobs::decode_in_place(&mut stuffed).unwrap();
        let (body, crc) = stuffed[..len].split_last_chunk::<4>().unwrap();
        assert_eq!(crc32c::crc32c(body), u32::from_le_bytes(*crc));
        let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
        assert_eq!(usize::from(body[8]), body.len() - 9);
        (word(0), word(4), body[9..].to_vec())
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Nothing more comes: the board sends what it has, says what it counted and ends.
    pub(crate) fn end(&mut self) {
        self.send(Self::END, &[]);
    }

    /// The same bus for a thread that sends while another reads the link.
    pub(crate) fn another_handle(&self) -> Self {
        Self { stream: self.stream.try_clone().unwrap(), sequence: self.sequence }
    }
}
