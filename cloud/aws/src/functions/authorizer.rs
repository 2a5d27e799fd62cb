//! Is the presented key one of ours? The API asks the same again and decides who it speaks for; this keeps strangers
//! from invoking it.

use std::sync::Arc;

use convoy_cloud_core::credential;
use convoy_cloud_core::reference::ReferenceDatabase;

use crate::deployment::Deployment;
use crate::event::{AuthorizerEvent, AuthorizerResponse};
use crate::failure::Failure;

/// What it keeps.
pub struct State {
    reference: Arc<dyn ReferenceDatabase>,
}

impl State {
    /// Opens its ports.
    pub async fn open(deployment: &Deployment) -> Result<Self, Failure> {
        Ok(Self { reference: deployment.reference().await? })
    }
}

/// Judges a request's key.
pub async fn handle(state: &State, event: AuthorizerEvent) -> Result<AuthorizerResponse, Failure> {
    let Some((key_id, secret)) = event.bearer().and_then(credential::split) else {
        return Ok(AuthorizerResponse { is_authorized: false });
    };
    let principal = state.reference.principal(&key_id).await?;
    let is_authorized = principal.is_some_and(|principal| credential::permits(&principal, secret));
    Ok(AuthorizerResponse { is_authorized })
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoy_cloud_core::ambient::Ambient;
    use convoy_cloud_core::credential::{another_admin, split};
    use convoy_reference::{Reference, VinKey};

    #[tokio::test]
    async fn only_a_key_that_was_given_out_and_not_revoked_opens() {
        let directory = tempfile::tempdir().unwrap();
        let reference =
            Reference::open_file(&directory.path().join("r.sqlite"), &VinKey([1; 32])).await.unwrap();
        let state = State { reference: Arc::new(reference) };
        let ambient = Ambient::new(|| 7, |bytes| getrandom::fill(bytes).unwrap());
        let key = another_admin(state.reference.as_ref(), &ambient).await.unwrap().reveal().to_owned();
        let opens = async |authorization: &str| {
            let event = serde_json::json!({"headers": {"authorization": authorization}});
            handle(&state, serde_json::from_value(event).unwrap()).await.unwrap().is_authorized
        };
        assert!(opens(&format!("Bearer {key}")).await);
        let mut other = key.clone().into_bytes();
        let last = other.last_mut().unwrap();
        *last = if *last == b'a' { b'b' } else { b'a' };
        for wrong in [String::from_utf8(other).unwrap(), key[..key.len() - 1].to_owned(), "cvk_".into()] {
            assert!(!opens(&format!("Bearer {wrong}")).await, "{wrong}");
        }
        assert!(!opens(&key).await, "without its scheme");
        let (key_id, _) = split(&key).unwrap();
        state.reference.revoke_principal(&key_id, 8).await.unwrap();
        assert!(!opens(&format!("Bearer {key}")).await, "revoked");
    }
}
