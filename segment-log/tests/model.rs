//! The log against a map of positions to payloads, under random operations and power cuts.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use convoy_segment_log::{GapReason, Options, Position, Reader, SegmentLog};
use proptest::prelude::*;

const OPTIONS: Options = Options { segment_bytes_max: 300, record_bytes_max: 120 };

#[derive(Clone, Debug)]
enum Operation {
    AppendBatch(Vec<usize>),
    Sync,
    Reopen,
    /// A power cut: of what was not synced, this share of 255 is left, with one byte flipped in it or not.
    Crash {
        left: u8,
        flip: Option<u8>,
    },
    /// This share of 255 of the positions that exist.
    TruncateBefore(u8),
    DropOldest,
    SkipAhead(u64),
    Read {
        from: u8,
        records_max: usize,
        bytes_max: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => prop::collection::vec(0..60_usize, 0..4).prop_map(Operation::AppendBatch),
        3 => Just(Operation::Sync),
        1 => Just(Operation::Reopen),
        2 => (any::<u8>(), any::<Option<u8>>()).prop_map(|(left, flip)| Operation::Crash { left, flip }),
        1 => any::<u8>().prop_map(Operation::TruncateBefore),
        1 => Just(Operation::DropOldest),
        1 => (0..4_u64).prop_map(Operation::SkipAhead),
        4 => (any::<u8>(), 0..9_usize, 0..200_usize)
            .prop_map(|(from, records_max, bytes_max)| Operation::Read { from, records_max, bytes_max }),
    ]
}

struct Harness {
    dir: tempfile::TempDir,
    log: Option<SegmentLog>,
    reader: Reader,
    /// Every record that exists, also unsynced ones.
    records: BTreeMap<u64, Vec<u8>>,
    durable: u64,
    /// The file that was the last one at the last sync, and its size then.
    durable_file: (PathBuf, u64),
    writes: u8,
}

fn last_segment(dir: &Path) -> (PathBuf, u64) {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let last = paths.filter(|path| path.extension().is_some_and(|end| end == "log")).max().unwrap();
    let bytes = fs::metadata(&last).unwrap().len();
    (last, bytes)
}

impl Harness {
    fn new() -> Harness {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = SegmentLog::open(dir.path(), OPTIONS).unwrap();
        let durable_file = last_segment(dir.path());
        let reader = log.reader();
        let records = BTreeMap::new();
        Harness { dir, log: Some(log), reader, records, durable: 0, durable_file, writes: 0 }
    }

    fn log(&mut self) -> &mut SegmentLog {
        self.log.as_mut().unwrap()
    }

    fn share(&mut self, share: u8) -> Position {
        let Range { start, end } = self.log().first_position().0..self.log().durable_position().0;
        Position(start + (end - start) * u64::from(share) / 255)
    }

    /// Everything was made durable.
    fn synced(&mut self) {
        self.durable = self.log().end_position().0;
        self.durable_file = last_segment(self.dir.path());
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::AppendBatch(lens) => self.append(&lens),
            Operation::Sync => {
                let end = self.log().sync().unwrap();
                self.synced();
                assert_eq!(end.0, self.durable);
            }
            Operation::Reopen => {
                self.log = None;
                self.open();
            }
            Operation::Crash { left, flip } => self.crash(left, flip),
            Operation::TruncateBefore(share) => {
                let position = self.share(share);
                self.log().truncate_before(position).unwrap();
                self.forget_dropped(position.0);
            }
            Operation::DropOldest => {
                let dropped = self.log().drop_oldest_segment().unwrap();
                self.forget_dropped(dropped.map_or(0, |dropped| dropped.last.0 + 1));
            }
            Operation::SkipAhead(by) => {
                let position = Position(self.log().end_position().0 + by);
                self.log().skip_to(position).unwrap();
                self.note_roll();
            }
            Operation::Read { from, records_max, bytes_max } => self.read(from, records_max, bytes_max),
        }
        self.check();
    }

    fn append(&mut self, lens: &[usize]) {
        self.writes = self.writes.wrapping_add(1);
        let payloads: Vec<Vec<u8>> = lens.iter().map(|len| vec![self.writes; *len]).collect();
        let end = self.log().end_position();
        let positions = self.log().append_batch(payloads.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(positions, end..Position(end.0 + lens.len() as u64));
        self.records.extend((end.0..).zip(payloads));
        self.note_roll();
    }

    /// Rolling syncs the sealed segment: the file that a power cut may tear is the new one, from its header on.
    fn note_roll(&mut self) {
        let durable = self.log().durable_position().0;
        if durable > self.durable {
            self.durable = durable;
        }
        let (path, _) = last_segment(self.dir.path());
        if path != self.durable_file.0 {
            self.durable_file = (path, 24);
        }
    }

    /// Only below the bound, and never beyond what `first_position` says.
    fn forget_dropped(&mut self, bound: u64) {
        let first = self.log().first_position().0;
        let dropped: Vec<u64> = self.records.range(..first).map(|(position, _)| *position).collect();
        assert!(dropped.iter().all(|position| *position < bound));
        self.records = self.records.split_off(&first);
        self.note_roll();
    }

    fn crash(&mut self, left: u8, flip: Option<u8>) {
        self.log = None;
        let (path, durable_bytes) = self.durable_file.clone();
        let mut bytes = fs::read(&path).unwrap();
        let unsynced = bytes.len() - durable_bytes as usize;
        bytes.truncate(durable_bytes as usize + unsynced * usize::from(left) / 255);
        if let Some(flip) = flip
            && bytes.len() > durable_bytes as usize
        {
            let unsynced = bytes.len() - durable_bytes as usize;
            bytes[durable_bytes as usize + usize::from(flip) % unsynced] ^= flip | 1;
        }
        fs::write(&path, bytes).unwrap();
        self.open();
    }

    /// After a crash any record that was not synced may be gone, but none may have changed.
    fn open(&mut self) {
        let (log, recovery) = SegmentLog::open(self.dir.path(), OPTIONS).unwrap();
        assert!(recovery.end.0 >= self.durable);
        self.reader = log.reader();
        self.log = Some(log);
        let batch = self.log().read(recovery.first, usize::MAX, usize::MAX).unwrap();
        assert_eq!(batch.gaps, recovery.gaps);
        let found: BTreeMap<u64, Vec<u8>> =
            batch.records.into_iter().map(|(position, payload)| (position.0, payload)).collect();
        for (position, payload) in &found {
            assert_eq!(self.records.get(position), Some(payload));
        }
        for position in self.records.range(..self.durable).map(|(position, _)| position) {
            assert!(found.contains_key(position), "{position} was durable");
        }
        self.records = found;
        self.synced();
    }

    fn read(&mut self, from: u8, records_max: usize, bytes_max: usize) {
        let from = self.share(from);
        let durable = self.durable;
        let batch = self.reader.read(from, records_max, bytes_max).unwrap();
        let bytes: usize = batch.records.iter().map(|(_, payload)| payload.len()).sum();
        assert!(batch.records.len() <= records_max);
        assert!(bytes <= bytes_max || batch.records.len() == 1);
        assert!(batch.gaps.iter().all(|gap| gap.reason != GapReason::Dropped));
        let model: Vec<_> = self.records.range(from.0..batch.next.0).collect();
        let read: Vec<_> = batch.records.iter().map(|(position, payload)| (&position.0, payload)).collect();
        assert_eq!(read, model);
        assert!(batch.next.0 <= durable);
        let missing: u64 = batch.gaps.iter().map(|gap| gap.end.0 - gap.first.0).sum();
        assert_eq!(from.0 + batch.records.len() as u64 + missing, batch.next.0);
        if batch.next.0 < durable && batch.records.len() < records_max {
            let next = self.records.range(batch.next.0..).next().unwrap().1;
            assert!(bytes + next.len() > bytes_max, "reading stops only at a bound");
        }
    }

    fn check(&mut self) {
        let on_disk: u64 = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert_eq!(self.log().bytes(), on_disk);
        assert_eq!(self.log().durable_position().0, self.durable);
        let end = self.log().end_position().0;
        assert!(self.records.last_key_value().is_none_or(|(last, _)| *last < end));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn log_agrees_with_a_map_under_any_operations(operations in prop::collection::vec(operation(), 1..60)) {
        let mut harness = Harness::new();
        for operation in operations {
            harness.apply(operation);
        }
        harness.apply(Operation::Sync);
        harness.apply(Operation::Read { from: 0, records_max: usize::MAX, bytes_max: usize::MAX });
    }
}
