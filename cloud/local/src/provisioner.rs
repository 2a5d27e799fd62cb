//! Customers' resources on one machine: queues are names, rules are rows that the bus compiles.

use std::sync::{Arc, RwLock};

use async_trait::async_trait;
use convoy_cloud_core::ports::{PortError, Provisioner, Resource};
use convoy_cloud_core::rules::{Rule, RuleSet, check_pattern};
use rusqlite::{OptionalExtension as _, params};

use crate::database::Database;

/// The rules of the delivery bus as they are now.
pub type CurrentRules = Arc<RwLock<Arc<RuleSet>>>;

/// The provisioner.
#[derive(Clone)]
pub struct SqliteProvisioner {
    database: Database,
    rules: CurrentRules,
}

impl SqliteProvisioner {
    /// Reads the resources and compiles the rules.
    pub async fn open(database: Database) -> Result<Self, PortError> {
        let empty = RuleSet::compile(Vec::new()).map_err(refused)?;
        let provisioner = Self { database, rules: Arc::new(RwLock::new(Arc::new(empty))) };
        provisioner.compile().await?;
        Ok(provisioner)
    }

    /// The rules, for the bus.
    pub fn rules(&self) -> CurrentRules {
        Arc::clone(&self.rules)
    }

    async fn compile(&self) -> Result<(), PortError> {
        let bodies: Vec<String> = self
            .database
            .read(|connection| {
                connection
                    .prepare_cached("SELECT body FROM resource WHERE name LIKE 'rule/%' ORDER BY name")?
                    .query_map([], |row| row.get(0))?
                    .collect()
            })
            .await?;
        let mut rules: Vec<Rule> = Vec::with_capacity(bodies.len());
        for body in &bodies {
            if let Resource::Rule(rule) = serde_json::from_str(body).map_err(refused)? {
                rules.push(rule);
            }
        }
        let compiled = Arc::new(RuleSet::compile(rules).map_err(refused)?);
        *self.rules.write().unwrap_or_else(std::sync::PoisonError::into_inner) = compiled;
        Ok(())
    }
}

fn refused(error: impl std::fmt::Display) -> PortError {
    PortError::Refused { service: "provisioner", reason: error.to_string() }
}

#[async_trait]
impl Provisioner for SqliteProvisioner {
    async fn create(&self, resource: &Resource) -> Result<(), PortError> {
        if let Resource::Rule(rule) = resource {
            check_pattern(&rule.pattern).map_err(refused)?;
        }
        let (name, body) = (resource.name(), serde_json::to_string(resource).map_err(refused)?);
        let (wanted, key) = (body.clone(), name.clone());
        let found: String = self
            .database
            .write(move |transaction| {
                transaction.execute(
                    "INSERT INTO resource (name, body) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    params![key, body],
                )?;
                transaction.query_row("SELECT body FROM resource WHERE name = ?1", [key], |row| row.get(0))
            })
            .await?;
        if found != wanted {
            let reason = format!("{name} with other content");
            return Err(PortError::Conflict { service: "provisioner", reason });
        }
        self.compile().await
    }

    async fn delete(&self, resource: &Resource) -> Result<(), PortError> {
        let (name, queue) = (resource.name(), matches!(resource, Resource::Queue(_)));
        self.database
            .write(move |transaction| {
                transaction.execute("DELETE FROM resource WHERE name = ?1", [&name])?;
                if queue {
                    transaction.execute("DELETE FROM queue_message WHERE queue = ?1", [&name])?;
                }
                Ok(())
            })
            .await?;
        self.compile().await
    }

    async fn describe(&self, resource: &Resource) -> Result<Option<Resource>, PortError> {
        let name = resource.name();
        let body: Option<String> = self
            .database
            .read(move |connection| {
                connection
                    .query_row("SELECT body FROM resource WHERE name = ?1", [name], |row| row.get(0))
                    .optional()
            })
            .await?;
        body.map(|body| serde_json::from_str(&body).map_err(refused)).transpose()
    }
}
