//! How a run in QEMU ends, by semihosting: with what was counted and status 0, or with why it failed and status 1.
//!
//! Numbers are written without `core::fmt`: it takes as much flash as the dongle, and calls by pointers, which hides from
//! `cargo xtask firmware` how much stack is needed.

use core::panic::PanicInfo;

use cortex_m_semihosting::debug::{self, EXIT_FAILURE, EXIT_SUCCESS};
use cortex_m_semihosting::hio::{self, HostStream};

use crate::bus::Counters;

/// Tells the one who started QEMU what this board counted, one `name=number` a word, and ends.
pub(crate) fn end(bus: &Counters, bus_overruns: u32, link_overruns: u32) -> ! {
    let counted = [
        ("frames_lost=", bus.frames_lost),
        (" records_rejected=", bus.records_rejected),
        (" bus_overruns=", bus_overruns),
        (" link_overruns=", link_overruns),
    ];
    let out = hio::hstdout();
    for (name, number) in counted {
        say(out, name);
        say_number(out, number);
    }
    say(out, "\n");
    exit(EXIT_SUCCESS)
}

/// Ends a run that cannot go on, without a panic.
pub(crate) fn fail(why: &str) -> ! {
    let out = hio::hstderr();
    say(out, why);
    say(out, "\n");
    exit(EXIT_FAILURE)
}

/// Rust asks for it. The image has no way here: `cargo xtask firmware` refuses one that has.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let out = hio::hstderr();
    say(out, "panicked");
    if let Some(place) = info.location() {
        say(out, " at ");
        say(out, place.file());
        say(out, ":");
        say_number(out, place.line());
    }
    say(out, "\n");
    exit(EXIT_FAILURE)
}

/// A debugger that takes no text is nobody to complain to.
fn say(out: Result<HostStream, ()>, text: &str) {
    let _ = out.and_then(|mut out| out.write_all(text.as_bytes()));
}

fn say_number(out: Result<HostStream, ()>, number: u32) {
    let mut digits = [0; 10];
    let (mut rest, mut first) = (number, digits.len());
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10).to_le_bytes()[0];
        (rest, first) = (rest / 10, first.saturating_sub(1));
        if rest == 0 {
            break;
        }
    }
    let digits = digits.get(first..).unwrap_or_default();
    let _ = out.and_then(|mut out| out.write_all(digits));
}

fn exit(status: debug::ExitStatus) -> ! {
    loop {
        debug::exit(status);
    }
}
