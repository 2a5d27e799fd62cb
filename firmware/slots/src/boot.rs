//! Which image is started.

use convoy_protocol::firmware::{IMAGE_OFFSET, ImageHeader};
use convoy_protocol::link::{Slot, SlotState};
use ed25519_dalek::{Signature, VerifyingKey};
use embedded_storage::nor_flash::NorFlash;
use sha2::{Digest as _, Sha512};

use crate::{Mark, SET, Slots, TRIES_MAX};

/// The Ed25519 key that `hex` names, 64 hexadecimal digits: for a constant of a boot loader, whose build fails where it is no key.
///
/// # Panics
/// Where it is none.
pub const fn public_key(hex: &str) -> [u8; 32] {
    let digits = hex.as_bytes();
    assert!(digits.len() == 64, "a key has 64 hexadecimal digits");
    let (mut key, mut at) = ([0; 32], 0);
    while at < key.len() {
        key[at] = digit(digits[2 * at]) << 4 | digit(digits[2 * at + 1]);
        at += 1;
    }
    key
}

const fn digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => panic!("a key has hexadecimal digits"),
    }
}

/// What the boot loader starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The slot.
    pub slot: Slot,
    /// Address of the image's vectors.
    pub address: u32,
}

/// Why an image is not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has no header.
    NoHeader,
    /// It is of another board, for another address, or longer than a slot.
    WrongImage,
    /// It is not what was signed.
    Corrupt,
    /// Its signature is not of the key.
    Signature,
}

/// How much an image is to be preferred: the greatest is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Better than nothing: a dongle that starts can be updated.
    GivenUp(u32),
    Confirmed(u32),
    /// Newer than the other, and may still be tried.
    OnTrial,
}

impl<F: NorFlash> Slots<F> {
    /// The image to start, which `key` has signed for `board`; what may be started only so often is marked before. `None`: none of
    /// the two can be.
    pub fn choose(&mut self, board: &str, key: &VerifyingKey) -> Option<Start> {
        let orders = [Slot::A, Slot::B].map(|slot| self.marks(slot).and_then(|marks| marks.order()));
        let newest = orders.into_iter().flatten().max();
        let mut ranks = [Slot::A, Slot::B].map(|slot| (self.rank(slot, newest), slot));
        ranks.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
        for (rank, slot) in ranks {
            let Some(rank) = rank else { continue };
            if rank == Rank::OnTrial {
                let tries = self.marks(slot).map_or(TRIES_MAX, |marks| marks.tries());
                // Without the mark it would be tried for ever. Before it is looked at, since who sent it chose what that meets.
                if self.set(slot, Mark::Started(tries), &SET).is_err() {
                    continue;
                }
            }
            if self.look_over(slot, board, key).is_err() {
                // A slot that was good before may be again: reading failed.
                if rank == Rank::OnTrial {
                    let _ = self.set(slot, Mark::Refused, &SET);
                }
                continue;
            }
            return Some(Start { slot, address: self.address(slot) });
        }
        None
    }

    fn rank(&mut self, slot: Slot, newest: Option<u32>) -> Option<Rank> {
        let marks = self.marks(slot)?;
        let order = marks.order()?;
        match marks.state() {
            SlotState::Confirmed => Some(Rank::Confirmed(order)),
            SlotState::Ready | SlotState::Tried if newest == Some(order) && marks.tries() < TRIES_MAX => {
                Some(Rank::OnTrial)
            }
            SlotState::Ready | SlotState::Tried | SlotState::GivenUp => Some(Rank::GivenUp(order)),
            SlotState::Empty | SlotState::Refused => None,
        }
    }

    /// Is the image of a slot what `key` has signed for `board` and this slot?
    ///
    /// # Errors
    /// Says what it is not.
    pub fn look_over(&mut self, slot: Slot, board: &str, key: &VerifyingKey) -> Result<ImageHeader, Refusal> {
        let header = self.header(slot).ok_or(Refusal::NoHeader)?;
        if !self.is_for(&header, slot, board) {
            return Err(Refusal::WrongImage);
        }
        let signature = Signature::from_bytes(&header.signature);
        key.verify_strict(&header.signed_bytes(), &signature).map_err(|_| Refusal::Signature)?;
        if self.digest(slot, header.len) != Some(header.digest) {
            return Err(Refusal::Corrupt);
        }
        Ok(header)
    }

    pub(crate) fn is_for(&self, header: &ImageHeader, slot: Slot, board: &str) -> bool {
        header.board() == Some(board)
            && header.address == self.address(slot)
            && (1..=self.image_bytes_max()).contains(&header.len)
    }

    pub(crate) fn digest(&mut self, slot: Slot, len: u32) -> Option<[u8; 64]> {
        let mut hash = Sha512::new();
        let (mut at, mut left) = (self.offset(slot) + IMAGE_OFFSET, usize::try_from(len).ok()?);
        while left > 0 {
            let mut bytes = [0; 64];
            self.flash.read(at, &mut bytes).ok()?;
            let part = bytes.get(..left).unwrap_or(&bytes);
            hash.update(part);
            left -= part.len();
            at += 64;
        }
        Some(hash.finalize().into())
    }
}
