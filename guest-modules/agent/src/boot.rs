// SPDX-License-Identifier: MIT OR Apache-2.0
//! From PID 1 to a guest that can run programs: mounts, devices, modules, cgroups, swap.

use std::{
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use abi::{
    layout::{ABI_MAGIC, ABI_VERSION, IoctlInfo, ioc},
    shm::SHM_BYTES,
};
use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::stat::{Mode, SFlag, makedev, mknod},
};

use crate::{
    log,
    sys::{self, Mapping},
    user_ops::{self, CGROUP_PARENT, CGROUP_ROOT, SCRATCH},
};

/// PCI ids of `ivshmem`.
const IVSHMEM: (&str, &str) = ("0x1af4", "0x1110");
/// Where programs mount.
const MOUNT_POINTS: &str = "/mnt";
/// Size of the zram swap device.
const SWAP_BYTES: u64 = 64 << 20;
/// Sections of a module whose places are told.
const MODULE_SECTIONS: [&str; 4] = [".text", ".rodata", ".data", ".bss"];
/// An error with what was being done.
pub type Result<T> = std::result::Result<T, String>;

/// Adds what was being done to an error.
pub trait Context<T> {
    /// Prefixes the error.
    fn context(self, what: &str) -> Result<T>;
}

impl<T, E: std::fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: &str) -> Result<T> {
        self.map_err(|error| format!("{what}: {error}"))
    }
}

/// Mounts the file systems programs work with.
pub fn mount_all() -> Result<()> {
    let mounts = [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("debugfs", "/sys/kernel/debug"),
        ("cgroup2", CGROUP_ROOT),
        ("tmpfs", SCRATCH),
        ("tmpfs", MOUNT_POINTS),
    ];
    for (kind, target) in mounts {
        if !Path::new(target).exists() {
            fs::create_dir_all(target).context(target)?;
        }
        match mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>) {
            // The kernel mounts devtmpfs by itself.
            Err(nix::Error::EBUSY) => {}
            result => result.context(&format!("mount {target}"))?,
        }
    }
    user_ops::make_mount_points().context(MOUNT_POINTS)?;
    // So that what programs mean for a file system of theirs does not end up here.
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, MOUNT_POINTS, None::<&str>, flags, None::<&str>).context(MOUNT_POINTS)
}

/// Mounts what [`out_byte`] needs.
pub fn mount_dev() -> nix::Result<()> {
    mount(Some("devtmpfs"), "/dev", Some("devtmpfs"), MsFlags::empty(), None::<&str>)
}

/// Memory cgroups for programs, swap on zram, a kernel log that drops nothing, faults ready to be asked for.
pub fn prepare() -> Result<()> {
    put(format!("{CGROUP_ROOT}/cgroup.subtree_control"), "+memory")?;
    fs::create_dir(CGROUP_PARENT).context(CGROUP_PARENT)?;
    put(format!("{CGROUP_PARENT}/cgroup.subtree_control"), "+memory")?;
    // Once 4 was written, drop_caches logs no more.
    put("/proc/sys/vm/drop_caches", "4")?;
    user_ops::setup_faults();
    swap().context("swap on zram")
}

fn swap() -> io::Result<()> {
    fs::write("/sys/block/zram0/disksize", SWAP_BYTES.to_string())?;
    let mut header = [0; 4096];
    header[1024..1028].copy_from_slice(&1u32.to_le_bytes());
    header[1028..1032].copy_from_slice(&((SWAP_BYTES / 4096 - 1) as u32).to_le_bytes());
    header[4086..].copy_from_slice(b"SWAPSPACE2");
    let mut device = File::options().write(true).open("/dev/zram0")?;
    device.write_all(&header)?;
    device.sync_all()?;
    sys::swapon(c"/dev/zram0")
}

/// Loads a module from the initramfs and makes its device node.
pub fn load_module(name: &str) -> Result<File> {
    let path = format!("/{name}.ko");
    let file = File::open(&path).context(&path)?;
    finit_module(&file, c"", ModuleInitFlags::empty()).context(&format!("load {path}"))?;
    log::say(&module_places(name));
    let devices = fs::read_to_string("/proc/devices").context("/proc/devices")?;
    let major = devices
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .find(|(_, device)| *device == name)
        .and_then(|(major, _)| major.parse().ok())
        .ok_or_else(|| format!("{name} has no device"))?;
    let node = format!("/dev/{name}");
    mknod(node.as_str(), SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(major, 0)).context(&node)?;
    File::options().read(true).write(true).open(&node).context(&node)
}

/// Where a module is, for whoever looks at addresses from outside: `module canary .text=0xffffffffc0012000 …`.
fn module_places(name: &str) -> String {
    let mut line = format!("module {name}");
    for section in MODULE_SECTIONS {
        if let Ok(address) = fs::read_to_string(format!("/sys/module/{name}/sections/{section}")) {
            line += &format!(" {section}={}", address.trim());
        }
    }
    line
}

/// Is it the module this agent was built with?
pub fn check_module(device: &File) -> Result<()> {
    let mut info = IoctlInfo::default();
    sys::ioctl_struct(device, ioc::INFO, &mut info).context("ask the module")?;
    if (info.magic, info.version) != (ABI_MAGIC, ABI_VERSION) {
        return Err(format!("module speaks ABI {}, agent {ABI_VERSION}", info.version));
    }
    Ok(())
}

/// Maps the memory shared with the host.
pub fn shared_memory() -> Result<Mapping> {
    let device = find_pci(IVSHMEM).context("look for ivshmem")?.ok_or("no ivshmem device")?;
    put(device.join("enable"), "1")?;
    let bar =
        File::options().read(true).write(true).open(device.join("resource2")).context("ivshmem BAR 2")?;
    Mapping::of_file(&bar, SHM_BYTES).context("map ivshmem BAR 2")
}

fn find_pci((vendor, device): (&str, &str)) -> io::Result<Option<PathBuf>> {
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let path = entry?.path();
        let is =
            |file: &str, id: &str| fs::read_to_string(path.join(file)).is_ok_and(|text| text.trim() == id);
        if is("vendor", vendor) && is("device", device) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Writes one byte to an I/O port.
pub fn out_byte(port: u16, value: u8) -> io::Result<()> {
    File::options().write(true).open("/dev/port")?.write_all_at(&[value], port.into())
}

/// Writes a control file.
pub fn put(path: impl AsRef<Path>, text: &str) -> Result<()> {
    let path = path.as_ref();
    let write = || -> io::Result<()> {
        let mut file = File::options().write(true).open(path)?;
        file.seek(SeekFrom::Start(0)).ok();
        file.write_all(text.as_bytes())
    };
    write().context(&path.display().to_string())
}
