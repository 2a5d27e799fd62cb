//! QEMU with an image in it: one of its serial lines is the bus, one the agent's link.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use convoy_protocol::frame::CanId;
use tempfile::TempDir;

use crate::agent::Sent;

/// For anything that the emulated board does; it takes milliseconds where nothing else runs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at another process: there is no wait with a limit for them.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// How long one look at the link waits for bytes: the agent's timers are not kept waiting.
const TICK: Duration = Duration::from_millis(5);

/// Records of a packet on the bus side at most, bytes: what its number, checksum and stuffing leave of what the board takes.
const RECORDS_BYTES_MAX: usize = 254 - (4 + 4 + 1);
/// Of a record: identifier and length.
const RECORD_HEAD_BYTES: usize = 5;

/// What `cargo xtask test firmware` names.
pub(crate) fn told(name: &str) -> PathBuf {
    let value = std::env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test firmware`"));
    PathBuf::from(value)
}

/// A running board; it is switched off when this is dropped. The agent's end of the link is a [`Line`], or the path of a terminal.
pub(crate) struct Machine<L = Line> {
    pub(crate) bus: Bus,
    /// What the board sends onto the bus.
    bus_output: Output,
    pub(crate) link: L,
    qemu: Qemu,
}

/// How the board ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// QEMU's exit code: 1 where the board panicked.
    pub(crate) code: Option<i32>,
    /// What the board said last: its counters.
    pub(crate) output: String,
}

impl End {
    /// After a run in which nothing went wrong.
    pub(crate) fn clean() -> Self {
        let output = "frames_lost=0 records_rejected=0 bus_overruns=0 link_overruns=0";
        Self { code: Some(0), output: output.to_owned() }
    }
}

impl Machine {
    /// The LM3S6965 board, running and listening.
    pub(crate) fn lm3s6965() -> Self {
        Self::start(&[])
    }

    /// The same board with a slow processor: an instruction takes so many nanoseconds, a power of 2, of real time, too.
    pub(crate) fn slow_lm3s6965(instruction_ns: u32) -> Self {
        Self::start(&["-icount", &format!("shift={},align=on,sleep=on", instruction_ns.ilog2())])
    }

    fn start(arguments: &[&str]) -> Self {
        let (mut command, files) = board();
        command.args(arguments);
        // In this order they are UART0 and UART1.
        let [link, bus] = ["link", "bus"].map(|name| Line::prepare(files.path().join(name), &mut command));
        let qemu = Qemu::start(command, files);
        let (mut link, bus) = (Line::opened(&link), Line::opened(&bus));
        // What comes before the board listens is lost, as on a desk. When it does, it sends the end of a message.
        assert!(link.output.read_to_zero().is_empty());
        Self::new(link, bus, qemu)
    }
}

impl Machine<PathBuf> {
    /// The same board, whose link is a terminal that an agent can open; it may not listen yet.
    pub(crate) fn lm3s6965_on_a_terminal() -> Self {
        let (mut command, files) = board();
        command.args(["-serial", "pty"]);
        let bus = Line::prepare(files.path().join("bus"), &mut command);
        let mut qemu = Qemu::start(command, files);
        let mut output = qemu.output.take().unwrap();
        let line = in_a_thread(move || {
            let mut line = String::new();
            output.read_line(&mut line).ok().map(|_| (line, output))
        });
        let (line, output) = line.recv_timeout(PATIENCE).expect(OPENS);
        qemu.output = Some(output);
        // "char device redirected to /dev/pts/0 (label serial0)"
        let path = line.split(' ').find(|word| word.starts_with("/dev/"));
        let path = PathBuf::from(path.unwrap_or_else(|| panic!("QEMU names no terminal: {line}")));
        Self::new(path, Line::opened(&bus), qemu)
    }
}

impl<L> Machine<L> {
    fn new(link: L, bus: Line, qemu: Qemu) -> Self {
        Self { bus: Bus { input: bus.input, sequence: 0 }, bus_output: bus.output, link, qemu }
    }

    /// The next record that the board sent onto the bus: its number, its identifier and its data.
    pub(crate) fn receive_from_bus(&mut self) -> (u32, u32, Vec<u8>) {
        let mut stuffed = self.bus_output.read_to_zero();
        let len = cobs::decode_in_place(&mut stuffed).unwrap();
        let (body, crc) = stuffed[..len].split_last_chunk::<4>().unwrap();
        assert_eq!(crc32c::crc32c(body), u32::from_le_bytes(*crc));
        let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap());
        assert_eq!(usize::from(body[8]), body.len() - 9);
        (word(0), word(4), body[9..].to_vec())
    }

    /// Resets the board, as its button does.
    pub(crate) fn reset(&mut self) {
        self.qemu.monitor.write_all(b"system_reset\n").unwrap();
    }

    /// Waits until the board has ended by itself, as it does after [`Bus::end`].
    pub(crate) fn ended(mut self) -> End {
        let started = Instant::now();
        while self.qemu.process.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < PATIENCE, "the board still runs");
            std::thread::sleep(POLL);
        }
        let code = self.qemu.process.wait().unwrap().code();
        let output = std::io::read_to_string(self.qemu.output.take().unwrap()).unwrap();
        End { code, output: output.trim().to_owned() }
    }
}

/// What goes onto the board.
pub(crate) fn firmware() -> PathBuf {
    told("CONVOY_FIRMWARE_LM3S6965")
}

/// QEMU for the board, without its serial lines, and where they can be.
fn board() -> (Command, TempDir) {
    let mut command = Command::new(told("CONVOY_QEMU_ARM"));
    command.args(["-M", "lm3s6965evb", "-nodefaults", "-display", "none", "-nic", "none"]);
    command.args(["-semihosting-config", "enable=on,target=native"]);
    command.arg("-kernel").arg(firmware().join("boot.elf"));
    // Where the boot loader looks for what the factory put there: the board's layout.rs.
    let factory = firmware().join("factory.bin");
    command.arg("-device").arg(format!("loader,file={},addr=0x8000,force-raw=on", factory.display()));
    (command, tempfile::tempdir().unwrap())
}

/// The process; it ends when this is dropped.
struct Qemu {
    process: Child,
    monitor: UnixStream,
    output: Option<BufReader<ChildStdout>>,
    _files: TempDir,
}

impl Qemu {
    fn start(mut command: Command, files: TempDir) -> Self {
        let path = files.path().join("monitor");
        let listener = UnixListener::bind(&path).unwrap();
        let monitor = in_a_thread(move || Some(listener.accept().ok()?.0));
        command.arg("-monitor").arg(format!("unix:{}", path.display()));
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut process = process.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = process.stdout.take().map(BufReader::new);
        let Ok(monitor) = monitor.recv_timeout(PATIENCE) else {
            let _ = process.kill();
            panic!("{OPENS}");
        };
        Self { process, monitor, output, _files: files }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What QEMU does first, in the words of a failure.
const OPENS: &str = "QEMU opens its lines, or says above why it ended";

/// For what has no limit of time of its own.
fn in_a_thread<T: Send + 'static>(work: impl FnOnce() -> Option<T> + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        if let Some(done) = work() {
            // Whoever waited may have given up.
            let _ = sender.send(done);
        }
    });
    receiver
}

/// One of the board's serial lines: two FIFOs. QEMU moves every byte by itself, and through sockets that takes twice as long.
pub(crate) struct Line {
    /// What goes to the board; waits while it has no room.
    pub(crate) input: File,
    pub(crate) output: Output,
}

impl Line {
    /// The next of the board's lines.
    fn prepare(path: PathBuf, command: &mut Command) -> PathBuf {
        for end in ["in", "out"] {
            let made = Command::new("mkfifo").arg(path.with_extension(end)).status();
            assert!(made.unwrap().success(), "there is no FIFO {}", path.display());
        }
        command.arg("-serial").arg(format!("pipe:{}", path.display()));
        path
    }

    /// When QEMU has opened it, too.
    fn opened(path: &Path) -> Self {
        let (input, output) = (path.with_extension("in"), path.with_extension("out"));
        let input = in_a_thread(move || OpenOptions::new().write(true).open(input).ok());
        let output = in_a_thread(move || File::open(output).ok());
        let opened = |file: Receiver<File>| file.recv_timeout(PATIENCE).expect(OPENS);
        Self { input: opened(input), output: Output::read_from(opened(output)) }
    }
}

/// What comes from a line of the board. A thread of its own reads it: reading has no limit of time, and the board never waits.
pub(crate) struct Output {
    chunks: Receiver<Vec<u8>>,
    rest: Vec<u8>,
}

impl Output {
    fn read_from(mut file: File) -> Self {
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(len @ 1..) = file.read(&mut bytes) {
                if sender.send(bytes[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { chunks, rest: Vec::new() }
    }

    /// What has come; nothing, when nothing comes for a moment; `None`: the board has ended.
    pub(crate) fn read(&mut self) -> Option<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.rest);
        if bytes.is_empty() {
            bytes = match self.chunks.recv_timeout(TICK) {
                Ok(bytes) => bytes,
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return None,
            };
        }
        bytes.extend(self.chunks.try_iter().flatten());
        Some(bytes)
    }

    /// What comes before the next zero, which is taken as well.
    fn read_to_zero(&mut self) -> Vec<u8> {
        let started = Instant::now();
        let mut bytes = Vec::new();
        loop {
            bytes.extend(self.read().expect("the board runs"));
            if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
                self.rest = bytes.split_off(at + 1);
                bytes.pop();
                return bytes;
            }
            assert!(started.elapsed() < PATIENCE, "the board sends {bytes:?} and no more");
        }
    }
}

/// The bus side: packets of records as the board's `bus` module reads them.
pub(crate) struct Bus {
    input: File,
    /// Of the next record.
    pub(crate) sequence: u32,
}

impl Bus {
    pub(crate) const EXTENDED: u32 = 1 << 31;
    pub(crate) const REMOTE: u32 = 1 << 30;
    /// The board makes the bus wait no more.
    pub(crate) const LOSSY: u32 = 1 << 28;
    const END: u32 = 1 << 29;

    /// `bits` is the identifier with [`Self::EXTENDED`] or [`Self::REMOTE`]. Waits while the board has no room.
    pub(crate) fn send(&mut self, bits: u32, data: &[u8]) {
        let packet = self.packet(&[(bits, data)]);
        self.send_bytes(&packet);
    }

    /// The next records, all in one packet, as they go over the line.
    pub(crate) fn packet(&mut self, records: &[(u32, &[u8])]) -> Vec<u8> {
        let mut plain = self.sequence.to_le_bytes().to_vec();
        for (bits, data) in records {
            plain.extend(bits.to_le_bytes());
            plain.push(u8::try_from(data.len()).unwrap());
            plain.extend(*data);
            self.sequence = self.sequence.wrapping_add(1);
        }
        plain.extend(crc32c::crc32c(&plain).to_le_bytes());
        let mut stuffed = vec![0; plain.len() + 2];
        let len = cobs::try_encode(&plain, &mut stuffed).unwrap();
        stuffed.truncate(len + 1);
        stuffed
    }

    /// As [`Self::send`], as many in a packet as there is room for: a controller hands out several at once, too.
    pub(crate) fn send_frames(&mut self, frames: &[Sent]) {
        let (mut records, mut len) = (Vec::new(), 0);
        for (id, data) in frames {
            let more = RECORD_HEAD_BYTES + data.len();
            if len + more > RECORDS_BYTES_MAX {
                let packet = self.packet(&std::mem::take(&mut records));
                self.send_bytes(&packet);
                len = 0;
            }
            let kind = if matches!(id, CanId::Extended(_)) { Self::EXTENDED } else { 0 };
            records.push((id.bits() | kind, &data[..]));
            len += more;
        }
        let packet = self.packet(&records);
        self.send_bytes(&packet);
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).unwrap();
    }

    /// Nothing more comes: the board sends what it has, says what it counted and ends.
    pub(crate) fn end(&mut self) {
        self.send(Self::END, &[]);
    }

    /// The same bus for a thread that sends while another reads the link.
    pub(crate) fn another_handle(&self) -> Self {
        Self { input: self.input.try_clone().unwrap(), sequence: self.sequence }
    }
}
