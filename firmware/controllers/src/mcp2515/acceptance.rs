//! Which frames the MCP2515 lets through (data sheet DS20001801, chapter 4.5): two masks, the first for 2 filters and the other
//! for 4.

use convoy_dongle::Filter;
use embedded_can::{ExtendedId, Id, StandardId};
use heapless::Vec;
use mcp25xx::{AcceptanceFilter, IdHeader};

/// Filters of the first receive buffer, and of the second.
const FIRST_MAX: usize = 2;
const SECOND_MAX: usize = 4;
const FILTERS_MAX: usize = FIRST_MAX + SECOND_MAX;

const STANDARD_BITS: u32 = 0x7FF;
const EXTENDED_BITS: u32 = 0x1FFF_FFFF;
/// A standard identifier lies in the chip where the first 11 bits of an extended one do.
const STANDARD_SHIFT: u32 = 18;

/// Masks and filters of both receive buffers. A buffer has no filter that is off, so one is there more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Acceptance {
    masks: [ExtendedId; 2],
    first: [Id; FIRST_MAX],
    second: [Id; SECOND_MAX],
}

/// Filters under one mask.
struct Group {
    mask: ExtendedId,
    ids: Vec<Id, FILTERS_MAX>,
}

impl Acceptance {
    /// Every frame: masks without a bit, and a filter for either length of identifier. The mode that turns the filters off is
    /// not for use: it also takes the beginnings of frames that were never finished.
    pub(super) const EVERYTHING: Self = Self {
        masks: [ExtendedId::ZERO; 2],
        first: [STANDARD, EXTENDED],
        second: [STANDARD, EXTENDED, STANDARD, EXTENDED],
    };

    /// What lets every frame through that one of `filters` wants: those alone if they fit, else every frame.
    pub(super) fn of(filters: &[Filter]) -> Self {
        Self::chosen(filters).unwrap_or(Self::EVERYTHING)
    }

    /// `None` without a filter, and where they do not fit.
    fn chosen(filters: &[Filter]) -> Option<Self> {
        let mut groups: Vec<Group, 2> = Vec::new();
        for filter in filters {
            let (mask, id) = bits(*filter)?;
            if !groups.iter().any(|group| group.mask == mask) {
                groups.push(Group { mask, ids: Vec::new() }).ok()?;
            }
            let group = groups.iter_mut().find(|group| group.mask == mask)?;
            if !group.ids.contains(&id) {
                group.ids.push(id).ok()?;
            }
        }
        match groups.as_slice() {
            [only] if only.ids.len() <= FIRST_MAX => {
                Self::new((only.mask, &only.ids), (only.mask, &only.ids))
            }
            [only] => {
                let (first, second) = only.ids.split_at_checked(FIRST_MAX)?;
                Self::new((only.mask, first), (only.mask, second))
            }
            [a, b] if a.ids.len() <= FIRST_MAX => Self::new((a.mask, &a.ids), (b.mask, &b.ids)),
            [a, b] => Self::new((b.mask, &b.ids), (a.mask, &a.ids)),
            _ => None,
        }
    }

    fn new(first: (ExtendedId, &[Id]), second: (ExtendedId, &[Id])) -> Option<Self> {
        Some(Self { masks: [first.0, second.0], first: repeated(first.1)?, second: repeated(second.1)? })
    }

    /// The registers and what they hold. The bits of a mask that stand for bytes of data in standard frames are 0.
    pub(super) fn registers(&self) -> [(AcceptanceFilter, IdHeader); 8] {
        let [mask_0, mask_1] = self.masks;
        let ([filter_0, filter_1], [filter_2, filter_3, filter_4, filter_5]) = (self.first, self.second);
        [
            (AcceptanceFilter::Mask0, mask_0.into()),
            (AcceptanceFilter::Filter0, filter_0.into()),
            (AcceptanceFilter::Filter1, filter_1.into()),
            (AcceptanceFilter::Mask1, mask_1.into()),
            (AcceptanceFilter::Filter2, filter_2.into()),
            (AcceptanceFilter::Filter3, filter_3.into()),
            (AcceptanceFilter::Filter4, filter_4.into()),
            (AcceptanceFilter::Filter5, filter_5.into()),
        ]
    }
}

const STANDARD: Id = Id::Standard(StandardId::ZERO);
const EXTENDED: Id = Id::Extended(ExtendedId::ZERO);

/// Mask, in the place of an extended identifier's, and identifier, without the bits that the mask leaves open.
fn bits(filter: Filter) -> Option<(ExtendedId, Id)> {
    let (id, mask) = filter.bits();
    if filter.is_extended() {
        let mask = mask & EXTENDED_BITS;
        return Some((ExtendedId::new(mask)?, Id::Extended(ExtendedId::new(id & mask)?)));
    }
    let mask = mask & STANDARD_BITS;
    let id = u16::try_from(id & mask).ok()?;
    Some((ExtendedId::new(mask << STANDARD_SHIFT)?, Id::Standard(StandardId::new(id)?)))
}

/// The filters of a buffer, the first of them where there is room left; `None` if there are none or too many.
fn repeated<const N: usize>(ids: &[Id]) -> Option<[Id; N]> {
    let mut all = [*ids.first()?; N];
    all.get_mut(..ids.len())?.copy_from_slice(ids);
    Some(all)
}
