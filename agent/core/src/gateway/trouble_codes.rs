//! The part of the gateway that follows trouble codes.

use convoy_protocol::dtc::{DtcState, ExtendedData};

use super::Gateway;
use crate::diagnosis::FaultList;
use crate::faults::FaultTracker;
use crate::frozen::FrozenFrame;
use crate::listen::Message;

impl Gateway {
    /// Goes on with the trouble codes that an earlier life knew ([`Gateway::trouble_codes`]); false where they cannot be
    /// read: every code opens again, and one that went away meanwhile is not closed.
    pub fn restore_trouble_codes(&mut self, bytes: &[u8]) -> bool {
        let restored = FaultTracker::restore(bytes);
        let is_restored = restored.is_some();
        self.faults = restored.unwrap_or_default();
        is_restored
    }

    /// Have the known trouble codes changed since the last question?
    pub fn take_trouble_codes_changed(&mut self) -> bool {
        self.faults.take_changed()
    }

    /// The known trouble codes, for the next life. Buses are numbers in it: it is of use to an agent with the same buses.
    pub fn trouble_codes(&self) -> Vec<u8> {
        self.faults.encode()
    }

    pub(super) fn handle_faults(&mut self, now_us: i64, time_us: i64, list: &FaultList) {
        self.counters.dtc_old_conversion += u64::from(list.old_conversion);
        let mut states: Vec<DtcState> = Vec::new();
        self.faults.update(time_us, list, &mut states);
        if states.is_empty() {
            return;
        }
        self.counters.dtc_changes += states.len() as u64;
        // Nobody who asked for them: they are reported when somebody does, as far as they are there then.
        if self.campaigns.want_trouble_codes() {
            self.outbox.emit_dtc_states(now_us, &mut states);
        }
    }

    /// Takes what an ECU kept with its codes.
    pub(super) fn handle_frozen(&mut self, now_us: i64, time_us: i64, message: &Message) {
        if let Message::IsoTp(answer) = message {
            self.frozen.handle_message(now_us, time_us, &self.decoder, answer);
            self.send_frozen(now_us);
        }
    }

    /// Sends what is whole.
    pub(super) fn send_frozen(&mut self, now_us: i64) {
        if self.frozen.is_ready() {
            let ready = self.frozen.take_ready();
            if self.campaigns.want_trouble_codes() {
                self.emit_frozen(now_us, ready);
            }
        }
    }

    /// Somebody wants trouble codes, or is there again: all that are known. False where none is.
    pub(super) fn send_present(&mut self, now_us: i64) -> bool {
        if !self.campaigns.want_trouble_codes() {
            return false;
        }
        // A new campaign asks for them, and for a snapshot, which has them too.
        if self.present_us.replace(now_us) == Some(now_us) {
            return false;
        }
        let mut states = self.faults.present();
        self.outbox.emit_dtc_states(now_us, &mut states);
        !states.is_empty()
    }

    /// As [`Gateway::send_present`], with what was frozen with them.
    pub(super) fn send_all_known(&mut self, now_us: i64) {
        self.send_present(now_us);
        let all = self.frozen.all();
        self.emit_frozen(now_us, all);
    }

    fn emit_frozen(&mut self, now_us: i64, (frames, extended): (Vec<FrozenFrame>, Vec<ExtendedData>)) {
        self.counters.frozen_frames += frames.len() as u64;
        let manifest_id = self.decoder.manifest_id();
        for frame in frames {
            self.outbox.emit_frozen_frame(now_us, manifest_id, frame);
        }
        self.outbox.emit_extended_data(now_us, extended);
    }
}
