//! Booting the demo's guests by what this host has: its own QEMU or the bed's, KVM or not.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use tests::guest::has_device;
use tests::process::wait_until;
use tests::progress::say;
use tests::{Accel, Config, Gpu, Guest, Input, Manager, bed};

use super::Acceleration;

/// The input device that older QEMUs have; the generic one, with its longer rings, is better.
const INPUT: &str = "vhost-user-input-pci";

/// How long a guest may stay silent under KVM before TCG is tried.
const SILENCE: u64 = 10;

/// What runs guests here.
#[derive(Clone)]
pub struct Machine {
    /// This host's QEMU; none: the bed's.
    host: Option<PathBuf>,
    accel: Accel,
}

impl Machine {
    /// A guest on a vGPU.
    fn config(&self, manager: &Manager, vgpu: &str) -> Result<Config> {
        let config = Config::mini().gpu(Gpu::VhostUserGpu(manager.socket(vgpu)?)).accel(self.accel);
        let input = manager.input_socket(vgpu)?;
        Ok(match &self.host {
            Some(program) => config.qemu(program.clone()).input(Input::VhostUserInput(input)),
            None => config.input(Input::Generic(input)),
        })
    }

    /// Starts a small guest on each of these vGPUs, and waits for none.
    pub fn others(&self, manager: &Manager, vgpus: &[&str]) -> Result<Vec<Guest>> {
        vgpus.iter().map(|vgpu| Guest::start(&self.config(manager, vgpu)?.memory(&[256]))).collect()
    }
}

/// Waits until all have booted.
pub fn wait_for(guests: &mut [Guest]) -> Result<()> {
    guests.iter_mut().try_for_each(Guest::wait_for_boot)
}

/// This host's own QEMU, if it has the device.
pub fn host_qemu() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found =
        std::env::split_paths(&path).map(|dir| dir.join("qemu-system-x86_64")).find(|program| program.exists())?;
    ["vhost-user-gpu-pci", INPUT].iter().all(|device| has_device(&found, device)).then_some(found)
}

/// Boots with this host's QEMU if it has one and that one can, else with the bed's, and says which it was.
pub fn first(
    manager: &Manager,
    vgpu: &str,
    host: Option<PathBuf>,
    acceleration: Acceleration,
) -> Result<(Guest, Machine)> {
    let kvm = Machine { host: host.clone(), accel: Accel::Kvm };
    let usable = || fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    match acceleration {
        Acceleration::Tcg => {}
        Acceleration::Kvm => return Ok((Guest::boot(kvm.config(manager, vgpu)?)?, kvm)),
        Acceleration::Auto => match usable() {
            Err(error) => say(format_args!("demo: no KVM here ({error}), using TCG")),
            Ok(_) => match boot_with_kvm(&kvm.config(manager, vgpu)?) {
                Ok(guest) => return Ok((guest, kvm)),
                Err(error) => say(format_args!("demo: KVM does not work here ({error}), using TCG")),
            },
        },
    }
    say("demo: booting a guest");
    if host.is_some() {
        let machine = Machine { host, accel: Accel::Tcg };
        // Before 8.0 QEMU wants KVM for any vhost-user device.
        match Guest::boot(machine.config(manager, vgpu)?) {
            Ok(guest) => return Ok((guest, machine)),
            Err(_) => say("demo: this host's QEMU cannot do it without KVM, using one of our own"),
        }
    }
    bed::vm()?;
    let machine = Machine { host: None, accel: Accel::Tcg };
    Ok((Guest::boot(machine.config(manager, vgpu)?)?, machine))
}

fn boot_with_kvm(config: &Config) -> Result<Guest> {
    say("demo: booting a guest under KVM");
    let Ok(mut guest) = Guest::start(config) else { bail!("QEMU refuses it") };
    let spoke = wait_until(SILENCE, "the guest to print something", || {
        ensure!(guest.qemu().is_running(), "QEMU ended");
        Ok((!guest.console().is_empty()).then_some(()))
    });
    spoke.ok().with_context(|| format!("the guest printed nothing in {SILENCE} s"))?;
    guest.wait_for_boot().ok().context("the guest did not come up")?;
    Ok(guest)
}
