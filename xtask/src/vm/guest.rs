//! The two scripts that run in the machine: the one that it boots into, and the one that runs the program.

use std::fmt::Write as _;

use super::{HOST_FOLDER, VmOptions};
use crate::debian::quoted;

/// The script of a run, in the shared folder.
pub(super) const SCRIPT: &str = "run.sh";
/// There the script leaves the program's exit code.
pub(super) const STATUS: &str = "status";
/// There it leaves a word if the program took too long.
pub(super) const TIMED_OUT: &str = "timed-out";

const ADDRESS: &str = "10.0.2.15/24";
const BUSES: &str = "vcan0 vcan1 vcan2 vcan3";

/// BusyBox's shell takes its own `ip` for this one, which knows no CAN.
const IP: &str = "/usr/bin/ip";

/// None is loaded by itself.
const CAN_MODULES: [&str; 10] = [
    "vcan",
    "vxcan",
    "can-raw",
    "can-bcm",
    "can-gw",
    "can-isotp",
    "can-j1939",
    "slcan",
    "can-dev",
    "kvaser_pci",
];
const NETWORK_MODULE: &str = "virtio_net";
/// What INIT loads.
const BOOT_MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "virtio_console"];

/// The first program of the machine: mounts the shared folder, runs its script and switches off. The script's output goes
/// to the only port of the virtual serial line.
pub(super) const INIT: &str = r#"#!/bin/busybox sh
export PATH=/usr/bin:/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_pci 9pnet_virtio 9p virtio_console; do modprobe "$module"; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 host /host && cd /host
set -- /dev/vport*
sh ./run.sh >"$1" 2>&1
poweroff -f
"#;

/// All modules that the machine has to have.
pub(super) fn modules() -> Vec<&'static str> {
    [&BOOT_MODULES[..], &CAN_MODULES, &[NETWORK_MODULE]].concat()
}

/// Brings the buses and the network up, and runs the program for as long as it may.
pub(super) fn run_script(program: &str, arguments: &[&str], options: &VmOptions) -> String {
    let mut script = "set -e\n".to_owned();
    let mut line = |line: String| {
        // Writing into a String cannot fail.
        let _ = writeln!(script, "{line}");
    };
    for (name, value) in &options.variables {
        line(format!("export {name}={}", quoted(value)));
    }
    line(format!("for module in {}; do modprobe \"$module\"; done", CAN_MODULES.join(" ")));
    line(format!("{IP} link set lo up"));
    line(format!(
        "for bus in {BUSES}; do {IP} link add \"$bus\" type vcan; {IP} link set \"$bus\" mtu 72 up; done"
    ));
    if !options.forwards.is_empty() {
        line(format!("modprobe {NETWORK_MODULE}"));
        line(format!("{IP} address add {ADDRESS} dev eth0"));
        line(format!("{IP} link set eth0 up"));
    }
    line("set +e".to_owned());
    let words = arguments.iter().map(|argument| format!(" {}", quoted(argument)));
    line(format!("{}{} &", quoted(&format!("{HOST_FOLDER}/{program}")), words.collect::<String>()));
    line("program=$!".to_owned());
    let seconds = options.timeout.as_secs();
    line(format!("{{ sleep {seconds}; echo after {seconds} s >{TIMED_OUT}; kill -9 $program; }} &"));
    line(format!("wait $program\necho $? >{STATUS}"));
    script
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::command::command;
    use crate::vm::Forward;

    fn options(forwards: Vec<Forward>) -> VmOptions {
        let variables = vec![("CONVOY_AGENT_BIN", "/host/it's here".to_owned())];
        let timeout = Duration::from_secs(60);
        VmOptions { timeout, forwards, controllers: false, files: Vec::new(), variables }
    }

    #[test]
    fn the_scripts_are_valid_shell() {
        let forwards = vec![Forward { guest_port: 1883, host_port: 4000 }];
        for script in [INIT.to_owned(), run_script("socketcan", &["--exact", "a b"], &options(forwards))] {
            let mut shell = command("sh");
            shell.args(["-n", "-c", &script]);
            assert!(shell.status().unwrap().success(), "{script}");
        }
    }

    #[test]
    fn the_network_is_up_only_where_a_port_is_forwarded() {
        assert!(!run_script("a", &[], &options(Vec::new())).contains("eth0"));
        let forwards = vec![Forward { guest_port: 1883, host_port: 4000 }];
        assert!(run_script("a", &[], &options(forwards)).contains("10.0.2.15/24 dev eth0"));
    }

    #[test]
    fn init_loads_the_modules_that_the_initramfs_brings_for_it() {
        assert!(INIT.contains(&format!("for module in {};", BOOT_MODULES.join(" "))));
    }
}
