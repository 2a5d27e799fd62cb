//! `cargo xtask deploy`: the stack of `cloud/aws/deploy/template.yaml`, shown as a change set before anything is done.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::aws_cli::{Aws, Place};
use crate::command::workspace_root;
use crate::package;
use crate::python;
use crate::table::{Align, render};

/// The template, from the workspace's root.
pub(crate) const TEMPLATE: &str = "cloud/aws/deploy/template.yaml";

/// What is asked.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    /// A parameter of the template; may be given several times. The others stay what they are, or their defaults.
    #[arg(long = "parameter", value_name = "KEY=VALUE")]
    parameters: Vec<Parameter>,
    /// Deploy this zip instead of building one.
    #[arg(long, value_name = "FILE")]
    zip: Option<PathBuf>,
    /// Do what the change set says. Without it, it is printed and thrown away.
    #[arg(long)]
    yes: bool,
}

/// `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parameter {
    key: String,
    value: String,
}

impl FromStr for Parameter {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        let (key, value) = text.split_once('=').context("a parameter is KEY=VALUE")?;
        ensure!(!key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric()), "no key before `=`");
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

/// Packages, uploads, shows what would change, and does it if told to.
///
/// # Errors
/// When a tool is missing, AWS refuses, or the stack fails: with the reasons of its resources.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let tools = python::tools()?;
    let aws = Aws::new(&tools, &options.place);
    let account = aws.account()?;
    let stack = aws.stack()?;
    let is_new = is_new(stack.as_ref())?;
    let zip = match &options.zip {
        Some(zip) => zip.clone(),
        None => package::run()?.zip,
    };
    let bucket = aws.code_bucket(&account);
    make_bucket(&aws, &options.place, &bucket)?;
    let key = upload(&aws, &zip, &bucket)?;
    let defaults = defaults(&options.place, &account, &bucket, &key, is_new);
    let parameters = merged(defaults, &options.parameters);
    let Some(change_set) = change_set(&aws, &options.place.stack, &bucket, &parameters)? else {
        println!("nothing to change: the stack is as it should be");
        return Ok(true);
    };
    print_changes(&aws, &change_set)?;
    if !options.yes {
        discard(&aws, &options.place.stack, &change_set, is_new)?;
        println!("nothing was changed; run it again with --yes to do this");
        return Ok(true);
    }
    execute(&aws, &options.place.stack, &change_set, is_new)
}

/// Is it to be made, rather than updated?
fn is_new(stack: Option<&Value>) -> Result<bool> {
    match stack.and_then(|stack| stack["StackStatus"].as_str()) {
        None | Some("REVIEW_IN_PROGRESS") => Ok(true),
        Some(status @ ("ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "DELETE_FAILED")) => {
            bail!("the stack is {status}: it was never whole; remove it with `cargo xtask undeploy`")
        }
        Some(status) if status.ends_with("_IN_PROGRESS") => {
            bail!("the stack is {status}: somebody is at it; wait for the end")
        }
        Some(_) => Ok(false),
    }
}

/// Makes the bucket for code, if it is not there: closed to the public.
fn make_bucket(aws: &Aws, place: &Place, bucket: &str) -> Result<()> {
    if aws.has_bucket(bucket)? {
        return Ok(());
    }
    println!("making the bucket {bucket} for code and templates");
    let location = format!("LocationConstraint={}", place.region);
    let mut make = vec!["s3api", "create-bucket", "--bucket", bucket];
    // The one region that must not be named.
    if place.region != "us-east-1" {
        make.extend(["--create-bucket-configuration", &location]);
    }
    aws.json(&make)?;
    let closed =
        "BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true";
    aws.json(&[
        "s3api",
        "put-public-access-block",
        "--bucket",
        bucket,
        "--public-access-block-configuration",
        closed,
    ])?;
    Ok(())
}

/// Uploads the zip under a key that says what is in it, and returns the key.
fn upload(aws: &Aws, zip: &Path, bucket: &str) -> Result<String> {
    let content = std::fs::read(zip).with_context(|| format!("read {}", zip.display()))?;
    let digest: String = Sha256::digest(&content).iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let key = format!("code/{digest}.zip");
    let (from, to) = (zip.to_string_lossy(), format!("s3://{bucket}/{key}"));
    println!("{} to {to}", zip.display());
    aws.run(&["s3", "cp", "--only-show-errors", &from, &to], |line| println!("{line}"))?;
    Ok(key)
}

/// What is known without being told. A bucket that was named once keeps its name: another would be another bucket.
fn defaults(place: &Place, account: &str, bucket: &str, key: &str, is_new: bool) -> Vec<Parameter> {
    let mut known = vec![
        ("CodeBucket", bucket.to_owned()),
        ("CodeKey", key.to_owned()),
        ("Architecture", package::architecture().to_owned()),
    ];
    if is_new {
        known.push(("BucketName", format!("{}-data-{account}-{}", place.stack, place.region)));
    }
    if let Some(endpoint) = &place.endpoint {
        known.extend([("EndpointUrl", endpoint.clone()), ("Emulator", "true".to_owned())]);
    }
    known.into_iter().map(|(key, value)| Parameter { key: key.to_owned(), value }).collect()
}

fn merged(mut defaults: Vec<Parameter>, given: &[Parameter]) -> Vec<Parameter> {
    defaults.retain(|known| given.iter().all(|parameter| parameter.key != known.key));
    defaults.extend_from_slice(given);
    defaults
}

/// Makes a change set and returns its arn; `None` where there is nothing to change.
fn change_set(aws: &Aws, stack: &str, bucket: &str, parameters: &[Parameter]) -> Result<Option<String>> {
    let template = workspace_root().join(TEMPLATE);
    let template = template.to_string_lossy();
    let overrides: Vec<String> = parameters.iter().map(|p| format!("{}={}", p.key, p.value)).collect();
    let mut arguments =
        vec!["cloudformation", "deploy", "--no-execute-changeset", "--no-fail-on-empty-changeset"];
    arguments.extend([
        "--stack-name",
        stack,
        "--template-file",
        &template,
        "--capabilities",
        "CAPABILITY_IAM",
    ]);
    // The template is larger than what CloudFormation takes directly.
    arguments.extend(["--s3-bucket", bucket, "--s3-prefix", "templates", "--parameter-overrides"]);
    arguments.extend(overrides.iter().map(String::as_str));
    let mut arn = None;
    aws.run(&arguments, |line| arn = arn.take().or_else(|| change_set_arn(line)))?;
    Ok(arn)
}

fn change_set_arn(line: &str) -> Option<String> {
    line.split_whitespace().find(|word| word.contains(":changeSet/")).map(str::to_owned)
}

fn print_changes(aws: &Aws, change_set: &str) -> Result<()> {
    let found = aws.json(&["cloudformation", "describe-change-set", "--change-set-name", change_set])?;
    let changes = found["Changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rows: Vec<Vec<String>> = changes
        .iter()
        .map(|change| {
            let text = |key: &str| change["ResourceChange"][key].as_str().unwrap_or_default().to_owned();
            vec![text("Action"), text("ResourceType"), text("LogicalResourceId"), text("Replacement")]
        })
        .collect();
    rows.sort();
    let header = [
        ("action", Align::Left),
        ("type", Align::Left),
        ("resource", Align::Left),
        ("replaced", Align::Left),
    ];
    println!("\n{}\n{} changes", render(&header, &rows), rows.len());
    Ok(())
}

/// Leaves no trace of a change set that was only looked at.
fn discard(aws: &Aws, stack: &str, change_set: &str, is_new: bool) -> Result<()> {
    aws.json(&["cloudformation", "delete-change-set", "--change-set-name", change_set])?;
    if is_new {
        aws.json(&["cloudformation", "delete-stack", "--stack-name", stack])?;
    }
    Ok(())
}

fn execute(aws: &Aws, stack: &str, change_set: &str, is_new: bool) -> Result<bool> {
    aws.json(&["cloudformation", "execute-change-set", "--change-set-name", change_set])?;
    let end = if is_new { "stack-create-complete" } else { "stack-update-complete" };
    println!("waiting for {end}");
    if aws.json(&["cloudformation", "wait", end, "--stack-name", stack]).is_err() {
        print_failures(aws, stack)?;
        return Ok(false);
    }
    let stack = aws.stack()?.context("the stack that was just made is gone")?;
    println!("\n{}", outputs_table(&stack));
    Ok(true)
}

/// Why resources of a stack failed.
///
/// # Errors
/// When AWS cannot be asked.
pub(crate) fn print_failures(aws: &Aws, stack: &str) -> Result<()> {
    let found =
        aws.json(&["cloudformation", "describe-stack-events", "--max-items", "300", "--stack-name", stack])?;
    let events = found["StackEvents"].as_array().map(Vec::as_slice).unwrap_or_default();
    println!("the stack failed:");
    for event in events.iter().rev() {
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        if text("ResourceStatus").ends_with("_FAILED") {
            println!("  {}: {}", text("LogicalResourceId"), text("ResourceStatusReason"));
        }
    }
    Ok(())
}

/// Names and addresses that a stack tells.
fn outputs_table(stack: &Value) -> String {
    let outputs = stack["Outputs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |output: &Value, key: &str| output[key].as_str().unwrap_or_default().to_owned();
    let rows: Vec<Vec<String>> =
        outputs.iter().map(|output| vec![text(output, "OutputKey"), text(output, "OutputValue")]).collect();
    render(&[("output", Align::Left), ("value", Align::Left)], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(text: &str) -> Parameter {
        text.parse().unwrap()
    }

    #[test]
    fn a_parameter_keeps_everything_after_its_first_equals_sign() {
        let parsed = parameter("DatabaseUrl=postgres://a:b@c/d?sslmode=verify-full");
        assert_eq!(parsed.value, "postgres://a:b@c/d?sslmode=verify-full");
        assert_eq!(parameter("BridgeImage=").value, "");
        for text in ["DatabaseUrl", "=value", "a b=c"] {
            assert!(text.parse::<Parameter>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_given_wins_over_what_is_known() {
        let known = vec![parameter("Architecture=x86_64"), parameter("CodeKey=k")];
        let merged = merged(known, &[parameter("Architecture=arm64")]);
        assert_eq!(merged, [parameter("CodeKey=k"), parameter("Architecture=arm64")]);
    }

    #[test]
    fn a_bucket_is_named_once_only() {
        let place = Place { stack: "convoy".into(), region: "eu-central-1".into(), endpoint: None };
        let new = defaults(&place, "123456789012", "code", "k", true);
        assert!(new.contains(&parameter("BucketName=convoy-data-123456789012-eu-central-1")), "{new:?}");
        let later = defaults(&place, "123456789012", "code", "k", false);
        assert!(later.iter().all(|parameter| parameter.key != "BucketName"), "{later:?}");
    }

    #[test]
    fn the_change_set_is_found_in_what_the_command_line_says() {
        let arn = "arn:aws:cloudformation:eu-central-1:1:changeSet/awscli-cloudformation-package-deploy-1/x";
        let line = format!("    aws cloudformation describe-change-set --change-set-name {arn}");
        assert_eq!(change_set_arn(&line).as_deref(), Some(arn));
        assert_eq!(change_set_arn("No changes to deploy. Stack convoy is up to date"), None);
    }

    #[test]
    fn a_stack_that_was_never_whole_is_not_updated() {
        let status = |status: &str| serde_json::json!({"StackStatus": status});
        assert!(is_new(None).unwrap());
        assert!(is_new(Some(&status("REVIEW_IN_PROGRESS"))).unwrap());
        assert!(!is_new(Some(&status("UPDATE_ROLLBACK_COMPLETE"))).unwrap());
        assert!(is_new(Some(&status("ROLLBACK_COMPLETE"))).unwrap_err().to_string().contains("undeploy"));
        assert!(is_new(Some(&status("UPDATE_IN_PROGRESS"))).is_err());
    }
}
