//! A PostgreSQL of the test's own, which can be away for a while.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Initialises a database cluster in a new folder, starts it on port `$2` with the programs in `$1`, does what standard
/// input says, and ends the server when that ends, which is when the process that started it does.
const SCRIPT: &str = r#"
set -e
data=$(mktemp -d "${TMPDIR:-/tmp}/convoy-postgres.XXXXXX")
trap 'rm -rf "$data"' EXIT
start() {
    "$bin/pg_ctl" -D "$data" -l "$data/log" -w start >/dev/null \
        -o "-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories= -c fsync=off"
}
bin=$1 port=$2
"$bin/initdb" -D "$data" -U convoy --auth=trust --no-sync --encoding=UTF8 --locale=C >/dev/null
start
echo done
while read -r action; do
    case $action in
        start) start ;;
        stop) "$bin/pg_ctl" -D "$data" -m immediate -w stop >/dev/null ;;
    esac
    echo done
done
"$bin/pg_ctl" -D "$data" -m immediate stop >/dev/null || true
"#;

/// The server; it ends with this.
pub(crate) struct Postgres {
    pub(crate) url: String,
    bin: PathBuf,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    _shell: Child,
}

impl Postgres {
    /// Starts one with the programs in `bin`. The server refuses to run as root.
    pub(crate) fn start(bin: &Path, address: SocketAddr) -> Self {
        let is_root = Command::new("id").arg("-u").output().unwrap().stdout.trim_ascii() == b"0";
        let mut command = if is_root { Command::new("runuser") } else { Command::new("sh") };
        if is_root {
            command.args(["-u", "postgres", "--", "sh"]).current_dir("/");
        }
        command.args(["-c", SCRIPT, "postgres"]).arg(bin).arg(address.port().to_string());
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let url = format!("postgres://convoy@{address}/postgres?sslmode=disable");
        let (commands, answers) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        let bin = bin.to_owned();
        let mut server = Self { url, bin, commands, answers: BufReader::new(answers), _shell: shell };
        server.answered();
        server
    }

    /// Version of what routing is made from.
    pub(crate) fn routing_version(&self) -> u64 {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["--no-align", "--tuples-only", "--command", "SELECT version FROM routing_version"]);
        let answer = psql.arg(&self.url).output().unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).unwrap().trim().parse().unwrap()
    }

    /// Stops it as a power cut does: connections break, nothing is said.
    pub(crate) fn go_away(&mut self) {
        self.commands.write_all(b"stop\n").unwrap();
        self.answered();
    }

    /// Starts it again on what it had.
    pub(crate) fn come_back(&mut self) {
        self.commands.write_all(b"start\n").unwrap();
        self.answered();
    }

    fn answered(&mut self) {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "done", "PostgreSQL does not start or stop: see its messages above");
    }
}
