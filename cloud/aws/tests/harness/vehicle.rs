//! A vehicle's envelopes, as an agent makes them.
#![allow(dead_code, reason = "each suite uses a part")]

use convoy_cloud_core::record::{PartitionKey, Record};
use convoy_protocol::columns::{Column, Columns, Group, Values};
use convoy_protocol::envelope::{EnvelopeWriter, Header, SectionKind};
use convoy_protocol::id::{BootId, EnvelopeKey, Lane, VehicleId};
use convoy_protocol::manifest::{Manifest, SignalDef, SignalIndex};
use convoy_protocol::time::{ClockQuality, TimeUnit};

/// When its first sample was taken: 2026-11-24T00:00:00Z.
pub(crate) const START_US: i64 = 1_795_478_400_000_000;
/// Between one envelope and the next.
const PERIOD_US: i64 = 1_000_000;

/// How a vehicle's signal goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Course {
    /// Neighbours have nothing in common, so that samples stay as long as they are: nine bytes each.
    Wild,
    /// As signals do: two or three bytes each.
    Smooth,
}

/// A vehicle that sends in the bulk lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vehicle {
    pub(crate) id: VehicleId,
    /// Samples in an envelope.
    pub(crate) samples: usize,
    /// What a sample takes, about.
    pub(crate) course: Course,
}

impl Vehicle {
    /// With small envelopes.
    pub(crate) fn new(number: u8) -> Self {
        Self { id: VehicleId([number; 16]), samples: 2, course: Course::Wild }
    }

    /// The identity of an envelope.
    pub(crate) fn key(&self, sequence: u64) -> EnvelopeKey {
        EnvelopeKey { boot_id: BootId { counter: 1, spool: 9 }, lane: Lane::Bulk, sequence }
    }

    /// What calls to DynamoDB that put this envelope, and no others, have in their bodies.
    pub(crate) fn sort_key_end(&self, sequence: u64) -> String {
        format!("#{sequence:016x}\"")
    }

    /// What calls to DynamoDB that concern the ledger, and no others, have in their bodies.
    pub(crate) fn ledger_key(&self) -> String {
        format!("L#{}\"", self.key(0).boot_id)
    }

    /// An envelope as the bridge received it. The first one brings the manifest for all.
    pub(crate) fn record(&self, sequence: u64) -> Record {
        let payload = self.envelope(sequence);
        Record {
            partition_key: PartitionKey { version: 1, hash: self.id.0 },
            vehicle_id: self.id,
            lane: Lane::Bulk,
            received_us: time_us(sequence) + 99,
            payload,
        }
    }

    /// Envelopes from this sequence to before that one, in the encoding of the stream.
    pub(crate) fn encoded(&self, from: u64, to: u64) -> Vec<Vec<u8>> {
        (from..to).map(|sequence| self.record(sequence).encode()).collect()
    }

    fn envelope(&self, sequence: u64) -> Vec<u8> {
        let (manifest, key, base_us) = (self.manifest(), self.key(sequence), time_us(sequence));
        let mut writer = EnvelopeWriter::new(&Header {
            vehicle_id: self.id,
            boot_id: key.boot_id,
            lane: key.lane,
            sequence,
            base_us,
            monotonic_offset_us: 0,
            clock: ClockQuality::Ntp,
            manifest_id: Some(manifest.id()),
            campaign_id: None,
        });
        if sequence == 0 {
            writer.plain(SectionKind::Manifest, &manifest.encode());
        }
        let value = |row: i64| match self.course {
            Course::Wild => (sequence as i64 + row).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as i64),
            Course::Smooth => (sequence as i64 + row * row * 37) % 1_000,
        };
        let rows = 0..self.samples as i64;
        let values = Values::Raw(rows.clone().map(value).collect());
        let column = Column { signal: SignalIndex(0), values };
        let group = Group { times_us: rows.map(|row| base_us + row).collect(), columns: vec![column] };
        let columns = Columns { groups: vec![group] };
        writer.plain(SectionKind::Samples, &columns.encode(base_us, TimeUnit::Microseconds));
        writer.finish().unwrap()
    }

    /// One of its own, so that none is known from another vehicle.
    fn manifest(&self) -> Manifest {
        let signal = SignalDef {
            message: 0,
            name: format!("Speed{}", self.id.0[0]),
            unit: "km/h".into(),
            factor: 1.0,
            offset: 0.0,
            path: "Vehicle.Speed".into(),
            path_unit: "km/h".into(),
            path_factor: 1.0,
            path_offset: 0.0,
        };
        Manifest { messages: vec!["CCVS1".into()], signals: vec![signal] }
    }
}

fn time_us(sequence: u64) -> i64 {
    START_US + sequence as i64 * PERIOD_US
}
