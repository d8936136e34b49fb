//! Every command, with the real program, a real manager and real devices.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::net::UnixStream;

use support::{Home, TYPE, lives, wait_until};

#[test]
fn a_vgpu_from_its_definition_to_its_end() {
    let home = Home::new();
    let manager = home.serve();
    let types = home.json(&["types"]);
    let free = |types: &serde_json::Value| {
        let kinds = types["types"].as_array().unwrap().clone();
        kinds.iter().find(|kind| kind["name"] == TYPE).unwrap()["available"].as_u64().unwrap()
    };
    let uuid = home.ok(&["define", TYPE, "--name", "desk"]);
    assert_eq!(home.state(&uuid), "defined");
    assert!(fs::read_to_string(home.config().join(format!("vgpus/{uuid}.toml"))).unwrap().contains("desk"));

    home.ok(&["start", "desk"]);
    let shown = home.show(&uuid[..8]);
    assert_eq!((shown["state"].as_str(), shown["name"].as_str()), (Some("running"), Some("desk")));
    assert_eq!(free(&home.json(&["types"])), free(&types) - 1);
    assert!(lives(shown["pid"].as_u64().unwrap()));
    UnixStream::connect(home.device(&uuid).join("gpu.sock")).unwrap();
    assert_eq!(home.json(&["stats", "desk"])["name"], uuid.as_str());
    assert!(home.fails(&["screenshot", "desk", "/dev/null"]).contains("shows nothing"));
    assert!(home.ok(&["log", "desk"]).contains("is ready"));
    assert!(home.ok(&["top", "--once", "--interval", "0.1"]).contains("desk"));
    // Started already.
    home.ok(&["start", "desk"]);

    home.ok(&["modify", "desk", "--name", "office", "--autostart", "on"]);
    assert_eq!(home.show("office")["start"], "auto");
    assert!(home.fails(&["show", "desk"]).contains("no vGPU 'desk'"));

    home.ok(&["stop", "office"]);
    assert_eq!(home.state(&uuid), "defined");
    assert_eq!(home.devices(), [0u32; 0], "something is left of it");
    assert!(!home.device(&uuid).join("gpu.sock").exists());
    home.ok(&["undefine", &uuid]);
    assert_eq!(home.seen(&uuid), serde_json::Value::Null);
    assert!(!home.config().join(format!("vgpus/{uuid}.toml")).exists());
    drop(manager);
}

#[test]
fn what_is_created_is_gone_when_it_stops() {
    let home = Home::new();
    let _manager = home.serve();
    let uuid = "4b1c2a60-7a35-4c5c-9c0a-1f2e3d4c5b6a";
    assert_eq!(home.ok(&["create", TYPE, "--uuid", uuid, "--start"]), uuid);
    assert_eq!(home.state(uuid), "running");
    assert!(home.fails(&["create", TYPE, "--uuid", uuid]).contains(uuid));
    home.ok(&["stop", uuid]);
    assert_eq!(home.seen(uuid), serde_json::Value::Null);
    assert!(!home.device(uuid).exists());
}

#[test]
fn what_there_is_is_there_after_a_restart() {
    let home = Home::new();
    let manager = home.serve();
    let defined = home.ok(&["define", TYPE, "--name", "desk", "--heads", "1024x768"]);
    let created = home.ok(&["create", TYPE]);
    let before = [home.show(&defined), home.show(&created)];
    drop(manager);
    let _manager = home.serve();
    assert_eq!([home.show(&defined), home.show(&created)], before);
}

#[test]
fn what_comes_up_with_the_host_comes_up_once() {
    let home = Home::new();
    let manager = home.serve();
    let uuid = home.ok(&["define", TYPE, "--autostart"]);
    // Of a type that is not there: it fails, and that is seen.
    let broken = "11111111-2222-4333-8444-555555555555";
    let text = format!("uuid = \"{broken}\"\ntype = \"no-such-type\"\nstart = \"auto\"\n");
    fs::write(home.config().join(format!("vgpus/{broken}.toml")), text).unwrap();
    drop(manager);
    // As after a boot: nothing is there of what lived until then.
    fs::remove_dir_all(home.runtime()).unwrap();
    let manager = home.serve();
    wait_until("it runs", || home.state(&uuid) == "running");
    let failed = home.show(broken);
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(failed["why"].as_str().unwrap().contains("no-such-type"), "{failed}");
    assert!(home.ok(&["list"]).contains("no-such-type"));
    home.ok(&["stop", &uuid]);
    drop(manager);
    let _manager = home.serve();
    assert_eq!(home.state(&uuid), "defined");
}

#[test]
fn wrong_commands_are_refused_in_one_line() {
    let home = Home::new();
    let told = home.fails(&["list"]);
    assert!(told.contains("beamsplit serve"), "{told}");
    let _manager = home.serve();
    let uuid = home.ok(&["define", TYPE, "--name", "desk"]);
    let last = if uuid.ends_with('a') { 'b' } else { 'a' };
    home.ok(&["define", TYPE, "--uuid", &format!("{}{last}", &uuid[..35])]);
    for (words, named) in [
        (&["show", "nobody"][..], "nobody"),
        (&["start", "nobody"], "nobody"),
        (&["define", "no-such-type"], "no-such-type"),
        (&["define", TYPE, "--uuid", &uuid], &uuid[..8]),
        (&["define", TYPE, "--name", "a\nb"], "printable"),
        (&["define", TYPE, "--heads", "9999x9999"], "9999x9999"),
        (&["define", TYPE, "--model", "vga"], "vfio-user"),
        (&["define", TYPE, "--display", "teapot"], "teapot"),
        (&["create", "--min-memory", "900G"], "900G"),
        (&["modify", "desk", "--type", "no-such-type"], "no-such-type"),
        (&["stats", "desk"], "does not run"),
        (&["screenshot", "desk", "/dev/null"], "does not run"),
        (&["attach", "desk", "--qmp", "/nowhere"], "beamsplit start"),
        (&["detach", "desk", "--qmp", "/nowhere"], "/nowhere"),
        (&["apply", "/nowhere"], "/nowhere"),
        (&["apply", "/dev/zero"], "larger than 1M"),
        (&["apply", support::PROGRAM], "UTF-8"),
    ] {
        let told = home.fails(words);
        assert!(told.contains(named), "{words:?}: {told}");
    }
    // The two begin alike: 35 letters are not enough.
    assert!(home.fails(&["show", &uuid[..35]]).contains("say more"));
    for words in [
        &["create"][..],
        &["define", TYPE, "--uuid", "123"],
        &["modify", "desk"],
        &["screenshot", "desk"],
        &["types", "--min-memory", "lots"],
        &["attach"],
    ] {
        assert_eq!(home.run(words).status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn the_attachment_is_what_a_vmm_takes() {
    let home = Home::new();
    let _manager = home.serve();
    let attachment = |words: &[&str]| {
        let uuid = home.ok(&[&["define", TYPE], words].concat());
        (home.json(&["attach", &uuid]), home.ok(&["attach", &uuid, "--libvirt"]), home.ok(&["attach", &uuid]))
    };
    let (json, xml, words) = attachment(&[]);
    assert_eq!(json["front_end"], "vhost-user-gpu-pci");
    assert!(xml.contains("<qemu:commandline") && xml.contains("gpu.sock"), "{xml}");
    assert!(words.contains("-device vhost-user-gpu-pci,id=vgpu-"), "{words}");
    let (json, _, words) = attachment(&["--display", "web=127.0.0.1:0"]);
    assert_eq!(json["front_end"], "vhost-user-test-device-pci");
    assert!(
        words.contains("virtio-id=16") && words.contains("virtio-id=18") && words.contains("input.sock"),
        "{words}"
    );
    let (json, _, words) = attachment(&["--transport", "vfio-user", "--display", "none"]);
    assert_eq!(json["front_end"], "vfio-user-pci");
    assert!(words.contains("'{") && words.contains("\"path\":"), "{words}");
}

#[test]
fn a_device_with_a_page_says_where_it_is() {
    let home = Home::new();
    let _manager = home.serve();
    let uuid = home.ok(&["create", TYPE, "--display", "web=127.0.0.1:0", "--start"]);
    let console = home.seen(&uuid)["console"].as_str().unwrap().to_owned();
    let address = console.strip_prefix("http://").unwrap().trim_end_matches('/');
    std::net::TcpStream::connect(address).unwrap();
}

#[test]
fn metrics_are_openmetrics() {
    let home = Home::new();
    let _manager = home.serve();
    let uuid = home.ok(&["create", TYPE, "--name", "a\"b\\c", "--start"]);
    let answer = home.say(b"GET /v1/metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("application/openmetrics-text"), "{head}");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    assert!(text.contains("name=\"a\\\"b\\\\c\""), "{text}");
    assert!(text.contains(&format!("beamsplit_device_commands_total{{uuid=\"{uuid}\"}} 0\n")), "{text}");
    assert!(text.contains(&format!("beamsplit_vgpu_state{{uuid=\"{uuid}\",state=\"running\"}} 1\n")), "{text}");
}

#[test]
fn a_device_that_others_started_is_listed_and_is_theirs() {
    let home = Home::new();
    let _manager = home.serve();
    let control = home.runtime().join("4711.sock");
    let program = std::path::Path::new(support::PROGRAM).with_file_name("beamsplit-device");
    let mut device = std::process::Command::new(program)
        .arg("--socket-path")
        .arg(home.path().join("libvirts"))
        .arg("--control-socket")
        .arg(&control)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // A socket that nobody answers on keeps nobody waiting.
    let _silent = std::os::unix::net::UnixListener::bind(home.runtime().join("silent.sock")).unwrap();
    wait_until("it is listed", || home.ok(&["list"]).contains("not managed"));
    let listed = home.json(&["list"]);
    assert_eq!(listed["foreign"][0]["pid"], device.id());
    assert!(home.fails(&["stop", "libvirts"]).contains("libvirts"));
    device.kill().unwrap();
    device.wait().unwrap();
}
