//! The messages of version 1 of the dongle's link that replace its firmware, byte by byte. Do not change this test: a boot loader
//! stays in a vehicle as long as its dongle.

use convoy_protocol::link::{
    Command, Down, FirmwareInfo, LinkDecoder, Outcome, Slot, SlotInfo, SlotState, Up,
};

use super::link_v01::{assert_link, link_packet};
use super::v01::assert_postcard;

const FIRMWARE: FirmwareInfo = FirmwareInfo {
    running: Some(Slot::B),
    slots: [
        SlotInfo {
            address: 0x2000_3A00,
            image_bytes_max: 25_088,
            state: SlotState::Confirmed,
            version: (1, 2, 300),
        },
        SlotInfo { address: 0x80, image_bytes_max: 1, state: SlotState::Tried, version: (0, 0, 0) },
    ],
};

const fn command(command: Command<'_>) -> Down<'_> {
    Down::Command { number: 1, command }
}

#[test]
fn messages_of_the_dongle_about_its_firmware() {
    let messages: [(Up<'_>, &[&str], &str); 2] = [
        // Firmware, some, slot B; address 0x20003A00, at most 25,088 bytes, confirmed, 1.2.300; address 0x80, one, tried, 0.0.0.
        (
            Up::Firmware(FIRMWARE),
            &["05", "01", "01", "80f4808002", "80c401", "03", "0102ac02", "8001", "01", "02", "000000"],
            "a68986d1",
        ),
        // Firmware, none.
        (
            Up::Firmware(FirmwareInfo::NONE),
            &["05", "00", "00", "00", "00", "000000", "00", "00", "00", "000000"],
            "65d49fba",
        ),
    ];
    for (message, body, crc) in messages {
        let (expected, mut decoder) = (link_packet(body, crc), LinkDecoder::new());
        assert_link(message, &expected, &mut decoder);
    }
    use SlotState::{Confirmed, Empty, GivenUp, Ready, Refused, Tried};
    assert_postcard(&[6, 0, 1, 2, 3, 4, 5], &vec![Empty, Ready, Tried, Confirmed, GivenUp, Refused]);
    use Outcome::{Corrupt, FlashFailed, Older, OnTrial, OutOfOrder, WrongImage};
    let outcomes = vec![WrongImage, Older, OnTrial, OutOfOrder, Corrupt, FlashFailed];
    assert_postcard(&[6, 6, 7, 8, 9, 10, 11], &outcomes);
}

#[test]
fn messages_of_the_agent_about_the_firmware() {
    let messages: [(Down<'_>, &[&str], &str); 6] = [
        (Down::AskFirmware, &["03"], "f3c31671"),
        // Command 1, a header of 3 bytes.
        (
            command(Command::UpdateBegin { header: &[1, 0, 0xFF] }),
            &["02", "01", "03", "03", "0100ff"],
            "9dfa5f5e",
        ),
        // Command 1, offset 384, 2 bytes.
        (
            command(Command::UpdateData { offset: 384, data: &[0, 9] }),
            &["02", "01", "04", "8003", "02", "0009"],
            "a9ab22f4",
        ),
        (command(Command::UpdateEnd), &["02", "01", "05"], "064bd3d2"),
        (command(Command::Restart), &["02", "01", "06"], "f2b883c1"),
        (command(Command::Confirm), &["02", "01", "07"], "f13be833"),
    ];
    for (message, body, crc) in messages {
        let (expected, mut decoder) = (link_packet(body, crc), LinkDecoder::new());
        assert_link(message, &expected, &mut decoder);
    }
}
