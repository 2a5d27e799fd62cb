//! What a function counted in one invocation, as one line in CloudWatch's embedded metric format.
//!
//! The only dimension is the function: a customer is never one, which would cost a metric each.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use convoy_cloud_core::counters::Counters;
use serde_json::{Map, Value, json};

/// CloudWatch's limit of metrics in one line.
const METRICS_MAX: usize = 100;

/// Says what has been counted since it last said so.
pub struct Emitter {
    function: &'static str,
    said: Mutex<BTreeMap<&'static str, u64>>,
}

impl Emitter {
    /// For one function.
    pub fn new(function: &'static str) -> Self {
        Self { function, said: Mutex::default() }
    }

    /// The line for what has been counted since the last one; `None` for nothing. `now_ms` is in milliseconds since
    /// the Unix epoch.
    pub fn line(&self, counters: &Counters, now_ms: i64) -> Option<String> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut values = Map::new();
        for (name, value) in counters.values() {
            let before = said.insert(name, value).unwrap_or(0);
            if value > before && values.len() < METRICS_MAX {
                values.insert(name.to_owned(), Value::from(value - before));
            }
        }
        if values.is_empty() {
            return None;
        }
        let metrics: Vec<Value> = values.keys().map(|name| json!({"Name": name, "Unit": "Count"})).collect();
        values.insert("Function".to_owned(), self.function.into());
        let directive = json!({"Namespace": "Convoy", "Dimensions": [["Function"]], "Metrics": metrics});
        values.insert("_aws".to_owned(), json!({"Timestamp": now_ms, "CloudWatchMetrics": [directive]}));
        Some(Value::Object(values).to_string())
    }

    /// Writes the line where CloudWatch reads it. A closed standard output loses it, and nothing else.
    pub fn emit(&self, counters: &Counters, now_ms: i64) {
        if let Some(line) = self.line(counters, now_ms) {
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoy_cloud_core::counters::add;

    #[test]
    fn a_line_holds_what_was_counted_since_the_last_one() {
        let (emitter, counters) = (Emitter::new("ingest"), Counters::default());
        assert_eq!(emitter.line(&counters, 1), None);
        add(&counters.records_ingested, 3);
        let line: Value = serde_json::from_str(&emitter.line(&counters, 5).unwrap()).unwrap();
        assert_eq!((&line["records_ingested"], &line["Function"]), (&json!(3), &json!("ingest")));
        assert_eq!(line["_aws"]["Timestamp"], 5);
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(directive["Metrics"], json!([{"Name": "records_ingested", "Unit": "Count"}]));
        assert_eq!(emitter.line(&counters, 6), None);
        add(&counters.records_ingested, 2);
        assert!(emitter.line(&counters, 7).unwrap().contains("\"records_ingested\":2"));
    }
}
