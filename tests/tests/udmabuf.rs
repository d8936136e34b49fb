//! The device itself in a guest: with a kernel that has `/dev/udmabuf`, which containers have not.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::progress::say;
use tests::{Config, Guest, workspace};

#[test]
fn vulkan_is_offered_with_a_real_udmabuf_and_without_one_it_is_said_what_is_missing() -> Result<()> {
    let mut guest = Guest::boot(Config::mesa())?;
    guest.put("/tmp/device", 0o755, &fs::read(workspace::binary("beamsplit-device")?)?)?;
    // Only what is asked for is tried, and each is asked anew: nothing is remembered in a folder that cannot be.
    let ask = "XDG_CACHE_HOME=/proc/none /tmp/device --renderer virgl --capsets venus --print-capabilities --verbose";

    let with = guest.run(ask)?;
    say(format_args!("{}", String::from_utf8_lossy(&with.stderr)));
    let report: Value = serde_json::from_str(&with.text()).context("No JSON")?;
    let report = &report["beamsplit"];
    assert_eq!(report["udmabuf"]["usable"], true, "{report}");
    // It has exported memory: only who did is offered.
    assert_eq!(report["offered"], json!(["venus"]), "{report}");
    assert_eq!(report["vulkan"]["capsets"][0]["bytes"], 160, "{report}");

    let without = guest.try_run(&format!("rm /dev/udmabuf; {ask}"))?;
    let words = format!("{}\n{}", without.text(), String::from_utf8_lossy(&without.stderr));
    say(format_args!("{} {words}", without.code));
    assert!(words.contains("modprobe udmabuf"), "{words}");
    Ok(())
}
