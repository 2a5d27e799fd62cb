//! The agent's half: its own live source over the simulated line, and its gateway, in tokio's paused time.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use convoy_agent::live::{LiveOptions, LiveSources, LiveUrl, Opening, Stream, Surroundings};
use convoy_agent::source::{FrameSource, SourceError, SourceEvent, Transmission};
use convoy_agent_core::decoder::RawValue;
use convoy_agent_core::gateway::{Gateway, Output};
use convoy_protocol::frame::{BusIndex, CanFrame};
use convoy_protocol::manifest::SignalIndex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::bench::{Attached, Bench};
use super::controller::BusFrame;
use super::device::KERNEL_BYTES_MAX;
use crate::dice::Dice;

/// What the wall clock shows at the start, microseconds since the Unix epoch.
pub const WALL_US: i64 = 1_800_000_000_000_000;
/// Between two looks at the world, microseconds: tokio's timers know no less.
const TICK_US: u64 = 1_000;

/// A bench that agent and world share.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<Bench>>);

impl Shared {
    /// Shares a bench.
    pub fn new(bench: Bench) -> Self {
        Self(Arc::new(Mutex::new(bench)))
    }

    /// The bench, for as long as the guard lives.
    pub fn bench(&self) -> MutexGuard<'_, Bench> {
        // What a panic left is shown by the test that panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wall_us(&self) -> i64 {
        WALL_US + i64::try_from(self.bench().now_us()).unwrap_or(i64::MAX)
    }
}

/// The simulated line as the agent finds it.
struct SimulatedSurroundings {
    world: Shared,
    dice: Mutex<Dice>,
}

impl Surroundings for SimulatedSurroundings {
    fn open<'o>(&'o self, _url: &'o LiveUrl) -> Opening<'o> {
        Box::pin(async {
            let mut bench = self.world.bench();
            let Attached::Dongle(device) = &mut bench.attached else {
                return Err(io::ErrorKind::NotFound.into());
            };
            if !device.kernel.is_plugged {
                return Err(io::ErrorKind::NotFound.into());
            }
            device.kernel.is_open = true;
            device.kernel.to_agent.clear();
            let line = SimulatedLine { world: self.world.clone(), plugged: device.kernel.plugged };
            Ok(Box::new(line) as Box<dyn Stream>)
        })
    }

    fn wall_us(&self) -> i64 {
        self.world.wall_us()
    }

    fn random(&self) -> Option<u32> {
        let drawn = self.dice.lock().unwrap_or_else(PoisonError::into_inner).any();
        u32::try_from(drawn >> 32).ok()
    }
}

/// A line that the agent has opened.
struct SimulatedLine {
    world: Shared,
    plugged: u64,
}

impl AsyncRead for SimulatedLine {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bench = self.world.bench();
        let now_us = bench.now_us();
        let Attached::Dongle(device) = &mut bench.attached else { return Poll::Ready(Ok(())) };
        let kernel = &mut device.kernel;
        if kernel.plugged != self.plugged {
            return Poll::Ready(Ok(()));
        }
        if kernel.to_agent.is_empty() || now_us < kernel.busy_until_us {
            kernel.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let len = buffer.remaining().min(kernel.to_agent.len());
        kernel.to_agent.drain(..len).for_each(|byte| buffer.put_slice(&[byte]));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SimulatedLine {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut bench = self.world.bench();
        let Attached::Dongle(device) = &mut bench.attached else { return Poll::Ready(Ok(0)) };
        let kernel = &mut device.kernel;
        if kernel.plugged != self.plugged {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let len = bytes.len().min(KERNEL_BYTES_MAX - kernel.from_agent.len());
        if len == 0 {
            kernel.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        device.take(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimulatedLine {
    fn drop(&mut self) {
        let mut bench = self.world.bench();
        if let Attached::Dongle(device) = &mut bench.attached
            && device.kernel.plugged == self.plugged
        {
            device.kernel.is_open = false;
            device.kernel.to_agent.clear();
        }
    }
}

/// The agent's live source over the simulated line.
pub fn live(world: &Shared, seed: u64, options: LiveOptions) -> LiveSources {
    let surroundings = SimulatedSurroundings { world: world.clone(), dice: Mutex::new(Dice::new(seed)) };
    LiveSources::open_in(Arc::new(surroundings), vec![options])
}

/// A source on the bus itself.
pub struct DirectSource(Shared);

impl DirectSource {
    /// One that loses nothing.
    pub const fn new(world: Shared) -> Self {
        Self(world)
    }
}

impl FrameSource for DirectSource {
    fn bus_names(&self) -> Vec<String> {
        vec!["bus".to_owned()]
    }

    fn describe(&self) -> String {
        "the simulated bus".to_owned()
    }

    async fn recv(&mut self) -> Result<SourceEvent, SourceError> {
        let (at_us, frame) = poll_fn(|context| {
            let mut bench = self.0.bench();
            let Attached::Directly { heard, reader } = &mut bench.attached else { return Poll::Pending };
            *reader = Some(context.waker().clone());
            // Remote frames are nobody's.
            while heard.pop_front_if(|(_, frame)| frame.data.is_none()).is_some() {}
            heard.pop_front().map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let at_us = WALL_US + i64::try_from(at_us).unwrap_or(i64::MAX);
        let data = frame.data.as_deref().unwrap_or_default();
        // The simulated bus has classic frames only.
        Ok(CanFrame::new(at_us, BusIndex(0), frame.id, data).map_or(SourceEvent::End, SourceEvent::Frame))
    }

    fn transmit(&mut self, transmission: Transmission) {
        let frame = match transmission {
            Transmission::Request { id, payload, .. } => {
                let mut data = [0xCC; 8];
                data[0] = u8::try_from(payload.len()).unwrap_or(7);
                data.iter_mut().skip(1).zip(payload).for_each(|(slot, byte)| *slot = byte);
                BusFrame::data(id, data)
            }
            Transmission::Frame(frame) => BusFrame::data(frame.id, frame.data()),
        };
        self.0.bench().send(frame);
    }
}

/// A frame that came to the gateway, and when.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// Microseconds since the start.
    pub at_us: u64,
    /// The frame.
    pub frame: CanFrame,
}

/// What a frame said, and when it was received, microseconds since the Unix epoch.
pub type Said = (i64, Vec<(SignalIndex, RawValue)>);

/// An agent on a bench: a source and the gateway behind it, as in the agent's own loop.
pub struct Rig<S> {
    /// The world.
    pub world: Shared,
    /// The agent's source.
    pub source: S,
    /// The agent's gateway.
    pub gateway: Gateway,
    /// What came.
    pub arrived: Vec<Arrival>,
    /// What it said, while the gateway is tapped.
    pub said: Vec<Said>,
    tick: Instant,
}

impl<S: FrameSource> Rig<S> {
    /// An agent that starts now, as the world does.
    pub fn new(world: Shared, source: S, gateway: Gateway) -> Self {
        let tick = Instant::now();
        Self { world, source, gateway, arrived: Vec::new(), said: Vec::new(), tick }
    }

    /// A millisecond passes, in the world and in the agent.
    pub async fn tick(&mut self) {
        self.world.bench().advance(TICK_US);
        self.tick += Duration::from_micros(TICK_US);
        let now_us = self.world.wall_us();
        self.gateway.handle_timeout(now_us);
        self.take_outputs();
        loop {
            // Everything that has come is taken before the time goes on.
            tokio::select! {
                biased;
                event = self.source.recv() => match event {
                    Ok(event) => self.handle(now_us, event),
                    Err(_) => return,
                },
                () = sleep_until(self.tick) => return,
            }
        }
    }

    /// Ticks until `is_enough`, or for so many milliseconds; false where it was not enough by then.
    pub async fn run(&mut self, ms_max: u64, mut is_enough: impl FnMut(&Self) -> bool) -> bool {
        for _ in 0..ms_max {
            if is_enough(self) {
                return true;
            }
            self.tick().await;
        }
        is_enough(self)
    }

    fn handle(&mut self, now_us: i64, event: SourceEvent) {
        match event {
            SourceEvent::Frame(frame) => {
                let at_us = self.world.bench().now_us();
                self.arrived.push(Arrival { at_us, frame });
                self.gateway.handle_frame(now_us, &frame);
            }
            SourceEvent::Voltage(bus, volts) => self.gateway.handle_voltage(now_us, bus, volts),
            SourceEvent::RequestEnd(bus) => self.gateway.handle_request_end(now_us, bus),
            SourceEvent::End => {}
        }
        self.take_outputs();
    }

    fn take_outputs(&mut self) {
        if self.gateway.take_needs_changed() {
            self.source.set_filters(BusIndex(0), self.gateway.filters(BusIndex(0)));
        }
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Request { bus, id, payload } => {
                    self.source.transmit(Transmission::Request { bus, id, payload });
                }
                Output::FlowControl(frame) => self.source.transmit(Transmission::Frame(frame)),
                Output::Tapped { time_us, row } => self.said.push((time_us, row.iter().collect())),
                Output::Envelope { .. } | Output::Chunk { .. } => {}
            }
        }
    }
}
