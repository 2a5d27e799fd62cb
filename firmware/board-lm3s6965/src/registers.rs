//! The chip's registers, by the addresses of its data sheet (Luminary LM3S6965, 2007).

/// A block of registers.
#[derive(Clone, Copy)]
pub struct Registers(usize);

/// The watchdog.
pub const WATCHDOG: Registers = Registers(0x4000_0000);
/// System control.
pub const SYSTEM: Registers = Registers(0x400F_E000);
/// Port A: the pins of UART0.
pub const PORT_A: Registers = Registers(0x4000_4000);
/// Port D: the pins of UART1.
pub const PORT_D: Registers = Registers(0x4000_7000);
/// The agent's line.
pub const UART0: Registers = Registers(0x4000_C000);
/// The line in place of a bus.
pub const UART1: Registers = Registers(0x4000_D000);

/// A register's place in its block, bytes.
#[derive(Clone, Copy)]
pub struct Offset(u16);

impl Offset {
    /// Refused at compile time where the constant is one: a word inside of the 4 KiB of a block.
    pub const fn new(offset: u16) -> Self {
        assert!(offset < 0x1000 && offset.is_multiple_of(4), "not a register of a block");
        Self(offset)
    }
}

impl Registers {
    /// What the register holds.
    pub fn read(self, offset: Offset) -> u32 {
        // SAFETY: the blocks are the constants above, all device memory of this chip and of nothing else, and an
        // `Offset` is a word inside of one.
        unsafe { core::ptr::read_volatile(self.address(offset)) }
    }

    /// Sets the register.
    pub fn write(self, offset: Offset, value: u32) {
        // SAFETY: as above; no register written here makes the chip write to memory.
        unsafe { core::ptr::write_volatile(self.address(offset), value) }
    }

    /// Clears bits, then sets others.
    pub fn change(self, offset: Offset, clear: u32, set: u32) {
        self.write(offset, (self.read(offset) & !clear) | set);
    }

    fn address(self, offset: Offset) -> *mut u32 {
        core::ptr::with_exposed_provenance_mut(self.0 + usize::from(offset.0))
    }
}
