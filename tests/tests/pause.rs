//! A paused and resumed guest keeps its picture: QMP stop and cont under drawing, and suspend to memory.

use anyhow::Result;
use serde_json::json;
use tests::{Config, Device, Draw, Gpu, Guest};

/// Stops and continues the guest five times while it draws, and once while nothing moves.
fn a_pause_keeps_the_picture(device: &Device, gpu: Gpu) -> Result<()> {
    let mut guest = Guest::boot(Config::mini().gpu(gpu))?;
    guest.draw(Draw::Animate)?;
    for _ in 0..5 {
        guest.wait_until_moving(device)?;
        guest.qmp("stop", json!({}))?;
        let still = device.screen()?;
        assert!(still.colours() > 1, "A paused guest's screen is blank");
        guest.qmp("cont", json!({}))?;
    }
    guest.wait_until_moving(device)?;

    let picture = guest.flip(0)?;
    guest.assert_shown(device, 0, &picture)?;
    guest.qmp("stop", json!({}))?;
    guest.assert_shown(device, 0, &picture)?;
    guest.qmp("cont", json!({}))?;
    guest.assert_shown(device, 0, &picture)?;
    let damaged = guest.damage(0, [1, 1, 50, 50])?;
    guest.assert_shown(device, 0, &damaged)
}

#[test]
fn vhost_user_gpu_pci_keeps_its_picture_over_stop_and_cont() -> Result<()> {
    let device = Device::spawn(&["--display", "vmm"])?;
    a_pause_keeps_the_picture(&device, Gpu::vhost_user_gpu(&device))
}

#[test]
fn vhost_user_vga_keeps_its_picture_over_stop_and_cont() -> Result<()> {
    let device = Device::spawn(&["--display", "vmm"])?;
    a_pause_keeps_the_picture(&device, Gpu::vhost_user_vga(&device))
}

#[test]
fn the_generic_device_keeps_its_picture_over_stop_and_cont() -> Result<()> {
    let device = Device::spawn(&["--display", "none"])?;
    a_pause_keeps_the_picture(&device, Gpu::generic(&device))
}
