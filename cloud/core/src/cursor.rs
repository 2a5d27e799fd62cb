//! Cursors: opaque and signed, so that a client can neither forge a position nor use another list's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Key that signs cursors; 32 random bytes, the same in every process of a deployment.
#[derive(Clone)]
pub struct CursorKey(pub [u8; 32]);

/// Why a cursor is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this list: take one from a page of this list, unchanged, or leave it out")]
pub struct CursorError;

const PREFIX: &str = "c1";

fn mac(key: &CursorKey, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes a key of any length");
    mac.update(PREFIX.as_bytes());
    mac.update(body);
    mac
}

/// The cursor after `position` in the list called `scope`.
pub fn encode(key: &CursorKey, scope: &str, position: &str) -> String {
    let body = format!("{scope}:{position}");
    let tag = mac(key, body.as_bytes()).finalize().into_bytes();
    format!("{PREFIX}.{}.{}", URL_SAFE_NO_PAD.encode(&body), URL_SAFE_NO_PAD.encode(&tag[..16]))
}

/// The position a cursor of the list called `scope` stands for.
pub fn decode(key: &CursorKey, scope: &str, cursor: &str) -> Result<String, CursorError> {
    let mut parts = cursor.split('.');
    let (Some(PREFIX), Some(body), Some(tag), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(CursorError);
    };
    let body = URL_SAFE_NO_PAD.decode(body).map_err(|_| CursorError)?;
    let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| CursorError)?;
    if tag.len() != 16 {
        return Err(CursorError);
    }
    mac(key, &body).verify_truncated_left(&tag).map_err(|_| CursorError)?;
    let (whose, position) =
        std::str::from_utf8(&body).ok().and_then(|body| body.split_once(':')).ok_or(CursorError)?;
    if whose == scope { Ok(position.to_owned()) } else { Err(CursorError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_round_trips_and_tampered_or_foreign_ones_are_refused() {
        let key = CursorKey([3; 32]);
        let cursor = encode(&key, "sub_a", "41");
        assert_eq!(decode(&key, "sub_a", &cursor).as_deref(), Ok("41"));
        assert_eq!(decode(&key, "sub_b", &cursor), Err(CursorError));
        assert_eq!(decode(&CursorKey([4; 32]), "sub_a", &cursor), Err(CursorError));
        let forged = cursor.replace(&URL_SAFE_NO_PAD.encode("sub_a:41"), &URL_SAFE_NO_PAD.encode("sub_a:1"));
        assert_ne!(forged, cursor);
        assert_eq!(decode(&key, "sub_a", &forged), Err(CursorError));
        assert_eq!(decode(&key, "sub_a", "c1..AAAA"), Err(CursorError));
    }
}
