//! Events as customers get them: CloudEvents 1.0 in JSON.
//!
//! The same function renders for queue, feed, webhook and on-demand reads, so that they can never disagree.

use convoy_protocol::columns::{Columns, Group, Values};
use convoy_protocol::dtc::DtcState;
use convoy_protocol::envelope::Header;
use convoy_protocol::manifest::{Manifest, SignalDef};
use serde::ser::{Serialize, SerializeSeq, Serializer};

use crate::ambient::rfc3339;
use crate::bus::{TYPE_ALERT, TYPE_SNAPSHOT, TYPE_TELEMETRY};
use crate::identity::{EventId, InternalEventId};
use crate::snapshot::Grant;

mod trouble_codes;

pub use trouble_codes::diagnostics;
use trouble_codes::{DtcJson, dtc_json};

const SOURCE: &str = "urn:convoy:ingest";

/// What an event is made from, besides its data.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The envelope's header.
    pub header: &'a Header,
    /// By whose right.
    pub grant: &'a Grant,
    /// When the bridge received the envelope, microseconds since the Unix epoch, UTC.
    pub received_us: i64,
    /// The routing snapshot that the grant is from.
    pub snapshot_version: u64,
}

impl Context<'_> {
    /// The delivered id of the envelope's event; `discriminant` tells several events of one envelope apart.
    pub fn event_id(&self, discriminant: &str) -> EventId {
        let entitlement = &self.grant.entitlement;
        entitlement.customer_key.event_id(&InternalEventId::of(
            self.header.vehicle_id,
            self.header.key(),
            &entitlement.subscription_id,
            discriminant,
        ))
    }

    fn in_window(&self, time_us: i64) -> bool {
        (self.grant.from_us..self.grant.to_us).contains(&time_us)
    }
}

/// An event ready to be put on the delivery bus.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// Its delivered id.
    pub id: EventId,
    /// What it is.
    pub detail_type: &'static str,
    /// Samples, changes or alerts in it.
    pub count: u32,
    /// The time of its latest sample, microseconds since the Unix epoch, UTC.
    pub last_us: i64,
    /// The event, JSON.
    pub body: Vec<u8>,
}

#[derive(serde::Serialize)]
struct CloudEvent<'a, D> {
    specversion: &'static str,
    id: &'a EventId,
    source: &'static str,
    r#type: &'static str,
    subject: &'a str,
    time: String,
    recordedtime: String,
    datacontenttype: &'static str,
    data: Data<'a, D>,
}

#[derive(serde::Serialize)]
struct Data<'a, D> {
    subscription: &'a str,
    package: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    lane: &'static str,
    boot: String,
    seq: u64,
    snapshot_version: u64,
    #[serde(flatten)]
    content: D,
}

fn render<D: Serialize>(
    context: &Context<'_>,
    id: &EventId,
    detail_type: &'static str,
    time_us: i64,
    content: D,
) -> Vec<u8> {
    let entitlement = &context.grant.entitlement;
    serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id,
        source: SOURCE,
        r#type: detail_type,
        subject: context.grant.vehicle_ref.as_str(),
        time: rfc3339(time_us),
        recordedtime: rfc3339(context.received_us),
        datacontenttype: "application/json",
        data: Data {
            subscription: entitlement.subscription_id.as_str(),
            package: &entitlement.package,
            label: context.grant.label.as_deref(),
            lane: context.header.lane.as_str(),
            boot: entitlement.customer_key.boot_ref(context.header.vehicle_id, context.header.boot_id),
            seq: context.header.sequence,
            snapshot_version: context.snapshot_version,
            content,
        },
    })
    .expect("an event is plain data")
}

#[derive(serde::Serialize)]
struct Telemetry<'a> {
    samples: u32,
    /// Milliseconds since the Unix epoch that the `dt` count from.
    t0: i64,
    series: Vec<Series<'a>>,
}

#[derive(serde::Serialize)]
struct Series<'a> {
    dt: Dt<'a>,
    signals: Vec<SignalValues<'a>>,
}

/// Milliseconds since `t0`, one a row.
struct Dt<'a> {
    times_us: &'a [i64],
    rows: &'a Rows,
    t0_ms: i64,
}

impl Serialize for Dt<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(None)?;
        for row in self.rows.iter() {
            seq.serialize_element(&(self.times_us[row].div_euclid(1_000) - self.t0_ms))?;
        }
        seq.end()
    }
}

#[derive(serde::Serialize)]
struct SignalValues<'a> {
    path: &'a str,
    unit: &'a str,
    /// The DBC signal behind the path, `EEC1.SPN190_EngineSpeed`.
    signal: String,
    v: Physical<'a>,
}

/// Physical values in the unit of the path, one a row; null where a value is not a finite number.
struct Physical<'a> {
    values: &'a Values,
    def: &'a SignalDef,
    rows: &'a Rows,
}

/// The value of one row at its path; `None` for a text and for what is not a finite number.
pub fn value_at(values: &Values, def: &SignalDef, row: usize) -> Option<f64> {
    let physical = match values {
        Values::Raw(values) => def.physical(values[row]),
        Values::F32(values) => f64::from(values[row]) * def.factor + def.offset,
        Values::F64(values) => values[row] * def.factor + def.offset,
        Values::Bool(values) => f64::from(u8::from(values[row])),
        Values::Text(_) => return None,
    };
    Some(def.at_path(physical)).filter(|value| value.is_finite())
}

impl Serialize for Physical<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(None)?;
        for row in self.rows.iter() {
            match self.values {
                Values::Text(texts) => seq.serialize_element(&texts[row])?,
                values => seq.serialize_element(&Number(value_at(values, self.def, row)))?,
            }
        }
        seq.end()
    }
}

/// A whole number prints without a fraction: `812`, not `812.0`.
struct Number(Option<f64>);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// Integers up to here are exact in a double.
        const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        match self.0 {
            Some(value) if value.fract() == 0.0 && value.abs() < EXACT_MAX => {
                serializer.serialize_i64(value as i64)
            }
            Some(value) => serializer.serialize_f64(value),
            None => serializer.serialize_none(),
        }
    }
}

/// The rows of a group that lie in the grant's window.
enum Rows {
    All(usize),
    Some(Vec<usize>),
}

impl Rows {
    fn of(group: &Group, context: &Context<'_>) -> Self {
        let inside = |time_us: &i64| context.in_window(*time_us);
        if group.times_us.iter().all(inside) {
            return Self::All(group.times_us.len());
        }
        Self::Some((0..group.times_us.len()).filter(|row| inside(&group.times_us[*row])).collect())
    }

    fn len(&self) -> usize {
        match self {
            Self::All(count) => *count,
            Self::Some(rows) => rows.len(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let (all, some) = match self {
            Self::All(count) => (0..*count, [].as_slice()),
            Self::Some(rows) => (0..0, rows.as_slice()),
        };
        all.chain(some.iter().copied())
    }
}

/// The telemetry event of an envelope for one grant; `None` where nothing of it is permitted.
pub fn telemetry(
    context: &Context<'_>,
    manifest: &Manifest,
    columns: &Columns,
    mask: &[bool],
) -> Option<Rendered> {
    series(context, manifest, columns, mask, TYPE_TELEMETRY)
}

/// The event of a snapshot for one grant: the latest value of each signal, which may have been delivered before.
pub fn snapshot(
    context: &Context<'_>,
    manifest: &Manifest,
    columns: &Columns,
    mask: &[bool],
) -> Option<Rendered> {
    series(context, manifest, columns, mask, TYPE_SNAPSHOT)
}

fn series(
    context: &Context<'_>,
    manifest: &Manifest,
    columns: &Columns,
    mask: &[bool],
    detail_type: &'static str,
) -> Option<Rendered> {
    let kept: Vec<(&Group, Rows, Vec<usize>)> = columns
        .groups
        .iter()
        .filter_map(|group| {
            let permitted: Vec<usize> = (0..group.columns.len())
                .filter(|column| mask.get(group.columns[*column].signal.0 as usize) == Some(&true))
                .collect();
            let rows = Rows::of(group, context);
            (rows.len() > 0 && !permitted.is_empty()).then_some((group, rows, permitted))
        })
        .collect();
    let times = || kept.iter().flat_map(|(group, rows, _)| rows.iter().map(|row| group.times_us[row]));
    let (first_us, last_us) = (times().min()?, times().max()?);
    let t0_ms = first_us.div_euclid(1_000);
    let count: usize = kept.iter().map(|(_, rows, columns)| rows.len() * columns.len()).sum();
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let series = kept
        .iter()
        .map(|(group, rows, permitted)| Series {
            dt: Dt { times_us: &group.times_us, rows, t0_ms },
            signals: permitted
                .iter()
                .filter_map(|column| {
                    let column = &group.columns[*column];
                    let def = manifest.signal(column.signal)?;
                    Some(SignalValues {
                        path: &def.path,
                        unit: &def.path_unit,
                        signal: format!("{}.{}", manifest.message_of(def), def.name),
                        v: Physical { values: &column.values, def, rows },
                    })
                })
                .collect(),
        })
        .collect();
    let id = context.event_id(if detail_type == TYPE_SNAPSHOT { "snapshot" } else { "" });
    let content = Telemetry { samples: count, t0: t0_ms, series };
    let body = render(context, &id, detail_type, first_us, content);
    Some(Rendered { id, detail_type, count, last_us, body })
}

/// What an alert is about.
#[derive(Debug, Clone, Copy)]
pub enum AlertCause<'a> {
    /// A trouble code was opened.
    DtcOpened(&'a DtcState),
    /// A signal crossed a threshold.
    Threshold {
        /// The rule.
        rule: &'a crate::reference::Threshold,
        /// The first value on the other side, in the unit of the path.
        value: f64,
        /// Unit of the path.
        unit: &'a str,
        /// When it was sampled, microseconds since the Unix epoch, UTC.
        sampled_us: i64,
    },
    /// The vehicle does not say that it collects what it should.
    CampaignsNotReported {
        /// When its campaigns changed, microseconds since the Unix epoch, UTC.
        changed_us: i64,
        /// When that had been too long ago.
        raised_us: i64,
    },
}

impl AlertCause<'_> {
    /// When it happened, microseconds since the Unix epoch, UTC.
    pub const fn time_us(&self) -> i64 {
        match self {
            Self::DtcOpened(record) => record.timestamp_us,
            Self::Threshold { sampled_us, .. } => *sampled_us,
            Self::CampaignsNotReported { raised_us, .. } => *raised_us,
        }
    }
}

/// An alert; `None` where it lies outside the grant's window. `condition` is the key of the condition that opened.
pub fn alert(context: &Context<'_>, condition: &str, cause: AlertCause<'_>) -> Option<Rendered> {
    #[derive(serde::Serialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Alert<'a> {
        DtcOpened {
            dtc: DtcJson,
        },
        ThresholdCrossed {
            path: &'a str,
            unit: &'a str,
            side: crate::reference::ThresholdSide,
            limit: f64,
            value: Number,
        },
        CampaignsNotReported {
            /// RFC 3339.
            changed: String,
        },
    }
    #[derive(serde::Serialize)]
    struct Content<'a> {
        severity: &'static str,
        alert: Alert<'a>,
    }
    let time_us = cause.time_us();
    if !context.in_window(time_us) {
        return None;
    }
    let alert = match cause {
        AlertCause::DtcOpened(record) => Alert::DtcOpened { dtc: dtc_json(record) },
        AlertCause::Threshold { rule, value, unit, .. } => Alert::ThresholdCrossed {
            path: &rule.path,
            unit,
            side: rule.side,
            limit: rule.limit,
            value: Number(Some(value)),
        },
        AlertCause::CampaignsNotReported { changed_us, .. } => {
            Alert::CampaignsNotReported { changed: rfc3339(changed_us) }
        }
    };
    // The envelope, which stands for the version that was not reported, tells these apart.
    let at_us = if matches!(cause, AlertCause::CampaignsNotReported { .. }) { 0 } else { time_us };
    let id = context.event_id(&format!("alert/{condition}/{at_us}"));
    let body = render(context, &id, TYPE_ALERT, time_us, Content { severity: "warning", alert });
    Some(Rendered { id, detail_type: TYPE_ALERT, count: 1, last_us: time_us, body })
}
