//! What a gateway counts.

/// What a gateway has seen and done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Frames taken.
    pub frames: u64,
    /// Frames not looked at because [`OUTPUTS_MAX`](super::OUTPUTS_MAX) outputs were waiting.
    pub frames_refused: u64,
    /// Frames and transport messages that a DBC message was found for and decoded.
    pub frames_decoded: u64,
    /// Frames and transport messages without a DBC message.
    pub unknown: u64,
    /// Dropped: a multiplexer value that no signal is defined for.
    pub mux_unmatched: u64,
    /// Shorter than the DBC message: the signals that fit were taken.
    pub too_short: u64,
    /// Frames that are a part of a message of ISO-TP that a DBC describes.
    #[serde(default)]
    pub parts: u64,
    /// Values dropped as not available or error by SAE J1939-71.
    pub not_available: u64,
    /// Samples that campaigns took; one that two campaigns take counts twice.
    pub samples: u64,
    /// Envelopes made.
    pub envelopes: u64,
    /// Bytes of these envelopes.
    pub envelope_bytes: u64,
    /// Samples dropped because a single one did not fit an envelope.
    pub samples_too_large: u64,
    /// Requests of the cloud that could not be met: another manifest, or too many outputs waiting.
    pub requests_refused: u64,
    /// J1939 transport messages put together.
    pub tp_messages: u64,
    /// J1939 data packets outside a session.
    pub tp_orphans: u64,
    /// J1939 sessions given up.
    pub tp_aborted: u64,
    /// J1939 announcements that make no sense.
    pub tp_malformed: u64,
    /// ISO-TP messages of ECUs.
    pub isotp_messages: u64,
    /// ISO-TP consecutive frames outside a message.
    pub isotp_orphans: u64,
    /// ISO-TP messages given up.
    pub isotp_aborted: u64,
    /// ISO-TP frames that make no sense.
    pub isotp_malformed: u64,
    /// Desired states that were not taken; the latest with its reason is in the report.
    pub desired_refused: u64,
    /// Samples not taken because their campaign's byte budget of the day was used.
    pub samples_over_budget: u64,
    /// Snapshots made.
    pub snapshots: u64,
    /// Samples of batches that an earlier life of the agent left in its journal.
    pub samples_recovered: u64,
    /// Trouble codes opened or closed, and those reported as still present because their lamps or counts changed.
    pub dtc_changes: u64,
    /// J1939 codes not reported because their SPN is in an old form that cannot be read safely.
    pub dtc_old_conversion: u64,
    /// DM1 messages too short to read.
    pub dtc_malformed: u64,
    /// Lists of codes not looked at because too many controllers report, and codes because a list has too many.
    pub dtc_reporters_refused: u64,
    /// Freeze frames and snapshots that were sent.
    #[serde(default)]
    pub frozen_frames: u64,
    /// Frozen values that no file describes or whose trouble code is not known, and frames that found no place.
    #[serde(default)]
    pub frozen_dropped: u64,
}
