//! The firmware of a dongle: what its slots hold, how it is replaced, and that what works is confirmed.

use convoy_protocol::firmware::{HEADER_BYTES, HeaderError, ImageHeader};
use convoy_protocol::link::{
    Down, FirmwareInfo, FirmwareVersion, Outcome, Slot, SlotState, UPDATE_BYTES_MAX,
};
use sha2::{Digest as _, Sha512};

use super::{DongleSession, Order};

/// The dongle is asked for its slots so often; one that does not answer has none.
pub const FIRMWARE_ASKED_MAX: u32 = 5;
/// After that, one question in so many pings.
const ASKED_SELDOM: u32 = 8;
/// Attempts of an update that a restart of the dongle, or another greeting, interrupts.
pub const UPDATE_ATTEMPTS_MAX: u32 = 3;

/// A file with images: one for each slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareFile {
    images: Vec<Image>,
}

/// An image and its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its header.
    pub header: ImageHeader,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Why a file is no firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareFileError {
    /// A header is none.
    #[error("at byte {at}: {error}")]
    Header {
        /// Where it begins.
        at: usize,
        /// What it is not.
        error: HeaderError,
    },
    /// It ends inside of an image.
    #[error("the image at byte {at} is cut short: was the file copied whole?")]
    CutShort {
        /// Where its header begins.
        at: usize,
    },
    /// An image is not what its header says.
    #[error("the image at byte {at} is not what was signed: was the file changed?")]
    Corrupt {
        /// Where its header begins.
        at: usize,
    },
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
}

/// Why no image of a file goes onto a dongle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoImage {
    /// The dongle has no slots, or its firmware is too old to say so.
    #[error("the dongle has no place for another firmware: it takes no updates")]
    NoSlots,
    /// It is for other boards.
    #[error("the file is for {file}, and the dongle is {dongle}")]
    OtherBoard {
        /// The board of the file.
        file: String,
        /// The board of the dongle.
        dongle: String,
    },
    /// It is for other slots.
    #[error("no image of the file is linked for slot {} of this dongle, at {address:#010x}", slot.name())]
    OtherAddress {
        /// The slot that is free.
        slot: Slot,
        /// Where its image begins.
        address: u32,
    },
    /// It is older than what runs.
    #[error("the file holds version {}, and the dongle has {}: older ones are refused", shown(*file), shown(*dongle))]
    Older {
        /// Of the file.
        file: FirmwareVersion,
        /// Of the dongle.
        dongle: FirmwareVersion,
    },
}

/// A version as people write it.
pub fn shown((major, minor, patch): FirmwareVersion) -> String {
    format!("{major}.{minor}.{patch}")
}

impl FirmwareFile {
    /// Reads a file.
    ///
    /// # Errors
    /// Says what is wrong with it, and where.
    pub fn read(bytes: &[u8]) -> Result<Self, FirmwareFileError> {
        let (mut images, mut at) = (Vec::new(), 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let header = ImageHeader::read(rest).map_err(|error| FirmwareFileError::Header { at, error })?;
            let image = usize::try_from(header.len).ok().and_then(|len| rest.get(HEADER_BYTES..)?.get(..len));
            let image = image.ok_or(FirmwareFileError::CutShort { at })?;
            if <[u8; 64]>::from(Sha512::digest(image)) != header.digest {
                return Err(FirmwareFileError::Corrupt { at });
            }
            images.push(Image { header, bytes: image.to_vec() });
            at += HEADER_BYTES + image.len();
        }
        if images.is_empty() { Err(FirmwareFileError::Empty) } else { Ok(Self { images }) }
    }

    /// Its images.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// The image for the slot that does not run.
    ///
    /// # Errors
    /// When there is none.
    pub fn image_for(&self, board: &str, firmware: &FirmwareInfo) -> Result<&Image, NoImage> {
        let running = firmware.running.ok_or(NoImage::NoSlots)?;
        let of_board = |image: &&Image| image.header.board() == Some(board);
        if self.images.iter().find(of_board).is_none() {
            let file = self.images.first().and_then(|image| image.header.board()).unwrap_or_default();
            return Err(NoImage::OtherBoard { file: file.to_owned(), dongle: board.to_owned() });
        }
        let slot = running.other();
        let address = firmware.slot(slot).address;
        let image = self.images.iter().find(|image| of_board(image) && image.header.address == address);
        let image = image.ok_or(NoImage::OtherAddress { slot, address })?;
        let dongle = firmware.slot(running).version;
        if image.header.version < dongle {
            return Err(NoImage::Older { file: image.header.version, dongle });
        }
        Ok(image)
    }
}

/// How far an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateProgress {
    /// The image is on its way.
    Sending {
        /// Bytes that the dongle has written.
        sent: u32,
        /// All of them.
        of: u32,
    },
    /// It is whole, and the dongle starts it.
    Restarting,
    /// The new image runs, and is confirmed.
    Done,
    /// The old image runs.
    Failed(UpdateFailure),
}

/// Why the old image still runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpdateFailure {
    /// The dongle refused it.
    #[error("the dongle refused it: {}", .0.name())]
    Refused(Outcome),
    /// It started, and the old one was started again.
    #[error("the dongle went back to the firmware before: {}", went_back(*.0))]
    WentBack(SlotState),
    /// Something came between again and again.
    #[error(
        "it was interrupted {UPDATE_ATTEMPTS_MAX} times: is the dongle's supply steady, and is its line used by another?"
    )]
    Interrupted,
}

fn went_back(state: SlotState) -> &'static str {
    match state {
        SlotState::Refused => "its boot loader does not trust the signature of the new one",
        SlotState::Tried => "the new one hung at each of its starts",
        SlotState::GivenUp => "nobody confirmed the new one in time",
        _ => "the new one was never started",
    }
}

#[derive(Debug)]
enum Phase {
    Begin,
    Data,
    End,
    Restart,
    Restarting,
    Done,
    Failed(UpdateFailure),
}

/// An update under way.
#[derive(Debug)]
pub(super) struct Update {
    image: Image,
    slot: Slot,
    phase: Phase,
    sent: usize,
    attempts: u32,
    /// The dongle was greeted anew: how far it is, its slots tell.
    is_unsure: bool,
}

impl Update {
    fn order(&self) -> Option<Order> {
        if self.is_unsure {
            return None;
        }
        match self.phase {
            Phase::Begin => Some(Order::UpdateBegin { header: self.image.header.bytes().to_vec() }),
            Phase::Data => {
                let offset = u32::try_from(self.sent).unwrap_or(u32::MAX);
                Some(Order::UpdateData { offset, data: self.part().to_vec() })
            }
            Phase::End => Some(Order::UpdateEnd),
            Phase::Restart => Some(Order::Restart),
            Phase::Restarting | Phase::Done | Phase::Failed(_) => None,
        }
    }

    fn part(&self) -> &[u8] {
        let rest = self.image.bytes.get(self.sent..).unwrap_or_default();
        rest.get(..UPDATE_BYTES_MAX).unwrap_or(rest)
    }

    /// A step was carried out.
    fn advance(&mut self) {
        self.phase = match self.phase {
            Phase::Begin => Phase::Data,
            Phase::Data => {
                self.sent += self.part().len();
                if self.part().is_empty() { Phase::End } else { Phase::Data }
            }
            Phase::End => Phase::Restart,
            Phase::Restart | Phase::Restarting => Phase::Restarting,
            Phase::Done => Phase::Done,
            Phase::Failed(failure) => Phase::Failed(failure),
        };
    }

    /// What the slots say of it.
    fn handle_firmware(&mut self, firmware: &FirmwareInfo) {
        let was_unsure = std::mem::take(&mut self.is_unsure);
        let Some(running) = firmware.running.filter(|_| self.is_under_way()) else { return };
        let theirs = firmware.slot(self.slot);
        let is_ours = theirs.version == self.image.header.version;
        if running == self.slot {
            self.phase = match theirs.state {
                SlotState::Confirmed if is_ours => Phase::Done,
                // It was started, whether or not the answers before arrived.
                _ if is_ours => Phase::Restarting,
                _ => Phase::Failed(UpdateFailure::Refused(Outcome::WrongImage)),
            };
        } else if was_unsure {
            let is_ready = is_ours && theirs.state == SlotState::Ready;
            match self.phase {
                Phase::End | Phase::Restart | Phase::Restarting if is_ready => self.again(Phase::Restart),
                Phase::Restart | Phase::Restarting => {
                    self.phase = Phase::Failed(UpdateFailure::WentBack(theirs.state));
                }
                _ => {
                    self.sent = 0;
                    self.again(Phase::Begin);
                }
            }
        }
    }

    fn again(&mut self, phase: Phase) {
        self.attempts += 1;
        let is_over = self.attempts > UPDATE_ATTEMPTS_MAX;
        self.phase = if is_over { Phase::Failed(UpdateFailure::Interrupted) } else { phase };
    }

    fn is_under_way(&self) -> bool {
        !matches!(self.phase, Phase::Done | Phase::Failed(_))
    }
}

impl DongleSession {
    /// What the dongle's slots hold; `None` until it has said so.
    pub fn firmware(&self) -> Option<&FirmwareInfo> {
        self.firmware.as_ref()
    }

    /// Was it asked for its slots often enough to know that it has none?
    pub fn has_no_slots(&self) -> bool {
        match &self.firmware {
            Some(firmware) => firmware.running.is_none(),
            None => self.firmware_asked >= FIRMWARE_ASKED_MAX,
        }
    }

    /// Begins to replace the firmware by `image`, which goes into the slot that does not run; false while another update is under
    /// way, or nothing is known of the slots.
    pub fn update(&mut self, image: Image) -> bool {
        let slot = self.firmware.as_ref().and_then(|firmware| firmware.running).map(Slot::other);
        let is_free = self.update.as_ref().is_none_or(|update| !update.is_under_way());
        let Some(slot) = slot.filter(|_| is_free) else { return false };
        self.update =
            Some(Update { image, slot, phase: Phase::Begin, sent: 0, attempts: 1, is_unsure: false });
        true
    }

    /// How far it is; `None` where there was none.
    pub fn update_progress(&self) -> Option<UpdateProgress> {
        let update = self.update.as_ref()?;
        let bytes = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let sending =
            UpdateProgress::Sending { sent: bytes(update.sent), of: bytes(update.image.bytes.len()) };
        Some(match update.phase {
            Phase::Begin | Phase::Data | Phase::End => sending,
            Phase::Restart | Phase::Restarting => UpdateProgress::Restarting,
            Phase::Done => UpdateProgress::Done,
            Phase::Failed(failure) => UpdateProgress::Failed(failure),
        })
    }

    pub(super) fn is_updating(&self) -> bool {
        self.update.as_ref().is_some_and(Update::is_under_way)
    }

    /// The step that comes next.
    pub(super) fn update_order(&self) -> Option<Order> {
        self.update.as_ref().and_then(Update::order)
    }

    /// A step was answered.
    pub(super) fn handle_update_outcome(&mut self, outcome: Outcome) {
        let Some(update) = &mut self.update else { return };
        match outcome {
            Outcome::Done => update.advance(),
            outcome => update.phase = Phase::Failed(UpdateFailure::Refused(outcome)),
        }
    }

    /// The dongle was greeted: asks for its slots, which tell how far an update is.
    pub(super) fn begin_firmware(&mut self) {
        self.firmware = None;
        self.firmware_asked = 0;
        self.is_confirmed = false;
        self.ask_firmware();
        if let Some(update) = &mut self.update {
            update.is_unsure = update.is_under_way();
        }
    }

    /// Asks while there is no answer; one that never answers is not asked as often.
    pub(super) fn ask_firmware(&mut self) {
        if self.firmware_asked < FIRMWARE_ASKED_MAX || self.firmware_asked.is_multiple_of(ASKED_SELDOM) {
            self.send(&Down::AskFirmware);
        }
        self.firmware_asked = self.firmware_asked.saturating_add(1);
    }

    pub(super) fn handle_firmware(&mut self, firmware: FirmwareInfo) {
        self.firmware = Some(firmware);
        if let Some(update) = &mut self.update {
            update.handle_firmware(&firmware);
        }
    }

    /// Confirms an image that is greeted, has opened its bus as it was told, and has said how it is.
    pub(super) fn confirm_what_works(&mut self) {
        let Some(firmware) = &self.firmware else { return };
        let state = firmware.running.map(|slot| firmware.slot(slot).state).filter(|_| !self.only_looks);
        let is_unconfirmed = matches!(state, Some(SlotState::Ready | SlotState::Tried | SlotState::GivenUp));
        if is_unconfirmed && !self.is_confirmed && self.is_up() && self.health.is_some() {
            self.is_confirmed = true;
            self.orders.push_back(Order::Confirm);
        }
    }

    /// It was confirmed, or could not be: its slots tell, and it is tried again.
    pub(super) fn handle_confirmed(&mut self, outcome: Outcome) {
        self.counters.refused += u64::from(outcome != Outcome::Done);
        // Until it says so, nobody knows.
        self.firmware = None;
        self.firmware_asked = 0;
        self.ask_firmware();
    }
}

#[cfg(test)]
pub(super) mod tests;
