//! Events about trouble codes.

use convoy_protocol::columns::{Column, Columns, Group};
use convoy_protocol::dtc::{Dtc, DtcChange, DtcStage, DtcState, ExtendedData, FreezeFrameHeader};
use convoy_protocol::manifest::{Manifest, SignalIndex};

use super::{Context, Number, Rendered, render, value_at};
use crate::ambient::rfc3339;
use crate::bus::{TYPE_DTC, TYPE_DTC_FROZEN};
use crate::dtc_texts::description;
use crate::enrich::Content;

/// A code, as every event tells it.
#[derive(serde::Serialize)]
struct CodeJson {
    #[serde(flatten)]
    fields: DtcFields,
    /// `SPN 980 FMI 9` or `P0301`.
    text: String,
    /// What it means, where it is a standard code.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'static str>,
}

#[derive(serde::Serialize)]
#[serde(tag = "system", rename_all = "snake_case")]
enum DtcFields {
    J1939 { sa: u8, spn: u32, fmi: u8 },
    Obd { ecu: String, code: String },
    Uds { ecu: String, code: String },
}

fn code_json(dtc: Dtc) -> CodeJson {
    let (ecu, code) = (|ecu: u32| format!("0x{ecu:03X}"), dtc.to_string());
    let fields = match dtc {
        Dtc::J1939 { sa, spn, fmi } => DtcFields::J1939 { sa, spn, fmi },
        Dtc::Obd { ecu: id, .. } => DtcFields::Obd { ecu: ecu(id), code },
        Dtc::Uds { ecu: id, .. } => DtcFields::Uds { ecu: ecu(id), code },
    };
    CodeJson { fields, text: dtc.to_string(), description: description(dtc) }
}

#[derive(serde::Serialize)]
pub(super) struct DtcJson {
    #[serde(flatten)]
    code: CodeJson,
    stage: DtcStage,
    change: DtcChange,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurrence_count: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mil_on: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    red_stop_on: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amber_warning_on: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protect_on: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uds_status: Option<u8>,
}

pub(super) fn dtc_json(state: &DtcState) -> DtcJson {
    let lamps = state.lamps.unwrap_or_default();
    DtcJson {
        code: code_json(state.dtc),
        stage: state.stage,
        change: state.change,
        time: rfc3339(state.timestamp_us),
        occurrence_count: state.occurrence_count,
        mil_on: lamps.malfunction,
        red_stop_on: lamps.red_stop,
        amber_warning_on: lamps.amber_warning,
        protect_on: lamps.protect,
        uds_status: state.uds_status,
    }
}

/// The events about trouble codes of an envelope for one grant that has diagnostics; `masked` is its manifest and the
/// signals that the grant permits.
///
/// A freeze frame of OBD-II comes whole but for positions, which no parameter of SAE J1979 tells, and a file may all the same:
/// what is in it is what the law has there for whoever mends the vehicle. The snapshots of UDS hold what the maker likes: of
/// them comes what the grant permits.
pub fn diagnostics<'a>(
    context: &'a Context<'_>,
    masked: Option<(&'a Manifest, &'a [bool])>,
    content: &'a Content,
) -> impl Iterator<Item = Rendered> + use<'a> {
    dtc_changes(context, &content.dtcs).into_iter().chain(frozen(context, masked, content))
}

/// What happened to trouble codes, as telemetry; `None` where nothing is in the grant's window.
fn dtc_changes(context: &Context<'_>, states: &[DtcState]) -> Option<Rendered> {
    #[derive(serde::Serialize)]
    struct Changes {
        changes: Vec<DtcJson>,
    }
    let kept: Vec<_> = states.iter().filter(|state| context.in_window(state.timestamp_us)).collect();
    let times = || kept.iter().map(|state| state.timestamp_us);
    let (first_us, last_us) = (times().min()?, times().max()?);
    let id = context.event_id("dtc");
    let changes = Changes { changes: kept.iter().map(|state| dtc_json(state)).collect() };
    let body = render(context, &id, TYPE_DTC, first_us, changes);
    let count = u32::try_from(kept.len()).unwrap_or(u32::MAX);
    Some(Rendered { id, detail_type: TYPE_DTC, count, last_us, body })
}

#[derive(serde::Serialize)]
struct FrozenJson<'a> {
    frames: Vec<FrameJson<'a>>,
    extended_data: Vec<ExtendedJson>,
}

#[derive(serde::Serialize)]
struct FrameJson<'a> {
    #[serde(flatten)]
    code: CodeJson,
    number: u8,
    /// When it was read; the values are older.
    time: String,
    signals: Vec<FrozenValue<'a>>,
}

#[derive(serde::Serialize)]
struct FrozenValue<'a> {
    path: &'a str,
    unit: &'a str,
    /// The DBC signal behind the path.
    signal: String,
    v: Number,
}

#[derive(serde::Serialize)]
struct ExtendedJson {
    #[serde(flatten)]
    code: CodeJson,
    time: String,
    uds_status: u8,
    /// Hexadecimal digits: numbers of records and their bytes, as the controller's maker says.
    records: String,
}

/// What controllers kept with their trouble codes; `None` where nothing of it is permitted.
fn frozen(
    context: &Context<'_>,
    masked: Option<(&Manifest, &[bool])>,
    content: &Content,
) -> Option<Rendered> {
    let is_inside = |time_us: i64| context.in_window(time_us);
    let in_window = content.frozen.iter().filter(|(header, _)| is_inside(header.timestamp_us));
    let kept: Vec<(&FreezeFrameHeader, Vec<FrozenValue<'_>>)> = in_window
        .filter_map(|(header, columns)| {
            let (manifest, mask) = masked?;
            let is_obd = matches!(header.dtc, Dtc::Obd { .. });
            let is_permitted = |signal: SignalIndex| {
                mask.get(signal.0 as usize).is_some_and(|permitted| *permitted)
                    || is_obd && manifest.signal(signal).is_some_and(|def| !tells_position(&def.path))
            };
            let values = frozen_values(manifest, is_permitted, columns);
            (!values.is_empty()).then_some((header, values))
        })
        .collect();
    let extended: Vec<&ExtendedData> =
        content.extended_data.iter().filter(|data| is_inside(data.timestamp_us)).collect();
    let times = || {
        let frames = kept.iter().map(|(header, _)| header.timestamp_us);
        frames.chain(extended.iter().map(|data| data.timestamp_us))
    };
    let (first_us, last_us) = (times().min()?, times().max()?);
    let values: usize = kept.iter().map(|(_, values)| values.len()).sum();
    let count = u32::try_from(values + extended.len()).unwrap_or(u32::MAX);
    let frame = |(header, signals): (&FreezeFrameHeader, _)| FrameJson {
        code: code_json(header.dtc),
        number: header.number,
        time: rfc3339(header.timestamp_us),
        signals,
    };
    let data = |data: &ExtendedData| ExtendedJson {
        code: code_json(data.dtc),
        time: rfc3339(data.timestamp_us),
        uds_status: data.uds_status,
        records: data.records.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let json = FrozenJson {
        extended_data: extended.into_iter().map(data).collect(),
        frames: kept.into_iter().map(frame).collect(),
    };
    let id = context.event_id("dtc/frozen");
    let body = render(context, &id, TYPE_DTC_FROZEN, first_us, json);
    Some(Rendered { id, detail_type: TYPE_DTC_FROZEN, count, last_us, body })
}

/// Is it a path of a position, or of a receiver's message without a place in VSS?
fn tells_position(path: &str) -> bool {
    ["Vehicle.CurrentLocation", "Vehicle.Private.gnss"].iter().any(|begin| path.starts_with(begin))
}

/// The first row of each permitted signal.
fn frozen_values<'a>(
    manifest: &'a Manifest,
    is_permitted: impl Fn(SignalIndex) -> bool,
    columns: &Columns,
) -> Vec<FrozenValue<'a>> {
    let of_group = |group: &Group| {
        let permitted = group.columns.iter().filter(|column| is_permitted(column.signal));
        let value = |column: &Column| {
            let def = manifest.signal(column.signal)?;
            Some(FrozenValue {
                path: &def.path,
                unit: &def.path_unit,
                signal: format!("{}.{}", manifest.message_of(def), def.name),
                v: Number((!group.times_us.is_empty()).then(|| value_at(&column.values, def, 0)).flatten()),
            })
        };
        permitted.filter_map(value).collect::<Vec<_>>()
    };
    columns.groups.iter().flat_map(of_group).collect()
}
