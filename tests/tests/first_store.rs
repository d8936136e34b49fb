//! Memory of the host that was just mapped for a guest's program: whether its first store gets there.

use anyhow::{Context, Result};
use serde_json::json;
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::progress::say;
use tests::{Config, Device, Gpu, Guest};

/// VIRTIO_GPU_CAPSET_VENUS: whose contexts have memory of the host without any driver's help.
const VENUS: u32 = 4;
const BLOBS: u32 = 100;
const BLOB_BYTES: u32 = 64 << 10;
const OTHERS: u32 = 3;
const STOPS: usize = 50;

/// On one processor a driver sees an answer soonest: nobody has to be woken by another.
#[test]
fn what_a_program_stores_at_once_in_memory_just_mapped_is_there() -> Result<()> {
    let mut device = Device::spawn_rendering(&["--display", "none", "--window", "16M"])?;
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::generic(&device)))?;
    for others in [0, 1, 3] {
        let lost = guest.lost_stores(VENUS, others, BLOBS, BLOB_BYTES)?;
        say(format_args!("{BLOBS} blobs, each in the place of the one before, beside {others}: {} words lost", lost.0));
        assert_eq!(lost, (0, 0), "beside {others}");
    }
    // Both keep a map from being told too early, and QEMU from being asked at a bad time.
    let log = device.process().log_tail();
    assert!(!log.contains("is not known"), "{log}");
    Ok(())
}

/// QEMU 11.1 ends when it is asked to map once it has stopped the device.
#[test]
fn stops_in_the_middle_of_mapping_harm_nobody() -> Result<()> {
    let device = Device::spawn_rendering(&["--display", "none", "--window", "16M"])?;
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::generic(&device)))?;
    let program = guest.spawn(&format!("exec /init stores {VENUS} {OTHERS} 1000000 {BLOB_BYTES}"))?;
    let maps = || -> Result<u64> { device.stats()?["device"]["blob_maps"].as_u64().context("No count of maps") };
    // It needs its others; each one after them may fail.
    wait_until(PATIENCE, "its first maps", || Ok((maps()? > u64::from(OTHERS) + 1).then_some(())))?;
    for stop in 1..=STOPS {
        let before = maps()?;
        wait_until(PATIENCE, "another map", || Ok((maps()? > before).then_some(())))?;
        guest.qmp("stop", json!({}))?;
        guest.qmp("cont", json!({}))?;
        if stop % 10 == 0 {
            say(format_args!("stopped {stop} times; {} maps", maps()?));
        }
    }
    guest.run(&format!("kill -9 {program}; ! grep holds /tmp/spawn.{program}"))?;
    assert_eq!(guest.lost_stores(VENUS, 1, BLOBS, BLOB_BYTES)?, (0, 0));
    guest.assert_pictures_are_shown(&device)
}
