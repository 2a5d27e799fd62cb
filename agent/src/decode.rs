//! `convoy-agent decode`: a recording to one JSON object a sample.
//!
//! The keys come in this order in every line. `value` is the physical value in the DBC's unit, as the shortest
//! decimal that reads back as the same double; whole values keep their `.0`.
//!
//! ```json
//! {"t_us":1635188455020850,"bus":"can1","id":"0x0CF00400","message":"EEC1","signal":"EngineSpeed","value":812.5,"unit":"rpm"}
//! ```

use std::fs;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use convoy_agent_core::dbc::{self, DbcError, DbcSource, DbcWarning};
use convoy_agent_core::decoder::{Decoder, Outcome, Row};
use convoy_agent_core::vss::VssMap;

use crate::candump::{BusTable, LineCounts, LogInput, LogReader};

const WRITE_BYTES: usize = 64 * 1024;

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
}

/// Reads `can1=j1939.dbc`.
pub fn parse_bus_dbc(text: &str) -> Result<(String, PathBuf), &'static str> {
    let (bus, file) = text.split_once('=').ok_or("expected NAME=FILE, as in can1=j1939.dbc")?;
    Ok((bus.into(), file.into()))
}

/// What was decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecodeSummary {
    /// Samples written.
    pub samples: u64,
    /// Frames that no DBC message has the id of.
    pub unknown: u64,
    /// Frames shorter than their message, or with a multiplexer value that no signal has.
    pub undecodable: u64,
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
    let input_error = |path: &PathBuf| {
        let path = path.clone();
        move |source| DecodeError::Input { path, source }
    };
    let mut buses = BusTable::new(request.bus_dbcs.iter().map(|(bus, _)| bus.clone()));
    let every = request.dbcs.iter().map(|path| (None, path));
    let per_bus = request.bus_dbcs.iter().map(|(bus, path)| (buses.intern(bus), path));
    let mut sources = Vec::new();
    for (bus, path) in per_bus.collect::<Vec<_>>().into_iter().chain(every) {
        let bytes = fs::read(path).map_err(input_error(path))?;
        sources.push(DbcSource { name: path.display().to_string(), bytes, bus });
    }
    let (mut decoder, warnings) = dbc::load(&sources, &VssMap::builtin())?;
    decoder.keep_not_available(request.keep_not_available);
    let input = LogInput::File(request.log.clone()).open().map_err(input_error(&request.log))?;
    let mut reader = LogReader::new(input, buses);
    let mut summary = DecodeSummary { warnings, ..DecodeSummary::default() };
    let mut writer = SampleWriter::new(&decoder, BufWriter::with_capacity(WRITE_BYTES, out));
    let written = loop {
        let frame = match reader.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break writer.out.flush(),
            Err(source) => {
                // What was decoded before is written: a recording cut short is still worth something.
                writer.out.flush().map_err(DecodeError::Output)?;
                return Err(input_error(&request.log)(source));
            }
        };
        match decoder.decode(&frame, &mut writer.row) {
            Outcome::Decoded => {}
            Outcome::Unknown => summary.unknown += 1,
            Outcome::MuxUnmatched | Outcome::TooShort => summary.undecodable += 1,
        }
        summary.not_available += u64::from(writer.row.not_available());
        summary.samples += writer.row.signals().len() as u64;
        if writer.row.signals().is_empty() {
            continue;
        }
        let head = format!(
            "{{\"t_us\":{},\"bus\":{},\"id\":\"{}\",\"message\":",
            frame.timestamp_us,
            json(reader.buses().name(frame.bus)),
            frame.id
        );
        if let Err(error) = writer.write(&head) {
            break Err(error);
        }
    };
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => summary.output_closed = true,
        written => written.map_err(DecodeError::Output)?,
    }
    summary.lines = reader.counts().clone();
    Ok(summary)
}

struct SampleWriter<'d, W: Write> {
    decoder: &'d Decoder,
    /// By signal: what stands between the id and the value, and after the value.
    texts: Vec<(String, String)>,
    row: Row,
    out: BufWriter<W>,
}

impl<'d, W: Write> SampleWriter<'d, W> {
    fn new(decoder: &'d Decoder, out: BufWriter<W>) -> Self {
        let manifest = decoder.manifest();
        let text = |signal| {
            let signal: &convoy_protocol::manifest::SignalDef = signal;
            let (message, name) = (json(manifest.message_of(signal)), json(&signal.name));
            (
                format!("{message},\"signal\":{name},\"value\":"),
                format!(",\"unit\":{}}}\n", json(&signal.unit)),
            )
        };
        Self { decoder, texts: manifest.signals.iter().map(text).collect(), row: Row::new(), out }
    }

    fn write(&mut self, head: &str) -> io::Result<()> {
        for (index, value) in self.row.iter() {
            let Some(signal) = self.decoder.manifest().signal(index) else { continue };
            let Some((before, after)) = self.texts.get(index.0 as usize) else { continue };
            self.out.write_all(head.as_bytes())?;
            self.out.write_all(before.as_bytes())?;
            // Not a number and infinity have no JSON form: null.
            serde_json::to_writer(&mut self.out, &value.physical(signal))?;
            self.out.write_all(after.as_bytes())?;
        }
        Ok(())
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
            )
        );
        assert_eq!((summary.samples, summary.unknown, summary.undecodable), (3, 1, 1));
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
