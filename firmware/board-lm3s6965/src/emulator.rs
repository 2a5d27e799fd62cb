//! How a run in QEMU ends, by semihosting: with what was counted and status 0, or with status 1.

use core::panic::PanicInfo;

use cortex_m_semihosting::debug::{self, EXIT_FAILURE, EXIT_SUCCESS};
use cortex_m_semihosting::hio;

use crate::bus::Counters;

/// Tells the one who started QEMU what this board counted, one `name=number` a word, and ends.
pub(crate) fn end(bus: &Counters, bus_overruns: u32, link_overruns: u32) -> ! {
    let Counters { frames_lost, records_rejected } = *bus;
    let counts = [
        ("frames_lost=", frames_lost),
        (" records_rejected=", records_rejected),
        (" bus_overruns=", bus_overruns),
        (" link_overruns=", link_overruns),
    ];
    if let Ok(mut output) = hio::hstdout() {
        for (name, count) in counts {
            let mut digits = [0; 10];
            let is_written = output
                .write_all(name.as_bytes())
                .and_then(|()| output.write_all(decimal(count, &mut digits)));
            if is_written.is_err() {
                exit(EXIT_FAILURE);
            }
        }
    }
    exit(EXIT_SUCCESS)
}

/// `core::fmt` takes 2 KiB for this.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &[u8] {
    let mut len = 0;
    for slot in digits.iter_mut().rev() {
        // One digit.
        *slot = b'0' + (number % 10) as u8;
        number /= 10;
        len += 1;
        if number == 0 {
            break;
        }
    }
    digits.get(10 - len..).unwrap_or_default()
}

/// Nothing of the release image refers to it, which `cargo xtask firmware` looks at.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(EXIT_FAILURE)
}

fn exit(status: debug::ExitStatus) -> ! {
    loop {
        debug::exit(status);
    }
}
