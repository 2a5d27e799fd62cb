//! How the image that runs replaces the other.

use convoy_protocol::firmware::{HEADER_BYTES, IMAGE_OFFSET, ImageHeader};
use convoy_protocol::link::{FirmwareInfo, Outcome, Slot, SlotState, UPDATE_BYTES_MAX};
use embedded_storage::nor_flash::NorFlash;

use crate::{ERASED, MARK_BYTES, Mark, SET, Slots, whole_mark};

/// The slots, seen by the image that runs.
#[derive(Debug)]
pub struct Update<F> {
    slots: Slots<F>,
    board: &'static str,
    running: Slot,
    coming: Option<Coming>,
}

/// An image on its way.
#[derive(Debug)]
struct Coming {
    header: ImageHeader,
    /// Bytes of it that are written.
    len: u32,
}

impl<F: NorFlash> Update<F> {
    /// The image of `board` in the slot `running` runs.
    pub fn new(slots: Slots<F>, board: &'static str, running: Slot) -> Self {
        const {
            assert!(UPDATE_BYTES_MAX.is_multiple_of(MARK_BYTES), "parts are written as they come");
        }
        Self { slots, board, running, coming: None }
    }

    /// The slots as a boot loader sees them.
    pub fn into_slots(self) -> Slots<F> {
        self.slots
    }

    /// What the slots hold.
    pub fn info(&mut self) -> FirmwareInfo {
        self.slots.info(self.running)
    }

    /// Header of the image that runs.
    pub fn header(&mut self) -> Option<ImageHeader> {
        self.slots.header(self.running)
    }

    /// Clears the other slot for the image of `header`.
    pub fn begin(&mut self, header: &[u8]) -> Outcome {
        self.coming = None;
        let other = self.running.other();
        let Some(header) = ImageHeader::read(header).ok().filter(|_| header.len() == HEADER_BYTES) else {
            return Outcome::WrongImage;
        };
        if self.info().is_on_trial() {
            return Outcome::OnTrial;
        }
        if !self.slots.is_for(&header, other, self.board) {
            return Outcome::WrongImage;
        }
        if self.header().is_some_and(|running| header.version < running.version) {
            return Outcome::Older;
        }
        let from = self.slots.offset(other);
        if self.slots.flash.erase(from, from + self.slots.layout.slot_bytes).is_err() {
            return Outcome::FlashFailed;
        }
        self.coming = Some(Coming { header, len: 0 });
        Outcome::Done
    }

    /// Writes a part of the image.
    pub fn write(&mut self, offset: u32, data: &[u8]) -> Outcome {
        let other = self.running.other();
        let Some(coming) = &mut self.coming else { return Outcome::OutOfOrder };
        let Ok(len) = u32::try_from(data.len()) else { return Outcome::OutOfOrder };
        let Some(end) = coming.len.checked_add(len).filter(|end| *end <= coming.header.len) else {
            return Outcome::OutOfOrder;
        };
        let is_last = end == coming.header.len;
        if offset != coming.len || (data.len() != UPDATE_BYTES_MAX && !is_last) {
            return Outcome::OutOfOrder;
        }
        let mut bytes = [ERASED; UPDATE_BYTES_MAX];
        let Some(slot) = bytes.get_mut(..data.len()) else { return Outcome::OutOfOrder };
        slot.copy_from_slice(data);
        let written = data.len().next_multiple_of(MARK_BYTES);
        let at = self.slots.offset(other) + IMAGE_OFFSET + offset;
        match self.slots.flash.write(at, bytes.get(..written).unwrap_or_default()) {
            Ok(()) => coming.len = end,
            Err(_) => {
                // Flash is written once: the update begins anew.
                self.coming = None;
                return Outcome::FlashFailed;
            }
        }
        Outcome::Done
    }

    /// Looks whether what was written is what was signed, and has the boot loader try it at the next start. The signature it looks at
    /// itself.
    pub fn end(&mut self) -> Outcome {
        let other = self.running.other();
        let Some(coming) = self.coming.take() else { return Outcome::OutOfOrder };
        if coming.len != coming.header.len {
            return Outcome::OutOfOrder;
        }
        if self.slots.digest(other, coming.len) != Some(coming.header.digest) {
            return Outcome::Corrupt;
        }
        let orders = [Slot::A, Slot::B].map(|slot| self.slots.marks(slot).and_then(|marks| marks.order()));
        let order = orders.into_iter().flatten().max().map_or(0, |newest| newest.saturating_add(1));
        let at = self.slots.offset(other);
        let is_written = self.slots.flash.write(at, &coming.header.bytes()).is_ok()
            && self.slots.set(other, Mark::Whole, &whole_mark(order)).is_ok();
        if is_written { Outcome::Done } else { Outcome::FlashFailed }
    }

    /// The image that runs does what it should.
    pub fn confirm(&mut self) -> Outcome {
        self.mark_running(Mark::Confirmed)
    }

    /// Nobody confirms the image that runs: the boot loader starts the other one.
    pub fn give_up(&mut self) -> Outcome {
        self.mark_running(Mark::GivenUp)
    }

    fn mark_running(&mut self, mark: Mark) -> Outcome {
        if self.info().slot(self.running).state == SlotState::Confirmed {
            return Outcome::Done;
        }
        match self.slots.set(self.running, mark, &SET) {
            Ok(()) => Outcome::Done,
            Err(_) => Outcome::FlashFailed,
        }
    }
}
