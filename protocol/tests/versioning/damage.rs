//! Any bytes may arrive: readers refuse what is damaged, and never panic.

use convoy_protocol::columns::{Column, Columns, Group, Values};
use convoy_protocol::downlink::Down;
use convoy_protocol::envelope::{
    ENVELOPE_BYTES_MAX, Envelope, EnvelopeError, EnvelopeWriter, Header, SECTION_BYTES_MAX, SectionKind,
    peek_header,
};
use convoy_protocol::id::{BootId, CampaignId, Lane, ManifestId, VehicleId};
use convoy_protocol::manifest::{Manifest, SignalIndex};
use convoy_protocol::time::{ClockQuality, TimeUnit};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::bytes;

const BASE_US: i64 = 1_700_000_000_000_000;

fn header() -> Header {
    Header {
        vehicle_id: VehicleId([0x5a; 16]),
        boot_id: BootId { counter: 7, spool: u64::MAX },
        lane: Lane::Bulk,
        sequence: 12,
        base_us: BASE_US,
        monotonic_offset_us: 1,
        clock: ClockQuality::Gnss,
        manifest_id: Some(ManifestId([1; 16])),
        campaign_id: Some(CampaignId([2; 8])),
    }
}

/// An envelope with a plain and a compressed section.
fn sample_envelope() -> Vec<u8> {
    let group = Group {
        times_us: (0..200).map(|row| BASE_US + row * 10_000).collect(),
        columns: vec![Column { signal: SignalIndex(3), values: Values::Raw((0..200).collect()) }],
    };
    let body = Columns { groups: vec![group] }.encode(BASE_US, TimeUnit::Milliseconds);
    let mut writer = EnvelopeWriter::new(&header());
    writer.plain(SectionKind::Drops, &[0]);
    writer.compressed(SectionKind::Samples, &body, 3);
    writer.finish().unwrap()
}

/// With the right checksum, so that readers look at the rest.
fn sealed(mut content: Vec<u8>) -> Vec<u8> {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&content);
    content.extend_from_slice(&crc.to_le_bytes());
    content
}

/// Header and one section of kind 1, samples.
fn with_samples_section(codec: u8, body: &[u8]) -> Vec<u8> {
    let mut content = EnvelopeWriter::new(&header()).finish().unwrap();
    content.truncate(content.len() - 4);
    content.extend_from_slice(&[1, codec]);
    content.extend_from_slice(&postcard::to_allocvec(&(body.len() as u64)).unwrap());
    content.extend_from_slice(body);
    sealed(content)
}

/// Reads all that can be read.
fn read_to_the_end(bytes: &[u8]) {
    // What is refused is refused; only a panic fails the test.
    let _ = peek_header(bytes);
    let Ok(envelope) = Envelope::parse(bytes) else { return };
    for section in envelope.sections() {
        let Ok(body) = section.body() else { continue };
        assert!(body.len() <= SECTION_BYTES_MAX);
        let _ = Columns::decode(&body, envelope.header.base_us);
        let _ = Manifest::decode(&body);
    }
}

#[test]
fn any_single_flipped_bit_is_refused() {
    let envelope = sample_envelope();
    assert_eq!(Envelope::parse(&envelope).unwrap().header, header());
    for bit in 0..envelope.len() * 8 {
        let mut damaged = envelope.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Envelope::parse(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn any_part_of_an_envelope_is_refused() {
    let envelope = sample_envelope();
    for len in 0..envelope.len() {
        assert!(Envelope::parse(&envelope[..len]).is_err(), "{len} bytes");
    }
    assert!(Envelope::parse(&[&envelope[..], &[0]].concat()).is_err());
}

#[test]
fn envelope_of_the_greatest_size_is_read_and_one_byte_more_is_refused() {
    let empty = with_samples_section(0, &[]).len();
    // The length of the body takes three bytes instead of one.
    let fitting = ENVELOPE_BYTES_MAX - empty - 2;
    let envelope = with_samples_section(0, &vec![0; fitting]);
    assert_eq!(envelope.len(), ENVELOPE_BYTES_MAX);
    assert_eq!(Envelope::parse(&envelope).unwrap().sections().next().unwrap().body().unwrap().len(), fitting);
    let larger = with_samples_section(0, &vec![0; fitting + 1]);
    assert_eq!(Envelope::parse(&larger).unwrap_err(), EnvelopeError::TooLarge(ENVELOPE_BYTES_MAX + 1));
    let mut writer = EnvelopeWriter::new(&header());
    writer.plain(SectionKind::Samples, &vec![0; fitting + 1]);
    assert_eq!(writer.finish(), Err(EnvelopeError::TooLarge(ENVELOPE_BYTES_MAX + 1)));
}

/// A zstd frame (RFC 8878) of `len` zeros: blocks of one byte, up to 128 KiB times, 4 bytes each.
fn zstd_of_zeros(len: usize) -> Vec<u8> {
    let mut frame = bytes(&["28b52ffd", "a0"]); // magic; single segment, content size in 4 bytes
    frame.extend_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
    let mut left = len;
    while left > 0 {
        let block = left.min(1 << 17);
        left -= block;
        let header = u32::try_from(block << 3 | 1 << 1 | usize::from(left == 0)).unwrap().to_le_bytes();
        frame.extend_from_slice(&[header[0], header[1], header[2], 0]);
    }
    frame
}

#[test]
fn compressed_section_grows_to_its_limit_and_no_further() {
    let body_len = |len| {
        let envelope = with_samples_section(1, &zstd_of_zeros(len));
        let section = Envelope::parse(&envelope).unwrap().sections().next().unwrap();
        section.body().map(|body| body.len())
    };
    assert_eq!(body_len(SECTION_BYTES_MAX), Ok(SECTION_BYTES_MAX));
    assert_eq!(body_len(SECTION_BYTES_MAX + 1), Err(EnvelopeError::Decompress { kind: 1 }));
}

#[test]
fn section_of_unknown_codec_is_named_and_damaged_zstd_is_refused() {
    let refusal = |codec, body: &[u8]| {
        let envelope = with_samples_section(codec, body);
        Envelope::parse(&envelope).unwrap().sections().next().unwrap().body().unwrap_err()
    };
    assert_eq!(refusal(2, &[0]), EnvelopeError::Codec { kind: 1, codec: 2 });
    assert_eq!(refusal(1, &[0x28, 0xb5, 0x2f, 0xfd]), EnvelopeError::Decompress { kind: 1 });
    assert_eq!(refusal(1, &[0; 40]), EnvelopeError::Decompress { kind: 1 });
}

#[test]
fn section_longer_than_the_envelope_is_refused_although_the_checksum_is_right() {
    let mut content = EnvelopeWriter::new(&header()).finish().unwrap();
    content.truncate(content.len() - 4);
    content.extend_from_slice(&[1, 0, 2, 0xff]);
    assert_eq!(Envelope::parse(&sealed(content)).unwrap_err(), EnvelopeError::CutShort("section"));
}

proptest! {
    #[test]
    fn reading_any_bytes_never_panics(bytes in vec(any::<u8>(), 0..300)) {
        read_to_the_end(&bytes);
        let _ = Down::decode(&bytes);
        read_to_the_end(&sealed([&b"CV\x01"[..], &bytes].concat()));
    }

    #[test]
    fn reading_any_sections_with_a_right_checksum_never_panics(sections in vec(any::<u8>(), 0..300)) {
        let mut content = EnvelopeWriter::new(&header()).finish().unwrap();
        content.truncate(content.len() - 4);
        content.extend_from_slice(&sections);
        read_to_the_end(&sealed(content));
    }

    #[test]
    fn reading_any_section_body_never_panics(codec in 0u8..3, body in vec(any::<u8>(), 0..300)) {
        read_to_the_end(&with_samples_section(codec, &body));
    }

    #[test]
    fn reading_a_damaged_envelope_never_panics(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        len in any::<prop::sample::Index>(),
    ) {
        let mut damaged = sample_envelope();
        for (at, byte) in changes {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        read_to_the_end(&damaged);
        // Again as if the damage had happened before the checksum was made.
        damaged.truncate(len.index(damaged.len() + 1));
        read_to_the_end(&damaged);
        read_to_the_end(&sealed(damaged));
    }
}
