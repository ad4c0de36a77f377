//! File systems of a test's own, gone when it ends.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::record::env_or;
use crate::supervisor::compiled;

/// Whether a test that cannot mount is to fail: for a run that has to have had all of them.
const REQUIRED: &str = "FAISS_PROXY_REQUIRE_MOUNTS";

/// A mounted file system, unmounted when it is dropped. What runs on it must have ended by then.
pub struct Mounted {
    /// Where; and what holds it, if it is not memory.
    point: TempDir,
    /// Of an ext4 file system: the directory of its image, and the program that cuts its power.
    image: Option<(TempDir, PathBuf)>,
}

impl Mounted {
    /// A file system in memory of so many bytes. `None` where this process may not mount, which is said.
    pub fn tmpfs(test: &str, bytes: u64) -> Option<Self> {
        let mounted = Self { point: tempfile::tempdir().unwrap(), image: None };
        let point = mounted.path();
        may(test, Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"]).arg(point))
            .then_some(mounted)
    }

    /// An ext4 file system of so many bytes on a loop device.
    pub fn ext4(test: &str, bytes: u64) -> Option<Self> {
        // In memory where there is some: what is tested is the file system, and not the disk of this machine.
        let memory = Path::new("/dev/shm");
        Self::ext4_in(if memory.is_dir() { memory } else { Path::new("/tmp") }, test, bytes)
    }

    /// The same, its image being in this directory. No more of it takes space there than was written.
    pub fn ext4_in(directory: &Path, test: &str, bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir_in(directory).unwrap();
        let image = directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let mounted = Self { point: tempfile::tempdir().unwrap(), image: Some((directory, compiled("power_cut"))) };
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).env("PATH", path_with_sbin()));
        may(test, &mut mounted.mount_image().unwrap()).then_some(mounted)
    }

    /// Makes a file system in memory larger.
    pub fn grow(&self, bytes: u64) {
        run(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(self.path()));
    }

    /// A directory once more, read-only.
    pub fn read_only(test: &str, directory: &Path) -> Option<Self> {
        let mounted = Self { point: tempfile::tempdir().unwrap(), image: None };
        if !may(test, Command::new("mount").arg("--bind").arg(directory).arg(mounted.path())) {
            return None;
        }
        run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(mounted.path()));
        Some(mounted)
    }

    pub fn path(&self) -> &Path {
        self.point.path()
    }

    fn mount_image(&self) -> Option<Command> {
        let (directory, _) = self.image.as_ref()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop"]).arg(directory.path().join("image")).arg(self.path());
        Some(mount)
    }

    /// Nothing that is not on the device by now will be: all that is written from now on fails.
    pub fn cut_power(&self, journal: Journal) {
        let (_, power_cut) = self.image.as_ref().expect("power is cut of a device");
        let flag = match journal {
            Journal::Flushed => "1",
            Journal::Lost => "2",
        };
        run(Command::new(power_cut).arg(self.path()).arg(flag));
    }

    /// Power comes back: the file system replays its journal.
    pub fn restore_power(&self) {
        run(Command::new("umount").arg(self.path()));
        run(&mut self.mount_image().expect("power is restored of a device"));
    }
}

/// What becomes of the journal's last transactions.
#[derive(Clone, Copy, Debug)]
pub enum Journal {
    /// They are written, whether or not what they are about is.
    Flushed,
    Lost,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmount = |arguments: &[&str]| {
            Command::new("umount").args(arguments).arg(self.point.path()).output().is_ok_and(|output| output.status.success())
        };
        // Lazily where something still runs on it, as after a panic: it is gone when that has ended.
        let _ = unmount(&[]) || unmount(&["-l"]);
    }
}

/// Runs a mount; where it fails, says that the test is skipped.
fn may(test: &str, mount: &mut Command) -> bool {
    let output = mount.output().unwrap();
    if output.status.success() {
        return true;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().next().unwrap_or_default();
    assert_eq!(env_or(REQUIRED, 0), 0, "{test} must be able to mount, and cannot: {why}");
    // Past the harness, which shows nothing of a test that passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test} must be able to mount, and cannot: {why}");
    false
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// mkfs is not on everybody's path.
fn path_with_sbin() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
