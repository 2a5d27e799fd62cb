//! Delivered samples against what cantools decodes from the same recordings.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use convoy_agent_core::dbc::{DbcSource, load};
use convoy_agent_core::vss::VssMap;
use convoy_protocol::manifest::SignalDef;
use serde_json::Value;

use crate::harness::{AgentConfig, Samples, agent, agent_config, repository};

/// A recording with its DBC file and the oracle's figures.
pub(crate) struct Recording {
    pub(crate) log: &'static str,
    pub(crate) dbc: &'static str,
    golden: &'static str,
}

pub(crate) const TRUCK: Recording = Recording {
    log: "tests/data/css-j1939-truck-gps/11111111_00000012_00000001_candump.log.gz",
    dbc: "tests/data/css-j1939-truck-gps/j1939_excerpt.dbc",
    golden: "tests/data/css-j1939-truck-gps/golden.j1939.json",
};
pub(crate) const CAR: Recording = Recording {
    log: "tests/data/css-obd2-gnss-drive/7512BE4D_00000427_00000001_candump.log.gz",
    dbc: "tests/data/css-obd2-gnss-drive/obd2_s01.dbc",
    golden: "tests/data/css-obd2-gnss-drive/golden.obd2.json",
};

impl Recording {
    /// An agent replays the recording to its end, and ends when everything is acknowledged.
    pub(crate) async fn drive(&self, dir: &Path, mqtt: SocketAddr, vehicle_id: &str) {
        let config = AgentConfig {
            vehicle_id,
            mqtt,
            log: &repository(self.log),
            dbcs: &[repository(self.dbc)],
            speed: "\"max\"",
            repeat: false,
            window_ms: 10_000,
            batch_samples: 1_000,
        };
        let mut vehicle = agent(&agent_config(&dir.join(vehicle_id), &config));
        let status = vehicle.ended().await;
        assert!(status.success(), "{status}:\n{}", vehicle.output());
    }

    /// The figures by signal.
    pub(crate) fn golden(&self) -> BTreeMap<String, Value> {
        let text = fs::read_to_string(repository(self.golden)).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        serde_json::from_value(golden["signals"].clone()).unwrap()
    }

    /// Definitions by `Message.Signal`, for the conversion from the DBC unit to the path's.
    fn definitions(&self) -> BTreeMap<String, SignalDef> {
        let bytes = fs::read(repository(self.dbc)).unwrap();
        let source = DbcSource { name: self.dbc.into(), bytes, bus: None };
        let (decoder, _) = load(&[source], &VssMap::builtin()).unwrap();
        let manifest = decoder.manifest();
        let name = |def: &SignalDef| format!("{}.{}", manifest.message_of(def), def.name);
        manifest.signals.iter().map(|def| (name(def), def.clone())).collect()
    }

    /// Every signal that the oracle has valid values of was delivered, and nothing else; counts, minimum, maximum,
    /// first and last are the oracle's.
    pub(crate) fn assert_equals(&self, delivered: &BTreeMap<String, Samples>) {
        let definitions = self.definitions();
        let mut compared = 0;
        for (name, golden) in self.golden() {
            // J1939 not-available and error values are dropped by the agent: the oracle counts those without, too.
            let valid = |field: &str| {
                let value = &golden[format!("valid_{field}")];
                if golden.get("valid_count").is_some() { value.clone() } else { golden[field].clone() }
            };
            let count = valid("count").as_u64().unwrap() as usize;
            let got = delivered.get(&name).map_or(&[] as &[_], |samples| &samples.values);
            assert_eq!(got.len(), count, "{name}: number of samples");
            if count == 0 {
                continue;
            }
            compared += 1;
            let def = &definitions[&name];
            let values: Vec<f64> = got.iter().map(|(_, value)| value.unwrap()).collect();
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let mut expected = vec![("min", least, valid("min")), ("max", most, valid("max"))];
            // The oracle's first and last are of all values, so they compare where none was dropped.
            if golden["count"] == valid("count") {
                expected.push(("first", values[0], golden["first"].clone()));
                expected.push(("last", values[count - 1], golden["last"].clone()));
            }
            for (what, got, golden) in expected {
                let wanted = def.at_path(golden.as_f64().unwrap());
                let error = (got - wanted).abs() / wanted.abs().max(1.0);
                assert!(error < 1e-9, "{name}: {what} is {got}, the oracle says {wanted}");
            }
        }
        assert!(compared > 25, "{compared} signals compared");
        let golden = self.golden();
        let more: Vec<_> = delivered.keys().filter(|name| !golden.contains_key(*name)).collect();
        assert!(more.is_empty(), "delivered but unknown to the oracle: {more:?}");
    }
}

/// How often values crossed a limit upwards, by a plain loop; the next crossing counts once they were below by the
/// hysteresis.
pub(crate) fn crossings(values: &[(i64, Option<f64>)], limit: f64, hysteresis: f64) -> usize {
    let (mut above, mut count) = (false, 0);
    for value in values.iter().filter_map(|(_, value)| *value) {
        if value > limit && !above {
            (above, count) = (true, count + 1);
        } else if value <= limit - hysteresis {
            above = false;
        }
    }
    count
}
