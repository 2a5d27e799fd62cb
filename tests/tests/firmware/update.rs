//! Another firmware for the emulated board: over the link, through its boot loader, and back again where it does not work.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use convoy_agent_core::dongle::{FirmwareFile, Image, UpdateFailure, UpdateProgress};
use convoy_protocol::firmware::ImageHeader;
use convoy_protocol::frame::CanId;
use convoy_protocol::link::{FirmwareVersion, LinkDecoder, ResetCause, Slot, SlotState, Up};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::Value;
use sha2::{Digest as _, Sha512};

use crate::agent::{Agent, Way, whole};
use crate::machine::{Machine, firmware, told};
use crate::process::agent_program;

/// The key that the boot loader trusts: `cargo xtask firmware` made it.
fn key() -> SigningKey {
    let text = std::fs::read_to_string(told("CONVOY_FIRMWARE_KEY")).unwrap();
    let bytes: Vec<u8> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
    SigningKey::from_bytes(&bytes.try_into().unwrap())
}

fn signed(mut header: ImageHeader, key: &SigningKey) -> ImageHeader {
    header.signature = key.sign(&header.signed_bytes()).to_bytes();
    header
}

/// The images that were built, as another version.
fn images(version: FirmwareVersion, key: &SigningKey) -> Vec<Image> {
    let file = FirmwareFile::read(&std::fs::read(firmware().join("update.firmware")).unwrap()).unwrap();
    let image = |image: &Image| {
        let mut header = image.header;
        header.version = version;
        Image { header: signed(header, key), bytes: image.bytes.clone() }
    };
    file.images().iter().map(image).collect()
}

/// For the slot that the factory leaves empty.
fn image_b(version: FirmwareVersion) -> Image {
    images(version, &key()).remove(1)
}

fn write(images: &[Image], path: PathBuf) -> PathBuf {
    let bytes: Vec<u8> =
        images.iter().flat_map(|image| [&image.header.bytes()[..], &image.bytes].concat()).collect();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn dongle(arguments: &[&str], paths: &[&Path]) -> Output {
    let mut command = Command::new(agent_program());
    command.arg("dongle").args(arguments).args(paths).stdin(Stdio::null());
    command.output().unwrap()
}

/// Version and state of each slot, and which runs.
fn slots(line: &Path) -> [(String, String, bool); 2] {
    let output = dongle(&["status", "--json"], &[line]);
    let status: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    [0, 1].map(|slot| {
        let slot = &status["slots"][slot];
        let text = |key: &str| slot[key].as_str().unwrap_or("none").to_owned();
        (text("version"), text("state"), slot["runs"].as_bool().unwrap())
    })
}

fn slot(version: &str, state: &str, runs: bool) -> (String, String, bool) {
    (version.to_owned(), state.to_owned(), runs)
}

fn failed(output: &Output, code: i32, why: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && text.contains(why), "{output:?}");
}

#[test]
fn the_installed_agent_updates_a_dongle_there_and_back_and_a_file_that_is_not_trusted_changes_nothing() {
    let machine = Machine::lm3s6965_on_a_terminal();
    let line = machine.link.as_path();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, images: &[Image]| write(images, folder.path().join(name));
    assert_eq!(slots(line), [slot("0.1.0", "confirmed", true), slot("none", "empty", false)]);
    for (version, expected) in [
        ((0, 2, 0), [slot("0.1.0", "confirmed", false), slot("0.2.0", "confirmed", true)]),
        ((0, 2, 1), [slot("0.2.1", "confirmed", true), slot("0.2.0", "confirmed", false)]),
    ] {
        let newer = file("newer", &images(version, &key()));
        let output = dongle(&["update"], &[line, &newer]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(slots(line), expected);
    }
    let forged = file("forged", &images((0, 3, 0), &SigningKey::from_bytes(&[1; 32])));
    failed(&dongle(&["update"], &[line, &forged]), 70, "does not trust the signature");
    assert_eq!(slots(line), [slot("0.2.1", "confirmed", true), slot("0.3.0", "refused", false)]);
    let older = file("older", &images((0, 2, 0), &key()));
    failed(&dongle(&["update"], &[line, &older]), 65, "older ones are refused");
    failed(&dongle(&["update"], &[line, Path::new("/dev/null")]), 65, "the file is empty");
    let table = String::from_utf8(dongle(&["status"], &[line]).stdout).unwrap();
    for said in
        ["board       lm3s6965", "firmware    0.2.1", "started     it was asked to", "0.2.1, confirmed, runs"]
    {
        assert!(table.contains(said), "{table}");
    }
}

/// Whether frames still come.
fn carries(machine: &mut Machine, agent: &mut Agent) {
    agent.run(machine, &mut whole(), |agent| agent.session.is_up());
    let frames = [(CanId::Standard(0x123), vec![1, 2]), (CanId::Standard(0x124), vec![3])];
    let before = agent.frames.len();
    machine.bus.send_frames(&frames);
    agent.run(machine, &mut whole(), |agent| agent.frames.len() == before + 2);
    assert_eq!(agent.frames[before..], frames);
}

fn greeted() -> (Machine, Agent) {
    let (mut machine, mut agent) = (Machine::lm3s6965(), Agent::new(true));
    let is_known = |agent: &Agent| agent.session.is_up() && agent.session.firmware().is_some();
    agent.run(&mut machine, &mut whole(), is_known);
    (machine, agent)
}

/// As the board's button does; the agent notices.
fn reset(machine: &mut Machine, agent: &mut Agent) {
    let resets = agent.session.counters().resets;
    machine.reset();
    agent.run(machine, &mut whole(), |agent| agent.session.counters().resets > resets);
}

fn is_over(agent: &Agent) -> bool {
    matches!(agent.session.update_progress(), Some(UpdateProgress::Done | UpdateProgress::Failed(_)))
}

#[test]
fn a_reset_in_the_midst_of_an_update_begins_it_anew() {
    let (mut machine, mut agent) = greeted();
    assert!(agent.session.update(image_b((0, 2, 0))));
    for _ in 0..2 {
        let is_halfway = |agent: &Agent| {
            matches!(agent.session.update_progress(), Some(UpdateProgress::Sending { sent: 10_000.., .. }))
        };
        agent.run(&mut machine, &mut whole(), is_halfway);
        reset(&mut machine, &mut agent);
    }
    agent.run(&mut machine, &mut whole(), is_over);
    assert_eq!(agent.session.update_progress(), Some(UpdateProgress::Done));
    let description = agent.session.description().unwrap();
    assert_eq!((description.firmware, description.reset), ((0, 2, 0), ResetCause::Software));
    carries(&mut machine, &mut agent);
    // It stays, whatever resets it.
    reset(&mut machine, &mut agent);
    carries(&mut machine, &mut agent);
    assert_eq!(agent.session.description().unwrap().firmware, (0, 2, 0));
}

#[test]
fn an_image_that_hangs_is_reset_by_the_watchdog_and_the_one_before_runs_again() {
    let (mut machine, mut agent) = greeted();
    // Vectors, and a jump to itself.
    let address = image_b((0, 2, 0)).header.address;
    let words = [0x2000_3800, (address + 8) | 1, 0xE7FE_E7FE];
    let bytes: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    let digest = Sha512::digest(&bytes).into();
    let header = ImageHeader::new("lm3s6965", address, 12, (0, 2, 0), digest).unwrap();
    assert!(agent.session.update(Image { header: signed(header, &key()), bytes }));
    agent.run(&mut machine, &mut whole(), is_over);
    let went_back = UpdateProgress::Failed(UpdateFailure::WentBack(SlotState::Tried));
    assert_eq!(agent.session.update_progress(), Some(went_back));
    assert_eq!(agent.session.firmware().unwrap().running, Some(Slot::A));
    carries(&mut machine, &mut agent);
}

#[test]
fn an_image_that_nobody_hears_is_given_up_and_the_one_before_runs_again() {
    let (mut machine, mut agent) = greeted();
    assert!(agent.session.update(image_b((0, 2, 0))));
    // It has said that it started; what it has not said yet is how it does.
    agent.run(&mut machine, &mut whole(), |agent| agent.session.counters().resets > 0);
    assert_eq!(agent.session.update_progress(), Some(UpdateProgress::Restarting));
    // Its line is dead until it starts again, which its greetings tell: nobody answers them.
    let (mut decoder, mut uptime_us) = (LinkDecoder::new(), 0);
    let starts = Cell::new(0);
    let mut dead = |bytes: Vec<u8>, way: Way| {
        for byte in bytes.into_iter().filter(|_| way == Way::ToAgent) {
            if let Some(Up::Hello(info)) = decoder.push(byte).and_then(|packet| packet.message()) {
                starts.set(starts.get() + u32::from(info.uptime_us < uptime_us));
                uptime_us = info.uptime_us;
            }
        }
        Vec::new()
    };
    agent.run(&mut machine, &mut dead, |_| starts.get() > 0);
    agent.run(&mut machine, &mut whole(), is_over);
    let went_back = UpdateProgress::Failed(UpdateFailure::WentBack(SlotState::GivenUp));
    assert_eq!(agent.session.update_progress(), Some(went_back));
    carries(&mut machine, &mut agent);
}
