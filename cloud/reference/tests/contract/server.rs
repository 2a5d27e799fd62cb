//! A PostgreSQL server of the tests' own, which ends with them.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection as _};

/// Names the folder with `initdb` and `pg_ctl`.
const BIN: &str = "CONVOY_POSTGRES_BIN";

/// How often another port is tried, should someone take the one that was free.
const START_ATTEMPTS_MAX: u32 = 5;

/// Starts a server with the programs in `$1` on the port `$2`, says where its data is, and ends it when standard
/// input ends: the writing end is this process's, so that happens however it ends. The locale is not SQLite's order
/// of texts on purpose.
const SCRIPT: &str = r#"
set -e
data=$(mktemp -d "${TMPDIR:-/tmp}/convoy-postgres.XXXXXX")
trap 'rm -rf "$data"' EXIT
"$1/initdb" -D "$data" -U convoy --auth=trust --no-sync --encoding=UTF8 --locale=C \
    --locale-provider=icu --icu-locale=en-US >"$data.log" 2>&1 || { cat "$data.log" >&2; exit 1; }
rm -f "$data.log"
# Members of the role asked are asked for their password; all others are trusted.
echo 'host all +asked 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust' >"$data/pg_hba.conf"
"$1/pg_ctl" -D "$data" -l "$data/log" -w start >/dev/null \
    -o "-c listen_addresses=127.0.0.1 -c port=$2 -c unix_socket_directories= -c fsync=off -c max_connections=200" \
    || { cat "$data/log" >&2; exit 1; }
echo "$data"
cat >/dev/null
"$1/pg_ctl" -D "$data" -m immediate stop >/dev/null || true
"#;

pub(crate) struct Server {
    bin: String,
    port: u16,
    data: String,
    databases: AtomicU32,
    /// Its standard input keeps the server alive.
    shell: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {} on {}", self.port, self.data)
    }
}

/// A command of the user that the server runs as: it refuses root.
fn as_server(program: &str) -> Command {
    let user = Command::new("id").arg("-u").output().unwrap();
    if user.stdout.trim_ascii() != b"0" {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--", program]).current_dir("/");
    command
}

impl Server {
    /// The server of this process; `None` where there is no PostgreSQL, which CI must not have.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// A server that the caller may stop.
    pub(crate) fn start() -> Option<Self> {
        let Ok(bin) = std::env::var(BIN) else {
            let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
            assert!(!is_ci, "{BIN} is not set: in CI, PostgreSQL must be tested");
            eprintln!("skipped: {BIN} does not name the folder with PostgreSQL's initdb");
            return None;
        };
        for attempt in 1.. {
            // Free now, and for that moment taken.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut shell = as_server("sh")
                .args(["-c", SCRIPT, "server", &bin, &port.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // Ctrl-C must not reach the shell, which still has to stop the server.
                .process_group(0)
                .spawn()
                .unwrap();
            let mut data = String::new();
            BufReader::new(shell.stdout.take().unwrap()).read_line(&mut data).unwrap();
            if !data.is_empty() {
                let data = data.trim_end().to_owned();
                return Some(Self { bin, port, data, databases: AtomicU32::new(0), shell });
            }
            shell.wait().unwrap();
            assert!(attempt < START_ATTEMPTS_MAX, "PostgreSQL does not start: see its messages above");
        }
        None
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://convoy@127.0.0.1:{}/{database}", self.port)
    }

    /// The url of a new, empty database.
    pub(crate) async fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = sqlx::PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        self.url(&name)
    }

    /// `fast` ends the clients' connections, as a failover does.
    pub(crate) fn stop(&self) {
        self.pg_ctl(&["-m", "fast", "stop"]);
    }

    /// Starts it again, on the same port and with the same data.
    pub(crate) fn start_again(&self) {
        // The options are those of the first start, which it keeps.
        self.pg_ctl(&["-l", &format!("{}/log", self.data), "restart"]);
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        let program = format!("{}/pg_ctl", self.bin);
        let mut command = as_server(&program);
        command.args(["-D", &self.data, "-w"]).args(arguments).stdout(Stdio::null());
        assert!(command.status().unwrap().success(), "{command:?}");
    }
}
