//! The desired state as it comes from the cloud: checked, and kept for the next start.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use convoy_protocol::desired::{DesiredError, DesiredState, Sealed, signed_message};
use convoy_protocol::id::VehicleId;
use convoy_segment_log::disk::Disk;
use ring::signature::{ED25519, UnparsedPublicKey};
use tracing::warn;

use crate::state_file;

const FILE: &str = "desired";

/// The Ed25519 public key (RFC 8032) that campaigns must be signed with, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CampaignKey(pub [u8; 32]);

impl fmt::Debug for CampaignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CampaignKey")
    }
}

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hex digits, as `convoy serve` prints them at its start")]
pub struct CampaignKeyError;

impl FromStr for CampaignKey {
    type Err = CampaignKeyError;
    fn from_str(text: &str) -> Result<Self, CampaignKeyError> {
        // A vehicle id has the same form at half the length.
        let half = |text: Option<&str>| text.and_then(|text| text.parse::<VehicleId>().ok());
        match (half(text.get(..32)), half(text.get(32..))) {
            (Some(first), Some(second)) => {
                let mut key = [0; 32];
                key[..16].copy_from_slice(&first.0);
                key[16..].copy_from_slice(&second.0);
                Ok(Self(key))
            }
            _ => Err(CampaignKeyError),
        }
    }
}

/// Reads a sealed document that is for this vehicle and, with a key, signed by it.
///
/// # Errors
/// With the version, where it could be read.
pub fn check(
    sealed: &[u8],
    key: Option<&CampaignKey>,
    vehicle_id: VehicleId,
) -> Result<DesiredState, (Option<u64>, DesiredError)> {
    let parsed = Sealed::parse(sealed).map_err(|error| (None, error))?;
    if let Some(key) = key {
        let message = signed_message(parsed.document);
        let is_signed = parsed.signature.is_some_and(|signature| {
            UnparsedPublicKey::new(&ED25519, key.0).verify(&message, signature).is_ok()
        });
        if !is_signed {
            return Err((parsed.read().ok().map(|state| state.version), DesiredError::Signature));
        }
    }
    let state = parsed.read().map_err(|error| (None, error))?;
    if state.vehicle_id != vehicle_id {
        return Err((Some(state.version), DesiredError::OtherVehicle));
    }
    Ok(state)
}

/// Keeps the document: after the next start the vehicle collects at once, and takes no older one.
pub(crate) fn remember(disk: &dyn Disk, dir: &Path, sealed: &[u8]) {
    if let Err(error) = state_file::write_durably(disk, &dir.join(FILE), sealed) {
        warn!("cannot keep the campaigns for the next start: {error}");
    }
}

/// The document that was kept. One that does not pass the check any more, because the key was changed, is not used.
pub(crate) fn recall(
    disk: &dyn Disk,
    dir: &Path,
    key: Option<&CampaignKey>,
    vehicle_id: VehicleId,
) -> Option<DesiredState> {
    let sealed = match state_file::read_bytes(disk, &dir.join(FILE)) {
        Ok(sealed) => sealed?,
        Err(error) => {
            warn!("cannot read the campaigns that were kept, the cloud sends them again: {error}");
            return None;
        }
    };
    match check(&sealed, key, vehicle_id) {
        Ok(state) => Some(state),
        Err((_, error)) => {
            warn!("the campaigns that were kept are not used: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use convoy_protocol::campaign::Campaign;
    use convoy_protocol::desired::seal;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    const VEHICLE: VehicleId = VehicleId([3; 16]);

    #[test]
    fn only_what_the_configured_key_signed_for_this_vehicle_is_taken() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let key = CampaignKey(pair.public_key().as_ref().try_into().unwrap());
        let state = DesiredState { vehicle_id: VEHICLE, version: 4, campaigns: vec![Campaign::everything()] };
        let document = state.document();
        let signature: [u8; 64] = pair.sign(&signed_message(&document)).as_ref().try_into().unwrap();
        let signed = seal(&document, Some(signature));
        assert_eq!(check(&signed, Some(&key), VEHICLE), Ok(state.clone()));
        assert_eq!(check(&signed, None, VEHICLE), Ok(state));
        let refused = Err((Some(4), DesiredError::Signature));
        assert_eq!(check(&seal(&document, None), Some(&key), VEHICLE), refused);
        assert_eq!(check(&signed, Some(&CampaignKey([1; 32])), VEHICLE), refused);
        assert_eq!(
            check(&signed, Some(&key), VehicleId([4; 16])),
            Err((Some(4), DesiredError::OtherVehicle))
        );
        for at in 2..signed.len() {
            let mut damaged = signed.clone();
            damaged[at] ^= 1;
            assert!(check(&damaged, Some(&key), VEHICLE).is_err(), "byte {at}");
        }
    }

    #[test]
    fn key_is_read_from_64_hex_digits() {
        let text = "00112233445566778899aabbccddeeffffeeddccbbaa99887766554433221100";
        let key: CampaignKey = text.parse().unwrap();
        assert_eq!((key.0[1], key.0[31]), (0x11, 0));
        for bad in ["", "00", &text[1..], &text.to_uppercase()] {
            assert_eq!(bad.parse::<CampaignKey>(), Err(CampaignKeyError));
        }
    }
}
