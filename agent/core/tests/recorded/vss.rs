//! The built-in map against VSS release 6.0.

use convoy_agent_core::vss::VssMap;

use crate::recording::{GPS_DBC, J1939_DBC, OBD_DBC, data, decoder, unzip};

#[test]
fn every_mapped_path_is_a_leaf_of_vss_6_with_its_unit() {
    let tree: serde_json::Value =
        serde_json::from_str(&unzip(data!("covesa-vss/vss_release_6.0.json.gz"))).unwrap();
    let map = VssMap::builtin();
    assert!(map.iter().count() >= 30);
    for (signal, target) in map.iter() {
        let mut parts = target.path.split('.');
        let mut node = &tree[parts.next().unwrap()];
        for part in parts {
            node = &node["children"][part];
        }
        assert!(node["datatype"].is_string(), "{signal}: {} is not a leaf", target.path);
        assert!(node["datatype"] != "string", "{signal}: {} is a text", target.path);
        assert_eq!(node["unit"].as_str().unwrap_or(""), target.unit, "{signal}: unit of {}", target.path);
    }
}

#[test]
fn every_mapped_signal_exists_in_its_dbc() {
    let decoder = decoder(&[
        ("j1939.dbc", J1939_DBC, None),
        ("obd2.dbc", OBD_DBC, Some(1)),
        ("gps.dbc", GPS_DBC, Some(2)),
        ("obd.json", &convoy_agent_core::obd::signal_set(), Some(3)),
        ("gnss.dbc", convoy_agent_core::nmea::GNSS_DBC.as_bytes(), Some(4)),
    ]);
    let manifest = decoder.manifest();
    let names: std::collections::BTreeSet<String> =
        manifest.signals.iter().map(|def| format!("{}.{}", manifest.message_of(def), def.name)).collect();
    for (signal, _) in VssMap::builtin().iter() {
        assert!(names.contains(signal), "{signal} is in no DBC");
    }
}
