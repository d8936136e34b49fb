//! Drivers come and go, and so do devices: unbind and bind, hot-unplug and re-plug.

use anyhow::Result;
use tests::{Config, Device, Draw, Gpu, Guest};

const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_gpu";

fn the_driver_is_bound_again(guest: &mut Guest, device: &Device) -> Result<()> {
    let name = guest.run(&format!("cd {DRIVER} && ls -d virtio*"))?.text();
    for _ in 0..3 {
        guest.draw(Draw::Release)?;
        guest.run(&format!("echo {name} > {DRIVER}/unbind"))?;
        guest.run("test ! -e /dev/dri/card0")?;
        guest.run(&format!("echo {name} > {DRIVER}/bind"))?;
        guest.assert_pictures_are_shown(device)?;
    }
    Ok(())
}

#[test]
fn vhost_user_gpu_pci_shows_pictures_after_the_driver_was_bound_again() -> Result<()> {
    let device = Device::spawn(&["--display", "vmm"])?;
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::vhost_user_gpu(&device)))?;
    the_driver_is_bound_again(&mut guest, &device)
}

// QEMU plugs the generic device only: its vhost-user-gpu-pci "does not support hotplugging".
#[test]
fn a_hot_unplugged_generic_device_is_plugged_again() -> Result<()> {
    let device = Device::spawn(&["--display", "none"])?;
    let mut guest = Guest::boot(Config::mini().arguments(["-device", "pcie-root-port,id=port0,chassis=1"]))?;
    let gpu = Gpu::generic(&device);
    for _ in 0..2 {
        guest.plug(&gpu, "gpu0", "port0")?;
        guest.wait_for("test -e /dev/dri/card0")?;
        guest.assert_pictures_are_shown(&device)?;
        guest.draw(Draw::Release)?;
        guest.unplug(&gpu, "gpu0")?;
        guest.wait_for("test ! -e /dev/dri/card0")?;
    }
    Ok(())
}
