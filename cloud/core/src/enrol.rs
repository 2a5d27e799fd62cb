//! How a vehicle comes to its certificate: a key made on the vehicle, a request for it, and a token that an operator
//! gave out for this one vehicle.
//!
//! ```text
//! operator  POST /admin/v1/vehicles/{id}/enrolments   -> token, once, for some hours
//! vehicle   convoy-agent csr                          -> key (stays there) and certificate request
//! vehicle   POST /provision/v1/certificates           token + request -> certificate, authority, campaign key
//! operator  POST /admin/v1/vehicles/{id}/revocations  -> what was issued counts no more, connections end
//! ```
//!
//! A certificate is renewed in the same way: a new token, a new key, a new request.

use convoy_protocol::id::VehicleId;

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate, PEM.
    pub pem: String,
    /// Its number.
    pub serial: [u8; 16],
    /// When it ends, microseconds since the Unix epoch, UTC.
    pub not_after_us: i64,
}

/// A certificate that counts no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevokedCertificate {
    /// Its number.
    pub serial: [u8; 16],
    /// Since when, microseconds since the Unix epoch, UTC.
    pub revoked_us: i64,
}

/// The fleet's certificate authority.
pub trait CertificateAuthority: Send + Sync {
    /// Issues a certificate for the vehicle over the key in the request; the error is for whoever asked.
    fn issue(
        &self,
        csr_pem: &str,
        vehicle_id: VehicleId,
        serial: [u8; 16],
        now_us: i64,
    ) -> Result<Certificate, String>;
    /// The authority's own certificate, PEM: what vehicles check the broker's by.
    fn authority_pem(&self) -> String;
    /// From now on these, and only these, are revoked; connections with one of them are ended.
    fn revoke(&self, revoked: &[RevokedCertificate], now_us: i64) -> Result<(), String>;
}
