//! `decode --stats`: one object that sums a recording up.
//!
//! `signals` has count, least, most, first, last and mean of every signal as `Message.Signal`, in the DBC's unit; `isotp` and
//! `tp` count the messages of the transport protocols by sender, service and length; `dtcs` the trouble codes.

use std::collections::BTreeMap;
use std::io::{self, Write};

use convoy_agent_core::decoder::{Decoder, Outcome, Row};
use convoy_agent_core::diagnosis::FaultList;
use convoy_agent_core::listen::{Listener, Message};
use convoy_protocol::frame::CanId;
use serde::Serialize;

use super::DecodeSummary;
use crate::log::LineCounts;

/// Different senders, services and lengths that are counted at most; the rest is summed up as `other`.
const KINDS_MAX: usize = 4_096;
/// Bytes of a first message that are shown.
const FIRST_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, Copy, Serialize)]
struct SignalStats {
    count: u64,
    min: f64,
    max: f64,
    first: f64,
    last: f64,
    mean: f64,
    #[serde(skip)]
    sum: f64,
}

#[derive(Debug, Default, Serialize)]
struct Kind {
    count: u64,
    first_hex: String,
}

pub(super) struct Stats<'d> {
    decoder: &'d Decoder,
    signals: Vec<Option<SignalStats>>,
    messages: BTreeMap<String, u64>,
    decoded: u64,
    isotp: BTreeMap<String, Kind>,
    tp: BTreeMap<String, Kind>,
    dtcs: BTreeMap<String, u64>,
    fault_lists: u64,
}

#[derive(Serialize)]
struct Summary<'s> {
    frames_total: u64,
    frames_decoded: u64,
    frames_unknown: u64,
    frames_short: u64,
    mux_unmatched: u64,
    not_available: u64,
    lines_damaged: u64,
    remote_frames: u64,
    error_frames: u64,
    signal_values: u64,
    messages: &'s BTreeMap<String, u64>,
    signals: BTreeMap<String, SignalStats>,
    isotp: Transport<'s>,
    tp: Transport<'s>,
    fault_lists: u64,
    frozen_frames: u64,
    dtcs: &'s BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Transport<'s> {
    messages: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    multi_frame: Option<u64>,
    orphans: u64,
    aborted: u64,
    malformed: u64,
    open_at_end: usize,
    kinds: &'s BTreeMap<String, Kind>,
}

impl<'d> Stats<'d> {
    pub(super) fn new(decoder: &'d Decoder) -> Self {
        Self {
            decoder,
            signals: vec![None; decoder.manifest().signals.len()],
            messages: BTreeMap::new(),
            decoded: 0,
            isotp: BTreeMap::new(),
            tp: BTreeMap::new(),
            dtcs: BTreeMap::new(),
            fault_lists: 0,
        }
    }

    pub(super) fn row(&mut self, outcome: Outcome, row: &Row) {
        if !outcome.has_row() {
            return;
        }
        self.decoded += 1;
        let manifest = self.decoder.manifest();
        let mut message = None;
        for (index, value) in row.iter() {
            let (Some(def), Some(slot)) = (manifest.signal(index), self.signals.get_mut(index.0 as usize))
            else {
                continue;
            };
            message = Some(def.message);
            let value = value.physical(def);
            let one = SignalStats {
                count: 0,
                min: value,
                max: value,
                first: value,
                last: value,
                mean: value,
                sum: 0.0,
            };
            let stats = slot.get_or_insert(one);
            stats.count += 1;
            stats.sum += value;
            stats.min = stats.min.min(value);
            stats.max = stats.max.max(value);
            stats.last = value;
            stats.mean = stats.sum / stats.count as f64;
        }
        if let Some(name) = message.and_then(|message| manifest.messages.get(message as usize)) {
            match self.messages.get_mut(name) {
                Some(count) => *count += 1,
                None => *self.messages.entry(name.clone()).or_default() += 1,
            }
        }
    }

    pub(super) fn message(&mut self, message: &Message) {
        let (data, (kinds, key)) = (
            message.data(),
            match message {
                Message::IsoTp(message) => {
                    let id = match message.id {
                        CanId::Standard(id) => format!("{id:03X}"),
                        CanId::Extended(id) => format!("{id:08X}"),
                    };
                    let data = message.data();
                    let service = data.first().copied().unwrap_or(0);
                    (&mut self.isotp, format!("{id}|SID {service:02X}|len {}", data.len()))
                }
                Message::J1939(message) => {
                    let kind = if message.da == 0xFF { "BAM" } else { "RTS" };
                    let (pgn, sa, da) = (message.pgn.bits(), message.sa, message.da);
                    (&mut self.tp, format!("{pgn}|{sa:02X}->{da:02X}|{kind}|{}", message.data.len()))
                }
            },
        );
        let is_full = kinds.len() >= KINDS_MAX && !kinds.contains_key(&key);
        let kind = kinds.entry(if is_full { "other".to_owned() } else { key }).or_default();
        kind.count += 1;
        if kind.count == 1 {
            kind.first_hex = data.iter().take(FIRST_BYTES_MAX).map(|byte| format!("{byte:02x}")).collect();
        }
    }

    pub(super) fn faults(&mut self, list: &FaultList) {
        self.fault_lists += 1;
        for active in &list.dtcs {
            let from = match active.dtc {
                convoy_protocol::dtc::Dtc::J1939 { sa, .. } => format!("sa {sa}"),
                convoy_protocol::dtc::Dtc::Obd { ecu, .. } | convoy_protocol::dtc::Dtc::Uds { ecu, .. } => {
                    format!("ecu {ecu:X}")
                }
            };
            *self.dtcs.entry(format!("{}|{from}|{}", active.dtc, list.stage.name())).or_default() += 1;
        }
    }

    pub(super) fn write(
        &self,
        summary: &DecodeSummary,
        lines: &LineCounts,
        listener: &Listener,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let manifest = self.decoder.manifest();
        let name =
            |def: &convoy_protocol::manifest::SignalDef| format!("{}.{}", manifest.message_of(def), def.name);
        let signals = manifest.signals.iter().zip(&self.signals);
        let (isotp, tp, open) = (listener.isotp_counters(), listener.tp_counters(), listener.open());
        let all = Summary {
            frames_total: lines.frames,
            frames_decoded: self.decoded,
            frames_unknown: summary.unknown,
            frames_short: summary.short,
            mux_unmatched: summary.undecodable,
            not_available: summary.not_available,
            lines_damaged: lines.damaged,
            remote_frames: lines.remote,
            error_frames: lines.error_frames,
            signal_values: summary.samples,
            messages: &self.messages,
            signals: signals.filter_map(|(def, stats)| Some((name(def), (*stats)?))).collect(),
            isotp: Transport {
                messages: isotp.messages,
                multi_frame: Some(isotp.multi_frame),
                orphans: isotp.orphans,
                aborted: isotp.aborted,
                malformed: isotp.malformed,
                open_at_end: open.0,
                kinds: &self.isotp,
            },
            tp: Transport {
                messages: tp.messages,
                multi_frame: None,
                orphans: tp.orphans,
                aborted: tp.aborted,
                malformed: tp.malformed,
                open_at_end: open.1,
                kinds: &self.tp,
            },
            fault_lists: self.fault_lists,
            frozen_frames: summary.frozen_frames,
            dtcs: &self.dtcs,
        };
        serde_json::to_writer_pretty(&mut *out, &all)?;
        out.write_all(b"\n")
    }
}
