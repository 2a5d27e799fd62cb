//! DBC files to a [`Decoder`] and the manifest that explains its values.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};

use can_dbc::{
    AttributeDefinition, AttributeValue, AttributeValueType, ByteOrder, Dbc, MessageId, MultiplexIndicator,
    SignalExtendedValueType, ValueType,
};
use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use convoy_protocol::frame::{BusIndex, CanId};
use convoy_protocol::manifest::{MANIFEST_SIGNALS_MAX, Manifest, SignalDef, SignalIndex};

use crate::decoder::{Answer, CLASSIC_BYTES_MAX, Decoder, IdTable, Message};
use crate::filters::IdFilter;
use crate::gateway::manifest_fits;
use crate::j1939::{J1939Id, TP_MESSAGE_BYTES_MAX};
use crate::multiplex::{Bits, Field, FieldKind, Layout, LayoutError, Placed};
use crate::signal_set::{self, Command};
use crate::vss::VssMap;

/// Signals of one message at most; the rest is left out with a warning.
pub const MESSAGE_SIGNALS_MAX: usize = 4_096;
/// Source address of messages that stand for every sender, as J1939 DBCs write it.
const SA_PLACEHOLDER: u8 = 0xFE;
/// Where DBC editors keep signals that belong to no message.
const UNASSIGNED: &str = "VECTOR__INDEPENDENT_SIG_MSG";

/// One DBC file, or a signal set ([`crate::signal_set`]), told apart by its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DbcSource {
    /// Its name, for messages to people.
    pub name: String,
    /// Its content, UTF-8 or Windows-1252.
    pub bytes: Vec<u8>,
    /// The bus it describes; `None`: every bus, after what is described for the bus itself.
    pub bus: Option<BusIndex>,
}

/// Why no decoder can be made of the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DbcError {
    /// The file is not a signal set.
    #[error("{file}: not a signal set that can be read: {reason}")]
    SignalSet {
        /// The file's name.
        file: String,
        /// What is wrong, with line and column or the command.
        reason: String,
    },
    /// The file is not a DBC.
    #[error("{file}: not a DBC file that can be read: {reason}")]
    Parse {
        /// The file's name.
        file: String,
        /// What the parser says, with line and column where it knows them.
        reason: String,
    },
    /// More signals than a manifest holds.
    #[error("{file}: the files have more than {MANIFEST_SIGNALS_MAX} signals in all")]
    TooManySignals {
        /// The file with which the limit is passed.
        file: String,
    },
    /// The manifest of all files does not fit an envelope, so the cloud could never read the values.
    #[error("the description of {signals} signals does not fit an envelope of {ENVELOPE_BYTES_MAX} bytes")]
    ManifestTooLarge {
        /// Number of signals.
        signals: usize,
    },
}

/// Something in a DBC that is left out or taken another way; the rest of the file is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DbcWarning {
    /// The file's name.
    pub file: String,
    /// The message's name.
    pub message: String,
    /// The signal's name; `None` where it is about the message.
    pub signal: Option<String>,
    /// What is wrong and what was done.
    pub reason: WarningReason,
}

/// `j1939.dbc: EEC1.EngineSpeed: ...`
impl std::fmt::Display for DbcWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.file, self.message)?;
        if let Some(signal) = &self.signal {
            write!(f, ".{signal}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// What is wrong with a message or signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WarningReason {
    /// The signal ends outside its message.
    #[error("it does not fit the message; left out")]
    OutsideMessage,
    /// A size that its value type cannot have.
    #[error("{0} bits are not a size it can have; left out")]
    Size(u64),
    /// Longer than any transport protocol carries.
    #[error("message of {0} bytes, at most {TP_MESSAGE_BYTES_MAX} can be decoded; left out")]
    MessageTooLong(u64),
    /// More than [`MESSAGE_SIGNALS_MAX`] signals.
    #[error("more than {MESSAGE_SIGNALS_MAX} signals; the rest left out")]
    TooManySignals,
    /// The id, or the PGN, belongs to an earlier message.
    #[error("an earlier message has the same id or PGN; left out")]
    DuplicateId,
    /// An 11-bit id above 0x7FF.
    #[error("id {0:#x} is not an 11-bit id and not marked as extended; left out")]
    Id(u16),
    /// The multiplexer that selects the signal is not in the message.
    #[error("its multiplexer is not in the message; left out")]
    NoMultiplexer,
    /// Its multiplexers select each other.
    #[error("its multiplexers select each other; left out")]
    CircularMultiplexer,
    /// Too many levels or too many overlapping ranges.
    #[error("multiplexed too deeply or too widely; message left out")]
    MultiplexTooLarge,
    /// Another signal is the source of the same VSS path.
    #[error("{path} already comes from {source_signal}; kept under Vehicle.Private")]
    PathTaken {
        /// The VSS path.
        path: String,
        /// `Message.Signal` of its source.
        source_signal: String,
    },
    /// A signal name that the message has already.
    #[error("the message has a signal of this name already; left out")]
    DuplicateSignal,
    /// A factor or offset that is not finite.
    #[error("factor or offset is not a finite number; left out")]
    Scale,
}

/// Builds a decoder from DBC files; where they contradict each other, the first one wins.
///
/// J1939 messages (source address 0xFE, or attribute `VFrameFormat` = `J1939PG`, or `ProtocolType` = `J1939`) match
/// by PGN; all others by their whole id, which comes first.
pub fn load(sources: &[DbcSource], vss: &VssMap) -> Result<(Decoder, Vec<DbcWarning>), DbcError> {
    let mut loader = Loader::new(sources, vss);
    // A bus's own files come before those of every bus, so that "the first wins" prefers them.
    for source in sources.iter().filter(|source| source.bus.is_some()) {
        loader.add(source)?;
    }
    for source in sources.iter().filter(|source| source.bus.is_none()) {
        loader.add(source)?;
    }
    if !manifest_fits(&loader.manifest) {
        return Err(DbcError::ManifestTooLarge { signals: loader.manifest.signals.len() });
    }
    let decoder = Decoder::new(loader.manifest, loader.messages, loader.tables, loader.by_bus);
    Ok((decoder, loader.warnings))
}

struct Loader<'a> {
    vss: &'a VssMap,
    manifest: Manifest,
    messages: Vec<Message>,
    /// The first one serves every bus that has no files of its own.
    tables: Vec<IdTable>,
    by_bus: Vec<u16>,
    /// Paths in use and the signals they come from.
    paths: HashMap<String, String>,
    warnings: Vec<DbcWarning>,
}

impl<'a> Loader<'a> {
    #[allow(clippy::cast_possible_truncation, reason = "at most 256 buses")]
    fn new(sources: &[DbcSource], vss: &'a VssMap) -> Self {
        let buses: BTreeSet<u8> = sources.iter().filter_map(|source| source.bus).map(|bus| bus.0).collect();
        let mut by_bus = vec![0; 256];
        for (at, bus) in buses.iter().enumerate() {
            by_bus[usize::from(*bus)] = at as u16 + 1;
        }
        Self {
            vss,
            manifest: Manifest::default(),
            messages: Vec::new(),
            tables: vec![IdTable::default(); buses.len() + 1],
            by_bus,
            paths: HashMap::new(),
            warnings: Vec::new(),
        }
    }

    fn add(&mut self, source: &DbcSource) -> Result<(), DbcError> {
        let text = decode_text(&source.bytes);
        if signal_set::is_signal_set(text.as_bytes()) {
            return self.add_set(source, &text);
        }
        let dbc = Dbc::try_from(text.as_ref())
            .map_err(|error| DbcError::Parse { file: source.name.clone(), reason: error.to_string() })?;
        let (formats, names) = (FrameFormats::of(&dbc), LongNames::of(&dbc));
        for message in dbc.messages.iter().filter(|message| message.name != UNASSIGNED) {
            if self.manifest.signals.len() + message.signals.len() > MANIFEST_SIGNALS_MAX {
                return Err(DbcError::TooManySignals { file: source.name.clone() });
            }
            self.add_message(source, &dbc, message, &names, formats.carrier(message.id));
        }
        Ok(())
    }

    fn add_set(&mut self, source: &DbcSource, text: &str) -> Result<(), DbcError> {
        let file = || source.name.clone();
        let commands =
            signal_set::parse(text).map_err(|reason| DbcError::SignalSet { file: file(), reason })?;
        for command in &commands {
            if self.manifest.signals.len() + command.signals.len() > MANIFEST_SIGNALS_MAX {
                return Err(DbcError::TooManySignals { file: file() });
            }
            self.add_command(source, command);
        }
        Ok(())
    }

    fn add_command(&mut self, source: &DbcSource, command: &Command) {
        let warn = Warn { file: &source.name, message: &command.name };
        self.warnings
            .extend(command.left_out.iter().map(|(signal, reason)| warn.signal(signal, reason.clone())));
        let first_signal = self.manifest.signals.len();
        let placed: Vec<Placed> = command
            .signals
            .iter()
            .zip(first_signal..)
            .map(|(signal, at)| Placed {
                field: Field::new(signal_index(at), signal.bits, false),
                selected_by: None,
                limits: signal.limits,
            })
            .collect();
        let Ok((layout, _)) = Layout::build(&placed) else {
            self.warnings.push(warn.message(WarningReason::MultiplexTooLarge));
            return;
        };
        let index = u32::try_from(self.messages.len()).expect("a set has fewer than 2^32 commands");
        if !self.register_answer(source.bus, command, index) {
            self.warnings.push(warn.message(WarningReason::DuplicateId));
            return;
        }
        self.messages.push(Message { size: command.size, layout, is_isotp: true });
        self.manifest.messages.push(command.name.clone());
        for signal in &command.signals {
            let scale = (signal.factor, signal.offset);
            self.define(&warn, unplaced(index, &signal.name, &signal.unit, scale));
        }
    }

    /// Makes the answer findable; false where an earlier command has the same id and head.
    fn register_answer(&mut self, bus: Option<BusIndex>, command: &Command, message: u32) -> bool {
        let own = self.own_table(bus);
        let mut found = false;
        for (_, table) in
            self.tables.iter_mut().enumerate().filter(|(at, _)| own.is_none_or(|own| own == *at))
        {
            for id in &command.answers_on {
                let answers = table.answers.entry(*id).or_default();
                answers.has_address |= command.has_address;
                if answers.list.iter().all(|answer| answer.head != command.head) {
                    answers.list.push(Answer { head: command.head.clone(), message });
                    table.listen(IdFilter::exact(*id), message);
                    found = true;
                }
            }
        }
        found
    }

    fn own_table(&self, bus: Option<BusIndex>) -> Option<usize> {
        bus.map(|bus| usize::from(self.by_bus[usize::from(bus.0)]))
    }

    fn add_message(
        &mut self,
        source: &DbcSource,
        dbc: &Dbc,
        message: &can_dbc::Message,
        names: &LongNames<'_>,
        carrier: Carrier,
    ) {
        let name = names.message(message);
        let warn = Warn { file: &source.name, message: name };
        let size = match usize::try_from(message.size) {
            Ok(size) if size <= TP_MESSAGE_BYTES_MAX => size,
            _ => {
                self.warnings.push(warn.message(WarningReason::MessageTooLong(message.size)));
                return;
            }
        };
        let first_signal = self.manifest.signals.len();
        let signals = sound_signals(dbc, message, &warn, &mut self.warnings);
        let placed: Vec<Placed> = signals
            .iter()
            .enumerate()
            .map(|(at, signal)| Placed {
                field: Field::new(signal_index(first_signal + at), signal.bits, carrier == Carrier::J1939),
                selected_by: signal.selected_by.clone(),
                limits: None,
            })
            .collect();
        let layout = match Layout::build(&placed) {
            Ok((layout, circular)) => {
                self.warnings.extend(
                    circular
                        .into_iter()
                        .map(|at| warn.signal(&signals[at].signal.name, WarningReason::CircularMultiplexer)),
                );
                layout
            }
            Err(LayoutError::TooDeep | LayoutError::TooManyFields) => {
                self.warnings.push(warn.message(WarningReason::MultiplexTooLarge));
                return;
            }
        };
        let index = u32::try_from(self.messages.len()).expect("a DBC has fewer than 2^32 messages");
        if let Err(reason) = self.register(source.bus, message.id, carrier, index) {
            self.warnings.push(warn.message(reason));
            return;
        }
        let is_isotp = carrier == Carrier::Classic && size > CLASSIC_BYTES_MAX;
        self.messages.push(Message { size, layout, is_isotp });
        self.manifest.messages.push(name.to_owned());
        for placed in &signals {
            let signal = placed.signal;
            let scale = (signal.factor, signal.offset);
            self.define(&warn, unplaced(index, names.signal(message, signal), &signal.unit, scale));
        }
    }

    /// Makes the message findable on its bus, or on every bus.
    fn register(
        &mut self,
        bus: Option<BusIndex>,
        id: MessageId,
        carrier: Carrier,
        message: u32,
    ) -> Result<(), WarningReason> {
        let own = self.own_table(bus);
        let mut found = false;
        for (_, table) in
            self.tables.iter_mut().enumerate().filter(|(at, _)| own.is_none_or(|own| own == *at))
        {
            found |= match id {
                MessageId::Standard(id) if id > CanId::STANDARD_MAX => return Err(WarningReason::Id(id)),
                MessageId::Standard(id) => table.insert_standard(id, message),
                MessageId::Extended(id) if carrier == Carrier::J1939 => {
                    let parts = J1939Id::split(id);
                    let exact = parts.sa != SA_PLACEHOLDER && table.insert_extended(id, message);
                    table.insert_pgn(parts.pgn, message) | exact
                }
                MessageId::Extended(id) => table.insert_extended(id, message),
            };
            if found {
                table.listen(filter_of(id, carrier), message);
            }
        }
        if found { Ok(()) } else { Err(WarningReason::DuplicateId) }
    }

    /// Adds a signal to the manifest and gives it its path.
    fn define(&mut self, warn: &Warn<'_>, signal: SignalDef) {
        let qualified = format!("{}.{}", warn.message, signal.name);
        let target = self.vss.target(warn.message, &signal.name);
        let taken = target.and_then(|target| self.paths.get(&target.path));
        if let (Some(target), Some(source_signal)) = (target, taken) {
            let (path, source_signal) = (target.path.clone(), source_signal.clone());
            let reason = WarningReason::PathTaken { path, source_signal };
            self.warnings.push(warn.signal(&signal.name, reason));
        }
        let def = match target.filter(|target| !self.paths.contains_key(&target.path)) {
            Some(target) => SignalDef {
                path: target.path.clone(),
                path_unit: target.unit.clone(),
                path_factor: target.factor,
                path_offset: target.offset,
                ..signal
            },
            None => SignalDef {
                path: self.private_path(warn.message, &signal.name),
                path_unit: signal.unit.clone(),
                ..signal
            },
        };
        self.paths.insert(def.path.clone(), qualified);
        self.manifest.signals.push(def);
    }

    /// The same message may be described for several buses: later ones get a number.
    fn private_path(&self, message: &str, signal: &str) -> String {
        let first = format!("Vehicle.Private.{message}.{signal}");
        if !self.paths.contains_key(&first) {
            return first;
        }
        (2u32..)
            .map(|number| format!("Vehicle.Private.{message}_{number}.{signal}"))
            .find(|path| !self.paths.contains_key(path))
            .unwrap_or(first)
    }
}

/// The frames that carry a message; a group also comes by its transport protocol, which is let through always.
fn filter_of(id: MessageId, carrier: Carrier) -> IdFilter {
    match id {
        MessageId::Standard(id) => IdFilter::exact(CanId::Standard(id)),
        MessageId::Extended(id) if carrier == Carrier::J1939 => IdFilter::group(J1939Id::split(id).pgn),
        MessageId::Extended(id) => IdFilter::exact(CanId::Extended(id)),
    }
}

/// A signal that has no path yet.
fn unplaced(message: u32, name: &str, unit: &str, (factor, offset): (f64, f64)) -> SignalDef {
    SignalDef {
        message,
        name: name.to_owned(),
        unit: unit.to_owned(),
        factor,
        offset,
        path: String::new(),
        path_unit: String::new(),
        path_factor: 1.0,
        path_offset: 0.0,
    }
}

fn signal_index(at: usize) -> SignalIndex {
    SignalIndex(u32::try_from(at).expect("a manifest has at most MANIFEST_SIGNALS_MAX signals"))
}

fn decode_text(bytes: &[u8]) -> Cow<'_, str> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        // Every byte means something in Windows-1252 as browsers read it, so this cannot fail.
        Err(_) => can_dbc::encodings::WINDOWS_1252.decode(bytes).0,
    }
}

/// Makes warnings about one message.
struct Warn<'a> {
    file: &'a str,
    message: &'a str,
}

impl Warn<'_> {
    fn message(&self, reason: WarningReason) -> DbcWarning {
        DbcWarning { file: self.file.to_owned(), message: self.message.to_owned(), signal: None, reason }
    }

    fn signal(&self, signal: &str, reason: WarningReason) -> DbcWarning {
        DbcWarning { signal: Some(signal.to_owned()), ..self.message(reason) }
    }
}

/// A signal that can be decoded.
struct Sound<'a> {
    signal: &'a can_dbc::Signal,
    bits: Bits,
    /// Multiplexer by position among the sound signals, and its values.
    selected_by: Option<(usize, Vec<(u64, u64)>)>,
}

fn sound_signals<'a>(
    dbc: &Dbc,
    message: &'a can_dbc::Message,
    warn: &Warn<'_>,
    warnings: &mut Vec<DbcWarning>,
) -> Vec<Sound<'a>> {
    if message.signals.len() > MESSAGE_SIGNALS_MAX {
        warnings.push(warn.message(WarningReason::TooManySignals));
    }
    let mut names = HashSet::new();
    let mut sound = Vec::new();
    for signal in message.signals.iter().take(MESSAGE_SIGNALS_MAX) {
        let bits = bits_of(dbc, message, signal);
        let fault = match bits.end() {
            None => Some(WarningReason::Size(signal.size)),
            Some(end) if end > message.size * 8 => Some(WarningReason::OutsideMessage),
            Some(_) if !(signal.factor.is_finite() && signal.offset.is_finite()) => {
                Some(WarningReason::Scale)
            }
            Some(_) => (!names.insert(&signal.name)).then_some(WarningReason::DuplicateSignal),
        };
        match fault {
            Some(reason) => warnings.push(warn.signal(&signal.name, reason)),
            None => sound.push(Sound { signal, bits, selected_by: None }),
        }
    }
    select(dbc, message, sound, warn, warnings)
}

fn bits_of(dbc: &Dbc, message: &can_dbc::Message, signal: &can_dbc::Signal) -> Bits {
    let kind = match dbc.extended_value_type_for_signal(message.id, &signal.name) {
        Some(SignalExtendedValueType::IEEEfloat32Bit) => FieldKind::F32,
        Some(SignalExtendedValueType::IEEEdouble64bit) => FieldKind::F64,
        Some(SignalExtendedValueType::SignedOrUnsignedInteger) | None => match signal.value_type {
            ValueType::Signed => FieldKind::Signed,
            ValueType::Unsigned => FieldKind::Unsigned,
        },
    };
    Bits {
        start: signal.start_bit,
        size: signal.size,
        big_endian: signal.byte_order == ByteOrder::BigEndian,
        kind,
    }
}

/// Finds the multiplexer of each multiplexed signal; signals whose multiplexer is missing are left out.
fn select<'a>(
    dbc: &Dbc,
    message: &can_dbc::Message,
    mut sound: Vec<Sound<'a>>,
    warn: &Warn<'_>,
    warnings: &mut Vec<DbcWarning>,
) -> Vec<Sound<'a>> {
    loop {
        let selections: Vec<_> = (0..sound.len()).map(|at| selection(dbc, message, &sound, at)).collect();
        // Leaving a multiplexer out takes its own signals with it and moves positions: look again.
        let complete = selections.iter().all(Result::is_ok);
        let mut kept = Vec::with_capacity(sound.len());
        for (signal, selection) in sound.into_iter().zip(selections) {
            match selection {
                Ok(selected_by) => kept.push(Sound { selected_by, ..signal }),
                Err(NoMultiplexer) => {
                    warnings.push(warn.signal(&signal.signal.name, WarningReason::NoMultiplexer));
                }
            }
        }
        sound = kept;
        if complete {
            return sound;
        }
    }
}

struct NoMultiplexer;

type Selection = Option<(usize, Vec<(u64, u64)>)>;

fn selection(
    dbc: &Dbc,
    message: &can_dbc::Message,
    sound: &[Sound<'_>],
    at: usize,
) -> Result<Selection, NoMultiplexer> {
    let value = match sound[at].signal.multiplexer_indicator {
        MultiplexIndicator::Plain | MultiplexIndicator::Multiplexor => return Ok(None),
        MultiplexIndicator::MultiplexedSignal(value)
        | MultiplexIndicator::MultiplexorAndMultiplexedSignal(value) => value,
    };
    let extended = dbc
        .extended_multiplex
        .iter()
        .find(|extended| extended.message_id == message.id && extended.signal_name == sound[at].signal.name);
    let (mux, values) = match extended {
        Some(extended) => {
            let named = |signal: &Sound<'_>| signal.signal.name == extended.multiplexor_signal_name;
            let values = extended.mappings.iter().map(|range| (range.min_value, range.max_value));
            (sound.iter().position(named), values.filter(|(low, high)| low <= high).collect())
        }
        None => {
            let root =
                |signal: &Sound<'_>| signal.signal.multiplexer_indicator == MultiplexIndicator::Multiplexor;
            (sound.iter().position(root), vec![(value, value)])
        }
    };
    Ok(Some((mux.ok_or(NoMultiplexer)?, values)))
}

/// Names longer than the 32 characters that a DBC takes: editors write them as attributes beside shortened ones.
struct LongNames<'d> {
    messages: HashMap<MessageId, &'d str>,
    signals: HashMap<(MessageId, &'d str), &'d str>,
}

impl<'d> LongNames<'d> {
    fn of(dbc: &'d Dbc) -> Self {
        let text = |value: &'d AttributeValue| match value {
            AttributeValue::String(text) if !text.is_empty() => Some(text.as_str()),
            _ => None,
        };
        let messages =
            dbc.attribute_values_message.iter().filter(|value| value.name == "SystemMessageLongSymbol");
        let signals =
            dbc.attribute_values_signal.iter().filter(|value| value.name == "SystemSignalLongSymbol");
        Self {
            messages: messages.filter_map(|value| Some((value.message_id, text(&value.value)?))).collect(),
            signals: signals
                .filter_map(|value| {
                    Some(((value.message_id, value.signal_name.as_str()), text(&value.value)?))
                })
                .collect(),
        }
    }

    fn message(&self, message: &'d can_dbc::Message) -> &'d str {
        self.messages.get(&message.id).copied().unwrap_or(&message.name)
    }

    fn signal(&self, message: &can_dbc::Message, signal: &'d can_dbc::Signal) -> &'d str {
        self.signals.get(&(message.id, signal.name.as_str())).copied().unwrap_or(&signal.name)
    }
}

/// What carries a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    /// Classic frames.
    Classic,
    /// CAN FD frames.
    Fd,
    /// A J1939 parameter group, in one frame or by its transport protocol.
    J1939,
}

impl Carrier {
    /// As `VFrameFormat` names it.
    fn named(name: &str) -> Self {
        match name {
            "J1939PG" => Self::J1939,
            name if name.ends_with("CAN_FD") => Self::Fd,
            _ => Self::Classic,
        }
    }
}

/// What the attributes of a DBC say of the carriers of its messages.
struct FrameFormats {
    by_default: Carrier,
    by_message: HashMap<MessageId, Carrier>,
}

impl FrameFormats {
    fn of(dbc: &Dbc) -> Self {
        let formats = dbc.attribute_definitions.iter().find_map(|definition| match definition {
            AttributeDefinition::Message(name, AttributeValueType::Enum(names)) if name == "VFrameFormat" => {
                Some(names.as_slice())
            }
            _ => None,
        });
        // An enumeration's value is written as its name or as its position.
        let carrier = |value: &AttributeValue| match value {
            AttributeValue::String(name) => Carrier::named(name),
            AttributeValue::Uint(at) => {
                let name = usize::try_from(*at).ok().and_then(|at| formats.unwrap_or_default().get(at));
                name.map_or(Carrier::Classic, |name| Carrier::named(name))
            }
            _ => Carrier::Classic,
        };
        let is_j1939 =
            |value: &AttributeValue| matches!(value, AttributeValue::String(name) if name == "J1939");
        let protocol = dbc.attribute_values_database.iter().find(|value| value.name == "ProtocolType");
        let default = dbc.attribute_defaults.iter().find(|default| default.name == "VFrameFormat");
        let formats = dbc.attribute_values_message.iter().filter(|value| value.name == "VFrameFormat");
        Self {
            by_default: if protocol.is_some_and(|value| is_j1939(&value.value)) {
                Carrier::J1939
            } else {
                default.map_or(Carrier::Classic, |default| carrier(&default.value))
            },
            by_message: formats.map(|value| (value.message_id, carrier(&value.value))).collect(),
        }
    }

    fn carrier(&self, id: MessageId) -> Carrier {
        let said = self.by_message.get(&id).copied().unwrap_or(self.by_default);
        match id {
            MessageId::Standard(_) if said == Carrier::J1939 => Carrier::Classic,
            MessageId::Extended(bits) if J1939Id::split(bits).sa == SA_PLACEHOLDER => Carrier::J1939,
            _ => said,
        }
    }
}
