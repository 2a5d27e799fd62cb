//! The `[spool]` section.

use std::path::Path;

use super::toml_reader::{Faults, Found, Section};
use super::{SEGMENT_BYTES, SPOOL_BYTES_MAX, SYNC_MS, SYNC_MS_MAX};
use crate::spool::{DropPolicy, SEGMENT_BYTES_MIN, SEGMENTS_MIN, SPOOL_KEY_BYTES, SpoolConfig, SpoolKey};

pub(super) fn spool(mut section: Section<'_>, dir: &Path, faults: &mut Faults<'_>) -> Option<SpoolConfig> {
    let spool_dir = section.required("dir", "\"spool\"", faults);
    let sizes = SEGMENTS_MIN * SEGMENT_BYTES_MIN..=1 << 40;
    let bytes_max = section.integer("bytes_max", sizes, faults).unwrap_or(SPOOL_BYTES_MAX);
    let segment_max = (bytes_max / SEGMENTS_MIN).min(convoy_segment_log::SEGMENT_BYTES_MAX);
    let segment_bytes = section
        .integer("segment_bytes", SEGMENT_BYTES_MIN..=segment_max, faults)
        .unwrap_or(SEGMENT_BYTES.min(segment_max));
    let sync_ms = section.integer("sync_ms", 1..=u64::from(SYNC_MS_MAX), faults);
    let drop = match section.string("drop", faults) {
        None => DropPolicy::default(),
        Some(drop) => match drop.value.as_str() {
            "priority" => DropPolicy::Priority,
            "oldest" => DropPolicy::Oldest,
            _ => {
                drop.refuse(faults, "expected priority (the bulk lane first) or oldest");
                DropPolicy::default()
            }
        },
    };
    let key = section.string("key_file", faults).and_then(|file| key(&file, dir, faults));
    section.finish(faults);
    let sync_ms = sync_ms.and_then(|ms| u32::try_from(ms).ok()).unwrap_or(SYNC_MS);
    Some(SpoolConfig { dir: dir.join(spool_dir?.value), bytes_max, segment_bytes, sync_ms, drop, key })
}

fn key(file: &Found<String>, dir: &Path, faults: &mut Faults<'_>) -> Option<SpoolKey> {
    let bytes = match std::fs::read(dir.join(&file.value)) {
        Ok(bytes) => bytes,
        Err(error) => {
            file.refuse(
                faults,
                format!("cannot read it: {error}; make one with: head -c {SPOOL_KEY_BYTES} /dev/urandom"),
            );
            return None;
        }
    };
    match <&[u8; SPOOL_KEY_BYTES]>::try_from(bytes.as_slice()) {
        Ok(bytes) => Some(SpoolKey::new(bytes)),
        Err(_) => {
            let len = bytes.len();
            file.refuse(faults, format!("it has {len} bytes, a key has exactly {SPOOL_KEY_BYTES}"));
            None
        }
    }
}
