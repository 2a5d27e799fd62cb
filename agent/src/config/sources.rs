//! `[[source]]` and `[[poll]]`: adapters, sockets and receivers, and what is asked on their buses.

use convoy_agent_core::hex;
use convoy_agent_core::nmea::GNSS_DBC;
use convoy_agent_core::obd;
use convoy_agent_core::poll::{PollOptions, PollRequest, REQUESTS_MAX};
use convoy_protocol::frame::{BusIndex, CanId};

use super::DbcFile;
use super::toml_reader::{Faults, Found, Section};
use crate::live::{LiveOptions, LiveUrl};

/// Sources at most.
const SOURCES_MAX: usize = 16;
/// An ELM adapter shows no traffic: the generator tells whether the vehicle is awake.
const ELM_VOLTAGE_MIN_V: f64 = 13.0;
const FRAMES_PER_S_MAX: u64 = 20;
const QUIET_AFTER_MS: u64 = 5_000;

/// Every `[[source]]` with what is asked on it.
pub(super) fn live(root: &mut Section<'_>, faults: &mut Faults<'_>) -> Vec<LiveOptions> {
    let mut sources: Vec<LiveOptions> = Vec::new();
    for mut section in root.sections("source", faults) {
        let url = section.required("url", "\"socketcan:can0\"", faults);
        let bus = section.string("bus", faults);
        section.finish(faults);
        let Some(url) = url else { continue };
        let parsed: LiveUrl = match url.value.parse() {
            Ok(parsed) => parsed,
            Err(error) => {
                url.refuse(faults, error);
                continue;
            }
        };
        let name = bus.as_ref().map_or_else(|| parsed.bus(), |bus| bus.value.clone());
        if sources.iter().any(|source| source.bus == name) {
            url.refuse(
                faults,
                format!("there is a source for bus {name} already: give it another name with bus = \"...\""),
            );
        } else if sources.len() >= SOURCES_MAX {
            url.refuse(faults, format!("there are {SOURCES_MAX} sources already"));
        } else {
            sources.push(LiveOptions { url: parsed, bus: name, poll: None });
        }
    }
    polls(root, &mut sources, faults);
    for source in &sources {
        // Looking for the protocol, the adapter would send requests.
        if source.poll.is_none() && matches!(source.url, LiveUrl::Elm { protocol: '0', .. }) {
            let url = &source.url;
            faults.add(None, format!("source {url}: an adapter that only listens must be told the protocol: add ?protocol=6 (11 bits, 500 kbit/s) or another, or a [[poll]]"));
        }
    }
    sources
}

fn polls(root: &mut Section<'_>, sources: &mut [LiveOptions], faults: &mut Faults<'_>) {
    for mut section in root.sections("poll", faults) {
        let bus = section.required("bus", "\"can0\"", faults);
        let at = bus.as_ref().and_then(|bus| sources.iter().position(|source| source.bus == bus.value));
        let is_elm = at.is_some_and(|at| matches!(sources[at].url, LiveUrl::Elm { .. }));
        let options =
            poll(&mut section, BusIndex(u8::try_from(at.unwrap_or(0)).unwrap_or(0)), is_elm, faults);
        section.finish(faults);
        match (bus, at) {
            (Some(bus), None) => bus.refuse(faults, "there is no [[source]] with this bus"),
            (Some(bus), Some(at)) if !sources[at].url.can_ask() => {
                bus.refuse(faults, "nothing can be asked of a receiver")
            }
            (Some(bus), Some(at)) if sources[at].poll.is_some() => {
                bus.refuse(faults, "there is a [[poll]] for this bus already")
            }
            (Some(_), Some(at)) => sources[at].poll = Some(options),
            (None, _) => {}
        }
    }
}

fn poll(section: &mut Section<'_>, bus: BusIndex, is_elm: bool, faults: &mut Faults<'_>) -> PollOptions {
    let mut period = |key, faults: &mut Faults<'_>| section.integer(key, 10..=86_400_000, faults).map(us);
    let obd_period_us = period("obd_period_ms", faults);
    let trouble_codes_period_us = period("trouble_codes_period_ms", faults);
    let frames = section.integer("frames_per_s_max", 1..=500, faults).unwrap_or(FRAMES_PER_S_MAX);
    let quiet_after_us =
        us(section.integer("quiet_after_ms", 100..=600_000, faults).unwrap_or(QUIET_AFTER_MS));
    let voltage_min_v = section.number("voltage_min_v", faults).or(is_elm.then_some(ELM_VOLTAGE_MIN_V));
    let only_on_traffic = section.boolean("only_on_traffic", faults).unwrap_or(true);
    let requests = section.sections("requests", faults);
    let requests =
        requests.into_iter().filter_map(|request| poll_request(request, faults)).collect::<Vec<_>>();
    if requests.len() > REQUESTS_MAX {
        faults.add(
            None,
            format!("poll.requests has {} entries, at most {REQUESTS_MAX} are allowed", requests.len()),
        );
    }
    PollOptions {
        bus,
        frames_per_s_max: u32::try_from(frames).unwrap_or(u32::MAX),
        quiet_after_us,
        voltage_min_v,
        only_on_traffic,
        obd_period_us,
        trouble_codes_period_us,
        requests,
        by_adapter: is_elm,
    }
}

fn poll_request(mut section: Section<'_>, faults: &mut Faults<'_>) -> Option<PollRequest> {
    let id = section.string("id", faults);
    let answers_on = section.string("answers_on", faults);
    let data = section.required("data", "\"010C\"", faults);
    let period_us = us(section.integer("period_ms", 10..=86_400_000, faults).unwrap_or(1_000));
    section.finish(faults);
    let mut can_id = |found: Found<String>| match read_id(&found.value) {
        Some(id) => Some(id),
        None => {
            found.refuse(faults, "expected a CAN id of 3 or 8 hex digits");
            None
        }
    };
    // Every ECU, by ISO 15765-4.
    let id = id.map_or(Some(CanId::Standard(0x7DF)), &mut can_id)?;
    let answers_on = match answers_on {
        Some(found) => Some(can_id(found)?),
        None => None,
    };
    let data = data?;
    let payload = hex::bytes(&data.value).filter(|payload| (1..=7).contains(&payload.len()));
    if payload.is_none() {
        data.refuse(faults, "expected 1 to 7 bytes in hex digits: service and parameters");
    }
    Some(PollRequest { id, answers_on, payload: payload?, period_us })
}

fn us(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1_000)
}

fn read_id(text: &str) -> Option<CanId> {
    let bits = u32::from_str_radix(text, 16).ok()?;
    match (text.len(), u16::try_from(bits)) {
        (3, Ok(id)) if id <= CanId::STANDARD_MAX => Some(CanId::Standard(id)),
        (8, _) if bits <= CanId::EXTENDED_MAX => Some(CanId::Extended(bits)),
        _ => None,
    }
}

/// What ships with the agent for these sources: a receiver's frames, and OBD-II where it is asked for. Files come first.
pub(super) fn built_in(sources: &[LiveOptions]) -> Vec<DbcFile> {
    let mut files = Vec::new();
    for source in sources {
        let bus = Some(source.bus.clone());
        if matches!(source.url, LiveUrl::Gnss(_)) {
            files.push(DbcFile { name: "NMEA 0183 (built in)".into(), bytes: GNSS_DBC.into(), bus });
        } else if source.poll.is_some() {
            files.push(DbcFile { name: "OBD-II (built in)".into(), bytes: obd::signal_set(), bus });
        }
    }
    files
}
