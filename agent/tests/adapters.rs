//! The agent as it is installed, with adapters on serial lines: asked, listened to, broken and closed.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::path::Path;
use std::thread;
use std::time::Duration;

#[path = "harness/agent.rs"]
mod agent;
#[path = "adapters/elm.rs"]
mod elm;
#[path = "adapters/pty.rs"]
mod pty;

use agent::Agent;
use elm::{Elm, Fault, Habits, Reply};
use pty::{Adapter, Pty};

/// From the moment something breaks to the next value, as promised to users.
const RECOVERED_WITHIN: Duration = Duration::from_secs(10);
impl Adapter for Elm {
    fn handle(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        match Elm::handle(self, bytes) {
            Reply::Bytes(bytes) => Some(bytes),
            Reply::HangUp => None,
        }
    }

    fn reopened(&mut self) {
        Elm::reopened(self);
    }
}

fn elm_source(device: &Path) -> String {
    format!(
        "[[source]]\nurl = \"elm327:{}\"\nbus = \"obd\"\n\
         [[poll]]\nbus = \"obd\"\nframes_per_s_max = 50\nobd_period_ms = 200\n",
        device.display()
    )
}

fn with_elm(habits: Habits, faults: &[(usize, Fault)]) -> (Pty<Elm>, Agent) {
    let dir = tempfile::tempdir().unwrap();
    let pty = Pty::start(dir.path(), Elm::new(habits, faults));
    let agent = Agent::start(dir, &elm_source(&pty.device));
    (pty, agent)
}

#[test]
fn adapters_and_their_imitations_are_read_alike() {
    let none = Habits::default();
    let imitations = [
        none,
        Habits { echoes: true, sends_newlines: true, ..none },
        Habits { packs: true, glues: true, ..none },
        Habits { knows_little: true, glues: true, echoes: true, ..none },
        Habits { is_headless: true, knows_little: true, ..none },
        Habits { is_legacy: true, glues: true, ..none },
    ];
    for habits in imitations {
        let (pty, agent) = with_elm(habits, &[]);
        let values = agent.values(&["EngineSpeed", "VehicleSpeed", "FuelLevel"]);
        let expected =
            [("EngineSpeed", 1_500.0), ("FuelLevel", 128.0 * 100.0 / 255.0), ("VehicleSpeed", 50.0)];
        for ((name, value), (expected_name, expected)) in values.iter().zip(expected) {
            assert!(name == expected_name && (value - expected).abs() < 1e-9, "{habits:?}: {values:?}");
        }
        let source = &agent.status()["sources"][0];
        assert_eq!(
            (source["state"].as_str(), source["polling"].as_str()),
            (Some("up"), Some("asking")),
            "{source}"
        );
        let ecus = if habits.is_headless { 1 } else { 2 };
        assert_eq!(source["ecus"].as_array().unwrap().len(), ecus, "{habits:?}: {source}");
        assert!(pty.adapter.lock().unwrap().asked.starts_with(&["0100".into(), "0120".into()]), "{habits:?}");
    }
}

#[test]
fn whatever_an_adapter_does_the_next_value_comes_within_ten_seconds() {
    let faults = [
        Fault::Says("STOPPED"),
        Fault::Says("BUFFER FULL"),
        Fault::Says("CAN ERROR"),
        Fault::Says("<RX ERROR"),
        Fault::Says("UNABLE TO CONNECT"),
        Fault::Says("NO DATA"),
        Fault::HalfLine,
        Fault::Resets,
        Fault::HangUntilStopped,
        Fault::HangForGood,
        Fault::HangsUp,
    ];
    let recovers = |fault: Fault| {
        let (pty, agent) = with_elm(Habits::default(), &[(12, fault)]);
        let longest = agent.longest_gap("EngineSpeed", 12);
        assert!(longest < RECOVERED_WITHIN, "{fault:?}: {longest:?}");
        assert!(pty.adapter.lock().unwrap().requests > 12, "{fault:?}");
        // Nothing wrong was ever read.
        let values = agent.values(&["EngineSpeed", "VehicleSpeed"]);
        assert_eq!(values.into_values().collect::<Vec<_>>(), [1_500.0, 50.0], "{fault:?}");
    };
    // Most of it is waiting.
    thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || recovers(fault));
        }
    });
}
