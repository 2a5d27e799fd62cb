//! API keys: `cvk_` and the public part, `_` and a secret of 256 random bits. Shown once, stored hashed.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::ambient::Ambient;
use crate::identity::KeyId;
use crate::ports::PortError;
use crate::reference::{Principal, ReferenceDatabase, Role};

/// What every key begins with, so that secret scanners find leaked ones.
const KEY_PREFIX: &str = "cvk_";

/// A new key in clear; printing it is the caller's one chance.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl ApiKey {
    /// The text to show once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// A new random key and what to store of it.
    pub fn random(role: Role, ambient: &Ambient) -> (Self, Principal) {
        let key_id = KeyId::random(ambient);
        let secret = BASE32_NOPAD.encode(&ambient.random::<32>()).to_ascii_lowercase();
        let public = key_id.as_str().trim_start_matches("key_");
        let principal = Principal {
            secret_hash: hash(&secret),
            role,
            created_us: ambient.now_us(),
            revoked_us: None,
            key_id: key_id.clone(),
        };
        (Self(format!("{KEY_PREFIX}{public}_{secret}")), principal)
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Makes an admin key if there is none that works.
pub async fn first_admin(
    reference: &dyn ReferenceDatabase,
    ambient: &Ambient,
) -> Result<Option<ApiKey>, PortError> {
    if reference.has_admin().await? {
        return Ok(None);
    }
    another_admin(reference, ambient).await.map(Some)
}

/// Makes one more admin key.
pub async fn another_admin(
    reference: &dyn ReferenceDatabase,
    ambient: &Ambient,
) -> Result<ApiKey, PortError> {
    let (key, principal) = ApiKey::random(Role::Admin, ambient);
    reference.create_principal(&principal).await?;
    Ok(key)
}

/// The two parts of a presented key; `None` where it has not the form of one.
pub fn split(presented: &str) -> Option<(KeyId, &str)> {
    let (public, secret) = presented.strip_prefix(KEY_PREFIX)?.split_once('_')?;
    Some((format!("key_{public}").parse().ok()?, secret))
}

/// Does the secret belong to the stored key, and is the key still good? Takes the same time for every secret.
pub fn permits(principal: &Principal, secret: &str) -> bool {
    bool::from(hash(secret).ct_eq(&principal.secret_hash)) && principal.revoked_us.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_only_with_its_own_secret_and_until_it_is_revoked() {
        let ambient = Ambient::new(|| 5, |bytes| bytes.fill(9));
        let (key, mut principal) = ApiKey::random(Role::Admin, &ambient);
        let (key_id, secret) = split(key.reveal()).unwrap();
        assert_eq!(key_id, principal.key_id);
        assert!(permits(&principal, secret));
        assert!(!permits(&principal, &secret[1..]));
        principal.revoked_us = Some(6);
        assert!(!permits(&principal, secret));
        assert_eq!(split("cvk_x_y"), None);
        assert!(!format!("{key:?}").contains(secret));
    }
}
