//! Guests whose memory is more than one region.

use anyhow::Result;
use tests::{Config, Device, Gpu, Guest};

/// Fills memory so that pictures lie in all of it, and looks at each.
fn pictures_from_everywhere(guest: &mut Guest, device: &Device) -> Result<()> {
    let heads = guest.heads()?;
    let (width, height, _) = heads[0].modes[0];
    let first = guest.show(0, width, height)?;
    guest.assert_shown(device, 0, &first)?;
    for _ in 0..4 {
        // Pages that are kept make the next buffer lie elsewhere.
        guest.run("n=$(ls /dev/shm | wc -l); head -c 300M /dev/zero > /dev/shm/$n")?;
        let next = guest.flip(0)?;
        guest.assert_shown(device, 0, &next)?;
    }
    Ok(())
}

#[test]
fn a_guest_of_five_gigabytes_has_two_regions() -> Result<()> {
    let device = Device::spawn(&["--display", "vmm"])?;
    let mut guest = Guest::boot(Config::mini().memory(&[5120]).gpu(Gpu::vhost_user_gpu(&device)))?;
    guest.run("test $(awk '/MemTotal/ {print $2}' /proc/meminfo) -gt 4500000")?;
    pictures_from_everywhere(&mut guest, &device)
}

#[test]
fn a_guest_with_two_memory_back_ends_shows_pictures_from_both() -> Result<()> {
    let device = Device::spawn(&["--display", "none"])?;
    let mut guest = Guest::boot(Config::mini().memory(&[1024, 1024]).gpu(Gpu::generic(&device)))?;
    pictures_from_everywhere(&mut guest, &device)
}
