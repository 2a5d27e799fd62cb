//! AWS's command line, as a child process: one place in one account, or an emulator.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use serde_json::Value;

use crate::command::{command, run_streaming, shown};
use crate::python::Tools;

/// Longest name of a stack: rules and queues of customers begin with it, and EventBridge takes 64 characters.
const STACK_CHARS_MAX: usize = 20;

/// Which stack, and where.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// The stack's name: names of everything it makes begin with it.
    #[arg(long, value_name = "NAME", value_parser = stack_name)]
    pub(crate) stack: String,
    /// The region.
    #[arg(long, value_name = "REGION")]
    pub(crate) region: String,
    /// An emulator instead of AWS: http://127.0.0.1:PORT.
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
}

/// A stack's name that bucket names can begin with too.
fn stack_name(text: &str) -> Result<String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    ensure!(
        text.bytes().all(allowed)
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.len() <= STACK_CHARS_MAX,
        "at most {STACK_CHARS_MAX} lower case letters, digits and hyphens, a letter first, no hyphen last"
    );
    Ok(text.to_owned())
}

/// The command line, ready to be asked.
pub(crate) struct Aws<'a> {
    tools: &'a Tools,
    place: &'a Place,
}

impl<'a> Aws<'a> {
    /// Over these tools.
    pub(crate) fn new(tools: &'a Tools, place: &'a Place) -> Self {
        Self { tools, place }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut aws = command(self.tools.program("aws"));
        aws.args(arguments)
            .env("AWS_REGION", &self.place.region)
            .env("AWS_DEFAULT_REGION", &self.place.region)
            .env("AWS_PAGER", "");
        if let Some(endpoint) = &self.place.endpoint {
            // An emulator takes any key; one of AWS has no business there. Both ways of saying where it is are needed:
            // `aws sqs` does not look at the variable and would call AWS, and `cloudformation deploy` uploads the
            // template by a client of its own, which the option does not reach.
            aws.args(["--endpoint-url", endpoint])
                .env("AWS_ENDPOINT_URL", endpoint)
                .env("AWS_ACCESS_KEY_ID", "test")
                .env("AWS_SECRET_ACCESS_KEY", "test")
                .env_remove("AWS_SESSION_TOKEN")
                .env_remove("AWS_PROFILE");
        }
        aws
    }

    /// The answer of a call.
    ///
    /// # Errors
    /// What the command line says.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        match self.ask(arguments)? {
            Ok(answer) => Ok(answer),
            Err(message) => Err(self.failed(arguments, &message)),
        }
    }

    /// The answer of a call; `None` where what it asks for is not there, which the service says in these words.
    ///
    /// # Errors
    /// What the command line says besides.
    pub(crate) fn find(&self, arguments: &[&str], missing: &str) -> Result<Option<Value>> {
        match self.ask(arguments)? {
            Ok(answer) => Ok(Some(answer)),
            Err(message) if message.contains(missing) => Ok(None),
            Err(message) => Err(self.failed(arguments, &message)),
        }
    }

    fn ask(&self, arguments: &[&str]) -> Result<Result<Value, String>> {
        let mut aws = self.command(arguments);
        aws.args(["--output", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = aws.output().with_context(|| format!("start `{}`", shown(&aws)))?;
        if !output.status.success() {
            return Ok(Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        if output.stdout.trim_ascii().is_empty() {
            return Ok(Ok(Value::Null));
        }
        serde_json::from_slice(&output.stdout).map(Ok).with_context(|| format!("read `{}`", shown(&aws)))
    }

    fn failed(&self, arguments: &[&str], message: &str) -> anyhow::Error {
        // Arguments further on may hold a password.
        let call = arguments.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        anyhow!("`aws {call}` in {}: {message}", self.place.region)
    }

    /// Runs a call to its end and hands on its lines.
    ///
    /// # Errors
    /// When it fails; it has said why.
    pub(crate) fn run(&self, arguments: &[&str], mut on_line: impl FnMut(&str)) -> Result<()> {
        let status = run_streaming(&mut self.command(arguments), |line| on_line(line))?;
        ensure!(status.success(), self.failed(arguments, "failed, see its message above"));
        Ok(())
    }

    /// The stack as it is; `None` where there is none.
    ///
    /// # Errors
    /// When AWS cannot be asked.
    pub(crate) fn stack(&self) -> Result<Option<Value>> {
        let arguments = ["cloudformation", "describe-stacks", "--stack-name", &self.place.stack];
        let found = self.find(&arguments, "does not exist")?;
        Ok(found.map(|found| found["Stacks"][0].clone()))
    }

    /// The account's number.
    ///
    /// # Errors
    /// When there are no credentials.
    pub(crate) fn account(&self) -> Result<String> {
        let identity = self.json(&["sts", "get-caller-identity"])?;
        Ok(identity["Account"].as_str().context("AWS names no account")?.to_owned())
    }

    /// Name of the bucket that holds zips and templates of this stack.
    pub(crate) fn code_bucket(&self, account: &str) -> String {
        format!("{}-code-{account}-{}", self.place.stack, self.place.region)
    }

    /// Is there such a bucket of ours?
    ///
    /// # Errors
    /// When it is somebody else's.
    pub(crate) fn has_bucket(&self, bucket: &str) -> Result<bool> {
        Ok(self.find(&["s3api", "head-bucket", "--bucket", bucket], "(404)")?.is_some())
    }
}

/// The text of each object below `key` in a list, as most answers hold them.
pub(crate) fn texts(answer: &Value, list: &str, key: &str) -> Vec<String> {
    let items = answer[list].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item[key].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_named_so_that_buckets_and_rules_can_be() {
        assert_eq!(stack_name("convoy-eu1").unwrap(), "convoy-eu1");
        for name in ["", "Convoy", "1convoy", "convoy-", "con_voy", "a-name-of-twenty-one-c"] {
            assert!(stack_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn texts_of_a_list_are_found_and_a_missing_list_is_empty() {
        let answer = serde_json::json!({"Rules": [{"Name": "a"}, {"Arn": "x"}, {"Name": "b"}]});
        assert_eq!(texts(&answer, "Rules", "Name"), ["a", "b"]);
        assert_eq!(texts(&Value::Null, "Rules", "Name"), [""; 0]);
    }
}
