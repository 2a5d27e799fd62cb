//! The deployed stack: emulator, database, broker, template, bridge.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::database::Postgres;
use crate::harness::{
    Client, Customer, Process, binary, free_address, mosquitto, repository, until_within, vehicle_map,
};
use crate::proxy::Proxy;

const REGION: &str = "eu-central-1";
const STACK: &str = "convoy";
/// An emulator on two cores runs all functions of the way of the data beside the agents.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(300), Duration::from_millis(500));

/// Waits for what the deployment does.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, condition: impl FnMut() -> F) -> T {
    until_within(what, PATIENCE, condition).await
}

/// What `cargo xtask test aws` names.
fn told(name: &str) -> PathBuf {
    let value =
        std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test aws`"));
    PathBuf::from(value)
}

/// A deployment, its bridge and its broker; all of it ends with this.
pub(crate) struct Stack {
    pub(crate) url: String,
    pub(crate) outputs: Value,
    pub(crate) admin: Client,
    pub(crate) mqtt: SocketAddr,
    pub(crate) database: Postgres,
    _bridge: Process,
    _emulator: Process,
    fleet: Client,
    _broker: Process,
}

impl Stack {
    /// Deploys the template and starts the bridge.
    pub(crate) async fn deploy(dir: &Path) -> Self {
        let (emulator, url) = start_emulator(dir).await;
        Self::deploy_on(dir, emulator, &url, &url).await
    }

    /// The same with a proxy between the deployment and AWS.
    pub(crate) async fn deploy_on_a_bad_day(dir: &Path) -> (Self, Proxy) {
        let (emulator, url) = start_emulator(dir).await;
        let proxy = Proxy::start(&url).await;
        (Self::deploy_on(dir, emulator, &url, &proxy.url).await, proxy)
    }

    /// The emulator is at `url`; functions and bridge find it at `endpoint`.
    async fn deploy_on(dir: &Path, emulator: Process, url: &str, endpoint: &str) -> Self {
        let database = Postgres::start(&told("CONVOY_POSTGRES_BIN"), free_address());
        let cli = Cli { url: url.to_owned() };
        cli.run(&["s3", "mb", "s3://code"]);
        cli.run(&["s3", "cp", told("CONVOY_LAMBDA_ZIP").to_str().unwrap(), "s3://code/bootstrap.zip"]);
        let template = repository("cloud/aws/deploy/template.yaml");
        cli.run(&["s3", "cp", template.to_str().unwrap(), "s3://code/template.yaml"]);
        let outputs = create(&cli, &database.url, endpoint).await;
        let setup = cli.invoke("convoy-provision", &json!({"setup": true}), dir);
        let admin = Self::client(url, &outputs["AdminApiId"]).with_key(setup["admin_key"].as_str().unwrap());
        let fleet = Self::client(url, &outputs["FleetApiId"]);
        let mqtt = free_address();
        let broker = mosquitto(dir, mqtt);
        let bridge = start_bridge(dir, endpoint, &outputs, mqtt);
        Self {
            url: url.to_owned(),
            outputs,
            admin,
            mqtt,
            database,
            _bridge: bridge,
            _emulator: emulator,
            fleet,
            _broker: broker,
        }
    }

    fn client(url: &str, api_id: &Value) -> Client {
        let address: SocketAddr = url.trim_start_matches("http://").parse().unwrap();
        let host = format!("{}.execute-api.localhost:{}", api_id.as_str().unwrap(), address.port());
        Client::new(address, "").behind(&host, PATIENCE.0)
    }

    pub(crate) fn cli(&self) -> Cli {
        Cli { url: self.url.clone() }
    }

    /// The secret that all keys are derived from.
    pub(crate) fn secret(&self) -> String {
        let found =
            self.cli().run(&["secretsmanager", "get-secret-value", "--secret-id", self.output("Secret")]);
        found["SecretString"].as_str().unwrap().to_owned()
    }

    pub(crate) fn output(&self, name: &str) -> &str {
        self.outputs[name].as_str().unwrap_or_else(|| panic!("the stack has no output {name}"))
    }

    /// A new customer with a key.
    pub(crate) async fn customer(&self, name: &str) -> Customer {
        Customer::new(name, &self.admin, &self.fleet).await
    }

    /// Puts a vehicle map into the bucket and waits for the loader's report.
    pub(crate) async fn import(&self, dir: &Path, rows: &[(&str, &str, &str)]) {
        let file = dir.join("fleet.csv");
        std::fs::write(&file, vehicle_map(rows)).unwrap();
        let bucket = self.output("Bucket");
        self.cli().run(&["s3", "cp", file.to_str().unwrap(), &format!("s3://{bucket}/inbox/our fleet.csv")]);
        until("the loader has loaded the vehicle map", || async {
            let imports = self.admin.get("/admin/v1/imports").await;
            let imports = imports.as_array().or(imports["data"].as_array()).cloned().unwrap_or_default();
            let import = imports.first()?.clone();
            assert_eq!(import["accepted"], rows.len(), "{import}");
            Some(())
        })
        .await;
    }

    /// Waits until the bridge routes by what was changed last. It takes a new snapshot within seconds; a vehicle whose
    /// owner it learns in the middle of a drive goes on in another shard, where nothing keeps the order of the two parts.
    pub(crate) async fn bridge_is_up_to_date(&self, dir: &Path) {
        let version = self.database.routing_version();
        until("the bridge has the newest routing snapshot", || async {
            let log = std::fs::read_to_string(dir.join("bridge.log")).unwrap();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let taken = lines.filter_map(|line| line["fields"]["version"].as_u64()).max();
            (taken? >= version).then_some(())
        })
        .await;
    }

    /// Subscribes and waits until the state machine has made everything; gives the subscription's id.
    pub(crate) async fn subscribe(&self, customer: &Customer, request: Value) -> String {
        customer.subscribe(&self.admin, &request, PATIENCE).await
    }
}

/// The AWS command line against the emulator.
pub(crate) struct Cli {
    url: String,
}

impl Cli {
    pub(crate) fn run(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(told("CONVOY_AWS_CLI"));
        command.args(["--endpoint-url", &self.url, "--region", REGION, "--output", "json"]).args(arguments);
        command.env("AWS_ENDPOINT_URL", &self.url);
        let done = credentials(&mut command).output().unwrap();
        let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "aws {arguments:?}: {error}");
        serde_json::from_str(&out).unwrap_or(Value::Null)
    }

    pub(crate) fn invoke(&self, function: &str, payload: &Value, dir: &Path) -> Value {
        let answer = dir.join("answer.json");
        let payload = payload.to_string();
        let arguments = ["lambda", "invoke", "--function-name", function, "--payload", &payload];
        let file = answer.to_str().unwrap();
        let status = self.run(&[arguments.as_slice(), &[file]].concat());
        let answer: Value = serde_json::from_reader(File::open(&answer).unwrap()).unwrap();
        assert!(status["FunctionError"].is_null(), "{function}: {answer}");
        answer
    }
}

fn credentials(command: &mut Command) -> &mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", REGION)
        .env_remove("AWS_PROFILE")
}

async fn start_emulator(dir: &Path) -> (Process, String) {
    let address = free_address();
    let url = format!("http://{address}");
    let mut command = Command::new(told("CONVOY_MINISTACK"));
    command
        .env("GATEWAY_PORT", address.port().to_string())
        .env("BIND_HOST", "127.0.0.1")
        .env("MINISTACK_HOST", "localhost")
        .env("IOT_MTLS_ENABLED", "0")
        .env("STATE_DIR", dir.join("emulator"))
        .env("S3_DATA_DIR", dir.join("s3"))
        .current_dir(dir);
    let process = Process::start(&mut command, &dir.join("emulator.log"));
    let client = Client::new(address, "");
    until("the emulator answers", || async {
        client.status("/_ministack/health").await.filter(|s| *s == 200)
    })
    .await;
    (process, url)
}

async fn create(cli: &Cli, database_url: &str, endpoint: &str) -> Value {
    let parameter = |name: &str, value: &str| format!("ParameterKey={name},ParameterValue={value}");
    let parameters = [
        parameter("CodeBucket", "code"),
        parameter("CodeKey", "bootstrap.zip"),
        parameter("Architecture", "x86_64"),
        parameter("BucketName", "convoy-data"),
        parameter("DatabaseUrl", database_url),
        parameter("EndpointUrl", endpoint),
        parameter("Emulator", "true"),
        parameter("ArchiveWindowS", "1"),
        parameter("WebhookAllow", "127.0.0.0/8"),
    ];
    let template = format!("{}/code/template.yaml", cli.url);
    let mut arguments =
        vec!["cloudformation", "create-stack", "--stack-name", STACK, "--template-url", &template];
    arguments.extend(["--capabilities", "CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "--parameters"]);
    arguments.extend(parameters.iter().map(String::as_str));
    cli.run(&arguments);
    until("the stack is created", || async {
        let stacks = cli.run(&["cloudformation", "describe-stacks", "--stack-name", STACK]);
        let stack = &stacks["Stacks"][0];
        match stack["StackStatus"].as_str().unwrap() {
            "CREATE_COMPLETE" => {
                let outputs = stack["Outputs"].as_array().unwrap().iter();
                let outputs = outputs
                    .map(|one| (one["OutputKey"].as_str().unwrap().to_owned(), one["OutputValue"].clone()));
                Some(Value::Object(outputs.collect()))
            }
            status => {
                assert!(status.ends_with("IN_PROGRESS") && !status.contains("ROLLBACK"), "{stack}");
                None
            }
        }
    })
    .await
}

fn start_bridge(dir: &Path, url: &str, outputs: &Value, mqtt: SocketAddr) -> Process {
    let output = |name: &str| outputs[name].as_str().unwrap().to_owned();
    let mut command = Command::new(binary_of_the_deployment("convoy-bridge"));
    credentials(&mut command)
        .env("AWS_ENDPOINT_URL", url)
        .env("CONVOY_BROKER", format!("mqtt://{mqtt}"))
        .env("CONVOY_STREAM", output("Stream"))
        .env("CONVOY_BUCKET", output("Bucket"))
        .env("CONVOY_SECRET", output("Secret"))
        .env("CONVOY_DOWNLINK_QUEUE", output("DownlinkQueue"));
    Process::start(&mut command, &dir.join("bridge.log"))
}

/// A program that is built with the functions.
fn binary_of_the_deployment(name: &str) -> PathBuf {
    match std::env::var_os("CONVOY_AWS_BIN") {
        Some(folder) => Path::new(&folder).join(name),
        None => binary(name),
    }
}
