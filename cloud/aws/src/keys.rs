//! All keys of one deployment, derived from the one secret in Secrets Manager.

use convoy_cloud_core::cursor::CursorKey;
use convoy_cloud_core::webhook::WebhookMasterKey;

/// Shortest secret, characters; the template makes 64.
const SECRET_CHARS_MIN: usize = 32;

/// The keys. Each is BLAKE3's key derivation of the secret under a context of its own, so that none tells of another.
pub struct Keys {
    /// Encrypts VINs and customers' pseudonym keys in the reference database.
    pub vin: [u8; 32],
    /// Signs cursors.
    pub cursor: CursorKey,
    /// Derives the secrets of endpoints.
    pub webhook: WebhookMasterKey,
    /// Seed of the Ed25519 key that signs campaigns.
    pub campaign: [u8; 32],
    /// Seals the routing snapshot.
    pub routing: [u8; 32],
}

/// The secret is too short to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secret has {0} characters, at least {SECRET_CHARS_MIN} are needed: let Secrets Manager make one of 64"
)]
pub struct ShortSecret(usize);

impl Keys {
    /// From the secret's text.
    pub fn derive(secret: &str) -> Result<Self, ShortSecret> {
        if secret.len() < SECRET_CHARS_MIN {
            return Err(ShortSecret(secret.len()));
        }
        let key = |context: &str| blake3::derive_key(context, secret.as_bytes());
        Ok(Self {
            vin: key("convoy 2026-11-24 vin key v1"),
            cursor: CursorKey(key("convoy 2026-11-24 cursor key v1")),
            webhook: WebhookMasterKey(key("convoy 2026-11-24 webhook key v1")),
            campaign: key("convoy 2026-11-24 campaign key v1"),
            routing: key("convoy 2026-11-24 routing key v1"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Do not change this test: what is stored was encrypted and signed with these keys.
    #[test]
    fn keys_of_a_secret_stay_the_same_and_differ_from_each_other() {
        let keys = Keys::derive(&"0123456789abcdef".repeat(4)).unwrap();
        let all = [keys.vin, keys.cursor.0, keys.webhook.0, keys.campaign, keys.routing];
        for (index, key) in all.iter().enumerate() {
            assert!(all[index + 1..].iter().all(|other| other != key));
        }
        let first: Vec<String> =
            all.iter().map(|key| key[..4].iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        assert_eq!(first, GOLDEN);
        assert_eq!(Keys::derive("short").err(), Some(ShortSecret(5)));
    }

    const GOLDEN: [&str; 5] = ["6b0ebaba", "b522db65", "51d5031a", "2068a242", "02eea30d"];
}
