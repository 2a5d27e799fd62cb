//! How a run in QEMU ends, by semihosting: with what was counted and status 0, or with where it panicked and status 1.

use core::panic::PanicInfo;

use cortex_m_semihosting::debug::{self, EXIT_FAILURE, EXIT_SUCCESS};
use cortex_m_semihosting::{heprintln, hprintln};

use crate::bus::Counters;

/// Tells the one who started QEMU what this board counted, one `name=number` a word, and ends.
pub(crate) fn end(bus: &Counters, bus_overruns: u32, link_overruns: u32) -> ! {
    let Counters { frames_lost, records_rejected } = bus;
    hprintln!(
        "frames_lost={} records_rejected={} bus_overruns={} link_overruns={}",
        frames_lost,
        records_rejected,
        bus_overruns,
        link_overruns
    );
    exit(EXIT_SUCCESS)
}

/// Without the message, whose formatting takes more flash than the dongle.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if let Some(place) = info.location() {
        heprintln!("panicked at {}:{}", place.file(), place.line());
    }
    exit(EXIT_FAILURE)
}

fn exit(status: debug::ExitStatus) -> ! {
    loop {
        debug::exit(status);
    }
}
