//! The chip from reset to running: clocks, pins that both images have, watchdog, supply.

use convoy_dongle::UpdateAction;
use convoy_dongle::shell::{self, carry_out};
use convoy_protocol::link::{FirmwareInfo, FirmwareVersion, Outcome, ResetCause};
use convoy_slots::{Slots, Update};
use cortex_m::peripheral::{NVIC, SCB};
use cortex_m::singleton;
use heapless::spsc::Queue;
use stm32f4xx_hal::gpio::{GpioExt, Speed};
use stm32f4xx_hal::gpio::{gpioa, gpiob, gpioc};
use stm32f4xx_hal::pac::{ADC_COMMON, ADC1, CAN1, EXTI, Interrupt, Peripherals, SPI1, SYSCFG};
use stm32f4xx_hal::rcc::{Config, Enable, Rcc, RccExt, Reset};
use stm32f4xx_hal::time::Hertz;
use stm32f4xx_hal::watchdog::IndependentWatchdog;

use crate::flash::Flash;
use crate::layout::{LAYOUT, slot_at};
use crate::line::{Line, QUEUE_BYTES};
use crate::time::{self, Clock, TICK_US};

/// The crystal at PH0 and PH1.
const CRYSTAL: Hertz = Hertz::MHz(8);
/// The fastest of this chip; the buses of the peripherals get a quarter and half of it.
const CORE: Hertz = Hertz::MHz(168);

/// The ADC's reference, millivolts, its largest value, and what the divider at PA0 takes away.
const REFERENCE_MV: u32 = 3_300;
const SAMPLE_MAX: u32 = 4_095;
const DIVIDER: u32 = 11;

/// A started board, and what the two images use differently.
pub struct Started {
    /// Time, watchdog, supply, slots.
    pub machine: Machine,
    /// The agent's line.
    pub line: Line,
    /// Why it started.
    pub reset: ResetCause,
    /// For the bus.
    pub rest: Rest,
}

/// Peripherals and pins of the bus side.
pub struct Rest {
    pub(crate) rcc: Rcc,
    pub(crate) can1: CAN1,
    pub(crate) can_pins: (gpiob::PB8, gpiob::PB9),
    pub(crate) spi1: SPI1,
    pub(crate) spi_pins: (gpioa::PA5, gpioa::PA6, gpioa::PA7),
    pub(crate) select: gpioa::PA4,
    pub(crate) interrupt: gpioc::PC4,
    pub(crate) exti: EXTI,
    pub(crate) syscfg: SYSCFG,
}

/// Starts what the board of that name needs; `None` if it was started before.
pub fn start(name: &'static str) -> Option<Started> {
    let (peripherals, mut core) = (Peripherals::take()?, cortex_m::Peripherals::take()?);
    let received = singleton!(: Queue<u8, QUEUE_BYTES> = Queue::new())?;
    let transmitting = singleton!(: Queue<u8, QUEUE_BYTES> = Queue::new())?;
    // The boot loader started it.
    let watchdog = IndependentWatchdog::new(peripherals.IWDG);
    let mut rcc = peripherals.RCC.constrain();
    let reset = crate::reset::take_cause(&mut rcc);
    let mut rcc = rcc.freeze(clocks());
    time::start(peripherals.TIM2, core.SYST, &mut rcc);
    let (a, b) = (peripherals.GPIOA.split(&mut rcc), peripherals.GPIOB.split(&mut rcc));
    let c = peripherals.GPIOC.split(&mut rcc);
    let _ = a.pa0.into_analog();
    let _ = a.pa9.into_alternate::<7>().speed(Speed::High);
    // Without an agent the line is quiet.
    let _ = a.pa10.into_alternate::<7>().internal_pull_up(true);
    let line = Line::open(peripherals.USART1, &mut rcc, received, transmitting);
    let supply = Supply::start(peripherals.ADC1, &peripherals.ADC_COMMON, &mut rcc);
    // SAFETY: a frame may interrupt the handling of a byte: they have nothing in common.
    unsafe { core.NVIC.set_priority(Interrupt::USART1, 1 << 4) };
    // SAFETY: the main loop holds no lock that the handler waits for.
    unsafe { NVIC::unmask(Interrupt::USART1) };
    let rest = Rest {
        rcc,
        can1: peripherals.CAN1,
        can_pins: (b.pb8, b.pb9),
        spi1: peripherals.SPI1,
        spi_pins: (a.pa5, a.pa6, a.pa7),
        select: a.pa4,
        interrupt: c.pc4,
        exti: peripherals.EXTI,
        syscfg: peripherals.SYSCFG,
    };
    let slots = Slots::new(Flash::new(peripherals.FLASH), LAYOUT);
    let update = Update::new(slots, name, slot_at(time::ticks_us as *const () as usize));
    let machine = Machine { clock: Clock::default(), watchdog, supply, update };
    Some(Started { machine, line, reset, rest })
}

fn clocks() -> Config {
    if cfg!(feature = "qemu") {
        return Config::hsi();
    }
    Config::hse(CRYSTAL).sysclk(CORE).pclk1(CORE / 4).pclk2(CORE / 2)
}

/// The board beside its line and its bus.
pub struct Machine {
    clock: Clock,
    watchdog: IndependentWatchdog,
    supply: Supply,
    update: Update<Flash>,
}

impl Machine {
    /// Of the image that runs.
    pub fn version(&mut self) -> FirmwareVersion {
        self.update.header().map_or((0, 0, 0), |header| header.version)
    }

    /// The timer wakes the core before this time, microseconds since the start.
    pub(crate) fn next_tick_us(&mut self) -> u64 {
        self.clock.now_us().saturating_add(u64::from(TICK_US))
    }
}

impl shell::Machine for Machine {
    fn now_us(&mut self) -> u64 {
        self.clock.now_us()
    }

    fn feed_watchdog(&mut self) {
        self.watchdog.feed();
    }

    fn supply_mv(&mut self) -> u16 {
        self.supply.mv()
    }

    fn firmware(&mut self) -> FirmwareInfo {
        self.update.info()
    }

    fn update(&mut self, action: UpdateAction, payload: &[u8]) -> Outcome {
        carry_out(&mut self.update, action, payload)
    }

    fn restart(&mut self) {
        SCB::sys_reset()
    }
}

/// The ADC, which measures on and on.
struct Supply(ADC1);

impl Supply {
    fn start(adc: ADC1, clock: &ADC_COMMON, rcc: &mut Rcc) -> Self {
        ADC1::enable(rcc);
        ADC1::reset(rcc);
        // 36 MHz at most: a quarter of the bus's.
        clock.ccr().write(|w| w.adcpre().div4());
        // The longest sample, since the divider is slow; the sequence is channel 0 alone.
        adc.smpr2().write(|w| w.smp0().cycles480());
        adc.cr2().write(|w| w.adon().set_bit().cont().set_bit());
        cortex_m::asm::delay(rcc.clocks.hclk().raw() / 100_000);
        adc.cr2().modify(|_, w| w.swstart().set_bit());
        Self(adc)
    }

    fn mv(&self) -> u16 {
        let sample = u32::from(self.0.dr().read().data().bits());
        u16::try_from(sample * REFERENCE_MV * DIVIDER / SAMPLE_MAX).unwrap_or(u16::MAX)
    }
}
