//! `beamsplit attach --qmp` and `detach`: a vGPU of the manager's goes into a VM that runs, and out of it.

use anyhow::{Context, Result, ensure};
use tests::manager::Manager;
use tests::{Config, Guest};

/// A 2D type that every host offers.
const TYPE: &str = "desktop-2d-128m";

#[test]
fn a_vgpu_is_plugged_into_a_vm_that_runs_and_pulled_out_again() -> Result<()> {
    let manager = Manager::start("")?;
    manager.tell(&["create", TYPE, "--name", "flat", "--display", "none", "--start"])?;
    let card = ["--transport", "vfio-user", "--model", "virtio", "--display", "none", "--start"];
    manager.tell(&[&["create", TYPE, "--name", "card"], &card[..]].concat())?;
    let folder = tests::workspace::scratch("q-")?;
    let socket = folder.path().join("qmp");
    let qmp = socket.to_str().context("A path without a name")?;
    let monitor = format!("unix:{qmp},server=on,wait=off");
    let words = ["-device", "pcie-root-port,id=port0,chassis=1", "-qmp", &monitor];
    let mut guest = Guest::boot(Config::mini().arguments(words))?;
    let cards = |guest: &mut Guest| -> Result<usize> {
        Ok(guest.run("ls /sys/class/drm")?.text().split_whitespace().filter(|name| *name == "card0").count())
    };
    for name in ["flat", "card", "flat"] {
        // Into a bus that takes none: nothing is left behind that a second try would stumble over.
        let refused = manager.run(&["attach", name, "--qmp", qmp])?;
        ensure!(!refused.status.success(), "{name} went into pcie.0");
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(said.contains("--bus") && said.trim_end().lines().count() == 1, "{said}");

        manager.tell(&["attach", name, "--qmp", qmp, "--bus", "port0"])?;
        guest.wait_for("test -e /sys/class/drm/card0")?;
        let twice = manager.run(&["attach", name, "--qmp", qmp, "--bus", "port0"])?;
        ensure!(!twice.status.success(), "{name} was plugged in twice");
        ensure!(cards(&mut guest)? == 1, "{name} is not there any more");
        manager.tell(&["detach", name, "--qmp", qmp])?;
        ensure!(cards(&mut guest)? == 0, "{name} is still there");
        ensure!(manager.vgpu(name)?["state"] == "running", "{name} ended with its VM");
    }
    Ok(())
}
