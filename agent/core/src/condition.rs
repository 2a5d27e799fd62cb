//! A condition at work: an expression evaluated against the samples as they come.

use convoy_protocol::expression::{Aggregate, Arithmetic, Comparison, Expression, Op};
use convoy_protocol::manifest::{Manifest, SignalIndex};

use crate::decoder::Row;

/// Parts of a window that are forgotten one by one: its resolution.
const BUCKETS: usize = 20;
/// A signal of the manifest that the condition does not look at.
const NO_SLOT: u8 = u8::MAX;
const NEVER: i64 = i64::MIN;

const TRUE: f64 = 1.0;
const FALSE: f64 = 0.0;
const UNKNOWN: f64 = f64::NAN;

/// An expression with what it remembers.
#[derive(Debug, Clone)]
pub struct Condition {
    program: Expression,
    /// By signal of the manifest: which of the program's signals it is, by its path and by its message.
    slots: Vec<[u8; 2]>,
    /// By signal of the program: its latest value and when it was seen.
    latest: Vec<(f64, i64)>,
    windows: Vec<WindowBuckets>,
    states: Vec<bool>,
    stack: Vec<f64>,
}

impl Condition {
    /// Compiles an expression for a manifest; the error names the signals that the vehicle does not have.
    ///
    /// Several signals of a manifest may have one path: each sample of any of them counts.
    pub fn new(program: Expression, manifest: &Manifest) -> Result<Self, String> {
        let mut slots = vec![[NO_SLOT; 2]; manifest.signals.len()];
        let mut unknown = Vec::new();
        for (slot, name) in (0..).zip(&program.signals) {
            let mut found = false;
            for (at, signal) in manifest.signals.iter().enumerate() {
                let qualified = || format!("{}.{}", manifest.message_of(signal), signal.name);
                if signal.path == *name {
                    slots[at][0] = slot;
                    found = true;
                } else if qualified() == *name {
                    slots[at][1] = slot;
                    found = true;
                }
            }
            if !found {
                unknown.push(name.as_str());
            }
        }
        if !unknown.is_empty() {
            return Err(format!(
                "its condition names signals that the vehicle does not have: {}",
                unknown.join(", ")
            ));
        }
        let window = |window: &convoy_protocol::expression::Window| WindowBuckets::new(window.duration_ms);
        Ok(Self {
            slots,
            latest: vec![(UNKNOWN, NEVER); program.signals.len()],
            windows: program.windows.iter().map(window).collect(),
            states: vec![false; program.states],
            stack: Vec::with_capacity(convoy_protocol::expression::STACK_MAX),
            program,
        })
    }

    /// Does it look at the signal?
    pub fn uses(&self, signal: SignalIndex) -> bool {
        self.slots.get(signal.0 as usize).is_some_and(|slots| *slots != [NO_SLOT; 2])
    }

    /// Takes a row and evaluates; `None` where the row has none of its signals. What is unknown is not true.
    pub fn handle_row(&mut self, time_us: i64, row: &Row, manifest: &Manifest) -> Option<bool> {
        let mut concerned = false;
        for (signal, value) in row.iter() {
            let slots = self.slots.get(signal.0 as usize).copied().unwrap_or([NO_SLOT; 2]);
            for slot in slots.into_iter().filter(|slot| *slot != NO_SLOT) {
                concerned = true;
                self.observe(usize::from(slot), time_us, value_at_path(manifest, signal, value));
            }
        }
        concerned.then(|| self.evaluate(time_us) == TRUE)
    }

    fn observe(&mut self, slot: usize, time_us: i64, value: f64) {
        self.latest[slot] = (value, time_us);
        for (window, buckets) in self.program.windows.iter().zip(&mut self.windows) {
            if window.signal == slot && !value.is_nan() {
                buckets.add(time_us, value);
            }
        }
    }

    fn evaluate(&mut self, time_us: i64) -> f64 {
        self.stack.clear();
        for at in 0..self.program.ops.len() {
            let value = self.step(self.program.ops[at], time_us);
            self.stack.push(value);
        }
        self.pop()
    }

    /// `Expression::parse` made sure that the stack holds what each step takes.
    fn pop(&mut self) -> f64 {
        self.stack.pop().unwrap_or(UNKNOWN)
    }

    fn step(&mut self, op: Op, time_us: i64) -> f64 {
        match op {
            Op::Number(value) => value,
            Op::Signal(slot) => self.latest[slot].0,
            Op::Window(number) => self.windows[number].value(time_us, self.program.windows[number].aggregate),
            Op::Present(slot, within_ms) => truth(match (self.latest[slot].1, within_ms) {
                (NEVER, _) => false,
                (_, None) => true,
                (seen_us, Some(ms)) => {
                    time_us.saturating_sub(seen_us).saturating_abs() <= i64::from(ms) * 1_000
                }
            }),
            Op::Negate => -self.pop(),
            Op::Compare(comparison) => {
                let (right, left) = (self.pop(), self.pop());
                compare(comparison, left, right)
            }
            Op::Arithmetic(arithmetic) => {
                let (right, left) = (self.pop(), self.pop());
                calculate(arithmetic, left, right)
            }
            Op::And => {
                let (right, left) = (self.pop(), self.pop());
                if left == FALSE || right == FALSE { FALSE } else { left * right }
            }
            Op::Or => {
                let (right, left) = (self.pop(), self.pop());
                if left == TRUE || right == TRUE { TRUE } else { left + right }
            }
            Op::Not => TRUE - self.pop(),
            Op::Rising(state) => {
                let now = self.pop() == TRUE;
                truth(!std::mem::replace(&mut self.states[state], now) && now)
            }
            Op::Hysteresis(state) => {
                let (off, on) = (self.pop() == TRUE, self.pop() == TRUE);
                let held = self.states[state];
                self.states[state] = if held { !off } else { on };
                truth(self.states[state])
            }
        }
    }
}

/// A sample's value in the unit of its path; NaN for a signal that the manifest does not have.
pub(crate) fn value_at_path(
    manifest: &Manifest,
    signal: SignalIndex,
    value: crate::decoder::RawValue,
) -> f64 {
    manifest.signal(signal).map_or(UNKNOWN, |def| def.at_path(value.physical(def)))
}

const fn truth(is_true: bool) -> f64 {
    if is_true { TRUE } else { FALSE }
}

fn compare(comparison: Comparison, left: f64, right: f64) -> f64 {
    if left.is_nan() || right.is_nan() {
        return UNKNOWN;
    }
    truth(match comparison {
        Comparison::Less => left < right,
        Comparison::LessOrEqual => left <= right,
        Comparison::Greater => left > right,
        Comparison::GreaterOrEqual => left >= right,
        Comparison::Equal => left == right,
        Comparison::NotEqual => left != right,
    })
}

fn calculate(arithmetic: Arithmetic, left: f64, right: f64) -> f64 {
    let result = match arithmetic {
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
        Arithmetic::Multiply => left * right,
        Arithmetic::Divide => left / right,
    };
    if result.is_finite() { result } else { UNKNOWN }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    number: i64,
    count: u32,
    sum: f64,
    min: f64,
    max: f64,
}

/// The samples of a window, summed up in [`BUCKETS`] parts: memory and time do not depend on how many there are.
#[derive(Debug, Clone)]
struct WindowBuckets {
    bucket_us: i64,
    buckets: [Bucket; BUCKETS],
}

impl WindowBuckets {
    fn new(duration_ms: u32) -> Self {
        let empty = Bucket { number: NEVER, count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };
        let bucket_us = (i64::from(duration_ms) * 1_000 / BUCKETS as i64).max(1);
        Self { bucket_us, buckets: [empty; BUCKETS] }
    }

    fn add(&mut self, time_us: i64, value: f64) {
        let number = time_us.div_euclid(self.bucket_us);
        let bucket = &mut self.buckets[number.rem_euclid(BUCKETS as i64) as usize];
        if bucket.number != number {
            *bucket = Bucket { number, count: 0, sum: 0.0, min: value, max: value };
        }
        bucket.count = bucket.count.saturating_add(1);
        bucket.sum += value;
        bucket.min = bucket.min.min(value);
        bucket.max = bucket.max.max(value);
    }

    fn value(&self, time_us: i64, aggregate: Aggregate) -> f64 {
        let now = time_us.div_euclid(self.bucket_us);
        let in_window = |bucket: &&Bucket| {
            bucket.count > 0 && bucket.number <= now && bucket.number > now.saturating_sub(BUCKETS as i64)
        };
        let parts = self.buckets.iter().filter(in_window);
        let result = match aggregate {
            Aggregate::Min => parts.map(|bucket| bucket.min).fold(f64::INFINITY, f64::min),
            Aggregate::Max => parts.map(|bucket| bucket.max).fold(f64::NEG_INFINITY, f64::max),
            Aggregate::Mean => {
                let (sum, count) = parts.fold((0.0, 0.0), |(sum, count), bucket| {
                    (sum + bucket.sum, count + f64::from(bucket.count))
                });
                sum / count
            }
        };
        if result.is_finite() { result } else { UNKNOWN }
    }
}

#[cfg(test)]
mod tests {
    use convoy_protocol::manifest::SignalDef;

    use super::*;
    use crate::decoder::RawValue;

    fn manifest() -> Manifest {
        let signal = |name: &str, path: &str, path_factor| SignalDef {
            message: 0,
            name: name.into(),
            unit: String::new(),
            factor: 0.5,
            offset: 0.0,
            path: path.into(),
            path_unit: String::new(),
            path_factor,
            path_offset: 0.0,
        };
        let signals = vec![signal("S", "Vehicle.Speed", 1.0), signal("B", "Vehicle.Brake", 2.0)];
        Manifest { messages: vec!["M".into()], signals }
    }

    /// Rows of (time in seconds, signal, raw value), and what the condition says of each.
    fn results(text: &str, rows: &[(f64, u32, i64)]) -> Vec<bool> {
        let manifest = manifest();
        let mut condition = Condition::new(Expression::parse(text).unwrap(), &manifest).unwrap();
        rows.iter()
            .map(|(seconds, signal, raw)| {
                let mut row = Row::new();
                row.append((&[SignalIndex(*signal)], &[RawValue::Raw(*raw)]), |_, _| true);
                condition.handle_row((seconds * 1e6) as i64, &row, &manifest).unwrap()
            })
            .collect()
    }

    #[test]
    fn values_are_in_the_unit_of_the_path_and_names_may_be_qualified() {
        // Raw 20 is 10 in the DBC unit; at the path of the brake it is doubled.
        assert_eq!(results("Vehicle.Speed == 10", &[(0.0, 0, 20)]), [true]);
        assert_eq!(results("`M.B` == 20", &[(0.0, 1, 20)]), [true]);
        // One signal by both of its names.
        assert_eq!(results("Vehicle.Brake == 20 and `M.B` < 21", &[(0.0, 1, 20)]), [true]);
    }

    #[test]
    fn unknown_counts_only_where_it_matters() {
        let speed_only = [(0.0, 0, 20)];
        for (text, expected) in [
            ("Vehicle.Brake > 0", false),
            ("not Vehicle.Brake > 0", false),
            ("Vehicle.Speed > 1 or Vehicle.Brake > 0", true),
            ("Vehicle.Speed > 1 and Vehicle.Brake > 0", false),
            ("not (Vehicle.Speed > 99 and Vehicle.Brake > 0)", true),
            ("present(Vehicle.Brake) or Vehicle.Speed < 1", false),
            ("not present(Vehicle.Brake) and Vehicle.Speed > 1", true),
            ("Vehicle.Speed / 0 > 1 or Vehicle.Speed / 0 <= 1", false),
        ] {
            // Each names the speed, so that the row concerns it.
            let text = format!("({text}) and present(Vehicle.Speed)");
            assert_eq!(results(&text, &speed_only), [expected], "{text}");
        }
    }

    #[test]
    fn windows_forget_what_is_older_than_they_are() {
        let rows = [(0.0, 0, 20), (4.0, 0, 40), (9.0, 0, 60), (11.0, 0, 80)];
        assert_eq!(results("min(Vehicle.Speed, 10s) > 15", &rows), [false, false, false, true]);
        assert_eq!(results("max(Vehicle.Speed, 10s) >= 30", &rows), [false, false, true, true]);
        // 10, then (10+20)/2, (10+20+30)/3, (20+30+40)/3.
        assert_eq!(results("mean(Vehicle.Speed, 10s) == 20", &rows), [false, false, true, false]);
        assert_eq!(results("mean(Vehicle.Speed, 10s) == 30", &rows), [false, false, false, true]);
    }

    #[test]
    fn rising_is_true_once_and_hysteresis_holds_in_between() {
        let rows =
            [(0.0, 0, 0), (1.0, 0, 20), (2.0, 0, 20), (3.0, 0, 16), (4.0, 0, 0), (5.0, 0, 16), (6.0, 0, 20)];
        let rising = [false, true, false, false, false, false, true];
        assert_eq!(results("rising(Vehicle.Speed > 9)", &rows), rising);
        let held = [false, true, true, true, false, false, true];
        assert_eq!(results("hysteresis(Vehicle.Speed > 9, Vehicle.Speed < 5)", &rows), held);
    }

    #[test]
    fn present_ends_with_its_time() {
        let rows = [(0.0, 1, 1), (1.0, 0, 1), (2.5, 0, 1)];
        assert_eq!(
            results("present(Vehicle.Brake, 2s) and present(Vehicle.Speed)", &rows),
            [false, true, false]
        );
    }

    #[test]
    fn signals_that_the_vehicle_does_not_have_are_named() {
        let program = Expression::parse("A.B > 1 and Vehicle.Speed > 1 or C > 1").unwrap();
        let error = Condition::new(program, &manifest()).unwrap_err();
        assert!(error.ends_with("does not have: A.B, C"), "{error}");
    }

    #[test]
    fn a_row_without_its_signals_is_not_judged() {
        let manifest = manifest();
        let program = Expression::parse("Vehicle.Speed > 1").unwrap();
        let mut condition = Condition::new(program, &manifest).unwrap();
        assert_eq!(condition.handle_row(0, &Row::new(), &manifest), None);
    }
}
