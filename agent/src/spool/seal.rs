//! Encryption at rest: each record on its own, so that a damaged one takes no other with it.
//!
//! ```text
//! 43 53 nonce(12) ciphertext tag(16)     AES-256-GCM (NIST SP 800-38D), the first two bytes authenticated too
//! ```
//!
//! Records without these first two bytes are read as they are: a key may be configured for a spool that has some.

use std::borrow::Cow;
use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

const MARK: [u8; 2] = *b"CS";

/// Bytes of a spool key.
pub const SPOOL_KEY_BYTES: usize = 32;

/// Seals and opens records with one key.
#[derive(Clone)]
pub struct SpoolKey(std::sync::Arc<LessSafeKey>);

impl fmt::Debug for SpoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpoolKey")
    }
}

/// A record was sealed with another key, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unopened;

impl SpoolKey {
    /// A key of random bytes.
    pub fn new(bytes: &[u8; SPOOL_KEY_BYTES]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256 takes 32 bytes");
        Self(std::sync::Arc::new(LessSafeKey::new(key)))
    }

    fn seal(&self, record: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce)?;
        let mut sealed = Vec::with_capacity(MARK.len() + NONCE_LEN + record.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(&MARK);
        sealed.extend_from_slice(&nonce);
        let mut body = record.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0
            .seal_in_place_append_tag(nonce, Aad::from(MARK), &mut body)
            .expect("a record is far shorter than 64 GiB");
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = body.to_vec();
        let len = self.0.open_in_place(nonce, Aad::from(MARK), &mut body).ok()?.len();
        body.truncate(len);
        Some(body)
    }
}

/// What a record is put into the log as.
pub(crate) fn seal(key: Option<&SpoolKey>, record: Vec<u8>) -> std::io::Result<Vec<u8>> {
    match key {
        None => Ok(record),
        Some(key) => key.seal(&record).map_err(|error| std::io::Error::other(error.to_string())),
    }
}

/// What a record in the log holds.
pub(crate) fn open<'r>(key: Option<&SpoolKey>, record: &'r [u8]) -> Result<Cow<'r, [u8]>, Unopened> {
    match record.strip_prefix(&MARK) {
        None => Ok(Cow::Borrowed(record)),
        Some(sealed) => key.and_then(|key| key.open(sealed)).map(Cow::Owned).ok_or(Unopened),
    }
}

/// Bytes that sealing adds.
pub(crate) const SEAL_BYTES: usize = MARK.len() + NONCE_LEN + 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_opened_with_its_key_only_and_whole_only() {
        let (key, other) = (SpoolKey::new(&[1; 32]), SpoolKey::new(&[2; 32]));
        let sealed = seal(Some(&key), b"CV record".to_vec()).unwrap();
        assert_eq!(sealed.len(), 9 + SEAL_BYTES);
        assert!(!sealed.windows(6).any(|window| window == b"record"));
        assert_eq!(open(Some(&key), &sealed).unwrap().as_ref(), b"CV record");
        assert_eq!((open(Some(&other), &sealed), open(None, &sealed)), (Err(Unopened), Err(Unopened)));
        for at in 2..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(open(Some(&key), &damaged), Err(Unopened), "byte {at}");
        }
        assert_eq!(open(Some(&key), b"CV plain").unwrap().as_ref(), b"CV plain");
    }
}
