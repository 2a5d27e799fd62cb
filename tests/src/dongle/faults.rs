//! What goes wrong, and when: drawn from a seed.

use crate::dice::Dice;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// So many of a thousand bytes flip a bit, go missing or get company, both ways.
    Noise {
        /// Of a thousand.
        permille: u64,
        /// For how long, microseconds.
        for_us: u64,
    },
    /// Every byte goes missing, both ways.
    Burst {
        /// For how long, microseconds.
        for_us: u64,
    },
    /// Bytes come from nowhere, both ways.
    Garbage {
        /// So many.
        bytes: u64,
    },
    /// The wire to the agent carries nothing: the dongle's queue fills.
    StallUp {
        /// For how long, microseconds.
        for_us: u64,
    },
    /// The wire to the dongle carries nothing.
    StallDown {
        /// For how long, microseconds.
        for_us: u64,
    },
    /// The dongle's program stands still: its controller overruns.
    DongleBusy {
        /// For how long, microseconds.
        for_us: u64,
    },
    /// The agent's process gets no processor: the buffer of its line overruns.
    AgentBusy {
        /// For how long, microseconds.
        for_us: u64,
    },
    /// Whole commands to send a frame that no agent of ours has made, in the session that runs.
    Forged {
        /// So many.
        commands: u64,
    },
    /// The dongle has no power, and starts anew.
    Reset {
        /// For how long, microseconds.
        for_us: u64,
    },
    /// The line is pulled out of the agent's machine.
    Unplug {
        /// For how long, microseconds.
        for_us: u64,
        /// The vehicle gives the power, so that the dongle goes on.
        keeps_power: bool,
    },
}

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    /// Resets.
    pub resets: bool,
    /// The line is pulled out and put back.
    pub unplugs: bool,
    /// Commands that our agent has not made. A dongle that listens only refuses them.
    pub forged: bool,
}

/// Faults in the order of their times, microseconds: from `from_us` on, so that the last one is over by `until_us`.
pub fn draw(dice: &mut Dice, kinds: Kinds, from_us: u64, until_us: u64) -> Vec<(u64, Fault)> {
    let count = dice.between(2, 14);
    let mut faults: Vec<_> = (0..count)
        .map(|_| {
            let at_us = dice.between(from_us, until_us);
            (at_us, fault(dice, kinds, until_us - at_us))
        })
        .collect();
    faults.sort_by_key(|(at_us, _)| *at_us);
    faults
}

/// One that lasts no longer than `left_us`.
fn fault(dice: &mut Dice, kinds: Kinds, left_us: u64) -> Fault {
    loop {
        // Mostly short; now and then as long as it may be.
        let longest_us = if dice.is_hit(850) { left_us.min(300_000) } else { left_us };
        let for_us = dice.below(longest_us.max(1));
        return match dice.below(10) {
            0 | 1 => Fault::Noise { permille: dice.between(1, 30), for_us },
            2 => Fault::Burst { for_us: for_us.min(8_000) },
            3 => Fault::Garbage { bytes: dice.between(1, 600) },
            4 => Fault::StallUp { for_us },
            5 => Fault::StallDown { for_us },
            6 => Fault::DongleBusy { for_us: for_us.min(500_000) },
            7 => Fault::AgentBusy { for_us },
            8 if kinds.forged => Fault::Forged { commands: dice.between(1, 20) },
            8 if kinds.resets => Fault::Reset { for_us: for_us.min(700_000) },
            9 if kinds.unplugs => Fault::Unplug { for_us, keeps_power: dice.is_hit(500) },
            9 if kinds.resets => Fault::Reset { for_us: for_us.min(100_000) },
            _ => continue,
        };
    }
}
