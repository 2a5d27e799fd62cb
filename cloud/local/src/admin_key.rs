//! The first admin key: made at the first start, shown once, stored hashed.

use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::credential::ApiKey;
use convoy_cloud_core::ports::PortError;
use convoy_cloud_core::reference::{ReferenceDatabase, Role};

/// Makes an admin key if there is none that works.
pub async fn first(
    reference: &dyn ReferenceDatabase,
    ambient: &Ambient,
) -> Result<Option<ApiKey>, PortError> {
    if reference.has_admin().await? {
        return Ok(None);
    }
    another(reference, ambient).await.map(Some)
}

/// Makes one more admin key.
pub async fn another(reference: &dyn ReferenceDatabase, ambient: &Ambient) -> Result<ApiKey, PortError> {
    let (key, principal) = ApiKey::random(Role::Admin, ambient);
    reference.create_principal(&principal).await?;
    Ok(key)
}
