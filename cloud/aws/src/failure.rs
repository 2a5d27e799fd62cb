//! How a function fails: so that whoever invoked it knows whether trying again makes sense.

use convoy_cloud_core::ports::PortError;
use lambda_runtime::Diagnostic;

/// A failed invocation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A service is not available: the same event may work later. Error type `Unavailable`.
    #[error("{0}")]
    Unavailable(String),
    /// It will never work. Error type `Refused`.
    #[error("{0}")]
    Refused(String),
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        if error.is_transient() {
            Self::Unavailable(error.to_string())
        } else {
            Self::Refused(error.to_string())
        }
    }
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        let error_type = match &failure {
            Failure::Unavailable(_) => "Unavailable",
            Failure::Refused(_) => "Refused",
        };
        Self { error_type: error_type.to_owned(), error_message: failure.to_string() }
    }
}
