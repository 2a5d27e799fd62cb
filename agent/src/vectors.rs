//! `convoy-agent decode --vectors`: payloads line by line, to hold the decoder against another one.
//!
//! A line in names a DBC file of a folder and a payload; further members are left alone. A line out repeats that and has
//! either the physical value of every signal, in the order of the DBC, or why there is none. As many lines go out as come
//! in, in the same order.
//!
//! ```json
//! {"dbc":"x.dbc","id":291,"ext":false,"data":"7801"}
//! {"dbc":"x.dbc","id":291,"ext":false,"data":"7801","decoded":{"Temp":80.0,"Door":1.0}}
//! {"dbc":"x.dbc","id":291,"ext":false,"data":"78","decoded":{"Temp":80.0}}
//! {"dbc":"x.dbc","id":292,"ext":false,"data":"78","error":"no message has this id"}
//! ```
//!
//! A payload that is shorter than its message has the values that lie in it.
//! Values that J1939 marks as not available or as errors are kept: what is compared is the arithmetic.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io::{self, BufRead, BufWriter, ErrorKind, Read as _, Write};
use std::path::{Path, PathBuf};

use convoy_agent_core::dbc::{self, DbcSource, DbcWarning};
use convoy_agent_core::decoder::{Decoder, Outcome, Row};
use convoy_agent_core::hex;
use convoy_agent_core::vss::VssMap;
use convoy_protocol::frame::{BusIndex, CanId};
use serde::{Deserialize, Serialize, Serializer};

use crate::log::LogInput;

/// A line at most, bytes: a payload of a transport protocol takes 3.5 KB.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// What to decode.
#[derive(Debug, Clone)]
pub struct VectorsRequest {
    /// The lines, plain or gzip.
    pub vectors: PathBuf,
    /// Where the DBC files are that they name.
    pub dbc_dir: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VectorsSummary {
    /// Lines with values.
    pub decoded: u64,
    /// Lines with an error.
    pub errors: u64,
    /// What the DBC files have that is left out.
    pub warnings: Vec<DbcWarning>,
    /// The reader of the output went away before the end.
    pub output_closed: bool,
}

/// Why not every line was answered.
#[derive(Debug, thiserror::Error)]
pub enum VectorsError {
    /// The lines cannot be read.
    #[error("cannot read {}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not a vector; everything before it was answered.
    #[error("{}: line {line} is not a vector: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// The output cannot be written.
    #[error("cannot write the values")]
    Output(#[source] io::Error),
}

#[derive(Deserialize)]
struct Vector {
    dbc: String,
    id: u32,
    ext: bool,
    data: String,
}

#[derive(Serialize)]
struct Answer<'v> {
    dbc: &'v str,
    id: u32,
    ext: bool,
    data: &'v str,
    #[serde(flatten)]
    result: Decoded,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Decoded {
    Decoded(Values),
    Error(String),
}

/// Names and physical values.
struct Values(Vec<(String, f64)>);

impl Serialize for Values {
    /// Not a number and infinity have no JSON form: null.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// Answers every line. A reader that closes the output early is no error.
pub fn decode(request: &VectorsRequest, out: impl Write) -> Result<VectorsSummary, VectorsError> {
    let input_error = |source| VectorsError::Input { path: request.vectors.clone(), source };
    let mut input = LogInput::File(request.vectors.clone()).open().map_err(input_error)?;
    let mut files = Files { folder: &request.dbc_dir, loaded: HashMap::new(), warnings: Vec::new() };
    let mut out = BufWriter::new(out);
    let (mut summary, mut row, mut line) = (VectorsSummary::default(), Row::new(), String::new());
    for number in 1.. {
        line.clear();
        let read = input.by_ref().take(LINE_BYTES_MAX as u64).read_line(&mut line).map_err(input_error)?;
        let text = line.trim();
        if read == 0 {
            break;
        }
        let vector: Result<Vector, _> = serde_json::from_str(text);
        let written = match vector {
            Ok(vector) => files.answer(&vector, &mut row, &mut summary, &mut out),
            Err(error) => {
                // What was answered before stays answered.
                out.flush().map_err(VectorsError::Output)?;
                let path = request.vectors.clone();
                return Err(VectorsError::Line { path, line: number, reason: error.to_string() });
            }
        };
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                summary.output_closed = true;
                return Ok(summary);
            }
            written => written.map_err(VectorsError::Output)?,
        }
    }
    summary.warnings = files.warnings;
    match out.flush() {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => summary.output_closed = true,
        flushed => flushed.map_err(VectorsError::Output)?,
    }
    Ok(summary)
}

/// The DBC files that were named, or why one cannot be used.
struct Files<'r> {
    folder: &'r Path,
    loaded: HashMap<String, Result<Decoder, String>>,
    warnings: Vec<DbcWarning>,
}

impl Files<'_> {
    fn answer(
        &mut self,
        vector: &Vector,
        row: &mut Row,
        summary: &mut VectorsSummary,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let result = match self.values(vector, row) {
            Ok(values) => {
                summary.decoded += 1;
                Decoded::Decoded(values)
            }
            Err(reason) => {
                summary.errors += 1;
                Decoded::Error(reason)
            }
        };
        let Vector { dbc, id, ext, data } = vector;
        serde_json::to_writer(&mut *out, &Answer { dbc, id: *id, ext: *ext, data, result })?;
        out.write_all(b"\n")
    }

    fn values(&mut self, vector: &Vector, row: &mut Row) -> Result<Values, String> {
        let decoder = self.decoder(&vector.dbc)?;
        let id = can_id(vector)?;
        let data = hex::bytes(&vector.data).ok_or("the payload is not hexadecimal digits, two a byte")?;
        match decoder.decode_payload(BusIndex(0), id, &data, row) {
            Outcome::Decoded | Outcome::TooShort | Outcome::Part => {}
            Outcome::Unknown => return Err("no message has this id".to_owned()),
            Outcome::MuxUnmatched => return Err("no signal is defined for a multiplexer's value".to_owned()),
        }
        let named = row.iter().filter_map(|(index, value)| {
            let signal = decoder.manifest().signal(index)?;
            Some((signal.name.clone(), value.physical(signal)))
        });
        Ok(Values(named.collect()))
    }

    fn decoder(&mut self, name: &str) -> Result<&Decoder, String> {
        let loaded = match self.loaded.entry(name.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let loaded = load(self.folder, name);
                entry.insert(loaded.map(|(decoder, warnings)| {
                    self.warnings.extend(warnings);
                    decoder
                }))
            }
        };
        loaded.as_ref().map_err(Clone::clone)
    }
}

fn load(folder: &Path, name: &str) -> Result<(Decoder, Vec<DbcWarning>), String> {
    if Path::new(name).file_name().is_none_or(|file| file != name) {
        return Err(format!("{name:?} is not the name of a file in the folder"));
    }
    let path = folder.join(name);
    let bytes = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let source = DbcSource { name: name.to_owned(), bytes, bus: None };
    let (mut decoder, warnings) =
        dbc::load(&[source], &VssMap::empty()).map_err(|error| error.to_string())?;
    decoder.keep_not_available(true);
    Ok((decoder, warnings))
}

fn can_id(vector: &Vector) -> Result<CanId, String> {
    match (vector.ext, u16::try_from(vector.id)) {
        (false, Ok(id)) if id <= CanId::STANDARD_MAX => Ok(CanId::Standard(id)),
        (true, _) if vector.id <= CanId::EXTENDED_MAX => Ok(CanId::Extended(vector.id)),
        _ => Err(format!("{:#x} is not an id of {} bits", vector.id, if vector.ext { 29 } else { 11 })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causes::with_causes;

    const DBC: &str = "VERSION \"\"\nBU_: ECU\nBO_ 291 Body: 2 ECU\n SG_ Temp : 0|8@1+ (1,-40) [-40|215] \"degC\" ECU\n \
                       SG_ Door : 8|1@1+ (1,0) [0|1] \"\" ECU\n";

    fn answered(lines: &str) -> (Vec<String>, Result<VectorsSummary, String>) {
        let dir = tempfile::tempdir().unwrap();
        let vectors = dir.path().join("vectors");
        fs::write(&vectors, lines).unwrap();
        fs::write(dir.path().join("x.dbc"), DBC).unwrap();
        fs::write(dir.path().join("bad.dbc"), "no DBC").unwrap();
        let mut out = Vec::new();
        let request = VectorsRequest { vectors, dbc_dir: dir.path().to_owned() };
        let summary = decode(&request, &mut out).map_err(|error| with_causes(&error));
        (String::from_utf8(out).unwrap().lines().map(str::to_owned).collect(), summary)
    }

    #[test]
    fn each_line_is_answered_with_values_or_the_reason_why_there_are_none() {
        let (lines, summary) = answered(concat!(
            r#"{"dbc": "x.dbc", "msg": "Body", "id": 291, "ext": false, "data": "7801", "decoded": {"Temp": 80}}"#,
            "\n",
            r#"{"dbc":"x.dbc","id":291,"ext":false,"data":"78"}"#,
            "\n",
            r#"{"dbc":"x.dbc","id":292,"ext":true,"data":"7801"}"#,
            "\n",
            r#"{"dbc":"x.dbc","id":2048,"ext":false,"data":""}"#,
            "\n",
            r#"{"dbc":"x.dbc","id":291,"ext":false,"data":"78f"}"#,
            "\n",
            r#"{"dbc":"../x.dbc","id":291,"ext":false,"data":"7801"}"#,
            "\n",
        ));
        let expected = [
            r#"{"dbc":"x.dbc","id":291,"ext":false,"data":"7801","decoded":{"Temp":80.0,"Door":1.0}}"#,
            r#"{"dbc":"x.dbc","id":291,"ext":false,"data":"78","decoded":{"Temp":80.0}}"#,
            r#"{"dbc":"x.dbc","id":292,"ext":true,"data":"7801","error":"no message has this id"}"#,
            r#"{"dbc":"x.dbc","id":2048,"ext":false,"data":"","error":"0x800 is not an id of 11 bits"}"#,
            r#"{"dbc":"x.dbc","id":291,"ext":false,"data":"78f","error":"the payload is not hexadecimal digits, two a byte"}"#,
            r#"{"dbc":"../x.dbc","id":291,"ext":false,"data":"7801","error":"\"../x.dbc\" is not the name of a file in the folder"}"#,
        ];
        assert_eq!(lines, expected);
        assert_eq!(summary, Ok(VectorsSummary { decoded: 2, errors: 4, ..VectorsSummary::default() }));
    }

    #[test]
    fn a_dbc_that_is_missing_or_broken_is_said_on_each_of_its_lines() {
        let line = |dbc: &str| format!("{{\"dbc\":\"{dbc}\",\"id\":1,\"ext\":false,\"data\":\"00\"}}\n");
        let (lines, summary) = answered(&[line("bad.dbc"), line("no.dbc"), line("bad.dbc")].concat());
        assert!(lines[0].contains("bad.dbc: not a DBC file") && lines[2] == lines[0], "{lines:?}");
        assert!(lines[1].contains("cannot read") && lines[1].contains("no.dbc"), "{lines:?}");
        assert_eq!(summary.unwrap().errors, 3);
    }

    #[test]
    fn a_line_that_is_no_vector_ends_it_and_is_named() {
        let (lines, summary) =
            answered("{\"dbc\":\"x.dbc\",\"id\":291,\"ext\":false,\"data\":\"7801\"}\n{}\n");
        assert_eq!(lines.len(), 1);
        let error = summary.unwrap_err();
        assert!(error.contains("line 2 is not a vector: missing field `dbc`"), "{error}");
    }
}
