//! What the database said, as the port's error.

use convoy_cloud_core::ports::PortError;
use sqlx::error::ErrorKind;

/// The service's name in errors.
pub(crate) const SERVICE: &str = "reference database";

pub(crate) fn refused(reason: impl Into<String>) -> PortError {
    PortError::Refused { service: SERVICE, reason: reason.into() }
}

pub(crate) fn unavailable(reason: impl Into<String>) -> PortError {
    PortError::Unavailable { service: SERVICE, reason: reason.into() }
}

/// Sorts a driver's error: retry, give up, or "exists already". No bound value is ever part of its text.
pub(crate) fn port_error(error: sqlx::Error) -> PortError {
    let reason = error.to_string();
    match &error {
        sqlx::Error::Database(database) => match database.kind() {
            ErrorKind::UniqueViolation => PortError::Conflict { service: SERVICE, reason },
            ErrorKind::ForeignKeyViolation => refused("it refers to something that does not exist"),
            _ if is_transient(database.code().as_deref().unwrap_or_default()) => unavailable(reason),
            _ => refused(reason),
        },
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => unavailable(reason),
        _ => refused(reason),
    }
}

/// May a statement that failed with this code work later?
///
/// SQLSTATE codes have five characters; SQLite's extended result codes are decimal numbers of at most four.
fn is_transient(code: &str) -> bool {
    if code.len() == 5 {
        // Connection exceptions, wrong passwords (one may just be being changed), transaction rollbacks, insufficient
        // resources, operator intervention.
        return ["08", "28", "40", "53", "57"].contains(&&code[..2]);
    }
    /// SQLITE_BUSY, SQLITE_LOCKED, SQLITE_NOMEM, SQLITE_INTERRUPT, SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN,
    /// SQLITE_PROTOCOL (locking).
    const TRANSIENT: [u32; 8] = [5, 6, 7, 9, 10, 13, 14, 15];
    // The low byte of an extended code is the primary one.
    code.parse::<u32>().is_ok_and(|code| TRANSIENT.contains(&(code & 0xff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_and_full_are_retried_and_constraints_are_not() {
        for code in ["5", "517", "13", "1546", "08006", "28P01", "40001", "40P01", "53300", "57P01", "57P03"]
        {
            assert!(is_transient(code), "{code}");
        }
        for code in ["1", "19", "11", "26", "22021", "23505", "42601", "", "x"] {
            assert!(!is_transient(code), "{code}");
        }
    }
}
