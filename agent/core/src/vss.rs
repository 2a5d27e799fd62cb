//! Where signals lie in the COVESA Vehicle Signal Specification tree (release 6.0).

use std::collections::HashMap;

/// The map that ships with the agent.
const BUILTIN: &str = include_str!("vss_map.csv");

/// The leaf that a DBC signal becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct VssTarget {
    /// VSS path, `Vehicle.Speed`.
    pub path: String,
    /// The leaf's unit as VSS writes it; empty for leaves without one.
    pub unit: String,
    /// value at path = physical x factor + offset.
    pub factor: f64,
    /// See `factor`.
    pub offset: f64,
}

/// DBC signals (`Message.Signal`) to VSS leaves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VssMap {
    targets: HashMap<String, VssTarget>,
}

/// Why a text is not a map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VssMapError {
    /// A line that has not the five columns `Message.Signal,path,unit,factor,offset`.
    #[error("VSS map line {line}: expected 5 columns (signal, path, unit, factor, offset), got {got}")]
    Columns {
        /// Line number from 1.
        line: usize,
        /// Columns found.
        got: usize,
    },
    /// A signal that is not written `Message.Signal`, or a path that does not begin with `Vehicle.`.
    #[error("VSS map line {line}: {text} is not a {expected}")]
    Name {
        /// Line number from 1.
        line: usize,
        /// What was found.
        text: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A factor or offset that is not a finite number, or a factor of zero.
    #[error("VSS map line {line}: {text} is not a usable number")]
    Number {
        /// Line number from 1.
        line: usize,
        /// What was found.
        text: String,
    },
    /// A signal on two lines.
    #[error("VSS map line {line}: {signal} is mapped on an earlier line already")]
    Twice {
        /// Line number from 1.
        line: usize,
        /// The signal.
        signal: String,
    },
}

impl VssMap {
    /// A map without entries: every signal stays private.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The map that ships with the agent: SAE J1939 engine and vehicle parameters, OBD-II service 01, CANmod.gps.
    pub fn builtin() -> Self {
        Self::parse(BUILTIN).expect("the map beside this file is tested")
    }

    /// Reads lines `Message.Signal,path,unit,factor,offset`; `#` begins a comment, empty lines are skipped.
    pub fn parse(text: &str) -> Result<Self, VssMapError> {
        let mut map = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            let content = line.split('#').next().unwrap_or("").trim();
            if content.is_empty() {
                continue;
            }
            let columns: Vec<&str> = content.split(',').map(str::trim).collect();
            let &[signal, path, unit, factor, offset] = columns.as_slice() else {
                return Err(VssMapError::Columns { line: line_number, got: columns.len() });
            };
            let target = VssTarget {
                path: named(line_number, path, path.starts_with("Vehicle."), "VSS path")?,
                unit: unit.to_owned(),
                factor: number(line_number, factor)?,
                offset: number(line_number, offset)?,
            };
            if target.factor == 0.0 {
                return Err(VssMapError::Number { line: line_number, text: factor.to_owned() });
            }
            let signal = named(line_number, signal, signal.contains('.'), "Message.Signal")?;
            if map.targets.insert(signal.clone(), target).is_some() {
                return Err(VssMapError::Twice { line: line_number, signal });
            }
        }
        Ok(map)
    }

    /// Where a signal goes; `None` where VSS has no place for it.
    pub fn target(&self, message: &str, signal: &str) -> Option<&VssTarget> {
        self.targets.get(&format!("{message}.{signal}"))
    }

    /// All entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &VssTarget)> {
        self.targets.iter().map(|(signal, target)| (signal.as_str(), target))
    }
}

fn named(line: usize, text: &str, sound: bool, expected: &'static str) -> Result<String, VssMapError> {
    if sound { Ok(text.to_owned()) } else { Err(VssMapError::Name { line, text: text.to_owned(), expected }) }
}

fn number(line: usize, text: &str) -> Result<f64, VssMapError> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite());
    value.ok_or_else(|| VssMapError::Number { line, text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_their_line() {
        let error = |text| VssMap::parse(text).unwrap_err().to_string();
        assert!(error("# a\n\nM.S,Vehicle.Speed,km/h,1").starts_with("VSS map line 3: expected 5 columns"));
        assert!(error("M.S,Speed,km/h,1,0").contains("Speed is not a VSS path"));
        assert!(error("S,Vehicle.Speed,km/h,1,0").contains("S is not a Message.Signal"));
        assert!(error("M.S,Vehicle.Speed,km/h,0,0").contains("0 is not a usable number"));
        assert!(error("M.S,Vehicle.Speed,km/h,1,inf").contains("inf"));
        assert!(error("M.S,Vehicle.A,,1,0\nM.S,Vehicle.B,,1,0").contains("line 2: M.S is mapped"));
    }

    #[test]
    fn target_is_found_by_message_and_signal() {
        let map = VssMap::parse("gnss_speed.Speed, Vehicle.Speed, km/h, 3.6, 0 # from m/s").unwrap();
        let target = map.target("gnss_speed", "Speed").unwrap();
        assert_eq!((target.path.as_str(), target.unit.as_str()), ("Vehicle.Speed", "km/h"));
        assert_eq!((target.factor, target.offset), (3.6, 0.0));
        assert_eq!(map.target("gnss_speed", "SpeedAccuracy"), None);
        assert_eq!(VssMap::empty().iter().count(), 0);
    }
}
