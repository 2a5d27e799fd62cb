//! Frames that wait for others to share their packet.

use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::link::{BATCH_AGE_US, Batch, RECORDS_BYTES_MAX, records};

/// A batch in the making.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    records: [u8; RECORDS_BYTES_MAX],
    len: usize,
    frames: u32,
    first_us: u64,
    last_us: u64,
}

impl OpenBatch {
    pub(crate) const fn new() -> Self {
        Self { records: [0; RECORDS_BYTES_MAX], len: 0, frames: 0, first_us: 0, last_us: 0 }
    }

    /// False where it does not fit, or no record can say it.
    pub(crate) fn push(&mut self, now_us: u64, bus: BusIndex, id: CanId, data: &[u8]) -> bool {
        let later_us = if self.frames == 0 { 0 } else { now_us.saturating_sub(self.last_us) };
        let Some(rest) = self.records.get_mut(self.len..) else { return false };
        let Some(len) = records::put(rest, later_us, bus, id, data) else { return false };
        if self.frames == 0 {
            (self.first_us, self.last_us) = (now_us, now_us);
        }
        self.len += len;
        self.frames += 1;
        // Two drivers may take the time one before the other: a frame is never earlier than the one before it.
        self.last_us = self.last_us.max(now_us);
        true
    }

    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    /// When it is closed at the latest; `None` where it is empty.
    pub(crate) fn due_us(&self) -> Option<u64> {
        (self.frames > 0).then(|| self.first_us.saturating_add(BATCH_AGE_US))
    }

    /// As it travels; `None` where it is empty.
    pub(crate) fn close(&self, first: u32, lost: u32) -> Option<Batch<'_>> {
        let records = self.records.get(..self.len).filter(|records| !records.is_empty())?;
        Some(Batch { first, lost, time_us: self.first_us, records })
    }
}
