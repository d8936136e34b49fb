//! A VMM that reads slowly, or not at all.

use proptest::prelude::*;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_send_buffer_size};

use super::super::*;
use super::vmm::{Device, Image, Said, Vmm};

const FULL: Rect = Rect::of_size(1280, 800);

/// A VMM that shows a head of 1280x800 and reads nothing now.
fn sleepy() -> (Device, Vmm) {
    let (mut device, mut vmm) = Device::connected();
    device.show(0, Image::new(1280, 800, 1));
    device.flush_all(0);
    device.settle(&mut vmm);
    (device, vmm)
}

fn send_buffer(device: &Device) -> usize {
    socket_send_buffer_size(device.display.side.as_ref().unwrap()).unwrap()
}

#[test]
fn a_thousand_flushes_that_nobody_reads_are_a_few_pictures() {
    let (mut device, mut vmm) = sleepy();
    for seed in 0..1000 {
        let part = Rect::new(seed % 1000, seed % 600, 100, 100);
        device.images.get_mut(&0).unwrap().draw(part, seed);
        device.flush(0, part);
        device.poll();
    }
    let queued = device.stats.bytes_shown.get() as usize - 1280 * 800 * 4;
    assert!(queued <= send_buffer(&device), "{queued} bytes in a buffer of {}", send_buffer(&device));
    let said = device.settle(&mut vmm);
    assert!(vmm.canvases[&0] == device.images[&0].canvas());
    let fit_before_it_was_full = send_buffer(&device) / (100 * 100 * 4);
    assert!(said.len() <= fit_before_it_was_full + 1 + frames::Damage::MAX, "{}", said.len());
}

#[test]
fn what_is_left_of_a_message_shows_the_newest_pixels() {
    let (mut device, mut vmm) = sleepy();
    device.images.get_mut(&0).unwrap().draw(FULL, 2);
    device.flush_all(0);
    assert_eq!(vmm.read_some(1000), [], "the message is larger than the socket");
    // The guest goes on drawing, and says so of one corner.
    device.images.get_mut(&0).unwrap().draw(FULL, 3);
    device.flush(0, Rect::new(0, 0, 10, 10));
    let said = device.settle(&mut vmm);
    assert_eq!(said, [Said::Update(0, FULL), Said::Update(0, Rect::new(0, 0, 10, 10))]);
    let third = device.images[&0].canvas();
    assert_eq!(vmm.canvases[&0].words.last(), third.words.last(), "the last row was sent after it was drawn");
    assert_eq!(vmm.canvases[&0].words[..10], third.words[..10]);
}

#[test]
fn a_message_that_is_half_sent_is_never_left_so() {
    // The head is switched off, shows another size, or loses its pixels without a word.
    let ends: [fn(&mut Device); 3] = [
        |device| device.blank(0),
        |device| device.show(0, Image::new(64, 64, 9)),
        |device| drop(device.images.remove(&0)),
    ];
    for end in ends {
        let (mut device, mut vmm) = sleepy();
        device.images.get_mut(&0).unwrap().draw(FULL, 2);
        device.flush_all(0);
        vmm.read_some(100);
        assert!(vmm.is_stuck());
        end(&mut device);
        let said = device.settle(&mut vmm);
        assert!(!vmm.is_stuck());
        assert_eq!(said[0], Said::Update(0, FULL));
        match device.images.get(&0) {
            Some(image) => assert_eq!(vmm.canvases[&0], image.canvas()),
            None => assert!(vmm.canvases.get(&0).is_none_or(|canvas| canvas.words.last() == Some(&0))),
        }
        assert!(!device.is_due());
    }
}

/// A head without pixels is not asked for them again and again, and shows all when it has some.
#[test]
fn pixels_that_come_back_are_shown_in_full() {
    let (mut device, mut vmm) = sleepy();
    device.images.get_mut(&0).unwrap().draw(FULL, 2);
    device.flush_all(0);
    let image = device.images.remove(&0).unwrap();
    device.settle(&mut vmm);
    assert_eq!(vmm.canvases[&0].words.last(), Some(&0), "black");
    device.images.insert(0, image);
    device.flush(0, Rect::of_size(1, 1));
    device.settle(&mut vmm);
    assert!(vmm.canvases[&0] == device.images[&0].canvas());
}

/// A device that answers by `flush`, as for any damage.
#[test]
fn an_answer_by_flush_is_no_new_damage() {
    let (mut device, mut vmm) = sleepy();
    let before = device.stats.bytes_shown.get();
    device.flush_all(0);
    for _ in 0..1000 {
        vmm.read();
        let mut events = Vec::new();
        device.display.poll(device.now, &mut events);
        for event in events {
            let DisplayEvent::Ready { damage, .. } = event else { continue };
            device.flush(0, damage);
        }
    }
    assert_eq!(device.stats.bytes_shown.get() - before, 1280 * 800 * 4);
}

#[test]
fn a_thousand_moves_that_nobody_reads_are_one() {
    let (mut device, mut vmm) = sleepy();
    let image = Image::new(64, 64, 1);
    let cursor = Cursor { scanout: ScanoutId(0), x: 0, y: 0, hot_x: 0, hot_y: 0, image: Some(image.frame()) };
    device.display.cursor(&cursor);
    device.flush_all(0);
    (0..1000).for_each(|x| device.display.move_cursor(ScanoutId(0), x, 1));
    (0..1000).for_each(|_| device.display.cursor(&cursor));
    (0..1000).for_each(|x| device.display.move_cursor(ScanoutId(0), x, 2));
    let said = device.settle(&mut vmm);
    let pointers = said.iter().filter(|said| !matches!(said, Said::Update(..))).count();
    assert_eq!(pointers, 2, "the one before the picture, and the newest of 3000");
    assert!(matches!(said.last(), Some(Said::CursorPicture { x: 999, y: 2, .. })));
}

/// The pointer does not wait for a guest that draws faster than its VMM reads.
#[test]
fn the_pointer_comes_between_two_pictures() {
    let (mut device, mut vmm) = sleepy();
    let image = Image::new(8, 8, 1);
    device.flush_all(0);
    let cursor = Cursor { scanout: ScanoutId(0), x: 1, y: 1, hot_x: 0, hot_y: 0, image: Some(image.frame()) };
    device.display.cursor(&cursor);
    let mut said = Vec::new();
    for _ in 0..200 {
        device.flush_all(0);
        device.poll();
        said.extend(vmm.read_some(100_000));
    }
    let at = said.iter().position(|said| matches!(said, Said::CursorPicture { .. }));
    assert_eq!(at, Some(1), "after the picture that was half sent");
}

#[test]
fn a_blocked_head_does_not_hold_another_back_for_ever() {
    let (mut device, mut vmm) = sleepy();
    device.show(1, Image::new(300, 200, 5));
    device.flush_all(0);
    device.flush_all(1);
    assert_eq!(vmm.canvases.len(), 1);
    let said = device.settle(&mut vmm);
    assert_eq!(said[1..], [Said::Scanout(1, 300, 200), Said::Update(1, Rect::of_size(300, 200))]);
    assert!(vmm.canvases[&1] == device.images[&1].canvas());
}

#[test]
fn a_small_socket_carries_everything_too() {
    let (mut device, mut vmm) = sleepy();
    set_socket_send_buffer_size(device.display.side.as_ref().unwrap(), 0).unwrap();
    device.show(0, Image::new(700, 300, 8));
    device.flush_all(0);
    device.settle(&mut vmm);
    assert!(vmm.canvases[&0] == device.images[&0].canvas());
}

/// CVE-2017-2633: a picture of a gigabyte would stop the VMM while it reads it.
#[test]
fn a_huge_picture_comes_in_bands() {
    let (mut device, mut vmm) = Device::connected();
    device.show(0, Image::new(4096, 4096, 8));
    device.flush_all(0);
    let said = device.settle(&mut vmm);
    assert_eq!(said[0], Said::Scanout(0, 4096, 4096));
    assert_eq!(
        said[1..],
        [Said::Update(0, Rect::new(0, 0, 4096, 2048)), Said::Update(0, Rect::new(0, 2048, 4096, 2048))]
    );
    assert!(vmm.canvases[&0] == device.images[&0].canvas());
}

/// What a guest, a VMM and time do, in any order.
#[derive(Clone, Debug)]
enum Step {
    Show { head: u32, width: u32, height: u32, seed: u32 },
    Blank { head: u32 },
    Draw { head: u32, part: (u32, u32, u32, u32), seed: u32 },
    Lose { head: u32 },
    Cursor { head: u32, x: u32, hidden: bool },
    Move { head: u32, x: u32 },
    Read { bytes: usize },
    Poll,
    Refresh,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let head = 0..3u32;
    prop_oneof![
        2 => (head.clone(), 1..120u32, 1..120u32, any::<u32>())
            .prop_map(|(head, width, height, seed)| Step::Show { head, width, height, seed }),
        1 => head.clone().prop_map(|head| Step::Blank { head }),
        8 => (head.clone(), (0..120u32, 0..120u32, 1..120u32, 1..120u32), any::<u32>())
            .prop_map(|(head, part, seed)| Step::Draw { head, part, seed }),
        1 => head.clone().prop_map(|head| Step::Lose { head }),
        1 => (head.clone(), 0..100u32, any::<bool>()).prop_map(|(head, x, hidden)| Step::Cursor { head, x, hidden }),
        2 => (head, 0..100u32).prop_map(|(head, x)| Step::Move { head, x }),
        4 => (1..20_000usize).prop_map(|bytes| Step::Read { bytes }),
        4 => Just(Step::Poll),
        1 => Just(Step::Refresh),
        1 => Just(Step::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Once the VMM has read everything, it shows what the guest shows, and nothing was said that QEMU cannot take.
    #[test]
    fn in_the_end_the_vmm_shows_what_the_guest_shows(steps in prop::collection::vec(step(), 1..80), small: bool) {
        let (mut device, mut vmm) = Device::connected();
        for step in steps {
            if small && let Some(side) = &device.display.side {
                set_socket_send_buffer_size(side, 0).unwrap();
            }
            match step {
                Step::Show { head, width, height, seed } => device.show(head, Image::new(width, height, seed)),
                Step::Blank { head } => device.blank(head),
                Step::Draw { head, part: (x, y, width, height), seed } => {
                    let Some(image) = device.images.get_mut(&head) else { continue };
                    let Some(part) = image.frame().rect().intersection(&Rect::new(x, y, width, height)) else { continue };
                    image.draw(part, seed);
                    device.flush(head, part);
                }
                // A backing that is gone: the device has no frame for a while.
                Step::Lose { head } => {
                    let Some(image) = device.images.remove(&head) else { continue };
                    device.poll();
                    device.poll();
                    device.images.insert(head, image);
                    device.flush_all(head);
                }
                Step::Cursor { head, x, hidden } => {
                    let image = Image::new(16, 16, x);
                    let image = (!hidden).then(|| image.frame());
                    device.display.cursor(&Cursor { scanout: ScanoutId(head), x, y: 0, hot_x: 0, hot_y: 0, image });
                }
                Step::Move { head, x } => device.display.move_cursor(ScanoutId(head), x, 0),
                Step::Read { bytes } => drop(vmm.read_some(bytes)),
                Step::Poll => drop(device.poll()),
                Step::Refresh => device.display.refresh_modes(),
                Step::Reconnect => vmm = Vmm::connect(&device.display),
            }
        }
        device.settle(&mut vmm);
        prop_assert!(!vmm.is_stuck());
        for (head, image) in &device.images {
            prop_assert!(vmm.canvases.get(head) == Some(&image.canvas()), "head {}", head);
        }
        prop_assert_eq!(vmm.canvases.len(), device.images.len());
        let frames: Vec<u32> = (0..16).filter(|head| device.display.heads[*head as usize].to_ask().is_some()).collect();
        prop_assert!(frames.is_empty());
    }
}
