//! The lines that `decode` writes.

use std::io::{self, BufWriter, Write};

use convoy_agent_core::decoder::{Decoder, Row};
use convoy_agent_core::diagnosis::FaultList;
use convoy_agent_core::frozen::FrozenFrame;
use convoy_agent_core::listen::Message;
use convoy_protocol::dtc::{Dtc, FreezeFrameHeader};
use convoy_protocol::frame::CanId;

use super::json;

pub(super) struct Lines<'d, W: Write> {
    decoder: &'d Decoder,
    /// By signal: what stands between the id and the value, and after the value.
    texts: Vec<(String, String)>,
    pub(super) out: BufWriter<W>,
}

impl<'d, W: Write> Lines<'d, W> {
    pub(super) fn new(decoder: &'d Decoder, out: BufWriter<W>) -> Self {
        let manifest = decoder.manifest();
        let text = |signal| {
            let signal: &convoy_protocol::manifest::SignalDef = signal;
            let (message, name) = (json(manifest.message_of(signal)), json(&signal.name));
            (
                format!("\"message\":{message},\"signal\":{name},\"value\":"),
                format!(",\"unit\":{}}}\n", json(&signal.unit)),
            )
        };
        Self { decoder, texts: manifest.signals.iter().map(text).collect(), out }
    }

    pub(super) fn samples(&mut self, time_us: i64, bus: &str, id: CanId, row: &Row) -> io::Result<()> {
        let head = head(time_us, bus, id);
        for (index, value) in row.iter() {
            let Some(signal) = self.decoder.manifest().signal(index) else { continue };
            let Some((before, after)) = self.texts.get(index.0 as usize) else { continue };
            self.out.write_all(head.as_bytes())?;
            self.out.write_all(before.as_bytes())?;
            // Not a number and infinity have no JSON form: null.
            serde_json::to_writer(&mut self.out, &value.physical(signal))?;
            self.out.write_all(after.as_bytes())?;
        }
        Ok(())
    }

    pub(super) fn faults(&mut self, time_us: i64, bus: &str, id: CanId, list: &FaultList) -> io::Result<()> {
        let head = head(time_us, bus, id);
        for active in &list.dtcs {
            let (system, whose) = match active.dtc {
                Dtc::J1939 { sa, spn, fmi } => ("j1939", format!(",\"sa\":{sa},\"spn\":{spn},\"fmi\":{fmi}")),
                Dtc::Obd { .. } => ("obd", String::new()),
                Dtc::Uds { .. } => ("uds", String::new()),
            };
            let stage = list.stage.name();
            write!(
                self.out,
                "{head}\"dtc\":\"{}\",\"system\":\"{system}\",\"stage\":\"{stage}\"{whose}",
                active.dtc
            )?;
            if let Some(count) = active.occurrence_count {
                write!(self.out, ",\"occurrence_count\":{count}")?;
            }
            if let Some(status) = active.uds_status {
                write!(self.out, ",\"uds_status\":{status}")?;
            }
            if let Some(lamps) = list.lamps {
                for (name, lamp) in [
                    ("mil_on", lamps.malfunction),
                    ("red_stop_on", lamps.red_stop),
                    ("amber_warning_on", lamps.amber_warning),
                    ("protect_on", lamps.protect),
                ] {
                    if let Some(is_on) = lamp {
                        write!(self.out, ",\"{name}\":{is_on}")?;
                    }
                }
            }
            self.out.write_all(b"}\n")?;
        }
        Ok(())
    }

    /// The values that were frozen with a trouble code, a line each.
    pub(super) fn frozen(&mut self, bus: &str, frame: &FrozenFrame) -> io::Result<()> {
        let FreezeFrameHeader { timestamp_us, dtc, number } = frame.header;
        let head = head(timestamp_us, bus, frame.id);
        for (index, value) in &frame.values {
            let Some(signal) = self.decoder.manifest().signal(*index) else { continue };
            let Some((before, after)) = self.texts.get(index.0 as usize) else { continue };
            write!(self.out, "{head}\"frozen_with\":\"{dtc}\",\"number\":{number},{before}")?;
            serde_json::to_writer(&mut self.out, &value.physical(signal))?;
            self.out.write_all(after.as_bytes())?;
        }
        Ok(())
    }

    pub(super) fn message(&mut self, time_us: i64, bus: &str, message: &Message) -> io::Result<()> {
        let head = head(time_us, bus, message.id());
        match message {
            Message::J1939(message) => {
                let (pgn, sa, da) = (message.pgn.bits(), message.sa, message.da);
                write!(self.out, "{head}\"protocol\":\"j1939\",\"pgn\":{pgn},\"sa\":{sa},\"da\":{da}")?;
            }
            Message::IsoTp(message) => {
                write!(self.out, "{head}\"protocol\":\"isotp\"")?;
                if let Some(address) = message.address {
                    write!(self.out, ",\"address\":{address}")?;
                }
            }
        }
        self.out.write_all(b",\"data\":\"")?;
        message.data().iter().try_for_each(|byte| write!(self.out, "{byte:02x}"))?;
        self.out.write_all(b"\"}\n")
    }
}

fn head(time_us: i64, bus: &str, id: CanId) -> String {
    format!("{{\"t_us\":{time_us},\"bus\":{},\"id\":\"{id}\",", json(bus))
}
