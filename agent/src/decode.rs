//! `convoy-agent decode`: a recording to one JSON object a line.
//!
//! The keys come in this order in every line. `value` is the physical value in the DBC's unit, as the shortest
//! decimal that reads back as the same double; whole values keep their `.0`. A message of a transport protocol has the time of
//! the frame that completed it.
//!
//! ```json
//! {"t_us":1635188455020850,"bus":"can1","id":"0x0CF00400","message":"EEC1","signal":"EngineSpeed","value":812.5,"unit":"rpm"}
//! {"t_us":1635188455020850,"bus":"can1","id":"0x18FECA00","dtc":"SPN 980 FMI 9","system":"j1939","stage":"active","sa":0,"spn":980,"fmi":9,"occurrence_count":126,"mil_on":true}
//! {"t_us":1635188455020850,"bus":"can1","id":"0x7E8","protocol":"isotp","data":"410c1af8"}
//! ```
//!
//! Samples are written by default; trouble codes and whole messages (of ISO-TP, UDS, OBD-II, J1939's transport) where their
//! protocol is asked for. The summary of `--stats` has all of them.

use std::fs;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use convoy_agent_core::dbc::{self, DbcError, DbcSource, DbcWarning};
use convoy_agent_core::decoder::{Decoder, Outcome, Row};
use convoy_agent_core::diagnosis::{self, AskedCodes, Diagnosis};
use convoy_agent_core::frozen::Frozen;
use convoy_agent_core::listen::{IsoTpIds, Listener, Message};
use convoy_agent_core::vss::VssMap;
use convoy_agent_core::{obd, uds};
use convoy_protocol::frame::{CanFrame, CanId};

use crate::log::{BusTable, LineCounts, LogInput, LogReader};

mod lines;
mod stats;

use lines::Lines;
use stats::Stats;

const WRITE_BYTES: usize = 64 * 1024;

/// What of a recording is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// Signals by DBC files and signal sets.
    Dbc,
    /// OBD-II: answers of services 01 to 0A, and their trouble codes.
    Obd,
    /// UDS: answers, and their trouble codes.
    Uds,
    /// J1939: messages of its transport protocol, and DM1, DM2, DM6 and DM28.
    J1939,
    /// Every message of ISO-TP, also on ids that no file names (0x600 to 0x7FF).
    Isotp,
}

/// What to decode.
#[derive(Debug, Clone, Default)]
pub struct DecodeRequest {
    /// DBC files for every bus.
    pub dbcs: Vec<PathBuf>,
    /// DBC files for one bus each, by its name.
    pub bus_dbcs: Vec<(String, PathBuf)>,
    /// The recording.
    pub log: PathBuf,
    /// Keep values that J1939 marks as not available or as errors.
    pub keep_not_available: bool,
    /// Only these; none: what the files and the frames say.
    pub protocols: Vec<Protocol>,
    /// One summary object in place of a line for each sample, trouble code and message.
    pub stats: bool,
}

impl DecodeRequest {
    fn wants(&self, protocol: Protocol) -> bool {
        self.protocols.is_empty() || self.protocols.contains(&protocol)
    }

    /// Are whole messages of this kind wanted?
    fn asks_for(&self, message: &Message) -> bool {
        let asked = |protocol| self.protocols.contains(&protocol);
        match message {
            Message::J1939(_) => asked(Protocol::J1939),
            Message::IsoTp(message) => {
                let service = message.data().first().copied().unwrap_or(0);
                let is_answer = service >= uds::POSITIVE;
                // A refusal names the service that was asked for.
                let of = if service == 0x7F { message.data().get(1).copied() } else { None };
                let is_obd =
                    obd::is_response_id(message.id) && (service < 0x50 || of.is_some_and(|of| of < 0x10));
                asked(Protocol::Isotp)
                    || (is_answer && is_obd && asked(Protocol::Obd))
                    || (is_answer && !is_obd && asked(Protocol::Uds))
            }
        }
    }

    /// Are the samples of this id wanted? `is_message`: ISO-TP carried them.
    fn wants_samples_of(&self, id: CanId, is_message: bool) -> bool {
        let is_obd = obd::is_response_id(id);
        let is_group = matches!(id, CanId::Extended(_)) && !is_obd && !is_message;
        self.wants(Protocol::Dbc)
            || (is_obd && self.wants(Protocol::Obd))
            || (is_message && self.wants(Protocol::Uds))
            || (is_group && self.wants(Protocol::J1939))
    }

    fn asks_for_faults_of(&self, id: CanId, is_uds: bool) -> bool {
        self.protocols.contains(&match id {
            CanId::Extended(id) if id >> 16 != 0x18DA => Protocol::J1939,
            _ if is_uds => Protocol::Uds,
            _ => Protocol::Obd,
        })
    }
}

/// Reads `can1=j1939.dbc`.
pub fn parse_bus_dbc(text: &str) -> Result<(String, PathBuf), &'static str> {
    let (bus, file) = text.split_once('=').ok_or("expected NAME=FILE, as in can1=j1939.dbc")?;
    Ok((bus.into(), file.into()))
}

/// What was decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecodeSummary {
    /// Samples found.
    pub samples: u64,
    /// Trouble codes in the lists of controllers, each time they were sent.
    pub dtcs: u64,
    /// Freeze frames and snapshots of trouble codes.
    pub frozen_frames: u64,
    /// Whole messages written.
    pub messages: u64,
    /// Frames that no DBC message has the id of.
    pub unknown: u64,
    /// Frames and messages with a multiplexer value that no signal has.
    pub undecodable: u64,
    /// Frames shorter than their message, of which the signals that fit were taken.
    pub short: u64,
    /// Values left out because J1939 marks them as not available or as errors.
    pub not_available: u64,
    /// What the lines of the recording were.
    pub lines: LineCounts,
    /// What the DBC files have that is left out.
    pub warnings: Vec<DbcWarning>,
    /// The reader of the output went away before the end.
    pub output_closed: bool,
}

/// Why nothing, or not everything, was decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The DBC files make no decoder.
    #[error(transparent)]
    Dbc(#[from] DbcError),
    /// The output cannot be written.
    #[error("cannot write the samples")]
    Output(#[source] io::Error),
}

/// Decodes a recording to `out`. A reader that closes the output early is no error.
pub fn decode(request: &DecodeRequest, out: impl Write) -> Result<DecodeSummary, DecodeError> {
    let mut buses = BusTable::new(request.bus_dbcs.iter().map(|(bus, _)| bus.clone()));
    let (mut decoder, warnings) = dbc::load(&sources(request, &mut buses)?, &VssMap::builtin())?;
    decoder.keep_not_available(request.keep_not_available);
    let input_error = |source| DecodeError::Input { path: request.log.clone(), source };
    let input = LogInput::File(request.log.clone()).open().map_err(input_error)?;
    let mut reader = LogReader::new(input, buses);
    let ids = match request.protocols.iter().any(|one| matches!(one, Protocol::Isotp | Protocol::Uds)) {
        true => IsoTpIds::Likely,
        false => IsoTpIds::Known,
    };
    let out = BufWriter::with_capacity(WRITE_BYTES, out);
    let mut work = Work {
        request,
        decoder: &decoder,
        listener: Listener::new(ids),
        summary: DecodeSummary { warnings, ..DecodeSummary::default() },
        stats: request.stats.then(|| Stats::new(&decoder)),
        lines: Lines::new(&decoder, out),
        row: Row::new(),
        asked_codes: AskedCodes::default(),
        frozen: Frozen::new(),
    };
    let written = loop {
        let written = match reader.next_frame() {
            Ok(Some(frame)) => work.frame(&frame, reader.buses()),
            Ok(None) => break work.end(reader.counts(), reader.buses()),
            Err(source) => {
                // What was decoded before is written: a recording cut short is still worth something.
                work.end(reader.counts(), reader.buses()).map_err(DecodeError::Output)?;
                return Err(input_error(source));
            }
        };
        if written.is_err() {
            break written;
        }
    };
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => work.summary.output_closed = true,
        written => written.map_err(DecodeError::Output)?,
    }
    Ok(DecodeSummary { lines: reader.counts().clone(), ..work.summary })
}

/// The files, those of one bus first; OBD-II as it ships with the agent where it is asked for and no file is named.
fn sources(request: &DecodeRequest, buses: &mut BusTable) -> Result<Vec<DbcSource>, DecodeError> {
    let per_bus: Vec<_> = request.bus_dbcs.iter().map(|(bus, path)| (buses.intern(bus), path)).collect();
    let every = request.dbcs.iter().map(|path| (None, path));
    let read = |(bus, path): (_, &PathBuf)| -> Result<DbcSource, DecodeError> {
        let bytes = fs::read(path).map_err(|source| DecodeError::Input { path: path.clone(), source })?;
        Ok(DbcSource { name: path.display().to_string(), bytes, bus })
    };
    let mut sources = per_bus.into_iter().chain(every).map(read).collect::<Result<Vec<_>, _>>()?;
    if sources.is_empty() && request.protocols.contains(&Protocol::Obd) {
        sources.push(DbcSource { name: "OBD-II (built in)".into(), bytes: obd::signal_set(), bus: None });
    }
    Ok(sources)
}

struct Work<'d, W: Write> {
    request: &'d DecodeRequest,
    decoder: &'d Decoder,
    listener: Listener,
    summary: DecodeSummary,
    stats: Option<Stats<'d>>,
    lines: Lines<'d, W>,
    row: Row,
    asked_codes: AskedCodes,
    frozen: Frozen,
}

impl<W: Write> Work<'_, W> {
    fn frame(&mut self, frame: &CanFrame, buses: &BusTable) -> io::Result<()> {
        let bus = buses.name(frame.bus);
        let (time_us, id) = (frame.timestamp_us, frame.id);
        if self.request.wants_samples_of(id, false) {
            let outcome = self.decoder.decode(frame, &mut self.row);
            self.row(time_us, bus, id, outcome)?;
        }
        self.asked_codes.handle_frame(frame);
        if let Some(diagnosis) = diagnosis::of_frame(frame) {
            self.diagnosis(time_us, bus, id, diagnosis)?;
        }
        let Some(message) = self.listener.handle_frame(self.decoder, frame) else { return Ok(()) };
        let outcome = message.decode(self.decoder, &mut self.row);
        // Most of ISO-TP is described by the frame, or not at all.
        let is_isotp = matches!(message, Message::IsoTp(_));
        if self.request.wants_samples_of(message.id(), is_isotp) && !(is_isotp && outcome == Outcome::Unknown)
        {
            self.row(time_us, bus, message.id(), outcome)?;
        }
        if let Some(diagnosis) = diagnosis::of_message(&message, &self.asked_codes) {
            self.diagnosis(time_us, bus, message.id(), diagnosis)?;
        }
        if let Message::IsoTp(answer) = &message {
            // Frames that are whole by now come before the one that this answer may begin.
            self.frozen.handle_timeout(time_us);
            self.frozen.handle_message(time_us, time_us, self.decoder, answer);
            self.frozen_frames(buses)?;
        }
        if let Some(stats) = &mut self.stats {
            stats.message(&message);
        }
        if self.request.asks_for(&message) {
            self.summary.messages += 1;
            if self.stats.is_none() {
                self.lines.message(time_us, bus, &message)?;
            }
        }
        self.listener.recycle(message);
        Ok(())
    }

    /// Takes what was decoded of a frame or message.
    fn row(&mut self, time_us: i64, bus: &str, id: CanId, outcome: Outcome) -> io::Result<()> {
        match outcome {
            Outcome::Decoded | Outcome::Part => {}
            Outcome::Unknown => self.summary.unknown += 1,
            Outcome::MuxUnmatched => self.summary.undecodable += 1,
            Outcome::TooShort => self.summary.short += 1,
        }
        if let Some(stats) = &mut self.stats {
            stats.row(outcome, &self.row);
        }
        self.summary.not_available += u64::from(self.row.not_available());
        self.summary.samples += self.row.signals().len() as u64;
        match self.stats {
            None if !self.row.signals().is_empty() => self.lines.samples(time_us, bus, id, &self.row),
            _ => Ok(()),
        }
    }

    fn diagnosis(&mut self, time_us: i64, bus: &str, id: CanId, diagnosis: Diagnosis) -> io::Result<()> {
        let Diagnosis::Faults(list) = diagnosis else { return Ok(()) };
        let is_uds = matches!(list.reporter, convoy_agent_core::faults::Reporter::Uds(..));
        self.summary.dtcs += list.dtcs.len() as u64;
        match &mut self.stats {
            Some(stats) => {
                stats.faults(&list);
                Ok(())
            }
            None if self.request.asks_for_faults_of(id, is_uds) => self.lines.faults(time_us, bus, id, &list),
            None => Ok(()),
        }
    }

    fn frozen_frames(&mut self, buses: &BusTable) -> io::Result<()> {
        if !self.frozen.is_ready() {
            return Ok(());
        }
        for frame in self.frozen.take_ready().0 {
            let is_uds = matches!(frame.header.dtc, convoy_protocol::dtc::Dtc::Uds { .. });
            self.summary.frozen_frames += 1;
            if self.stats.is_none() && self.request.asks_for_faults_of(frame.id, is_uds) {
                self.lines.frozen(buses.name(frame.bus), &frame)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, counts: &LineCounts, buses: &BusTable) -> io::Result<()> {
        self.frozen.flush();
        self.frozen_frames(buses)?;
        if let Some(stats) = &self.stats {
            stats.write(&self.summary, counts, &self.listener, &mut self.lines.out)?;
        }
        self.lines.out.flush()
    }
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causes::with_causes;

    const DBC: &str = r#"VERSION ""
BU_: ECU
BO_ 2364540158 EEC1: 8 ECU
 SG_ EngineSpeed : 24|16@1+ (0.125,0) [0|8031.875] "rpm" ECU
BO_ 291 Body: 2 ECU
 SG_ "#;

    fn files() -> (tempfile::TempDir, DecodeRequest) {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let text = format!(
            "{DBC}Temp : 0|8@1+ (1,-40) [-40|215] \"degC\" ECU\n SG_ Door : 8|1@1+ (1,0) [0|1] \"\" ECU\n"
        );
        fs::write(path("a.dbc"), text).unwrap();
        let log = "(1635188455.020850) can1 0CF00400#607D84641900F084\n\
                   broken\n\
                   (1635188455.120850) can1 0CF00400#607D84FFFF00F084\n\
                   (1635188456.000000) can0 123#7801\n\
                   (1635188456.000001) can0 124#7801\n\
                   (1635188456.000002) can0 123#78\n";
        fs::write(path("log"), log).unwrap();
        let request = DecodeRequest { dbcs: vec![path("a.dbc")], log: path("log"), ..Default::default() };
        (dir, request)
    }

    #[test]
    fn each_sample_is_one_line_with_its_keys_in_order() {
        let (_dir, request) = files();
        let mut out = Vec::new();
        let summary = decode(&request, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#"{"t_us":1635188455020850,"bus":"can1","id":"0x0CF00400","message":"EEC1","signal":"EngineSpeed","value":812.5,"unit":"rpm"}"#,
                "\n",
                r#"{"t_us":1635188456000000,"bus":"can0","id":"0x123","message":"Body","signal":"Temp","value":80.0,"unit":"degC"}"#,
                "\n",
                r#"{"t_us":1635188456000000,"bus":"can0","id":"0x123","message":"Body","signal":"Door","value":1.0,"unit":""}"#,
                "\n",
                r#"{"t_us":1635188456000002,"bus":"can0","id":"0x123","message":"Body","signal":"Temp","value":80.0,"unit":"degC"}"#,
                "\n",
            )
        );
        assert_eq!((summary.samples, summary.unknown, summary.short), (4, 1, 1));
        assert_eq!((summary.not_available, summary.lines.damaged), (1, 1));
        assert_eq!(summary.lines.first_damaged[0].0, 2);
    }

    #[test]
    fn not_available_values_are_kept_on_request_and_a_dbc_can_be_for_one_bus() {
        let (dir, mut request) = files();
        request.keep_not_available = true;
        request.dbcs.clear();
        request.bus_dbcs = vec![("can1".into(), dir.path().join("a.dbc"))];
        let mut out = Vec::new();
        let summary = decode(&request, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.lines().nth(1).unwrap().contains(r#""value":8191.875,"#), "{out}");
        assert_eq!((summary.samples, summary.unknown), (2, 3));
    }

    #[test]
    fn obd_is_decoded_without_a_file_and_its_codes_and_messages_are_lines_of_their_own() {
        let (dir, mut request) = files();
        let log = "(1.000000) can0 7DF#0201000000000000\n(1.100000) can0 7E8#04410C1AF8AAAAAA\n\
                   (1.200000) can0 7E8#0443010301AAAAAA\n(1.300000) can0 7E8#037F0211AAAAAAAA\n";
        fs::write(dir.path().join("obd.log"), log).unwrap();
        (request.dbcs, request.log) = (Vec::new(), dir.path().join("obd.log"));
        request.protocols = vec![Protocol::Obd];
        let mut out = Vec::new();
        let summary = decode(&request, &mut out).unwrap();
        let expected = [
            r#"{"t_us":1100000,"bus":"can0","id":"0x7E8","message":"7E8_010C","signal":"EngineSpeed","value":1726.0,"unit":"rpm"}"#,
            r#"{"t_us":1100000,"bus":"can0","id":"0x7E8","protocol":"isotp","data":"410c1af8"}"#,
            r#"{"t_us":1200000,"bus":"can0","id":"0x7E8","dtc":"P0301","system":"obd","stage":"active"}"#,
            r#"{"t_us":1200000,"bus":"can0","id":"0x7E8","protocol":"isotp","data":"43010301"}"#,
            r#"{"t_us":1300000,"bus":"can0","id":"0x7E8","protocol":"isotp","data":"7f0211"}"#,
        ];
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.lines().collect::<Vec<_>>(), expected);
        assert_eq!((summary.samples, summary.dtcs, summary.messages), (1, 1, 3));
        request.stats = true;
        let mut out = Vec::new();
        decode(&request, &mut out).unwrap();
        let stats: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(stats["signals"]["7E8_010C.EngineSpeed"]["mean"], 1726.0);
        assert_eq!(
            (&stats["isotp"]["messages"], &stats["dtcs"]["P0301|ecu 7E8|active"]),
            (&4.into(), &1.into())
        );
    }

    #[test]
    fn frozen_values_are_lines_with_their_code() {
        let (dir, mut request) = files();
        let log = "(1.000000) can0 7E8#0542020003010000\n(1.100000) can0 7E8#05420C001AF80000\n\
                   (9.000000) can0 7E8#0441058000000000\n";
        fs::write(dir.path().join("obd.log"), log).unwrap();
        (request.dbcs, request.log) = (Vec::new(), dir.path().join("obd.log"));
        request.protocols = vec![Protocol::Obd];
        let mut out = Vec::new();
        let summary = decode(&request, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let expected = r#"{"t_us":1100000,"bus":"can0","id":"0x7E8","frozen_with":"P0301","number":0,"message":"7E8_010C","signal":"EngineSpeed","value":1726.0,"unit":"rpm"}"#;
        assert!(out.lines().any(|line| line == expected), "{out}");
        assert_eq!((summary.frozen_frames, summary.samples), (1, 1));
    }

    #[test]
    fn missing_files_are_named_and_a_closed_output_ends_quietly() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (_dir, mut request) = files();
        assert!(decode(&request, Closed).unwrap().output_closed);
        request.log = "no.log".into();
        let error = decode(&request, Vec::new()).unwrap_err();
        assert_eq!(with_causes(&error), "cannot read no.log: No such file or directory (os error 2)");
    }
}
