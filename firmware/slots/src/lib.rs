//! The two slots of a dongle's flash: which image the boot loader starts, and how the one that runs replaces the other.
//!
//! Nothing is overwritten that something may have to fall back on, and power may fail between any two writes: an image counts when
//! the mark that it is whole stands behind its header and its bytes. What became of it is told by marks in its slot, which are
//! only ever added:
//!
//! | byte of the slot | mark | set by |
//! |---|---|---|
//! | 256 | whole, with a number above that of the other slot's image | the image that receives it |
//! | 272, 288, 304 | started, at each of its first three starts | the boot loader |
//! | 320 | confirmed | itself, when the agent says so |
//! | 336 | given up | itself, when nobody confirms it in time |
//! | 352 | refused | the boot loader: signature or content is wrong |
//!
//! An image that is started three times without being confirmed is given up, too: it hangs, or power failed each time.
#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]

use convoy_protocol::firmware::{HEADER_BYTES, IMAGE_OFFSET, ImageHeader};
use convoy_protocol::link::{FirmwareInfo, Slot, SlotInfo, SlotState};
use embedded_storage::nor_flash::NorFlash;

mod boot;
mod memory;
mod update;

pub use boot::{Refusal, Start, public_key};
pub use memory::MemoryFlash;
pub use update::Update;

/// Starts of an image that nobody confirms at most.
pub const TRIES_MAX: usize = 3;

/// Where in a slot the marks are, bytes.
pub const MARKS_OFFSET: u32 = 256;
const MARK_BYTES: usize = 16;
const MARKS: usize = 7;
const ERASED: u8 = 0xFF;

/// Where the slots are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Address of the flash's first byte.
    pub address: u32,
    /// Where each slot begins, bytes from the flash's first one.
    pub offsets: [u32; 2],
    /// Bytes of each slot: a multiple of 64, and of what is erased at once.
    pub slot_bytes: u32,
}

impl Layout {
    /// The slot that all of `len` bytes lie in, from `offset` on, bytes from the flash's first one.
    pub fn slot_of(&self, offset: u32, len: u32) -> Option<Slot> {
        let end = offset.checked_add(len)?;
        let is_in = |start: u32| start <= offset && end <= start.saturating_add(self.slot_bytes);
        let [a, b] = self.offsets;
        [(a, Slot::A), (b, Slot::B)].into_iter().find(|(start, _)| is_in(*start)).map(|(_, slot)| slot)
    }

    /// The slot that begins at `from` and ends at `to`, bytes from the flash's first one: what a board may erase.
    pub fn whole_slot(&self, from: u32, to: u32) -> Option<Slot> {
        let len = to.checked_sub(from).filter(|len| *len == self.slot_bytes)?;
        self.slot_of(from, len)
    }
}

/// A mark, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Whole,
    Started(usize),
    Confirmed,
    GivenUp,
    Refused,
}

impl Mark {
    fn index(self) -> u32 {
        match self {
            Self::Whole => 0,
            Self::Started(0) => 1,
            Self::Started(1) => 2,
            Self::Started(_) => 3,
            Self::Confirmed => 4,
            Self::GivenUp => 5,
            Self::Refused => 6,
        }
    }
}

/// What is written for each mark but the first one.
const SET: [u8; MARK_BYTES] = *b"convoy slot mark";

/// What a slot's marks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marks([[u8; MARK_BYTES]; MARKS]);

impl Marks {
    /// Number of the image; `None` where it is not whole.
    fn order(&self) -> Option<u32> {
        let [whole, ..] = &self.0;
        let (order, _) = whole.split_first_chunk::<4>()?;
        let order = u32::from_le_bytes(*order);
        (whole_mark(order) == *whole).then_some(order)
    }

    /// A mark that may have been written halfway when power failed.
    fn is_touched(&self, mark: Mark) -> bool {
        self.get(mark).is_some_and(|bytes| bytes.iter().any(|byte| *byte != ERASED))
    }

    fn is_set(&self, mark: Mark) -> bool {
        self.get(mark) == Some(&SET)
    }

    fn get(&self, mark: Mark) -> Option<&[u8; MARK_BYTES]> {
        self.0.get(usize::try_from(mark.index()).ok()?)
    }

    fn tries(&self) -> usize {
        (0..TRIES_MAX).filter(|at| self.is_touched(Mark::Started(*at))).count()
    }

    fn state(&self) -> SlotState {
        if self.order().is_none() {
            SlotState::Empty
        } else if self.is_set(Mark::Confirmed) {
            SlotState::Confirmed
        } else if self.is_touched(Mark::Refused) {
            SlotState::Refused
        } else if self.is_touched(Mark::GivenUp) {
            SlotState::GivenUp
        } else if self.tries() > 0 {
            SlotState::Tried
        } else {
            SlotState::Ready
        }
    }
}

/// Number, its complement, and again: no half of a write looks like it.
fn whole_mark(order: u32) -> [u8; MARK_BYTES] {
    let mut mark = [0; MARK_BYTES];
    for (slot, word) in
        mark.as_chunks_mut::<4>().0.iter_mut().zip([order, !order, order ^ 0x5A5A_5A5A, !order])
    {
        *slot = word.to_le_bytes();
    }
    mark
}

/// The marks of a slot as the factory fills it: whole and confirmed.
pub fn factory_marks() -> [u8; MARKS * MARK_BYTES] {
    let mut marks = [[ERASED; MARK_BYTES]; MARKS];
    let [whole, _, _, _, confirmed, _, _] = &mut marks;
    (*whole, *confirmed) = (whole_mark(0), SET);
    let mut bytes = [ERASED; MARKS * MARK_BYTES];
    bytes.iter_mut().zip(marks.as_flattened()).for_each(|(slot, byte)| *slot = *byte);
    bytes
}

/// The flash with its slots.
#[derive(Debug)]
pub struct Slots<F> {
    flash: F,
    layout: Layout,
}

impl<F: NorFlash> Slots<F> {
    /// The slots of `flash`, whose writes must be no longer than a mark.
    pub fn new(flash: F, layout: Layout) -> Self {
        const {
            assert!(MARK_BYTES.is_multiple_of(F::WRITE_SIZE), "a mark is written at once");
            assert!(F::READ_SIZE <= 4 && 4_usize.is_multiple_of(F::READ_SIZE), "flash is read by words");
        }
        Self { flash, layout }
    }

    /// Where the image of a slot begins.
    pub fn address(&self, slot: Slot) -> u32 {
        self.layout.address.wrapping_add(self.offset(slot)).wrapping_add(IMAGE_OFFSET)
    }

    /// Longest image, bytes.
    pub fn image_bytes_max(&self) -> u32 {
        self.layout.slot_bytes.saturating_sub(IMAGE_OFFSET)
    }

    /// What the slots hold, for the image of `running`.
    pub fn info(&mut self, running: Slot) -> FirmwareInfo {
        let slots = [Slot::A, Slot::B].map(|slot| {
            let state = self.marks(slot).map_or(SlotState::Empty, |marks| marks.state());
            let header = self.header(slot).filter(|_| state != SlotState::Empty);
            SlotInfo {
                address: self.address(slot),
                image_bytes_max: self.image_bytes_max(),
                state,
                version: header.map_or((0, 0, 0), |header| header.version),
            }
        });
        FirmwareInfo { running: Some(running), slots }
    }

    /// The header of a slot, whatever became of its image.
    pub fn header(&mut self, slot: Slot) -> Option<ImageHeader> {
        let mut bytes = [0; HEADER_BYTES];
        self.flash.read(self.offset(slot), &mut bytes).ok()?;
        ImageHeader::read(&bytes).ok()
    }

    fn offset(&self, slot: Slot) -> u32 {
        let [a, b] = self.layout.offsets;
        match slot {
            Slot::A => a,
            Slot::B => b,
        }
    }

    fn marks(&mut self, slot: Slot) -> Option<Marks> {
        let mut marks = Marks([[0; MARK_BYTES]; MARKS]);
        self.flash.read(self.offset(slot) + MARKS_OFFSET, marks.0.as_flattened_mut()).ok()?;
        Some(marks)
    }

    fn set(&mut self, slot: Slot, mark: Mark, bytes: &[u8; MARK_BYTES]) -> Result<(), F::Error> {
        let at = self.offset(slot) + MARKS_OFFSET + mark.index() * MARK_BYTES as u32;
        self.flash.write(at, bytes)
    }
}

#[cfg(test)]
mod tests;
