//! The closed loop on one machine: looks at the routing snapshot, and at vehicles that do not report.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use convoy_cloud_core::steering::Steering;
use tokio::sync::watch;

use crate::consumer::pause;

/// How often the snapshot's version is compared: a subscription reaches the vehicles this much later at most.
const LOOK: Duration = Duration::from_millis(250);
/// How often vehicles that do not report are looked for, in looks.
const OVERDUE_LOOKS: u32 = 40;
/// How often campaigns are worked out although no version changed, because grants begin and end with time, and are sent
/// again where no report came, in looks.
const ROUND_LOOKS: u32 = 240;

/// Works until shutdown. What fails is done again at the next look.
pub async fn run(steering: Arc<Steering>, mut shutdown: watch::Receiver<bool>) -> Result<()> {
    let mut done = None;
    let mut looks = 0u32;
    let mut cursor = None;
    loop {
        let is_round = looks.is_multiple_of(ROUND_LOOKS);
        if is_round || done != Some(steering.snapshot.current().version) {
            match steering.refresh().await {
                Ok(version) => done = Some(version),
                Err(error) => {
                    tracing::warn!(%error, "steering: vehicles' campaigns will be worked out again")
                }
            }
        }
        if looks.is_multiple_of(OVERDUE_LOOKS)
            && let Err(error) = steering.raise_overdue().await
        {
            tracing::warn!(%error, "steering: vehicles that do not report will be looked for again");
        }
        if is_round {
            match steering.resend(cursor).await {
                Ok(next) => cursor = next,
                Err(error) => tracing::warn!(%error, "steering: campaigns will be sent again later"),
            }
        }
        looks = looks.wrapping_add(1);
        if !pause(LOOK, &mut shutdown).await {
            return Ok(());
        }
    }
}
