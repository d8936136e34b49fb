//! A device end and a viewer end talk: what the mailbox promises, told in counts.

#![allow(clippy::unwrap_used)]

use std::os::fd::{AsFd, OwnedFd};

use frames::{
    Cursor, Damage, DeviceEnd, DeviceEvent, Format, Geometry, ModeRequest, News, Rect, ScreenLayout, SharedImage,
    ShowError, ViewerEnd, ViewerError,
};

const SIZE: Geometry = Geometry::packed(64, 32, Format::B8G8R8X8);

struct Seam {
    device: DeviceEnd,
    viewer: ViewerEnd,
    /// The supervisor's copy of the viewer's socket.
    spare: OwnedFd,
}

fn seam(heads: usize) -> Seam {
    let (ours, theirs) = frames::pair().unwrap();
    let device = DeviceEnd::new(ours, "vm", heads).unwrap();
    let spare = theirs.try_clone().unwrap();
    Seam { device, viewer: ViewerEnd::new(theirs).unwrap(), spare }
}

impl Seam {
    /// Both have said hello.
    fn greeted(heads: usize) -> Self {
        let mut seam = seam(heads);
        assert_eq!(seam.device.poll(), [DeviceEvent::Connected]);
        assert!(matches!(seam.viewer.receive(), Ok(Some(News::Session(session))) if session.heads == heads));
        seam
    }

    fn ready(&mut self, head: u8) -> Vec<News> {
        self.viewer.ready(head, false, false).unwrap();
        self.device.poll();
        self.news()
    }

    fn news(&mut self) -> Vec<News> {
        std::iter::from_fn(|| self.viewer.receive().unwrap()).collect()
    }
}

fn image() -> SharedImage {
    SharedImage::create(64 * 32 * 4).unwrap()
}

fn damage_of(news: &[News]) -> Vec<Damage> {
    news.iter().filter_map(|news| if let News::Frame(_, damage) = news { Some(*damage) } else { None }).collect()
}

fn view_of(news: &[News]) -> Option<frames::View> {
    news.iter().rev().find_map(|news| if let News::Show(_, view) = news { Some(view.clone()) } else { None })
}

#[test]
fn nothing_is_sent_before_a_viewer_says_hello() {
    let (ours, theirs) = frames::pair().unwrap();
    let mut device = DeviceEnd::new(ours, "vm", 1).unwrap();
    let image = image();
    device.show(0, &image, SIZE).unwrap();
    for _ in 0..1000 {
        device.damage(0, SIZE.rect());
        assert!(device.poll().is_empty());
    }
    assert_eq!(device.counters().messages, 0);
    let mut viewer = ViewerEnd::new(theirs).unwrap();
    assert_eq!(device.poll(), [DeviceEvent::Connected]);
    assert!(matches!(viewer.receive(), Ok(Some(News::Session(session))) if session.name == "vm"));
    assert!(matches!(viewer.receive(), Ok(None)), "no credit, no picture");
}

#[test]
fn what_is_fetched_for_a_waiting_viewer_is_told_in_one_update() {
    let mut seam = Seam::greeted(2);
    let image = image();
    seam.device.show(0, &image, SIZE).unwrap();
    assert!(!seam.device.is_awaited(0), "nobody asked yet");
    seam.ready(0);
    assert!(!seam.device.is_awaited(0), "the credit is spent");
    seam.ready(0);
    assert_eq!([0, 1, 2].map(|head| seam.device.is_awaited(head)), [true, false, false]);
    let mut damage = Damage::of(Rect::new(0, 0, 1, 1));
    damage.add(Rect::new(40, 20, 1000, 1000));
    seam.device.damage_all(0, &damage);
    let mut inside = Damage::of(Rect::new(0, 0, 1, 1));
    inside.add(Rect::new(40, 20, 24, 12));
    assert_eq!(damage_of(&seam.news()), [inside]);
    seam.device.damage_all(2, &damage);
}

#[test]
fn a_slow_viewer_gets_the_newest_frame_and_all_the_damage_in_one() {
    let mut seam = Seam::greeted(1);
    let image = image();
    seam.device.show(0, &image, SIZE).unwrap();
    assert_eq!(damage_of(&seam.ready(0)), [Damage::of(SIZE.rect())]);

    for shade in 0..=200u8 {
        image.slice().unwrap().copy_from(&[shade; 4]);
        seam.device.damage(0, Rect::new(0, 0, 1, 1));
        seam.device.damage(0, Rect::new(40, 20, 1000, 1000));
    }
    assert_eq!(seam.device.counters().frames, 1, "without a credit nothing is sent");
    let news = seam.ready(0);
    let mut both = Damage::of(Rect::new(0, 0, 1, 1));
    both.add(Rect::new(40, 20, 24, 12));
    assert_eq!(damage_of(&news), [both]);
    assert_eq!(seam.device.counters().frames, 2);
}

#[test]
fn a_credit_without_news_is_kept_and_spent_by_the_next_damage() {
    let mut seam = Seam::greeted(1);
    let image = image();
    seam.device.show(0, &image, SIZE).unwrap();
    assert_eq!(seam.ready(0).len(), 5, "layout, picture, cursor, pointer, frame");
    assert!(seam.ready(0).is_empty());
    assert!(seam.ready(0).is_empty(), "a second credit is not a second frame");
    seam.device.damage(0, Rect::new(1, 2, 3, 4));
    seam.device.damage(0, Rect::new(1, 2, 3, 4));
    assert_eq!(damage_of(&seam.news()), [Damage::of(Rect::new(1, 2, 3, 4))]);
    seam.viewer.ready(0, true, false).unwrap();
    seam.device.poll();
    assert_eq!(damage_of(&seam.news()), [Damage::of(Rect::new(1, 2, 3, 4))]);
    seam.viewer.ready(0, true, false).unwrap();
    seam.device.poll();
    assert_eq!(damage_of(&seam.news()), [Damage::none()], "asked for an answer at once");
}

#[test]
fn credits_do_not_add_up_and_do_not_take_back_what_one_of_them_asked_for() {
    let mut seam = Seam::greeted(1);
    seam.ready(0);
    seam.viewer.ready(0, true, false).unwrap();
    seam.viewer.ready(0, false, true).unwrap();
    seam.device.poll();
    assert_eq!(damage_of(&seam.news()), [Damage::none()], "an answer at once, and one");
    seam.device.move_cursor(0, 1, 1);
    assert!(seam.news().is_empty());
}

#[test]
fn page_flips_introduce_each_buffer_once_and_are_damage_all_over() {
    let mut seam = Seam::greeted(1);
    let images = [image(), image()];
    for (turn, shade) in (0..20u8).enumerate() {
        let image = &images[turn % 2];
        image.slice().unwrap().copy_from(&[shade; 64 * 32 * 4]);
        seam.device.show(0, image, SIZE).unwrap();
        let news = seam.ready(0);
        assert_eq!(damage_of(&news), [Damage::of(SIZE.rect())]);
        let mut row = [0; 256];
        assert_eq!(view_of(&news).unwrap().read_row(0, 31, &mut row), 64);
        assert_eq!(row, [shade; 256]);
    }
    // Hello, then 20 times show and frame; layout, cursor and pointer once, two buffers.
    assert_eq!(seam.device.counters().messages, 1 + 20 * 2 + 3 + 2);
    seam.device.show(0, &images[1], SIZE).unwrap();
    assert!(seam.ready(0).is_empty(), "the same picture again is no news");
}

#[test]
fn a_killed_viewer_is_replaced_on_the_same_socket() {
    let mut seam = Seam::greeted(2);
    let image = image();
    seam.device.show(1, &image, SIZE).unwrap();
    // The first viewer dies with credits given and messages unread.
    for head in 0..2 {
        seam.viewer.ready(head, true, true).unwrap();
    }
    seam.device.poll();
    drop(seam.viewer);
    for x in 0..10_000 {
        seam.device.move_cursor(1, x, 0);
        seam.device.damage(1, SIZE.rect());
        seam.device.poll();
    }
    let frames = seam.device.counters().frames;
    assert_eq!(frames, 2, "the dead one's credits, and no more");

    let viewer = ViewerEnd::new(seam.spare.try_clone().unwrap()).unwrap();
    let mut seam = Seam { viewer, ..seam };
    assert_eq!(seam.device.poll(), [DeviceEvent::Connected]);
    assert!(matches!(seam.viewer.receive(), Ok(Some(News::Session(_)))), "what its predecessor left is thrown away");
    assert!(seam.news().is_empty());
    let news = seam.ready(1);
    assert!(view_of(&news).is_some(), "the buffer is introduced again");
    assert_eq!(damage_of(&news), [Damage::of(SIZE.rect())]);
    assert!(matches!(news[..], [.., News::CursorMoved(1, 9999, 0), News::Frame(..)]));
}

#[test]
fn a_full_socket_loses_nothing_and_never_blocks() {
    let mut seam = Seam::greeted(1);
    let image = image();
    seam.device.show(0, &image, SIZE).unwrap();
    // A viewer that gives credits and reads nothing, until the socket is full.
    let mut x = 0;
    while seam.device.counters().full == 0 {
        x += 1;
        assert!(x < 100_000, "a socket holds that much?");
        seam.viewer.ready(0, false, true).unwrap();
        seam.device.move_cursor(0, x, x);
        seam.device.poll();
    }
    assert!(seam.device.wants_write());
    let full = seam.device.counters().full;
    for _ in 0..1000 {
        seam.device.damage(0, Rect::new(5, 5, 1, 1));
    }
    assert_eq!(seam.device.counters().full, full, "a full socket is not tried again before it has room");
    seam.news();
    seam.device.poll();
    let rest = seam.news();
    assert!(matches!(damage_of(&rest)[..], [.., damage] if damage.rects().contains(&Rect::new(5, 5, 1, 1))));
    assert!(!seam.device.wants_write());
}

#[test]
fn a_viewer_that_floods_is_read_a_little_at_a_time() {
    let mut seam = Seam::greeted(1);
    let mut sent = 0;
    while seam.viewer.close().unwrap() {
        sent += 1;
    }
    let mut got = 0;
    while got < sent {
        let events = seam.device.poll().len();
        assert!((1..=frames::MESSAGES_PER_POLL).contains(&events));
        got += events;
    }
    assert_eq!(got, sent);
}

#[test]
fn of_a_storm_of_resizes_the_last_one_of_each_head_counts() {
    let mut seam = Seam::greeted(2);
    for width in 1..=10 {
        for head in 0..2 {
            assert!(seam.viewer.resize(ModeRequest { head, width, height: 5 }).unwrap());
        }
    }
    let last = |head| DeviceEvent::Resize(ModeRequest { head, width: 10, height: 5 });
    assert_eq!(seam.device.poll(), [last(0), last(1)]);
}

#[test]
fn garbage_from_a_viewer_ends_its_session_and_a_new_hello_begins_another() {
    let mut seam = Seam::greeted(1);
    let junk: [&[u8]; 5] = [&[0xff; 40], &[], &[1], &[0, 1, 2, 3], &[0x55; 60_000]];
    for message in junk {
        rustix::net::send(&seam.spare, message, rustix::net::SendFlags::NOSIGNAL).unwrap();
        assert_eq!(seam.device.poll(), [DeviceEvent::Garbage], "{message:?}");
        seam.viewer.ready(0, true, true).unwrap();
        assert!(seam.device.poll().is_empty());
        assert!(seam.news().is_empty());
        seam.viewer = ViewerEnd::new(seam.spare.try_clone().unwrap()).unwrap();
        assert_eq!(seam.device.poll(), [DeviceEvent::Connected]);
        assert!(matches!(seam.viewer.receive(), Ok(Some(News::Session(_)))));
    }
    assert_eq!(seam.device.counters().garbage, 5);
    assert_eq!(seam.ready(9).len(), 0, "a head that does not exist");
}

#[test]
fn a_viewer_that_sends_fds_leaves_none_open_in_the_device() {
    let mut seam = Seam::greeted(1);
    let (left, right) = frames::pair().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let fds = [right.as_fd(); 64];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
    let parts = [std::io::IoSlice::new(&[1, 0, 0, 0])];
    rustix::net::sendmsg(&seam.spare, &parts, &mut control, rustix::net::SendFlags::empty()).unwrap();
    seam.device.poll();
    drop(right);
    // Its other end hangs up only when every copy is closed.
    let mut polled = [rustix::event::PollFd::new(&left, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut polled, Some(&now)).unwrap(), 1);
    assert!(polled[0].revents().contains(rustix::event::PollFlags::HUP));
}

#[test]
fn thousands_of_short_lived_images_do_not_pile_up_in_a_viewer() {
    let mut seam = Seam::greeted(1);
    for round in 0..1000 {
        let image = image();
        seam.device.show(0, &image, SIZE).unwrap();
        assert!(view_of(&seam.ready(0)).is_some());
        if round % 2 == 0 {
            seam.device.forget(&image);
        }
    }
    seam.device.blank(0);
    seam.ready(0);
    let mapped = std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:beamsplit-frame").count();
    assert!(mapped < 100, "{mapped} images are still mapped");
}

#[test]
fn only_the_least_recently_shown_images_are_unmapped_when_there_are_too_many() {
    let mut seam = Seam::greeted(1);
    let images: Vec<_> = (0..frames::MAX_IMAGES + 5).map(|_| image()).collect();
    for image in &images {
        seam.device.show(0, image, SIZE).unwrap();
        seam.ready(0);
    }
    let before = seam.device.counters().messages;
    seam.device.show(0, &images[5], SIZE).unwrap();
    assert_eq!(seam.ready(0).len(), 2);
    assert_eq!(seam.device.counters().messages, before + 2, "still known: show and frame");
    seam.device.show(0, &images[0], SIZE).unwrap();
    assert_eq!(seam.ready(0).len(), 2);
    assert_eq!(seam.device.counters().messages, before + 2 + 4, "forget, buffer, show, frame");
}

#[test]
fn cursors_travel_with_their_pixels_and_moves_do_not_wake_who_did_not_ask() {
    let mut seam = Seam::greeted(1);
    seam.ready(0);
    let cursor = Cursor { width: 64, height: 64, hot_x: 3, hot_y: 70, pixels: vec![0x80; 64 * 64 * 4] };
    seam.device.cursor(0, Some(cursor.clone())).unwrap();
    let news = seam.ready(0);
    assert!(matches!(&news[..], [News::Cursor(0, Some(got)), News::Frame(..)]
        if *got == Cursor { hot_y: 63, ..cursor.clone() }));
    seam.ready(0);
    seam.device.move_cursor(0, 5, -6);
    assert!(seam.news().is_empty());
    seam.viewer.ready(0, false, true).unwrap();
    seam.device.poll();
    assert!(matches!(seam.news()[..], [News::CursorMoved(0, 5, -6), News::Frame(..)]));
    seam.device.cursor(0, None).unwrap();
    assert!(matches!(seam.ready(0)[..], [News::Cursor(0, None), News::Frame(..)]));

    let wrong = Cursor { width: 65, ..cursor.clone() };
    assert!(matches!(seam.device.cursor(0, Some(wrong)), Err(ShowError::Cursor { width: 65, .. })));
    let short = Cursor { pixels: vec![0; 7], ..cursor };
    assert!(matches!(seam.device.cursor(0, Some(short)), Err(ShowError::Cursor { bytes: 7, .. })));
}

#[test]
fn a_picture_outside_its_memory_is_refused_before_anything_is_said() {
    let mut seam = Seam::greeted(1);
    let image = image();
    let large = Geometry { height: 33, ..SIZE };
    assert!(matches!(seam.device.show(0, &image, large), Err(ShowError::Geometry { height: 33, .. })));
    assert_eq!(seam.device.show(1, &image, SIZE), Err(ShowError::Head(1)));
    let moved = Geometry { offset: u64::MAX, ..SIZE };
    assert!(seam.device.show(0, &image, moved).is_err());
    assert_eq!(seam.ready(0).len(), 5, "layout, blank, no cursor, pointer, frame");
}

#[test]
fn layouts_and_blanking_are_told() {
    let mut seam = Seam::greeted(1);
    let image = image();
    seam.device.show(0, &image, SIZE).unwrap();
    let layout = ScreenLayout { enabled: true, rect: Rect::new(0, 0, 1280, 800) };
    seam.device.layout(0, layout);
    assert!(matches!(seam.ready(0)[0], News::Layout(0, got) if got == layout));
    seam.device.blank(0);
    let news = seam.ready(0);
    assert!(matches!(news[..], [News::Blank(0), News::Frame(0, damage)] if damage.is_empty()));
}

#[test]
fn each_end_learns_that_the_other_is_gone_for_good() {
    let Seam { mut device, mut viewer, spare } = Seam::greeted(1);
    drop(device);
    assert!(matches!(viewer.receive(), Err(ViewerError::Closed)));
    drop(spare);

    let Seam { device: mine, viewer, spare } = Seam::greeted(1);
    device = mine;
    drop((viewer, spare));
    assert_eq!(device.poll(), [DeviceEvent::Closed]);
    assert!(device.is_closed());
    assert!(device.poll().is_empty());
    device.damage(0, SIZE.rect());
    assert!(!device.wants_write());
}

#[test]
fn another_version_is_told_ours_and_nothing_else() {
    let (ours, theirs) = frames::pair().unwrap();
    let mut device = DeviceEnd::new(ours, "vm", 1).unwrap();
    // Hello of version 9.
    let hello = [0, 0xc2, 0xa6, 0x99, 0x93, 0x07, 9, 42];
    rustix::net::send(&theirs, &hello, rustix::net::SendFlags::NOSIGNAL).unwrap();
    assert_eq!(device.poll(), [DeviceEvent::WrongVersion(9)]);
    rustix::net::send(&theirs, &[1, 0, 1, 1], rustix::net::SendFlags::NOSIGNAL).unwrap();
    assert!(device.poll().is_empty());
    assert_eq!(device.counters().messages, 1);
}
