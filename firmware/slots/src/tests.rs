use convoy_protocol::firmware::ImageHeader;
use convoy_protocol::link::{Outcome, UPDATE_BYTES_MAX};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use embedded_storage::nor_flash::{ErrorType, NorFlashError, NorFlashErrorKind, ReadNorFlash};
use proptest::prelude::*;
use sha2::{Digest as _, Sha512};

use super::*;

const BOARD: &str = "a-board";
const SLOT_BYTES: u32 = 2_048;
const LAYOUT: Layout =
    Layout { address: 0x0800_0000, offsets: [1_024, 1_024 + SLOT_BYTES], slot_bytes: SLOT_BYTES };

/// Flash that is erased to ones and written to zeros, and whose power fails within the operation of a number.
#[derive(Debug, Clone)]
struct FakeFlash {
    bytes: Vec<u8>,
    operations: u32,
    fails_in: Option<u32>,
}

#[derive(Debug)]
struct NoPower;

impl NorFlashError for NoPower {
    fn kind(&self) -> NorFlashErrorKind {
        NorFlashErrorKind::Other
    }
}

impl FakeFlash {
    /// Bytes of this operation that still have power.
    fn powered(&mut self, len: usize) -> usize {
        let operation = self.operations;
        self.operations += 1;
        match self.fails_in {
            Some(fails_in) if fails_in < operation => 0,
            Some(fails_in) if fails_in == operation => len / 2,
            _ => len,
        }
    }
}

impl ErrorType for FakeFlash {
    type Error = NoPower;
}

impl ReadNorFlash for FakeFlash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NoPower> {
        bytes.copy_from_slice(&self.bytes[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl NorFlash for FakeFlash {
    const WRITE_SIZE: usize = 8;
    const ERASE_SIZE: usize = 1_024;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NoPower> {
        assert!(from.is_multiple_of(1_024) && to.is_multiple_of(1_024));
        let powered = self.powered((to - from) as usize);
        self.bytes[from as usize..][..powered].fill(ERASED);
        if powered < (to - from) as usize { Err(NoPower) } else { Ok(()) }
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NoPower> {
        assert!(offset.is_multiple_of(8) && bytes.len().is_multiple_of(8));
        let powered = self.powered(bytes.len());
        let slots = &mut self.bytes[offset as usize..][..powered];
        slots.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot &= byte);
        if powered < bytes.len() { Err(NoPower) } else { Ok(()) }
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

fn public() -> VerifyingKey {
    key().verifying_key()
}

fn address(slot: Slot) -> u32 {
    Slots::new(FakeFlash { bytes: vec![], operations: 0, fails_in: None }, LAYOUT).address(slot)
}

/// An image and its header.
fn image(slot: Slot, version: (u8, u8, u16), len: usize) -> (ImageHeader, Vec<u8>) {
    let image: Vec<u8> = (0..len).map(|at| at as u8 ^ version.2 as u8).collect();
    let digest = Sha512::digest(&image).into();
    let mut header = ImageHeader::new(BOARD, address(slot), len as u32, version, digest).unwrap();
    header.signature = key().sign(&header.signed_bytes()).to_bytes();
    (header, image)
}

/// A dongle as the factory leaves it, with version 1.0.0 in the first slot.
fn factory() -> FakeFlash {
    let mut flash = FakeFlash { bytes: vec![ERASED; 1_024 + 2 * 2_048], operations: 0, fails_in: None };
    let (header, image) = image(Slot::A, (1, 0, 0), 1_000);
    flash.bytes[1_024..][..HEADER_BYTES].copy_from_slice(&header.bytes());
    flash.bytes[1_024 + 512..][..1_000].copy_from_slice(&image);
    flash.bytes[1_024 + MARKS_OFFSET as usize..][..MARKS * MARK_BYTES].copy_from_slice(&factory_marks());
    assert_eq!(state(&mut flash, Slot::A), SlotState::Confirmed);
    flash
}

fn boot(flash: &mut FakeFlash) -> Option<Slot> {
    Slots::new(flash, LAYOUT).choose(BOARD, &public()).map(|start| {
        assert_eq!(start.address, address(start.slot));
        start.slot
    })
}

fn running(flash: &mut FakeFlash, slot: Slot) -> Update<&mut FakeFlash> {
    Update::new(Slots::new(flash, LAYOUT), BOARD, slot)
}

fn state(flash: &mut FakeFlash, slot: Slot) -> SlotState {
    Slots::new(flash, LAYOUT).info(slot).slot(slot).state
}

fn receive(flash: &mut FakeFlash, from: Slot, (header, image): &(ImageHeader, Vec<u8>)) -> Outcome {
    let mut update = running(flash, from);
    let mut outcome = update.begin(&header.bytes());
    for (at, part) in image.chunks(UPDATE_BYTES_MAX).enumerate() {
        if outcome == Outcome::Done {
            outcome = update.write((at * UPDATE_BYTES_MAX) as u32, part);
        }
    }
    if outcome == Outcome::Done { update.end() } else { outcome }
}

#[test]
fn what_is_not_in_a_slot_or_crosses_its_end_belongs_to_none() {
    let [a, b] = LAYOUT.offsets;
    let end = b + SLOT_BYTES;
    for (offset, len, expected) in [
        (a, SLOT_BYTES, Some(Slot::A)),
        (a + 4, SLOT_BYTES - 4, Some(Slot::A)),
        (b - 1, 1, Some(Slot::A)),
        (b, SLOT_BYTES, Some(Slot::B)),
        (end - 4, 4, Some(Slot::B)),
        (0, 4, None),
        (a - 1, 2, None),
        (a + 1, SLOT_BYTES, None),
        (b - 4, 8, None),
        (a, 2 * SLOT_BYTES, None),
        (end, 1, None),
        (end - 4, 8, None),
        (b, u32::MAX, None),
        (u32::MAX, 1, None),
    ] {
        assert_eq!(LAYOUT.slot_of(offset, len), expected, "{offset} {len}");
    }
}

#[test]
fn only_one_whole_slot_is_erased() {
    let [a, b] = LAYOUT.offsets;
    let end = b + SLOT_BYTES;
    assert_eq!((LAYOUT.whole_slot(a, b), LAYOUT.whole_slot(b, end)), (Some(Slot::A), Some(Slot::B)));
    for (from, to) in
        [(0, a), (a, end), (a, b - 1), (a + 1, b), (a + 4, b + 4), (end, end + SLOT_BYTES), (b, a), (a, a)]
    {
        assert_eq!(LAYOUT.whole_slot(from, to), None, "{from} {to}");
    }
}

#[test]
fn a_key_is_read_and_what_is_none_is_refused() {
    let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let expected = public().to_bytes();
    assert_eq!(public_key(&hex(&expected)), expected);
    assert_eq!(public_key(&hex(&expected).to_uppercase()), expected);
    for none in ["", &"0".repeat(63), &"0".repeat(65), &"+1".repeat(32), &"g0".repeat(32)] {
        assert!(std::panic::catch_unwind(|| public_key(none)).is_err(), "{none}");
    }
}

#[test]
fn an_update_is_tried_confirmed_and_replaced_by_the_next_one() {
    let mut flash = factory();
    let mut from = Slot::A;
    assert_eq!(boot(&mut flash), Some(Slot::A));
    for patch in 1..6 {
        let to = from.other();
        let (header, bytes) = image(to, (1, 0, patch), 700 + usize::from(patch) * 100);
        assert_eq!(receive(&mut flash, from, &(header, bytes)), Outcome::Done);
        assert_eq!(state(&mut flash, to), SlotState::Ready);
        assert_eq!(boot(&mut flash), Some(to));
        let info = running(&mut flash, to).info();
        assert!(info.is_on_trial());
        assert_eq!((info.slot(to).state, info.slot(to).version), (SlotState::Tried, (1, 0, patch)));
        assert_eq!(running(&mut flash, to).begin(&image(from, (9, 0, 0), 10).0.bytes()), Outcome::OnTrial);
        assert_eq!(running(&mut flash, to).confirm(), Outcome::Done);
        assert!(!running(&mut flash, to).info().is_on_trial());
        assert_eq!(boot(&mut flash), Some(to));
        from = to;
    }
}

#[test]
fn an_image_that_nobody_confirms_is_given_up_for_the_one_before() {
    let mut flash = factory();
    assert_eq!(receive(&mut flash, Slot::A, &image(Slot::B, (1, 0, 1), 900)), Outcome::Done);
    // It hangs, and the watchdog resets it.
    let starts: Vec<_> = (0..5).map(|_| boot(&mut flash).unwrap()).collect();
    assert_eq!(starts, [Slot::B, Slot::B, Slot::B, Slot::A, Slot::A]);
    assert_eq!(running(&mut flash, Slot::A).info().slot(Slot::B).state, SlotState::Tried);
    // It runs, but the agent does not hear it.
    assert_eq!(receive(&mut flash, Slot::A, &image(Slot::B, (1, 0, 2), 900)), Outcome::Done);
    assert_eq!(boot(&mut flash), Some(Slot::B));
    assert_eq!(running(&mut flash, Slot::B).give_up(), Outcome::Done);
    assert_eq!(boot(&mut flash), Some(Slot::A));
    assert_eq!(state(&mut flash, Slot::B), SlotState::GivenUp);
    // What was given up is better than nothing, and can be replaced, or confirmed after all.
    flash.bytes[1_024..][..HEADER_BYTES].fill(0);
    assert_eq!(boot(&mut flash), Some(Slot::B));
    assert!(!running(&mut flash, Slot::B).info().is_on_trial());
    assert_eq!(running(&mut flash, Slot::B).confirm(), Outcome::Done);
    assert_eq!(state(&mut flash, Slot::B), SlotState::Confirmed);
    assert_eq!(receive(&mut flash, Slot::B, &image(Slot::A, (1, 0, 2), 900)), Outcome::Done);
    assert_eq!(boot(&mut flash), Some(Slot::A));
}

#[test]
fn what_is_not_signed_for_this_board_and_slot_is_never_started() {
    let good = image(Slot::B, (1, 0, 1), 900);
    let mut flash = factory();
    let mut other_key = good.clone();
    other_key.0.signature = SigningKey::from_bytes(&[6; 32]).sign(&good.0.signed_bytes()).to_bytes();
    assert_eq!(receive(&mut flash, Slot::A, &other_key), Outcome::Done, "the boot loader has the key");
    assert_eq!(boot(&mut flash), Some(Slot::A));
    assert_eq!(state(&mut flash, Slot::B), SlotState::Refused);
    // A bit of any part of the signed header, the signature or the image.
    for at in [40, 100, 130, 191, 512, 512 + 899] {
        assert_eq!(receive(&mut flash, Slot::A, &good), Outcome::Done);
        flash.bytes[1_024 + 2_048 + at] ^= 1;
        assert_eq!(boot(&mut flash), Some(Slot::A), "{at}");
        assert_eq!(state(&mut flash, Slot::B), SlotState::Refused);
        // Counted before it was looked at: what it meets there may hang.
        assert_eq!(Slots::new(&mut flash, LAYOUT).marks(Slot::B).unwrap().tries(), 1);
    }
    let slots = |flash: &mut FakeFlash| {
        Slots::new(flash, LAYOUT).look_over(Slot::B, BOARD, &public()).map(|header| header.version)
    };
    assert_eq!(slots(&mut flash), Err(Refusal::Corrupt));
    assert_eq!(receive(&mut flash, Slot::A, &good), Outcome::Done);
    assert_eq!(slots(&mut flash), Ok((1, 0, 1)));
    let other = Slots::new(&mut flash, LAYOUT).look_over(Slot::B, "another", &public());
    assert_eq!(other, Err(Refusal::WrongImage));
    assert_eq!(boot(&mut flash), Some(Slot::B));
}

#[test]
fn an_image_that_does_not_belong_here_is_refused_before_anything_is_erased() {
    let mut flash = factory();
    let before = flash.bytes.clone();
    let (header, _) = image(Slot::B, (1, 0, 1), 900);
    let refused = |flash: &mut FakeFlash, header: ImageHeader| running(flash, Slot::A).begin(&header.bytes());
    assert_eq!(refused(&mut flash, image(Slot::A, (1, 0, 1), 900).0), Outcome::WrongImage);
    for len in [0, SLOT_BYTES - 511, u32::MAX] {
        let mut unfit = header;
        unfit.len = len;
        assert_eq!(refused(&mut flash, unfit), Outcome::WrongImage);
    }
    assert_eq!(refused(&mut flash, image(Slot::B, (0, 9, 9), 900).0), Outcome::Older);
    let other = ImageHeader::new("another", header.address, 900, (1, 0, 1), [0; 64]).unwrap();
    assert_eq!(refused(&mut flash, other), Outcome::WrongImage);
    assert_eq!(running(&mut flash, Slot::A).begin(&header.bytes()[..191]), Outcome::WrongImage);
    assert_eq!(running(&mut flash, Slot::A).write(0, &[0; 192]), Outcome::OutOfOrder);
    assert_eq!(running(&mut flash, Slot::A).end(), Outcome::OutOfOrder);
    assert_eq!((flash.operations, flash.bytes == before), (0, true));
    // The same version again, and one that fills the slot.
    let full = image(Slot::B, (1, 0, 0), SLOT_BYTES as usize - 512);
    assert_eq!(receive(&mut flash, Slot::A, &full), Outcome::Done);
    assert_eq!(boot(&mut flash), Some(Slot::B));
}

#[test]
fn parts_come_in_order_and_the_whole_is_what_was_signed() {
    let mut flash = factory();
    let (header, bytes) = image(Slot::B, (1, 0, 1), 400);
    let mut update = running(&mut flash, Slot::A);
    assert_eq!(update.begin(&header.bytes()), Outcome::Done);
    assert_eq!(update.write(192, &bytes[192..384]), Outcome::OutOfOrder);
    assert_eq!(update.write(0, &bytes[..100]), Outcome::OutOfOrder);
    assert_eq!(update.write(0, &bytes[..192]), Outcome::Done);
    assert_eq!(update.write(0, &bytes[..192]), Outcome::OutOfOrder);
    assert_eq!(update.write(192, &[0; 192]), Outcome::Done);
    assert_eq!(update.write(384, &bytes[384..].repeat(2)), Outcome::OutOfOrder);
    assert_eq!(update.write(384, &bytes[384..]), Outcome::Done);
    assert_eq!(update.write(400, &[0]), Outcome::OutOfOrder);
    assert_eq!(update.end(), Outcome::Corrupt);
    assert_eq!(update.end(), Outcome::OutOfOrder);
    assert_eq!(state(&mut flash, Slot::B), SlotState::Empty);
    assert_eq!(boot(&mut flash), Some(Slot::A));
}

/// Receives `image`, starts it and confirms it, as far as the power lasts.
fn install(flash: &mut FakeFlash, from: Slot, image: &(ImageHeader, Vec<u8>)) {
    if receive(flash, from, image) == Outcome::Done && boot(flash) == Some(from.other()) {
        let _ = running(flash, from.other()).confirm();
    }
}

#[test]
fn power_may_fail_within_any_write_and_a_good_image_starts_and_can_be_updated() {
    let mut whole = factory();
    let image_b = image(Slot::B, (1, 0, 1), 700);
    install(&mut whole, Slot::A, &image_b);
    let operations = whole.operations;
    // Erase, four parts, header, the mark that it is whole, started, confirmed.
    assert_eq!((operations, state(&mut whole, Slot::B)), (9, SlotState::Confirmed));
    for fails_in in 0..operations {
        let mut flash = FakeFlash { fails_in: Some(fails_in), ..factory() };
        install(&mut flash, Slot::A, &image_b);
        flash.fails_in = None;
        // The mark that the image is whole is the last but two.
        let expected = if fails_in <= operations - 3 { Slot::A } else { Slot::B };
        assert_eq!(boot(&mut flash), Some(expected), "{fails_in}");
        if expected == Slot::B {
            assert_eq!(running(&mut flash, Slot::B).confirm(), Outcome::Done);
        }
        let next = image(expected.other(), (1, 0, 2), 700);
        install(&mut flash, expected, &next);
        assert_eq!(boot(&mut flash), Some(expected.other()), "{fails_in}");
        assert_eq!(state(&mut flash, expected.other()), SlotState::Confirmed);
    }
}

proptest! {
    /// Starts, confirmations, given up ones, updates and power failures in any order: there is always something to start, and it
    /// is never one that was not signed or was not whole.
    #[test]
    fn something_good_starts_whatever_happened(
        steps in proptest::collection::vec((0u8..5, 0u32..12, any::<bool>()), 1..40),
    ) {
        let mut flash = factory();
        let mut now = boot(&mut flash).unwrap();
        let mut patch = 0;
        for (step, fails_in, is_cut) in steps {
            flash.operations = 0;
            flash.fails_in = is_cut.then_some(fails_in);
            match step {
                0 | 1 => {
                    patch += 1;
                    let mut coming = image(now.other(), (1, 0, patch), 100 + usize::from(patch));
                    if step == 1 {
                        coming.0.signature[0] ^= 1;
                    }
                    receive(&mut flash, now, &coming);
                }
                2 => { running(&mut flash, now).confirm(); }
                3 => { running(&mut flash, now).give_up(); }
                _ => {}
            }
            if is_cut || step > 1 {
                flash.fails_in = None;
                let start = boot(&mut flash);
                prop_assert!(start.is_some());
                now = start.unwrap();
                prop_assert!(Slots::new(&mut flash, LAYOUT).look_over(now, BOARD, &public()).is_ok());
            }
        }
    }

    #[test]
    fn no_flash_makes_the_boot_loader_stumble(bytes in proptest::collection::vec(any::<u8>(), 5_120)) {
        let mut flash = FakeFlash { bytes, operations: 0, fails_in: None };
        prop_assert_eq!(boot(&mut flash), None);
        let _ = running(&mut flash, Slot::A).info();
    }
}
