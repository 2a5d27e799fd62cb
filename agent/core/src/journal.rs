//! The journal of open batches: what makes a sample safe before its batch is closed.
//!
//! A *chunk* holds the samples that came into an open batch since its last chunk; it goes into the journal, a log of
//! its own. When the batch is closed, its envelope goes into its lane's log, in a record that names the batch: from
//! then on its chunks are of no use. Chunks whose batch was never closed are made into an envelope when the agent
//! starts again. A *live* record lists the batches that are open when it is written, so that a chunk is known to be of
//! no use also after its envelope was sent, acknowledged and removed.
//!
//! ```text
//! in a lane's log
//! 43 56 ...                       an envelope that closes no journalled batch, as it is
//! 43 42 batch envelope            43 42, [`BatchId`] in postcard, the envelope that closes it
//!
//! in the journal
//! 43 4a header columns            43 4a, [`ChunkHeader`] in postcard as bytes with their length, the samples as
//!                                 `columns` in microseconds since the epoch
//! 43 4c batches                   43 4c, [`BatchId`]s in postcard
//! ```

use convoy_protocol::columns::{Column, Columns, Group, Values};
use convoy_protocol::id::{BootId, CampaignId, Lane, ManifestId};
use convoy_protocol::report::TriggerRecord;
use convoy_protocol::time::{ClockQuality, TimeUnit};
use serde::{Deserialize, Serialize};

const CLOSING: [u8; 2] = *b"CB";
const CHUNK: [u8; 2] = *b"CJ";
const LIVE: [u8; 2] = *b"CL";

/// A batch, named uniquely within a vehicle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BatchId {
    /// The life of the agent that opened it.
    pub boot_id: BootId,
    /// Its number in that life.
    pub number: u64,
}

/// What a chunk says besides its samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkHeader {
    /// The batch that the samples are a part of.
    pub batch: BatchId,
    /// Which chunk of the batch, from 0: one that was written twice counts once.
    pub part: u32,
    /// The lane of the batch.
    pub lane: Lane,
    /// The campaign that collected them.
    pub campaign_id: CampaignId,
    /// What their raw values mean.
    pub manifest_id: ManifestId,
    /// How the time was known when the chunk was written.
    pub clock: ClockQuality,
    /// Wall clock minus monotonic clock then, microseconds.
    pub monotonic_offset_us: i64,
    /// What had to be added to the samples' times then, microseconds.
    pub correction_us: i64,
    /// What the batch is collected around.
    pub trigger: Option<TriggerRecord>,
}

/// A record of the journal.
#[derive(Debug, Clone, PartialEq)]
pub enum JournalRecord {
    /// A part of an open batch.
    Chunk(ChunkHeader, Columns),
    /// The batches that were open when it was written.
    Live(Vec<BatchId>),
}

/// The record of an envelope.
pub fn envelope_record(envelope: Vec<u8>, closes: Option<BatchId>) -> Vec<u8> {
    let Some(batch) = closes else { return envelope };
    let mut record = postcard::to_extend(&batch, CLOSING.to_vec()).expect("a batch id is plain data");
    record.extend_from_slice(&envelope);
    record
}

/// The record of a chunk.
pub fn chunk_record(header: &ChunkHeader, columns: &Columns) -> Vec<u8> {
    let header = postcard::to_allocvec(header).expect("a chunk's header is plain data");
    let mut record = postcard::to_extend(&header, CHUNK.to_vec()).expect("bytes are plain data");
    record.extend(columns.encode(0, TimeUnit::Microseconds));
    record
}

/// The record of the batches that are open.
pub fn live_record(batches: &[BatchId]) -> Vec<u8> {
    postcard::to_extend(&batches, LIVE.to_vec()).expect("batch ids are plain data")
}

/// The envelope in a record of a lane's log, and the batch that it closes.
pub fn envelope_of(record: &[u8]) -> (&[u8], Option<BatchId>) {
    match record.strip_prefix(&CLOSING).map(postcard::take_from_bytes::<BatchId>) {
        Some(Ok((batch, envelope))) => (envelope, Some(batch)),
        // What is no envelope either is for whoever reads it to say.
        _ => (record, None),
    }
}

/// Reads a record of the journal; `None` for bytes that are none.
pub fn read(record: &[u8]) -> Option<JournalRecord> {
    if let Some(batches) = record.strip_prefix(&LIVE) {
        return postcard::from_bytes(batches).ok().map(JournalRecord::Live);
    }
    let (header, columns) = postcard::take_from_bytes::<Vec<u8>>(record.strip_prefix(&CHUNK)?).ok()?;
    let header = postcard::from_bytes(&header).ok()?;
    Some(JournalRecord::Chunk(header, Columns::decode(columns, 0).ok()?))
}

/// A batch put together from its chunks.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// As its last chunk says.
    pub header: ChunkHeader,
    /// All its samples.
    pub columns: Columns,
}

/// Puts batches together from chunks, which are given in the order of their writing.
pub fn put_together(chunks: impl IntoIterator<Item = (ChunkHeader, Columns)>) -> Vec<Recovered> {
    let mut batches: Vec<Recovered> = Vec::new();
    for (header, columns) in chunks {
        match batches.iter_mut().find(|batch| batch.header.batch == header.batch) {
            Some(batch) if batch.header.part >= header.part => {}
            Some(batch) => {
                batch.header = header;
                columns.groups.into_iter().for_each(|group| add(&mut batch.columns, group));
            }
            None => batches.push(Recovered { header, columns }),
        }
    }
    batches
}

/// Rows of the same signals and kinds of values share their time column, as they did in the batch.
fn add(columns: &mut Columns, group: Group) {
    let is_alike = |known: &&mut Group| {
        let pairs = known.columns.iter().zip(&group.columns);
        known.columns.len() == group.columns.len()
            && pairs.into_iter().all(|(left, right)| {
                left.signal == right.signal
                    && std::mem::discriminant(&left.values) == std::mem::discriminant(&right.values)
            })
    };
    match columns.groups.iter_mut().find(is_alike) {
        Some(known) => {
            known.times_us.extend(group.times_us);
            known.columns.iter_mut().zip(group.columns).for_each(|(known, more)| extend(known, more));
        }
        None => columns.groups.push(group),
    }
}

fn extend(column: &mut Column, more: Column) {
    match (&mut column.values, more.values) {
        (Values::Raw(known), Values::Raw(more)) => known.extend(more),
        (Values::F32(known), Values::F32(more)) => known.extend(more),
        (Values::F64(known), Values::F64(more)) => known.extend(more),
        (Values::Bool(known), Values::Bool(more)) => known.extend(more),
        (Values::Text(known), Values::Text(more)) => known.extend(more),
        _ => unreachable!("`add` compared the kinds"),
    }
}

#[cfg(test)]
mod tests {
    use convoy_protocol::manifest::SignalIndex;

    use super::*;
    use crate::batch::Batch;
    use crate::decoder::RawValue;

    const BATCH: BatchId = BatchId { boot_id: BootId { counter: 3, spool: 4 }, number: 5 };

    fn header(number: u64, part: u32) -> ChunkHeader {
        ChunkHeader {
            batch: BatchId { number, ..BATCH },
            part,
            lane: Lane::Bulk,
            campaign_id: CampaignId([1; 8]),
            manifest_id: ManifestId([2; 16]),
            clock: ClockQuality::Rtc,
            monotonic_offset_us: 7,
            correction_us: 0,
            trigger: None,
        }
    }

    #[test]
    fn records_are_told_apart_by_their_first_bytes() {
        let envelope = b"CV\x01...".to_vec();
        assert_eq!(envelope_of(&envelope_record(envelope.clone(), None)), (&envelope[..], None));
        let closing = envelope_record(envelope.clone(), Some(BATCH));
        assert_eq!(envelope_of(&closing), (&envelope[..], Some(BATCH)));
        assert_eq!(envelope_of(b"CB"), (b"CB".as_slice(), None));
        let chunk = chunk_record(&header(5, 0), &Columns::default());
        assert_eq!(read(&chunk), Some(JournalRecord::Chunk(header(5, 0), Columns::default())));
        assert_eq!(read(&chunk[..chunk.len() - 1]), None);
        assert_eq!(read(&live_record(&[BATCH])), Some(JournalRecord::Live(vec![BATCH])));
        assert_eq!(read(&envelope), None);
    }

    #[test]
    fn chunks_of_a_batch_give_what_the_batch_holds() {
        let mut batch = Batch::new(3);
        let mut chunks = Vec::new();
        for time_us in 0..10 {
            let raw = RawValue::Raw(time_us * 3);
            batch.push(time_us, &[SignalIndex(0), SignalIndex(1)], &[raw, RawValue::F32(0.5)]);
            if time_us % 2 == 0 {
                batch.push(time_us, &[SignalIndex(2)], &[RawValue::F64(1.5)]);
            }
            if time_us % 4 == 3 {
                let part = chunks.len() as u32;
                chunks.push((header(batch.number_or(|| 5), part), batch.take_unjournalled()));
                assert_eq!(batch.unjournalled(), 0);
            }
        }
        assert_eq!(batch.unjournalled(), 5);
        chunks.push(chunks[1].clone());
        chunks.push((header(6, 0), Columns::default()));
        chunks.push((header(5, 2), batch.take_unjournalled()));
        let closed = batch.close().unwrap();
        let recovered = put_together(chunks);
        assert_eq!((recovered.len(), closed.number), (2, Some(5)));
        assert_eq!(recovered[0].columns, closed.columns);
    }
}
