//! The campaigns of a vehicle as one set: compiled beside the old one, swapped at once, reported one by one.

use convoy_protocol::campaign::{CAMPAIGNS_MAX, Campaign};
use convoy_protocol::id::CampaignId;
use convoy_protocol::manifest::{Manifest, SignalIndex};
use convoy_protocol::report::{CampaignReport, CampaignStatus, UNSEEN_MAX, reason};

use crate::batch::ClosedBatch;
use crate::collect::Collector;
use crate::latest::Latest;

/// A campaign and what runs it, or why nothing does.
#[derive(Debug)]
pub struct Slot {
    /// The campaign.
    pub campaign: Campaign,
    /// Its content address.
    pub id: CampaignId,
    run: Result<Collector, String>,
}

impl Slot {
    /// What runs it, if anything does.
    pub fn collector(&self) -> Option<&Collector> {
        self.run.as_ref().ok()
    }

    /// As [`Slot::collector`], to be used.
    pub fn collector_mut(&mut self) -> Option<&mut Collector> {
        self.run.as_mut().ok()
    }

    fn report(&self, now_us: i64, manifest: &Manifest, latest: &Latest) -> CampaignReport {
        let mut report = CampaignReport {
            id: self.id,
            name: self.campaign.name.clone(),
            status: CampaignStatus::Active,
            signals_matched: 0,
            signals_seen: 0,
            unseen: Vec::new(),
        };
        match &self.run {
            Err(why) => report.status = CampaignStatus::Rejected(reason(why)),
            Ok(collector) => {
                for signal in collector.signals() {
                    report.signals_matched += 1;
                    if latest.is_seen(signal) {
                        report.signals_seen += 1;
                    } else if let Some(def) =
                        manifest.signal(signal).filter(|_| report.unseen.len() < UNSEEN_MAX)
                    {
                        report.unseen.push(def.path.clone());
                    }
                }
                report.status = collector.status(now_us, report.signals_seen > 0);
            }
        }
        report
    }
}

/// All campaigns, the most important first.
#[derive(Debug, Default)]
pub struct Campaigns {
    slots: Vec<Slot>,
}

impl Campaigns {
    /// Compiles a set. What runs already and is in it goes on as it is, with its open batch; what is not in it any
    /// more ends, and its batches are handed to `closed`. Nothing is dropped between two sets.
    ///
    /// Campaigns that name the same content are one.
    pub fn swap(
        &mut self,
        mut wanted: Vec<Campaign>,
        manifest: &Manifest,
        mut closed: impl FnMut(&Collector, ClosedBatch),
    ) {
        wanted.sort_by_key(|campaign| campaign.priority);
        let mut next: Vec<Slot> = Vec::with_capacity(wanted.len());
        for campaign in wanted {
            let id = campaign.id();
            if next.iter().any(|slot| slot.id == id) {
                continue;
            }
            let running = next.iter().filter(|slot| slot.run.is_ok()).count();
            let known = self.slots.iter().position(|slot| slot.id == id && slot.run.is_ok());
            let run = if running >= CAMPAIGNS_MAX {
                Err(format!("more than {CAMPAIGNS_MAX} campaigns: those of the least priority are not run"))
            } else if let Some(at) = known {
                self.slots.swap_remove(at).run
            } else {
                compile(&campaign, manifest)
            };
            next.push(Slot { campaign, id, run });
        }
        for slot in &mut self.slots {
            if let Ok(collector) = &mut slot.run
                && let Some(batch) = collector.close()
            {
                closed(collector, batch);
            }
        }
        self.slots = next;
    }

    /// All campaigns.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Number of campaigns.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// No campaign?
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// What runs the campaign at a place, if anything does.
    pub fn collector_mut(&mut self, at: usize) -> Option<&mut Collector> {
        self.slots.get_mut(at).and_then(Slot::collector_mut)
    }

    /// What runs.
    pub fn collectors(&self) -> impl Iterator<Item = &Collector> {
        self.slots.iter().filter_map(Slot::collector)
    }

    /// As [`Campaigns::collectors`], to be changed.
    pub fn collectors_mut(&mut self) -> impl Iterator<Item = &mut Collector> {
        self.slots.iter_mut().filter_map(Slot::collector_mut)
    }

    /// Does any campaign that runs want trouble codes?
    pub fn want_trouble_codes(&self) -> bool {
        self.slots.iter().any(|slot| {
            slot.campaign.trouble_codes && slot.collector().is_some_and(|collector| !collector.is_expired())
        })
    }

    /// Does any campaign that runs take the signal?
    pub fn select(&self, signal: SignalIndex) -> bool {
        self.collectors().any(|collector| !collector.is_expired() && collector.selects(signal))
    }

    /// Every campaign with status and reason.
    pub fn report(&self, now_us: i64, manifest: &Manifest, latest: &Latest) -> Vec<CampaignReport> {
        self.slots.iter().map(|slot| slot.report(now_us, manifest, latest)).collect()
    }
}

fn compile(campaign: &Campaign, manifest: &Manifest) -> Result<Collector, String> {
    let faults: Vec<_> = campaign.faults().iter().map(ToString::to_string).collect();
    if faults.is_empty() { Collector::new(campaign, manifest) } else { Err(faults.join("; ")) }
}
