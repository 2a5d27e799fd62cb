//! TOML read key by key, so that every fault is found at once, each with its line.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Something wrong with a configuration: which key, what is wrong, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// Line in the file, from 1; `None` where something is missing from it.
    pub line: Option<usize>,
    /// The sentence.
    pub message: String,
}

/// `line 3: vehicle.id = "abc": expected ...`
impl Display for ConfigFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// The faults found so far in a text.
pub(super) struct Faults<'a> {
    text: &'a str,
    found: Vec<ConfigFault>,
}

impl<'a> Faults<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, span: Option<Range<usize>>, message: impl Into<String>) {
        let line = span.map(|span| {
            let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
            1 + before.iter().filter(|byte| **byte == b'\n').count()
        });
        self.found.push(ConfigFault { line, message: message.into() });
    }

    /// In the order of the file; what is missing from it comes last.
    pub(super) fn into_sorted(mut self) -> Vec<ConfigFault> {
        self.found.sort_by_key(|fault| (fault.line.is_none(), fault.line));
        self.found
    }
}

/// A value with the key and the place it was read from.
pub(super) struct Found<T> {
    pub(super) key: String,
    pub(super) span: Range<usize>,
    pub(super) value: T,
}

impl<T: Display> Found<T> {
    /// Reports that the value is not good.
    pub(super) fn refuse(&self, faults: &mut Faults<'_>, why: impl Display) {
        let Self { key, value, .. } = self;
        faults.add(Some(self.span.clone()), format!("{key} = {value:?}: {why}", value = value.to_string()));
    }
}

impl Found<String> {
    /// Reads the text as a `T`, whose error tells what was expected.
    pub(super) fn parse<T>(&self, faults: &mut Faults<'_>) -> Option<T>
    where
        T: std::str::FromStr,
        T::Err: Display,
    {
        self.value.parse().map_err(|error| self.refuse(faults, error)).ok()
    }
}

/// A table whose keys are taken out one by one.
pub(super) struct Section<'i> {
    name: String,
    span: Range<usize>,
    table: DeTable<'i>,
    known: Vec<&'static str>,
}

impl<'i> Section<'i> {
    pub(super) fn root(table: DeTable<'i>) -> Self {
        Self { name: String::new(), span: 0..0, table, known: Vec::new() }
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<Found<DeValue<'i>>> {
        self.known.push(key);
        let value = self.table.remove(key)?;
        Some(Found { key: self.path(key), span: value.span(), value: value.into_inner() })
    }

    fn wrong_kind(found: &Found<DeValue<'i>>, expected: &str, faults: &mut Faults<'_>) {
        let kind = found.value.type_str();
        faults.add(Some(found.span.clone()), format!("{}: expected {expected}, found {kind}", found.key));
    }

    pub(super) fn missing(&self, key: &str, example: &str, faults: &mut Faults<'_>) {
        let span = (!self.span.is_empty()).then(|| self.span.clone());
        faults.add(span, format!("{} is missing: add {key} = {example}", self.path(key)));
    }

    pub(super) fn string(&mut self, key: &'static str, faults: &mut Faults<'_>) -> Option<Found<String>> {
        let found = self.take(key)?;
        match found.value {
            DeValue::String(text) => {
                Some(Found { key: found.key, span: found.span, value: text.into_owned() })
            }
            _ => {
                Self::wrong_kind(&found, "a text in quotes", faults);
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn required(
        &mut self,
        key: &'static str,
        example: &str,
        faults: &mut Faults<'_>,
    ) -> Option<Found<String>> {
        if !self.table.contains_key(key) {
            self.known.push(key);
            self.missing(key, example, faults);
            return None;
        }
        self.string(key, faults)
    }

    pub(super) fn boolean(&mut self, key: &'static str, faults: &mut Faults<'_>) -> Option<bool> {
        let found = self.take(key)?;
        if found.value.as_bool().is_none() {
            Self::wrong_kind(&found, "true or false", faults);
        }
        found.value.as_bool()
    }

    /// A whole number within `allowed`.
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        allowed: RangeInclusive<u64>,
        faults: &mut Faults<'_>,
    ) -> Option<u64> {
        let found = self.take(key)?;
        let Some(integer) = found.value.as_integer() else {
            Self::wrong_kind(&found, "a whole number", faults);
            return None;
        };
        let value = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let value = value.filter(|value| allowed.contains(value));
        if value.is_none() {
            let why = format!("it must be from {} to {}", allowed.start(), allowed.end());
            faults.add(Some(found.span), format!("{} = {integer}: {why}", found.key));
        }
        value
    }

    /// A number, whole or not.
    pub(super) fn number(&mut self, key: &'static str, faults: &mut Faults<'_>) -> Option<f64> {
        let found = self.take(key)?;
        let text = match &found.value {
            DeValue::Float(number) => Some(number.as_str()),
            DeValue::Integer(number) => Some(number.as_str()),
            _ => None,
        };
        let number = text.and_then(|text| text.parse().ok());
        if number.is_none() {
            Self::wrong_kind(&found, "a number", faults);
        }
        number
    }

    pub(super) fn section(&mut self, key: &'static str, faults: &mut Faults<'_>) -> Option<Section<'i>> {
        let found = self.take(key)?;
        if !found.value.is_table() {
            Self::wrong_kind(&found, &format!("a section [{}]", found.key), faults);
            return None;
        }
        Self::of(found.key, Spanned::new(found.span, found.value))
    }

    /// A section that must be there; where it is not, an empty one whose keys are reported as missing.
    pub(super) fn required_section(&mut self, key: &'static str, faults: &mut Faults<'_>) -> Section<'i> {
        let empty = Section { name: self.path(key), span: 0..0, table: DeTable::new(), known: Vec::new() };
        self.section(key, faults).unwrap_or(empty)
    }

    /// Is it an array, as sections [[key]] are?
    pub(super) fn holds_array(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_array())
    }

    /// The tables of an array of tables.
    pub(super) fn sections(&mut self, key: &'static str, faults: &mut Faults<'_>) -> Vec<Section<'i>> {
        let Some(found) = self.take(key) else { return Vec::new() };
        let expected = format!("sections [[{}]]", found.key);
        if !found.value.is_array() {
            Self::wrong_kind(&found, &expected, faults);
            return Vec::new();
        }
        let DeValue::Array(array) = found.value else { return Vec::new() };
        let mut sections = Vec::new();
        for (at, value) in array.into_iter().enumerate() {
            let (name, span) = (format!("{}[{}]", found.key, at + 1), value.span());
            match Self::of(name.clone(), value) {
                Some(section) => sections.push(section),
                None => faults.add(Some(span), format!("{name}: expected {expected}")),
            }
        }
        sections
    }

    fn of(name: String, value: Spanned<DeValue<'i>>) -> Option<Self> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Some(Self { name, span, table, known: Vec::new() }),
            _ => None,
        }
    }

    /// Reports every key that was not asked for.
    pub(super) fn finish(self, faults: &mut Faults<'_>) {
        for key in self.table.keys() {
            let known = self.known.join(", ");
            let path = self.path(key.get_ref());
            faults.add(
                Some(key.span()),
                format!("{path} is not a key that the agent knows: use one of {known}"),
            );
        }
    }
}
