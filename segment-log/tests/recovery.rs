//! Files cut at every length, with every byte flipped, and otherwise damaged.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use convoy_segment_log::{Gap, GapReason, OpenError, Options, Position, ReadBatch, SegmentLog, TornTail};

const OPTIONS: Options = Options { segment_bytes_max: 4_096, record_bytes_max: 200 };
const HEADER_BYTES: usize = 24;

fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.log"))
}

fn small_records() -> Vec<Vec<u8>> {
    [0, 1, 7, 100, 3, 20].iter().enumerate().map(|(n, len)| vec![n as u8 + 1; *len]).collect()
}

/// One segment with these records: its bytes, and where each record ends.
fn segment_of(records: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
    log.append_batch(records.iter().map(Vec::as_slice)).unwrap();
    log.sync().unwrap();
    let mut end = HEADER_BYTES;
    let ends = records.iter().map(|record| {
        end += 8 + record.len();
        end
    });
    (fs::read(segment_path(dir.path(), 0)).unwrap(), ends.collect())
}

fn expected(records: &[Vec<u8>]) -> Vec<(Position, Vec<u8>)> {
    records.iter().enumerate().map(|(n, record)| (Position(n as u64), record.clone())).collect()
}

fn read_all(log: &mut SegmentLog) -> ReadBatch {
    log.read(Position(0), usize::MAX, usize::MAX).unwrap()
}

/// The promise to logs in the field. If this fails, do not change the test: count up the format version.
#[test]
fn format_version_1_is_these_bytes() {
    let (bytes, _) = segment_of(&[b"ab".to_vec(), Vec::new()]);
    #[rustfmt::skip]
    let frozen = [
        b'C', b'O', b'N', b'V', b'O', b'Y', b'S', b'L', // magic
        1, 0, 0, 0, // format version
        0, 0, 0, 0, 0, 0, 0, 0, // first position
        0xEC, 0x2E, 0x54, 0x15, // CRC-32C of the 20 bytes before
        2, 0, 0, 0, // length of record 0
        0xD6, 0xC9, 0x24, 0xBE, // CRC-32C of position 0, length 2, "ab"
        b'a', b'b',
        0, 0, 0, 0, // length of record 1
        0x6D, 0x61, 0x11, 0x1A, // CRC-32C of position 1, length 0
    ];
    assert_eq!(bytes, frozen);
}

#[test]
fn tail_cut_at_every_length_leaves_exactly_the_whole_records() {
    let records = small_records();
    let (bytes, ends) = segment_of(&records);
    for len in 0..=bytes.len() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(segment_path(dir.path(), 0), &bytes[..len]).unwrap();
        let (mut log, recovery) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
        let whole = ends.iter().filter(|end| **end <= len).count();
        let from = Position(whole as u64);
        let kept = if whole == 0 { HEADER_BYTES } else { ends[whole - 1] };
        let torn = len.saturating_sub(kept) as u64;
        assert_eq!(recovery.end, from, "cut at {len}");
        assert_eq!(recovery.torn_tail, (torn > 0).then_some(TornTail { bytes: torn, from }), "cut at {len}");
        assert_eq!(recovery.headers_repaired, u32::from(len < HEADER_BYTES), "cut at {len}");
        assert_eq!(recovery.gaps, [], "cut at {len}");
        assert_eq!(read_all(&mut log).records, expected(&records[..whole]), "cut at {len}");

        assert_eq!(log.append(b"after").unwrap(), from, "cut at {len}");
        log.sync().unwrap();
        drop(log);
        let (mut log, again) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
        assert_eq!((again.torn_tail, again.headers_repaired), (None, 0), "cut at {len}");
        let batch = log.read(from, 9, 999).unwrap();
        assert_eq!(batch.records, [(from, b"after".to_vec())], "cut at {len}");
    }
}

#[test]
fn every_flipped_byte_leaves_exactly_the_records_before_it() {
    let records = small_records();
    let (bytes, ends) = segment_of(&records);
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let dir = tempfile::tempdir().unwrap();
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            fs::write(segment_path(dir.path(), 0), damaged).unwrap();
            let (mut log, recovery) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
            let whole = match at {
                0..HEADER_BYTES => records.len(),
                _ => ends.iter().filter(|end| **end <= at).count(),
            };
            let what = format!("byte {at} flipped by {flip:#x}: {recovery:?}");
            assert_eq!(recovery.headers_repaired, u32::from(at < HEADER_BYTES), "{what}");
            assert_eq!(read_all(&mut log).records, expected(&records[..whole]), "{what}");
            let lost = whole < records.len();
            assert_eq!(recovery.torn_tail.is_some() || !recovery.gaps.is_empty(), lost, "{what}");

            let position = log.append(b"after").unwrap();
            assert_eq!(position, recovery.end, "{what}");
            log.sync().unwrap();
            let mut all = expected(&records[..whole]);
            all.push((position, b"after".to_vec()));
            assert_eq!(read_all(&mut log).records, all, "{what}");
        }
    }
}

#[test]
fn damage_before_good_records_of_the_last_segment_gives_no_position_twice() {
    let records = small_records();
    let (mut bytes, ends) = segment_of(&records);
    bytes[ends[2] + 8] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    fs::write(segment_path(dir.path(), 0), &bytes).unwrap();
    let (mut log, recovery) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
    let gap = Gap { first: Position(3), end: Position(6), reason: GapReason::Damaged };
    assert_eq!((recovery.gaps, recovery.end, recovery.torn_tail), (vec![gap], Position(6), None));
    assert_eq!(read_all(&mut log).gaps, [gap]);
    assert_eq!(fs::read(segment_path(dir.path(), 0)).unwrap(), bytes, "the damaged segment is left as it is");
    assert_eq!(log.append(b"after").unwrap(), Position(6));
}

/// Three segments of four records, positions 0..4, 4..8, 8..12.
fn three_segments(dir: &Path) {
    let options = Options { segment_bytes_max: 24 + 4 * 108, ..OPTIONS };
    let (mut log, _) = SegmentLog::open(dir, options).unwrap();
    for n in 0..12 {
        log.append(&[n; 100]).unwrap();
    }
    log.sync().unwrap();
    assert_eq!(log.segments(), 3);
}

fn positions(batch: &ReadBatch) -> Vec<u64> {
    batch.records.iter().map(|(position, _)| position.0).collect()
}

#[test]
fn bad_record_in_an_older_segment_is_a_gap_up_to_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    let path = segment_path(dir.path(), 4);
    let mut bytes = fs::read(&path).unwrap();
    bytes[24 + 108 + 50] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let gap = Gap { first: Position(5), end: Position(8), reason: GapReason::Damaged };

    let (mut log, recovery) = SegmentLog::open_scanning_last(dir.path(), OPTIONS).unwrap();
    assert_eq!((recovery.gaps, recovery.end), (vec![], Position(12)), "older segments are not scanned");
    let batch = read_all(&mut log);
    assert_eq!((positions(&batch), batch.gaps), (vec![0, 1, 2, 3, 4, 8, 9, 10, 11], vec![gap]));
    drop(log);

    let (mut log, recovery) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
    assert_eq!((recovery.gaps, recovery.torn_tail), (vec![gap], None));
    let batch = log.read(Position(6), 2, 999).unwrap();
    assert_eq!(batch.gaps, [Gap { first: Position(6), ..gap }], "only the part that was asked for");
    assert_eq!(positions(&batch), [8, 9]);
}

#[test]
fn lost_or_shortened_older_segment_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    fs::remove_file(segment_path(dir.path(), 4)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(segment_path(dir.path(), 0)).unwrap();
    file.set_len(24 + 108).unwrap();
    let (mut log, recovery) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
    let gap = Gap { first: Position(1), end: Position(8), reason: GapReason::Missing };
    assert_eq!(recovery.gaps, [gap]);
    let batch = read_all(&mut log);
    assert_eq!((positions(&batch), batch.gaps), (vec![0, 8, 9, 10, 11], vec![gap]));
}

#[test]
fn segment_lost_while_open_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    let (mut log, _) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
    fs::remove_file(segment_path(dir.path(), 4)).unwrap();
    let batch = read_all(&mut log);
    assert_eq!(batch.gaps, [Gap { first: Position(4), end: Position(8), reason: GapReason::Missing }]);
    assert_eq!(positions(&batch), [0, 1, 2, 3, 8, 9, 10, 11]);
}

#[test]
fn damage_to_the_active_segment_while_open_is_an_error_and_a_gap_once_sealed() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    let (mut log, _) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
    let path = segment_path(dir.path(), 8);
    let mut bytes = fs::read(&path).unwrap();
    bytes[24 + 108] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = log.read(Position(9), 9, 999).unwrap_err();
    assert!(error.to_string().starts_with("record 9 in the active segment "), "{error}");
    log.skip_to(Position(20)).unwrap();
    let batch = log.read(Position(9), 9, 999).unwrap();
    assert_eq!(batch.gaps, [Gap { first: Position(9), end: Position(20), reason: GapReason::Damaged }]);
}

#[test]
fn newer_format_is_refused_and_left_untouched() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    let mut header = fs::read(segment_path(dir.path(), 8)).unwrap();
    header[8] = 2;
    let crc = crc32c::crc32c(&header[..20]);
    header[20..24].copy_from_slice(&crc.to_le_bytes());
    fs::write(segment_path(dir.path(), 8), &header).unwrap();
    fs::write(segment_path(dir.path(), 0), b"damaged").unwrap();
    let error = SegmentLog::open(dir.path(), OPTIONS).err().unwrap();
    assert!(
        error.to_string().ends_with(
            "has format version 2, this program reads 1: use the program that wrote it, or a newer one"
        ),
        "{error}"
    );
    assert_eq!(fs::read(segment_path(dir.path(), 0)).unwrap(), b"damaged");
    assert_eq!(fs::read(segment_path(dir.path(), 8)).unwrap(), header);
}

#[test]
fn renamed_segment_is_refused_and_foreign_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    three_segments(dir.path());
    for name in ["notes.log", "123.log", "99999999999999999999.log", "0000000000000000000x.log"] {
        fs::write(dir.path().join(name), b"not ours").unwrap();
    }
    assert_eq!(SegmentLog::open(dir.path(), OPTIONS).unwrap().1.end, Position(12));
    fs::rename(segment_path(dir.path(), 8), segment_path(dir.path(), 9)).unwrap();
    let error = SegmentLog::open(dir.path(), OPTIONS).err().unwrap();
    assert!(matches!(error, OpenError::Misnamed { header: Position(8), .. }), "{error}");
}

#[test]
fn tail_of_zeros_is_torn() {
    let records = small_records();
    let (mut bytes, _) = segment_of(&records);
    bytes.resize(bytes.len() + 1_001, 0);
    let dir = tempfile::tempdir().unwrap();
    fs::write(segment_path(dir.path(), 0), &bytes).unwrap();
    let (_, recovery) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
    assert_eq!(recovery.torn_tail, Some(TornTail { bytes: 1_001, from: Position(6) }));
}
