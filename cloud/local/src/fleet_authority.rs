//! The fleet's authority on one machine: its files, and what happens to the listener when a certificate is revoked.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use convoy_cloud_core::enrol::{Certificate, CertificateAuthority, RevokedCertificate};
use convoy_protocol::id::VehicleId;
use time::{Duration, OffsetDateTime};

use crate::pki::{Authority, Revoked};
use crate::vehicle_listener::{ServerTls, TlsPem, VehicleListener};

/// How long the authority counts.
const AUTHORITY_LIFE: Duration = Duration::days(3_650);
/// How long a vehicle's certificate counts.
const VEHICLE_LIFE: Duration = Duration::days(365);
/// How long the server's certificate counts; a new one is made at each start and each renewal of the list.
const SERVER_LIFE: Duration = Duration::days(90);
/// How long a list of revoked certificates counts: a late one locks every vehicle out, so it is renewed much earlier.
const LIST_LIFE: Duration = Duration::days(30);

/// The authority with its folder.
pub struct FleetAuthority {
    authority: Authority,
    names: Vec<String>,
    listener: Mutex<Option<Arc<VehicleListener>>>,
    /// What was revoked, as far as this process was told: an older list never takes the place of a newer one.
    revoked: Mutex<BTreeMap<[u8; 16], i64>>,
}

impl FleetAuthority {
    /// Opens the authority in `dir`, or makes one. `names` are what vehicles call the server.
    pub fn open(dir: &Path, names: Vec<String>, now_us: i64) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let (certificate, key) = (dir.join("ca.pem"), dir.join("ca.key"));
        let authority = if key.exists() {
            let read =
                |path: &PathBuf| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
            Authority::load(&read(&certificate)?, &read(&key)?).context("load the fleet's authority")?
        } else {
            let made = Authority::create("Convoy fleet", time_of(now_us), AUTHORITY_LIFE)
                .context("make the fleet's authority")?;
            write(&certificate, made.certificate_pem(), 0o644)?;
            write(&key, &made.key_pem(), 0o600)?;
            made
        };
        Ok(Self { authority, names, listener: Mutex::new(None), revoked: Mutex::default() })
    }

    /// What the listener needs: a server certificate, the authority, and what is revoked.
    pub fn tls(&self, revoked: &[RevokedCertificate], now_us: i64) -> Result<ServerTls> {
        let now = time_of(now_us);
        let (certificate, key) = self.authority.issue_server(self.names.clone(), now, SERVER_LIFE)?;
        let revoked: Vec<Revoked> =
            revoked.iter().map(|one| Revoked { serial: one.serial, at: time_of(one.revoked_us) }).collect();
        // Numbers grow with time, also over a restart.
        let number = u64::try_from(now_us / 1_000).unwrap_or(0);
        let list = self.authority.revocation_list(&revoked, number, now, now + LIST_LIFE)?;
        let pem = TlsPem {
            certificate: &certificate,
            key: &key,
            vehicle_ca: self.authority.certificate_pem(),
            revoked: Some(&list),
        };
        Ok(ServerTls::new(pem)?)
    }

    /// The listener that is told what is revoked.
    pub fn set_listener(&self, listener: Arc<VehicleListener>) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }
}

impl CertificateAuthority for FleetAuthority {
    fn issue(
        &self,
        csr_pem: &str,
        vehicle_id: VehicleId,
        serial: [u8; 16],
        now_us: i64,
    ) -> Result<Certificate, String> {
        let issued = self
            .authority
            .issue_vehicle(csr_pem, vehicle_id, serial, time_of(now_us), VEHICLE_LIFE)
            .map_err(|error| error.to_string())?;
        Ok(Certificate {
            pem: issued.pem,
            serial: issued.serial,
            not_after_us: issued.not_after.unix_timestamp().saturating_mul(1_000_000),
        })
    }

    fn authority_pem(&self) -> String {
        self.authority.certificate_pem().to_owned()
    }

    fn revoke(&self, revoked: &[RevokedCertificate], now_us: i64) -> Result<(), String> {
        // Held until the list is in place.
        let mut known = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(revoked.iter().map(|one| (one.serial, one.revoked_us)));
        let all: Vec<_> =
            known.iter().map(|(&serial, &revoked_us)| RevokedCertificate { serial, revoked_us }).collect();
        let tls = self.tls(&all, now_us).map_err(|error| format!("{error:#}"))?;
        if let Some(listener) = self.listener.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            listener.replace_tls(tls);
        }
        Ok(())
    }
}

fn time_of(us: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(us.div_euclid(1_000_000)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Written whole before it has its name: a key that was written by half would end a fleet.
fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let partial = path.with_extension("new");
    let act = || -> std::io::Result<()> {
        // One that a crash left has another file's mode.
        if partial.exists() {
            fs::remove_file(&partial)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    act().with_context(|| format!("write {}", path.display()))
}
