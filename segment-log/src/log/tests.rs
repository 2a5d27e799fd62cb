#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};

use super::*;
use crate::{Gap, GapReason};

const OPTIONS: Options = Options { segment_bytes_max: 128, record_bytes_max: 64 };

/// Writes to it fail for want of space; it can be neither cut nor synced.
fn full_device() -> Arc<dyn DiskFile> {
    let file: File = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    Arc::new(file)
}

fn open(dir: &Path) -> SegmentLog {
    SegmentLog::open(dir, OPTIONS).unwrap().0
}

fn payloads(batch: &ReadBatch) -> Vec<&[u8]> {
    batch.records.iter().map(|(_, payload)| payload.as_slice()).collect()
}

#[test]
fn only_synced_records_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    assert_eq!(log.append(b"a").unwrap(), Position(0));
    assert_eq!(log.append_batch([b"b".as_slice(), b""]).unwrap(), Position(1)..Position(3));
    assert_eq!(log.read(Position(0), 9, 99).unwrap().records, []);
    assert_eq!(log.durable_position(), Position(0));
    assert_eq!(log.sync().unwrap(), Position(3));
    let batch = log.read(Position(0), 9, 99).unwrap();
    assert_eq!(payloads(&batch), [b"a".as_slice(), b"b", b""]);
    assert_eq!((batch.next, batch.gaps), (Position(3), vec![]));
}

#[test]
fn reading_stops_at_either_bound_but_always_moves_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append_batch([b"12345".as_slice(), b"678", b"90"]).unwrap();
    log.sync().unwrap();
    assert_eq!(payloads(&log.read(Position(0), 2, 99).unwrap()), [b"12345".as_slice(), b"678"]);
    assert_eq!(payloads(&log.read(Position(0), 9, 8).unwrap()), [b"12345".as_slice(), b"678"]);
    assert_eq!(payloads(&log.read(Position(0), 9, 7).unwrap()), [b"12345"]);
    assert_eq!(payloads(&log.read(Position(1), 9, 0).unwrap()), [b"678"]);
    assert_eq!(log.read(Position(0), 0, 99).unwrap().next, Position(0));
    assert_eq!(log.read(Position(3), 9, 99).unwrap().next, Position(3));
    let error = log.read(Position(4), 9, 99).unwrap_err();
    assert_eq!(error.to_string(), "position 4 lies beyond the durable end 3 of the log");
}

#[test]
fn records_and_batches_are_bounded_and_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append(&[7; 64]).unwrap();
    let error = log.append_batch([[7; 1].as_slice(), &[7; 65]]).unwrap_err();
    assert_eq!(error.to_string(), "record 1 of the batch has 65 bytes, record_bytes_max is 64");
    let error = log.append_batch([[7; 44].as_slice(), &[7; 45]]).unwrap_err();
    assert_eq!(error.to_string(), "the batch needs more than the 104 bytes that a segment holds: split it");
    assert_eq!((log.end_position(), log.segments(), log.bytes()), (Position(1), 1, 24 + 72));
    log.append_batch([[7; 44].as_slice(), &[7; 44]]).unwrap();
    assert_eq!((log.end_position(), log.segments(), log.bytes()), (Position(3), 2, 24 + 72 + 128));
    assert_eq!(log.durable_position(), Position(1), "rolling syncs the sealed segment");
}

#[test]
fn options_out_of_range_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (segment_bytes_max, record_bytes_max, message) in [
        (128, 0, "record_bytes_max is 0: it must lie between 1 and 67108864"),
        (1 << 30, RECORD_BYTES_MAX + 1, "record_bytes_max is 67108865: it must lie between 1 and 67108864"),
        (
            95,
            64,
            "segment_bytes_max is 95: it must lie between 96, which holds the largest record, and 4294967296",
        ),
    ] {
        let error = SegmentLog::open(dir.path(), Options { segment_bytes_max, record_bytes_max }).err();
        assert_eq!(error.unwrap().to_string(), message);
    }
    assert!(
        SegmentLog::open(dir.path(), Options { segment_bytes_max: 96, record_bytes_max: 64 }).is_ok(),
        "the smallest segment holds the largest record"
    );
}

#[test]
fn second_opener_is_told_that_the_log_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b");
    let log = open(&deep);
    let error = SegmentLog::open(&deep, OPTIONS).err().unwrap();
    assert!(matches!(&error, OpenError::Locked { dir } if *dir == deep));
    drop(log);
    open(&deep);
}

#[test]
fn positions_go_on_after_everything_was_dropped_and_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    assert_eq!(log.drop_oldest_segment().unwrap(), None);
    log.append_batch([b"a".as_slice(), b"b"]).unwrap();
    let dropped = Dropped { first: Position(0), last: Position(1), bytes: 24 + 18 };
    assert_eq!(log.drop_oldest_segment().unwrap(), Some(dropped));
    assert_eq!(log.drop_oldest_segment().unwrap(), None);
    drop(log);
    let (mut log, recovery) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
    assert_eq!((recovery.first, recovery.end), (Position(2), Position(2)));
    assert_eq!(log.append(b"c").unwrap(), Position(2));
    assert_eq!(log.truncate_before(Position(u64::MAX)).unwrap(), Truncated { segments: 1, bytes: 24 + 9 });
    assert_eq!(log.append(b"d").unwrap(), Position(3));
    log.sync().unwrap();
    let batch = log.read(Position(0), 9, 99).unwrap();
    assert_eq!(batch.gaps, [Gap { first: Position(0), end: Position(3), reason: GapReason::Dropped }]);
    assert_eq!(batch.records, [(Position(3), b"d".to_vec())]);
}

#[test]
fn truncation_keeps_the_segment_that_holds_the_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for _ in 0..5 {
        log.append_batch([[1; 44].as_slice(), &[2; 44]]).unwrap();
    }
    assert_eq!(log.truncate_before(Position(5)).unwrap(), Truncated { segments: 2, bytes: 256 });
    assert_eq!((log.first_position(), log.segments(), log.bytes()), (Position(4), 3, 384));
    assert_eq!(log.truncate_before(Position(5)).unwrap(), Truncated::default());
}

#[test]
fn skipped_positions_are_missing_and_never_given() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append(b"a").unwrap();
    log.skip_to(Position(7)).unwrap();
    assert!(matches!(log.skip_to(Position(6)), Err(WriteError::SkipOutOfRange { .. })));
    assert_eq!(log.append(b"b").unwrap(), Position(7));
    log.sync().unwrap();
    drop(log);
    let (mut log, recovery) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
    let gap = Gap { first: Position(1), end: Position(7), reason: GapReason::Missing };
    assert_eq!((recovery.gaps, recovery.end), (vec![gap], Position(8)));
    let batch = log.read(Position(0), 9, 99).unwrap();
    assert_eq!(batch.gaps, [gap]);
    assert_eq!(batch.records, [(Position(0), b"a".to_vec()), (Position(7), b"b".to_vec())]);
}

#[test]
fn failed_sync_refuses_everything_until_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append(b"a").unwrap();
    log.sync().unwrap();
    log.append(b"b").unwrap();
    log.active.file = full_device();
    assert!(matches!(log.sync(), Err(WriteError::Io { action: "sync", .. })));
    assert!(matches!(log.sync(), Err(WriteError::Poisoned { .. })));
    assert!(matches!(log.append(b"c"), Err(AppendError::Write(WriteError::Poisoned { .. }))));
    assert!(matches!(log.truncate_before(Position(9)), Err(WriteError::Poisoned { .. })));
    assert!(matches!(log.drop_oldest_segment(), Err(WriteError::Poisoned { .. })));
    assert_eq!(payloads(&log.read(Position(0), 9, 99).unwrap()), [b"a"], "what was durable stays readable");
    drop(log);
    let mut log = open(dir.path());
    log.append(b"d").unwrap();
    log.sync().unwrap();
}

#[test]
fn failed_write_that_cannot_be_cut_back_refuses_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.active.file = full_device();
    let Err(AppendError::Write(WriteError::Io { source, .. })) = log.append(b"a") else {
        panic!("the device is full");
    };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    assert!(matches!(log.append(b"a"), Err(AppendError::Write(WriteError::Poisoned { .. }))));
}

#[test]
fn failed_roll_that_cannot_be_undone_refuses_appends() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append(&[1; 64]).unwrap();
    let obstacle = segment::path(dir.path(), 1);
    fs::create_dir(&obstacle).unwrap();
    assert!(log.append(&[2; 64]).is_err());
    // The obstacle could not be removed either, so going on would risk hiding records behind it.
    assert!(matches!(log.append(b"c"), Err(AppendError::Write(WriteError::Poisoned { .. }))));
    drop(log);
    fs::remove_dir(&obstacle).unwrap();
    let mut log = open(dir.path());
    assert_eq!(log.append(&[2; 64]).unwrap(), Position(1));
}

#[test]
fn failed_roll_that_was_undone_leaves_the_log_usable() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append(&[1; 64]).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", segment::path(dir.path(), 1)).unwrap();
    let error = log.append(&[2; 64]).unwrap_err();
    assert!(error.to_string().starts_with("cannot create "), "{error}");
    assert_eq!((log.end_position(), log.segments()), (Position(1), 1));
    assert_eq!(log.append(&[2; 64]).unwrap(), Position(1));
    assert_eq!(log.sync().unwrap(), Position(2));
}

#[test]
fn segment_that_cannot_be_synced_is_not_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append(&[1; 64]).unwrap();
    log.active.file = full_device();
    let result = log.append(&[2; 64]);
    assert!(matches!(result, Err(AppendError::Write(WriteError::Io { action: "sync", .. }))), "{result:?}");
    assert_eq!((log.durable_position(), log.segments()), (Position(0), 1));
}

#[test]
fn reader_in_another_thread_sees_every_record_once_while_the_writer_rolls() {
    const RECORDS: u64 = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let mut log = SegmentLog::open(dir.path(), Options { segment_bytes_max: 1_000, record_bytes_max: 100 });
    let log = &mut log.as_mut().unwrap().0;
    let mut reader = log.reader();
    let reading = std::thread::spawn(move || {
        let mut next = Position(0);
        let mut seen = Vec::new();
        while next.0 < RECORDS {
            let batch = reader.read(next, 7, 1_000).unwrap();
            assert_eq!(batch.gaps, []);
            seen.extend(batch.records);
            next = batch.next;
        }
        seen
    });
    for n in 0..RECORDS {
        log.append(n.to_string().repeat(1 + n as usize % 9).as_bytes()).unwrap();
        if n % 3 == 0 || n + 1 == RECORDS {
            log.sync().unwrap();
        }
    }
    let seen = reading.join().unwrap();
    assert_eq!(seen.len() as u64, RECORDS);
    for (n, (position, payload)) in seen.into_iter().enumerate() {
        assert_eq!(position, Position(n as u64));
        assert_eq!(payload, n.to_string().repeat(1 + n % 9).as_bytes());
    }
}

#[test]
fn reader_of_a_dropped_segment_goes_on_behind_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    for _ in 0..4 {
        log.append_batch([[1; 44].as_slice(), &[2; 44]]).unwrap();
    }
    log.sync().unwrap();
    let mut reader = log.reader();
    assert_eq!(reader.read(Position(0), 2, 999).unwrap().next, Position(2));
    log.drop_oldest_segment().unwrap();
    log.drop_oldest_segment().unwrap();
    let batch = reader.read(Position(2), 1, 999).unwrap();
    assert_eq!(batch.gaps, [Gap { first: Position(2), end: Position(4), reason: GapReason::Dropped }]);
    assert_eq!(batch.records, [(Position(4), vec![1; 44])]);
}

#[test]
fn reader_never_returns_what_was_cut_after_it_read_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    log.append(b"a").unwrap();
    log.sync().unwrap();
    let durable = log.active.bytes;
    log.append(b"old").unwrap();
    assert_eq!(payloads(&log.read(Position(0), 1, 99).unwrap()), [b"a"], "reads ahead over the unsynced one");
    log.active.file.set_len(durable).unwrap();
    (log.active.bytes, log.end) = (durable, 1);
    log.append(b"new").unwrap();
    log.sync().unwrap();
    assert_eq!(payloads(&log.read(Position(1), 9, 99).unwrap()), [b"new"]);
}
