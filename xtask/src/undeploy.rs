//! `cargo xtask undeploy`: what provisioning made for customers, then the stack, then, if wanted, what outlives it.

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;

use crate::aws_cli::{Aws, Place, texts};
use crate::deploy::print_failures;
use crate::python;

/// Days in which a deleted secret can be had back, the fewest that there are.
const SECRET_DAYS: &str = "7";

/// What is asked.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    /// Delete tables, data bucket and secret too, which outlive the stack otherwise.
    #[arg(long)]
    data: bool,
    /// Do it. Without it, what would be deleted is printed.
    #[arg(long)]
    yes: bool,
}

/// What there is to delete.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Customers' rules, on this bus: a bus with rules cannot be deleted.
    bus: Option<String>,
    rules: Vec<String>,
    queues: Vec<String>,
    destinations: Vec<String>,
    connections: Vec<String>,
    /// Name and type.
    stack: Vec<(String, String)>,
    code_bucket: Option<String>,
}

impl Found {
    fn named(&self, kind: &str) -> Vec<&str> {
        self.stack.iter().filter(|(_, of)| of == kind).map(|(name, _)| name.as_str()).collect()
    }

    fn tables(&self) -> Vec<&str> {
        self.named("AWS::DynamoDB::Table")
    }

    fn buckets(&self) -> Vec<&str> {
        self.named("AWS::S3::Bucket")
    }

    fn secrets(&self) -> Vec<&str> {
        self.named("AWS::SecretsManager::Secret")
    }

    fn databases(&self) -> Vec<&str> {
        self.named("AWS::RDS::DBInstance")
    }

    /// What will happen, a line each.
    fn plan(&self, with_data: bool) -> Vec<String> {
        let mut lines = Vec::new();
        let mut add = |what: &str, names: &[&str]| {
            if !names.is_empty() {
                lines.push(format!("{what}: {}", names.join(", ")));
            }
        };
        fn own(names: &[String]) -> Vec<&str> {
            names.iter().map(String::as_str).collect()
        }
        add("customers' rules", &own(&self.rules));
        add("customers' queues, with what is in them", &own(&self.queues));
        add("API destinations", &own(&self.destinations));
        add("connections", &own(&self.connections));
        add("database, after a last snapshot", &self.databases());
        add("bucket of code and templates", &own(self.code_bucket.as_slice()));
        let fate = if with_data { "DELETED FOR GOOD" } else { "kept (--data deletes them)" };
        add(&format!("tables {fate}"), &self.tables());
        add(&format!("data bucket {fate}"), &self.buckets());
        add(&format!("secret {fate}"), &self.secrets());
        lines
    }
}

/// Says what it would delete, and does so with `--yes`.
///
/// # Errors
/// When AWS refuses; what is deleted by then is deleted, and the same command goes on from there.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let tools = python::tools()?;
    let aws = Aws::new(&tools, &options.place);
    let account = aws.account()?;
    let name = &options.place.stack;
    let Some(stack) = aws.stack()? else {
        println!("there is no stack {name} in {}", options.place.region);
        return Ok(true);
    };
    let found = find(&aws, name, &stack, &account)?;
    println!("stack {name}: {} resources", found.stack.len());
    for line in found.plan(options.data) {
        println!("{line}");
    }
    if !options.yes {
        println!("\nnothing was deleted; run it again with --yes to do this");
        return Ok(true);
    }
    delete_customers(&aws, &found)?;
    for database in found.databases() {
        aws.json(&[
            "rds",
            "modify-db-instance",
            "--no-deletion-protection",
            "--db-instance-identifier",
            database,
        ])?;
    }
    if !delete_stack(&aws, name)? {
        return Ok(false);
    }
    if let Some(bucket) = &found.code_bucket {
        delete_bucket(&aws, bucket)?;
    }
    if options.data {
        delete_data(&aws, &found)?;
    }
    println!("done");
    Ok(true)
}

fn find(aws: &Aws, name: &str, stack: &Value, account: &str) -> Result<Found> {
    let resources = aws.json(&["cloudformation", "list-stack-resources", "--stack-name", name])?;
    let list = "StackResourceSummaries";
    let names = texts(&resources, list, "PhysicalResourceId");
    let kinds = texts(&resources, list, "ResourceType");
    let code_bucket = aws.code_bucket(account);
    let mut found = Found {
        stack: names.into_iter().zip(kinds).collect(),
        code_bucket: aws.has_bucket(&code_bucket)?.then_some(code_bucket),
        ..Found::default()
    };
    // A stack whose making failed has no outputs, and customers have nothing in it.
    if let Some(prefix) = output(stack, "QueuePrefix") {
        let queues = aws.json(&["sqs", "list-queues", "--queue-name-prefix", prefix])?;
        let urls = queues["QueueUrls"].as_array().map(Vec::as_slice).unwrap_or_default();
        found.queues = urls.iter().filter_map(|url| url.as_str().map(str::to_owned)).collect();
        let named = ["--name-prefix", prefix];
        let listed = aws.json(&[&["events", "list-api-destinations"][..], &named[..]].concat())?;
        found.destinations = texts(&listed, "ApiDestinations", "Name");
        let listed = aws.json(&[&["events", "list-connections"][..], &named[..]].concat())?;
        found.connections = texts(&listed, "Connections", "Name");
    }
    // A v2 bus is an arn, and is not the stack's.
    if let Some(bus) = output(stack, "DeliveryBus").filter(|bus| !bus.starts_with("arn:")) {
        let rules = aws.json(&["events", "list-rules", "--event-bus-name", bus])?;
        found.rules = texts(&rules, "Rules", "Name");
        found.bus = Some(bus.to_owned());
    }
    Ok(found)
}

/// The value of an output of a stack.
fn output<'a>(stack: &'a Value, key: &str) -> Option<&'a str> {
    let outputs = stack["Outputs"].as_array()?;
    outputs.iter().find(|output| output["OutputKey"] == key)?["OutputValue"].as_str()
}

/// Rules first: then nothing new comes into a queue.
fn delete_customers(aws: &Aws, found: &Found) -> Result<()> {
    for rule in &found.rules {
        let bus = found.bus.as_deref().context("rules without a bus")?;
        let of_rule = ["--event-bus-name", bus, "--rule", rule];
        let targets = aws.json(&[&["events", "list-targets-by-rule"][..], &of_rule[..]].concat())?;
        let ids = texts(&targets, "Targets", "Id");
        if !ids.is_empty() {
            let ids = ids.iter().map(String::as_str);
            let ids: Vec<&str> = std::iter::once("--ids").chain(ids).collect();
            aws.json(&[&["events", "remove-targets"][..], &of_rule[..], &ids[..]].concat())?;
        }
        aws.json(&["events", "delete-rule", "--event-bus-name", bus, "--name", rule])?;
    }
    for destination in &found.destinations {
        aws.json(&["events", "delete-api-destination", "--name", destination])?;
    }
    for connection in &found.connections {
        aws.json(&["events", "delete-connection", "--name", connection])?;
    }
    for queue in &found.queues {
        aws.json(&["sqs", "delete-queue", "--queue-url", queue])?;
    }
    Ok(())
}

fn delete_stack(aws: &Aws, name: &str) -> Result<bool> {
    aws.json(&["cloudformation", "delete-stack", "--stack-name", name])?;
    println!("waiting for the stack to be gone");
    if aws.json(&["cloudformation", "wait", "stack-delete-complete", "--stack-name", name]).is_err() {
        print_failures(aws, name)?;
        return Ok(false);
    }
    Ok(true)
}

fn delete_data(aws: &Aws, found: &Found) -> Result<()> {
    for table in found.tables() {
        aws.json(&["dynamodb", "delete-table", "--table-name", table])?;
    }
    for bucket in found.buckets() {
        delete_bucket(aws, bucket)?;
    }
    for secret in found.secrets() {
        let days = ["--recovery-window-in-days", SECRET_DAYS];
        aws.json(&[&["secretsmanager", "delete-secret", "--secret-id", secret][..], &days[..]].concat())?;
        println!("the secret can be had back for {SECRET_DAYS} days: aws secretsmanager restore-secret");
    }
    Ok(())
}

fn delete_bucket(aws: &Aws, bucket: &str) -> Result<()> {
    let url = format!("s3://{bucket}");
    println!("emptying {url}");
    aws.run(&["s3", "rm", "--recursive", "--only-show-errors", &url], |line| println!("{line}"))?;
    aws.json(&["s3api", "delete-bucket", "--bucket", bucket]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        let resource = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
        Found {
            rules: vec!["convoy-c-sub_1-queue".to_owned()],
            stack: vec![
                resource("convoy-EventsTable-1", "AWS::DynamoDB::Table"),
                resource("convoy-data", "AWS::S3::Bucket"),
                resource("convoy-ingest", "AWS::Lambda::Function"),
            ],
            ..Found::default()
        }
    }

    #[test]
    fn the_plan_names_what_is_lost_and_what_is_kept() {
        let kept = found().plan(false);
        assert_eq!(kept[0], "customers' rules: convoy-c-sub_1-queue");
        assert_eq!(kept[1], "tables kept (--data deletes them): convoy-EventsTable-1");
        assert_eq!(found().plan(true)[2], "data bucket DELETED FOR GOOD: convoy-data");
        assert_eq!(kept.len(), 3);
    }

    #[test]
    fn an_output_is_found_by_its_key() {
        let stack =
            serde_json::json!({"Outputs": [{"OutputKey": "QueuePrefix", "OutputValue": "convoy-c-"}]});
        assert_eq!(output(&stack, "QueuePrefix"), Some("convoy-c-"));
        assert_eq!(output(&stack, "DeliveryBus"), None);
        assert_eq!(output(&serde_json::json!({}), "QueuePrefix"), None);
    }
}
