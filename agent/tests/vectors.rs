//! Every vector of other decoders' test files, through `convoy-agent decode --vectors`.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;

use convoy_agent::vectors::{VectorsRequest, VectorsSummary, decode};
use flate2::read::MultiGzDecoder;
use serde_json::Value;

/// cantools computes in another order.
const TOLERANCE: f64 = 1e-9;

/// Messages that cantools refuses as a whole, because signals overlap or one lies outside. Here the others are read, and a
/// warning names the one outside.
const TAKEN: [(&str, &str); 4] = [
    ("bad_message_length.dbc", "Message1"),
    ("issue_63.dbc", "AFT1PSI2"),
    ("vw_mqb.dbc", "PLA_01"),
    ("obd2_s01.dbc", "OBD2_7E8"),
];

/// Values that were compared, and what the decoder says of the whole file.
fn compared(folder: &str) -> (usize, VectorsSummary) {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data")).join(folder);
    let vectors = folder.join("golden.vectors.jsonl.gz");
    let mut out = Vec::new();
    let request = VectorsRequest { vectors: vectors.clone(), dbc_dir: folder };
    let summary = decode(&request, &mut out).unwrap();
    let golden = BufReader::new(MultiGzDecoder::new(std::fs::File::open(vectors).unwrap()));
    let mut answers = out.lines();
    let mut values = 0;
    for line in golden.lines() {
        let (line, answer) = (line.unwrap(), answers.next().unwrap().unwrap());
        values += equal(&line, &answer);
    }
    assert!(answers.next().is_none());
    (values, summary)
}

/// Panics where an answer is another one than the oracle's; how many values are equal.
fn equal(line: &str, answer: &str) -> usize {
    let (expected, found): (Value, Value) =
        (serde_json::from_str(line).unwrap(), serde_json::from_str(answer).unwrap());
    for name in ["dbc", "id", "ext", "data"] {
        assert_eq!(found[name], expected[name], "{line}");
    }
    let message = (expected["dbc"].as_str().unwrap(), expected["msg"].as_str().unwrap());
    let is_refused = expected["error"].is_string() && !TAKEN.contains(&message);
    assert_eq!(found["error"].is_string(), is_refused, "{line}\n{answer}");
    let Some(expected) = expected["decoded"].as_object() else { return 0 };
    let found = found["decoded"].as_object().unwrap();
    assert_eq!(found.len(), expected.len(), "{line}\n{answer}");
    for (name, expected) in expected {
        match (expected.as_f64(), found[name].as_f64()) {
            (Some(expected), Some(value)) => {
                let is_close = (value - expected).abs() <= TOLERANCE * expected.abs().max(value.abs());
                assert!(is_close, "{name} of {line}: {value}");
            }
            // Not a number and infinity, which the oracle writes as a text.
            (None, None) => assert!(expected.is_string() && found[name].is_null(), "{name} of {line}"),
            _ => panic!("{name} of {line}: {answer}"),
        }
    }
    expected.len()
}

fn counts((values, summary): (usize, VectorsSummary)) -> (usize, u64, u64) {
    (values, summary.decoded, summary.errors)
}

#[test]
fn corner_cases_of_multiplexing_and_number_formats_equal_cantools() {
    assert_eq!(counts(compared("cantools-dbc")), (1_304, 582, 78));
}

#[test]
fn files_of_real_cars_equal_cantools() {
    assert_eq!(counts(compared("opendbc-dbc")), (17_925, 3_331, 2));
}

#[test]
fn every_pid_of_service_01_equals_cantools() {
    assert_eq!(counts(compared("obdb-saej1979")), (2_845, 515, 0));
}

#[test]
fn parameters_of_j1939_equal_cantools() {
    assert_eq!(counts(compared("j1939-excerpt-dbc")), (252, 98, 0));
}
