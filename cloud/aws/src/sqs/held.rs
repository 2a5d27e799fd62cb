//! Bodies of messages that were received and are not settled, so that they can be moved to the dead letters.

use std::collections::VecDeque;

use convoy_cloud_core::ports::Receipt;

/// Bodies held at most, bytes; the oldest give way.
const HELD_BYTES_MAX: usize = 4 << 20;

/// Bodies by receipt, oldest first.
#[derive(Default)]
pub(super) struct Held {
    bodies: VecDeque<(Receipt, String)>,
    bytes: usize,
}

impl Held {
    pub(super) fn keep(&mut self, receipt: &Receipt, body: String) {
        self.bytes += body.len();
        self.bodies.push_back((receipt.clone(), body));
        while self.bytes > HELD_BYTES_MAX {
            let Some((_, body)) = self.bodies.pop_front() else { break };
            self.bytes -= body.len();
        }
    }

    pub(super) fn body(&self, receipt: &Receipt) -> Option<String> {
        self.bodies.iter().find(|(held, _)| held == receipt).map(|(_, body)| body.clone())
    }

    pub(super) fn forget(&mut self, receipts: &[Receipt]) {
        self.bodies.retain(|(held, _)| !receipts.contains(held));
        self.bytes = self.bodies.iter().map(|(_, body)| body.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_bodies_give_way_and_settled_ones_are_forgotten() {
        let receipt = |number: usize| -> Receipt { format!("r{number}").parse().unwrap() };
        let mut held = Held::default();
        for number in 0..5 {
            held.keep(&receipt(number), "x".repeat(HELD_BYTES_MAX / 4));
        }
        let found = (0..5).map(|number| held.body(&receipt(number)).is_some());
        assert_eq!(found.collect::<Vec<_>>(), [false, true, true, true, true]);
        held.forget(&[receipt(1), receipt(2)]);
        assert_eq!((held.body(&receipt(2)), held.bytes), (None, HELD_BYTES_MAX / 2));
    }
}
