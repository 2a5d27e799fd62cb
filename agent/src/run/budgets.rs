//! Bytes of the day that campaigns have used, kept from one life of the agent to the next.

use std::fmt::Write as _;

use convoy_protocol::id::CampaignId;
use tracing::warn;

use super::Agent;
use crate::state_file;

const FILE: &str = "budgets";
const SAVE_US: i64 = 60_000_000;

impl Agent {
    pub(super) fn resume_budgets(&mut self) {
        let path = self.spool.dir().join(FILE);
        let Ok(Some(text)) = state_file::read(self.spool.disk(), &path) else { return };
        for (id, day, used) in text.lines().filter_map(parse) {
            for collector in self.gateway.campaigns_mut().collectors_mut() {
                if collector.campaign_id() == id {
                    collector.budget_mut().resume(day, used);
                }
            }
        }
    }

    pub(super) fn save_budgets(&mut self, now_us: i64, at_once: bool) {
        if now_us < self.budgets_save_at_us && !at_once {
            return;
        }
        self.budgets_save_at_us = now_us.saturating_add(SAVE_US);
        let mut text = String::new();
        for slot in
            self.gateway.campaigns().slots().iter().filter(|slot| slot.campaign.bytes_per_day.is_some())
        {
            let Some(collector) = slot.collector() else { continue };
            let (day, used) = collector.budget().used();
            // Writing into a text cannot fail.
            let _ = writeln!(text, "{} {day} {used}", slot.id);
        }
        if text.is_empty() {
            return;
        }
        let path = self.spool.dir().join(FILE);
        if let Err(error) = state_file::write_lazily(self.spool.disk(), &path, text.as_bytes()) {
            warn!("cannot keep the campaigns' byte budgets for the next start: {error}");
        }
    }
}

fn parse(line: &str) -> Option<(CampaignId, i64, u64)> {
    let mut fields = line.split(' ');
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
