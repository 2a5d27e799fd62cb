//! Which crate may use which: read from `cargo metadata`, held against one table.

use std::process::Command;

use serde_json::{Value, json};

use crate::sources::workspace_root;
use crate::{Finding, assert_clean};

/// One crate of the workspace.
struct Room {
    name: &'static str,
    /// Another target, another heavy dependency or another deployable: a crate needs one of them.
    reason: &'static str,
    /// The crates of ours that it may use.
    may_use: &'static [&'static str],
    /// The arrow holds for what is shipped; tests of this crate may use anything.
    tests_are_free: bool,
    /// Crates of others that it never uses outside its tests; a trailing `*` stands for any ending.
    never: &'static [&'static str],
}

const ROOMS: &[Room] = &[
    Room {
        name: "convoy-protocol",
        reason: "another target: no_std, shared by firmware, agent and cloud",
        may_use: &[],
        tests_are_free: false,
        never: &["tokio", "rumqttc"],
    },
    Room {
        name: "convoy-segment-log",
        reason: "another target: both the vehicle and the cloud keep a crash-safe log",
        may_use: &[],
        tests_are_free: false,
        never: &["tokio"],
    },
    Room {
        name: "convoy-dongle",
        reason: "another target: no_std on a microcontroller",
        may_use: &["convoy-protocol", "convoy-slots"],
        tests_are_free: false,
        never: &["tokio"],
    },
    Room {
        name: "convoy-slots",
        reason: "another deployable: the boot loader, which starts what the dongle wrote",
        may_use: &["convoy-protocol"],
        tests_are_free: false,
        never: &["tokio"],
    },
    Room {
        name: "convoy-controllers",
        reason: "another heavy dependency: drivers of chips, which not every board carries",
        may_use: &["convoy-dongle", "convoy-protocol"],
        tests_are_free: false,
        never: &["tokio"],
    },
    Room {
        name: "convoy-agent-core",
        reason: "another target: no input or output, no clock, runs under any shell",
        may_use: &["convoy-protocol"],
        // Its end of the dongle's line is tested against the dongle itself.
        tests_are_free: true,
        never: &["tokio", "rumqttc"],
    },
    Room {
        name: "convoy-agent",
        reason: "another deployable: the process in the vehicle",
        may_use: &["convoy-agent-core", "convoy-protocol", "convoy-segment-log"],
        tests_are_free: true,
        never: &["cloud-*", "aws-*", "sqlx", "rusqlite", "axum"],
    },
    Room {
        name: "convoy-cloud-core",
        reason: "another target: the same rules under Lambda and on one machine",
        may_use: &["convoy-protocol"],
        tests_are_free: false,
        never: &["aws-*", "sqlx", "rusqlite", "tokio", "reqwest"],
    },
    Room {
        name: "convoy-cloud-shell",
        reason: "another heavy dependency: MQTT and HTTP clients, the same under both homes",
        may_use: &["convoy-cloud-core", "convoy-protocol"],
        tests_are_free: false,
        never: &["aws-*", "sqlx", "rusqlite"],
    },
    Room {
        name: "convoy-reference",
        reason: "another heavy dependency: sqlx, and all SQL of the reference database",
        may_use: &["convoy-cloud-core", "convoy-protocol"],
        tests_are_free: false,
        never: &["aws-*"],
    },
    Room {
        name: "convoy",
        reason: "another deployable: the cloud on one machine, without the AWS SDK",
        may_use: &[
            "convoy-cloud-core",
            "convoy-cloud-shell",
            "convoy-reference",
            "convoy-protocol",
            "convoy-segment-log",
            "convoy-simulator",
        ],
        tests_are_free: false,
        never: &["aws-*"],
    },
    Room {
        name: "convoy-aws",
        reason: "another deployable: the bridge and the functions on AWS",
        may_use: &["convoy-cloud-core", "convoy-cloud-shell", "convoy-reference", "convoy-protocol"],
        tests_are_free: true,
        never: &["rusqlite", "rumqttd"],
    },
    Room {
        name: "convoy-simulator",
        reason: "another deployable: virtual vehicles, for the suites and for the demo",
        may_use: &["convoy-agent", "convoy-agent-core", "convoy-dongle", "convoy-protocol"],
        tests_are_free: true,
        never: &["aws-*", "sqlx", "rusqlite"],
    },
    Room {
        name: "crc-fast",
        reason: "another crate's place: see its README.md",
        may_use: &[],
        tests_are_free: false,
        never: &["tokio"],
    },
    Room {
        name: "xtask",
        reason: "another deployable: the door for people and CI, built before anything else of ours",
        // The layout of what it signs.
        may_use: &["convoy-protocol", "convoy-slots"],
        tests_are_free: false,
        never: &[],
    },
];

const WHY: &str = "a core that cannot reach a runtime, a database or a cloud can be tested without them and moved; \
     a new crate needs another target, another heavy dependency or another deployable, said in ROOMS";

#[test]
fn crates_use_only_what_lies_behind_their_arrow() {
    assert_clean(&findings(&metadata()), WHY);
}

#[test]
fn every_room_of_the_table_exists() {
    let metadata = metadata();
    let gone: Vec<Finding> = ROOMS
        .iter()
        .filter(|room| !packages(&metadata).any(|package| package["name"] == room.name))
        .map(|room| {
            Finding::new("tests/tests/tidy/arrows.rs", 0, format!("{} is no crate: remove it", room.name))
        })
        .collect();
    assert_clean(&gone, "a table that names what is gone is not read any more");
}

fn metadata() -> Value {
    let arguments = ["metadata", "--format-version", "1", "--no-deps"];
    let cargo = || {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(arguments).current_dir(workspace_root());
        cargo
    };
    let mut output = cargo().arg("--offline").output().expect("start cargo");
    if !output.status.success() {
        output = cargo().output().expect("start cargo");
    }
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata failed: {problem}");
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn findings(metadata: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages(metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        match ROOMS.iter().find(|room| room.name == name) {
            Some(room) => check_room(room, package, &mut findings),
            None => findings.push(Finding::new(
                "Cargo.toml",
                0,
                format!("the crate {name} is not in ROOMS of tests/tests/tidy/arrows.rs: name it there with its reason"),
            )),
        }
    }
    findings
}

fn check_room(room: &Room, package: &Value, findings: &mut Vec<Finding>) {
    let manifest = manifest_path(package);
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        // The name in the registry, whatever the manifest renames it to.
        let used = dependency["name"].as_str().unwrap_or_default();
        let in_tests = dependency["kind"] == "dev";
        let ours = ROOMS.iter().any(|room| room.name == used) || !dependency["path"].is_null();
        if ours && !room.may_use.contains(&used) && !(in_tests && room.tests_are_free) {
            let what = format!("{} may not use {used} ({})", room.name, room.reason);
            findings.push(Finding::new(&manifest, 0, what));
        }
        if !in_tests && room.never.iter().any(|pattern| matches(pattern, used)) {
            findings.push(Finding::new(&manifest, 0, format!("{} never uses {used}", room.name)));
        }
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

fn manifest_path(package: &Value) -> String {
    let full = package["manifest_path"].as_str().unwrap_or("Cargo.toml");
    let root = workspace_root().to_string_lossy();
    full.strip_prefix(root.as_ref()).unwrap_or(full).trim_start_matches('/').to_owned()
}

fn made_up(name: &str, dependency: &str, kind: Option<&str>) -> Vec<String> {
    let package = json!({
        "name": name,
        "manifest_path": "room/Cargo.toml",
        "dependencies": [{ "name": dependency, "kind": kind }],
    });
    let findings = findings(&json!({ "packages": [package] }));
    findings.into_iter().map(|finding| finding.what).collect()
}

#[test]
fn a_wrong_arrow_is_found() {
    let found = made_up("convoy-agent", "convoy-cloud-core", None);
    assert_eq!(
        found,
        ["convoy-agent may not use convoy-cloud-core (another deployable: the process in the vehicle)"]
    );
    assert_eq!(made_up("convoy-segment-log", "convoy-protocol", Some("dev")).len(), 1);
    assert_eq!(made_up("convoy-agent", "convoy-protocol", None), [""; 0]);
}

#[test]
fn a_runtime_in_a_core_is_found_outside_its_tests() {
    assert_eq!(made_up("convoy-agent-core", "tokio", None), ["convoy-agent-core never uses tokio"]);
    assert_eq!(made_up("convoy-cloud-core", "tokio", Some("build")), ["convoy-cloud-core never uses tokio"]);
    assert_eq!(made_up("convoy-cloud-core", "tokio", Some("dev")), [""; 0]);
    assert_eq!(made_up("convoy", "aws-sdk-sqs", None), ["convoy never uses aws-sdk-sqs"]);
}

#[test]
fn the_suites_may_use_anything_and_the_simulator_may_not() {
    assert_eq!(made_up("convoy-simulator", "convoy-reference", Some("dev")), [""; 0]);
    assert_eq!(made_up("convoy-simulator", "convoy-reference", None).len(), 1);
}

#[test]
fn a_crate_that_nobody_named_is_found() {
    let found = made_up("convoy-extra", "serde", None);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("the crate convoy-extra is not in ROOMS"), "{found:?}");
}
