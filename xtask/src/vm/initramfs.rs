//! The files that the machine boots into: BusyBox, the CAN tools with their libraries, and the modules of the kernel.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::guest;
use crate::command::{command, run_streaming, shown};
use crate::debian::Unpacked;

const BUSYBOX: &str = "busybox";

/// Beside BusyBox's own, in front of which they stand on the PATH.
const PROGRAMS: [&str; 20] = [
    "ip",
    "candump",
    "cansend",
    "cangen",
    "canplayer",
    "canbusload",
    "canfdtest",
    "cangw",
    "cansequence",
    "bcmserver",
    "isotpdump",
    "isotprecv",
    "isotpsend",
    "isotpserver",
    "j1939acd",
    "j1939cat",
    "j1939spy",
    "j1939sr",
    "slcand",
    "testj1939",
];

/// What the kernel says of its modules, beside what `depmod` finds out.
const INDEXES: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];

/// Folders that are mounted on or written to.
const FOLDERS: [&str; 7] = ["dev", "etc", "host", "lib64", "proc", "sys", "tmp"];

const LOADER: &str = "ld-linux-x86-64.so.2";

/// BusyBox, the folder, the file: packs the folder, as root's. Compressed it boots no faster.
const PACK: &str = r#"cd "$1" && "$0" find . | "$0" cpio -o -H newc -R 0:0 >"$2""#;

pub(super) fn recipe() -> String {
    [&PROGRAMS[..], &guest::modules(), &INDEXES, &FOLDERS, &[PACK, guest::INIT]].concat().join(" ")
}

/// Writes `initramfs`, with the modules that the machine loads out of the folder `modules`.
pub(super) fn build(unpacked: &Unpacked, modules: &Path, initramfs: &Path) -> Result<()> {
    let root = initramfs.with_extension("root");
    for folder in FOLDERS {
        std::fs::create_dir_all(root.join(folder)).with_context(|| format!("create the guest's {folder}"))?;
    }
    let busybox = unpacked.program(BUSYBOX)?;
    copy(&busybox, &root.join("bin").join(BUSYBOX))?;
    copy_programs(unpacked, &root)?;
    copy_modules(unpacked, modules, &root)?;
    let init = root.join("init");
    std::fs::write(&init, guest::INIT).context("write the guest's init")?;
    std::fs::set_permissions(&init, Permissions::from_mode(0o755)).context("make init executable")?;
    let mut pack = command("sh");
    pack.args(["-c", PACK]).args([busybox.as_path(), &root, initramfs]);
    let status = pack.status().context("start sh")?;
    ensure!(status.success(), "`{}` failed ({status}): see the message above", shown(&pack));
    std::fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))
}

fn copy_programs(unpacked: &Unpacked, root: &Path) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let program = unpacked.program(name)?;
        copy(&program, &root.join("usr/bin").join(name))?;
        libraries.extend(unpacked.libraries_of(&program)?);
    }
    for library in libraries {
        let name = library.file_name().context("a library without a name")?;
        let folder = if name == LOADER { "lib64" } else { "usr/lib" };
        copy(&library, &root.join(folder).join(name))?;
    }
    Ok(())
}

fn copy_modules(unpacked: &Unpacked, modules: &Path, root: &Path) -> Result<()> {
    let version = modules.file_name().and_then(|name| name.to_str()).context("a kernel without a version")?;
    let base = modules.ancestors().nth(3).context("modules are not in lib/modules")?;
    depmod(unpacked, base, version)?;
    let read = |name: &str| {
        let path = modules.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let (list, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let guest_modules = root.join("lib/modules").join(version);
    for module in with_dependencies(&list, &builtin, &guest::modules())? {
        copy(&modules.join(module), &guest_modules.join(module))?;
    }
    for index in INDEXES {
        copy(&modules.join(index), &guest_modules.join(index))?;
    }
    depmod(unpacked, root, version)
}

/// Writes the list of which module needs which into the kernel's folder below `base`.
fn depmod(unpacked: &Unpacked, base: &Path, version: &str) -> Result<()> {
    let mut depmod = unpacked.command_as("depmod", "kmod")?;
    depmod.arg("-b").arg(base).arg(version);
    let status = run_streaming(&mut depmod, |line| println!("{line}"))?;
    ensure!(status.success(), "`{}` failed ({status}): see its message above", shown(&depmod));
    Ok(())
}

/// The files of the modules `wanted` and of those that they need, from the lines `file: file file` of modules.dep; less
/// what this kernel has built in.
fn with_dependencies<'a>(list: &'a str, builtin: &str, wanted: &[&str]) -> Result<BTreeSet<&'a str>> {
    let mut files = BTreeSet::new();
    for module in wanted {
        if builtin.lines().any(|file| is_module(file, module)) {
            continue;
        }
        let entry = list.lines().filter_map(|line| line.split_once(':'));
        let Some((file, needs)) = entry.into_iter().find(|(file, _)| is_module(file, module)) else {
            bail!("the kernel has no module {module}: is it another Debian's?");
        };
        files.insert(file);
        files.extend(needs.split_whitespace());
    }
    Ok(files)
}

/// Whether this file is the module; its name may have `_` for `-`, and the file may be compressed.
fn is_module(file: &str, module: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or_default().split(".ko").next().unwrap_or_default();
    name.replace('_', "-") == module.replace('_', "-")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(to);
    std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    std::fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "kernel/net/can/can.ko:\n\
                        kernel/net/can/can-raw.ko: kernel/net/can/can.ko\n\
                        kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio.ko.xz\n";

    #[test]
    fn modules_come_with_what_they_need() {
        let files: Vec<_> =
            with_dependencies(LIST, "", &["can-raw", "virtio_pci"]).unwrap().into_iter().collect();
        let expected = [
            "kernel/drivers/virtio/virtio.ko.xz",
            "kernel/drivers/virtio/virtio_pci.ko.xz",
            "kernel/net/can/can-raw.ko",
            "kernel/net/can/can.ko",
        ];
        assert_eq!(files, expected);
    }

    #[test]
    fn what_is_built_in_has_no_file() {
        let builtin = "kernel/net/can/can-raw.ko\n";
        assert!(with_dependencies(LIST, builtin, &["can_raw"]).unwrap().is_empty());
    }

    #[test]
    fn a_module_that_the_kernel_has_not_is_named() {
        let error = with_dependencies(LIST, "", &["can-raw", "vcan"]).unwrap_err().to_string();
        assert_eq!(error, "the kernel has no module vcan: is it another Debian's?");
    }

    #[test]
    fn the_packing_script_is_valid_shell() {
        let mut shell = command("sh");
        shell.args(["-n", "-c", PACK]);
        assert!(shell.status().unwrap().success());
    }
}
