//! Guests whose memory is more than one region.

use anyhow::{Context, Result, ensure};
use tests::{Config, Device, Gpu, Guest};

/// A zone with fewer free pages is almost full: the kernel keeps about so much back and then takes from another zone.
const ALMOST_FULL: u64 = 48 << 8;

/// Shows pictures from the zone of memory that the guest's kernel prefers, and, with that full, from another one.
fn pictures_from_two_zones(guest: &mut Guest, device: &Device, preferred: &str, other: &str) -> Result<()> {
    let heads = guest.heads()?;
    let (width, height, _) = heads[0].modes[0];
    ensure!(free_pages(guest, preferred)? > 4 * ALMOST_FULL, "Nothing is free in {preferred}");
    let first = guest.show(0, width, height)?;
    guest.assert_shown(device, 0, &first)?;

    guest.run("mkdir -p /fill; mount -t tmpfs -o size=95% fill /fill")?;
    let mut before = u64::MAX;
    loop {
        let free = free_pages(guest, preferred)?;
        // The last step takes what the kernel still gives, and then from the other zone.
        let is_full = free < ALMOST_FULL || free >= before;
        let megabytes = if is_full { 64 } else { free / 256 / 2 };
        guest.run(&format!("dd if=/dev/zero of=/fill/$(ls /fill | wc -l) bs=1M count={megabytes}"))?;
        if is_full {
            break;
        }
        before = free;
    }
    let full = free_pages(guest, preferred)?;
    ensure!(free_pages(guest, other)? > 4 * ALMOST_FULL, "Nothing is free in {other}");
    // What the first picture took may be used again; what more are alive at once than were then, may not.
    for _ in 0..4 {
        let next = guest.flip(0)?;
        guest.assert_shown(device, 0, &next)?;
        guest.run("dd if=/dev/zero of=/fill/$(ls /fill | wc -l) bs=1M count=8")?;
    }
    ensure!(free_pages(guest, preferred)? < full + ALMOST_FULL / 2, "{preferred} is no longer full");
    Ok(())
}

/// The free pages of a zone, as in "0 Normal".
fn free_pages(guest: &mut Guest, zone: &str) -> Result<u64> {
    let script = "awk '/^Node/ {zone = $2 $4; sub(\",\", \" \", zone)} /pages free/ {print zone, $3}' /proc/zoneinfo";
    let zones = guest.run(script)?.text();
    let free = zones.lines().find_map(|line| line.strip_prefix(zone)?.trim().parse().ok());
    free.with_context(|| format!("No zone {zone} in\n{zones}"))
}

#[test]
fn a_guest_of_five_gigabytes_shows_pictures_from_both_regions() -> Result<()> {
    let device = Device::spawn(&["--display", "vmm"])?;
    let mut guest = Guest::boot(Config::mini().memory(&[5120]).gpu(Gpu::vhost_user_gpu(&device)))?;
    // QEMU's second region begins at 4 GiB, where the kernel's zone Normal does.
    pictures_from_two_zones(&mut guest, &device, "0 Normal", "0 DMA32")
}

#[test]
fn a_guest_with_two_memory_back_ends_shows_pictures_from_both() -> Result<()> {
    let device = Device::spawn(&["--display", "none"])?;
    let mut guest = Guest::boot(Config::mini().memory(&[512, 512]).gpu(Gpu::generic(&device)))?;
    pictures_from_two_zones(&mut guest, &device, "0 DMA32", "1 DMA32")
}
