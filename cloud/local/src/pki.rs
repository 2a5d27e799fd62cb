//! The fleet's certificates: the authority, what a vehicle asks of it, and what it issues and takes back.
//!
//! The private key of a vehicle is made on the vehicle and never leaves it. Of a request only the public key counts,
//! and the proof that the asker has the private one: who the vehicle is was proved by other means before: an
//! enrolment token.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ED25519, RevocationReason, RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use convoy_protocol::id::VehicleId;

/// Certificates begin to count this much earlier, for clocks that are late.
const BACKDATED: Duration = Duration::hours(1);
/// Largest request, bytes of PEM.
pub const CSR_BYTES_MAX: usize = 4_096;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Longer than any honest request.
    #[error("certificate request larger than {CSR_BYTES_MAX} bytes")]
    CsrOversize,
    /// No request, or not signed by the key in it.
    #[error("certificate request cannot be read or is not signed by its own key")]
    Csr(#[source] rcgen::Error),
    /// A kind of key that is not accepted.
    #[error("key of the certificate request is neither ECDSA P-256 nor Ed25519")]
    KeyKind,
    /// The certificate has no or more than one common name, or it is no vehicle id.
    #[error("certificate does not name a vehicle: its CN must be one vehicle id")]
    NoVehicle,
    /// No certificate.
    #[error("certificate cannot be read")]
    Certificate,
    /// The authority's own key or certificate is at fault.
    #[error("authority cannot do this")]
    Authority(#[from] rcgen::Error),
}

/// The authority of a fleet: its certificate and its private key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
}

/// A certificate, and what must be remembered to take it back.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub pem: String,
    /// Its number.
    pub serial: [u8; 16],
    /// Its end.
    pub not_after: OffsetDateTime,
}

/// A certificate that counts no more.
#[derive(Debug, Clone, Copy)]
pub struct Revoked {
    /// [`Issued::serial`].
    pub serial: [u8; 16],
    /// Since when.
    pub at: OffsetDateTime,
}

impl Authority {
    /// A new authority with a new key.
    pub fn create(name: &str, now: OffsetDateTime, lifetime: Duration) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = now - BACKDATED;
        params.not_after = now + lifetime;
        let certificate_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate_pem })
    }

    /// An authority from its files.
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key)?;
        Ok(Self { issuer, certificate_pem: certificate_pem.to_owned() })
    }

    /// The certificate, for those who check others by it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key (PKCS #8), for a file that only the owner may read.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for `vehicle_id` over the key in the request; whatever else the request wishes is ignored.
    ///
    /// `serial` is random: the caller has the randomness, and the table of what was issued.
    pub fn issue_vehicle(
        &self,
        csr_pem: &str,
        vehicle_id: VehicleId,
        serial: [u8; 16],
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<Issued, PkiError> {
        if csr_pem.len() > CSR_BYTES_MAX {
            return Err(PkiError::CsrOversize);
        }
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(PkiError::Csr)?;
        let algorithm = rcgen::PublicKeyData::algorithm(&request.public_key);
        if algorithm != &PKCS_ECDSA_P256_SHA256 && algorithm != &PKCS_ED25519 {
            return Err(PkiError::KeyKind);
        }
        let mut params = end_entity(common_name(&vehicle_id.to_string()), now, lifetime);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let serial = positive(serial);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let pem = params.signed_by(&request.public_key, &self.issuer)?.pem();
        Ok(Issued { pem, serial, not_after: params.not_after })
    }

    /// A certificate and a new key for a server that is called by `names` (host names or addresses).
    pub fn issue_server(
        &self,
        names: Vec<String>,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<(String, String), PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let name = common_name(names.first().map_or("server", String::as_str));
        let mut params = end_entity(name, now, lifetime);
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// The list of all that is revoked. `number` grows with every list; the next one comes before `next_update`.
    pub fn revocation_list(
        &self,
        revoked: &[Revoked],
        number: u64,
        now: OffsetDateTime,
        next_update: OffsetDateTime,
    ) -> Result<String, PkiError> {
        let revoked_certs = revoked.iter().map(|revoked| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&revoked.serial),
            revocation_time: revoked.at,
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now - BACKDATED,
            next_update,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

/// The vehicle that a certificate names. Who signed it must be checked elsewhere.
pub fn vehicle_id(certificate_der: &[u8]) -> Result<VehicleId, PkiError> {
    let certificate = parse(certificate_der)?;
    let mut names = certificate.subject().iter_common_name();
    match (names.next(), names.next()) {
        (Some(name), None) => {
            name.as_str().ok().and_then(|name| name.parse().ok()).ok_or(PkiError::NoVehicle)
        }
        _ => Err(PkiError::NoVehicle),
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok((&[], certificate)) => Ok(certificate),
        _ => Err(PkiError::Certificate),
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn end_entity(subject: DistinguishedName, now: OffsetDateTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - BACKDATED;
    params.not_after = now + lifetime;
    params
}

/// A serial number is a positive integer without a leading zero byte: otherwise a list of revoked numbers may write
/// it in another way than the certificate.
fn positive(mut serial: [u8; 16]) -> [u8; 16] {
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    const LIFETIME: Duration = Duration::days(90);

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

    fn request(wishes: CertificateParams) -> String {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        wishes.serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn saved_authority_issues_for_the_proved_vehicle_and_ignores_the_wishes_of_the_request() {
        let made = Authority::create("fleet", now(), Duration::days(3650)).unwrap();
        let authority = Authority::load(made.certificate_pem(), &made.key_pem()).unwrap();
        let (asks, is) = (VehicleId([1; 16]), VehicleId([2; 16]));
        // A request that wants to be an authority, and another vehicle.
        let mut wishes = CertificateParams::default();
        wishes.distinguished_name = common_name(&asks.to_string());
        wishes.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issued = authority.issue_vehicle(&request(wishes), is, [0xff; 16], now(), LIFETIME).unwrap();

        let der = der(&issued.pem);
        assert_eq!(vehicle_id(&der).unwrap(), is);
        let certificate = parse(&der).unwrap();
        assert!(!certificate.is_ca());
        assert_eq!(certificate.raw_serial(), issued.serial);
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert_eq!(certificate.validity().not_after.to_datetime(), now() + LIFETIME);
    }

    #[test]
    fn request_that_was_changed_or_is_none_is_refused() {
        let authority = Authority::create("fleet", now(), LIFETIME).unwrap();
        let mut pem = request(CertificateParams::default());
        // The last line before the end holds the signature.
        let position = pem.rfind("-----END").unwrap() - 12;
        let other = if pem.as_bytes()[position] == b'A' { "B" } else { "A" };
        pem.replace_range(position..=position, other);
        for bad in [pem.as_str(), "", "-----BEGIN CERTIFICATE REQUEST-----"] {
            let refused = authority.issue_vehicle(bad, VehicleId([1; 16]), [1; 16], now(), LIFETIME);
            assert!(matches!(refused, Err(PkiError::Csr(_))), "{refused:?}");
        }
        let long = "x".repeat(CSR_BYTES_MAX + 1);
        let refused = authority.issue_vehicle(&long, VehicleId([1; 16]), [1; 16], now(), LIFETIME);
        assert!(matches!(refused, Err(PkiError::CsrOversize)));
    }

    #[test]
    fn names_that_are_no_vehicle_are_refused() {
        let authority = Authority::create("fleet", now(), LIFETIME).unwrap();
        let (server, _) = authority.issue_server(vec!["convoy-bridge".into()], now(), LIFETIME).unwrap();
        assert!(matches!(vehicle_id(&der(&server)), Err(PkiError::NoVehicle)));
        assert!(matches!(vehicle_id(b"nonsense"), Err(PkiError::Certificate)));
        let mut twice = common_name(&VehicleId([1; 16]).to_string());
        twice.push(DnType::CustomDnType(vec![2, 5, 4, 3]), VehicleId([2; 16]).to_string());
        let key = KeyPair::generate().unwrap();
        let pem = end_entity(twice, now(), LIFETIME).self_signed(&key).unwrap().pem();
        assert!(matches!(vehicle_id(&der(&pem)), Err(PkiError::NoVehicle)));
    }
}
