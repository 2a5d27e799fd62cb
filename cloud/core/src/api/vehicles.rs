//! Admin API: what a vehicle shall collect and says it does, and what became of its envelopes.

use axum::Json;
use axum::extract::{Path, State};
use convoy_protocol::campaign::{Campaign, Collection};
use convoy_protocol::id::VehicleId;
use convoy_protocol::report::{CampaignReport, CampaignStatus};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Admin;
use super::{Problem, Shared};
use crate::ambient::rfc3339;
use crate::ledger::{LaneLedger, accounts};
use crate::reference::VehicleCampaigns;

#[derive(Serialize, ToSchema)]
pub(crate) struct SelectorView {
    /// VSS path or `Message.Signal`; `*` stands for any characters.
    pattern: String,
    /// At most one sample of each signal in this time.
    period_ms: u32,
    /// What matches is left to another campaign.
    exclude: bool,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct DesiredCampaign {
    id: String,
    name: String,
    #[schema(value_type = String)]
    lane: convoy_protocol::id::Lane,
    /// A batch is sent when its oldest sample is this old.
    window_ms: u32,
    /// Collects only around the times when this holds.
    condition: Option<String>,
    signals: Vec<SelectorView>,
    trouble_codes: bool,
}

impl From<&Campaign> for DesiredCampaign {
    fn from(campaign: &Campaign) -> Self {
        let selector = |selector: &convoy_protocol::campaign::SignalSelector| SelectorView {
            pattern: selector.pattern.clone(),
            period_ms: selector.period_ms,
            exclude: selector.exclude,
        };
        Self {
            id: campaign.id().to_string(),
            name: campaign.name.clone(),
            lane: campaign.lane,
            window_ms: campaign.window_ms,
            condition: match &campaign.collection {
                Collection::TimeBased => None,
                Collection::ConditionBased(trigger) => Some(trigger.condition.clone()),
            },
            signals: campaign.signals.iter().map(selector).collect(),
            trouble_codes: campaign.trouble_codes,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Desired {
    version: u64,
    /// When the campaigns changed, RFC 3339.
    changed: String,
    campaigns: Vec<DesiredCampaign>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ReportedCampaign {
    id: String,
    name: String,
    /// `active`, `waiting_for_signals`, `waiting_for_trigger`, `degraded`, `over_budget`, `expired` or `rejected`.
    status: &'static str,
    /// Why it is rejected.
    reason: Option<String>,
    /// Signals of the vehicle that it selects.
    signals_matched: u32,
    /// Of these, signals that were on the bus.
    signals_seen: u32,
    /// Paths of some that never were.
    never_seen: Vec<String>,
}

impl From<CampaignReport> for ReportedCampaign {
    fn from(report: CampaignReport) -> Self {
        let (status, reason) = match report.status {
            CampaignStatus::Active => ("active", None),
            CampaignStatus::WaitingForSignals => ("waiting_for_signals", None),
            CampaignStatus::WaitingForTrigger => ("waiting_for_trigger", None),
            CampaignStatus::Degraded => ("degraded", None),
            CampaignStatus::OverBudget => ("over_budget", None),
            CampaignStatus::Expired => ("expired", None),
            CampaignStatus::Rejected(why) => ("rejected", Some(why)),
        };
        Self {
            id: report.id.to_string(),
            name: report.name,
            status,
            reason,
            signals_matched: report.signals_matched,
            signals_seen: report.signals_seen,
            never_seen: report.unseen,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Reported {
    /// The version that the vehicle runs; null: only campaigns of its own configuration.
    version: Option<u64>,
    /// When the report was received, RFC 3339.
    received: String,
    /// Why it did not take a newer version.
    refused: Option<String>,
    /// What is wrong with the agent itself.
    problems: Vec<String>,
    campaigns: Vec<ReportedCampaign>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct CampaignsView {
    /// What it shall collect; null: nothing was ever wanted of it.
    desired: Option<Desired>,
    /// What it says; null: it never reported.
    reported: Option<Reported>,
    /// It runs what it shall.
    in_sync: bool,
}

fn view(known: Option<VehicleCampaigns>) -> CampaignsView {
    let Some(VehicleCampaigns { version, campaigns, changed_us, reported }) = known else {
        return CampaignsView { desired: None, reported: None, in_sync: true };
    };
    let runs = reported.as_ref().and_then(|reported| reported.report.version);
    CampaignsView {
        in_sync: version == 0 || runs == Some(version),
        desired: (version > 0).then(|| Desired {
            version,
            changed: rfc3339(changed_us),
            campaigns: campaigns.iter().map(Into::into).collect(),
        }),
        reported: reported.map(|reported| Reported {
            version: reported.report.version,
            received: rfc3339(reported.received_us),
            refused: reported.report.refused.map(|refusal| refusal.reason),
            problems: reported.report.problems,
            campaigns: reported.report.campaigns.into_iter().map(Into::into).collect(),
        }),
    }
}

fn vehicle(id: &str) -> Result<VehicleId, Problem> {
    id.parse().map_err(|_| Problem::not_found("vehicle"))
}

/// The campaigns of a vehicle: what it shall collect, and what it says it does, campaign by campaign with reasons.
#[utoipa::path(get, path = "/admin/v1/vehicles/{id}/campaigns", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The vehicle, 32 hex digits")),
    responses((status = 200, body = CampaignsView), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn campaigns(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
) -> Result<Json<CampaignsView>, Problem> {
    Ok(Json(view(api.reference.vehicle_campaigns(vehicle(&id)?).await?)))
}

/// The ledger of a vehicle: for each boot and lane what was accepted, archived, stored and rejected, what the vehicle
/// gave up, and which sequences are missing.
#[utoipa::path(get, path = "/admin/v1/vehicles/{id}/ledger", tag = "admin", security(("api_key" = [])),
    params(("id" = String, Path, description = "The vehicle, 32 hex digits")),
    responses((status = 200, body = Vec<LaneLedger>), (status = 401, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem)))]
pub(crate) async fn ledger(
    State(api): Shared,
    Admin: Admin,
    Path(id): Path<String>,
) -> Result<Json<Vec<LaneLedger>>, Problem> {
    Ok(Json(accounts(&api.store.ledger(vehicle(&id)?).await?)))
}
