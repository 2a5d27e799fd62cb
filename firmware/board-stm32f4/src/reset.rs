//! How a program that went wrong starts again: at once, rather than by the watchdog. The agent sees a dongle that was reset.

use core::panic::PanicInfo;

use convoy_protocol::link::ResetCause;
use cortex_m::peripheral::SCB;
use cortex_m_rt::{ExceptionFrame, exception};
use stm32f4xx_hal::pac::RCC;

/// Why the chip started, and clears it: the flags stay until then.
pub(crate) fn take_cause(rcc: &mut RCC) -> ResetCause {
    let flags = rcc.csr().read();
    rcc.csr().modify(|_, w| w.rmvf().set_bit());
    if flags.wdgrstf().bit() || flags.wwdgrstf().bit() {
        ResetCause::Watchdog
    } else if flags.sftrstf().bit() {
        ResetCause::Software
    } else if flags.porrstf().bit() || flags.borrstf().bit() {
        ResetCause::Power
    } else {
        // The pin, which every other cause pulls too.
        ResetCause::Unknown
    }
}

/// No interrupt runs any more. Were it nothing but the reset, the compiler would give [`crate::board::Machine`]'s restart the same body,
/// and an image that cannot panic would look as if it could.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    cortex_m::interrupt::disable();
    SCB::sys_reset()
}

// SAFETY: it touches nothing but the register that resets the core.
#[exception]
unsafe fn HardFault(_: &ExceptionFrame) -> ! {
    SCB::sys_reset()
}

// SAFETY: as above.
#[exception]
unsafe fn DefaultHandler(_: i16) {
    SCB::sys_reset()
}
