//! The trouble codes that are known, kept for the next start: what went away meanwhile is closed, what stayed does not
//! open again.

use convoy_agent_core::gateway::FrameTimes;
use tracing::warn;

use super::Agent;
use crate::source::FrameSource;
use crate::state_file;

const FILE: &str = "trouble-codes";
/// Shortest time between two writes, microseconds.
const SAVE_US: i64 = 5_000_000;

/// The names of the buses, then [`Gateway::trouble_codes`](convoy_agent_core::gateway::Gateway::trouble_codes), which
/// numbers them.
type Kept = (Vec<String>, Vec<u8>);

impl Agent {
    /// Goes on with what was kept. A recording begins anew each time.
    pub(super) fn resume_trouble_codes(&mut self, source: &impl FrameSource) {
        self.buses = (source.frame_times() == FrameTimes::Live).then(|| source.bus_names());
        let Some(buses) = &self.buses else { return };
        match state_file::read_bytes(self.spool.disk(), &self.spool.dir().join(FILE)) {
            Ok(None) => {}
            Ok(Some(bytes)) => {
                // With other buses the codes are another's.
                let kept = postcard::from_bytes::<Kept>(&bytes).ok().filter(|kept| kept.0 == *buses);
                if !kept.is_some_and(|kept| self.gateway.restore_trouble_codes(&kept.1)) {
                    warn!(
                        "the trouble codes that were kept are of other buses or cannot be read: they open again"
                    );
                }
            }
            Err(error) => warn!("cannot read the trouble codes that were kept, they open again: {error}"),
        }
    }

    /// Keeps them where they have changed. What was reported of them is in the spool before, or a moment later: after a
    /// power cut in between, a connection tells the cloud what is still there.
    pub(super) fn save_trouble_codes(&mut self, now_us: i64, at_once: bool) {
        let Some(buses) = self.buses.clone() else { return };
        if now_us < self.codes_save_at_us && !at_once {
            return;
        }
        if !self.gateway.take_trouble_codes_changed() {
            return;
        }
        self.codes_save_at_us = now_us.saturating_add(SAVE_US);
        let kept: Kept = (buses, self.gateway.trouble_codes());
        let bytes = postcard::to_allocvec(&kept).expect("names and bytes are plain data");
        if let Err(error) = state_file::write_lazily(self.spool.disk(), &self.spool.dir().join(FILE), &bytes)
        {
            warn!("cannot keep the trouble codes for the next start: {error}");
        }
    }
}
