//! Conditions: things that are either open or not, such as a trouble code or a crossed threshold.
//!
//! Streams deliver at least once, so a condition remembers which envelope changed it last and what it was before:
//! the same envelope, seen again, gives the same edges, and so the same alerts with the same ids.

use convoy_protocol::id::EnvelopeKey;

/// The state of one condition of a vehicle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it is about, unique within the vehicle: `dtc/j1939/0/980/9`, `threshold/sub_.../0`.
    pub key: String,
    /// Is it open?
    pub open: bool,
    /// Latest sample or record that was judged, microseconds since the Unix epoch, UTC.
    pub judged_us: i64,
    /// The envelope that was judged last.
    pub by: EnvelopeKey,
    /// State before that envelope.
    pub before: Before,
}

/// What a condition was before the envelope that changed it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Was it open?
    pub open: bool,
    /// Latest sample judged by then.
    pub judged_us: i64,
}

/// Nothing was judged yet.
const NEVER: Before = Before { open: false, judged_us: i64::MIN };

/// A condition turned from closed to open, or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Open now?
    pub opened: bool,
    /// At which of the given observations.
    pub index: usize,
}

/// Judges the observations of one envelope, each a time and whether the condition holds (`None`: in between, keep),
/// in time order. Observations that are not newer than what was judged before are skipped.
pub fn judge(
    known: Option<&Condition>,
    key: &str,
    by: EnvelopeKey,
    observations: impl IntoIterator<Item = (i64, Option<bool>)>,
) -> (Vec<Edge>, Condition) {
    let before = match known {
        None => NEVER,
        Some(known) if known.by == by => known.before,
        Some(known) => Before { open: known.open, judged_us: known.judged_us },
    };
    let (mut open, mut judged_us) = (before.open, before.judged_us);
    let mut edges = Vec::new();
    for (index, (at_us, holds)) in observations.into_iter().enumerate() {
        if at_us <= before.judged_us {
            continue;
        }
        judged_us = judged_us.max(at_us);
        if let Some(holds) = holds
            && holds != open
        {
            open = holds;
            edges.push(Edge { opened: open, index });
        }
    }
    (edges, Condition { key: key.to_owned(), open, judged_us, by, before })
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoy_protocol::id::{BootId, Lane};

    fn envelope(sequence: u64) -> EnvelopeKey {
        EnvelopeKey { boot_id: BootId { counter: 1, spool: 1 }, lane: Lane::Fast, sequence }
    }

    #[test]
    fn same_envelope_again_gives_the_same_edges() {
        let observations = [(10, Some(true)), (20, Some(false)), (30, None)];
        let (edges, condition) = judge(None, "k", envelope(1), observations);
        assert_eq!(edges, [Edge { opened: true, index: 0 }, Edge { opened: false, index: 1 }]);
        let (again, condition_again) = judge(Some(&condition), "k", envelope(1), observations);
        assert_eq!((again, condition_again), (edges, condition));
    }

    #[test]
    fn an_open_condition_reported_again_by_another_envelope_is_no_edge() {
        let (_, condition) = judge(None, "k", envelope(1), [(10, Some(true))]);
        let (edges, condition) = judge(Some(&condition), "k", envelope(2), [(20, Some(true))]);
        assert_eq!(edges, []);
        let (edges, _) = judge(Some(&condition), "k", envelope(3), [(15, Some(false))]);
        assert_eq!(edges, [], "older than what was judged");
    }
}
