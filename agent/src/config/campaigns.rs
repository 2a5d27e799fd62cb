//! `[[campaign]]` sections.

use convoy_protocol::campaign::{
    BATCH_SAMPLES_MAX, Campaign, Collection, SignalSelector, TRIGGER_MS_MAX, Trigger, TriggerMode,
    WINDOW_MS_MAX,
};

use super::toml_reader::{Faults, Section};

/// What the agent collects of its own accord: nothing where there is no section, because the cloud says what to
/// collect.
pub(super) fn campaigns(root: &mut Section<'_>, faults: &mut Faults<'_>) -> Vec<Campaign> {
    let sections = root.sections("campaign", faults);
    sections.into_iter().filter_map(|section| campaign(section, faults)).collect()
}

fn small(value: Option<u64>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default)
}

fn campaign(mut section: Section<'_>, faults: &mut Faults<'_>) -> Option<Campaign> {
    let default = Campaign::everything();
    let name = section.required("name", "\"battery\"", faults);
    let lane = section.string("lane", faults).and_then(|lane| lane.parse(faults));
    let window_ms = section.integer("window_ms", 0..=u64::from(WINDOW_MS_MAX), faults);
    let batch = section.integer("batch_samples", 1..=u64::from(BATCH_SAMPLES_MAX), faults);
    let priority = section.integer("priority", 0..=255, faults);
    let bytes_per_day = section.integer("bytes_per_day", 0..=u64::from(u32::MAX), faults);
    let trouble_codes = section.boolean("trouble_codes", faults);
    let collection = collection(&mut section, faults);
    let selectors = section.sections("signals", faults);
    let selects = !selectors.is_empty();
    let signals: Vec<_> = selectors.into_iter().filter_map(|section| selector(section, faults)).collect();
    if !selects && trouble_codes != Some(true) {
        section.missing("signals", "[{ pattern = \"*\", period_ms = 0 }]", faults);
    }
    section.finish(faults);
    let name = name?;
    let campaign = Campaign {
        lane: lane.unwrap_or(default.lane),
        window_ms: small(window_ms, default.window_ms),
        batch_samples: small(batch, default.batch_samples),
        priority: priority.and_then(|value| u8::try_from(value).ok()).unwrap_or(default.priority),
        expires_us: None,
        bytes_per_day: bytes_per_day.and_then(|value| u32::try_from(value).ok()),
        collection: collection.unwrap_or(Collection::TimeBased),
        signals,
        trouble_codes: trouble_codes.unwrap_or(default.trouble_codes),
        name: name.value,
    };
    // What is out of bounds was reported with its line; what is left concerns several keys.
    if !campaign.signals.is_empty() {
        for fault in campaign.faults() {
            faults.add(Some(name.span.clone()), fault.to_string());
        }
    }
    Some(campaign)
}

fn collection(section: &mut Section<'_>, faults: &mut Faults<'_>) -> Option<Collection> {
    let condition = section.string("condition", faults);
    let mode = section.string("trigger_mode", faults);
    let ms = |section: &mut Section<'_>, key, max, faults: &mut Faults<'_>| {
        section.integer(key, 0..=u64::from(max), faults)
    };
    let interval = ms(section, "minimum_interval_ms", u32::MAX, faults);
    let before = ms(section, "before_duration_ms", TRIGGER_MS_MAX, faults);
    let after = ms(section, "after_duration_ms", TRIGGER_MS_MAX, faults);
    let Some(condition) = condition else {
        if let Some(mode) = mode {
            mode.refuse(faults, "it needs condition = \"Vehicle.Speed > 90\" beside it");
        }
        return None;
    };
    let mode = match mode.as_ref().map(|mode| mode.value.as_str()) {
        None | Some("rising_edge") => TriggerMode::RisingEdge,
        Some("any_edge") => TriggerMode::AnyEdge,
        Some("while_true") => TriggerMode::WhileTrue,
        Some(_) => {
            if let Some(mode) = mode {
                mode.refuse(faults, "expected rising_edge, any_edge or while_true");
            }
            return None;
        }
    };
    Some(Collection::ConditionBased(Trigger {
        condition: condition.value,
        mode,
        minimum_interval_ms: small(interval, 0),
        before_duration_ms: small(before, 0),
        after_duration_ms: small(after, 0),
    }))
}

fn selector(mut section: Section<'_>, faults: &mut Faults<'_>) -> Option<SignalSelector> {
    let pattern = section.required("pattern", "\"Vehicle.Speed\"", faults);
    let period_ms = section.integer("period_ms", 0..=u64::from(u32::MAX), faults);
    let deadband = section.number("deadband", faults).unwrap_or(0.0);
    let on_change = section.boolean("on_change", faults).unwrap_or(false);
    let exclude = section.boolean("exclude", faults).unwrap_or(false);
    section.finish(faults);
    Some(SignalSelector {
        pattern: pattern?.value,
        period_ms: small(period_ms, 0),
        deadband,
        on_change,
        exclude,
    })
}
