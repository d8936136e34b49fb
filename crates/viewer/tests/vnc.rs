//! A device, a viewer and real conversations in RFB.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use frames::{Cursor, Format, Geometry, Rect};
use support::{
    CURSOR, CURSOR_WITH_ALPHA, Client, DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE, Picture, RAW, Stage, VMWARE_CURSOR, ZRLE,
    colourful, zrle,
};

/// A client's pixel format, and what it makes of a colour; spelt from the RFC.
struct Wanted {
    format: [u8; 13],
    value: fn(u32) -> Vec<u8>,
}

fn scaled(part: u32, max: u32) -> u32 {
    ((part & 0xff) * max + 127) / 255
}

const CLIENT_FORMATS: [Wanted; 6] = [
    Wanted {
        format: [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0],
        value: |colour| (colour | 0xff00_0000).to_le_bytes().into(),
    },
    // What noVNC asks for.
    Wanted {
        format: [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16],
        value: |colour| (colour << 8 | 0xff).to_be_bytes().into(),
    },
    Wanted {
        format: [32, 24, 1, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0],
        value: |colour| (colour | 0xff00_0000).to_be_bytes().into(),
    },
    Wanted {
        format: [16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0],
        value: |colour| {
            let value = scaled(colour >> 16, 31) << 11 | scaled(colour >> 8, 63) << 5 | scaled(colour, 31);
            (value as u16).to_be_bytes().into()
        },
    },
    Wanted {
        format: [8, 8, 0, 1, 0, 7, 0, 7, 0, 3, 0, 3, 6],
        value: |colour| vec![(scaled(colour >> 16, 7) | scaled(colour >> 8, 7) << 3 | scaled(colour, 3) << 6) as u8],
    },
    // A table of colours.
    Wanted {
        format: [8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        value: |colour| vec![(scaled(colour >> 16, 7) | scaled(colour >> 8, 7) << 3 | scaled(colour, 3) << 6) as u8],
    },
];

fn expected(width: u32, height: u32, value: fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..height).flat_map(|y| (0..width).flat_map(move |x| value(colourful(x, y)))).collect()
}

#[test]
fn qemu_item_4112_every_format_is_shown_byte_for_byte_and_nothing_that_lies_around_it() {
    let stage = Stage::new(1);
    for format in Format::ALL {
        let picture = Picture::new(97, 41, format);
        picture.fill(picture.geometry.rect(), colourful);
        stage.device.show(0, &picture);
        for wanted in &CLIENT_FORMATS {
            let mut client = stage.client();
            assert_eq!((client.width, client.height, client.name.as_str()), (97, 41, "guest"));
            client.pixel_format(wanted.format);
            assert!(client.picture() == expected(97, 41, wanted.value), "{format:?} as {:?}", wanted.format);
            assert_eq!(client.colour_map.is_empty(), wanted.format[3] == 1);
        }
    }
    stage.end();
}

#[test]
fn what_zrle_packs_is_the_picture() {
    let stage = Stage::new(1);
    let picture = Picture::native(300, 200);
    picture.fill(Rect::new(0, 0, 150, 200), colourful);
    picture.fill(Rect::new(150, 0, 150, 100), |x, y| (x / 40 + y / 30) * 0x0010_2030);
    stage.device.show(0, &picture);
    let mut client = stage.client();
    let plain = client.picture();
    let mut client = stage.client();
    client.encodings(&[ZRLE, RAW]);
    let mut reader = zrle::Reader::new();
    for _ in 0..3 {
        client.request(false);
        let mut picture = vec![0; 300 * 200];
        for part in client.update() {
            assert_eq!(part.encoding, ZRLE);
            let Rect { x, y, width, height } = part.rect;
            let pixels = reader.read(&part.data, width as usize, height as usize);
            for (row, pixels) in (y..).zip(pixels.chunks_exact(width as usize)) {
                picture[(row * 300 + x) as usize..][..width as usize].copy_from_slice(pixels);
            }
        }
        let bytes: Vec<u8> = picture.into_iter().flat_map(|pixel| (pixel | 0xff00_0000).to_le_bytes()).collect();
        assert!(bytes == plain);
    }
    stage.end();
}

#[test]
fn only_what_changed_is_sent_and_damage_without_a_change_is_nothing() {
    let stage = Stage::new(1);
    let picture = Picture::native(640, 480);
    stage.device.show(0, &picture);
    let mut client = stage.client();
    client.picture();
    client.request(true);
    // The whole screen is damaged again and again, as page flips do, and looks the same; then one pixel differs.
    let frames = stage.device.lock().counters().frames;
    while stage.device.lock().counters().frames < frames + 10 {
        stage.device.lock().damage(0, picture.geometry.rect());
        std::thread::yield_now();
    }
    picture.fill(Rect::new(100, 70, 1, 1), |_, _| 0x0012_3456);
    stage.device.lock().damage(0, picture.geometry.rect());
    let parts = client.update();
    assert_eq!(parts.len(), 1);
    assert_eq!((parts[0].rect, parts[0].encoding), (Rect::new(96, 64, 32, 32), RAW));
    let at = ((70 - 64) * 32 + 100 - 96) * 4;
    assert_eq!(parts[0].data[at..at + 4], [0x56, 0x34, 0x12, 0xff]);
    assert_eq!(parts[0].data.iter().filter(|byte| ![0, 0xff].contains(*byte)).count(), 3);
    stage.end();
}

#[test]
fn a_slow_client_slows_nobody_and_then_gets_the_newest() {
    let stage = Stage::new(1);
    let picture = Picture::native(64, 64);
    stage.device.show(0, &picture);
    let (mut slow, mut quick) = (stage.client(), stage.client());
    slow.picture();
    quick.picture();
    slow.request(true);
    for shade in 1..=200 {
        quick.request(true);
        picture.fill(picture.geometry.rect(), |_, _| shade);
        stage.device.lock().damage(0, picture.geometry.rect());
        let parts = quick.update();
        assert_eq!(parts.len(), 1, "each frame reaches who asks for it");
        assert_eq!(parts[0].data[0], shade as u8);
    }
    // One update was on its way to it; the next one is the newest, not one of those between.
    let mut parts = slow.update();
    if parts[0].data[0] != 200 {
        slow.request(true);
        parts = slow.update();
    }
    assert!(parts[0].data.chunks_exact(4).all(|pixel| pixel == [200, 0, 0, 0xff]));
    stage.end();
}

#[test]
fn nobody_who_asks_for_nothing_costs_the_device_a_frame() {
    let stage = Stage::new(1);
    let picture = Picture::native(64, 64);
    stage.device.show(0, &picture);
    let mut client = stage.client();
    client.picture();
    // One credit may be out since the answer; it is spent once.
    for shade in 1..=1000 {
        picture.fill(Rect::new(0, 0, 1, 1), |_, _| shade);
        stage.device.lock().damage(0, Rect::new(0, 0, 1, 1));
    }
    client.request(true);
    let parts = client.update();
    assert!(stage.device.lock().counters().frames <= 5, "{:?}", stage.device.lock().counters());
    assert_eq!(parts.len(), 1);
    stage.end();
}

#[test]
fn only_the_part_that_was_asked_for_is_sent() {
    let stage = Stage::new(1);
    let picture = Picture::native(256, 256);
    stage.device.show(0, &picture);
    let mut client = stage.client();
    client.request_part(false, Rect::new(32, 32, 32, 32));
    let parts = client.update();
    assert_eq!(parts.iter().map(|part| part.rect).collect::<Vec<_>>(), [Rect::new(32, 32, 32, 32)]);
    // A request far outside is no crash, and no answer; the next one is answered.
    client.request_part(false, Rect::new(65535, 65535, 65535, 65535));
    client.request_part(true, Rect::new(0, 0, 32, 32));
    assert_eq!(client.update()[0].rect, Rect::new(0, 0, 256, 32), "the union of both, as far as there is one");
    stage.end();
}

#[test]
fn a_new_mode_is_told_to_who_can_change_and_others_keep_their_size() {
    let stage = Stage::new(1);
    let small = Picture::native(100, 50);
    stage.device.show(0, &small);
    let (mut plain, mut sizes, mut extended) = (stage.client(), stage.client(), stage.client());
    sizes.encodings(&[RAW, DESKTOP_SIZE]);
    extended.encodings(&[RAW, DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE]);
    extended.request(true);
    let hello = extended.update();
    assert_eq!(hello[0].rect, Rect::new(0, 0, 100, 50), "it learns that we understand");
    for client in [&mut plain, &mut sizes, &mut extended] {
        client.picture();
        client.request(true);
    }
    let large = Picture::native(160, 90);
    large.fill(large.geometry.rect(), |_, _| 0x0011_2233);
    stage.device.show(0, &large);
    stage.device.lock().forget(&small.image);
    let told = sizes.update();
    assert_eq!((told.len(), told[0].encoding, told[0].rect), (1, DESKTOP_SIZE, Rect::new(0, 0, 160, 90)));
    let told = extended.update();
    assert_eq!((told.len(), told[0].encoding, told[0].rect), (1, EXTENDED_DESKTOP_SIZE, Rect::new(0, 0, 160, 90)));
    assert_eq!(told[0].data, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 160, 0, 90, 0, 0, 0, 0]);
    for client in [&mut sizes, &mut extended] {
        assert!(client.picture().chunks_exact(4).all(|pixel| pixel == [0x33, 0x22, 0x11, 0xff]));
    }
    let parts = plain.update();
    assert!(plain.assemble(&parts).chunks_exact(4).all(|pixel| pixel == [0x33, 0x22, 0x11, 0xff]));
    assert_eq!((plain.width, plain.height), (100, 50));
    // Smaller than the client: the rest is black.
    plain.request(true);
    let tiny = Picture::native(10, 10);
    tiny.fill(tiny.geometry.rect(), |_, _| 0x00ff_ffff);
    stage.device.show(0, &tiny);
    let parts = plain.update();
    let shown = plain.assemble(&parts);
    assert_eq!(shown.chunks_exact(4).filter(|pixel| *pixel == [0xff; 4]).count(), 100);
    assert_eq!(shown.chunks_exact(4).filter(|pixel| *pixel == [0, 0, 0, 0xff]).count(), 4900);
    stage.end();
}

#[test]
fn a_storm_of_resizes_reaches_the_device_as_a_few_and_the_last_one_counts() {
    let stage = Stage::new(1);
    let picture = Picture::native(100, 50);
    stage.device.show(0, &picture);
    let mut client = stage.client();
    client.encodings(&[RAW, EXTENDED_DESKTOP_SIZE]);
    client.request(true);
    client.update();
    client.picture();
    client.request(true);
    client.wish(0, 9);
    let answer = client.update();
    assert_eq!((answer[0].rect.x, answer[0].rect.y), (1, 3), "no such layout");
    for width in 1..=1000 {
        client.wish(width, 600);
    }
    client.request(true);
    let answer = client.update();
    assert_eq!((answer[0].rect.x, answer[0].rect.y), (1, 4), "passed on");
    let mut passed = 1;
    while stage.device.resize() != (1000, 600) {
        passed += 1;
    }
    assert!(passed < 100, "{passed} of 1000 reached the device");
    stage.end();
}

#[test]
fn cursors_of_every_kind() {
    let stage = Stage::new(1);
    let picture = Picture::native(40, 30);
    stage.device.show(0, &picture);
    // Half of white, premultiplied, and opaque red.
    let cursor =
        Cursor { width: 2, height: 1, hot_x: 1, hot_y: 0, pixels: vec![0x80, 0x80, 0x80, 0x80, 0, 0, 255, 255] };
    stage.device.lock().cursor(0, Some(cursor)).unwrap();
    stage.device.lock().move_cursor(0, 10, 5);

    let mut drawn = stage.client();
    let shown = drawn.picture();
    let at = |x: usize, y: usize| &shown[(y * 40 + x) * 4..][..4];
    assert_eq!(
        (at(10, 5), at(11, 5), at(12, 5)),
        (&[0x80, 0x80, 0x80, 0xff][..], &[0, 0, 0xff, 0xff][..], &[0, 0, 0, 0xff][..])
    );

    let mut told = stage.client();
    told.encodings(&[RAW, CURSOR]);
    told.request(false);
    let parts = told.update();
    assert!(told.assemble(&parts).chunks_exact(4).all(|pixel| pixel == [0, 0, 0, 0xff]), "not drawn as well");
    let cursor = parts.first().unwrap();
    assert_eq!((cursor.rect, cursor.encoding), (Rect::new(1, 0, 2, 1), CURSOR));
    assert_eq!(cursor.data, [255, 255, 255, 255, 0, 0, 255, 255, 0b1100_0000]);

    let mut alpha = stage.client();
    alpha.encodings(&[RAW, CURSOR, CURSOR_WITH_ALPHA]);
    alpha.request(false);
    let parts = alpha.update();
    assert_eq!(parts[0].data, [0, 0, 0, 0, 0x80, 0x80, 0x80, 0x80, 255, 0, 0, 255]);

    let mut vmware = stage.client();
    vmware.encodings(&[RAW, CURSOR, VMWARE_CURSOR]);
    vmware.request(false);
    let parts = vmware.update();
    assert_eq!(
        parts.last().unwrap().data,
        [1, 0, 255, 255, 255, 0x80, 255, 0, 0, 255],
        "last: two bytes move what follows"
    );

    // A move is an update for who sees the cursor in the picture only; hiding it is one for all.
    drawn.request(true);
    alpha.request(true);
    stage.device.lock().move_cursor(0, 35, 25);
    let moved = drawn.update();
    assert_eq!(moved.iter().map(|part| part.rect).collect::<Vec<_>>(), [Rect::new(0, 0, 40, 30)]);
    stage.device.lock().cursor(0, None).unwrap();
    let hidden = alpha.update();
    assert_eq!(hidden.len(), 1);
    assert_eq!((hidden[0].rect, &hidden[0].data[..]), (Rect::new(0, 0, 1, 1), &[0; 8][..]));
    stage.end();
}

#[test]
fn each_listener_shows_its_head() {
    let stage = Stage::new(2);
    for (head, shade) in [(0, 0x0000_0011), (1, 0x0000_0022)] {
        let picture = Picture::native(20 + head * 10, 20);
        picture.fill(picture.geometry.rect(), |_, _| shade);
        stage.device.show(head, &picture);
    }
    for (head, shade) in [(0, 0x11), (1, 0x22)] {
        let mut client = Client::connect(stage.vnc[head]);
        assert_eq!(client.width, 20 + 10 * head as u32);
        assert!(client.picture().chunks_exact(4).all(|pixel| pixel == [shade, 0, 0, 0xff]));
    }
    stage.end();
}

#[test]
fn a_head_that_shows_nothing_is_black_and_has_the_size_of_its_monitor() {
    let stage = Stage::new(1);
    let layout = frames::ScreenLayout { enabled: true, rect: Rect::new(0, 0, 320, 200) };
    stage.device.lock().layout(0, layout);
    let mut client = stage.client();
    assert_eq!((client.width, client.height), (320, 200));
    assert!(client.picture().chunks_exact(4).all(|pixel| pixel == [0, 0, 0, 0xff]));
    // From nothing to something and back.
    let picture = Picture::native(320, 200);
    picture.fill(picture.geometry.rect(), colourful);
    client.request(true);
    stage.device.show(0, &picture);
    let parts = client.update();
    assert_eq!(client.assemble(&parts)[..3], colourful(0, 0).to_le_bytes()[..3]);
    client.request(true);
    stage.device.lock().blank(0);
    let parts = client.update();
    assert!(client.assemble(&parts).chunks_exact(4).all(|pixel| pixel == [0, 0, 0, 0xff]));
    stage.end();
}

#[test]
fn cve_2017_2633_pictures_that_are_too_large_are_not_shown_and_nobody_is_hurt() {
    let stage = Stage::new(1);
    let mut client = stage.client();
    client.encodings(&[RAW, DESKTOP_SIZE]);
    client.picture();
    let image = frames::SharedImage::create(8192 * 8192 * 4).unwrap();
    let geometry = Geometry::packed(8192, 8192, Format::B8G8R8X8);
    stage.device.lock().show(0, &image, geometry).unwrap();
    let line = Geometry::packed(65535, 1, Format::B8G8R8X8);
    assert!(stage.device.lock().show(0, &image, line).is_err());
    let mut late = stage.client();
    assert_eq!((late.width, late.height), (640, 480));
    assert_eq!(late.picture().len(), 640 * 480 * 4);
    // A line as long as is possible is shown.
    client.request(true);
    let line = Geometry::packed(frames::MAX_DIMENSION, 1, Format::B8G8R8X8);
    stage.device.lock().show(0, &image, line).unwrap();
    let mut told = client.update();
    if told[0].encoding != DESKTOP_SIZE {
        client.request(true);
        told = client.update();
    }
    assert_eq!(told[0].rect, Rect::new(0, 0, 16384, 1));
    assert_eq!(client.picture().len(), 16384 * 4);
    stage.end();
}

#[test]
fn old_clients_are_served_too() {
    let stage = Stage::new(1);
    let picture = Picture::native(8, 8);
    stage.device.show(0, &picture);
    for (version, security, choice, result) in [
        ("003.003", vec![0, 0, 0, 1], None, 0),
        ("003.007", vec![1, 1], Some(1), 0),
        ("003.008", vec![1, 1], Some(1), 4),
    ] {
        let stream = TcpStream::connect(stage.vnc[0]).unwrap();
        let mut client = Client::new(stream);
        assert_eq!(client.read(12), b"RFB 003.008\n");
        client.stream.write_all(format!("RFB {version}\n").as_bytes()).unwrap();
        assert_eq!(client.read(security.len()), security);
        client.stream.write_all(&choice.into_iter().chain([0]).collect::<Vec<u8>>()).unwrap();
        assert_eq!(client.read(result), vec![0; result]);
        client.init();
        assert_eq!(client.picture().len(), 8 * 8 * 4, "{version}");
    }
    stage.end();
}

#[test]
fn garbage_ends_the_client_that_sent_it_and_no_other() {
    let stage = Stage::new(1);
    let picture = Picture::native(64, 64);
    stage.device.show(0, &picture);
    let mut good = stage.client();
    good.picture();
    let ends = |mut stream: TcpStream, bytes: &[u8]| {
        stream.write_all(bytes).unwrap();
        // What is left to read ends, by a close or a reset.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    };
    for junk in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 4096], b"RFB 003.008\n\x02"] {
        ends(TcpStream::connect(stage.vnc[0]).unwrap(), junk);
    }
    for junk in [&[1][..], &[2, 0, 0xff, 0xff], &[6, 0, 0, 0, 0x7f, 0, 0, 0], &[7; 100_000], &[0, 0, 0, 0, 99]] {
        let mut junk = junk.to_vec();
        junk.resize(junk.len().max(20), 0);
        ends(stage.client().stream, &junk);
    }
    // Half-closed: nothing comes from it any more.
    let half = stage.client().stream;
    half.shutdown(std::net::Shutdown::Write).unwrap();
    ends(half.try_clone().unwrap(), &[]);
    good.request(true);
    picture.fill(Rect::new(0, 0, 1, 1), |_, _| 1);
    stage.device.lock().damage(0, Rect::new(0, 0, 1, 1));
    assert_eq!(good.update().len(), 1);
    stage.end();
}

#[test]
fn of_thousands_of_connections_only_as_many_are_held_as_there_is_room_for() {
    let stage = Stage::new(1);
    let mut good = stage.client();
    let mut crowd: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(stage.vnc[0]).unwrap()).collect();
    let mut greeted = 0;
    crowd.retain_mut(|stream| {
        let mut version = [0; 12];
        let held = stream.read_exact(&mut version).is_ok();
        greeted += usize::from(held);
        held
    });
    assert_eq!(greeted, 127, "and the good one");
    good.picture();
    drop(crowd);
    // Somebody who comes later finds room as soon as the others are seen to be gone.
    let mut late = loop {
        let mut stream = TcpStream::connect(stage.vnc[0]).unwrap();
        let mut version = [0; 12];
        if stream.read_exact(&mut version).is_ok() {
            break stream;
        }
    };
    late.write_all(b"RFB 003.003\n").unwrap();
    let mut security = [0; 4];
    late.read_exact(&mut security).unwrap();
    stage.end();
}

#[test]
fn typing_and_pointing_are_understood_and_dropped() {
    let stage = Stage::new(1);
    let mut client = stage.client();
    for _ in 0..10_000 {
        client.stream.write_all(&[4, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 5, 255, 0xff, 0xff, 0xff, 0xff]).unwrap();
    }
    client.stream.write_all(&[6, 0, 0, 0, 0, 0, 0, 3, b'a', b'b', b'c']).unwrap();
    assert_eq!(client.picture().len(), 640 * 480 * 4);
    let events: Vec<_> = stage.device.events.try_iter().collect();
    assert_eq!(events, [frames::DeviceEvent::Connected]);
    stage.end();
}
