//! The web page, seen by a WebSocket client that we did not write.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use frames::Rect;
use support::web::{get, open};
use support::{Client, Picture, Stage, colourful};
use tungstenite::Message;
use tungstenite::http::StatusCode;

#[test]
fn a_browser_gets_the_same_bytes_as_a_vnc_client() {
    let stage = Stage::new(1);
    let picture = Picture::native(333, 77);
    picture.fill(picture.geometry.rect(), colourful);
    stage.device.show(0, &picture);
    let plain = stage.client().picture();
    let origin = format!("http://{}", stage.web);
    for headers in [&[("origin", origin.as_str()), ("sec-websocket-protocol", "binary")][..], &[]] {
        let stream = open(stage.web, "/screen?head=0", headers).unwrap();
        assert!(Client::greet(stream).picture() == plain);
    }
    stage.end();
}

#[test]
fn the_page_may_ask_for_the_guests_cursor_in_the_picture() {
    let stage = Stage::new(1);
    let picture = Picture::native(40, 40);
    stage.device.show(0, &picture);
    let cursor = frames::Cursor { width: 1, height: 1, hot_x: 0, hot_y: 0, pixels: vec![1, 2, 3, 255] };
    stage.device.lock().cursor(0, Some(cursor)).unwrap();
    stage.device.lock().move_cursor(0, 2, 0);
    let mut client = Client::greet(open(stage.web, "/screen?cursor=drawn", &[]).unwrap());
    client.encodings(&[support::RAW, support::CURSOR]);
    assert_eq!(client.picture()[8..12], [1, 2, 3, 255]);
    stage.end();
}

#[test]
fn other_sites_and_rebound_names_may_not_look() {
    let stage = Stage::new(1);
    let refused = |headers: &[(&'static str, &str)]| open(stage.web, "/screen", headers).err();
    assert_eq!(refused(&[("origin", "http://evil.example")]), Some(StatusCode::FORBIDDEN));
    assert_eq!(refused(&[("origin", "null")]), Some(StatusCode::FORBIDDEN));
    assert_eq!(refused(&[("host", "evil.example")]), Some(StatusCode::FORBIDDEN));
    let both = [("host", "evil.example"), ("origin", "http://evil.example")];
    assert_eq!(refused(&both), Some(StatusCode::FORBIDDEN));
    assert_eq!(get(stage.web, "/", "evil.example").0, 403);
    assert_eq!(get(stage.web, "/status.json", "evil.example").0, 403);
    stage.end();
}

#[test]
fn the_page_and_its_status_are_served_and_nothing_else() {
    let stage = Stage::new(2);
    let picture = Picture::native(64, 48);
    stage.device.show(1, &picture);
    // The head is known to the viewer once somebody looks at it.
    let looking = Client::greet(open(stage.web, "/screen?head=1", &[]).unwrap());
    let (status, head, body) = get(stage.web, "/", "localhost");
    assert_eq!(status, 200);
    assert!(head.contains("content-security-policy: default-src 'self'") && head.contains("x-frame-options: deny"));
    assert!(body.contains("viewer.js") && !body.contains("http://") && !body.contains("https://"), "all of it is here");
    let (_, head, body) = get(stage.web, "/viewer.js", "127.0.0.1");
    assert!(head.contains("content-type: text/javascript") && body.contains("novnc/core/rfb.js"));
    let (_, _, body) = get(stage.web, "/status.json", "[::1]:80");
    assert!(body.contains(r#""name":"guest","connected":true"#), "{body}");
    assert!(body.contains(r#"{"width":64,"height":48,"showing":true,"too_large":false,"viewers":1}"#), "{body}");
    for path in [
        "/novnc/../../../etc/passwd",
        "/novnc/%2e%2e/%2e%2e/etc/passwd",
        "/novnc//etc/passwd",
        "/etc/passwd",
        "/novnc/",
    ] {
        assert_eq!(get(stage.web, path, "localhost").0, 404, "{path}");
    }
    assert_eq!(open(stage.web, "/screen?head=2", &[]).err(), Some(StatusCode::NOT_FOUND));
    assert_eq!(open(stage.web, "/screen?head=x", &[]).err(), Some(StatusCode::BAD_REQUEST));
    drop(looking);
    stage.end();
}

#[test]
fn a_browser_that_says_too_much_or_speaks_text_is_sent_away_and_the_next_one_is_served() {
    let stage = Stage::new(1);
    let mut large = open(stage.web, "/screen", &[]).unwrap();
    let _ = large.socket.send(Message::Binary(vec![0; 1 << 20].into()));
    while large.socket.read().is_ok() {}
    let mut text = open(stage.web, "/screen", &[]).unwrap();
    text.socket.send(Message::Text("RFB 003.008\n".into())).unwrap();
    while text.socket.read().is_ok() {}
    let mut head = TcpStream::connect(stage.web).unwrap();
    let _ = head.write_all(&[b'x'; 100_000]);
    let _ = head.read_to_end(&mut Vec::new());
    let mut good = Client::greet(open(stage.web, "/screen", &[]).unwrap());
    assert_eq!(good.picture().len(), 640 * 480 * 4);
    stage.end();
}

#[test]
fn a_browser_follows_the_picture() {
    let stage = Stage::new(1);
    let picture = Picture::native(64, 64);
    stage.device.show(0, &picture);
    let mut client = Client::greet(open(stage.web, "/screen", &[]).unwrap());
    client.picture();
    for shade in 1..=50 {
        client.request(true);
        picture.fill(Rect::new(0, 0, 1, 1), |_, _| shade);
        stage.device.lock().damage(0, Rect::new(0, 0, 1, 1));
        let parts = client.update();
        assert_eq!(parts[0].data[0], shade as u8);
    }
    stage.end();
}
