//! Attributes of items, there and back.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use convoy_cloud_core::ports::PortError;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{PARTITION_KEY, SORT_KEY, damaged};

/// A value, as DynamoDB's JSON writes it: `{"S": "text"}`. Of its types those that this store writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Value {
    #[serde(rename = "S")]
    Text(String),
    /// Decimal digits.
    #[serde(rename = "N")]
    Number(String),
    /// Base 64 in JSON.
    #[serde(rename = "B", serialize_with = "encode", deserialize_with = "decode")]
    Binary(Vec<u8>),
    #[serde(rename = "BOOL")]
    Flag(bool),
}

fn encode<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Base64Display::new(bytes, &STANDARD))
}

fn decode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    struct Text;
    impl de::Visitor<'_> for Text {
        type Value = Vec<u8>;
        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("base 64")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
            STANDARD.decode(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text)
}

/// Attributes by name: an item, its keys, or the values of an expression.
pub(super) type Item = BTreeMap<Cow<'static, str>, Value>;

pub(super) fn text(value: impl Into<String>) -> Value {
    Value::Text(value.into())
}

pub(super) fn number(value: impl ToString) -> Value {
    Value::Number(value.to_string())
}

pub(super) fn binary(value: impl Into<Vec<u8>>) -> Value {
    Value::Binary(value.into())
}

/// The keys of an item, to which its other attributes are added.
pub(super) fn item(partition: impl Into<String>, sort: impl Into<String>) -> Item {
    Item::from([(PARTITION_KEY.into(), text(partition)), (SORT_KEY.into(), text(sort))])
}

pub(super) fn text_of<'i>(item: &'i Item, name: &str) -> Result<&'i str, PortError> {
    match item.get(name) {
        Some(Value::Text(text)) => Ok(text),
        _ => Err(damaged(name)),
    }
}

pub(super) fn number_of<T: std::str::FromStr>(item: &Item, name: &str) -> Result<T, PortError> {
    match item.get(name) {
        Some(Value::Number(digits)) => digits.parse().map_err(|_| damaged(name)),
        _ => Err(damaged(name)),
    }
}

pub(super) fn flag_of(item: &Item, name: &str) -> Result<bool, PortError> {
    match item.get(name) {
        Some(Value::Flag(flag)) => Ok(*flag),
        _ => Err(damaged(name)),
    }
}

pub(super) fn binary_of<'i>(item: &'i Item, name: &str) -> Result<&'i [u8], PortError> {
    match item.get(name) {
        Some(Value::Binary(bytes)) => Ok(bytes),
        _ => Err(damaged(name)),
    }
}

/// An unsigned number as text that sorts as the number does.
pub(super) fn sortable(value: u64) -> String {
    format!("{value:016x}")
}

/// A signed number as text that sorts as the number does.
pub(super) fn sortable_signed(value: i64) -> String {
    sortable(value.cast_unsigned() ^ (1 << 63))
}

/// The signed number of a text made by [`sortable_signed`].
pub(super) fn signed_of(text: &str) -> Option<i64> {
    u64::from_str_radix(text, 16).ok().map(|value| (value ^ (1 << 63)).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_sort_as_texts_and_come_back() {
        let numbers = [i64::MIN, -1, 0, 1, i64::MAX];
        let texts = numbers.map(sortable_signed);
        assert!(texts.is_sorted());
        assert_eq!(texts.map(|text| signed_of(&text).unwrap()), numbers);
        assert!([0, 9, 10, 1 << 63, u64::MAX].map(sortable).is_sorted());
    }

    /// The API reference's own examples ("AttributeValue").
    #[test]
    fn values_are_written_as_the_service_writes_them() {
        let values = [
            (text("Hello"), r#"{"S":"Hello"}"#),
            (number(-123.45), r#"{"N":"-123.45"}"#),
            (binary(*b"this text is base64-encoded"), r#"{"B":"dGhpcyB0ZXh0IGlzIGJhc2U2NC1lbmNvZGVk"}"#),
            (Value::Flag(true), r#"{"BOOL":true}"#),
        ];
        for (value, json) in values {
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
            assert_eq!(serde_json::from_str::<Value>(json).unwrap(), value);
        }
        for wrong in [r#"{"B":"%"}"#, r#"{"L":[]}"#, r#"{"N":1}"#, r#"{"S":"a","N":"1"}"#, "{}"] {
            assert!(serde_json::from_str::<Value>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn binary_comes_back(bytes: Vec<u8>) {
            let json = serde_json::to_vec(&binary(bytes.clone())).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), binary(bytes));
        }
    }
}
