//! The vehicle's own key, and the request for a certificate over it. The key never leaves the vehicle.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use convoy_protocol::id::VehicleId;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The key's file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in the file is no key that can be used.
    #[error("{} holds no private key in PKCS #8 PEM: remove it to have one made", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// The request cannot be made.
    #[error("cannot make the certificate request")]
    Request(#[from] rcgen::Error),
}

/// A certificate request (PKCS #10, PEM) for the vehicle, over the key in `path`, which is made where there is none:
/// ECDSA P-256, readable by its owner only.
pub fn request(path: &Path, vehicle_id: VehicleId) -> Result<String, EnrolError> {
    let failed = |action| move |source| EnrolError::File { action, path: path.into(), source };
    let key = match fs::read_to_string(path) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(|source| EnrolError::Key { path: path.into(), source })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let mut file = file.map_err(failed("create"))?;
            file.write_all(key.serialize_pem().as_bytes()).map_err(failed("write"))?;
            file.sync_all().map_err(failed("write"))?;
            key
        }
        Err(error) => return Err(failed("read")(error)),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, vehicle_id.to_string());
    Ok(params.serialize_request(&key)?.pem()?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn key_is_made_once_for_its_owner_only_and_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vehicle.key");
        let first = request(&path, VehicleId([1; 16])).unwrap();
        assert!(first.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let key = fs::read(&path).unwrap();
        request(&path, VehicleId([1; 16])).unwrap();
        assert_eq!(fs::read(&path).unwrap(), key);
        fs::write(&path, "no key").unwrap();
        assert!(matches!(request(&path, VehicleId([1; 16])), Err(EnrolError::Key { .. })));
    }
}
