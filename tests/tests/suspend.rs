//! A guest that was suspended to memory (S3) has its picture again.

use anyhow::Result;
use tests::{Config, Device, Gpu, Guest};

fn the_picture_comes_back_after_suspend(device: &Device, gpu: Gpu) -> Result<()> {
    let config = Config::mini().real_mode().arguments(["-global", "ICH9-LPC.disable_s3=0"]);
    let mut guest = Guest::boot(config.gpu(gpu))?;
    let before = guest.show(0, 1280, 800)?;
    guest.assert_shown(device, 0, &before)?;
    guest.suspend_and_wake()?;
    assert!(guest.run("dmesg")?.text().contains("PM: suspend exit"));
    // The driver shows its old resource again without making it anew.
    guest.assert_shown(device, 0, &before)?;
    let after = guest.damage(0, [100, 100, 300, 200])?;
    guest.assert_shown(device, 0, &after)?;
    let flipped = guest.flip(0)?;
    guest.assert_shown(device, 0, &flipped)?;
    let log = guest.run("dmesg")?.text();
    assert!(!log.contains("*ERROR* response"), "The driver's commands failed:\n{log}");
    // What the suspended guest left is not shown to the next boot.
    guest.reset()?;
    guest.assert_pictures_are_shown(device)
}

#[test]
fn vhost_user_gpu_pci_has_its_picture_again_after_suspend() -> Result<()> {
    let device = Device::spawn(&["--display", "vmm"])?;
    the_picture_comes_back_after_suspend(&device, Gpu::vhost_user_gpu(&device))
}

#[test]
fn the_generic_device_has_its_picture_again_after_suspend() -> Result<()> {
    let device = Device::spawn(&["--display", "none"])?;
    the_picture_comes_back_after_suspend(&device, Gpu::generic(&device))
}

#[test]
fn a_card_over_vfio_user_has_its_picture_again_after_suspend() -> Result<()> {
    let device = Device::spawn_vfio_user("vga", &["--display", "none"])?;
    the_picture_comes_back_after_suspend(&device, Gpu::vfio_user(&device))
}
