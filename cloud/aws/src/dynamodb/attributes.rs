//! Attributes of items, there and back.

use std::collections::HashMap;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use convoy_cloud_core::ports::PortError;

use super::{PARTITION_KEY, SORT_KEY, damaged};

/// An item.
pub(super) type Item = HashMap<String, AttributeValue>;

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn binary(value: impl Into<Vec<u8>>) -> AttributeValue {
    AttributeValue::B(Blob::new(value))
}

/// The keys of an item, to which its other attributes are added.
pub(super) fn item(partition: impl Into<String>, sort: impl Into<String>) -> Item {
    HashMap::from([(PARTITION_KEY.to_owned(), text(partition)), (SORT_KEY.to_owned(), text(sort))])
}

pub(super) fn text_of<'i>(item: &'i Item, name: &str) -> Result<&'i str, PortError> {
    let value = item.get(name).and_then(|value| value.as_s().ok());
    value.map(String::as_str).ok_or_else(|| damaged(name))
}

pub(super) fn number_of<T: std::str::FromStr>(item: &Item, name: &str) -> Result<T, PortError> {
    let value = item.get(name).and_then(|value| value.as_n().ok());
    value.and_then(|digits| digits.parse().ok()).ok_or_else(|| damaged(name))
}

pub(super) fn flag_of(item: &Item, name: &str) -> Result<bool, PortError> {
    item.get(name).and_then(|value| value.as_bool().ok()).copied().ok_or_else(|| damaged(name))
}

pub(super) fn binary_of<'i>(item: &'i Item, name: &str) -> Result<&'i [u8], PortError> {
    let value = item.get(name).and_then(|value| value.as_b().ok());
    value.map(Blob::as_ref).ok_or_else(|| damaged(name))
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

    #[test]
    fn numbers_sort_as_texts_and_come_back() {
        let numbers = [i64::MIN, -1, 0, 1, i64::MAX];
        let texts = numbers.map(sortable_signed);
        assert!(texts.is_sorted());
        assert_eq!(texts.map(|text| signed_of(&text).unwrap()), numbers);
        assert!([0, 9, 10, 1 << 63, u64::MAX].map(sortable).is_sorted());
    }
}
