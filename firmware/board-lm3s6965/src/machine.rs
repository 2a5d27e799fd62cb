//! Time, watchdog and slots.

use convoy_board_lm3s6965::flash::Flash;
use convoy_board_lm3s6965::layout::{LAYOUT, NAME, slot_of};
use convoy_board_lm3s6965::{restart, watchdog};
use convoy_dongle::UpdateAction;
use convoy_dongle::shell::{Machine, carry_out};
use convoy_protocol::link::{FirmwareInfo, FirmwareVersion, Outcome};
use convoy_slots::{Slots, Update};

use crate::clock::Clock;

/// What of the board is neither line nor bus.
pub(crate) struct Rest {
    pub(crate) clock: Clock,
    update: Update<Flash>,
}

impl Rest {
    /// Of a program of which something is at `address`. The clock is there once, and so is this.
    pub(crate) fn new(clock: Clock, address: usize) -> Self {
        // SAFETY: the only one of this program.
        let flash = unsafe { Flash::take() };
        Self { clock, update: Update::new(Slots::new(flash, LAYOUT), NAME, slot_of(address)) }
    }

    /// Of the image that runs.
    pub(crate) fn version(&mut self) -> FirmwareVersion {
        self.update.header().map_or((0, 0, 0), |header| header.version)
    }
}

impl Machine for Rest {
    fn now_us(&mut self) -> u64 {
        self.clock.now_us()
    }

    fn has_reached(&mut self, time_us: u64) -> bool {
        self.clock.has_reached(time_us)
    }

    fn feed_watchdog(&mut self) {
        watchdog::feed();
    }

    fn firmware(&mut self) -> FirmwareInfo {
        self.update.info()
    }

    fn update(&mut self, action: UpdateAction, payload: &[u8]) -> Outcome {
        carry_out(&mut self.update, action, payload)
    }

    fn restart(&mut self) {
        restart::restart()
    }
}
