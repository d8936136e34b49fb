//! Only who knows a token is let in, and only while it is good; and nothing of what is secret is in the log.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use frames::{Input, InputEvent};
use support::{Client, EXTENDED_DESKTOP_SIZE, RAW, Setup, Stage};
use tracing_subscriber::EnvFilter;
use viewer::{RunError, TokensError};

const TYPIST: &str = "typist-secret-0001";
const SECOND: &str = "second-secret-0002";
const WATCHER: &str = "watcher-secret-003";

/// All that the viewer logs, with everything switched on.
fn log() -> &'static Arc<Mutex<Vec<u8>>> {
    static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    LOG.get_or_init(|| {
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new("trace"))
            .with_ansi(false)
            .with_writer(move || Log(writer.clone()))
            .init();
        log
    })
}

struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn logged() -> String {
    String::from_utf8(log().lock().unwrap().clone()).unwrap()
}

/// Writes tokens as an editor does that keeps the file.
fn write(path: &Path, control: &[&str], look: &[&str]) {
    let list = |tokens: &[&str]| tokens.iter().map(|token| format!("{token:?}, ")).collect::<String>();
    fs::write(path, format!("control = [{}]\nlook = [{}]\n", list(control), list(look))).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// A viewer that wants tokens, and their file, which lasts as long as the folder.
fn stage() -> (Stage, PathBuf, tempfile::TempDir) {
    log();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    write(&path, &[TYPIST, SECOND], &[WATCHER]);
    (Stage::with(Setup { tokens: Some(path.clone()), ..Setup::default() }), path, folder)
}

fn enter(stage: &Stage, token: &str) -> Client {
    Client::connect_with(stage.vnc[0], token).unwrap()
}

/// Says these bytes first and returns what is answered.
fn answer(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut client = Client::new(TcpStream::connect(address).unwrap());
    client.write(bytes);
    let mut answer = Vec::new();
    // By a close or a reset.
    let _ = std::io::copy(&mut client.stream, &mut answer);
    answer
}

#[test]
fn a_token_says_what_somebody_may() {
    let (stage, _path, _folder) = stage();
    let mut watcher = enter(&stage, WATCHER);
    watcher.encodings(&[RAW, EXTENDED_DESKTOP_SIZE]);
    watcher.request(true);
    watcher.update();
    watcher.press('w' as u32);
    watcher.point(1, 3, 3);
    watcher.wish(800, 600);
    watcher.request(true);
    let prohibited = watcher.update();
    assert_eq!((prohibited[0].rect.x, prohibited[0].rect.y), (1, 1));
    let mut typist = enter(&stage, TYPIST);
    typist.press('t' as u32);
    stage.keyboard.typed(20);
    // Who may only look takes nothing, however it asks.
    let mut alone = Client::new(TcpStream::connect(stage.vnc[0]).unwrap());
    alone.show_token(WATCHER).unwrap();
    alone.begin(false);
    alone.press('w' as u32);
    alone.sync();
    typist.press('t' as u32);
    stage.keyboard.typed(20);
    assert_eq!(watcher.picture().len(), 640 * 480 * 4);
    stage.end();
}

#[test]
fn nobody_gets_in_without_a_token() {
    let (stage, _path, _folder) = stage();
    let address = stage.vnc[0];
    for wrong in ["", "x", &TYPIST[..TYPIST.len() - 1], "typist-secret-0001 ", "TYPIST-SECRET-0001", &"a".repeat(255)] {
        assert_eq!(Client::connect_with(address, wrong).err().as_deref(), Some("Wrong token"), "{wrong}");
    }
    // None as it is without tokens; a way that was not offered; VeNCrypt as it is not; passwords of impossible lengths.
    let hello = b"RFB 003.008\n";
    let with = |rest: &[u8]| [&hello[..], rest].concat();
    let until_plain = [19, 0, 2, 0, 0, 1, 0];
    for refused in [
        with(&[1, 1]),
        with(&[2]),
        with(&[19, 0, 1]),
        with(&[19, 0, 2, 0, 0, 1, 4]),
        with(&[&until_plain[..], &[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]].concat()),
        with(&[&until_plain[..], &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 16]].concat()),
        with(&[&until_plain[..], &[0, 0, 1, 1, 0, 0, 0, 0]].concat()),
    ] {
        let said = answer(address, &refused);
        assert!(said.len() <= 12 + 2 + 2 + 6, "{refused:?} is answered {said:?}");
        assert!(!said.windows(4).any(|word| word == [0, 0, 0, 0]), "{refused:?} is let in by {said:?}");
    }
    // A client of 1998 is told what it lacks.
    let said = answer(address, b"RFB 003.003\n\x01");
    assert_eq!(said[12..16], [0; 4]);
    assert!(String::from_utf8_lossy(&said[20..]).contains("VeNCrypt"), "{said:?}");
    // One of 2005 hears no reason.
    let mut old = Client::new(TcpStream::connect(address).unwrap());
    old.read(12);
    old.write(b"RFB 003.007\n");
    assert_eq!(old.read(2), [1, 19]);
    old.write(&until_plain);
    old.write(&[0, 0, 0, 0, 0, 0, 0, 2, b'n', b'o']);
    assert_eq!(old.read(2 + 6 + 4)[8..], [0, 0, 0, 1]);
    old.sees_the_end();
    stage.end();
}

#[test]
fn a_token_that_goes_takes_its_rights_with_it_at_once() {
    let (stage, path, _folder) = stage();
    let (mut first, mut second, mut watcher) = (enter(&stage, TYPIST), enter(&stage, SECOND), enter(&stage, WATCHER));
    first.key('a' as u32, None, true);
    assert_eq!(stage.keyboard.input(), Input::Key { code: 30, pressed: true });
    write(&path, &[SECOND], &[WATCHER]);
    assert_eq!(stage.keyboard.input(), Input::ReleaseAll);
    first.sees_the_end();
    assert!(Client::connect_with(stage.vnc[0], TYPIST).is_err());
    // The others go on.
    second.press('b' as u32);
    stage.keyboard.typed(48);
    watcher.picture();
    // Less than before is not what it was let in with.
    write(&path, &[], &[SECOND]);
    second.sees_the_end();
    watcher.sees_the_end();
    let mut second = enter(&stage, SECOND);
    second.press('b' as u32);
    second.sync();
    assert_eq!(stage.keyboard.heard(), []);
    stage.end();
}

#[test]
fn a_file_of_tokens_that_cannot_be_trusted_any_more_lets_nobody_in() {
    let (stage, path, _folder) = stage();
    for spoil in [
        |path: &Path| fs::write(path, "control = [\"typist-secret-0001\"\n").unwrap(),
        |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap(),
        |path: &Path| fs::write(path, vec![b'#'; 100_000]).unwrap(),
    ] {
        let mut client = enter(&stage, TYPIST);
        client.key('a' as u32, None, true);
        assert_eq!(stage.keyboard.input(), Input::Key { code: 30, pressed: true });
        spoil(&path);
        assert_eq!(stage.keyboard.input(), Input::ReleaseAll);
        client.sees_the_end();
        assert!(Client::connect_with(stage.vnc[0], TYPIST).is_err());
        write(&path, &[TYPIST], &[]);
        while Client::connect_with(stage.vnc[0], TYPIST).is_err() {}
    }
    fs::remove_file(&path).unwrap();
    while Client::connect_with(stage.vnc[0], TYPIST).is_ok() {}
    stage.end();
}

#[test]
fn a_file_that_is_replaced_ends_the_viewer_for_another_one_to_read_it() {
    let (stage, path, folder) = stage();
    let mut client = enter(&stage, TYPIST);
    client.key('a' as u32, None, true);
    assert_eq!(stage.keyboard.input(), Input::Key { code: 30, pressed: true });
    // Files beside it are none of our business.
    let other = folder.path().join("other");
    write(&other, &[SECOND], &[]);
    client.sync();
    fs::rename(other, &path).unwrap();
    assert!(matches!(stage.keyboard.next(), InputEvent::Gone | InputEvent::Input { input: Input::ReleaseAll, .. }));
    client.sees_the_end();
    assert!(matches!(stage.ended(), Err(RunError::Tokens(TokensError::Replaced(replaced))) if replaced == path));
}

#[test]
fn neither_a_token_nor_what_is_typed_is_in_the_log() {
    let (stage, path, _folder) = stage();
    let mut client = enter(&stage, TYPIST);
    client.key(0x006e_6f6e, None, true);
    for letter in "xyzzy".chars() {
        client.press(letter as u32);
    }
    client.sync();
    assert!(Client::connect_with(stage.vnc[0], "a-wrong-one-that-was-tried").is_err());
    fs::write(&path, "control = [\"second-secret-0002\", 7]\nlook = [\"watcher-secret-003\"\n").unwrap();
    client.sees_the_end();
    stage.end();
    let log = logged();
    assert!(log.contains("VNC client") && log.contains("line 2"), "what is logged: {log}");
    for secret in ["secret", "xyzzy", "wrong-one", "keysym", "Key {", "pressed", "6e6f6e", "7237486"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}
