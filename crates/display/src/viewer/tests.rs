use std::fs::File;

use device::{Backing, Memory, Region, Shared};
use frames::{ModeRequest, News, SharedImage, View, ViewerEnd};
use protocol::MemEntry;
use vm_memory::{MmapRegion, VolatileMemory};

use super::*;

const WIDTH: u32 = 64;
const HEIGHT: u32 = 32;
const FULL: Rect = Rect::of_size(WIDTH, HEIGHT);
const BYTES: u64 = (WIDTH * HEIGHT * 4) as u64;

/// An image of the renderer that other processes may map.
struct Image(SharedImage, File);

impl Image {
    fn new(shade: u8) -> Self {
        let image = SharedImage::create(BYTES).unwrap();
        let file = File::from(image.fd().try_clone_to_owned().unwrap());
        let image = Self(image, file);
        image.draw(shade);
        image
    }

    fn draw(&self, shade: u8) {
        self.0.slice().unwrap().copy_from(&[shade; BYTES as usize]);
    }

    fn frame(&self) -> Frame<'_> {
        let pixels = Pixels::Shared(Shared { id: self.0.id(), file: &self.1, slice: self.0.slice().unwrap() });
        Frame { format: Format::R8G8B8A8, width: WIDTH, height: HEIGHT, stride: WIDTH * 4, offset: 0, pixels }
    }
}

/// Pages of a guest, all of one shade.
struct Guest(Memory, Backing);

impl Guest {
    fn new(shade: u8) -> Self {
        let mapping = Arc::new(MmapRegion::new(BYTES as usize).unwrap());
        let memory = Memory::new(vec![Region { start: 0, len: BYTES, mapping, offset: 0, usable: true }]).unwrap();
        let entries = (0..BYTES / 4096).rev().map(|page| MemEntry { addr: page * 4096, length: 4096 }).collect();
        let guest = Self(memory, Backing::new(entries));
        guest.draw(shade);
        guest
    }

    fn draw(&self, shade: u8) {
        self.0.regions()[0].mapping.as_volatile_slice().copy_from(&[shade; BYTES as usize]);
    }

    fn frame(&mut self) -> Frame<'_> {
        let pixels = Pixels::Guest(self.1.pages(&self.0).unwrap());
        Frame { format: Format::B8G8R8X8, width: WIDTH, height: HEIGHT, stride: WIDTH * 4, offset: 0, pixels }
    }
}

/// A device with a viewer, and a copy of the viewer's socket for the next one.
struct Seam {
    viewer: Viewer,
    client: ViewerEnd,
    spare: OwnedFd,
    stats: Arc<Stats>,
    now: Instant,
}

impl Seam {
    fn new() -> Self {
        Self::with_memory(1 << 30)
    }

    /// With a viewer that has seen that there is nothing.
    fn greeted() -> Self {
        Self::with_memory(1 << 30).greet()
    }

    fn greet(mut self) -> Self {
        assert_eq!(self.ask(), []);
        self.news();
        self
    }

    fn with_memory(memory: u64) -> Self {
        let (ours, theirs) = frames::pair().unwrap();
        let stats = Arc::new(Stats::default());
        let viewer = Viewer::new(ours, "vm", &[(WIDTH, HEIGHT), (100, 50)], memory, stats.clone()).unwrap();
        let spare = theirs.try_clone().unwrap();
        let client = ViewerEnd::new(theirs).unwrap();
        Self { viewer, client, spare, stats, now: Instant::now() }
    }

    /// Polls as often as it takes until the device heard everything.
    fn poll(&mut self) -> Vec<DisplayEvent> {
        let mut events = Vec::new();
        (0..QUIET_POLLS).for_each(|_| self.viewer.poll(self.now, &mut events));
        events
    }

    /// The viewer's credit for head 0, and what the device is asked for.
    fn ask(&mut self) -> Vec<DisplayEvent> {
        self.client.ready(0, false, false).unwrap();
        self.poll()
    }

    fn news(&mut self) -> Vec<News> {
        std::iter::from_fn(|| self.client.receive().unwrap()).collect()
    }

    fn set(&mut self, frame: Option<&Frame<'_>>) {
        self.viewer.set_scanout(ScanoutId(0), frame);
    }

    fn flush(&mut self, frame: &Frame<'_>, damage: Rect) {
        self.viewer.flush(ScanoutId(0), frame, damage);
    }

    fn copied(&self) -> u64 {
        self.stats.bytes_copied.get()
    }
}

fn views(news: &[News]) -> Vec<&View> {
    news.iter().filter_map(|news| if let News::Show(0, view) = news { Some(view) } else { None }).collect()
}

fn damage(news: &[News]) -> Option<&[frames::Rect]> {
    news.iter().find_map(|news| if let News::Frame(0, damage) = news { Some(damage.rects()) } else { None })
}

fn first_byte(view: &View, row: u32) -> u8 {
    let mut pixel = [0; 4];
    view.read_row(0, row, &mut pixel);
    pixel[0]
}

const READY: DisplayEvent = DisplayEvent::Ready { scanout: ScanoutId(0), damage: FULL };

#[test]
fn a_shared_image_is_seen_where_it_is_and_nothing_is_copied() {
    let (mut seam, image) = (Seam::new(), Image::new(1));
    assert!(seam.viewer.wants_shared());
    seam.set(Some(&image.frame()));
    seam.flush(&image.frame(), FULL);
    assert_eq!(seam.ask(), [], "no pixels have to be brought");
    let news = seam.news();
    let view = views(&news)[0].clone();
    assert_eq!(view.geometry().format, frames::Format::R8G8B8A8);
    image.draw(2);
    seam.flush(&image.frame(), Rect::new(5, 6, 7, 8));
    seam.ask();
    let news = seam.news();
    assert!(views(&news).is_empty());
    assert_eq!(damage(&news), Some([frames::Rect::new(5, 6, 7, 8)].as_slice()));
    assert_eq!(first_byte(&view, 0), 2);
    assert_eq!((seam.copied(), seam.stats.bytes_shown.get()), (0, BYTES + 7 * 8 * 4));
}

#[test]
fn the_layout_says_what_the_heads_ask_the_guest_for() {
    let mut seam = Seam::new();
    seam.poll();
    seam.client.ready(1, true, false).unwrap();
    seam.poll();
    let layout = ScreenLayout { enabled: true, rect: frames::Rect::new(WIDTH, 0, 100, 50) };
    assert!(seam.news().iter().any(|news| matches!(news, News::Layout(1, told) if *told == layout)));
}

#[test]
fn a_guest_that_flips_pages_has_each_mapped_once() {
    let (mut seam, pages) = (Seam::new(), [Image::new(1), Image::new(2), Image::new(3)]);
    seam.poll();
    let mut seen = Vec::new();
    for page in pages.iter().cycle().take(30) {
        seam.set(Some(&page.frame()));
        seam.flush(&page.frame(), FULL);
        seam.ask();
        let news = seam.news();
        seen.push(first_byte(views(&news)[0], 31));
    }
    assert_eq!(seen, [1, 2, 3].repeat(10));
    assert_eq!(seam.viewer.adopted_images(), 3);
    seam.set(None);
    assert_eq!(seam.viewer.adopted_images(), 0, "nothing is kept of a head that is off");
}

#[test]
fn a_guest_that_shows_thousands_of_images_keeps_few_alive() {
    let mut seam = Seam::new();
    for shade in 0..1000u32 {
        let image = Image::new(shade as u8);
        seam.set(Some(&image.frame()));
        assert!(seam.viewer.adopted_images() <= 5);
    }
}

#[test]
fn a_blob_is_fetched_when_a_viewer_waits_and_only_its_damaged_rows() {
    let (mut seam, mut guest) = (Seam::greeted(), Guest::new(1));
    seam.set(Some(&guest.frame()));
    for _ in 0..100 {
        seam.flush(&guest.frame(), FULL);
        assert_eq!(seam.poll(), []);
    }
    assert_eq!(seam.copied(), 0, "nobody waits");

    assert_eq!(seam.ask(), [READY]);
    seam.viewer.supply(ScanoutId(0), Some(&guest.frame()), FULL);
    let news = seam.news();
    let view = views(&news)[0].clone();
    assert_eq!((first_byte(&view, 0), first_byte(&view, 31)), (1, 1));
    assert_eq!(seam.copied(), BYTES);

    // The viewer waits already: a flush brings the pixels at once, and the rest stays as it was.
    assert_eq!(seam.ask(), []);
    guest.draw(2);
    seam.flush(&guest.frame(), Rect::new(0, 4, 10, 2));
    let news = seam.news();
    assert_eq!(damage(&news), Some([frames::Rect::new(0, 4, 10, 2)].as_slice()));
    assert_eq!([3, 4, 5, 6].map(|row| first_byte(&view, row)), [1, 2, 2, 1]);
    assert_eq!(seam.copied(), BYTES + 10 * 2 * 4);
}

/// A client that takes one update and goes (gvnccapture) saw black before, each time anew.
#[test]
fn who_asks_what_is_shown_now_is_answered_when_the_pixels_are_there() {
    let (mut seam, mut guest) = (Seam::greeted(), Guest::new(1));
    seam.set(Some(&guest.frame()));
    seam.client.ready(0, true, false).unwrap();
    assert_eq!(seam.poll(), [READY]);
    assert!(seam.news().is_empty(), "told of the picture before");
    seam.viewer.supply(ScanoutId(0), Some(&guest.frame()), FULL);
    let news = seam.news();
    assert_eq!(first_byte(views(&news)[0], 0), 1);
    assert!(damage(&news).is_some());

    // Nothing is asked for twice, and what is seen already is told of at once.
    seam.client.ready(0, true, false).unwrap();
    assert_eq!(seam.poll(), []);
    assert_eq!(damage(&seam.news()), Some([].as_slice()));

    // Pages that are gone, a head that goes dark: there is nothing to wait for.
    seam.flush(&guest.frame(), FULL);
    seam.client.ready(0, true, false).unwrap();
    assert_eq!(seam.poll(), [READY]);
    seam.viewer.supply(ScanoutId(0), None, FULL);
    assert!(damage(&seam.news()).is_some());
    seam.flush(&guest.frame(), FULL);
    seam.set(None);
    seam.client.ready(0, true, false).unwrap();
    seam.poll();
    assert!(damage(&seam.news()).is_some());
}

#[test]
fn a_slow_viewer_gets_all_the_damage_of_a_blob_in_one_update() {
    let (mut seam, mut guest) = (Seam::greeted(), Guest::new(1));
    seam.set(Some(&guest.frame()));
    seam.ask();
    seam.viewer.supply(ScanoutId(0), Some(&guest.frame()), FULL);
    let view = views(&seam.news())[0].clone();
    for shade in 2..100 {
        guest.draw(shade);
        seam.flush(&guest.frame(), Rect::new(0, 0, 1, 1));
        seam.flush(&guest.frame(), Rect::new(63, 31, 1, 1));
        seam.poll();
    }
    assert_eq!(seam.copied(), BYTES);
    assert!(matches!(seam.ask().as_slice(), [DisplayEvent::Ready { .. }]));
    seam.viewer.supply(ScanoutId(0), Some(&guest.frame()), FULL);
    let corners = [frames::Rect::new(0, 0, 1, 1), frames::Rect::new(63, 31, 1, 1)];
    assert_eq!(damage(&seam.news()), Some(corners.as_slice()));
    assert_eq!((first_byte(&view, 0), seam.copied()), (99, BYTES + 8));
}

#[test]
fn a_blob_that_lost_its_pages_is_not_asked_for_again_and_again() {
    let (mut seam, mut guest) = (Seam::greeted(), Guest::new(1));
    seam.set(Some(&guest.frame()));
    assert_eq!(seam.ask(), [READY]);
    seam.viewer.supply(ScanoutId(0), None, FULL);
    assert_eq!(seam.poll(), []);
    seam.flush(&guest.frame(), Rect::new(0, 0, 1, 1));
    assert_eq!(seam.copied(), BYTES, "all of it, for nothing was seen");
}

/// What a guest's blob shows is bounded, as everything is that a guest has us keep.
#[test]
fn a_blob_over_the_cap_is_not_shown() {
    let (mut seam, mut guest) = (Seam::with_memory(BYTES - 1).greet(), Guest::new(1));
    seam.set(Some(&guest.frame()));
    assert_eq!(seam.ask(), [READY]);
    seam.viewer.supply(ScanoutId(0), Some(&guest.frame()), FULL);
    assert!(views(&seam.news()).is_empty());
    assert_eq!((seam.copied(), seam.poll()), (0, Vec::new()));
}

#[test]
fn from_a_shared_image_to_a_blob_and_back() {
    let (mut seam, image, mut guest) = (Seam::new(), Image::new(1), Guest::new(2));
    seam.set(Some(&image.frame()));
    seam.ask();
    seam.news();
    seam.set(Some(&guest.frame()));
    assert_eq!(seam.ask(), [READY]);
    let news = seam.news();
    assert!(matches!(news.as_slice(), [News::Blank(0)]), "the old image may be gone by now: {news:?}");
    seam.viewer.supply(ScanoutId(0), Some(&guest.frame()), FULL);
    assert_eq!(first_byte(views(&seam.news())[0], 0), 2);
    seam.set(Some(&image.frame()));
    seam.flush(&image.frame(), FULL);
    seam.ask();
    assert_eq!(first_byte(views(&seam.news())[0], 0), 1);
}

#[test]
fn a_viewer_that_died_and_came_back_gets_everything_anew() {
    let (mut seam, image) = (Seam::new(), Image::new(1));
    let cursor = Cursor { scanout: ScanoutId(0), x: 3, y: 4, hot_x: 0, hot_y: 0, image: Some(image.frame()) };
    seam.set(Some(&image.frame()));
    seam.viewer.cursor(&cursor);
    for _ in 0..3 {
        seam.ask();
        let news = seam.news();
        assert_eq!(views(&news).len(), 1);
        assert!(news.iter().any(|news| matches!(news, News::Cursor(0, Some(_)))));
        assert!(news.iter().any(|news| matches!(news, News::CursorMoved(0, 3, 4))));
        // It dies without a word; the launcher has another one take over the socket.
        seam.client = ViewerEnd::new(seam.spare.try_clone().unwrap()).unwrap();
        seam.poll();
    }
}

#[test]
fn the_pointer_has_its_alpha_and_may_stand_left_of_the_screen() {
    let mut seam = Seam::new();
    let pixels = [0x80, 0x11, 0x22, 0x33];
    let image =
        Frame { format: Format::A8R8G8B8, width: 1, height: 1, stride: 4, offset: 0, pixels: Pixels::Private(&pixels) };
    let (x, y) = (u32::MAX, 7);
    seam.viewer.cursor(&Cursor { scanout: ScanoutId(0), x, y, hot_x: 0, hot_y: 0, image: Some(image) });
    seam.ask();
    let news = seam.news();
    let wanted = frames::Cursor { width: 1, height: 1, hot_x: 0, hot_y: 0, pixels: vec![0x33, 0x22, 0x11, 0x80] };
    assert!(news.iter().any(|news| matches!(news, News::Cursor(0, Some(cursor)) if *cursor == wanted)));
    assert!(news.iter().any(|news| matches!(news, News::CursorMoved(0, -1, 7))));
    seam.viewer.cursor(&Cursor { scanout: ScanoutId(0), x, y, hot_x: 0, hot_y: 0, image: None });
    seam.ask();
    assert!(seam.news().iter().any(|news| matches!(news, News::Cursor(0, None))));
    // Too large a picture, or no head.
    let huge = Frame { width: 0, ..image };
    seam.viewer.cursor(&Cursor { scanout: ScanoutId(0), x, y, hot_x: 0, hot_y: 0, image: Some(huge) });
    seam.viewer.cursor(&Cursor { scanout: ScanoutId(99), x, y, hot_x: 0, hot_y: 0, image: Some(image) });
}

#[test]
fn a_wish_for_another_size_is_passed_on() {
    let mut seam = Seam::new();
    seam.poll();
    assert!(seam.client.resize(ModeRequest { head: 1, width: 1920, height: 1080 }).unwrap());
    let wanted = DisplayEvent::Resize { scanout: ScanoutId(1), width: 1920, height: 1080 };
    assert_eq!(seam.poll(), [wanted]);
}

#[test]
fn a_socket_that_nobody_holds_wakes_nobody() {
    let Seam { mut viewer, client, spare, now, .. } = Seam::new();
    drop((client, spare));
    let image = Image::new(1);
    let mut events = Vec::new();
    (0..QUIET_POLLS).for_each(|_| viewer.poll(now, &mut events));
    assert!(!viewer.is_ready());
    viewer.set_scanout(ScanoutId(0), Some(&image.frame()));
    viewer.flush(ScanoutId(0), &image.frame(), FULL);
    (0..QUIET_POLLS).for_each(|_| viewer.poll(now, &mut events));
    assert_eq!(events, []);
    assert!(!viewer.is_ready());
}

#[test]
fn a_guest_that_is_gone_leaves_a_black_screen() {
    let (mut seam, image) = (Seam::new(), Image::new(1));
    seam.set(Some(&image.frame()));
    seam.ask();
    seam.news();
    seam.viewer.reset();
    seam.ask();
    let news = seam.news();
    assert!(news.iter().any(|news| matches!(news, News::Blank(0))));
    assert!(views(&news).is_empty());
    assert_eq!(seam.viewer.adopted_images(), 0);
}

impl Viewer {
    fn adopted_images(&self) -> usize {
        self.adopted.len()
    }
}

/// A device that has to look for what changed does so while somebody waits, and only then.
#[test]
fn a_head_is_watched_while_a_viewer_waits_for_it() {
    let mut seam = Seam::greeted();
    let image = Image::new(1);
    let watched = |seam: &Seam| [0, 1, 2].map(|head| seam.viewer.is_watched(ScanoutId(head)));
    seam.set(Some(&image.frame()));
    seam.ask();
    assert_eq!(watched(&seam), [false; 3], "it was told at once");
    seam.news();
    seam.ask();
    assert_eq!(watched(&seam), [true, false, false]);
    seam.flush(&image.frame(), FULL);
    assert_eq!(watched(&seam), [false; 3], "it was told and has not asked again");
}

#[test]
fn while_a_head_is_held_who_asks_waits_and_is_told_of_all_of_it_at_once() {
    let mut seam = Seam::greeted();
    let image = Image::new(1);
    seam.ask();
    seam.viewer.hold(ScanoutId(0), true);
    seam.set(Some(&image.frame()));
    seam.client.ready(0, true, true).unwrap();
    seam.poll();
    assert!(seam.news().is_empty(), "also who wants to know what there is");
    assert!(seam.viewer.is_watched(ScanoutId(0)));
    seam.viewer.hold(ScanoutId(0), false);
    assert_eq!(views(&seam.news()).len(), 1);
    seam.ask();
    seam.viewer.hold(ScanoutId(0), true);
    let rects = [Rect::new(0, 0, 16, 1), Rect::new(32, 20, 16, 2)];
    rects.iter().for_each(|rect| seam.flush(&image.frame(), *rect));
    assert!(seam.news().is_empty());
    seam.viewer.hold(ScanoutId(0), false);
    let told = rects.map(|rect| frames::Rect::new(rect.x, rect.y, rect.width, rect.height));
    assert_eq!(damage(&seam.news()), Some(&told[..]));
    seam.viewer.hold(ScanoutId(0), true);
    seam.viewer.reset();
    seam.client.ready(0, true, false).unwrap();
    seam.poll();
    assert!(!seam.news().is_empty(), "nothing is held for the next guest");
    seam.viewer.hold(ScanoutId(99), true);
}
