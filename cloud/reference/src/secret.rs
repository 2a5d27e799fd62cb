//! What is encrypted in the database, and under which keys.
//!
//! One key is given; each use has its own, derived by HMAC-SHA-256 with a label. Encryption is ChaCha20-Poly1305
//! (RFC 8439) with a random nonce in front of the ciphertext, and the id of the row as associated data, so that a
//! ciphertext moved to another row does not open.

use std::fmt;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce};
use convoy_cloud_core::identity::{CustomerId, CustomerKey};
use convoy_cloud_core::ports::PortError;
use convoy_protocol::id::VehicleId;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::failure::{refused, unavailable};

/// Bytes of a ChaCha20-Poly1305 nonce.
const NONCE_BYTES: usize = 12;

/// The key of the vehicle identification numbers: 32 random bytes, kept outside the database. Without it, neither
/// VINs nor customers' pseudonyms can be read.
#[derive(Clone)]
pub struct VinKey(pub [u8; 32]);

impl fmt::Debug for VinKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VinKey(..)")
    }
}

/// The derived keys.
pub(crate) struct Keyring {
    vin: ChaCha20Poly1305,
    customer: ChaCha20Poly1305,
    vin_lookup: [u8; 32],
    check: [u8; 32],
}

impl Keyring {
    pub(crate) fn derive(key: &VinKey) -> Self {
        let derived = |label: &str| hmac(&key.0, label.as_bytes());
        Self {
            vin: ChaCha20Poly1305::new(&derived("convoy reference v1: vin encryption").into()),
            customer: ChaCha20Poly1305::new(&derived("convoy reference v1: customer key encryption").into()),
            vin_lookup: derived("convoy reference v1: vin lookup"),
            check: derived("convoy reference v1: key check"),
        }
    }

    /// Stored at the first opening and compared at every later one.
    pub(crate) fn check_tag(&self) -> &[u8; 32] {
        &self.check
    }

    /// Under which a VIN is found again.
    pub(crate) fn vin_hmac(&self, vin: &str) -> [u8; 32] {
        hmac(&self.vin_lookup, vin.as_bytes())
    }

    pub(crate) fn seal_vin(&self, vehicle_id: VehicleId, vin: &str) -> Result<Vec<u8>, PortError> {
        seal(&self.vin, &vehicle_id.0, vin.as_bytes())
    }

    pub(crate) fn open_vin(&self, vehicle_id: VehicleId, sealed: &[u8]) -> Result<String, PortError> {
        unseal(&self.vin, &vehicle_id.0, sealed).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(
            || refused(format!("the stored vin of vehicle {vehicle_id} does not open with this key")),
        )
    }

    pub(crate) fn seal_customer_key(&self, id: &CustomerId, key: &CustomerKey) -> Result<Vec<u8>, PortError> {
        seal(&self.customer, id.as_str().as_bytes(), &key.0)
    }

    pub(crate) fn open_customer_key(&self, id: &CustomerId, sealed: &[u8]) -> Result<CustomerKey, PortError> {
        unseal(&self.customer, id.as_str().as_bytes(), sealed)
            .and_then(|bytes| bytes.try_into().ok())
            .map(CustomerKey)
            .ok_or_else(|| refused(format!("the stored key of customer {id} does not open with this key")))
    }
}

fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// `N` bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], PortError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| unavailable(format!("the operating system gave no random bytes: {error}")))?;
    Ok(bytes)
}

fn seal(cipher: &ChaCha20Poly1305, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, PortError> {
    let nonce = random::<NONCE_BYTES>()?;
    let ciphertext = cipher
        .encrypt(Nonce::from_slice(&nonce), Payload { msg: plain, aad })
        .map_err(|_| refused("the value is too long to encrypt"))?;
    Ok([nonce.as_slice(), &ciphertext].concat())
}

fn unseal(cipher: &ChaCha20Poly1305, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, ciphertext) = sealed.split_at_checked(NONCE_BYTES)?;
    cipher.decrypt(Nonce::from_slice(nonce), Payload { msg: ciphertext, aad }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vin_opens_only_in_its_own_row_and_under_its_own_key() {
        let (mine, other) = (Keyring::derive(&VinKey([1; 32])), Keyring::derive(&VinKey([2; 32])));
        let (vehicle, vin) = (VehicleId([7; 16]), "0".repeat(17));
        let mut sealed = mine.seal_vin(vehicle, &vin).unwrap();
        assert_eq!(sealed.len(), NONCE_BYTES + 17 + 16);
        assert_eq!(mine.open_vin(vehicle, &sealed).unwrap(), vin);
        assert!(mine.open_vin(VehicleId([8; 16]), &sealed).is_err());
        assert!(other.open_vin(vehicle, &sealed).is_err());
        assert_ne!(mine.seal_vin(vehicle, &vin).unwrap(), sealed, "the nonce is drawn anew");
        sealed[NONCE_BYTES] ^= 1;
        assert!(mine.open_vin(vehicle, &sealed).is_err());
        assert!(mine.open_vin(vehicle, &sealed[..NONCE_BYTES - 1]).is_err());
    }

    #[test]
    fn lookup_hash_depends_on_key_and_vin() {
        let (mine, other) = (Keyring::derive(&VinKey([1; 32])), Keyring::derive(&VinKey([2; 32])));
        assert_eq!(mine.vin_hmac("a"), Keyring::derive(&VinKey([1; 32])).vin_hmac("a"));
        assert_ne!(mine.vin_hmac("a"), mine.vin_hmac("b"));
        assert_ne!(mine.vin_hmac("a"), other.vin_hmac("a"));
    }

    #[test]
    fn key_does_not_print() {
        assert_eq!(format!("{:?}", VinKey([0xab; 32])), "VinKey(..)");
    }
}
