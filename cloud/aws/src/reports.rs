//! Vehicles' reports on their way from ingest to steering, through SQS: so that ingest asks no database.

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use convoy_cloud_core::ports::{PortError, ReportSink};
use convoy_protocol::id::VehicleId;
use convoy_protocol::report::Report;

use crate::error::port_error;

/// The sending side.
pub struct ReportQueue {
    /// The client.
    pub client: Client,
    /// The queue's url.
    pub url: String,
}

#[async_trait]
impl ReportSink for ReportQueue {
    async fn take(&self, vehicle_id: VehicleId, report: &Report, received_us: i64) -> Result<(), PortError> {
        self.client
            .send_message()
            .queue_url(&self.url)
            .message_body(encode(vehicle_id, report, received_us))
            .send()
            .await
            .map(drop)
            .map_err(|error| port_error("SQS", &error))
    }
}

fn encode(vehicle_id: VehicleId, report: &Report, received_us: i64) -> String {
    let bytes = postcard::to_allocvec(&(vehicle_id, received_us, report)).expect("a report is plain data");
    STANDARD.encode(bytes)
}

/// Reads a message; `None` for what is none.
pub fn decode(body: &str) -> Option<(VehicleId, Report, i64)> {
    let bytes = STANDARD.decode(body).ok()?;
    let (vehicle_id, received_us, report) = postcard::from_bytes(&bytes).ok()?;
    Some((vehicle_id, report, received_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_out_of_the_queue_as_it_went_in_and_garbage_is_none() {
        let report = Report { version: Some(1_795_478_400_000), ..Report::default() };
        let vehicle_id = VehicleId([7; 16]);
        assert_eq!(decode(&encode(vehicle_id, &report, -3)), Some((vehicle_id, report, -3)));
        for body in ["", "%", "AAAA"] {
            assert_eq!(decode(body), None, "{body:?}");
        }
    }
}
