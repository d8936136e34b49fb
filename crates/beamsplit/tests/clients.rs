//! Clients that mean no good, and others that are only late, slow or strangers.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use support::{Home, PROGRAM, TYPE};

#[test]
fn a_second_manager_says_who_is_the_first() {
    let home = Home::new();
    let manager = home.serve();
    let output = home.command().stderr(std::process::Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(&format!("process {}", manager.process.id())), "{told}");
    home.ok(&["list"]);
}

#[test]
fn a_runtime_folder_whose_name_is_no_text_is_refused() {
    let home = Home::new();
    let folder = home.path().join(std::ffi::OsStr::from_bytes(b"r\xff"));
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg("--runtime-dir").arg(&folder).arg("--config-dir").arg(home.config());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("is no text") && told.trim_end().lines().count() == 1, "{told}");
    assert!(!folder.exists());
}

#[test]
fn what_a_killed_manager_left_behind_is_replaced() {
    let home = Home::new();
    fs::create_dir_all(home.runtime()).unwrap();
    drop(UnixListener::bind(home.socket()).unwrap());
    fs::write(home.runtime().join("manager.lock"), "1\n").unwrap();
    let _manager = home.serve();
}

#[test]
fn what_makes_no_sense_is_refused_and_the_next_is_served() {
    let home = Home::new();
    let _manager = home.serve();
    let uuid = home.ok(&["define", TYPE, "--name", "desk"]);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20));
    let headers = format!("GET /v1/vgpus HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5000));
    let post = |path: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let patch = post(&format!("/v1/vgpus/{uuid}"), "{\"colour\":1}").replace("POST", "PATCH");
    let other = post(&format!("/v1/vgpus/{uuid}"), "{\"uuid\":\"11111111-2222-4333-8444-555555555555\"}")
        .replace("POST", "PATCH");
    for (request, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\xff\xff"[..], "400"),
        (b"\n\n\n\0\0\0\0", "400"),
        (long.as_bytes(), "4"),
        (headers.as_bytes(), "4"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        (b"PUT /v1/vgpus HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "405"),
        (b"GET /v1/vgpus/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", "4"),
        (b"GET /v1/vgpus/..%2f..%2fetc HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        (b"GET /v1/vgpus/desk/log?from=-1 HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        (post("/v1/vgpus", "").as_bytes(), "422"),
        (post("/v1/vgpus", "[]").as_bytes(), "422"),
        (post("/v1/vgpus", &deep).as_bytes(), "422"),
        (post("/v1/vgpus", "{\"type\":7}").as_bytes(), "422"),
        (post("/v1/vgpus", "{\"type\":\"desktop-2d-128m\",\"colour\":\"red\"}").as_bytes(), "422"),
        (post("/v1/vgpus", "{\"type\":\"desktop-2d-128m\",\"transient\":\"yes\"}").as_bytes(), "422"),
        (post("/v1/vgpus", "{\"type\":\"desktop-2d-128m\",\"start\":\"auto\"}").as_bytes(), "422"),
        (post("/v1/apply", "colour = 3").as_bytes(), "422"),
        (post("/v1/apply", &"x".repeat(2 << 20)).as_bytes(), "413"),
        (patch.as_bytes(), "422"),
        (other.as_bytes(), "422"),
    ] {
        let answer = home.say(request);
        let start = request.escape_ascii().to_string();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{:.80}: {answer:.200}", start);
    }
    assert_eq!(home.state("desk"), "defined");
}

#[test]
fn those_who_say_nothing_or_never_read_keep_nobody_waiting() {
    let home = Home::new();
    let _manager = home.serve();
    for number in 0..200 {
        let body = format!("{{\"type\":\"{TYPE}\",\"transient\":true,\"name\":\"{number:03}\"}}");
        let length = body.len();
        home.say(format!("POST /v1/vgpus HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
    }
    let silent: Vec<_> = (0..30).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    let half: Vec<_> = (0..30)
        .map(|_| {
            let mut stream = UnixStream::connect(home.socket()).unwrap();
            stream.write_all(b"POST /v1/vgpus HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{").unwrap();
            stream
        })
        .collect();
    let deaf: Vec<_> = (0..30)
        .map(|_| {
            let mut stream = UnixStream::connect(home.socket()).unwrap();
            stream.write_all(b"GET /v1/vgpus HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    home.ok(&["create", TYPE, "--start"]);
    // As many as come find a place or hear that there is none.
    let mut crowd = Vec::new();
    for _ in 0..200 {
        crowd.push(UnixStream::connect(home.socket()).unwrap());
    }
    let mut told = String::new();
    for stream in &mut crowd {
        stream.set_nonblocking(true).unwrap();
    }
    support::wait_until("one is told that there is no room", || {
        told.clear();
        crowd.iter_mut().any(|stream| stream.read_to_string(&mut told).is_ok_and(|length| length > 0))
    });
    assert!(told.contains("503"), "{told}");
    drop((silent, half, deaf, crowd));
    support::wait_until("there is room again", || home.run(&["list"]).status.success());
}

#[test]
fn the_page_answers_for_this_host_only_and_without_a_token_it_only_looks() {
    let home = Home::new();
    let mut command = home.command();
    command.args(["--web", "0"]);
    let _manager = home.serve_by(command);
    let log = home.log();
    let port = log.split_once("http://127.0.0.1:").unwrap().1.split('/').next().unwrap();
    let say = |what: &str, host: &str, more: &str| {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        let request = format!("{what} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let own = format!("Origin: http://localhost:{port}\r\n");
    for (what, host, more, status, told) in [
        ("GET /", "127.0.0.1", "", "200", "overview.js"),
        ("GET /v1/session", "localhost", &*own, "200", "\"look\""),
        ("GET /v1/vgpus", "evil.example", "", "403", "localhost"),
        ("GET /", "localhost", "Origin: http://evil.example\r\n", "403", "Another site"),
        ("POST /v1/vgpus/desk/start", "localhost", &*own, "403", "--tokens"),
    ] {
        let answer = say(what, host, more);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(told), "{what} {host}: {answer}");
        for header in [
            "content-security-policy: default-src 'self'; img-src 'self' data: blob:; connect-src 'self'; frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: DENY",
            "referrer-policy: no-referrer",
            "cache-control: no-cache",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(answer.contains(header), "{what} {host}: no {header}: {answer}");
        }
    }
}

/// A manager with a page, and who may look and control there.
fn serve_guarded(home: &Home) -> (support::Manager, String) {
    let tokens = home.path().join("tokens.toml");
    fs::write(&tokens, "control = [\"a-token-that-may-control\"]\nlook = [\"a-token-that-may-look\"]\n").unwrap();
    fs::set_permissions(&tokens, Permissions::from_mode(0o600)).unwrap();
    let mut command = home.command();
    command.args(["--web", "0", "--tokens"]).arg(tokens);
    let manager = home.serve_by(command);
    let log = home.log();
    let port = log.rsplit_once("http://127.0.0.1:").unwrap().1.split('/').next().unwrap().to_owned();
    (manager, port)
}

#[test]
fn who_may_only_look_at_the_page_may_only_look_at_consoles() {
    let home = Home::new();
    // Where devices have users of their own they must be able to read their tokens.
    fs::write(home.config().join("serve.toml"), "users = \"1879100010-1879100019\"\n").unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    let (manager, port) = serve_guarded(&home);
    let uuid = home.ok(&["define", TYPE, "--display", "web=127.0.0.1:0", "--start"]);
    let dark = home.ok(&["define", TYPE, "--display", "none", "--start"]);
    let console = |right: &str, port: &str| {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        let head =
            format!("Host: localhost\r\nConnection: close\r\nAuthorization: Bearer a-token-that-may-{right}\r\n");
        stream.write_all(format!("GET /v1/vgpus/{uuid} HTTP/1.1\r\n{head}\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let vgpu: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        vgpu["console"].as_str().map(str::to_owned)
    };
    // One that was found is asked where its page is, which takes a moment.
    let console = |right: &str, port: &str| {
        support::wait_until("its console is known", || console(right, port).is_some());
        console(right, port).unwrap()
    };
    let (control, look) = (console("control", &port), console("look", &port));
    assert_eq!(home.show(&uuid)["console"], control.as_str());
    let path = home.device(&uuid).join("tokens.toml");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    let token = |console: &str| console.split_once("/#token=").unwrap().1.to_owned();
    assert!(text.contains(&format!("control = [\"{}\"]", token(&control))), "{text} {control}");
    assert!(text.contains(&format!("look = [\"{}\"]", token(&look))), "{text} {look}");
    assert!(!text.contains("that-may"), "a device knows what opens the others");
    // Nobody listens there, so nothing is to be opened.
    assert!(!home.device(&dark).join("tokens.toml").exists());

    // The next manager knows them, also one without a page.
    drop(manager);
    let (manager, port) = serve_guarded(&home);
    assert_eq!((console("control", &port), console("look", &port)), (control.clone(), look));
    drop(manager);
    let _manager = home.serve();
    support::wait_until("its console is known", || home.show(&uuid)["console"].is_string());
    assert_eq!(home.show(&uuid)["console"], control.as_str());
    // Those that are started now are open, as the page is that is not there.
    home.ok(&["stop", &uuid]);
    home.ok(&["start", &uuid]);
    assert!(!home.show(&uuid)["console"].as_str().unwrap().contains("token"));
    home.ok(&["stop", &uuid, &dark]);
}

#[test]
fn a_stranger_is_refused_even_where_the_file_lets_it_in() {
    let home = Home::new();
    let _manager = home.serve();
    // Another user needs one who may become it.
    if !Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "true"])
        .status()
        .is_ok_and(|done| done.success())
    {
        eprintln!("Skipped: only root can become another user");
        return;
    }
    let as_stranger = || {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", PROGRAM, "list", "--runtime-dir"])
            .arg(home.runtime());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    let told = as_stranger();
    assert!(told.contains("group beamsplit"), "{told}");
    fs::set_permissions(home.socket(), Permissions::from_mode(0o666)).unwrap();
    let told = as_stranger();
    assert!(told.contains("answers root") && told.contains("user nobody"), "{told}");
}

#[test]
fn as_root_each_device_is_a_user_of_its_own_and_the_vmms_group_may_connect() {
    let home = Home::new();
    // SAFETY of others: a range that nobody has, and a folder that its users can pass.
    fs::write(home.config().join("serve.toml"), "users = \"1879100000-1879100009\"\nvmm-group = \"daemon\"\n").unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    let _manager = home.serve();
    if !fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0).unwrap() {
        eprintln!("Skipped: only root has users to give");
        return;
    }
    let uuids: Vec<String> = (0..3).map(|_| home.ok(&["create", TYPE, "--start"])).collect();
    let mut users = Vec::new();
    for uuid in &uuids {
        let pid = home.show(uuid)["pid"].as_u64().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        users.push(line("Uid:").split_whitespace().next().unwrap().to_owned());
        assert_eq!(line("CapEff:"), "0000000000000000");
        assert_eq!(line("Groups:"), "");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let tasks = limits.lines().find_map(|line| line.strip_prefix("Max processes")).unwrap();
        assert!(
            tasks
                .split_whitespace()
                .all(|limit| limit.parse::<u64>().is_ok_and(|limit| limit <= 8192) || limit == "processes"),
            "{tasks}"
        );
        let group = fs::read_to_string("/etc/group").unwrap();
        let daemon: u32 =
            group.lines().find(|line| line.starts_with("daemon:")).unwrap().split(':').nth(2).unwrap().parse().unwrap();
        let socket = fs::metadata(home.device(uuid).join("gpu.sock")).unwrap();
        assert_eq!(
            (std::os::unix::fs::MetadataExt::gid(&socket), socket.permissions().mode() & 0o777),
            (daemon, 0o770)
        );
        let control = fs::metadata(home.device(uuid).join("control.sock")).unwrap();
        assert_eq!(control.permissions().mode() & 0o077, 0);
    }
    users.sort();
    users.dedup();
    assert_eq!(users.len(), 3);
    for uuid in &uuids {
        home.ok(&["stop", uuid]);
    }
}

#[test]
fn whoever_words_a_refusal_it_is_told_in_json() {
    let home = Home::new();
    let _manager = home.serve();
    let uuid = home.ok(&["create", TYPE, "--start"]);
    for (request, code) in [
        ("GET /v1/vgpus/%ff".to_owned(), 400),
        (format!("GET /v1/vgpus/{uuid}/screenshot?head=99999999999"), 400),
        ("GET /nothing".to_owned(), 404),
        ("PUT /v1/gpus".to_owned(), 405),
    ] {
        let answer = home.say(format!("{request} HTTP/1.1\r\nHost: m\r\n\r\n").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{request}: {answer}");
        assert!(head.to_lowercase().contains("content-type: application/json"), "{request}: {answer}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["version"] == 1 && !body["error"].as_str().unwrap().is_empty(), "{request}: {body}");
    }
    home.ok(&["stop", &uuid]);
}

#[test]
fn a_runtime_folder_in_which_others_may_write_is_refused() {
    let home = Home::new();
    fs::create_dir(home.runtime()).unwrap();
    for mode in [0o777, 0o775, 0o757, 0o1777] {
        fs::set_permissions(home.runtime(), Permissions::from_mode(mode)).unwrap();
        assert!(!home.command().status().unwrap().success());
        assert!(home.log().lines().last().unwrap().contains("chmod go-w"), "{}", home.log());
    }
    fs::set_permissions(home.runtime(), Permissions::from_mode(0o755)).unwrap();
    let _manager = home.serve();
}
