//! Which frames a socket has to let through: those that a campaign, a trouble code or a watcher needs.
//!
//! The kernel takes at most 512 filters a socket; where more ids are needed, neighbouring ones share a filter, which then
//! lets a few others through as well. What is needed is never held back.

use convoy_protocol::frame::CanId;

use crate::j1939::Pgn;

/// Filters a CAN_RAW socket takes at most (`CAN_RAW_FILTER_MAX`).
pub const FILTERS_MAX: usize = 512;

/// Lets an id through where it equals `id` in the bits of `mask`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdFilter {
    /// 29 bits?
    pub extended: bool,
    /// The bits.
    pub id: u32,
    /// Which of them count.
    pub mask: u32,
}

impl IdFilter {
    /// Exactly this id.
    pub const fn exact(id: CanId) -> Self {
        match id {
            CanId::Standard(id) => Self { extended: false, id: id as u32, mask: CanId::STANDARD_MAX as u32 },
            CanId::Extended(id) => Self { extended: true, id, mask: CanId::EXTENDED_MAX },
        }
    }

    /// A J1939 group of any priority and sender, and to any receiver.
    pub const fn group(pgn: Pgn) -> Self {
        let mask = if pgn.is_pdu1() { 0x03FF_0000 } else { 0x03FF_FF00 };
        Self { extended: true, id: pgn.bits() << 8 & mask, mask }
    }

    /// Ids from the lowest of `of` on whose number is a power of two.
    pub const fn block(id: CanId, bits: u32) -> Self {
        let exact = Self::exact(id);
        let mask = exact.mask & !((1 << bits) - 1);
        Self { extended: exact.extended, id: exact.id & mask, mask }
    }

    /// Does it let the id through?
    pub const fn lets(self, id: CanId) -> bool {
        let other = Self::exact(id);
        other.extended == self.extended && (other.id ^ self.id) & self.mask == 0
    }

    const fn covers(self, other: Self) -> bool {
        self.extended == other.extended
            && self.mask & !other.mask == 0
            && (self.id ^ other.id) & self.mask == 0
    }

    /// One filter that lets through what either does.
    const fn joined(self, other: Self) -> Self {
        let mask = self.mask & other.mask & !(self.id ^ other.id);
        Self { extended: self.extended, id: self.id & mask, mask }
    }
}

/// At most `max` filters that let through everything that these do; `max` is at least 2.
pub fn coalesce(mut filters: Vec<IdFilter>, max: usize) -> Vec<IdFilter> {
    // The wide ones first, so that what they cover is found by looking back.
    filters.sort_unstable_by_key(|filter| (filter.mask.count_ones(), *filter));
    let mut kept: Vec<IdFilter> = Vec::new();
    for filter in filters {
        if !kept.iter().any(|wide| wide.covers(filter)) {
            kept.push(filter);
        }
    }
    kept.sort_unstable();
    while kept.len() > max.max(2) {
        // Neighbours that differ least let the fewest others through.
        let cost = |at: usize| match kept[at].extended == kept[at + 1].extended {
            true => {
                kept[at].mask.count_ones() + kept[at + 1].mask.count_ones()
                    - 2 * kept[at].joined(kept[at + 1]).mask.count_ones()
            }
            false => u32::MAX,
        };
        let Some(at) = (0..kept.len() - 1).min_by_key(|at| cost(*at)) else { return kept };
        kept[at] = kept[at].joined(kept[at + 1]);
        kept.remove(at + 1);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn groups_and_blocks_let_through_what_belongs_to_them() {
        let group = IdFilter::group(Pgn::new(0xFECA));
        assert!(group.lets(CanId::Extended(0x18FE_CA00)) && group.lets(CanId::Extended(0x0CFE_CA17)));
        assert!(!group.lets(CanId::Extended(0x18FE_CB00)) && !group.lets(CanId::Standard(0x0CA)));
        let addressed = IdFilter::group(Pgn::TP_CM);
        assert!(addressed.lets(CanId::Extended(0x1CEC_FF00)) && addressed.lets(CanId::Extended(0x18EC_0017)));
        let answers = IdFilter::block(CanId::Standard(0x7E8), 3);
        assert!(answers.lets(CanId::Standard(0x7EF)) && !answers.lets(CanId::Standard(0x7E7)));
    }

    #[test]
    fn what_another_filter_covers_is_left_out() {
        let group = IdFilter::group(Pgn::new(0xFECA));
        let exact = IdFilter::exact(CanId::Extended(0x18FE_CA00));
        assert_eq!(coalesce(vec![exact, group, exact], 512), [group]);
    }

    proptest! {
        #[test]
        fn whatever_is_needed_is_let_through_by_as_few_filters_as_the_kernel_takes(
            standard in prop::collection::vec(0u16..0x800, 0..400), extended in prop::collection::vec(0u32..0x2000_0000, 0..400),
            max in 2usize..64,
        ) {
            let ids: Vec<CanId> =
                standard.into_iter().map(CanId::Standard).chain(extended.into_iter().map(CanId::Extended)).collect();
            let filters = coalesce(ids.iter().map(|id| IdFilter::exact(*id)).collect(), max);
            prop_assert!(filters.len() <= max);
            for id in ids {
                prop_assert!(filters.iter().any(|filter| filter.lets(id)), "{id} of {filters:?}");
            }
        }
    }
}
