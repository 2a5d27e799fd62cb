//! The driver of the MCP2515 on a chip that behaves as the data sheet says; [`bxcan`] is about the other controller.

mod bxcan;
mod chip;
mod shell;

use std::cell::RefCell;
use std::rc::Rc;

use chip::{BusFrame, CONFIGURATION, Chip, LISTEN_ONLY, NORMAL, Wires};
use convoy_controllers::ClassicFrame;
use convoy_controllers::mcp2515::{Crystal, Mcp2515};
use convoy_dongle::shell::{Controller, ControllerState};
use convoy_dongle::{Board, Dongle, Filter};
use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::link::{
    BusState, Command, Down, FILTERS_BYTES_MAX, Head, Outcome, PACKET_BYTES_MAX, ResetCause, encode,
};
use embedded_can::nb::Can;
use embedded_can::{ExtendedId, Frame, Id, StandardId};
use embedded_hal_mock::eh1::delay::NoopDelay;
use embedded_hal_mock::eh1::digital::Mock as MockPin;
use embedded_hal_mock::eh1::spi::{Mock as MockSpi, Transaction};
use proptest::prelude::*;

pub(crate) type Driver = Mcp2515<Wires, Wires, Wires>;

/// A driver and the chip at its other end.
pub(crate) fn driver(crystal: Crystal) -> (Driver, Rc<RefCell<Chip>>) {
    let chip = Rc::new(RefCell::new(Chip::new()));
    let wires = Wires(Rc::clone(&chip));
    (Mcp2515::new(wires.clone(), wires.clone(), wires, crystal), chip)
}

fn opened() -> (Driver, Rc<RefCell<Chip>>) {
    let (mut driver, chip) = driver(Crystal::Mhz16);
    assert_eq!(driver.open(500_000, false), Outcome::Done);
    (driver, chip)
}

fn heard(frame: &ClassicFrame) -> BusFrame {
    let (id, is_extended) = match frame.id() {
        Id::Standard(id) => (u32::from(id.as_raw()), false),
        Id::Extended(id) => (id.as_raw(), true),
    };
    BusFrame { id, is_extended, data: frame.data().to_vec() }
}

/// A frame that says which it is.
pub(crate) fn numbered(number: u32) -> BusFrame {
    let is_extended = number.is_multiple_of(2);
    let id = if is_extended { 0x18DA_0000 + number } else { number & 0x7FF };
    BusFrame { id, is_extended, data: number.to_be_bytes().to_vec() }
}

fn received(driver: &mut Driver) -> Vec<BusFrame> {
    std::iter::from_fn(|| driver.receive().ok()).map(|frame| heard(&frame)).collect()
}

/// Filters as a dongle makes them of the agent's command.
fn filters(wanted: &[(CanId, u32)]) -> Vec<Filter> {
    let board = Board { name: "test", firmware: (0, 0, 1), buses: 1, reset: ResetCause::Power };
    let mut dongle: Dongle = Dongle::new(board, 0);
    let mut sequence = 0;
    let mut tell = |dongle: &mut Dongle, message: Down<'_>| {
        let head = Head { session: 1, sequence };
        let mut buffer = [0; PACKET_BYTES_MAX];
        encode(head, &message, &mut buffer)
            .expect("it fits")
            .iter()
            .for_each(|byte| dongle.handle_byte(0, *byte));
        sequence += 1;
        dongle.handle_outcome(0, Outcome::Done);
    };
    tell(&mut dongle, Down::Hello { session: 1 });
    let bytes = wanted.iter().flat_map(|(id, mask)| {
        let id = match *id {
            CanId::Standard(id) => u32::from(id),
            CanId::Extended(id) => id | 1 << 31,
        };
        [id, *mask].map(u32::to_le_bytes).concat()
    });
    let bytes: Vec<u8> = bytes.collect();
    let parts: Vec<&[u8]> = bytes.chunks(FILTERS_BYTES_MAX).collect();
    for (part, number) in parts.iter().zip(0..) {
        let is_last = usize::from(number) + 1 == parts.len();
        let bus = BusIndex(0);
        let command = Command::Filters { bus, part: number, is_last, filters: part };
        tell(&mut dongle, Down::Command { number: u16::from(number) + 1, command });
    }
    assert_eq!(dongle.filters(BusIndex(0)).len(), wanted.len());
    dongle.filters(BusIndex(0)).to_vec()
}

fn is_wanted(wanted: &[(CanId, u32)], frame: &BusFrame) -> bool {
    wanted.iter().any(|(id, mask)| {
        let (id, is_extended) = match *id {
            CanId::Standard(id) => (u32::from(id), false),
            CanId::Extended(id) => (id, true),
        };
        is_extended == frame.is_extended && (id ^ frame.id) & mask == 0
    })
}

#[test]
fn a_chip_that_outlived_the_microcontroller_is_silent_until_it_is_opened() {
    let (_, chip) = opened();
    assert_eq!(chip.borrow().mode(), NORMAL);
    let wires = Wires(Rc::clone(&chip));
    let mut driver = Mcp2515::new(wires.clone(), wires.clone(), wires, Crystal::Mhz16);
    assert_eq!(chip.borrow().mode(), CONFIGURATION);
    assert_eq!(driver.state().state, BusState::Closed);
}

#[test]
fn bit_rates_without_a_divider_are_refused_and_change_nothing() {
    let (mut driver, chip) = driver(Crystal::Mhz8);
    assert_eq!(driver.open(500_000, true), Outcome::Done);
    let resets = chip.borrow().resets;
    for bitrate in [1_000_000, 83_333, 1] {
        assert_eq!(driver.open(bitrate, false), Outcome::Unsupported, "{bitrate}");
    }
    assert_eq!((chip.borrow().mode(), chip.borrow().resets), (LISTEN_ONLY, resets));
    // 0 leaves it.
    assert_eq!(driver.open(125_000, false), Outcome::Done);
    let timing = chip.borrow().registers[chip::CNF3..chip::CNF3 + 3].to_vec();
    assert_eq!(driver.open(0, true), Outcome::Done);
    assert_eq!(chip.borrow().registers[chip::CNF3..chip::CNF3 + 3], timing);
}

#[test]
fn listening_only_the_chip_itself_sends_nothing_and_keeps_nothing_to_send() {
    let (mut driver, chip) = driver(Crystal::Mhz16);
    let frame = ClassicFrame::new(StandardId::MAX, &[1]).unwrap();
    assert_eq!(driver.open(500_000, true), Outcome::Done);
    assert_eq!(chip.borrow().mode(), LISTEN_ONLY);
    assert!(matches!(driver.transmit(&frame), Err(nb::Error::WouldBlock)));
    // Nor does a list of filters open it.
    assert_eq!(driver.choose(&filters(&[(CanId::Standard(0x7E8), 0x7F8)])), Outcome::Done);
    assert_eq!(chip.borrow().mode(), LISTEN_ONLY);
    assert_eq!(driver.open(0, false), Outcome::Done);
    assert_eq!(chip.borrow().mode(), NORMAL);
    assert_eq!(chip.borrow_mut().send(), None);
}

#[test]
fn a_slow_change_of_mode_is_waited_for_and_a_chip_that_never_changes_is_closed() {
    let (mut driver, chip) = driver(Crystal::Mhz16);
    chip.borrow_mut().mode_ns = 1_200_000;
    assert_eq!(driver.open(125_000, false), Outcome::Done);
    chip.borrow_mut().mode_ns = u64::MAX;
    assert_eq!(driver.open(125_000, false), Outcome::Busy);
    assert_eq!((chip.borrow().mode(), driver.state().state), (CONFIGURATION, BusState::Closed));
}

#[test]
fn a_chip_that_is_not_there_is_busy_whatever_the_line_reads() {
    for silence in [0x00, 0xFF] {
        let mut driver = Mcp2515::new(Absent(silence), Absent(silence), NoopDelay::new(), Crystal::Mhz16);
        assert_eq!(driver.open(500_000, true), Outcome::Busy);
        assert!(matches!(driver.receive(), Err(nb::Error::WouldBlock)));
        assert_eq!(driver.state().state, BusState::Closed);
    }
}

/// SPI and interrupt line with nothing at the other end.
#[derive(Debug)]
struct Absent(u8);

impl embedded_hal::spi::ErrorType for Absent {
    type Error = std::convert::Infallible;
}

impl embedded_hal::spi::SpiDevice for Absent {
    fn transaction(
        &mut self,
        operations: &mut [embedded_hal::spi::Operation<'_, u8>],
    ) -> Result<(), Self::Error> {
        for operation in operations {
            if let embedded_hal::spi::Operation::Read(bytes) = operation {
                bytes.fill(self.0);
            }
        }
        Ok(())
    }
}

impl embedded_hal::digital::ErrorType for Absent {
    type Error = std::convert::Infallible;
}

impl embedded_hal::digital::InputPin for Absent {
    fn is_high(&mut self) -> Result<bool, Self::Error> {
        Ok(self.0 != 0)
    }

    fn is_low(&mut self) -> Result<bool, Self::Error> {
        Ok(self.0 == 0)
    }
}

#[test]
fn two_frames_wait_in_the_chip_and_a_third_is_counted_as_lost() {
    let (mut driver, chip) = opened();
    (0..3).for_each(|number| chip.borrow_mut().hear(&numbered(number)));
    assert_eq!(received(&mut driver), [numbered(0), numbered(1)]);
    assert_eq!((driver.take_overruns(), driver.take_overruns()), (1, 0));
    assert_eq!(chip.borrow().registers[chip::EFLG], 0);
    assert!(driver.is_quiet());
}

#[test]
fn frames_that_a_new_opening_drops_are_counted() {
    let (mut driver, chip) = opened();
    (0..3).for_each(|number| chip.borrow_mut().hear(&numbered(number)));
    assert_eq!(driver.open(250_000, true), Outcome::Done);
    assert_eq!((received(&mut driver), driver.take_overruns()), (vec![], 3));
}

#[test]
fn frames_are_sent_in_the_order_in_which_they_were_given() {
    let (mut driver, chip) = opened();
    let frame =
        |number: u8| ClassicFrame::new(StandardId::new(0x7FF - u16::from(number)).unwrap(), &[number]);
    let mut sent = Vec::new();
    // Three fit; then one comes for each that goes.
    for number in 0..3 {
        assert!(matches!(driver.transmit(&frame(number).unwrap()), Ok(None)));
    }
    assert!(matches!(driver.transmit(&frame(3).unwrap()), Err(nb::Error::WouldBlock)));
    for number in 3..9 {
        sent.push(chip.borrow_mut().send().unwrap());
        if driver.transmit(&frame(number).unwrap()).is_err() {
            // The lowest buffer is still full: whatever is above it would overtake.
            sent.extend(std::iter::from_fn(|| chip.borrow_mut().send()));
            assert!(matches!(driver.transmit(&frame(number).unwrap()), Ok(None)));
        }
    }
    sent.extend(std::iter::from_fn(|| chip.borrow_mut().send()));
    assert_eq!(sent.iter().map(|frame| frame.data[0]).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
}

#[test]
fn a_remote_frame_is_told_by_the_bit_for_its_kind_of_identifier() {
    let (mut driver, chip) = opened();
    for (id, is_extended) in [(0x7E8, false), (0x18DA_F110, true)] {
        chip.borrow_mut().hear_remote(id, is_extended, 5);
        let frame = driver.receive().unwrap();
        assert_eq!((heard(&frame).id, frame.is_extended()), (id, is_extended));
        assert_eq!((frame.is_remote_frame(), frame.dlc(), frame.data()), (true, 5, &[][..]));
    }
}

#[test]
fn every_bit_of_an_identifier_and_every_length_is_sent() {
    let (mut driver, chip) = opened();
    let bits = (0..29).map(|bit| (1 << bit, true)).chain((0..11).map(|bit| (1 << bit, false)));
    for ((id, is_extended), len) in bits.zip((0..=8).cycle()) {
        let frame = BusFrame { id, is_extended, data: (0..len).map(|byte| byte ^ 0xA5).collect() };
        let id = if is_extended {
            Id::Extended(ExtendedId::new(id).unwrap())
        } else {
            Id::Standard(StandardId::new(id as u16).unwrap())
        };
        assert!(driver.transmit(&ClassicFrame::new(id, &frame.data).unwrap()).is_ok());
        assert_eq!(chip.borrow_mut().send(), Some(frame.clone()));
        // And received again.
        chip.borrow_mut().hear(&frame);
        assert_eq!(received(&mut driver), [frame]);
    }
}

#[test]
fn states_are_those_of_the_error_flags() {
    let (mut driver, chip) = opened();
    let cases = [
        (0b0000_0000, 0, 95, BusState::ErrorActive),
        (0b0000_0011, 0, 96, BusState::ErrorWarning),
        (0b0000_1011, 3, 128, BusState::ErrorPassive),
        (0b0001_0101, 128, 0, BusState::ErrorPassive),
        (0b0011_0101, 255, 0, BusState::BusOff),
    ];
    for (flags, transmit_errors, receive_errors, state) in cases {
        let mut registers = chip.borrow_mut();
        registers.registers[chip::EFLG] = flags;
        (registers.registers[chip::TEC], registers.registers[chip::REC]) = (transmit_errors, receive_errors);
        drop(registers);
        assert_eq!(driver.state(), ControllerState { state, receive_errors, transmit_errors });
    }
}

#[test]
fn filters_that_fit_are_set_in_the_chip() {
    let obd = [(CanId::Standard(0x7E8), 0x7F8), (CanId::Extended(0x18DA_F100), 0x1FFF_FF00)];
    let five = [0x100, 0x101, 0x102, 0x103, 0x104].map(|id| (CanId::Standard(id), 0x7FF));
    for wanted in [&obd[..], &five] {
        let (mut driver, chip) = opened();
        assert_eq!(driver.choose(&filters(wanted)), Outcome::Done);
        for id in 0..0x800 {
            let frame = BusFrame { id, is_extended: false, data: vec![0xAA, 0x55] };
            let ignored = chip.borrow().ignored;
            chip.borrow_mut().hear(&frame);
            assert_eq!(chip.borrow().ignored == ignored, is_wanted(wanted, &frame), "{id:#x}");
            received(&mut driver);
        }
        // An empty list: every frame.
        assert_eq!(driver.choose(&[]), Outcome::Done);
        chip.borrow_mut().hear(&numbered(0x55));
        assert_eq!(received(&mut driver), [numbered(0x55)]);
    }
}

#[test]
fn the_bytes_on_spi_are_those_of_the_data_sheet() {
    let read = |sent: Vec<u8>, answer: Vec<u8>| {
        vec![
            Transaction::transaction_start(),
            Transaction::write_vec(sent),
            Transaction::read_vec(answer),
            Transaction::transaction_end(),
        ]
    };
    let write = |sent: Vec<u8>| {
        vec![Transaction::transaction_start(), Transaction::write_vec(sent), Transaction::transaction_end()]
    };
    let frame = vec![0xFD, 0x00, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0];
    let expected = [
        // The second buffer only: read from its own registers, its own flag cleared, then the losses.
        read(vec![0xA0], vec![0b10]),
        read(vec![0x03, 0x71], frame),
        write(vec![0x05, 0x2C, 0b10, 0]),
        read(vec![0x03, 0x2D], vec![0x80]),
        write(vec![0x05, 0x2D, 0x80, 0]),
    ];
    let opening = opening_on_spi(&read, &write);
    let mut spi = MockSpi::new(opening.iter().chain(&expected).flatten());
    let mut interrupt = MockPin::new(&[embedded_hal_mock::eh1::digital::Transaction::get(
        embedded_hal_mock::eh1::digital::State::Low,
    )]);
    let mut driver = Mcp2515::new(spi.clone(), interrupt.clone(), NoopDelay::new(), Crystal::Mhz16);
    assert_eq!(driver.open(500_000, true), Outcome::Done);
    let frame = driver.receive().map(|frame| heard(&frame));
    assert_eq!(frame.unwrap(), BusFrame { id: 0x7E8, is_extended: false, data: vec![1, 2, 3] });
    assert_eq!(driver.take_overruns(), 1);
    spi.done();
    interrupt.done();
}

type Transactions = Vec<Transaction<u8>>;

/// Reset twice (start and opening), timing, both buffers, masks and filters for everything, interrupts, listen-only.
fn opening_on_spi(
    read: &impl Fn(Vec<u8>, Vec<u8>) -> Transactions,
    write: &impl Fn(Vec<u8>) -> Transactions,
) -> Vec<Transactions> {
    let several = |address: u8, bytes: &[u8]| {
        vec![
            Transaction::transaction_start(),
            Transaction::write_vec(vec![0x02, address]),
            Transaction::write_vec(bytes.to_vec()),
            Transaction::transaction_end(),
        ]
    };
    let mut opening = vec![write(vec![0xC0]), write(vec![0xC0]), read(vec![0x03, 0x0E], vec![0x80])];
    opening.push(several(0x28, &[0x02, 0xB4, 0x40]));
    opening.extend([write(vec![0x02, 0x60, 0x04]), write(vec![0x02, 0x70, 0x00])]);
    // A mask has no bit for the length; the chip ignores it there.
    for (mask, filters) in [(0x20, &[0x00, 0x04][..]), (0x24, &[0x08, 0x10, 0x14, 0x18])] {
        opening.push(several(mask, &[0, 0x08, 0, 0]));
        for (index, filter) in filters.iter().enumerate() {
            opening.push(several(*filter, &[0, if index % 2 == 1 { 0x08 } else { 0 }, 0, 0]));
        }
    }
    opening.extend([write(vec![0x02, 0x2B, 0b11]), write(vec![0x02, 0x0F, 0x60])]);
    opening.push(read(vec![0x03, 0x0E], vec![0x60]));
    opening
}

fn any_filter() -> impl Strategy<Value = (CanId, u32)> {
    // Few values, so that masks are the same and fit often enough.
    let standard_mask = prop_oneof![Just(0x7FF), Just(0x7F8), Just(0), Just(0x700), Just(0xFFFF_FFFF)];
    let extended_mask =
        prop_oneof![Just(0x1FFF_FFFF), Just(0x03FF_FF00), Just(0x1FFC_0000), Just(0), any::<u32>()];
    prop_oneof![
        (0_u16..0x800, standard_mask).prop_map(|(id, mask)| (CanId::Standard(id), mask)),
        (0_u32..0x2000_0000, extended_mask).prop_map(|(id, mask)| (CanId::Extended(id), mask)),
    ]
}

fn any_frame() -> impl Strategy<Value = BusFrame> {
    let data = proptest::collection::vec(any::<u8>(), 0..=8);
    (any::<bool>(), 0_u32..0x2000_0000, data).prop_map(|(is_extended, id, data)| {
        let id = if is_extended { id } else { id & 0x7FF };
        BusFrame { id, is_extended, data }
    })
}

/// A frame that the filter wants, as far as there is one.
fn like((id, mask): (CanId, u32), frame: &BusFrame) -> BusFrame {
    let (id, is_extended, bits) = match id {
        CanId::Standard(id) => (u32::from(id), false, 0x7FF),
        CanId::Extended(id) => (id, true, 0x1FFF_FFFF),
    };
    BusFrame { id: (id & mask | frame.id & !mask) & bits, is_extended, data: frame.data.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_wanted_frame_is_ever_held_back(
        wanted in proptest::collection::vec(any_filter(), 1..10),
        frames in proptest::collection::vec(any_frame(), 1..10),
        is_chosen_first in any::<bool>(),
    ) {
        let (mut driver, chip) = driver(Crystal::Mhz16);
        let filters = filters(&wanted);
        if is_chosen_first {
            prop_assert_eq!(driver.choose(&filters), Outcome::Done);
        }
        prop_assert_eq!(driver.open(500_000, true), Outcome::Done);
        if !is_chosen_first {
            prop_assert_eq!(driver.choose(&filters), Outcome::Done);
        }
        let likely = wanted.iter().flat_map(|filter| frames.iter().map(|frame| like(*filter, frame)));
        for frame in likely.chain(frames.clone()).filter(|frame| is_wanted(&wanted, frame)) {
            chip.borrow_mut().hear(&frame);
            prop_assert_eq!(received(&mut driver), [frame]);
        }
        prop_assert_eq!(chip.borrow().ignored, 0);
    }

    /// Whenever frames come between two looks, and one at most between two transfers of a look: what was not lost is in order,
    /// and no loss is unseen.
    #[test]
    fn frames_stay_in_order_and_losses_are_seen_however_they_come(
        bursts in proptest::collection::vec(0_u32..4, 1..40),
        arriving in proptest::collection::vec(any::<bool>(), 0..200),
    ) {
        let (mut driver, chip) = opened();
        chip.borrow_mut().arriving = arriving.into();
        let mut all = Vec::new();
        for burst in bursts {
            (0..burst).for_each(|_| chip.borrow_mut().hear_next());
            all.extend(received(&mut driver));
        }
        let numbers: Vec<u32> =
            all.iter().map(|frame| u32::from_be_bytes(frame.data[..].try_into().unwrap())).collect();
        prop_assert!(numbers.is_sorted_by(|a, b| a < b), "{:?}", numbers);
        let (lost, overruns) = (chip.borrow().lost, driver.take_overruns());
        prop_assert_eq!(numbers.len() as u32 + lost, chip.borrow().heard);
        prop_assert!((lost == 0) == (overruns == 0) && overruns <= lost, "{} of {}", overruns, lost);
    }
}
