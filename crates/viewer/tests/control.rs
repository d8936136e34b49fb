//! The page's control WebSocket: who is let in, who controls, and what hostile pages get.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use frames::{Input, InputEvent, Leds, TouchPhase};
use serde_json::{Value, json};
use support::web::{Page, get, open};
use support::{CURSOR, Client, Part, Picture, RAW, Setup, Stage};
use tungstenite::Message;
use tungstenite::http::StatusCode;

const CONTROL: &str = "control-token-0001";
const LOOK: &str = "looking-token-0001";

fn stage() -> Stage {
    Stage::with(Setup::default())
}

fn key(code: u16, pressed: bool) -> Input {
    Input::Key { code, pressed }
}

/// A stage behind tokens, and the folder with their file.
fn guarded() -> (Stage, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    fs::write(&file, format!("control = [{CONTROL:?}]\nlook = [{LOOK:?}]\n")).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    (Stage::with(Setup { tokens: Some(file), more_heads: 1, ..Setup::default() }), folder)
}

#[test]
fn both_connections_of_a_page_are_one_person_and_another_page_is_another() {
    let stage = stage();
    let mut page = Page::open(&stage);
    let mut screen = page.screen().unwrap();
    screen.press('a' as u32);
    stage.keyboard.typed(30);
    let seat = page.seat["seat"].clone();
    page.until(|floor| floor["holder"] == seat && floor["seats"] == 1);

    // Who watches types in vain; who takes control does not get the other's keys mixed in.
    let mut other = Page::open(&stage);
    let mut others = other.screen().unwrap();
    page.until(|floor| floor["seats"] == 2);
    others.press('b' as u32);
    others.sync();
    screen.key('c' as u32, None, true);
    assert_eq!(stage.keyboard.input(), key(46, true));
    other.take();
    assert_eq!(stage.keyboard.input(), Input::ReleaseAll);
    screen.key('c' as u32, None, false);
    screen.press('e' as u32);
    screen.sync();
    others.press('d' as u32);
    stage.keyboard.typed(32);
    let others_seat = other.seat["seat"].clone();
    page.until(|floor| floor["holder"] == others_seat);

    // To look elsewhere lets the keys go and keeps control; to leave gives it back.
    others.key('f' as u32, None, true);
    assert_eq!(stage.keyboard.input(), key(33, true));
    other.say(&json!({"do": "up"}));
    assert_eq!(stage.keyboard.input(), Input::ReleaseAll);
    page.say(&json!({"do": "take", "if_free": true}));
    page.sync();
    assert_eq!(page.floor["holder"], others_seat);
    others.key('g' as u32, None, true);
    assert_eq!(stage.keyboard.input(), key(34, true));
    drop(other);
    assert_eq!(stage.keyboard.input(), Input::ReleaseAll);
    others.sees_the_end();
    page.until(|floor| floor["holder"].is_null() && floor["seats"] == 1);
    page.say(&json!({"do": "take", "if_free": true}));
    page.until(|floor| floor["holder"] == seat);
    page.say(&json!({"do": "release"}));
    page.until(|floor| floor["holder"].is_null());
    stage.end();
}

#[test]
fn who_only_passes_by_with_the_mouse_gives_way_and_the_page_knows() {
    let stage = stage();
    let mut passer = Page::open(&stage);
    let mut pointing = passer.screen().unwrap();
    let seat = passer.seat["seat"].clone();
    pointing.point(0, 10, 10);
    passer.until(|floor| floor["holder"] == seat && floor["firm"] == false);
    let mut page = Page::open(&stage);
    let own = page.seat["seat"].clone();
    page.say(&json!({"do": "take", "if_free": true}));
    page.until(|floor| floor["holder"] == own && floor["firm"] == true);
    passer.say(&json!({"do": "take", "if_free": true}));
    passer.sync();
    page.sync();
    assert_eq!(page.floor["holder"], own);
    stage.end();
}

#[test]
fn a_ticket_is_good_once_for_who_has_it_and_while_the_page_is_there() {
    let stage = stage();
    let mut page = Page::open(&stage);
    let used = page.screen().unwrap();
    assert_eq!(page.screen().err(), Some(StatusCode::FORBIDDEN), "a ticket that was used");
    page.say(&json!({"do": "ticket"}));
    let replaced = page.news("ticket")["ticket"].as_str().unwrap().to_owned();
    page.say(&json!({"do": "ticket"}));
    page.ticket = page.news("ticket")["ticket"].as_str().unwrap().to_owned();
    let shown = |ticket: &str| open(stage.web, &format!("/screen?ticket={ticket}"), &[]).err();
    assert_eq!(shown(&replaced), Some(StatusCode::FORBIDDEN), "a ticket that another one replaced");
    for wrong in ["", "0", &"0".repeat(32), &"f".repeat(33), "%00", &"x".repeat(5000)] {
        assert_eq!(shown(wrong), Some(StatusCode::FORBIDDEN), "{wrong}");
    }
    drop(used);
    let mut again = page.screen().unwrap();
    again.press('a' as u32);
    stage.keyboard.typed(30);

    let mut left = Page::open(&stage);
    let ticket = left.ticket.clone();
    left.stream.socket.close(None).unwrap();
    while left.told().is_some() {}
    page.until(|floor| floor["seats"] == 1);
    assert_eq!(shown(&ticket), Some(StatusCode::FORBIDDEN), "a ticket of a page that left");
    stage.end();
}

#[test]
fn other_sites_and_rebound_names_may_not_control() {
    let stage = stage();
    let refused = |headers: &[(&'static str, &str)]| open(stage.web, "/control", headers).err();
    assert_eq!(refused(&[("origin", "http://evil.example")]), Some(StatusCode::FORBIDDEN));
    assert_eq!(refused(&[("origin", "null")]), Some(StatusCode::FORBIDDEN));
    assert_eq!(refused(&[("origin", "http://localhost:1")]), Some(StatusCode::FORBIDDEN));
    assert_eq!(refused(&[("host", "evil.example")]), Some(StatusCode::FORBIDDEN));
    let both = [("host", "evil.example"), ("origin", "http://evil.example")];
    assert_eq!(refused(&both), Some(StatusCode::FORBIDDEN));
    stage.end();
}

#[test]
fn without_a_token_nothing_is_told_and_a_token_for_looking_changes_nothing() {
    let (stage, _folder) = guarded();
    let token = json!({"is": "refused", "why": "token"});
    for hello in [json!({}), json!({"token": null}), json!({"token": ""}), json!({"token": "control-token-0002"})] {
        assert_eq!(Page::enter(&stage, &hello).err(), Some(token.clone()), "{hello}");
    }
    let (status, _, body) = get(stage.web, "/status.json", "localhost");
    assert_eq!((status, body.as_str()), (200, r#"{"token_needed":true}"#));
    // Not even how many heads there are; what looks like a VNC client is asked for a token like one.
    for head in [0, 1, 2, 200] {
        let mut stranger = Client::new(open(stage.web, &format!("/screen?head={head}"), &[]).unwrap());
        assert_eq!(stranger.show_token("control-token-0002"), Err("Wrong token".to_owned()));
    }
    let mut client = Client::new(open(stage.web, "/screen", &[]).unwrap());
    assert_eq!(client.show_token(CONTROL), Ok(()));

    let mut watcher = Page::enter(&stage, &json!({"token": LOOK})).unwrap();
    assert_eq!(watcher.seat["right"], "look");
    let mut looking = watcher.screen().unwrap();
    looking.picture();
    looking.press('a' as u32);
    looking.sync();
    watcher.say(&json!({"do": "take"}));
    watcher.say(&json!({"do": "touch", "head": 0, "points": [[0, "down", 1, 1], [0, "up", 1, 1]]}));
    watcher.sync();
    let page = Page::enter(&stage, &json!({"token": CONTROL})).unwrap();
    assert_eq!((&page.seat["right"], &page.floor["holder"]), (&json!("control"), &Value::Null));
    let mut screen = page.screen().unwrap();
    screen.press('b' as u32);
    stage.keyboard.typed(48);
    stage.end();
}

#[test]
fn a_token_that_is_withdrawn_ends_both_connections_and_lets_the_keys_go() {
    let (stage, folder) = guarded();
    let mut page = Page::enter(&stage, &json!({"token": CONTROL})).unwrap();
    let mut screen = page.screen().unwrap();
    let mut watcher = Page::enter(&stage, &json!({"token": LOOK})).unwrap();
    screen.key('a' as u32, None, true);
    assert_eq!(stage.keyboard.input(), key(30, true));
    fs::write(folder.path().join("tokens"), format!("look = [{LOOK:?}]\n")).unwrap();
    assert_eq!(stage.keyboard.input(), Input::ReleaseAll);
    assert_eq!(page.news("refused")["why"], "revoked");
    assert_eq!(page.told(), None);
    screen.sees_the_end();
    watcher.until(|floor| floor["holder"].is_null() && floor["seats"] == 1);
    assert!(Page::enter(&stage, &json!({"token": CONTROL})).is_err());
    watcher.sync();
    stage.end();
}

#[test]
fn lights_and_fingers_go_through_the_control_connection() {
    let stage = Stage::with(Setup { touch: true, more_heads: 1, ..Setup::default() });
    stage.device.show(1, &Picture::native(64, 48));
    let mut page = Page::open(&stage);
    assert_eq!((&page.floor["input"], &page.floor["touch"]), (&json!(true), &json!(true)));
    stage.keyboard.leds(Leds { caps: true, ..Leds::default() });
    page.until(|floor| floor["leds"] == json!({"num": false, "caps": true, "scroll": false}));
    let points = json!([[0, "down", 0, 65535], [9, "down", 65535, 0], [0, "move", 7, 8], [9, "up", 65535, 0]]);
    page.say(&json!({"do": "touch", "head": 1, "points": points}));
    let touch = |slot, phase, x, y| InputEvent::Input { head: 1, input: Input::Touch { slot, phase, x, y } };
    assert_eq!(stage.touch.next(), touch(0, TouchPhase::Down, 0, 65535));
    assert_eq!(stage.touch.next(), touch(9, TouchPhase::Down, 65535, 0));
    assert_eq!(stage.touch.next(), touch(0, TouchPhase::Move, 7, 8));
    assert_eq!(stage.touch.next(), touch(9, TouchPhase::Up, 65535, 0));
    // The page dies with a finger on the screen.
    drop(page);
    assert_eq!(stage.touch.input(), Input::ReleaseAll);
    stage.end();
}

#[test]
fn garbage_ends_the_connection_that_it_came_on_and_nothing_else() {
    let stage = stage();
    let mut good = Page::open(&stage);
    good.take();
    let mut screen = good.screen().unwrap();
    screen.key('a' as u32, None, true);
    assert_eq!(stage.keyboard.input(), key(30, true));
    let many: Vec<_> = (0..21).map(|_| json!([0, "down", 1, 1])).collect();
    let garbage = [
        Message::text(""),
        Message::text("take"),
        Message::text("{\"do\":\"take\""),
        Message::text(json!({"do": "reboot"}).to_string()),
        Message::text(json!({"do": "touch", "head": 0, "points": many}).to_string()),
        Message::text(json!({"do": "touch", "head": 0, "points": [[0, "down", 65536, 1]]}).to_string()),
        Message::text(json!({"do": "touch", "head": 0, "points": [[0, "down", -1, 1]]}).to_string()),
        Message::text(format!("{{\"do\":\"take\",\"if_free\":{}true", " ".repeat(10_000))),
        Message::text("[".repeat(4000)),
        Message::binary(vec![0; 16]),
    ];
    for message in garbage {
        let mut page = Page::open(&stage);
        let _ = page.stream.socket.send(message.clone());
        while page.told().is_some() {}
        let mut first = open(stage.web, "/control", &[]).unwrap();
        let _ = first.socket.send(message);
        while first.socket.read().is_ok() {}
    }
    // Fingers that nobody has, on heads that do not exist, harm nobody.
    good.say(&json!({"do": "touch", "head": 255, "points": [[255, "up", 1, 1], [10, "down", 1, 1]]}));
    good.sync();
    assert!(good.is_in_control(&good.floor), "{}", good.floor);
    screen.key('a' as u32, None, false);
    assert_eq!(stage.keyboard.input(), key(30, false));
    good.until(|floor| floor["seats"] == 1);
    stage.end();
}

#[test]
fn a_flood_delays_who_sends_it_and_the_last_word_counts() {
    const FLOOD: usize = 1500;
    let stage = stage();
    let mut flooder = Page::open(&stage);
    let mut reader = Page::open(&stage);
    let mut screen = reader.screen().unwrap();
    for _ in 0..FLOOD {
        flooder.say(&json!({"do": "take"}));
        flooder.say(&json!({"do": "release"}));
        flooder.say(&json!({"do": "touch", "head": 0, "points": [[0, "down", 1, 1], [0, "up", 1, 1]]}));
        flooder.say(&json!({"do": "release"}));
        flooder.stream.socket.send(Message::Ping(vec![7; 100].into())).unwrap();
    }
    flooder.stream.socket.flush().unwrap();
    // Others are served meanwhile.
    screen.picture();
    reader.sync();
    // All of the flood is heard in the end, and the news of it are what counts last.
    flooder.sync();
    reader.take();
    let seat = reader.seat["seat"].clone();
    flooder.until(|floor| floor["holder"] == seat);
    stage.end();
}

#[test]
fn who_says_nothing_is_sent_away_and_keeps_nobody_from_coming() {
    let stage = stage();
    // They have not even asked, have asked for half of it, and have been let in and say nothing.
    let asked: Vec<_> = (0..30).map(|_| TcpStream::connect(stage.web).unwrap()).collect();
    let half: Vec<_> = (0..30)
        .map(|_| {
            let mut stream = TcpStream::connect(stage.web).unwrap();
            write!(stream, "GET /control HTTP/1.1\r\nHost: localhost\r\nUpgrade: web").unwrap();
            stream
        })
        .collect();
    let mut silent: Vec<_> = (0..30).map(|_| open(stage.web, "/control", &[]).unwrap()).collect();
    let mut page = Page::open(&stage);
    let mut screen = page.screen().unwrap();
    screen.press('a' as u32);
    stage.keyboard.typed(30);
    page.until(|floor| floor["seats"] == 1);
    for stream in &mut silent {
        while stream.socket.read().is_ok() {}
    }
    page.sync();
    drop((asked, half));
    stage.end();
}

#[test]
fn who_controls_draws_the_cursor_and_who_watches_sees_it_in_the_picture() {
    let stage = stage();
    let picture = Picture::native(40, 40);
    stage.device.show(0, &picture);
    let cursor = frames::Cursor { width: 1, height: 1, hot_x: 0, hot_y: 0, pixels: vec![1, 2, 3, 255] };
    stage.device.lock().cursor(0, Some(cursor)).unwrap();
    stage.device.lock().move_cursor(0, 2, 0);
    let mut page = Page::open(&stage);
    let mut screen = page.screen_with("&cursor=drawn").unwrap();
    screen.encodings(&[RAW, CURSOR]);
    assert_eq!(screen.picture()[8..11], [1, 2, 3]);
    let has = |parts: &[Part], encoding| parts.iter().any(|part| part.encoding == encoding);
    page.take();
    screen.request(true);
    let news = screen.update();
    assert!(has(&news, CURSOR) && has(&news, RAW), "{news:?}");
    assert_eq!(screen.picture()[8..11], [0, 0, 0]);
    page.say(&json!({"do": "release"}));
    screen.request(true);
    let news = screen.update();
    assert!(has(&news, RAW) && !has(&news, CURSOR), "{news:?}");
    assert_eq!(screen.picture()[8..11], [1, 2, 3]);
    stage.end();
}
