//! A recording in any format, or in none: every line is a frame, something known, or damaged.
#![no_main]

use convoy_agent::log::{BusTable, LogInput, LogReader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(input) = LogInput::Memory(bytes.into()).open() else { return };
    let mut reader = LogReader::new(input, BusTable::default());
    let mut frames = 0;
    while let Ok(Some(_)) = reader.next_frame() {
        frames += 1;
    }
    assert_eq!(reader.counts().frames, frames);
});
