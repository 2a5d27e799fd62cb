use convoy_protocol::firmware::IMAGE_OFFSET;
use convoy_protocol::link::SlotState;
use convoy_slots::{Layout, MARKS_OFFSET, MemoryFlash, Slots, Update, factory_marks};
use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;

use super::super::tests::Pair;
use super::super::{BusIndex, DongleOptions, HUNG_AFTER_US};
use super::*;

/// What the tests of the session have in place of flash, too.
pub(in super::super) type Memory = MemoryFlash<Vec<u8>>;

const BOARD: &str = "simulated";
const SLOT_BYTES: u32 = 4_096;
const LAYOUT: Layout = Layout { address: 0x800, offsets: [0, SLOT_BYTES], slot_bytes: SLOT_BYTES };
const LISTEN: DongleOptions = DongleOptions { bitrate: None, listen_only: true, sends_per_s_max: 0 };

fn key() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

fn image(slot: Slot, version: FirmwareVersion, len: u32, key: &SigningKey) -> Image {
    let bytes: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
    let address = LAYOUT.address + LAYOUT.offsets[usize::from(slot == Slot::B)] + IMAGE_OFFSET;
    let digest = Sha512::digest(&bytes).into();
    let mut header = ImageHeader::new(BOARD, address, len, version, digest).unwrap();
    header.signature = key.sign(&header.signed_bytes()).to_bytes();
    Image { header, bytes }
}

fn file(images: &[Image]) -> Vec<u8> {
    images.iter().flat_map(|image| [&image.header.bytes()[..], &image.bytes].concat()).collect()
}

fn slots() -> Update<Memory> {
    let mut bytes = vec![0xFF; 2 * SLOT_BYTES as usize];
    let factory = image(Slot::A, (1, 0, 0), 1_000, &key());
    bytes[..HEADER_BYTES].copy_from_slice(&factory.header.bytes());
    let marks = factory_marks();
    bytes[MARKS_OFFSET as usize..][..marks.len()].copy_from_slice(&marks);
    bytes[IMAGE_OFFSET as usize..][..1_000].copy_from_slice(&factory.bytes);
    Update::new(Slots::new(MemoryFlash::new(bytes), LAYOUT), BOARD, Slot::A)
}

/// What a boot loader does.
pub(in super::super) fn boot(update: Update<Memory>) -> (Slot, Update<Memory>) {
    let mut slots = update.into_slots();
    let start = slots.choose(BOARD, &key().verifying_key()).expect("something can be started");
    (start.slot, Update::new(slots, BOARD, start.slot))
}

fn pair() -> Pair {
    let mut pair = Pair::new(LISTEN);
    pair.slots = Some(slots());
    pair.reset();
    pair.run(50);
    assert_eq!(pair.session.firmware().unwrap().running, Some(Slot::A));
    pair
}

#[test]
fn an_update_goes_over_is_started_and_confirmed_and_the_next_one_goes_back() {
    let mut pair = pair();
    for (slot, patch) in [(Slot::B, 1), (Slot::A, 2)] {
        assert!(pair.session.update(image(slot, (1, 0, patch), 3_000, &key())));
        assert!(!pair.session.update(image(slot, (1, 0, patch), 3_000, &key())), "one at a time");
        let mut seen = Vec::new();
        for _ in 0..2_000 {
            pair.run(1);
            seen.extend(pair.session.update_progress().filter(|progress| seen.last() != Some(progress)));
        }
        // Sixteen parts, and nothing of them.
        let sending =
            |progress: &&UpdateProgress| matches!(progress, UpdateProgress::Sending { of: 3_000, .. });
        assert!(seen.iter().filter(sending).count() >= 16, "{seen:?}");
        assert_eq!(seen[seen.len() - 2..], [UpdateProgress::Restarting, UpdateProgress::Done]);
        let firmware = pair.session.firmware().unwrap();
        assert_eq!((firmware.running, firmware.slot(slot).version), (Some(slot), (1, 0, patch)));
        assert!(pair.session.is_up() && !firmware.is_on_trial());
    }
    assert_eq!(
        (pair.starts.as_slice(), pair.session.counters().resets),
        (&[Slot::A, Slot::B, Slot::A][..], 2)
    );
}

#[test]
fn what_the_boot_loader_does_not_trust_is_told() {
    let mut pair = pair();
    assert!(pair.session.update(image(Slot::B, (1, 0, 1), 3_000, &SigningKey::from_bytes(&[6; 32]))));
    pair.run(3_000);
    let went_back = UpdateProgress::Failed(UpdateFailure::WentBack(SlotState::Refused));
    assert_eq!(pair.session.update_progress(), Some(went_back));
    // And what the dongle itself refuses, at once.
    for (unfit, outcome) in [
        (image(Slot::A, (1, 0, 1), 500, &key()), Outcome::WrongImage),
        (image(Slot::B, (0, 9, 9), 500, &key()), Outcome::Older),
    ] {
        assert!(pair.session.update(unfit));
        pair.run(50);
        let refused = UpdateProgress::Failed(UpdateFailure::Refused(outcome));
        assert_eq!((pair.session.update_progress(), pair.starts.len()), (Some(refused), 2));
    }
}

#[test]
fn a_restart_in_the_midst_begins_it_anew_and_a_third_one_ends_it() {
    let mut pair = pair();
    assert!(pair.session.update(image(Slot::B, (1, 0, 1), 3_000, &key())));
    for attempt in 1..=UPDATE_ATTEMPTS_MAX {
        while !matches!(pair.session.update_progress(), Some(UpdateProgress::Sending { sent: 1_000.., .. })) {
            pair.run(1);
        }
        pair.reset();
        while pair.session.counters().resets < u64::from(attempt) || !pair.session.is_up() {
            pair.run(1);
        }
    }
    let failed = UpdateProgress::Failed(UpdateFailure::Interrupted);
    assert_eq!(pair.session.update_progress(), Some(failed));
    assert!(pair.session.update(image(Slot::B, (1, 0, 1), 3_000, &key())));
    pair.run(2_000);
    assert_eq!(pair.session.update_progress(), Some(UpdateProgress::Done));
}

fn is_ready(pair: &mut Pair) -> bool {
    pair.slots.as_mut().unwrap().info().slot(Slot::B).state == SlotState::Ready
}

#[test]
fn a_start_before_the_last_part_was_answered_is_the_new_image_and_no_failure() {
    let mut pair = pair();
    assert!(pair.session.update(image(Slot::B, (1, 0, 1), 3_000, &key())));
    while pair.session.update_progress() != Some(UpdateProgress::Sending { sent: 3_000, of: 3_000 }) {
        pair.run(1);
    }
    // The answer to the end is on its way when power fails.
    while !is_ready(&mut pair) {
        pair.turn(&mut |_| Vec::new(), &mut |bytes| bytes);
    }
    pair.reset();
    pair.run(3_000);
    assert_eq!(pair.session.update_progress(), Some(UpdateProgress::Done));
    assert_eq!(pair.starts, [Slot::A, Slot::B]);
}

#[test]
fn a_wish_to_restart_that_was_lost_with_its_session_is_repeated() {
    let mut pair = pair();
    assert!(pair.session.update(image(Slot::B, (1, 0, 1), 3_000, &key())));
    while !is_ready(&mut pair) {
        pair.run(1);
    }
    for _ in 0..20 {
        pair.turn(&mut |bytes| bytes, &mut |_| Vec::new());
    }
    assert_eq!(pair.session.update_progress(), Some(UpdateProgress::Restarting));
    pair.session.reopen(pair.now_us);
    pair.run(3_000);
    assert_eq!(pair.session.update_progress(), Some(UpdateProgress::Done));
    assert_eq!(pair.starts, [Slot::A, Slot::B]);
}

#[test]
fn who_only_looks_confirms_nothing_and_opens_no_bus() {
    let mut pair = pair();
    assert!(pair.session.update(image(Slot::B, (1, 0, 1), 3_000, &key())));
    while pair.starts.len() < 2 {
        pair.run(1);
    }
    let opened = pair.opened.len();
    pair.session = DongleSession::new(LISTEN, BusIndex(0), 77, pair.now_us).only_looking();
    pair.run(5_000);
    assert!(pair.session.is_up() && pair.session.firmware().unwrap().is_on_trial());
    assert_eq!(pair.opened.len(), opened);
    pair.run(28_000);
    assert_eq!(pair.starts, [Slot::A, Slot::B, Slot::A]);
}

#[test]
fn a_new_image_that_the_agent_does_not_hear_is_given_up() {
    let mut pair = pair();
    assert!(pair.session.update(image(Slot::B, (1, 0, 1), 3_000, &key())));
    while pair.starts.len() < 2 {
        pair.run(1);
    }
    // Its line is dead.
    for _ in 0..32_000 {
        pair.turn(&mut |_| Vec::new(), &mut |_| Vec::new());
    }
    assert_eq!(pair.starts, [Slot::A, Slot::B, Slot::A]);
    assert!(pair.session.is_hung(pair.now_us), "{HUNG_AFTER_US}");
    pair.run(3_000);
    let went_back = UpdateProgress::Failed(UpdateFailure::WentBack(SlotState::GivenUp));
    assert_eq!(pair.session.update_progress(), Some(went_back));
}

#[test]
fn a_dongle_without_slots_takes_no_update() {
    let mut pair = Pair::new(LISTEN);
    pair.run(100);
    assert!(pair.session.has_no_slots());
    assert!(!pair.session.update(image(Slot::B, (1, 0, 1), 10, &key())));
    let file = FirmwareFile::read(&file(&[image(Slot::B, (1, 0, 1), 10, &key())])).unwrap();
    let firmware = pair.session.firmware().unwrap();
    assert_eq!(file.image_for(BOARD, firmware), Err(NoImage::NoSlots));
}

#[test]
fn a_file_is_read_whole_or_refused_with_the_place() {
    let images = [image(Slot::A, (1, 2, 3), 600, &key()), image(Slot::B, (1, 2, 3), 700, &key())];
    let bytes = file(&images);
    assert_eq!(FirmwareFile::read(&bytes).unwrap().images(), images);
    assert_eq!(FirmwareFile::read(&[]), Err(FirmwareFileError::Empty));
    assert_eq!(FirmwareFile::read(&bytes[..bytes.len() - 1]), Err(FirmwareFileError::CutShort { at: 792 }));
    let cut = FirmwareFileError::Header { at: 792, error: HeaderError::CutShort };
    assert_eq!(FirmwareFile::read(&bytes[..900]), Err(cut));
    let mut changed = bytes.clone();
    changed[200] ^= 1;
    assert_eq!(FirmwareFile::read(&changed), Err(FirmwareFileError::Corrupt { at: 0 }));
    let none = FirmwareFileError::Header { at: 0, error: HeaderError::NoImage };
    assert_eq!(FirmwareFile::read(&[b'x'; 300]), Err(none));
}

#[test]
fn the_image_for_the_free_slot_is_chosen_or_the_reason_is_told() {
    let pair = pair();
    let firmware = *pair.session.firmware().unwrap();
    let read = |images: &[Image]| FirmwareFile::read(&file(images)).unwrap();
    let both = read(&[image(Slot::A, (1, 0, 0), 600, &key()), image(Slot::B, (1, 0, 0), 700, &key())]);
    assert_eq!(both.image_for(BOARD, &firmware), Ok(&both.images()[1]));
    let other = NoImage::OtherBoard { file: BOARD.to_owned(), dongle: "stm32f4".to_owned() };
    assert_eq!(both.image_for("stm32f4", &firmware), Err(other));
    let none = NoImage::OtherAddress { slot: Slot::B, address: 0x1A00 };
    assert_eq!(read(&[image(Slot::A, (1, 0, 0), 600, &key())]).image_for(BOARD, &firmware), Err(none));
    let older = NoImage::Older { file: (0, 9, 0), dongle: (1, 0, 0) };
    assert_eq!(read(&[image(Slot::B, (0, 9, 0), 600, &key())]).image_for(BOARD, &firmware), Err(older));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_update_arrives_whole_over_a_line_that_flips_and_drops_bytes(seed in 1u64.., len in 1u32..3_500) {
        let mut pair = pair();
        let mut state = seed;
        let mut bad = move |bytes: Vec<u8>| -> Vec<u8> {
            let mut dice = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state >> 20
            };
            let kept = bytes.into_iter().filter_map(|byte| match dice() % 400 {
                0 => None,
                1 => Some(byte ^ 1 << (dice() % 8)),
                _ => Some(byte),
            });
            kept.collect()
        };
        let mut bad_up = bad;
        prop_assert!(pair.session.update(image(Slot::B, (1, 0, 1), len, &key())));
        for _ in 0..25_000 {
            pair.turn(&mut bad_up, &mut bad);
            if pair.session.update_progress() == Some(UpdateProgress::Done) {
                break;
            }
        }
        prop_assert_eq!(pair.session.update_progress(), Some(UpdateProgress::Done));
        prop_assert_eq!(pair.starts.as_slice(), &[Slot::A, Slot::B]);
    }
}
