use proptest::prelude::*;

use super::records::{LENGTHS, RECORD_BYTES_MAX, put, records};
use super::*;

fn packet(sequence: u16, message: &impl Serialize) -> Vec<u8> {
    encode(Head { session: 7, sequence }, message, &mut [0; PACKET_BYTES_MAX]).unwrap().to_vec()
}

/// The pings of a stream.
fn pings(decoder: &mut LinkDecoder, bytes: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    for byte in bytes {
        match decoder.push(*byte).and_then(|packet| packet.message::<Down<'_>>()) {
            Some(Down::Ping { nonce }) => found.push(nonce),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
    found
}

#[test]
fn the_longest_batch_and_the_longest_list_of_filters_fit_a_packet() {
    let batch =
        Batch { first: u32::MAX, lost: u32::MAX, time_us: u64::MAX, records: &[0xFF; RECORDS_BYTES_MAX] };
    let bytes = packet(u16::MAX, &Up::Frames(batch));
    assert_eq!(bytes.len(), PACKET_BYTES_MAX);
    assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 1);
    const { assert!(RECORDS_BYTES_MAX > RECORD_BYTES_MAX) };
    let more = Batch { records: &[0xFF; RECORDS_BYTES_MAX + 2], ..batch };
    let (head, mut out) = (Head { session: 0, sequence: 0 }, [0; PACKET_BYTES_MAX]);
    assert_eq!(encode(head, &Up::Frames(more), &mut out), Err(MessageTooLong));
    let filters = &[0; FILTERS_BYTES_MAX];
    let command = Command::Filters { bus: BusIndex(1), part: 255, is_last: true, filters };
    packet(0, &Down::Command { number: u16::MAX, command });
    let all = BusHealth {
        received: u32::MAX,
        unwanted: u32::MAX,
        overruns: u32::MAX,
        remote: u32::MAX,
        sent: u32::MAX,
        not_sent: u32::MAX,
        ..BusHealth::default()
    };
    let health =
        Health { uptime_us: u64::MAX, frames: u32::MAX, buses: [all; BUSES_MAX], ..Health::default() };
    packet(0, &Up::Health(health));
}

#[test]
fn a_reader_finds_its_feet_at_the_next_packet() {
    let mut decoder = LinkDecoder::new();
    assert_eq!(pings(&mut decoder, &[7; 500]), []);
    let good = packet(1, &Down::Ping { nonce: 9 });
    assert_eq!(pings(&mut decoder, &[&[0], &good[..]].concat()), [9]);
    assert_eq!(decoder.damaged(), 1);
    // Without its final zero a packet takes the next one with it, and no more.
    let cut = &good[..good.len() - 1];
    assert_eq!(pings(&mut decoder, &[cut, &good, &good].concat()), [9]);
    assert_eq!(decoder.damaged(), 2);
}

#[test]
fn a_later_version_is_counted_and_left_alone() {
    let mut body = [2, 0, 0, 0, 0, 0, 0, 1, 9].to_vec();
    body.extend(CRC32C.checksum(&body).to_le_bytes());
    let mut later = vec![0; 32];
    let len = cobs::try_encode(&body, &mut later).unwrap();
    later.truncate(len + 1);
    let mut decoder = LinkDecoder::new();
    assert_eq!(pings(&mut decoder, &later), []);
    assert_eq!((decoder.damaged(), decoder.other_version()), (0, 1));
    later[1] = 1;
    assert_eq!(pings(&mut decoder, &later), []);
    assert_eq!((decoder.damaged(), decoder.other_version()), (1, 1));
}

#[test]
fn what_no_record_can_say_is_refused_and_what_is_cut_short_is_an_error() {
    let id = CanId::Standard(0x123);
    let mut out = [0; RECORD_BYTES_MAX];
    assert_eq!(put(&mut out, 0, BusIndex(8), id, &[]), None);
    assert_eq!(put(&mut out, 0, BusIndex(0), id, &[0; 9]), None);
    assert_eq!(put(&mut out[..4], 0, BusIndex(0), id, &[1]), None);
    assert_eq!(put(&mut out, 0, BusIndex(7), id, &[1]), Some(5));
    assert_eq!(out[..5], [0x71, 0, 0x23, 0x01, 1]);
    assert_eq!(records(0, &out[..4]).collect::<Vec<_>>(), [Err(records::RecordsCutShort)]);
    let none = |bytes: &[u8]| records(0, bytes).all(|record| record.is_err());
    assert!(none(&[0x01, 0, 0x00, 0x08, 1]), "id above 11 bits");
    assert!(none(&[0x80, 0, 0, 0, 0, 0x20]), "id above 29 bits");
    assert!(
        none(&[0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]),
        "time without end"
    );
}

proptest! {
    #[test]
    fn records_come_back_as_they_were(
        frames in proptest::collection::vec(
            (any::<u64>(), 0u8..8, any::<bool>(), 0u32..=CanId::EXTENDED_MAX, 0usize..16, any::<u8>()), 1..3),
    ) {
        let mut out = [0; 2 * RECORD_BYTES_MAX];
        let (mut len, mut expected) = (0, Vec::new());
        for (later_us, bus, extended, bits, code, fill) in frames {
            let later_us = later_us / 4;
            let id = if extended { CanId::Extended(bits) } else { CanId::Standard(bits as u16 & 0x7FF) };
            let data = vec![fill; usize::from(LENGTHS[code])];
            len += put(&mut out[len..], later_us, BusIndex(bus), id, &data).unwrap();
            let before_us = expected.last().map_or(5, |(time_us, ..): &(u64, u8, CanId, Vec<u8>)| *time_us);
            expected.push((before_us + later_us, bus, id, data));
        }
        let read: Vec<_> = records(5, &out[..len])
            .map(|record| record.map(|record| (record.time_us, record.bus.0, record.id, record.data.to_vec())).unwrap())
            .collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn any_bytes_are_taken_and_the_packet_after_them_is_found(
        garbage in proptest::collection::vec(any::<u8>(), 0..600), nonce: u32,
    ) {
        let mut decoder = LinkDecoder::new();
        for byte in garbage.iter().chain(&[0]) {
            if let Some(packet) = decoder.push(*byte) {
                let _ = packet.message::<Up<'_>>();
                let _ = packet.message::<Down<'_>>();
            }
        }
        prop_assert_eq!(pings(&mut decoder, &packet(1, &Down::Ping { nonce })), [nonce]);
    }

    #[test]
    fn a_packet_with_a_flipped_bit_is_never_another_message(nonce: u32, at in 0usize..64, bit in 0u8..8) {
        let mut bytes = packet(1, &Down::Ping { nonce });
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let mut decoder = LinkDecoder::new();
        prop_assert_eq!(pings(&mut decoder, &bytes), [0u32; 0]);
    }
}
