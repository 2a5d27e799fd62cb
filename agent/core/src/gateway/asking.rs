//! The part of the gateway that asks the vehicle.

use std::sync::Arc;

use convoy_protocol::frame::BusIndex;
use convoy_protocol::manifest::{Manifest, SignalIndex};

use super::{Gateway, Output};
use crate::decoder::Decoder;
use crate::poll::Poller;

/// Where VSS has the voltage at the vehicle's socket.
const VOLTAGE_PATH: &str = "Vehicle.LowVoltageBattery.CurrentVoltage";

/// The signal that tells the voltage, where there is one.
pub(super) fn voltage_signal(manifest: &Manifest) -> Option<SignalIndex> {
    let at = manifest.signals.iter().position(|signal| signal.path == VOLTAGE_PATH)?;
    u32::try_from(at).ok().map(SignalIndex)
}

impl Gateway {
    /// Takes the voltage at the vehicle's socket, volts, as the adapter of a bus measured it.
    pub fn handle_voltage(&mut self, now_us: i64, bus: BusIndex, volts: Option<f64>) {
        self.pollers_on(bus).for_each(|poller| poller.handle_voltage(volts));
        self.ask(now_us);
    }

    /// The request on its way on a bus is over: its adapter knows that nobody answers any more.
    pub fn handle_request_end(&mut self, now_us: i64, bus: BusIndex) {
        self.pollers_on(bus).for_each(|poller| poller.handle_end(now_us));
        self.ask(now_us);
    }

    /// Puts out every row that is decoded, while somebody watches.
    pub fn set_tap(&mut self, is_tapped: bool) {
        self.is_tapped = is_tapped;
    }

    /// What every value means.
    pub fn decoder(&self) -> &Arc<Decoder> {
        &self.decoder
    }

    /// What is asked, by bus.
    pub fn pollers(&self) -> &[Poller] {
        &self.pollers
    }

    pub(super) fn pollers_on(&mut self, bus: BusIndex) -> impl Iterator<Item = &mut Poller> {
        self.pollers.iter_mut().filter(move |poller| poller.bus() == bus)
    }

    /// Puts out what the pollers want to send now.
    pub(super) fn ask(&mut self, now_us: i64) {
        self.polled_us = now_us;
        for poller in &mut self.pollers {
            if let Some(frame) = poller.poll_flow_control() {
                self.outbox.push(Output::FlowControl(frame));
            }
            while let Some((id, payload)) = poller.poll_request(now_us) {
                self.outbox.push(Output::Request { bus: poller.bus(), id, payload });
            }
        }
    }

    /// A control module's own voltage (PID 42, or a maker's signal) is good for every bus.
    pub(super) fn hear_voltage(&mut self, signal: SignalIndex) {
        let found = self.row.iter().find(|(index, _)| *index == signal);
        if let Some(((_, raw), def)) = found.zip(self.decoder.manifest().signal(signal)) {
            let volts = def.at_path(raw.physical(def));
            self.pollers.iter_mut().for_each(|poller| poller.handle_voltage(Some(volts)));
        }
    }
}
