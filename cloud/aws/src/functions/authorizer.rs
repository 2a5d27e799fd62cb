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
