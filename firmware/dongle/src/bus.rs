//! One bus: how it is, what is wanted of it, and what may be sent on it.

use convoy_protocol::frame::CanId;
use convoy_protocol::link::{BusHealth, BusState, FILTER_BYTES, FILTERS_MAX, Outcome};
use heapless::Vec;

use crate::commands::Action;
use crate::count;

/// Frames sent on a bus in a second at most, whatever the agent allows itself.
pub const SENDS_PER_S_MAX: u16 = 200;

/// Frames sent at once at most.
pub(crate) const SENDS_AHEAD_MAX: u16 = 4;

const EXTENDED: u32 = 1 << 31;

/// Frames whose id equals that of the filter in the bits of the mask, and is as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    id: u32,
    mask: u32,
}

impl Filter {
    fn from_bytes([a, b, c, d, e, f, g, h]: [u8; FILTER_BYTES]) -> Self {
        Self { id: u32::from_le_bytes([a, b, c, d]), mask: u32::from_le_bytes([e, f, g, h]) }
    }

    /// Has the id 29 bits?
    pub const fn is_extended(self) -> bool {
        self.id & EXTENDED != 0
    }

    /// Id and mask, without the mark of its length.
    pub const fn bits(self) -> (u32, u32) {
        (self.id & !EXTENDED, self.mask & !EXTENDED)
    }

    fn passes(self, id: CanId) -> bool {
        let (is_extended, bits) = match id {
            CanId::Standard(id) => (false, u32::from(id)),
            CanId::Extended(id) => (true, id),
        };
        let (wanted, mask) = self.bits();
        is_extended == self.is_extended() && (bits ^ wanted) & mask == 0
    }
}

#[derive(Debug)]
pub(crate) struct Bus {
    pub(crate) health: BusHealth,
    filters: Vec<Filter, FILTERS_MAX>,
    /// A list of which not every part has come, and the part that comes next.
    coming: Vec<Filter, FILTERS_MAX>,
    next_part: u8,
    sends_per_s_max: u16,
    /// The session has not said yet that it may send.
    is_closed_for_sending: bool,
    /// Frames that may be sent now, in millionths, and when that was.
    credit: u64,
    credit_us: u64,
}

impl Bus {
    pub(crate) const fn new() -> Self {
        let health = BusHealth {
            state: BusState::Closed,
            listen_only: true,
            receive_errors: 0,
            transmit_errors: 0,
            received: 0,
            unwanted: 0,
            overruns: 0,
            remote: 0,
            sent: 0,
            not_sent: 0,
        };
        Self {
            health,
            filters: Vec::new(),
            coming: Vec::new(),
            next_part: 0,
            sends_per_s_max: 0,
            is_closed_for_sending: true,
            credit: 1_000_000,
            credit_us: 0,
        }
    }

    /// Nothing is sent until the bus is opened for it again. What is wanted stays.
    pub(crate) fn listen(&mut self) {
        self.sends_per_s_max = 0;
        self.is_closed_for_sending = true;
    }

    pub(crate) fn filters(&self) -> &[Filter] {
        &self.filters
    }

    pub(crate) fn wants(&self, id: CanId) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| filter.passes(id))
    }

    /// Takes a part of a list of filters. A list that is too long, or of which a part is missing, changes nothing.
    pub(crate) fn take_filters(&mut self, part: u8, is_last: bool, filters: &[u8]) -> Outcome {
        if part == 0 {
            self.coming.clear();
            self.next_part = 0;
        }
        let (filters, rest) = filters.as_chunks::<FILTER_BYTES>();
        let fits = self.coming.len() + filters.len() <= FILTERS_MAX;
        if part != self.next_part || !rest.is_empty() || !fits {
            // The parts that follow have nothing to follow.
            self.next_part = u8::MAX;
            return Outcome::Unsupported;
        }
        for filter in filters {
            // There is room, as was seen.
            let _ = self.coming.push(Filter::from_bytes(*filter));
        }
        self.next_part = part.saturating_add(1);
        if is_last {
            core::mem::swap(&mut self.filters, &mut self.coming);
            self.coming.clear();
            self.next_part = u8::MAX;
        }
        Outcome::Done
    }

    /// May a frame be sent now?
    pub(crate) fn may_send(&mut self, now_us: u64) -> Outcome {
        if self.health.listen_only || self.is_closed_for_sending || self.sends_per_s_max == 0 {
            return Outcome::ListenOnly;
        }
        let rate = u64::from(self.sends_per_s_max.min(SENDS_PER_S_MAX));
        let passed_us = now_us.saturating_sub(self.credit_us).min(1_000_000);
        // A few frames ahead, a request and the flow control to several ECUs: longer bursts are what a cap is against.
        self.credit = (self.credit + passed_us * rate).min(u64::from(SENDS_AHEAD_MAX) * 1_000_000);
        self.credit_us = now_us;
        if self.credit < 1_000_000 { Outcome::TooMany } else { Outcome::Done }
    }

    /// What became of something that the driver was to do.
    pub(crate) fn handle_outcome(&mut self, now_us: u64, action: &Action, outcome: Outcome) {
        match action {
            Action::Mode { listen_only, sends_per_s_max, .. } if outcome == Outcome::Done => {
                self.health.listen_only = *listen_only;
                self.sends_per_s_max = *sends_per_s_max;
                self.is_closed_for_sending = false;
                // What was left stays: opening a bus again and again gives no right to send.
                self.credit = self.credit.min(1_000_000);
                self.credit_us = now_us;
            }
            Action::Send { .. } if outcome == Outcome::Done => {
                self.credit = self.credit.saturating_sub(1_000_000);
                count(&mut self.health.sent);
            }
            Action::Send { .. } => count(&mut self.health.not_sent),
            Action::Mode { .. } | Action::Filters { .. } | Action::Update(_) => {}
        }
    }

    pub(crate) fn count_not_sent(&mut self) {
        count(&mut self.health.not_sent);
    }
}
