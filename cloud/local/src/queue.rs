//! Customer queues on SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use convoy_cloud_core::ports::{
    CustomerQueue, PortError, QueueMessage, QueueName, QueueStats, Receipt, Received,
};
use rusqlite::{Row, Transaction, params};
use tokio::sync::Notify;

use crate::database::{Database, pack, unpack};

/// Receptions of a customer's message without an acknowledgement before it counts as dead.
const RECEPTIONS_MAX: u32 = 1_000;
const WAITING: i64 = 0;
const ACKNOWLEDGED: i64 = 1;
const DEAD: i64 = 2;

/// A message's number and reception, as a receipt: `r12.1`.
fn receipt(number: i64, attempt: u32) -> Receipt {
    format!("r{number}.{attempt}").parse().expect("a receipt is short ASCII")
}

/// The number and the reception; `None` for what was never one of ours.
fn reception(receipt: &Receipt) -> Option<(i64, u32)> {
    let (number, attempt) = receipt.as_str().strip_prefix('r')?.split_once('.')?;
    Some((number.parse().ok()?, attempt.parse().ok()?))
}

/// The queues.
#[derive(Clone)]
pub struct SqliteQueue {
    database: Database,
    webhook_sent: Arc<Notify>,
}

impl SqliteQueue {
    /// Queues in this database.
    pub fn new(database: Database) -> Self {
        Self { database, webhook_sent: Arc::new(Notify::new()) }
    }

    /// Wakes when something was put into a webhook queue.
    pub fn webhook_sent(&self) -> Arc<Notify> {
        Arc::clone(&self.webhook_sent)
    }

    /// Changes the messages that the receipts are current for; how many these were.
    async fn settle(
        &self,
        queue: &QueueName,
        receipts: &[Receipt],
        change: impl Fn(&Transaction<'_>, i64) -> rusqlite::Result<usize> + Send + 'static,
    ) -> Result<u64, PortError> {
        let (queue, receipts) = (queue.to_string(), receipts.to_vec());
        self.database
            .write(move |transaction| {
                let mut current = transaction.prepare_cached(
                    "SELECT count(*) FROM queue_message WHERE number = ?1 AND queue = ?2 AND attempt = ?3 AND state = ?4",
                )?;
                let mut settled = 0;
                for (number, attempt) in receipts.iter().filter_map(reception) {
                    let is_current: i64 =
                        current.query_row(params![number, queue, attempt, WAITING], |row| row.get(0))?;
                    if is_current == 1 {
                        settled += change(transaction, number)? as u64;
                    }
                }
                Ok(settled)
            })
            .await
    }
}

fn received(row: &Row<'_>) -> rusqlite::Result<(i64, Received)> {
    let event_id: String = row.get("event_id")?;
    let (number, attempt) = (row.get("number")?, row.get::<_, u32>("attempt")? + 1);
    let event_id = event_id.parse().map_err(|_| {
        let reason = "an event id cannot be read".into();
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, reason)
    })?;
    let body = unpack(&row.get::<_, Vec<u8>>("body")?)?;
    let events = vec![QueueMessage { event_id, body }];
    let received =
        Received { receipt: receipt(number, attempt), attempt, events, sent_us: row.get("sent_us")? };
    Ok((number, received))
}

#[async_trait]
impl CustomerQueue for SqliteQueue {
    async fn send(&self, messages: &[(QueueName, QueueMessage)], now_us: i64) -> Result<(), PortError> {
        let for_webhooks = messages.iter().any(|(queue, _)| matches!(queue, QueueName::Webhook(_)));
        let messages: Vec<_> = messages
            .iter()
            .map(|(queue, message)| (queue.to_string(), message.event_id.to_string(), pack(&message.body)))
            .collect();
        self.database
            .write(move |transaction| {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO queue_message (queue, event_id, body, sent_us, visible_us) VALUES (?1, ?2, ?3, ?4, ?4) \
                     ON CONFLICT DO NOTHING",
                )?;
                for (queue, event, body) in &messages {
                    insert.execute(params![queue, event, body, now_us])?;
                }
                Ok(())
            })
            .await?;
        if for_webhooks {
            self.webhook_sent.notify_one();
        }
        Ok(())
    }

    async fn receive(
        &self,
        queue: &QueueName,
        messages_max: u32,
        bytes_max: u64,
        lease_us: i64,
        now_us: i64,
    ) -> Result<Vec<Received>, PortError> {
        let queue = queue.to_string();
        self.database
            .write(move |transaction| {
                transaction.execute(
                    "UPDATE queue_message SET state = ?1, reason = 'received too often' \
                     WHERE queue = ?2 AND state = ?3 AND visible_us <= ?4 AND attempt >= ?5",
                    params![DEAD, queue, WAITING, now_us, RECEPTIONS_MAX],
                )?;
                let mut select = transaction.prepare_cached(
                    "SELECT * FROM queue_message WHERE queue = ?1 AND state = ?2 AND visible_us <= ?3 \
                     ORDER BY visible_us, number LIMIT ?4",
                )?;
                let mut rows = select.query(params![queue, WAITING, now_us, messages_max])?;
                let (mut taken, mut bytes) = (Vec::new(), 0);
                while let Some(row) = rows.next()? {
                    let message = received(row)?;
                    bytes += message.1.events.iter().map(|event| event.body.len() as u64).sum::<u64>();
                    if bytes > bytes_max && !taken.is_empty() {
                        break;
                    }
                    taken.push(message);
                }
                let mut lease = transaction.prepare_cached(
                    "UPDATE queue_message SET attempt = attempt + 1, visible_us = ?1 WHERE number = ?2",
                )?;
                for (number, _) in &taken {
                    lease.execute(params![now_us.saturating_add(lease_us), number])?;
                }
                Ok(taken.into_iter().map(|(_, message)| message).collect())
            })
            .await
    }

    async fn ack(&self, queue: &QueueName, receipts: &[Receipt], _: i64) -> Result<u64, PortError> {
        self.settle(queue, receipts, |transaction, number| {
            transaction
                .prepare_cached("UPDATE queue_message SET state = ?1, body = NULL WHERE number = ?2")?
                .execute(params![ACKNOWLEDGED, number])
        })
        .await
    }

    async fn nack(&self, queue: &QueueName, receipts: &[Receipt], visible_us: i64) -> Result<u64, PortError> {
        self.settle(queue, receipts, move |transaction, number| {
            transaction
                .prepare_cached("UPDATE queue_message SET visible_us = ?1 WHERE number = ?2")?
                .execute(params![visible_us, number])
        })
        .await
    }

    async fn bury(&self, queue: &QueueName, receipts: &[Receipt], reason: &str) -> Result<u64, PortError> {
        let reason = reason.to_owned();
        self.settle(queue, receipts, move |transaction, number| {
            transaction
                .prepare_cached("UPDATE queue_message SET state = ?1, reason = ?2 WHERE number = ?3")?
                .execute(params![DEAD, reason, number])
        })
        .await
    }

    async fn stats(&self, queue: &QueueName, now_us: i64) -> Result<QueueStats, PortError> {
        let queue = queue.to_string();
        self.database
            .read(move |connection| {
                connection.query_row(
                    "SELECT count(*) FILTER (WHERE state = 0 AND visible_us <= ?2), \
                            count(*) FILTER (WHERE state = 0 AND visible_us > ?2), \
                            count(*) FILTER (WHERE state = 2), \
                            min(sent_us) FILTER (WHERE state = 0) \
                     FROM queue_message WHERE queue = ?1",
                    params![queue, now_us],
                    |row| {
                        Ok(QueueStats {
                            visible: row.get::<_, i64>(0)?.cast_unsigned(),
                            in_flight: row.get::<_, i64>(1)?.cast_unsigned(),
                            dead: row.get::<_, i64>(2)?.cast_unsigned(),
                            oldest_us: row.get(3)?,
                        })
                    },
                )
            })
            .await
    }

    async fn next_webhook_us(&self) -> Result<Option<i64>, PortError> {
        self.database
            .read(|connection| {
                connection.query_row(
                    "SELECT min(visible_us) FROM queue_message WHERE queue >= 'webhook/' AND queue < 'webhook0' \
                     AND state = 0",
                    [],
                    |row| row.get(0),
                )
            })
            .await
    }
}
