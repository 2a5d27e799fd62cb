//! A virtual machine with Debian's kernel, which has CAN: Linux under QEMU, with a folder of this machine in it. Kernel,
//! QEMU and the tools in the machine are Debian's packages, unpacked below the target folder and never installed.

pub(crate) mod forward;
mod guest;
mod initramfs;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{shown, target_dir};
use crate::debian::{Preparation, Unpacked, quoted};

/// Where the machine sees the folder that is made for a run: the program, and the files given along.
pub(crate) const HOST_FOLDER: &str = "/host";

/// Where the machine reaches the forwarded ports of this one.
pub(crate) const HOST_ADDRESS: &str = "10.0.2.100";

const PACKAGES: [&str; 5] =
    ["linux-image-amd64", "qemu-system-x86", "can-utils", "iproute2", "busybox-static"];

const KERNEL: &str = "vmlinuz";
const INITRAMFS: &str = "initramfs.cpio";
const CONSOLE: &str = "console.log";

const MEMORY_MIB: u32 = 512;

/// Beside the program's own time: booting takes 4 s where nothing else runs.
const BOOT_MAX: Duration = Duration::from_secs(120);

/// Lines that may wait for the one who reads them.
const LINES_MAX: usize = 1_000;

/// What a failure quotes of the kernel's console.
const CONSOLE_LINES_MAX: usize = 60;

/// The prepared machine; each run boots it anew.
#[derive(Debug, Clone)]
pub(crate) struct Vm {
    folder: PathBuf,
}

/// A port of this machine that the virtual one reaches at [`HOST_ADDRESS`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forward {
    /// The port that a program in the machine connects to.
    pub(crate) guest_port: u16,
    /// The port on this machine's loopback.
    pub(crate) host_port: u16,
}

#[derive(Debug)]
pub(crate) struct VmOptions {
    /// After this time in the machine the program is killed.
    pub(crate) timeout: Duration,
    pub(crate) forwards: Vec<Forward>,
    /// Two controllers with the driver kvaser_pci on one bus: `can0` and `can1`, down and without a bit rate. Drivers,
    /// bit timing and states are real ones; the bus is QEMU's, on which nothing goes wrong: frames pass at unequal bit
    /// rates and without anyone who acknowledges, and no controller goes off the bus. Error frames are sent to a
    /// virtual bus instead. Those always are there: `vcan0` to `vcan3`, up, for CAN FD too.
    pub(crate) controllers: bool,
    /// Copied into [`HOST_FOLDER`] under their own names.
    pub(crate) files: Vec<PathBuf>,
    /// Variables of the program.
    pub(crate) variables: Vec<(&'static str, String)>,
}

/// How the program in the machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VmOutcome {
    /// With this code; 128 and the signal's number for a killed one, as shells have it.
    Exited(i32),
    TimedOut,
}

/// The machine, prepared at the first call (half a minute, 140 MB from a Debian mirror) and found by the later ones.
///
/// # Errors
/// Says which step failed: this is no x86-64 Linux with apt-get, the mirror is out of reach, or it has another kernel.
pub(crate) fn prepare() -> Result<Vm> {
    let folder = target_dir()?.join("tools/vm");
    let preparation =
        Preparation { name: "the virtual machine", packages: &PACKAGES, recipe: initramfs::recipe() };
    preparation.prepare(&folder, |unpacked| {
        let modules = unpacked.modules().context("look for the virtual machine's kernel")?;
        initramfs::build(unpacked, &modules, &folder.join(INITRAMFS))
            .context("put the virtual machine's initramfs together")?;
        std::fs::copy(unpacked.kernel(&modules)?, folder.join(KERNEL)).context("copy the kernel")?;
        // Most of what was unpacked is the drivers of all the hardware there is.
        std::fs::remove_dir_all(&modules).with_context(|| format!("remove {}", modules.display()))
    })?;
    Ok(Vm { folder })
}

impl Vm {
    /// Boots the machine, runs `program` in it as root and hands each line of its output, standard error's too, to
    /// `on_line` as it comes. The program has to be linked statically.
    ///
    /// # Errors
    /// When the machine cannot be started, or ends before the program does: with the end of the kernel's console.
    pub(crate) fn run(
        &self,
        program: &Path,
        arguments: &[&str],
        options: &VmOptions,
        mut on_line: impl FnMut(&str),
    ) -> Result<VmOutcome> {
        let share = tempfile::Builder::new().prefix("run-").tempdir_in(&self.folder);
        let share = share.with_context(|| format!("make a folder in {}", self.folder.display()))?;
        let share = share.path();
        for file in options.files.iter().map(PathBuf::as_path).chain([program]) {
            let copy = share.join(file_name(file)?);
            std::fs::copy(file, copy).with_context(|| format!("copy {} for the machine", file.display()))?;
        }
        let script = guest::run_script(file_name(program)?, arguments, options);
        std::fs::write(share.join(guest::SCRIPT), script).context("write what the machine runs")?;
        let mut qemu = self.qemu(share, options)?;
        let in_time = stream(&mut qemu, options.timeout + BOOT_MAX, &mut on_line)?;
        if share.join(guest::TIMED_OUT).exists() {
            return Ok(VmOutcome::TimedOut);
        }
        let status = std::fs::read_to_string(share.join(guest::STATUS)).unwrap_or_default();
        if let Ok(code) = status.trim().parse() {
            return Ok(VmOutcome::Exited(code));
        }
        let what = if in_time { "ended by itself" } else { "was ended, because it took too long" };
        bail!("the virtual machine {what} before {} did; its console: {}", program.display(), console(share))
    }

    fn qemu(&self, share: &Path, options: &VmOptions) -> Result<Command> {
        let unpacked = Unpacked::in_folder(&self.folder);
        let mut qemu = unpacked.command("qemu-system-x86_64")?;
        qemu.env("QEMU_MODULE_DIR", unpacked.path("usr/lib/x86_64-linux-gnu/qemu"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(unpacked.path(firmware));
        }
        // Emulated, also where there is KVM: that hangs in some containers, and a test needs one way to run.
        qemu.args(["-accel", "tcg", "-cpu", "max", "-M", "pc", "-smp", "1", "-m", &MEMORY_MIB.to_string()]);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"]);
        qemu.arg("-kernel").arg(self.folder.join(KERNEL)).arg("-initrd").arg(self.folder.join(INITRAMFS));
        qemu.args(["-append", "console=ttyS0 quiet panic=-1 oops=panic mitigations=off random.trust_cpu=on"]);
        qemu.arg("-serial").arg(format!("file:{}", share.join(CONSOLE).display()));
        let folder = in_option(&share.display().to_string());
        qemu.arg("-virtfs").arg(format!("local,path={folder},mount_tag=host,security_model=none"));
        // Not `stdio`, which takes the end of its input for the end of the one who reads.
        qemu.args(["-device", "virtio-serial-pci", "-chardev", "file,id=output,path=/dev/stdout"]);
        qemu.args(["-device", "virtserialport,chardev=output"]);
        if options.controllers {
            qemu.args(["-object", "can-bus,id=bus"]);
            qemu.args(["-device", "kvaser_pci,canbus=bus", "-device", "kvaser_pci,canbus=bus"]);
        }
        if !options.forwards.is_empty() {
            let xtask = std::env::current_exe().context("find the path of this program")?;
            qemu.arg("-netdev").arg(network(&xtask, &options.forwards));
            // Without the firmware for booting from it, which is a package of its own.
            qemu.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        }
        Ok(qemu)
    }
}

/// A network with nothing but the forwarded ports. The form of `guestfwd` without a command serves one connection only.
fn network(xtask: &Path, forwards: &[Forward]) -> String {
    let mut network = "user,id=net,restrict=on".to_owned();
    for Forward { guest_port, host_port } in forwards {
        let command = format!("{} vm-forward 127.0.0.1 {host_port}", quoted(&xtask.display().to_string()));
        network += &format!(",guestfwd=tcp:{HOST_ADDRESS}:{guest_port}-cmd:{}", in_option(&command));
    }
    network
}

/// A comma would end the value.
fn in_option(value: &str) -> String {
    value.replace(',', ",,")
}

fn file_name(path: &Path) -> Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.with_context(|| format!("{} has no name that a script can hold", path.display()))
}

/// The end of what the kernel said.
fn console(share: &Path) -> String {
    let text = std::fs::read(share.join(CONSOLE)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(CONSOLE_LINES_MAX)..];
    if last.is_empty() { "nothing".to_owned() } else { format!("\n{}", last.join("\n")) }
}

/// Runs `command` to its end, or for `limit`, and hands over its lines; `false` if it had to be ended.
fn stream(command: &mut Command, limit: Duration, on_line: &mut impl FnMut(&str)) -> Result<bool> {
    let shown = shown(command);
    let started = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start `{shown}`"))?;
    let lines = child.stdout.take().map(lines_of).context("the output was asked for")?;
    let in_time = loop {
        match lines.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Disconnected) => break true,
            Err(RecvTimeoutError::Timeout) => break false,
        }
    };
    if !in_time {
        child.kill().with_context(|| format!("end `{shown}`"))?;
    }
    let status = child.wait().with_context(|| format!("wait for `{shown}`"))?;
    ensure!(!in_time || status.success(), "`{shown}` failed ({status}): see its message above");
    Ok(in_time)
}

/// Reads in a thread of its own: a pipe has no timeout.
fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if sender.send(line.trim_end_matches('\r').to_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::command;

    fn shell(script: &str) -> Command {
        let mut shell = command("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn lines_arrive_in_order_until_the_program_ends() {
        let mut lines = Vec::new();
        let mut on_line = |line: &str| lines.push(line.to_owned());
        let in_time = stream(&mut shell("echo one; printf 'two\\r\\n'"), BOOT_MAX, &mut on_line).unwrap();
        assert!(in_time);
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn a_program_over_its_time_is_ended_and_its_lines_are_kept() {
        let mut lines = Vec::new();
        let mut on_line = |line: &str| lines.push(line.to_owned());
        let limit = Duration::from_secs(1);
        let in_time = stream(&mut shell("echo one; exec sleep 3600"), limit, &mut on_line).unwrap();
        assert!(!in_time);
        assert_eq!(lines, ["one"]);
    }

    #[test]
    fn a_program_that_fails_is_an_error_with_its_status() {
        let error = stream(&mut shell("exit 3"), BOOT_MAX, &mut |_: &str| {}).unwrap_err().to_string();
        assert_eq!(error, "`sh -c exit 3` failed (exit status: 3): see its message above");
    }

    #[test]
    fn each_forwarded_port_starts_this_program_for_a_connection() {
        let forwards =
            [Forward { guest_port: 7, host_port: 4007 }, Forward { guest_port: 1883, host_port: 4001 }];
        assert_eq!(
            network(Path::new("/a, b/xtask"), &forwards),
            "user,id=net,restrict=on,guestfwd=tcp:10.0.2.100:7-cmd:'/a,, b/xtask' vm-forward 127.0.0.1 4007,\
             guestfwd=tcp:10.0.2.100:1883-cmd:'/a,, b/xtask' vm-forward 127.0.0.1 4001"
        );
    }

    #[test]
    fn a_failure_quotes_the_end_of_the_console() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(console(folder.path()), "nothing");
        let lines: Vec<_> = (0..100).map(|number| number.to_string()).collect();
        std::fs::write(folder.path().join(CONSOLE), lines.join("\n")).unwrap();
        assert_eq!(console(folder.path()), format!("\n{}", lines[40..].join("\n")));
    }
}
