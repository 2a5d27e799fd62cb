//! Recorded frames in memory, parsed once and shared by all vehicles that replay them.

use std::io;
use std::sync::{Arc, LazyLock};

use convoy_agent::log::{BusTable, LineCounts, LogInput, LogReader};
use convoy_protocol::frame::{BusIndex, CanFrame};

use crate::vehicle::VehicleKind;

/// Decoding of CANmod.gps messages, for both recordings.
pub const GPS_DBC: &[u8] = include_bytes!("../recordings/canmod-gps.dbc");
/// Decoding of the car's OBD-II responses.
pub const OBD_DBC: &[u8] = include_bytes!("../recordings/obd2_s01.dbc");
/// Decoding of the truck's J1939 messages.
pub const J1939_DBC: &[u8] = include_bytes!("../recordings/j1939_excerpt.dbc");

const CAR_LOG: &[u8] = include_bytes!("../recordings/car.log.gz");
const TRUCK_LOG: &[u8] = include_bytes!("../recordings/truck.log.gz");

/// A recording; a clone shares the frames.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The frames in their order.
    pub frames: Arc<[CanFrame]>,
    /// The buses that the frames' indices stand for.
    pub buses: Vec<String>,
    /// What its lines were.
    pub lines: LineCounts,
}

impl Recording {
    /// Reads a recording in any format that the agent reads, plain or gzip-compressed. Damaged lines are counted and left out.
    ///
    /// # Errors
    /// A log that cannot be opened or read to its end.
    pub fn read(log: &LogInput) -> io::Result<Self> {
        let mut reader = LogReader::new(log.open()?, BusTable::default());
        let mut frames = Vec::new();
        while let Some(frame) = reader.next_frame()? {
            frames.push(frame);
        }
        let buses = reader.buses().names().to_vec();
        Ok(Self { frames: frames.into(), buses, lines: reader.counts().clone() })
    }

    /// The recording that vehicles of a kind replay: parsed at the first call, a few milliseconds, shared afterwards.
    pub fn of_kind(kind: VehicleKind) -> Self {
        static CAR: LazyLock<Recording> = LazyLock::new(|| Recording::embedded(CAR_LOG));
        static TRUCK: LazyLock<Recording> = LazyLock::new(|| Recording::embedded(TRUCK_LOG));
        match kind {
            VehicleKind::Car => CAR.clone(),
            VehicleKind::Truck => TRUCK.clone(),
        }
    }

    fn embedded(log: &[u8]) -> Self {
        Self::read(&LogInput::Memory(log.into()))
            .expect("a recording of this crate is whole, its tests read it")
    }

    /// The index of a bus; `None` for one that the recording does not have.
    pub fn bus(&self, name: &str) -> Option<BusIndex> {
        let at = self.buses.iter().position(|bus| bus == name)?;
        u8::try_from(at).ok().map(BusIndex)
    }
}

#[cfg(test)]
mod tests;
