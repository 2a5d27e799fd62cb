//! The part of the gateway that asks the vehicle.

use std::sync::Arc;

use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::manifest::{Manifest, SignalIndex};

use super::{Gateway, Output};
use crate::decoder::Decoder;
use crate::filters::{FILTERS_MAX, IdFilter, coalesce};
use crate::j1939::Pgn;
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
        self.pollers_on(bus).for_each(|poller| poller.handle_voltage(now_us, volts));
        self.ask(now_us);
    }

    /// The request on its way on a bus is over: its adapter knows that nobody answers any more.
    pub fn handle_request_end(&mut self, now_us: i64, bus: BusIndex) {
        self.pollers_on(bus).for_each(|poller| poller.handle_end(now_us));
        self.ask(now_us);
    }

    /// Puts out every row that is decoded, while somebody watches.
    pub fn set_tap(&mut self, is_tapped: bool) {
        self.needs_changed |= self.is_tapped != is_tapped;
        self.is_tapped = is_tapped;
    }

    /// Has what [`Gateway::filters`] says changed since the last question?
    pub fn take_needs_changed(&mut self) -> bool {
        std::mem::take(&mut self.needs_changed)
    }

    /// The frames of a bus that are needed now, at most [`FILTERS_MAX`]; `None`: every frame. It changes with campaigns and
    /// with whoever watches.
    ///
    /// A bus on which something is asked is heard as a whole: any frame tells that the vehicle is awake.
    pub fn filters(&self, bus: BusIndex) -> Option<Vec<IdFilter>> {
        if self.is_tapped || self.pollers.iter().any(|poller| poller.bus() == bus) {
            return None;
        }
        let needs = |signal| self.campaigns.collectors().any(|collector| collector.needs(signal));
        let mut filters = self.decoder.filters(bus, needs);
        // Trouble codes and the VIN, and whatever a transport protocol carries.
        filters
            .extend([Pgn::DM1, Pgn::DM2, Pgn::DM6, Pgn::DM28, Pgn::TP_CM, Pgn::TP_DT].map(IdFilter::group));
        filters.push(IdFilter::block(CanId::Standard(0x7E0), 4));
        // What another tester asks of every ECU says what its answers mean.
        filters.push(IdFilter::exact(CanId::Standard(0x7DF)));
        filters.push(IdFilter::block(CanId::Extended(0x18DA_0000), 17));
        Some(coalesce(filters, FILTERS_MAX))
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
                self.asked_codes.handle_request(poller.bus(), id, poller.answers_on(), &payload);
                self.outbox.push(Output::Request { bus: poller.bus(), id, payload });
            }
        }
    }

    /// A control module's own voltage (PID 42, or a maker's signal) is good for every bus.
    pub(super) fn hear_voltage(&mut self, now_us: i64, signal: SignalIndex) {
        let found = self.row.iter().find(|(index, _)| *index == signal);
        if let Some(((_, raw), def)) = found.zip(self.decoder.manifest().signal(signal)) {
            let volts = def.at_path(raw.physical(def));
            self.pollers.iter_mut().for_each(|poller| poller.handle_voltage(now_us, Some(volts)));
        }
    }
}
