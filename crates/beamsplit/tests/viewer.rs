//! `beamsplit viewer` as a process, locked in, with a device that says nothing.

#![allow(clippy::unwrap_used)]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const FIRST: &str = "the-first-of-all-tokens";
const SECOND: &str = "the-second-of-all-tokens";

fn write(path: &Path, token: &str) {
    fs::write(path, format!("control = [\"{token}\"]")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// Starts a viewer whose device is the stream, and returns where VNC clients come, and its log.
fn start(tokens: &Path) -> (Child, UnixStream, SocketAddr, BufReader<impl Read + use<>>) {
    let (device, viewer) = UnixStream::pair().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_beamsplit"))
        .args(["viewer", "--fd", "0", "--vnc", "127.0.0.1:0", "--tokens"])
        .arg(tokens)
        .env_remove("BEAMSPLIT_LOG")
        .stdin(Stdio::from(OwnedFd::from(viewer)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("VNC on ") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended before it listened");
    }
    let address = line.split("VNC on ").nth(1).unwrap().split(',').next().unwrap();
    (child, device, address.parse().unwrap(), log)
}

/// Shows a token by VeNCrypt: a stream that is let in, or none.
fn enter(address: SocketAddr, token: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"RFB 003.008\n\x13\x00\x02\x00\x00\x01\x00").unwrap();
    stream.write_all(&[0, 0, 0, 0, 0, 0, 0, token.len() as u8]).unwrap();
    stream.write_all(token.as_bytes()).unwrap();
    let mut answer = [0; 12 + 2 + 2 + 6 + 4];
    stream.read_exact(&mut answer).unwrap();
    (answer[22..] == [0; 4]).then_some(stream)
}

#[test]
fn a_viewer_that_is_locked_in_still_follows_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    write(&path, FIRST);
    let (mut viewer, device, address, mut log) = start(&path);
    let mut client = enter(address, FIRST).unwrap();
    client.write_all(&[1]).unwrap();
    assert!(enter(address, SECOND).is_none());
    write(&path, SECOND);
    // It is sent away, by a close or a reset.
    let _ = std::io::copy(&mut client, &mut std::io::sink());
    assert!(enter(address, FIRST).is_none());
    assert!(enter(address, SECOND).is_some());
    drop(device);
    assert!(viewer.wait().unwrap().success());
    let mut said = String::new();
    log.read_to_string(&mut said).unwrap();
    assert!(said.contains("The tokens changed") && !said.contains("of-all-tokens"), "{said}");
}

#[test]
fn tokens_that_are_replaced_end_the_viewer_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    write(&path, FIRST);
    let (mut viewer, _device, _, mut log) = start(&path);
    let other = folder.path().join("other");
    write(&other, SECOND);
    fs::rename(other, &path).unwrap();
    assert_eq!(viewer.wait().unwrap().code(), Some(1));
    let mut said = String::new();
    log.read_to_string(&mut said).unwrap();
    assert!(said.contains("was replaced by another file"), "{said}");
}

#[test]
fn a_viewer_does_not_start_without_the_tokens_that_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    let refused = || {
        let (_device, viewer) = UnixStream::pair().unwrap();
        let words = ["viewer", "--fd", "0", "--vnc", "127.0.0.1:0", "--tokens"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_beamsplit"));
        let output = command.args(words).arg(&path).stdin(Stdio::from(OwnedFd::from(viewer))).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused().contains("Cannot read the tokens"));
    write(&path, "short");
    let said = refused();
    assert!(said.contains("line 1") && !said.contains("short"), "{said}");
    write(&path, FIRST);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert!(refused().contains("chmod 600"));
}
