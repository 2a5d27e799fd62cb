//! The decoder manifest: what the raw values in an envelope mean. Content-addressed, uploaded once, kept for ever.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::ManifestId;

/// Signals, and messages, in one manifest at most.
pub const MANIFEST_SIGNALS_MAX: usize = 65_536;

/// A signal's number in its manifest, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SignalIndex(pub u32);

/// Everything the cloud needs to turn a vehicle's raw values into physical ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// DBC message names; signals refer to them by position.
    pub messages: Vec<String>,
    /// The signals; a [`SignalIndex`] is a position here.
    pub signals: Vec<SignalDef>,
}

/// One signal: its DBC definition's meaning and its place in the VSS tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SignalDef {
    /// Position of its message in [`Manifest::messages`].
    pub message: u32,
    /// The DBC signal's name.
    pub name: String,
    /// The DBC unit, as written there.
    pub unit: String,
    /// physical = raw x factor + offset, in the DBC unit.
    pub factor: f64,
    /// See `factor`.
    pub offset: f64,
    /// VSS path (`Vehicle.Speed`), or a path of our own below `Vehicle.Private` where VSS has none.
    pub path: String,
    /// VSS unit of values at `path`.
    pub path_unit: String,
    /// value at path = physical x path_factor + path_offset.
    pub path_factor: f64,
    /// See `path_factor`.
    pub path_offset: f64,
}

impl SignalDef {
    /// The physical value of a DBC raw integer, in the DBC unit.
    ///
    /// Multiplied before it is added, each rounded once, as cantools does.
    pub fn physical(&self, raw: i64) -> f64 {
        raw as f64 * self.factor + self.offset
    }

    /// A physical value in the DBC unit, converted to the unit of the VSS path.
    pub fn at_path(&self, physical: f64) -> f64 {
        if self.path_factor == 1.0 && self.path_offset == 0.0 {
            return physical;
        }
        physical * self.path_factor + self.path_offset
    }
}

/// Why bytes are not a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not the encoding of a manifest.
    #[error("manifest cannot be read")]
    Encoding,
    /// More signals or messages than [`MANIFEST_SIGNALS_MAX`].
    #[error("manifest has {0} signals or messages, at most {MANIFEST_SIGNALS_MAX} are allowed")]
    TooMany(usize),
    /// A signal refers to a message that is not there.
    #[error("signal {signal} refers to message {message}, which the manifest does not have")]
    Message {
        /// The signal's number.
        signal: usize,
        /// The message's number.
        message: u32,
    },
}

impl Manifest {
    /// Its encoding: postcard.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("a manifest is plain data")
    }

    /// Reads an encoding; every reference in it is checked.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (manifest, rest) =
            postcard::take_from_bytes::<Self>(bytes).map_err(|_| ManifestError::Encoding)?;
        if !rest.is_empty() {
            return Err(ManifestError::Encoding);
        }
        let most = manifest.signals.len().max(manifest.messages.len());
        if most > MANIFEST_SIGNALS_MAX {
            return Err(ManifestError::TooMany(most));
        }
        for (signal, def) in manifest.signals.iter().enumerate() {
            if def.message as usize >= manifest.messages.len() {
                return Err(ManifestError::Message { signal, message: def.message });
            }
        }
        Ok(manifest)
    }

    /// Its content address.
    pub fn id(&self) -> ManifestId {
        id_of_encoding(&self.encode())
    }

    /// The signal's definition; `None` for a number that the manifest does not have.
    pub fn signal(&self, index: SignalIndex) -> Option<&SignalDef> {
        self.signals.get(index.0 as usize)
    }

    /// The DBC message's name of a signal of this manifest.
    pub fn message_of(&self, signal: &SignalDef) -> &str {
        self.messages.get(signal.message as usize).map_or("", String::as_str)
    }
}

/// The content address of a manifest's encoding.
pub fn id_of_encoding(encoding: &[u8]) -> ManifestId {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(encoding).as_bytes()[..16]);
    ManifestId(id)
}
