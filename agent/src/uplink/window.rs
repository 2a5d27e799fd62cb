//! What to send next: the decisions of the uplink, without a socket or a clock.
//!
//! What lies in the spool when a connection is made is the *backlog*: it is sent oldest first, the fast lane's before
//! the bulk lane's, no faster than a rate and only when nothing newer waits, so that a long outage does not hold up
//! what happens now.
//!
//! An envelope is *in flight* from its sending until the cloud says that it is stored (or quarantined), or until the
//! connection is lost, after which everything unacknowledged is sent again. PUBACK plays no part.

use std::collections::BTreeMap;
use std::ops::Range;

use convoy_protocol::downlink::PayloadDigest;
use convoy_protocol::id::Lane;

use crate::spool::RangeSet;

/// Envelopes in flight at most.
pub const INFLIGHT_MAX: usize = 64;
/// Places among them that the bulk lane may not take.
pub const FAST_RESERVE: usize = 8;
/// Bytes in flight after which nothing more is sent.
pub const INFLIGHT_BYTES_MAX: usize = 4 << 20;
/// Envelopes of the backlog in flight at most: what a new envelope may have to wait behind.
pub const BACKFILL_INFLIGHT_MAX: usize = 16;
/// Longest pause that the cloud can ask for, microseconds.
pub const BUSY_US_MAX: i64 = 60_000_000;

/// An envelope to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dispatch {
    /// Its lane.
    pub lane: Lane,
    /// Where it lies in the lane's log.
    pub position: u64,
    /// It was sent before in this life of the agent.
    pub again: bool,
    /// It was there before the connection.
    pub backfill: bool,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    resend_at_us: i64,
    bytes: usize,
    digest: PayloadDigest,
}

#[derive(Debug, Clone, Default)]
struct LaneWindow {
    in_flight: BTreeMap<u64, InFlight>,
    /// Where the sending of what is new goes on.
    cursor: u64,
    /// Where the sending of the backlog goes on, and where it ends.
    backlog: Range<u64>,
    /// What was sent at least once.
    sent: RangeSet,
}

/// The envelopes in flight.
#[derive(Debug, Clone)]
pub struct Window {
    resend_after_us: i64,
    backfill_bytes_per_s: u64,
    /// Earliest time of the next envelope of the backlog.
    backfill_at_us: i64,
    /// The backlog waits for that time.
    backfill_waits: bool,
    online: bool,
    paused_until_us: Option<i64>,
    lanes: [LaneWindow; 2],
    bytes: usize,
}

impl Window {
    /// An empty window, offline. What is not acknowledged `resend_after_us` after its sending is sent again; the
    /// backlog is sent at `backfill_bytes_per_s`.
    pub fn new(resend_after_us: i64, backfill_bytes_per_s: u64) -> Self {
        Self {
            resend_after_us,
            backfill_bytes_per_s: backfill_bytes_per_s.max(1),
            backfill_at_us: i64::MIN,
            backfill_waits: false,
            online: false,
            paused_until_us: None,
            lanes: [LaneWindow::default(), LaneWindow::default()],
            bytes: 0,
        }
    }

    /// The connection stands: everything unacknowledged is sent. What lies below `ends` in each lane is the backlog.
    pub fn handle_connected(&mut self, ends: [u64; 2]) {
        self.restart();
        for (lane, end) in self.lanes.iter_mut().zip(ends) {
            lane.cursor = end;
            lane.backlog = 0..end;
        }
        self.online = true;
    }

    /// The connection is lost.
    pub fn handle_disconnected(&mut self) {
        self.restart();
        self.online = false;
    }

    fn restart(&mut self) {
        self.paused_until_us = None;
        self.backfill_waits = false;
        self.bytes = 0;
        for lane in &mut self.lanes {
            lane.in_flight.clear();
            lane.cursor = 0;
            lane.backlog = 0..0;
        }
    }

    /// The cloud asks to wait. What is in flight then was probably refused: it is due when the pause ends.
    pub fn handle_busy(&mut self, now_us: i64, retry_after_ms: u32) {
        let pause_us = (i64::from(retry_after_ms) * 1_000).min(BUSY_US_MAX);
        let until_us = now_us.saturating_add(pause_us);
        self.paused_until_us = Some(until_us);
        for in_flight in self.lanes.iter_mut().flat_map(|lane| lane.in_flight.values_mut()) {
            in_flight.resend_at_us = until_us;
        }
    }

    /// What to send now. `next_unacked` gives a lane's first spooled, unacknowledged position at or above another.
    ///
    /// Call again after [`Window::handle_sent`] until it is `None`.
    pub fn poll_dispatch(
        &mut self,
        now_us: i64,
        next_unacked: impl Fn(Lane, u64) -> Option<u64>,
    ) -> Option<Dispatch> {
        self.backfill_waits = false;
        if !self.online || self.paused_until_us.is_some_and(|until| now_us < until) {
            return None;
        }
        let new = |(lane, position, backfill)| {
            let again = self.lane(lane).sent.contains(position);
            Dispatch { lane, position, again, backfill }
        };
        Lane::ALL
            .into_iter()
            .find_map(|lane| self.due(lane, now_us).or_else(|| self.next(lane, &next_unacked).map(new)))
            .or_else(|| self.next_backfill(now_us, &next_unacked))
    }

    /// What is due to be sent again.
    fn due(&self, lane: Lane, now_us: i64) -> Option<Dispatch> {
        let window = self.lane(lane);
        let (&position, _) =
            window.in_flight.iter().find(|(_, in_flight)| in_flight.resend_at_us <= now_us)?;
        Some(Dispatch { lane, position, again: true, backfill: position < window.backlog.end })
    }

    fn next(&self, lane: Lane, next_unacked: impl Fn(Lane, u64) -> Option<u64>) -> Option<(Lane, u64, bool)> {
        let position = self.has_room(lane).then(|| next_unacked(lane, self.lane(lane).cursor))??;
        Some((lane, position, false))
    }

    fn next_backfill(
        &mut self,
        now_us: i64,
        next_unacked: impl Fn(Lane, u64) -> Option<u64>,
    ) -> Option<Dispatch> {
        let of_lane = |lane: &LaneWindow| lane.in_flight.range(..lane.backlog.end).count();
        if self.lanes.iter().map(of_lane).sum::<usize>() >= BACKFILL_INFLIGHT_MAX {
            return None;
        }
        let (lane, position) = Lane::ALL.into_iter().find_map(|lane| {
            let backlog = &self.lane(lane).backlog;
            let position = self.has_room(lane).then(|| next_unacked(lane, backlog.start))??;
            (position < backlog.end).then_some((lane, position))
        })?;
        if now_us < self.backfill_at_us {
            self.backfill_waits = true;
            return None;
        }
        Some(Dispatch { lane, position, again: self.lane(lane).sent.contains(position), backfill: true })
    }

    fn has_room(&self, lane: Lane) -> bool {
        let bulk_full = self.lane(Lane::Bulk).in_flight.len() >= INFLIGHT_MAX - FAST_RESERVE;
        self.in_flight() < INFLIGHT_MAX
            && self.bytes < INFLIGHT_BYTES_MAX
            && !(lane == Lane::Bulk && bulk_full)
    }

    /// The envelope was handed to the connection.
    pub fn handle_sent(&mut self, now_us: i64, dispatch: Dispatch, digest: PayloadDigest, bytes: usize) {
        let resend_at_us = now_us.saturating_add(self.resend_after_us);
        let lane = &mut self.lanes[dispatch.lane as usize];
        let before = lane.in_flight.insert(dispatch.position, InFlight { resend_at_us, bytes, digest });
        if dispatch.backfill {
            lane.backlog.start = lane.backlog.start.max(dispatch.position + 1);
            let takes_us =
                i64::try_from(bytes as u64 * 1_000_000 / self.backfill_bytes_per_s).unwrap_or(i64::MAX);
            self.backfill_at_us = self.backfill_at_us.max(now_us).saturating_add(takes_us);
        } else {
            lane.cursor = lane.cursor.max(dispatch.position + 1);
        }
        lane.sent.insert(dispatch.position..dispatch.position + 1);
        self.bytes = self.bytes + bytes - before.map_or(0, |before| before.bytes);
    }

    /// These positions are stored, quarantined or gone: nothing is waited for.
    pub fn handle_done(&mut self, lane: Lane, positions: Range<u64>) {
        let in_flight = &mut self.lanes[lane as usize].in_flight;
        while let Some((&position, _)) = in_flight.range(positions.clone()).next() {
            if let Some(removed) = in_flight.remove(&position) {
                self.bytes -= removed.bytes;
            }
        }
    }

    /// The envelope in flight with this payload.
    pub fn find(&self, digest: PayloadDigest) -> Option<(Lane, u64)> {
        Lane::ALL.into_iter().find_map(|lane| {
            let mut in_flight = self.lane(lane).in_flight.iter();
            let (&position, _) = in_flight.find(|(_, in_flight)| in_flight.digest == digest)?;
            Some((lane, position))
        })
    }

    /// Envelopes in flight, at most [`INFLIGHT_MAX`].
    pub fn in_flight(&self) -> usize {
        self.lanes.iter().map(|lane| lane.in_flight.len()).sum()
    }

    /// Does the connection stand?
    pub fn is_online(&self) -> bool {
        self.online
    }

    /// When something has to be sent again, or the pause ends.
    pub fn poll_timeout(&self) -> Option<i64> {
        if !self.online {
            return None;
        }
        let resend = self.lanes.iter().flat_map(|lane| lane.in_flight.values());
        let resend = resend.map(|in_flight| in_flight.resend_at_us).min();
        let backfill = self.backfill_waits.then_some(self.backfill_at_us);
        let resend = resend.into_iter().chain(backfill).min();
        match (self.paused_until_us, resend) {
            (Some(until), Some(resend)) => Some(until.max(resend)),
            (until, resend) => until.or(resend),
        }
    }

    /// Ends a pause whose time is over.
    pub fn handle_timeout(&mut self, now_us: i64) {
        self.paused_until_us = self.paused_until_us.filter(|until| now_us < *until);
    }

    /// Does the position lie in the backlog of the present connection?
    pub fn is_backfill(&self, lane: Lane, position: u64) -> bool {
        position < self.lane(lane).backlog.end
    }

    fn lane(&self, lane: Lane) -> &LaneWindow {
        &self.lanes[lane as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const RESEND_US: i64 = 10_000_000;
    /// A thousand bytes, one envelope of the model, in a millisecond.
    const RATE: u64 = 1_000_000;

    /// A spool of numbers and the cloud behind it.
    struct Model {
        window: Window,
        now_us: i64,
        spooled: [u64; 2],
        acked: [BTreeSet<u64>; 2],
        busy_until_us: i64,
    }

    impl Model {
        fn new() -> Self {
            Self {
                window: Window::new(RESEND_US, RATE),
                now_us: 0,
                spooled: [0; 2],
                acked: [BTreeSet::new(), BTreeSet::new()],
                busy_until_us: 0,
            }
        }

        fn digest(lane: Lane, position: u64) -> PayloadDigest {
            PayloadDigest::of(format!("{lane}{position}").as_bytes())
        }

        /// Sends until the window has enough; returns what was sent.
        fn send(&mut self) -> Vec<(Lane, u64)> {
            let mut sent = Vec::new();
            loop {
                let next_unacked = |lane: Lane, from| {
                    let acked = &self.acked[lane as usize];
                    (from..self.spooled[lane as usize]).find(|position| !acked.contains(position))
                };
                let Some(dispatch) = self.window.poll_dispatch(self.now_us, next_unacked) else { break };
                assert!(self.window.is_online() && self.now_us >= self.busy_until_us);
                let Dispatch { lane, position, .. } = dispatch;
                assert!(!self.acked[lane as usize].contains(&position), "sent although acknowledged");
                let digest = Self::digest(lane, position);
                self.window.handle_sent(self.now_us, dispatch, digest, 1_000);
                assert!(self.window.in_flight() <= INFLIGHT_MAX);
                assert_eq!(self.window.find(digest), Some((lane, position)));
                sent.push((lane, position));
            }
            sent
        }

        fn connect(&mut self) {
            self.window.handle_connected(self.spooled);
        }

        fn ack(&mut self, lane: Lane, position: u64) {
            self.acked[lane as usize].insert(position);
            self.window.handle_done(lane, position..position + 1);
        }

        fn unacked(&self) -> u64 {
            let acked = self.acked.iter().map(|acked| acked.len() as u64).sum::<u64>();
            self.spooled.iter().sum::<u64>() - acked
        }
    }

    #[test]
    fn fast_lane_goes_first_and_bulk_leaves_it_room() {
        let mut model = Model::new();
        model.connect();
        model.spooled = [0, 100];
        assert_eq!(model.send().len(), INFLIGHT_MAX - FAST_RESERVE);
        model.spooled = [2, 100];
        assert_eq!(model.send(), [(Lane::Fast, 0), (Lane::Fast, 1)]);
        model.spooled = [100, 100];
        assert_eq!(model.send().len(), FAST_RESERVE - 2);
    }

    #[test]
    fn nothing_is_sent_offline_and_a_reconnect_sends_the_unacknowledged_oldest_first() {
        let mut model = Model::new();
        model.spooled = [4, 0];
        assert!(model.send().is_empty());
        model.window.handle_connected([0; 2]);
        assert_eq!(model.send().len(), 4);
        model.ack(Lane::Fast, 1);
        model.window.handle_disconnected();
        assert!(model.send().is_empty());
        model.window.handle_connected([0; 2]);
        assert_eq!(model.send(), [(Lane::Fast, 0), (Lane::Fast, 2), (Lane::Fast, 3)]);
    }

    #[test]
    fn backlog_goes_at_its_rate_and_behind_everything_that_is_new() {
        let mut model = Model::new();
        model.spooled = [0, 40];
        model.connect();
        assert_eq!(model.send(), [(Lane::Bulk, 0)], "a thousand bytes in a millisecond");
        assert_eq!(model.window.poll_timeout(), Some(1_000));
        model.now_us = 1_000;
        model.spooled = [1, 42];
        let all = [(Lane::Fast, 0), (Lane::Bulk, 40), (Lane::Bulk, 41), (Lane::Bulk, 1)];
        assert_eq!(model.send(), all);
        assert!(model.window.is_backfill(Lane::Bulk, 1) && !model.window.is_backfill(Lane::Bulk, 40));
        let mut sent = 2;
        while sent < BACKFILL_INFLIGHT_MAX {
            model.now_us += 1_000;
            sent += model.send().len();
        }
        model.now_us += 1_000;
        assert!(model.send().is_empty(), "no more in flight than a new envelope may wait behind");
        assert_eq!(model.window.poll_timeout(), Some(RESEND_US));
        model.ack(Lane::Bulk, 3);
        assert_eq!(model.send(), [(Lane::Bulk, 16)]);
        // A shorter outage: what was new is backlog now.
        model.window.handle_disconnected();
        model.connect();
        model.now_us += 1_000;
        assert_eq!(model.send(), [(Lane::Fast, 0)], "the fast lane's backlog first");
        assert!(model.window.is_backfill(Lane::Bulk, 40) && model.window.is_backfill(Lane::Fast, 0));
    }

    #[test]
    fn resend_is_due_after_its_time_and_not_before() {
        let mut model = Model::new();
        model.connect();
        model.spooled = [1, 1];
        assert_eq!(model.send().len(), 2);
        assert_eq!(model.window.poll_timeout(), Some(RESEND_US));
        model.now_us = RESEND_US - 1;
        assert!(model.send().is_empty());
        model.now_us = RESEND_US;
        assert_eq!(model.send(), [(Lane::Fast, 0), (Lane::Bulk, 0)]);
    }

    #[test]
    fn busy_pauses_and_then_sends_again_what_was_in_flight() {
        let mut model = Model::new();
        model.connect();
        model.spooled = [0, 2];
        assert_eq!(model.send().len(), 2);
        model.window.handle_busy(model.now_us, 500);
        assert_eq!(model.window.poll_timeout(), Some(500_000));
        model.spooled = [1, 2];
        model.now_us = 499_999;
        assert!(model.send().is_empty());
        model.now_us = 500_000;
        model.window.handle_timeout(model.now_us);
        assert_eq!(model.send(), [(Lane::Fast, 0), (Lane::Bulk, 0), (Lane::Bulk, 1)]);
        model.window.handle_busy(model.now_us, u32::MAX);
        assert_eq!(model.window.poll_timeout(), Some(500_000 + BUSY_US_MAX));
    }

    #[test]
    fn bytes_in_flight_are_bounded_by_one_envelope_more_than_the_limit() {
        let mut window = Window::new(RESEND_US, RATE);
        window.handle_connected([0; 2]);
        let mut sent = 0;
        while let Some(dispatch) = window.poll_dispatch(0, |lane, from| (lane == Lane::Bulk).then_some(from))
        {
            window.handle_sent(0, dispatch, Model::digest(Lane::Bulk, sent), 256 * 1024);
            sent += 1;
        }
        assert_eq!(sent, 16);
        window.handle_done(Lane::Bulk, 0..1);
        assert!(window.poll_dispatch(0, |_, from| Some(from)).is_some());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Spool(bool, u64),
        Send,
        Ack(bool, u64),
        Connect,
        Disconnect,
        Busy(u32),
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (any::<bool>(), 1u64..90).prop_map(|(fast, count)| Step::Spool(fast, count)),
            Just(Step::Send),
            Just(Step::Send),
            (any::<bool>(), 0u64..200).prop_map(|(fast, position)| Step::Ack(fast, position)),
            Just(Step::Connect),
            Just(Step::Disconnect),
            (0u32..100_000).prop_map(Step::Busy),
            (0i64..RESEND_US * 2).prop_map(Step::Wait),
        ]
    }

    fn lane(fast: bool) -> Lane {
        if fast { Lane::Fast } else { Lane::Bulk }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_the_window_is_never_exceeded(steps in proptest::collection::vec(step(), 0..60)) {
            let mut model = Model::new();
            for step in steps {
                match step {
                    Step::Spool(fast, count) => model.spooled[lane(fast) as usize] += count,
                    Step::Send => drop(model.send()),
                    Step::Ack(fast, position) if position < model.spooled[lane(fast) as usize] => {
                        model.ack(lane(fast), position);
                    }
                    Step::Ack(..) => {}
                    Step::Connect => {
                        model.connect();
                        model.busy_until_us = 0;
                    }
                    Step::Disconnect => {
                        model.window.handle_disconnected();
                        model.busy_until_us = 0;
                    }
                    Step::Busy(ms) => {
                        model.window.handle_busy(model.now_us, ms);
                        model.busy_until_us = model.now_us + (i64::from(ms) * 1_000).min(BUSY_US_MAX);
                    }
                    Step::Wait(us) => {
                        model.now_us += us;
                        model.window.handle_timeout(model.now_us);
                    }
                }
            }
            // The cloud loses every first sending from here on: only sending again can end this.
            model.connect();
            model.busy_until_us = 0;
            let mut seen = BTreeSet::new();
            while model.unacked() > 0 {
                let sent = model.send();
                if sent.is_empty() {
                    let next = model.window.poll_timeout();
                    prop_assert!(next.is_some_and(|at| at > model.now_us), "{} unacknowledged, stuck", model.unacked());
                    model.now_us = next.unwrap();
                    model.window.handle_timeout(model.now_us);
                }
                for (lane, position) in sent {
                    if !seen.insert((lane as usize, position)) {
                        model.ack(lane, position);
                    }
                }
            }
        }
    }
}
