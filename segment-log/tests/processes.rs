//! Real processes: killed at any moment, or stopped by the kernel from writing on.
#![allow(clippy::unwrap_used)]

use std::env;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use convoy_segment_log::{AppendError, Options, Position, SegmentLog, WriteError};

const CHILD_DIR: &str = "SEGMENT_LOG_CHILD_DIR";
const KILL_OPTIONS: Options = Options { segment_bytes_max: 40_000, record_bytes_max: 3_000 };
const ROUNDS: u64 = 25;

/// Tells a repeated, lost or mixed-up record.
fn payload(position: u64) -> Vec<u8> {
    let seed = position.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let len = (seed >> 40) as usize % 3_000;
    position.to_le_bytes().into_iter().cycle().take(len).collect()
}

fn write_until_killed(dir: &Path) -> ! {
    let (mut log, recovery) = SegmentLog::open(dir, KILL_OPTIONS).unwrap();
    let mut end = recovery.end.0;
    let mut out = std::io::stdout();
    loop {
        let count = 1 + end % 5;
        let payloads: Vec<Vec<u8>> = (end..end + count).map(payload).collect();
        log.append_batch(payloads.iter().map(Vec::as_slice)).unwrap();
        end += count;
        if end.is_multiple_of(3) {
            let synced = log.sync().unwrap();
            assert_eq!(synced, Position(end));
            out.write_all(format!("\nsynced {end}\n").as_bytes()).unwrap();
            out.flush().unwrap();
        }
    }
}

fn spawn_writer(dir: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["killed_writer_leaves_everything_synced_readable", "--exact", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the writer after `syncs` syncs and some more moments, and returns the last position it called synced.
fn run_and_kill(dir: &Path, syncs: u64, moments: u64) -> u64 {
    let mut child = spawn_writer(dir);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut positions = lines.by_ref().filter_map(|line| line.strip_prefix("synced ")?.parse().ok());
    let mut synced = positions.nth(syncs as usize).unwrap();
    for _ in 0..moments {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if let Some(last) = positions.last() {
        synced = last;
    }
    synced
}

#[test]
fn killed_writer_leaves_everything_synced_readable() {
    if let Some(dir) = env::var_os(CHILD_DIR) {
        write_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 0..ROUNDS {
        let random = u64::from(crc32c::crc32c(&[round as u8, std::process::id() as u8]));
        let synced = run_and_kill(dir.path(), random % 23, random % 300_007);
        assert!(synced > before, "round {round}");
        let (mut log, recovery) = SegmentLog::open(dir.path(), KILL_OPTIONS).unwrap();
        assert!(recovery.end.0 >= synced, "round {round}: {synced} was synced, {recovery:?}");
        assert_eq!(recovery.gaps, [], "round {round}");
        let mut next = Position(0);
        while next < recovery.end {
            let batch = log.read(next, 100, 100_000).unwrap();
            assert_eq!(batch.gaps, []);
            for (position, found) in batch.records {
                assert_eq!(position, next);
                assert_eq!(found, payload(position.0), "round {round}, position {position}");
                next.0 += 1;
            }
            assert_eq!(batch.next, next);
        }
        before = synced;
    }
}

const LIMIT_OPTIONS: Options = Options { segment_bytes_max: 1 << 20, record_bytes_max: 1 << 19 };

fn refused(result: Result<impl Sized, AppendError>) -> bool {
    matches!(result, Err(AppendError::Write(WriteError::Io { source, .. }))
        if source.kind() == ErrorKind::FileTooLarge)
}

/// Runs where no file may grow beyond a limit of 32 or 64 KiB: a write up to there succeeds in part.
fn write_beyond_the_limit(dir: &Path) {
    let (mut log, _) = SegmentLog::open(dir, LIMIT_OPTIONS).unwrap();
    let record = [5; 1_000];
    let stopped = loop {
        let end = log.end_position();
        if refused(log.append(&record)) {
            break end;
        }
    };
    assert!(stopped.0 >= 30, "stopped at {stopped}");
    let bytes = log.bytes();
    assert!(refused(log.append_batch([[6; 10].as_slice(), &record, &record])));
    assert_eq!((log.end_position(), log.bytes()), (stopped, bytes), "all or none");
    assert_eq!(log.append(&[6; 10]).unwrap(), stopped, "a smaller one still fits");
    assert_eq!(log.sync().unwrap(), Position(stopped.0 + 1));
    let batch = log.read(Position(0), usize::MAX, usize::MAX).unwrap();
    assert_eq!((batch.records.len() as u64, batch.gaps.len()), (stopped.0 + 1, 0));
    assert_eq!(batch.records[stopped.0 as usize].1, [6; 10]);
    drop(log);
    let (mut log, recovery) = SegmentLog::open(dir, LIMIT_OPTIONS).unwrap();
    assert_eq!((recovery.torn_tail, recovery.end), (None, Position(stopped.0 + 1)));
    log.drop_oldest_segment().unwrap();
    assert_eq!(log.append(&record).unwrap(), Position(stopped.0 + 1), "there is room again");
    log.sync().unwrap();
}

#[test]
fn write_that_the_kernel_stops_halfway_is_undone() {
    if let Some(dir) = env::var_os(CHILD_DIR) {
        write_beyond_the_limit(Path::new(&dir));
        std::io::stdout().write_all(b"\nreached the limit\n").unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        // Ignored, SIGXFSZ leaves the write to fail; the limit is 64 blocks of 512 or 1,024 bytes.
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "sh"])
        .arg(env::current_exe().unwrap())
        .args(["write_that_the_kernel_stops_halfway_is_undone", "--exact", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("reached the limit"), "{out}\n{err}");
}
