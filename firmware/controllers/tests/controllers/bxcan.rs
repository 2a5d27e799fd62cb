//! Filter banks of bxCAN, against how the reference manual (RM0090, figure 338) says that they match.

use convoy_controllers::bxcan::{BANKS_MAX, Bank, banks};
use convoy_protocol::frame::CanId;
use proptest::prelude::*;

use crate::chip::BusFrame;
use crate::{any_filter, any_frame, filters, is_wanted, like};

fn passes(bank: &Bank, frame: &BusFrame) -> bool {
    let BusFrame { id, is_extended, .. } = *frame;
    if bank.is_wide {
        let bits = if is_extended { id << 3 | 1 << 2 } else { id << 21 };
        return (bits ^ bank.registers[0]) & bank.registers[1] == 0;
    }
    let bits = if is_extended { id >> 18 << 5 | 1 << 3 | id >> 15 & 7 } else { id << 5 };
    bank.registers.iter().any(|register| (bits ^ register & 0xFFFF) & register >> 16 == 0)
}

fn pass(banks: &[Bank], frame: &BusFrame) -> bool {
    banks.iter().any(|bank| passes(bank, frame))
}

fn standard(count: u16) -> Vec<(CanId, u32)> {
    (0..count).map(|id| (CanId::Standard(id), 0x7FF)).collect()
}

#[test]
fn two_standard_filters_or_one_extended_take_a_bank_and_more_than_all_banks_let_everything_through() {
    let unwanted = BusFrame { id: 0x7FF, is_extended: false, data: vec![] };
    let mut wanted = standard(2 * BANKS_MAX as u16 - 1);
    assert_eq!(banks(&filters(&wanted)).len(), BANKS_MAX);
    assert!(!pass(&banks(&filters(&wanted)), &unwanted));
    wanted.push((CanId::Extended(1), 0x1FFF_FFFF));
    assert_eq!(banks(&filters(&wanted)).len(), 1);
    assert!(pass(&banks(&filters(&wanted)), &unwanted));
    assert!(pass(&banks(&[]), &unwanted));
}

proptest! {
    #[test]
    fn banks_hold_back_nothing_wanted_and_let_nothing_else_through_where_they_fit(
        wanted in proptest::collection::vec(any_filter(), 1..60),
        frames in proptest::collection::vec(any_frame(), 1..10),
    ) {
        let banks = banks(&filters(&wanted));
        let is_everything = banks[0].is_wide && banks[0].registers[1] == 0;
        let likely = wanted.iter().flat_map(|filter| frames.iter().map(|frame| like(*filter, frame)));
        for frame in likely.chain(frames.clone()) {
            prop_assert_eq!(pass(&banks, &frame), is_everything || is_wanted(&wanted, &frame), "{:?}", frame);
        }
    }
}
