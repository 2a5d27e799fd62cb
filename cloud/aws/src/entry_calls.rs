//! From entries to calls and back to events: as many entries as a call takes, several calls in flight, and what a call
//! left behind again without what it took.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::ports::PortError;
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::entry::{Entry, Packed};
use crate::error::{is_later, refused, unavailable};

/// Calls of one publication that are under way at the same time.
pub const CALLS_IN_FLIGHT_MAX: usize = 4;
/// How refused entries are tried again.
pub const AGAIN: Backoff =
    Backoff { attempts_max: 5, first: Duration::from_millis(50), longest: Duration::from_secs(1) };

/// What one call takes.
#[derive(Debug, Clone, Copy)]
pub struct CallLimits {
    /// Entries.
    pub entries_max: usize,
    /// Bytes, as [`Entry::bytes`] counts them; an entry that is larger goes alone.
    pub bytes_max: usize,
}

/// One result an entry, in order; or why the call as a whole failed, after the SDK tried it again.
pub type CallOutcome = Result<Vec<Result<(), PortError>>, PortError>;

/// The entries of a publication, which calls share.
pub type Entries = Arc<Vec<Entry>>;

/// One outcome an entry. Entries refused for now are tried again, without the others, up to [`AGAIN`]; a call refused as
/// a whole is tried again entry by entry, so that one entry takes no other with it.
pub async fn put_all<C, F>(
    entries: &Entries,
    limits: CallLimits,
    ambient: &Ambient,
    call: C,
) -> Vec<Result<(), PortError>>
where
    C: Fn(Entries, Vec<usize>) -> F,
    F: Future<Output = CallOutcome> + Send + 'static,
{
    let mut outcomes: Vec<Result<(), PortError>> = entries.iter().map(|_| Ok(())).collect();
    let mut waiting = calls(entries, limits, &(0..entries.len()).collect::<Vec<_>>());
    for attempt in 1.. {
        let (mut again, mut alone) = (Vec::new(), Vec::new());
        for (indexes, outcome) in in_flight(entries, waiting, &call).await {
            match outcome {
                Ok(results) if results.len() == indexes.len() => {
                    for (index, result) in indexes.into_iter().zip(results) {
                        if result.as_ref().is_err_and(PortError::is_transient) {
                            again.push(index);
                        }
                        outcomes[index] = result;
                    }
                }
                Ok(_) => {
                    fail(&mut outcomes, &indexes, &unavailable("EventBridge", "not one result an entry"))
                }
                Err(error) => {
                    fail(&mut outcomes, &indexes, &error);
                    if !error.is_transient() && indexes.len() > 1 {
                        alone.extend(indexes.into_iter().map(|index| vec![index]));
                    }
                }
            }
        }
        if (again.is_empty() && alone.is_empty()) || !AGAIN.pause(attempt, ambient).await {
            break;
        }
        again.sort_unstable();
        waiting = calls(entries, limits, &again);
        waiting.extend(alone);
    }
    outcomes
}

fn fail(outcomes: &mut [Result<(), PortError>], indexes: &[usize], error: &PortError) {
    for index in indexes {
        outcomes[*index] = Err(error.clone());
    }
}

async fn in_flight<C, F>(
    entries: &Entries,
    calls: Vec<Vec<usize>>,
    call: &C,
) -> Vec<(Vec<usize>, CallOutcome)>
where
    C: Fn(Entries, Vec<usize>) -> F,
    F: Future<Output = CallOutcome> + Send + 'static,
{
    let mut done: Vec<(Vec<usize>, CallOutcome)> = Vec::with_capacity(calls.len());
    let (mut flying, mut calls) = (JoinSet::new(), calls.into_iter());
    loop {
        while flying.len() < CALLS_IN_FLIGHT_MAX {
            let Some(indexes) = calls.next() else { break };
            let (place, outcome) = (done.len(), call(Arc::clone(entries), indexes.clone()));
            // What a call that ends by a panic comes to.
            done.push((indexes, Err(unavailable("EventBridge", "the call was broken off"))));
            flying.spawn(async move { (place, outcome.await) });
        }
        match flying.join_next().await {
            Some(Ok((place, outcome))) => done[place].1 = outcome,
            Some(Err(_)) => {}
            None => return done,
        }
    }
}

/// The entries of each call, in order.
fn calls(entries: &[Entry], limits: CallLimits, indexes: &[usize]) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for index in indexes {
        let size = entries[*index].bytes();
        match calls.last_mut() {
            Some(call) if call.len() < limits.entries_max && bytes + size <= limits.bytes_max => {
                bytes += size;
                call.push(*index);
            }
            _ => {
                bytes = size;
                calls.push(vec![*index]);
            }
        }
    }
    calls
}

/// The error of one entry, by its code.
pub fn entry_error(service: &'static str, code: &str, message: Option<&str>) -> PortError {
    let reason = format!("{code}: {}", message.unwrap_or("no message"));
    let passes = is_later(code) || code.starts_with("Internal") || code.starts_with("Throttl");
    if passes { unavailable(service, reason) } else { refused(service, reason) }
}

/// Spreads the outcomes of entries over the events in them.
pub fn by_event(
    service: &'static str,
    events: usize,
    packed: &Packed,
    outcomes: Vec<Result<(), PortError>>,
) -> Vec<Result<(), PortError>> {
    let mut of_events: Vec<Result<(), PortError>> = (0..events).map(|_| Ok(())).collect();
    for (entry, outcome) in packed.entries.iter().zip(outcomes) {
        for event in &entry.events {
            of_events[*event] = outcome.clone();
        }
    }
    for unfit in &packed.unfit {
        of_events[unfit.event] = Err(refused(service, &*unfit.reason));
    }
    of_events
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Barrier;

    fn entry(bytes: usize) -> Entry {
        Entry { source: "", detail_type: "", detail: "x".repeat(bytes), events: vec![0] }
    }

    #[test]
    fn a_call_takes_no_more_than_its_entries_and_its_bytes() {
        let limits = CallLimits { entries_max: 10, bytes_max: 100 };
        let sizes = |entries: Vec<Entry>| {
            let all: Vec<_> = (0..entries.len()).collect();
            calls(&entries, limits, &all).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(vec![]), [0; 0]);
        assert_eq!(sizes(vec![entry(1); 21]), [10, 10, 1]);
        assert_eq!(sizes(vec![entry(50); 3]), [2, 1], "two fit to the byte");
        assert_eq!(sizes(vec![entry(500), entry(1), entry(100)]), [1, 1, 1], "what is larger goes alone");
    }

    /// With fewer under way the barrier would never open.
    #[tokio::test]
    async fn calls_are_under_way_together_and_not_more_than_the_maximum() {
        let limits = CallLimits { entries_max: 1, bytes_max: 1 };
        let ambient = Ambient::new(|| 0, |bytes| bytes.fill(0));
        let entries: Entries = Arc::new(vec![entry(1); 3 * CALLS_IN_FLIGHT_MAX]);
        let barrier = Arc::new(Barrier::new(CALLS_IN_FLIGHT_MAX));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let call = |_, indexes: Vec<usize>| {
            let (barrier, now, most) = (Arc::clone(&barrier), Arc::clone(&now), Arc::clone(&most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                barrier.wait().await;
                now.fetch_sub(1, Ordering::Relaxed);
                assert_ne!(indexes, [5], "a call that panics fails its entries and no other");
                Ok(indexes.iter().map(|_| Ok(())).collect())
            }
        };
        let outcomes = put_all(&entries, limits, &ambient, call).await;
        let failed: Vec<_> = (0..outcomes.len()).filter(|index| outcomes[*index].is_err()).collect();
        assert_eq!((most.load(Ordering::Relaxed), failed), (CALLS_IN_FLIGHT_MAX, vec![5]));
    }
}
