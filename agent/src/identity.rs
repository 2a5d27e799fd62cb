//! Who this life of the agent is: the boot id, persisted in the spool directory before anything is numbered by it.
//!
//! ```text
//! vehicle 00112233445566778899aabbccddeeff
//! boot 17-9f3c0a6be21d4477
//! ```

use std::io;
use std::path::{Path, PathBuf};

use convoy_protocol::id::{BootId, VehicleId};
use convoy_segment_log::disk::Disk;
use tracing::warn;

use crate::state_file;

const FILE_NAME: &str = "identity";

/// Why no boot id could be given.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory holds what another vehicle recorded.
    #[error("spool {} belongs to vehicle {found}, the configuration says {configured}: give each vehicle its own directory", dir.display())]
    OtherVehicle {
        /// The spool directory.
        dir: PathBuf,
        /// The vehicle that used it before.
        found: VehicleId,
        /// The vehicle configured now.
        configured: VehicleId,
    },
    /// The system gave no random bytes.
    #[error("cannot draw a random spool id: {0}")]
    Random(getrandom::Error),
}

/// Counts a start in `dir` and returns the new boot id, which no earlier start of this vehicle had.
///
/// The caller holds the lock of the spool: two processes must not count at the same time.
pub fn next_boot(disk: &dyn Disk, dir: &Path, vehicle_id: VehicleId) -> Result<BootId, IdentityError> {
    let path = dir.join(FILE_NAME);
    let failed = |action| move |path, source| IdentityError::Io { action, path, source };
    let content = state_file::read(disk, &path).map_err(|source| failed("read")(path.clone(), source))?;
    let boot_id = match content.as_deref().map(parse) {
        Some(Some((found, _))) if found != vehicle_id => {
            return Err(IdentityError::OtherVehicle { dir: dir.into(), found, configured: vehicle_id });
        }
        Some(Some((_, last))) if last.counter < u32::MAX => {
            BootId { counter: last.counter + 1, spool: last.spool }
        }
        known => {
            if known == Some(None) {
                warn!(path = %path.display(), "identity file is damaged: going on as a new spool");
            }
            BootId { counter: 1, spool: getrandom::u64().map_err(IdentityError::Random)? }
        }
    };
    let content = format!("vehicle {vehicle_id}\nboot {boot_id}\n");
    state_file::write_durably(disk, &path, content.as_bytes())
        .map_err(|source| failed("write")(path, source))?;
    Ok(boot_id)
}

fn parse(content: &str) -> Option<(VehicleId, BootId)> {
    let mut lines = content.lines();
    let vehicle_id = lines.next()?.strip_prefix("vehicle ")?.parse().ok()?;
    let boot_id = lines.next()?.strip_prefix("boot ")?.parse().ok()?;
    Some((vehicle_id, boot_id))
}

#[cfg(test)]
mod tests {
    use convoy_segment_log::disk::SystemDisk;

    use super::*;

    const VEHICLE: VehicleId = VehicleId([7; 16]);

    #[test]
    fn counter_grows_and_the_spool_id_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = next_boot(&SystemDisk, dir.path(), VEHICLE).unwrap();
        let second = next_boot(&SystemDisk, dir.path(), VEHICLE).unwrap();
        assert_eq!((first.counter, second.counter), (1, 2));
        assert_eq!(first.spool, second.spool);
    }

    #[test]
    fn wiped_or_damaged_identity_gets_another_spool_id() {
        let dir = tempfile::tempdir().unwrap();
        let first = next_boot(&SystemDisk, dir.path(), VEHICLE).unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "vehicle").unwrap();
        let second = next_boot(&SystemDisk, dir.path(), VEHICLE).unwrap();
        std::fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
        let third = next_boot(&SystemDisk, dir.path(), VEHICLE).unwrap();
        assert_eq!((second.counter, third.counter), (1, 1));
        assert!(first.spool != second.spool && second.spool != third.spool);
    }

    #[test]
    fn last_counter_is_followed_by_a_new_spool_id() {
        let dir = tempfile::tempdir().unwrap();
        let last = BootId { counter: u32::MAX, spool: 5 };
        std::fs::write(dir.path().join(FILE_NAME), format!("vehicle {VEHICLE}\nboot {last}\n")).unwrap();
        let next = next_boot(&SystemDisk, dir.path(), VEHICLE).unwrap();
        assert_eq!(next.counter, 1);
        assert_ne!(next.spool, 5);
    }

    #[test]
    fn spool_of_another_vehicle_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        next_boot(&SystemDisk, dir.path(), VEHICLE).unwrap();
        let refused = next_boot(&SystemDisk, dir.path(), VehicleId([8; 16]));
        assert!(matches!(refused, Err(IdentityError::OtherVehicle { found: VEHICLE, .. })));
    }
}
