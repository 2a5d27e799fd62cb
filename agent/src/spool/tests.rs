use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;

use convoy_protocol::checkin::DropReason;
use convoy_protocol::envelope::{EnvelopeWriter, Header, SectionKind};
use convoy_protocol::time::ClockQuality;

use super::*;

const VEHICLE: VehicleId = VehicleId([7; 16]);
const MIB: u64 = 1 << 20;

fn config(dir: &Path) -> SpoolConfig {
    SpoolConfig {
        dir: dir.into(),
        bytes_max: 16 * MIB,
        segment_bytes: SEGMENT_BYTES_MIN,
        sync_ms: 1_000,
        drop: DropPolicy::Priority,
        key: None,
    }
}

fn open(dir: &Path) -> Spool {
    Spool::open(config(dir), VEHICLE).unwrap()
}

fn envelope(boot_id: BootId, lane: Lane, sequence: u64, body_bytes: usize) -> SpoolEnvelope {
    let header = Header {
        vehicle_id: VEHICLE,
        boot_id,
        lane,
        sequence,
        base_us: 0,
        monotonic_offset_us: 0,
        clock: ClockQuality::Rtc,
        manifest_id: None,
        campaign_id: None,
    };
    let mut writer = EnvelopeWriter::new(&header);
    writer.plain(SectionKind::Samples, &vec![sequence as u8; body_bytes]);
    SpoolEnvelope { key: header.key(), bytes: writer.finish().unwrap(), samples: 3, closes: None }
}

fn push(spool: &mut Spool, lane: Lane, sequences: std::ops::Range<u64>, body_bytes: usize) {
    let boot_id = spool.boot_id();
    sequences.for_each(|sequence| spool.push(envelope(boot_id, lane, sequence, body_bytes)));
}

fn unacked(spool: &mut Spool, lane: Lane) -> Vec<EnvelopeKey> {
    let (mut keys, mut from) = (Vec::new(), 0);
    while let Some(position) = spool.next_unacked(lane, from) {
        from = position + 1;
        if let Some(bytes) = spool.read(lane, position, false).unwrap() {
            let key = convoy_protocol::envelope::peek_header(&bytes).unwrap().key();
            assert_eq!(spool.key_at(lane, position), Some(key));
            keys.push(key);
        }
    }
    keys
}

fn sequences(keys: &[EnvelopeKey]) -> Vec<u64> {
    keys.iter().map(|key| key.sequence).collect()
}

fn range(boot_id: BootId, lane: Lane, first: u64, last: u64) -> SequenceRange {
    SequenceRange { boot_id, lane, first, last }
}

#[test]
fn fast_lane_is_spooled_at_once_and_bulk_within_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    push(&mut spool, Lane::Fast, 0..1, 10);
    push(&mut spool, Lane::Bulk, 0..2, 10);
    spool.handle_timeout(5_000_000);
    assert_eq!((spool.counters().spooled, spool.poll_timeout()), (1, Some(6_000_000)));
    assert_eq!(spool.next_unacked(Lane::Bulk, 0), None);
    spool.handle_timeout(5_999_999);
    assert_eq!(spool.counters().spooled, 1);
    spool.handle_timeout(6_000_000);
    assert_eq!((spool.counters().spooled, spool.counters().spooled_samples), (3, 9));
    assert_eq!((spool.poll_timeout(), spool.is_drained()), (None, false));
    assert_eq!(sequences(&unacked(&mut spool, Lane::Bulk)), [0, 1]);
}

#[test]
fn restart_keeps_what_was_not_acknowledged_and_takes_a_new_boot_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = open(dir.path());
    push(&mut first, Lane::Bulk, 0..5, 100);
    push(&mut first, Lane::Fast, 0..2, 100);
    assert!(first.flush(0));
    let first_boot = first.boot_id();
    assert_eq!(first.ack_range(0, &range(first_boot, Lane::Bulk, 0, 1))[0].last_sequence(), 1);
    assert_eq!(first.ack_range(0, &range(first_boot, Lane::Bulk, 3, 3)).len(), 1);
    first.flush(1);
    // A crash: nothing is closed properly, what only waits in memory is gone.
    push(&mut first, Lane::Bulk, 5..7, 100);
    drop(first);
    let mut second = open(dir.path());
    assert_eq!(second.boot_id().counter, first_boot.counter + 1);
    let tails = [(Lane::Fast, 1), (Lane::Bulk, 4)].map(|(lane, sequence)| EnvelopeKey {
        boot_id: first_boot,
        lane,
        sequence,
    });
    assert_eq!(second.tails(), tails);
    push(&mut second, Lane::Bulk, 0..1, 100);
    second.flush(0);
    let keys = unacked(&mut second, Lane::Bulk);
    // The watermark went to disk, the acknowledgement beyond it (3) did not: it is sent once more.
    let expected = [(first_boot, 2), (first_boot, 3), (first_boot, 4), (second.boot_id(), 0)];
    assert_eq!(keys.iter().map(|key| (key.boot_id, key.sequence)).collect::<Vec<_>>(), expected);
    assert_eq!(sequences(&unacked(&mut second, Lane::Fast)), [0, 1]);
}

#[test]
fn acknowledgements_by_range_and_by_position_empty_the_spool_and_free_its_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    push(&mut spool, Lane::Bulk, 0..30, 100_000);
    spool.flush(0);
    assert!(spool.bytes() > 3 * MIB - MIB / 4);
    let boot_id = spool.boot_id();
    let other = BootId { counter: 99, ..boot_id };
    assert!(spool.ack_range(0, &range(other, Lane::Bulk, 0, u64::MAX)).is_empty());
    assert!(spool.ack_range(0, &range(boot_id, Lane::Fast, 0, u64::MAX)).is_empty());
    let position = spool.next_unacked(Lane::Bulk, 0).unwrap();
    assert!(spool.ack_position(0, Lane::Bulk, position) && !spool.ack_position(0, Lane::Bulk, position));
    assert!(!spool.ack_position(0, Lane::Bulk, 999));
    let acked = spool.ack_range(0, &range(boot_id, Lane::Bulk, 0, u64::MAX));
    assert_eq!(acked.iter().map(KeyedRange::count).sum::<u64>(), 29);
    assert!(spool.is_drained());
    assert!(spool.bytes() <= 2 * SEGMENT_BYTES_MIN, "{}", spool.bytes());
    assert_eq!(spool.take_drops(), []);
}

#[test]
fn size_limit_drops_the_oldest_and_reports_exactly_what_was_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let limit = SpoolConfig { bytes_max: 4 * SEGMENT_BYTES_MIN, ..config(dir.path()) };
    let mut spool = Spool::open(limit.clone(), VEHICLE).unwrap();
    let boot_id = spool.boot_id();
    push(&mut spool, Lane::Fast, 0..1, 10);
    let mut lost = Vec::new();
    for sequence in 0..60 {
        push(&mut spool, Lane::Bulk, sequence..sequence + 1, 100_000);
        spool.flush(0);
        assert!(spool.bytes() <= limit.bytes_max);
        if sequence == 2 {
            spool.ack_range(0, &range(boot_id, Lane::Bulk, 1, 2));
        }
        for drop in spool.take_drops() {
            assert_eq!((drop.boot_id, drop.lane, drop.reason), (boot_id, Lane::Bulk, DropReason::SpoolFull));
            lost.extend(drop.first..=drop.last);
        }
    }
    let mut kept = sequences(&unacked(&mut spool, Lane::Bulk));
    assert!(kept.len() >= 14, "{} envelopes of 100 kB in 2 MiB", kept.len());
    assert_eq!(spool.counters().dropped, lost.len() as u64);
    lost.append(&mut kept);
    assert_eq!(lost, (0..60).filter(|sequence| !(1..=2).contains(sequence)).collect::<Vec<_>>());
    assert_eq!(sequences(&unacked(&mut spool, Lane::Fast)), [0]);
}

/// Flips a byte in the middle of the first segment of the bulk lane.
fn damage(dir: &Path) {
    let path = dir.join("bulk").join(format!("{:020}.log", 0));
    let middle = fs::metadata(&path).unwrap().len() / 2;
    let file = OpenOptions::new().write(true).read(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).unwrap();
    file.write_all_at(&[byte[0] ^ 0xff], middle).unwrap();
}

#[test]
fn damaged_records_are_skipped_and_reported_while_running_and_after_a_restart() {
    for restart in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path());
        let boot_id = spool.boot_id();
        // Five of them fill a segment; the third lies in its middle.
        push(&mut spool, Lane::Bulk, 0..12, 100_000);
        spool.flush(0);
        damage(dir.path());
        if restart {
            drop(spool);
            spool = open(dir.path());
        }
        assert_eq!(sequences(&unacked(&mut spool, Lane::Bulk)), [0, 1, 5, 6, 7, 8, 9, 10, 11], "{restart}");
        let reason = DropReason::SpoolDamaged;
        let report = DropReport { boot_id, lane: Lane::Bulk, first: 2, last: 4, reason };
        assert_eq!(spool.take_drops(), [report], "{restart}");
        assert_eq!(spool.counters().damaged_unknown, 0);
    }
}

#[test]
fn damage_at_the_end_is_counted_where_no_key_can_be_known() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path());
    push(&mut spool, Lane::Bulk, 0..5, 100_000);
    spool.flush(0);
    drop(spool);
    damage(dir.path());
    let mut spool = open(dir.path());
    assert_eq!(sequences(&unacked(&mut spool, Lane::Bulk)), [0, 1]);
    assert_eq!((spool.take_drops(), spool.counters().damaged_unknown), (Vec::new(), 3));
    assert!(!spool.is_drained());
}

#[test]
fn a_torn_watermark_is_ignored_and_one_beyond_the_log_numbers_on_behind_it() {
    assert_eq!(parse_acked(&format_acked([3, 12])), Some([3, 12]));
    assert_eq!(parse_acked(&format_acked([3, 12]).replace("12", "13")), None);
    assert_eq!(parse_acked("fast 3\nbulk 1"), None);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(ACKED_FILE), format_acked([0, 40])).unwrap();
    let mut spool = open(dir.path());
    push(&mut spool, Lane::Bulk, 0..1, 10);
    spool.flush(0);
    assert_eq!(spool.next_unacked(Lane::Bulk, 0), Some(40));
}

#[test]
fn second_process_on_the_same_spool_is_refused_without_counting_a_boot() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    assert!(matches!(Spool::open(config(dir.path()), VEHICLE), Err(SpoolError::Lane { .. })));
    let counter = first.boot_id().counter;
    drop(first);
    assert_eq!(open(dir.path()).boot_id().counter, counter + 1);
}

const CHILD_DIR: &str = "CONVOY_TEST_FULL_DISK_DIR";

/// A disk that takes no more, by a limit on the size of files, which binds root too. The limit is of the process, so
/// the test runs itself once more below it.
#[test]
fn full_disk_keeps_envelopes_in_memory_up_to_a_bound_and_goes_on_when_there_is_room() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        return fill_a_disk_of_200_kib(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "full_disk_keeps_envelopes_in_memory_up_to_a_bound_and_goes_on_when_there_is_room";
    let limited = format!("trap '' XFSZ; ulimit -S -f 200; exec \"$0\" --exact spool::tests::{name}");
    let output = Command::new("bash")
        .args(["-c", &limited])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_DIR, dir.path())
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn fill_a_disk_of_200_kib(dir: &Path) {
    let mut spool = open(dir);
    let mut sequence = 0;
    while !spool.is_full() {
        push(&mut spool, Lane::Bulk, sequence..sequence + 1, 100_000);
        spool.handle_timeout(0);
        sequence += 1;
        assert!(sequence < 100, "the limit on file sizes does not work");
    }
    // 200 KiB hold two; the third and all others wait.
    assert!(!spool.flush(0));
    assert_eq!((spool.counters().spooled, sequence), (2, 2 + QUEUE_BYTES_MAX.div_ceil(100_100) as u64));
    assert!(spool.counters().write_failures > 0);
    assert_eq!(spool.poll_timeout(), Some(RETRY_US));
    let lifted = Command::new("prlimit")
        .args(["--fsize=unlimited:unlimited", "--pid", &std::process::id().to_string()])
        .status()
        .unwrap();
    assert!(lifted.success());
    spool.handle_timeout(RETRY_US);
    assert!(!spool.is_full() && spool.flush(RETRY_US));
    assert_eq!(sequences(&unacked(&mut spool, Lane::Bulk)), (0..sequence).collect::<Vec<_>>());
}
