//! The postcard form of a message, put into a buffer. Ours and not the `postcard` crate's, because the compiler cannot prove
//! that crate's varints free of panics, and the dongle's image has none; the tests hold it to that crate, byte for byte.

use core::fmt;

use serde::ser::{self, Serialize};

/// Appends bytes to a buffer.
pub(super) struct Writer<'o> {
    out: &'o mut [u8],
    len: usize,
}

/// The buffer is full, or the value is one that no message has: an integer of 128 bits, a sequence of unknown length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot be written")]
pub(super) struct NotWritten;

impl ser::Error for NotWritten {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'o> Writer<'o> {
    pub(super) fn new(out: &'o mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn written(&self) -> &[u8] {
        self.out.get(..self.len).unwrap_or_default()
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), NotWritten> {
        let room = self.out.get_mut(self.len..).and_then(|rest| rest.get_mut(..bytes.len()));
        room.ok_or(NotWritten)?.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    fn put_byte(&mut self, byte: u8) -> Result<(), NotWritten> {
        *self.out.get_mut(self.len).ok_or(NotWritten)? = byte;
        self.len += 1;
        Ok(())
    }

    /// LEB128.
    pub(super) fn put_varint(&mut self, mut value: u64) -> Result<(), NotWritten> {
        while value >= 0x80 {
            self.put_byte(value.to_le_bytes()[0] | 0x80)?;
            value >>= 7;
        }
        self.put_byte(value.to_le_bytes()[0])
    }

    fn put_signed(&mut self, value: i64) -> Result<(), NotWritten> {
        self.put_varint(((value << 1) ^ (value >> 63)).cast_unsigned())
    }

    fn put_len(&mut self, len: Option<usize>) -> Result<&mut Self, NotWritten> {
        self.put_varint(len.ok_or(NotWritten)? as u64)?;
        Ok(self)
    }

    fn put_variant(&mut self, index: u32) -> Result<&mut Self, NotWritten> {
        self.put_varint(u64::from(index))?;
        Ok(self)
    }
}

impl ser::Serializer for &mut Writer<'_> {
    type Ok = ();
    type Error = NotWritten;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fn is_human_readable(&self) -> bool {
        false
    }
    fn serialize_bool(self, value: bool) -> Result<(), NotWritten> {
        self.put_byte(u8::from(value))
    }
    fn serialize_i8(self, value: i8) -> Result<(), NotWritten> {
        self.put_byte(value.cast_unsigned())
    }
    fn serialize_i16(self, value: i16) -> Result<(), NotWritten> {
        self.put_signed(i64::from(value))
    }
    fn serialize_i32(self, value: i32) -> Result<(), NotWritten> {
        self.put_signed(i64::from(value))
    }
    fn serialize_i64(self, value: i64) -> Result<(), NotWritten> {
        self.put_signed(value)
    }
    fn serialize_u8(self, value: u8) -> Result<(), NotWritten> {
        self.put_byte(value)
    }
    fn serialize_u16(self, value: u16) -> Result<(), NotWritten> {
        self.put_varint(u64::from(value))
    }
    fn serialize_u32(self, value: u32) -> Result<(), NotWritten> {
        self.put_varint(u64::from(value))
    }
    fn serialize_u64(self, value: u64) -> Result<(), NotWritten> {
        self.put_varint(value)
    }
    fn serialize_f32(self, value: f32) -> Result<(), NotWritten> {
        self.put(&value.to_le_bytes())
    }
    fn serialize_f64(self, value: f64) -> Result<(), NotWritten> {
        self.put(&value.to_le_bytes())
    }
    fn serialize_char(self, value: char) -> Result<(), NotWritten> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }
    fn serialize_str(self, value: &str) -> Result<(), NotWritten> {
        self.serialize_bytes(value.as_bytes())
    }
    fn serialize_bytes(self, value: &[u8]) -> Result<(), NotWritten> {
        self.put_len(Some(value.len()))?.put(value)
    }
    fn serialize_none(self) -> Result<(), NotWritten> {
        self.put_byte(0)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), NotWritten> {
        self.put_byte(1)?;
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), NotWritten> {
        Ok(())
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), NotWritten> {
        Ok(())
    }
    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Result<(), NotWritten> {
        self.put_variant(index).map(|_| ())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), NotWritten> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), NotWritten> {
        value.serialize(self.put_variant(index)?)
    }
    fn serialize_seq(self, len: Option<usize>) -> Result<Self, NotWritten> {
        self.put_len(len)
    }
    fn serialize_tuple(self, _: usize) -> Result<Self, NotWritten> {
        Ok(self)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, NotWritten> {
        Ok(self)
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, NotWritten> {
        self.put_variant(index)
    }
    fn serialize_map(self, len: Option<usize>) -> Result<Self, NotWritten> {
        self.put_len(len)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, NotWritten> {
        Ok(self)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, NotWritten> {
        self.put_variant(index)
    }
    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Result<(), NotWritten> {
        Err(NotWritten)
    }
}

/// Elements and fields follow each other, and nothing says where they end.
macro_rules! put_one_after_the_other {
    ($($trait:ident::$method:ident($($name:ty)?)),* $(,)?) => {$(
        impl ser::$trait for &mut Writer<'_> {
            type Ok = ();
            type Error = NotWritten;
            fn $method<T: Serialize + ?Sized>(&mut self, $(_: $name,)? value: &T) -> Result<(), NotWritten> {
                value.serialize(&mut **self)
            }
            fn end(self) -> Result<(), NotWritten> {
                Ok(())
            }
        }
    )*};
}

put_one_after_the_other! {
    SerializeSeq::serialize_element(),
    SerializeTuple::serialize_element(),
    SerializeTupleStruct::serialize_field(),
    SerializeTupleVariant::serialize_field(),
    SerializeStruct::serialize_field(&'static str),
    SerializeStructVariant::serialize_field(&'static str),
}

impl ser::SerializeMap for &mut Writer<'_> {
    type Ok = ();
    type Error = NotWritten;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), NotWritten> {
        key.serialize(&mut **self)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotWritten> {
        value.serialize(&mut **self)
    }
    fn end(self) -> Result<(), NotWritten> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Serialize;

    use super::*;

    /// Everything that serde tells apart, save what has no length.
    #[derive(Debug, Clone, Serialize)]
    enum Any {
        Unit,
        Newtype(Option<Box<Any>>),
        Tuple(bool, i8, i16, i32, i64),
        Fields { a: u8, b: u16, c: u32, d: u64, e: (), pair: Pair },
        Texts(char, String, Vec<u8>, BTreeMap<u16, String>),
        Floats([f64; 2], Single),
    }
    #[derive(Debug, Clone, Serialize)]
    struct Pair(f32, u64);
    #[derive(Debug, Clone, Serialize)]
    struct Single(Nothing);
    #[derive(Debug, Clone, Serialize)]
    struct Nothing;

    /// Of every size, so that varints have every length.
    fn number() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0u32..64).prop_map(|(wide, shift)| wide >> shift)
    }

    fn any_value() -> impl Strategy<Value = Any> {
        let leaf = prop_oneof![
            Just(Any::Unit),
            Just(Any::Newtype(None)),
            number().prop_map(|n| Any::Tuple(n & 1 == 0, n as i8, n as i16, n as i32, n as i64)),
            number().prop_map(|n| {
                let pair = Pair(n as f32, n);
                Any::Fields { a: n as u8, b: n as u16, c: n as u32, d: n, e: (), pair }
            }),
            (any::<char>(), "\\PC{0,40}", proptest::collection::vec(any::<u8>(), 0..200)).prop_map(
                |(one, text, bytes)| {
                    let map = [(bytes.len() as u16, text.clone())].into();
                    Any::Texts(one, text, bytes, map)
                }
            ),
            any::<[f64; 2]>().prop_map(|both| Any::Floats(both, Single(Nothing))),
        ];
        leaf.prop_recursive(3, 4, 1, |inner| inner.prop_map(|value| Any::Newtype(Some(Box::new(value)))))
    }

    #[test]
    fn what_does_not_fit_and_what_has_no_form_is_refused() {
        let mut out = [0; 3];
        assert_eq!("abc".serialize(&mut Writer::new(&mut out)), Err(NotWritten));
        assert_eq!(u64::MAX.serialize(&mut Writer::new(&mut out)), Err(NotWritten));
        assert_eq!(1u128.serialize(&mut Writer::new(&mut out)), Err(NotWritten));
    }

    proptest! {
        #[test]
        fn every_value_is_written_as_by_the_crate(value in any_value()) {
            let (mut ours, mut theirs) = ([0; 1_024], [0; 1_024]);
            let mut writer = Writer::new(&mut ours);
            value.serialize(&mut writer).unwrap();
            prop_assert_eq!(writer.written(), &*postcard::to_slice(&value, &mut theirs).unwrap());
        }
    }
}
