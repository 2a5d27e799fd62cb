//! The desired state of a vehicle: the campaigns that the cloud wants it to run, as one signed document.
//!
//! ```text
//! form       1 byte    01
//! document   postcard  [`DesiredState`], length before it as varint
//! signature  64 bytes  Ed25519 over "convoy desired state 1" and the document; absent where the cloud signs nothing
//! ```
//!
//! A vehicle takes a document only if it is for it, and newer than the one it has: an old one, sent again by whoever
//! recorded it, changes nothing. With a key configured it also takes no document that this key has not signed.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::campaign::Campaign;
use crate::id::VehicleId;
use crate::varint::{Bytes, put};

/// First byte of a document of this form.
pub const FORM: u8 = 1;
/// Longest document with its signature, bytes.
pub const DESIRED_BYTES_MAX: usize = 56 * 1024;
/// Bytes of an Ed25519 signature (RFC 8032).
pub const SIGNATURE_BYTES: usize = 64;
/// What a signature is over, before the document: so that it cannot be taken for one of something else.
const CONTEXT: &[u8] = b"convoy desired state 1";

/// What a vehicle shall collect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredState {
    /// For which vehicle.
    pub vehicle_id: VehicleId,
    /// Larger than that of every earlier document of this vehicle.
    pub version: u64,
    /// All its campaigns.
    pub campaigns: Vec<Campaign>,
}

/// Why a document is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DesiredError {
    /// Another form than [`FORM`].
    #[error("form {0} of the desired state is not known here, only {FORM}: update the agent")]
    Form(u8),
    /// Its bytes are no document.
    #[error("desired state cannot be read")]
    Encoding,
    /// It carries no signature, or one that the configured key did not make.
    #[error("desired state is not signed by the configured key")]
    Signature,
    /// It is for another vehicle.
    #[error("desired state is for another vehicle")]
    OtherVehicle,
    /// The vehicle collects what its own configuration says, and nothing else.
    #[error("this vehicle's configuration takes no campaigns of the cloud")]
    NotTaken,
    /// It is not newer than what the vehicle runs.
    #[error("desired state has version {got}, this vehicle has version {have} already")]
    NotNewer {
        /// The document's version.
        got: u64,
        /// The version the vehicle has.
        have: u64,
    },
}

impl DesiredError {
    /// As one sentence.
    pub fn reason(&self) -> String {
        alloc::format!("{self}")
    }
}

impl DesiredState {
    /// The document's bytes, unsigned.
    pub fn document(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("a desired state is plain data")
    }
}

/// The message that a signature is over.
pub fn signed_message(document: &[u8]) -> Vec<u8> {
    [CONTEXT, document].concat()
}

/// Puts a document and its signature together.
pub fn seal(document: &[u8], signature: Option<[u8; SIGNATURE_BYTES]>) -> Vec<u8> {
    let mut bytes = alloc::vec![FORM];
    put(&mut bytes, document.len() as u64);
    bytes.extend_from_slice(document);
    bytes.extend(signature.into_iter().flatten());
    bytes
}

/// A document taken apart; nothing of it is trusted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// The document.
    pub document: &'a [u8],
    /// Its signature, if it has one.
    pub signature: Option<&'a [u8; SIGNATURE_BYTES]>,
}

impl<'a> Sealed<'a> {
    /// Takes bytes apart.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DesiredError> {
        let body = match bytes {
            [FORM, body @ ..] => body,
            [form, ..] => return Err(DesiredError::Form(*form)),
            [] => return Err(DesiredError::Encoding),
        };
        let mut rest = Bytes::new(body);
        let len = rest.varint().and_then(|len| usize::try_from(len).ok()).ok_or(DesiredError::Encoding)?;
        let document = rest.take(len).ok_or(DesiredError::Encoding)?;
        let signature = match rest.len() {
            0 => None,
            left => {
                let bytes = rest.take(left).ok_or(DesiredError::Encoding)?;
                Some(bytes.try_into().map_err(|_| DesiredError::Encoding)?)
            }
        };
        Ok(Self { document, signature })
    }

    /// Reads the document. Check the signature first.
    pub fn read(&self) -> Result<DesiredState, DesiredError> {
        match postcard::take_from_bytes(self.document) {
            Ok((state, [])) => Ok(state),
            _ => Err(DesiredError::Encoding),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_taken_apart_as_it_was_put_together() {
        let state = DesiredState {
            vehicle_id: VehicleId([3; 16]),
            version: 7,
            campaigns: alloc::vec![Campaign::everything()],
        };
        let document = state.document();
        let unsigned = seal(&document, None);
        let sealed = Sealed::parse(&unsigned).unwrap();
        assert_eq!((sealed.signature, sealed.read()), (None, Ok(state.clone())));
        let signed = seal(&document, Some([9; 64]));
        assert_eq!(Sealed::parse(&signed).unwrap().signature, Some(&[9; 64]));
        for len in 0..signed.len() {
            let cut = Sealed::parse(&signed[..len]);
            assert!(cut.is_err() || len == unsigned.len(), "{len} bytes");
        }
        assert_eq!(Sealed::parse(&[2]), Err(DesiredError::Form(2)));
    }
}
