//! What an AWS service said, as an error of a port.

use aws_sdk_kinesis::error::ProvideErrorMetadata;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use convoy_cloud_core::ports::PortError;

/// Codes of answers that say "later", whatever their HTTP status.
const LATER: &[&str] = &[
    "BandwidthLimitExceeded",
    "ExpiredToken",
    "ExpiredTokenException",
    "InternalFailure",
    "InternalServerError",
    "InternalServiceError",
    "KMSThrottlingException",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottledException",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionConflictException",
    "TransactionInProgressException",
];

/// Codes of answers that say that this process is not who it must be, or may not do what it must. A person mends that,
/// and until then nothing that was asked for is wrong by itself.
const DENIED: &[&str] = &[
    "AccessDenied",
    "AccessDeniedException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "NotAuthorized",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Codes of answers that say that the name is taken.
const TAKEN: &[&str] = &[
    "BucketAlreadyExists",
    "BucketAlreadyOwnedByYou",
    "ConflictException",
    "ExecutionAlreadyExists",
    "QueueAlreadyExists",
    "QueueNameExists",
    "ResourceAlreadyExistsException",
    "ResourceExistsException",
    "ResourceInUseException",
];

/// The error of a call to `service`: what may pass (no answer in time, a 5xx, throttling, a permission that lacks) is
/// `Unavailable`, a taken name `Conflict`, anything else `Refused`.
pub fn port_error<E>(service: &'static str, error: &SdkError<E, HttpResponse>) -> PortError
where
    E: ProvideErrorMetadata,
{
    match error {
        SdkError::ServiceError(answer) => {
            let (code, message) = (answer.err().code(), answer.err().message());
            answered(service, answer.raw().status().as_u16(), code, message)
        }
        SdkError::TimeoutError(_) => unavailable(service, "no answer in time"),
        SdkError::DispatchFailure(failure) => {
            let cause = failure.as_connector_error().map(|error| chain(error));
            unavailable(
                service,
                format!("request not sent: {}", cause.as_deref().unwrap_or("unknown reason")),
            )
        }
        SdkError::ResponseError(_) => unavailable(service, "its answer could not be read"),
        // What cannot be sent now cannot be sent later.
        _ => PortError::Refused { service, reason: "the request could not be built".to_owned() },
    }
}

/// The error of one entry of a batch, or of a whole call, by its code.
pub fn answered(service: &'static str, status: u16, code: Option<&str>, message: Option<&str>) -> PortError {
    let (code, message) = (code.unwrap_or("no code"), message.unwrap_or("no message"));
    let reason = format!("{code} ({status}): {message}");
    if status >= 500 || status == 429 || is_later(code) || DENIED.contains(&code) {
        PortError::Unavailable { service, reason }
    } else if TAKEN.contains(&code) {
        PortError::Conflict { service, reason }
    } else {
        PortError::Refused { service, reason }
    }
}

/// Does this code say that the same request may succeed later?
pub fn is_later(code: &str) -> bool {
    LATER.contains(&code)
}

pub(crate) fn unavailable(service: &'static str, reason: impl Into<String>) -> PortError {
    PortError::Unavailable { service, reason: reason.into() }
}

pub(crate) fn refused(service: &'static str, reason: impl Into<String>) -> PortError {
    PortError::Refused { service, reason: reason.into() }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_and_server_errors_may_pass_and_the_rest_does_not() {
        let of = |status, code| answered("DynamoDB", status, Some(code), Some("text"));
        assert!(of(400, "ProvisionedThroughputExceededException").is_transient());
        assert!(of(503, "SomethingNew").is_transient());
        assert!(of(429, "SomethingNew").is_transient());
        assert!(of(400, "AccessDeniedException").is_transient(), "records wait for the permission");
        let refused = of(400, "ValidationException");
        assert_eq!(refused.to_string(), "DynamoDB refused: ValidationException (400): text");
        assert!(matches!(of(400, "ResourceInUseException"), PortError::Conflict { .. }));
    }
}
