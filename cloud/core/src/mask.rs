//! Field masks: which signals a customer may see, and when.
//!
//! A mask is package ∩ subscription. It is compiled once per manifest into one truth value a signal and applied by
//! projection before anything is serialised: what is not selected is never rendered.

use convoy_protocol::campaign::pattern_matches;
use convoy_protocol::manifest::Manifest;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Patterns in one selection at most.
pub const PATTERNS_MAX: usize = 256;

/// A choice among VSS paths; `*` stands for any characters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldSelection {
    /// Paths to take; empty takes all of the package.
    #[serde(default)]
    #[schema(example = json!(["Vehicle.Speed", "Vehicle.Powertrain.*"]))]
    pub include: Vec<String>,
    /// Paths to leave out, stronger than `include`.
    #[serde(default)]
    pub exclude: Vec<String>,
}

impl FieldSelection {
    fn permits(&self, path: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| pattern_matches(pattern, path));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// The paths one subscription gives access to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldMask {
    /// Patterns of the package.
    pub package: Vec<String>,
    /// The subscription's own choice within it.
    pub subscription: FieldSelection,
}

impl FieldMask {
    /// May a value at `path` be seen?
    pub fn permits(&self, path: &str) -> bool {
        self.package.iter().any(|pattern| pattern_matches(pattern, path)) && self.subscription.permits(path)
    }

    /// Patterns that together match at least what may be seen: what the vehicle is told to collect. What they match
    /// beyond the mask, because of an exclusion or of patterns that overlap, is not delivered.
    pub fn patterns(&self) -> Vec<String> {
        if self.subscription.include.is_empty() {
            return self.package.clone();
        }
        let mut patterns: Vec<String> = Vec::new();
        let mut add = |pattern: &String| {
            if !patterns.contains(pattern) {
                patterns.push(pattern.clone());
            }
        };
        for own in &self.package {
            for chosen in &self.subscription.include {
                if pattern_matches(own, chosen) {
                    add(chosen);
                } else if pattern_matches(chosen, own) || (own.contains('*') && chosen.contains('*')) {
                    add(own);
                }
            }
        }
        patterns
    }

    /// The mask over a manifest's signals, one truth value each.
    pub fn compile(&self, manifest: &Manifest) -> Vec<bool> {
        manifest.signals.iter().map(|signal| self.permits(&signal.path)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_is_the_intersection_and_exclusion_wins() {
        let mask = FieldMask {
            package: vec!["Vehicle.Speed".into(), "Vehicle.Powertrain.*".into()],
            subscription: FieldSelection {
                include: vec!["Vehicle.*".into()],
                exclude: vec!["*.Temperature".into()],
            },
        };
        assert!(mask.permits("Vehicle.Speed"));
        assert!(mask.permits("Vehicle.Powertrain.Range"));
        assert!(!mask.permits("Vehicle.Powertrain.Engine.Temperature"));
        assert!(!mask.permits("Vehicle.CurrentLocation.Latitude"));
    }

    #[test]
    fn patterns_to_collect_are_the_narrower_of_each_pair() {
        let patterns = |package: &[&str], include: &[&str]| {
            let own = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect();
            let subscription = FieldSelection { include: own(include), exclude: Vec::new() };
            FieldMask { package: own(package), subscription }.patterns()
        };
        assert_eq!(patterns(&["Vehicle.A.*", "Vehicle.B"], &[]), ["Vehicle.A.*", "Vehicle.B"]);
        assert_eq!(patterns(&["Vehicle.A.*", "Vehicle.B"], &["Vehicle.A.x", "Vehicle.C"]), ["Vehicle.A.x"]);
        assert_eq!(patterns(&["Vehicle.A.*", "Vehicle.B"], &["Vehicle.*"]), ["Vehicle.A.*", "Vehicle.B"]);
        assert_eq!(patterns(&["Vehicle.A.*"], &["*.Speed"]), ["Vehicle.A.*"], "they may overlap");
    }
}
