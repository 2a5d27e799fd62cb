//! The provisioning state machine, started once an operation.

use aws_sdk_sfn::Client;
use aws_sdk_sfn::operation::start_execution::StartExecutionError;
use convoy_cloud_core::identity::OperationId;
use convoy_cloud_core::ports::PortError;

use crate::error::port_error;

/// Starts executions.
#[derive(Clone)]
pub struct Workflow {
    /// The client.
    pub client: Client,
    /// The state machine's arn.
    pub state_machine: String,
}

impl Workflow {
    /// Starts an operation's execution, which bears its id; one that was started before is success.
    pub async fn start(&self, id: &OperationId) -> Result<(), PortError> {
        let started = self
            .client
            .start_execution()
            .state_machine_arn(&self.state_machine)
            .name(id.as_str())
            .input(serde_json::json!({"operation_id": id}).to_string())
            .send()
            .await;
        match started {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.as_service_error(),
                    Some(StartExecutionError::ExecutionAlreadyExists(_))
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(port_error("Step Functions", &error)),
        }
    }
}
