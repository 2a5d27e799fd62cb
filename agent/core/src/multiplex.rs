//! The layout of a message's signals: where their bits lie, and which of them a multiplexer value selects.

use convoy_protocol::manifest::SignalIndex;

use crate::decoder::{RawValue, Row};

/// Multiplexers inside multiplexers at most.
pub(crate) const MULTIPLEX_DEPTH_MAX: usize = 16;
/// Fields of one message over all its multiplexer values at most; ranges that overlap repeat their fields.
pub(crate) const LAYOUT_FIELDS_MAX: usize = 1 << 18;

/// How a signal's bits become a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldKind {
    Unsigned,
    Signed,
    F32,
    F64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Inside the first 8 bytes, Intel.
    LittleNear,
    /// Inside the first 8 bytes, Motorola.
    BigNear,
    LittleFar,
    BigFar,
}

/// One signal: two shifts of the word that holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    signal: SignalIndex,
    first_byte: u16,
    left: u8,
    right: u8,
    reader: Reader,
    kind: FieldKind,
    /// A place in [`Layout::limits`], or [`NO_LIMITS`].
    limits: u16,
    /// Raw values above it are not measurements (J1939).
    valid_max: u64,
}

/// See [`Field::limits`].
const NO_LIMITS: u16 = u16::MAX;

/// What a signal set says of a signal's range, in raw values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    /// Smaller values are taken as this one.
    pub(crate) least: f64,
    /// Larger values are taken as this one.
    pub(crate) most: f64,
    /// Up to here a value means that there is none.
    pub(crate) null_to: Option<f64>,
    /// From here on a value means that there is none.
    pub(crate) null_from: Option<f64>,
}

impl Limits {
    fn apply(&self, value: RawValue) -> Option<RawValue> {
        let RawValue::Raw(raw) = value else { return Some(value) };
        let raw = raw as f64;
        if self.null_to.is_some_and(|to| raw <= to) || self.null_from.is_some_and(|from| raw >= from) {
            return None;
        }
        Some(match () {
            () if raw < self.least => whole(self.least),
            () if raw > self.most => whole(self.most),
            () => value,
        })
    }
}

/// An integer where it is one.
#[allow(clippy::cast_possible_truncation, reason = "compared afterwards")]
fn whole(raw: f64) -> RawValue {
    let integer = raw as i64;
    if integer as f64 == raw { RawValue::Raw(integer) } else { RawValue::F64(raw) }
}

/// Where a signal lies, as a DBC says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bits {
    /// Intel: the lowest bit; Motorola: the highest, both numbered byte x 8 + bit.
    pub(crate) start: u64,
    /// 1 to 64.
    pub(crate) size: u64,
    pub(crate) big_endian: bool,
    pub(crate) kind: FieldKind,
}

impl Bits {
    /// One past the last payload bit, in the order the bits are sent; `None` for an impossible size.
    pub(crate) fn end(&self) -> Option<u64> {
        let size_fits = match self.kind {
            FieldKind::Unsigned | FieldKind::Signed => (1..=64).contains(&self.size),
            FieldKind::F32 => self.size == 32,
            FieldKind::F64 => self.size == 64,
        };
        size_fits.then(|| self.first_bit().saturating_add(self.size))
    }

    fn first_bit(&self) -> u64 {
        if self.big_endian { (self.start & !7) + (7 - self.start % 8) } else { self.start }
    }
}

impl Field {
    /// The bits must end within the message, whose size is at most 1,785 bytes.
    #[allow(clippy::cast_possible_truncation, reason = "bit offsets of a message fit 16 bits")]
    pub(crate) fn new(signal: SignalIndex, bits: Bits, j1939: bool) -> Self {
        let first = bits.first_bit();
        let near = first + bits.size <= 64;
        let (word, first_byte, first) =
            if near { (64, 0, first) } else { (128, (first / 8) as u16, first % 8) };
        let left = if bits.big_endian { first } else { word - first - bits.size };
        Self {
            signal,
            first_byte,
            left: left as u8,
            right: (word - bits.size) as u8,
            reader: match (near, bits.big_endian) {
                (true, false) => Reader::LittleNear,
                (true, true) => Reader::BigNear,
                (false, false) => Reader::LittleFar,
                (false, true) => Reader::BigFar,
            },
            kind: bits.kind,
            limits: NO_LIMITS,
            valid_max: if j1939 { j1939_valid_max(bits) } else { u64::MAX },
        }
    }

    /// Bytes that a payload must have for the field to lie in it.
    fn bytes(&self) -> usize {
        let (left, size) = (usize::from(self.left), usize::from(self.word_bits() - self.right));
        let end = match self.reader {
            Reader::LittleNear | Reader::LittleFar => usize::from(self.word_bits()) - left,
            Reader::BigNear | Reader::BigFar => left + size,
        };
        usize::from(self.first_byte) + end.div_ceil(8)
    }

    const fn word_bits(&self) -> u8 {
        match self.reader {
            Reader::LittleNear | Reader::BigNear => 64,
            Reader::LittleFar | Reader::BigFar => 128,
        }
    }

    #[inline]
    fn unsigned(&self, payload: &Payload<'_>) -> u64 {
        match self.reader {
            Reader::LittleNear => (payload.little << self.left) >> self.right,
            Reader::BigNear => (payload.big << self.left) >> self.right,
            Reader::LittleFar => self.far(u128::from_le_bytes(payload.at(self.first_byte))),
            Reader::BigFar => self.far(u128::from_be_bytes(payload.at(self.first_byte))),
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "at most 64 bits are left by the shift")]
    fn far(&self, word: u128) -> u64 {
        ((word << self.left) >> self.right) as u64
    }

    /// The top bit of the field, taken as its sign.
    #[inline]
    fn extend_sign(&self, unsigned: u64) -> i64 {
        let spare = self.right - (self.word_bits() - 64);
        ((unsigned << spare).cast_signed()) >> spare
    }

    #[inline]
    fn value(&self, unsigned: u64) -> RawValue {
        match self.kind {
            FieldKind::Unsigned => match i64::try_from(unsigned) {
                Ok(raw) => RawValue::Raw(raw),
                Err(_) => RawValue::F64(unsigned as f64),
            },
            FieldKind::Signed => RawValue::Raw(self.extend_sign(unsigned)),
            #[allow(clippy::cast_possible_truncation, reason = "a single has 32 bits")]
            FieldKind::F32 => RawValue::F32(f32::from_bits(unsigned as u32)),
            FieldKind::F64 => RawValue::F64(f64::from_bits(unsigned)),
        }
    }

    /// The value as a multiplexer; a negative one selects nothing.
    fn selector(&self, payload: &Payload<'_>) -> Option<u64> {
        let unsigned = self.unsigned(payload);
        match self.kind {
            FieldKind::Unsigned => Some(unsigned),
            FieldKind::Signed => u64::try_from(self.extend_sign(unsigned)).ok(),
            FieldKind::F32 | FieldKind::F64 => None,
        }
    }
}

/// See the table in `decoder`.
fn j1939_valid_max(bits: Bits) -> u64 {
    if bits.kind != FieldKind::Unsigned {
        return u64::MAX;
    }
    match bits.size {
        0 | 1 => u64::MAX,
        size @ 2..=7 => (1 << size) - 3,
        size @ 8..=32 => (0xFB << (size - 8)) - 1,
        // All ones.
        size => (u64::MAX >> (64 - size.min(64))) - 1,
    }
}

/// A payload, its first 8 bytes as words of both byte orders.
pub(crate) struct Payload<'a> {
    data: &'a [u8],
    little: u64,
    big: u64,
    keep_not_available: bool,
}

impl<'a> Payload<'a> {
    #[inline]
    pub(crate) fn new(data: &'a [u8], first_8: [u8; 8], keep_not_available: bool) -> Self {
        let (little, big) = (u64::from_le_bytes(first_8), u64::from_be_bytes(first_8));
        Self { data, little, big, keep_not_available }
    }

    /// 16 bytes from `first`, zeros past the end.
    fn at(&self, first: u16) -> [u8; 16] {
        let mut bytes = [0; 16];
        let rest = self.data.get(usize::from(first)..).unwrap_or_default();
        let len = rest.len().min(16);
        bytes[..len].copy_from_slice(&rest[..len]);
        bytes
    }
}

/// A signal before its message is laid out.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) field: Field,
    /// The multiplexer that selects it (by position in the same message) and the values that do, both ends included.
    pub(crate) selected_by: Option<(usize, Vec<(u64, u64)>)>,
    pub(crate) limits: Option<Limits>,
}

/// The signals of a message by multiplexer value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    fields: Vec<Field>,
    /// The first one holds the signals that are always there.
    nodes: Vec<Node>,
    muxes: Vec<Mux>,
    cases: Vec<Case>,
    limits: Vec<Limits>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn of<T>(self, all: &[T]) -> &[T] {
        &all[self.start as usize..self.end as usize]
    }
}

/// Signals that come together, and the multiplexers among them.
#[derive(Debug, Clone, Copy, Default)]
struct Node {
    fields: Span,
    muxes: Span,
}

#[derive(Debug, Clone, Copy)]
struct Mux {
    field: Field,
    /// By value, without overlap.
    cases: Span,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    first: u64,
    last: u64,
    node: u32,
}

/// Why a message's multiplexing cannot be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayoutError {
    TooDeep,
    TooManyFields,
}

impl Layout {
    /// Lays a message out. Signals whose multiplexers select each other in a circle are not reachable: the second
    /// result lists them by position.
    pub(crate) fn build(placed: &[Placed]) -> Result<(Self, Vec<usize>), LayoutError> {
        let mut builder = Builder {
            placed,
            children: vec![Vec::new(); placed.len()],
            reached: vec![false; placed.len()],
            layout: Self::default(),
        };
        let mut roots = Vec::new();
        for (at, signal) in placed.iter().enumerate() {
            match &signal.selected_by {
                Some((mux, _)) => builder.children[*mux].push(at),
                None => roots.push(at),
            }
        }
        builder.node(&roots, 0)?;
        let unreached =
            builder.reached.iter().enumerate().filter(|(_, reached)| !**reached).map(|(at, _)| at);
        Ok((builder.layout, unreached.collect()))
    }

    /// Appends the signals of a payload; false where a multiplexer value selects none. Of a payload that is `SHORT`,
    /// the signals that it has all bits of, and what the multiplexers that it has all bits of select.
    #[inline]
    pub(crate) fn fill<const SHORT: bool>(&self, payload: &Payload<'_>, row: &mut Row) -> bool {
        self.nodes.first().is_none_or(|root| self.fill_node::<SHORT>(root, payload, row))
    }

    #[inline]
    fn fill_node<const SHORT: bool>(&self, node: &Node, payload: &Payload<'_>, row: &mut Row) -> bool {
        for field in node.fields.of(&self.fields) {
            if SHORT && field.bytes() > payload.data.len() {
                continue;
            }
            let unsigned = field.unsigned(payload);
            if unsigned > field.valid_max && !payload.keep_not_available {
                row.not_available += 1;
                continue;
            }
            let mut value = field.value(unsigned);
            if field.limits != NO_LIMITS {
                match self.limits[usize::from(field.limits)].apply(value) {
                    Some(limited) => value = limited,
                    None if payload.keep_not_available => {}
                    None => {
                        row.not_available += 1;
                        continue;
                    }
                }
            }
            row.signals.push(field.signal);
            row.values.push(value);
        }
        node.muxes.of(&self.muxes).iter().all(|mux| self.fill_selected::<SHORT>(mux, payload, row))
    }

    // Recursion ends: `build` refuses more than MULTIPLEX_DEPTH_MAX levels.
    fn fill_selected<const SHORT: bool>(&self, mux: &Mux, payload: &Payload<'_>, row: &mut Row) -> bool {
        if SHORT && mux.field.bytes() > payload.data.len() {
            return true;
        }
        let cases = mux.cases.of(&self.cases);
        let Some(value) = mux.field.selector(payload) else { return false };
        let after = cases.partition_point(|case| case.first <= value);
        match after.checked_sub(1).and_then(|at| cases.get(at)) {
            Some(case) if value <= case.last => {
                row.parts.push(row.signals.len());
                self.fill_node::<SHORT>(&self.nodes[case.node as usize], payload, row)
            }
            _ => false,
        }
    }
}

struct Builder<'a> {
    placed: &'a [Placed],
    children: Vec<Vec<usize>>,
    reached: Vec<bool>,
    layout: Layout,
}

#[allow(clippy::cast_possible_truncation, reason = "LAYOUT_FIELDS_MAX bounds every table")]
impl Builder<'_> {
    fn node(&mut self, members: &[usize], depth: usize) -> Result<u32, LayoutError> {
        if depth > MULTIPLEX_DEPTH_MAX {
            return Err(LayoutError::TooDeep);
        }
        let node = self.layout.nodes.len();
        self.layout.nodes.push(Node::default());
        let start = self.layout.fields.len();
        if start + members.len() > LAYOUT_FIELDS_MAX || node > LAYOUT_FIELDS_MAX {
            return Err(LayoutError::TooManyFields);
        }
        for member in members {
            self.reached[*member] = true;
            let &Placed { mut field, limits, .. } = &self.placed[*member];
            if let Some(limits) = limits {
                field.limits =
                    u16::try_from(self.layout.limits.len()).map_err(|_| LayoutError::TooManyFields)?;
                self.layout.limits.push(limits);
            }
            self.layout.fields.push(field);
        }
        let fields = Span { start: start as u32, end: self.layout.fields.len() as u32 };
        let mut muxes = Vec::new();
        for &member in members {
            if !self.children[member].is_empty() {
                muxes.push(self.mux(member, depth)?);
            }
        }
        let start = self.layout.muxes.len() as u32;
        self.layout.muxes.extend(muxes);
        let muxes = Span { start, end: self.layout.muxes.len() as u32 };
        self.layout.nodes[node] = Node { fields, muxes };
        Ok(node as u32)
    }

    fn mux(&mut self, mux: usize, depth: usize) -> Result<Mux, LayoutError> {
        // Between two neighbouring bounds the same signals are selected.
        let mut bounds: Vec<u128> = Vec::new();
        for (first, last) in self.children[mux].iter().flat_map(|child| self.values(*child)) {
            bounds.extend([u128::from(*first), u128::from(*last) + 1]);
        }
        bounds.sort_unstable();
        bounds.dedup();
        let mut cases = Vec::new();
        for pair in bounds.windows(2) {
            let (first, last) = (pair[0] as u64, (pair[1] - 1) as u64);
            let selected =
                |child: &usize| self.values(*child).iter().any(|(low, high)| *low <= first && last <= *high);
            let members: Vec<usize> = self.children[mux].iter().copied().filter(selected).collect();
            if !members.is_empty() {
                let node = self.node(&members, depth + 1)?;
                cases.push(Case { first, last, node });
            }
        }
        let start = self.layout.cases.len() as u32;
        self.layout.cases.extend(cases);
        let cases = Span { start, end: self.layout.cases.len() as u32 };
        Ok(Mux { field: self.placed[mux].field, cases })
    }

    fn values(&self, child: usize) -> &[(u64, u64)] {
        self.placed[child].selected_by.as_ref().map_or(&[], |(_, values)| values)
    }
}
