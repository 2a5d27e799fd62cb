//! The agent as it is installed, with adapters on serial lines: asked, listened to, broken and closed.
#![allow(clippy::print_stdout, reason = "a test that does not run says so")]
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use convoy_protocol::frame::CanId;

#[path = "harness/agent.rs"]
mod agent;
#[path = "adapters/dongle.rs"]
mod dongle;
#[path = "adapters/elm.rs"]
mod elm;
#[path = "adapters/pty.rs"]
mod pty;

use agent::Agent;
use dongle::CarWithDongle;
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
fn a_code_is_told_with_its_freeze_frame_and_closed_after_a_restart_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let pty = Pty::start(dir.path(), Elm::new(Habits::default(), &[]));
    let sources = format!(
        "{}trouble_codes_period_ms = 200\n[[campaign]]\nname = \"codes\"\ntrouble_codes = true\n",
        elm_source(&pty.device)
    );
    let agent = Agent::start_unwatched(dir, "mqtt://127.0.0.1:9", &sources);
    let counts = |status: &serde_json::Value| {
        ["dtc_changes", "frozen_frames", "frozen_dropped"]
            .map(|name| status["counters"][name].as_u64().unwrap())
    };
    agent.wait_for("a freeze frame", |status| counts(status) == [1, 1, 0]);
    let kept = agent.config().with_file_name("spool").join("trouble-codes");
    let deadline = Instant::now() + agent::PATIENCE;
    while !kept.exists() {
        assert!(Instant::now() < deadline, "{}", agent.log());
        thread::sleep(Duration::from_millis(50));
    }
    // Still there after a power cut: it is told once, and the frame is read once more.
    let agent = agent.restart();
    agent.wait_for("the freeze frame again", |status| counts(status) == [1, 1, 0]);
    pty.adapter.lock().unwrap().has_code = false;
    let agent = agent.restart();
    agent.wait_for("the end of the code", |status| counts(status) == [1, 0, 0]);
    assert!(!agent.log().contains("trouble codes that were kept"), "{}", agent.log());
}

#[test]
fn a_dongle_asks_the_car_and_comes_back_after_a_reset_and_a_broken_line() {
    let dir = tempfile::tempdir().unwrap();
    let pty = Pty::start(dir.path(), CarWithDongle::new());
    let sources = format!(
        "[[source]]\nurl = \"dongle:{}?bitrate=250000\"\nbus = \"car\"\n\
         [[poll]]\nbus = \"car\"\nframes_per_s_max = 50\nobd_period_ms = 100\n",
        pty.device.display()
    );
    let agent = Agent::start(dir, &sources);
    assert_eq!(agent.values(&["EngineSpeed"])["EngineSpeed"], 1_500.0);
    let status = agent.wait_for("its health", |status| {
        status["sources"][0]["detail"] == "simulated, firmware 0.1.0, may send, error active"
    });
    let source = &status["sources"][0];
    assert_eq!((source["state"].as_str(), source["dropped"].as_u64()), (Some("up"), Some(0)), "{source}");
    {
        let car = pty.adapter.lock().unwrap();
        assert_eq!(car.opened, [(250_000, false)]);
        let asked = (CanId::Standard(0x7DF), [2, 0x01, 0x00, 0xCC, 0xCC, 0xCC, 0xCC, 0xCC]);
        assert_eq!(car.asked[0], asked);
    }
    pty.adapter.lock().unwrap().reset();
    let reset = |status: &serde_json::Value| {
        status["sources"][0]["detail"].as_str().is_some_and(|detail| detail.contains("started anew"))
    };
    agent.wait_for("the reset", reset);
    assert!(agent.longest_gap("EngineSpeed", 12) < RECOVERED_WITHIN);
    pty.adapter.lock().unwrap().hangs_up = true;
    agent.wait_for("another opening", |status| status["sources"][0]["reopened"].as_u64() >= Some(1));
    assert!(agent.longest_gap("EngineSpeed", 12) < RECOVERED_WITHIN);
    assert_eq!(agent.status()["sources"][0]["dropped"], 0);
}

#[test]
fn a_dongle_is_looked_at_when_no_agent_has_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let pty = Pty::start(dir.path(), CarWithDongle::new());
    let look = || {
        let mut command = Command::new(agent::program());
        command.args(["dongle", "status"]).arg(&pty.device).stdin(Stdio::null()).output().unwrap()
    };
    let sources = format!(
        "[[source]]\nurl = \"dongle:{}\"\nbus = \"car\"\n[[poll]]\nbus = \"car\"\nobd_period_ms = 100\n",
        pty.device.display()
    );
    let agent = Agent::start_unwatched(tempfile::tempdir().unwrap(), "mqtt://127.0.0.1:9", &sources);
    agent.wait_for("the dongle", |status| status["sources"][0]["state"] == "up");
    let taken = look();
    let why = String::from_utf8_lossy(&taken.stderr);
    assert!(
        taken.status.code() == Some(69) && why.contains("an agent that uses it has to be stopped"),
        "{why}"
    );
    drop(agent);
    let seen = look();
    let table = String::from_utf8_lossy(&seen.stdout);
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    for said in ["board       simulated", "slots       none: it takes no updates", "bus 0       error active"]
    {
        assert!(table.contains(said), "{table}");
    }
    // Only the agent has opened the bus.
    assert_eq!(pty.adapter.lock().unwrap().opened.len(), 1);
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

/// Two serial lines whose ends are connected: what one program sends, the other one gets.
struct Cable {
    ends: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Cable {
    fn start(links: [PathBuf; 2]) -> Self {
        let [mut one, mut two] = links.map(|link| pty::open(&link));
        for end in [&mut one, &mut two] {
            serialport::SerialPort::set_timeout(end, Duration::from_millis(1)).unwrap();
        }
        let ends = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while !ending.load(Ordering::Relaxed) {
                // An end that nobody has open is an error at once, and loses what is sent to it.
                let moved = pump(&mut one, &mut two, &mut buffer) + pump(&mut two, &mut one, &mut buffer);
                if moved == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

fn pump(from: &mut serialport::TTYPort, to: &mut serialport::TTYPort, buffer: &mut [u8]) -> usize {
    let len = from.read(buffer).unwrap_or(0);
    let _ = to.write_all(&buffer[..len]);
    len
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

const ECU_DBC: &str = "VERSION \"\"\nBU_: X\nBO_ 291 Counter: 2 X\n SG_ Up : 0|8@1+ (1,0) [0|0] \"\" X\n \
                       SG_ Down : 8|8@1+ (1,0) [0|0] \"\" X\n";
const ECU_SET: &str = r#"{"commands":[
    {"hdr":"7E0","rax":"7E8","cmd":{"22":"F190"},"signals":[{"id":"LAST_OF_VIN","fmt":{"bix":128,"len":8,"max":255}}]},
    {"hdr":"7E0","rax":"7E8","cmd":{"22":"F191"},"signals":[{"id":"BYTE_199","fmt":{"bix":1592,"len":8,"max":255}}]}
]}"#;

/// Python's ends of SLCAN, ISO-TP and UDS, which know nothing of ours; only where a suite brought them.
#[test]
fn slcan_isotp_and_uds_are_understood_by_others() {
    let Some(python) = std::env::var_os("CONVOY_VEHICLE_PYTHON") else {
        println!("not run: this test needs the Python of `cargo xtask test unit`");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ecu.dbc"), ECU_DBC).unwrap();
    std::fs::write(dir.path().join("ecu.json"), ECU_SET).unwrap();
    let links = [dir.path().join("ttyAGENT"), dir.path().join("ttyECU")];
    let _cable = Cable::start(links.clone());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/adapters/ecu.py");
    let mut ecu = Command::new(python);
    let log = std::fs::File::create(dir.path().join("ecu.log")).unwrap();
    let ecu =
        agent::Running(ecu.arg(script).arg(&links[1]).stdin(Stdio::piped()).stderr(log).spawn().unwrap());
    let sources = format!(
        "[[source]]\nurl = \"slcan:{}?bitrate=500000\"\nbus = \"can0\"\n\
         [[poll]]\nbus = \"can0\"\nframes_per_s_max = 100\n\
         requests = [{{ id = \"7E0\", data = \"22F190\", period_ms = 300 }}, {{ id = \"7E0\", data = \"22F191\", period_ms = 1000 }},\n\
                     {{ id = \"7E0\", data = \"22F1FF\", period_ms = 300 }}]\n\
         [[dbc]]\nfile = \"ecu.dbc\"\n[[dbc]]\nfile = \"ecu.json\"\n",
        links[0].display()
    );
    let agent = Agent::start(dir, &sources);
    for _ in 0..3 {
        let values = agent.values(&["LAST_OF_VIN", "BYTE_199"]);
        assert_eq!(values.into_values().collect::<Vec<_>>(), [199.0, f64::from(b'E')]);
    }
    // Frames that nobody asked for, none of them lost: the counter has no gap.
    let mut before = None;
    for _ in 0..200 {
        let (_, line) = agent.next();
        if line["signal"] == "Up" {
            let up = line["value"].as_f64().unwrap();
            assert!(before.is_none_or(|before: f64| (before + 1.0) % 256.0 == up), "{before:?} {up}");
            before = Some(up);
        }
    }
    let status = agent.status();
    let count = |name: &str| status["counters"][name].as_u64().unwrap();
    assert_eq!((&status["sources"][0]["state"], count("isotp_malformed")), (&"up".into(), 0), "{status}");
    // A Python that gets no processor for a second loses an answer that it is sending.
    assert!(count("isotp_aborted") * 10 <= count("isotp_messages"), "{status}");
    drop(ecu);
}

#[test]
fn a_configuration_is_read_again_without_a_restart_and_one_with_faults_is_refused() {
    let (pty, mut agent) = with_elm(Habits::default(), &[]);
    agent.values(&["EngineSpeed"]);
    let boot = |status: &serde_json::Value| status["boot_id"].as_str().unwrap().to_owned();
    let (first, config) = (boot(&agent.status()), agent.config());
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("obd_period_ms", "colour")).unwrap();
    agent.hang_up();
    agent.wait_for_log("the agent goes on as before");
    std::fs::write(&config, format!("{good}[[dbc]]\nfile = \"broken.dbc\"\n")).unwrap();
    std::fs::write(config.with_file_name("broken.dbc"), "no DBC").unwrap();
    agent.hang_up();
    agent.wait_for_log("broken.dbc: not a DBC file");
    assert_eq!(boot(&agent.status()), first);
    agent.values(&["EngineSpeed"]);
    std::fs::write(&config, good.replace("bus = \"obd\"", "bus = \"renamed\"")).unwrap();
    agent.hang_up();
    agent.wait_for("the new name", |status| status["sources"][0]["bus"] == "renamed");
    assert_ne!(boot(&agent.status()), first);
    agent.watch();
    agent.values(&["EngineSpeed"]);
    drop(pty);
}
