use std::fs;

use device::Pixels;

use super::*;

/// A picture of one colour, as bytes of B8G8R8X8.
struct Shade(u32, u32, Vec<u8>);

impl Shade {
    fn new(width: u32, height: u32, shade: u8) -> Self {
        Self(width, height, [shade, 2, 3, 0x99].repeat((width * height) as usize))
    }

    fn frame(&self) -> Frame<'_> {
        let pixels = Pixels::Private(&self.2);
        Frame { format: Format::B8G8R8X8, width: self.0, height: self.1, stride: self.0 * 4, offset: 0, pixels }
    }
}

struct Bench {
    folder: tempfile::TempDir,
    capture: Option<Capture>,
    stats: Arc<Stats>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stats = Arc::new(Stats::default());
        let capture = Some(Capture::new(&folder.path().join("screen.png"), stats.clone()));
        Self { folder, capture, stats, now: Instant::now() }
    }

    fn capture(&mut self) -> &mut Capture {
        self.capture.as_mut().unwrap()
    }

    /// A flush of a whole picture.
    fn draw(&mut self, scanout: u32, shade: &Shade) {
        self.capture().flush(ScanoutId(scanout), &shade.frame(), shade.frame().rect());
    }

    /// A poll that brings what is asked. Returns how often something was.
    fn poll(&mut self, after: Duration, shade: &Shade) -> usize {
        self.now += after;
        let (now, mut events) = (self.now, Vec::new());
        self.capture().poll(now, &mut events);
        for event in &events {
            let DisplayEvent::Ready { scanout, damage } = event else { panic!("{event:?}") };
            self.capture().supply(*scanout, Some(&shade.frame()), *damage);
        }
        events.len()
    }

    /// Everything is written now, and the size and first pixel of a file.
    fn end(&mut self) {
        self.capture = None;
    }

    fn read(&self, name: &str) -> (u32, u32, Vec<u8>) {
        let file = fs::File::open(self.folder.path().join(name)).unwrap();
        let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        pixels.truncate(info.buffer_size());
        (info.width, info.height, pixels)
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn the_file_is_what_the_head_shows() {
    let mut bench = Bench::new();
    let pixels = [[0, 0, 0xff, 0x99], [0, 0xff, 0, 0x99], [0xff, 0, 0, 0x99], [0x33, 0x22, 0x11, 0x99]].concat();
    let shade = Shade(2, 2, pixels);
    bench.draw(0, &shade);
    assert_eq!(bench.poll(INTERVAL, &shade), 1);
    bench.end();
    let pixels = vec![0xff, 0, 0, 0, 0xff, 0, 0, 0, 0xff, 0x11, 0x22, 0x33];
    assert_eq!(bench.read("screen.png"), (2, 2, pixels));
    assert_eq!(bench.files(), ["screen.png"], "nothing else is left");
}

/// A thousand flushes in a second are five pictures, and the last of them is the newest.
#[test]
fn pictures_are_taken_a_few_times_a_second_and_the_last_state_is_not_lost() {
    let mut bench = Bench::new();
    let taken: usize = (0..1000u32)
        .map(|turn| {
            let shade = Shade::new(16, 16, turn as u8);
            bench.draw(0, &shade);
            bench.poll(Duration::from_millis(1), &shade)
        })
        .sum();
    assert_eq!(taken, 5);
    assert_eq!(bench.stats.bytes_copied.get(), 5 * 16 * 16 * 4);
    let last = Shade::new(16, 16, 0xe7);
    let deadline = bench.capture().deadline().unwrap();
    assert!(deadline > bench.now && deadline <= bench.now + INTERVAL);
    assert_eq!(bench.poll(INTERVAL, &last), 1);
    assert_eq!(bench.capture().deadline(), None, "nothing more to do");
    bench.end();
    assert_eq!(bench.read("screen.png").2[..3], [3, 2, 0xe7]);
}

#[test]
fn a_screen_that_does_not_change_wakes_nobody() {
    let mut bench = Bench::new();
    let shade = Shade::new(8, 8, 1);
    assert_eq!(bench.capture().deadline(), None);
    bench.draw(0, &shade);
    assert!(bench.capture().deadline().is_some_and(|deadline| deadline <= bench.now + INTERVAL));
    bench.poll(INTERVAL, &shade);
    assert_eq!(bench.poll(Duration::from_secs(3600), &shade), 0);
    assert_eq!(bench.capture().deadline(), None);
}

#[test]
fn pixels_that_are_gone_are_not_asked_for_again_and_the_file_stays() {
    let mut bench = Bench::new();
    let shade = Shade::new(8, 8, 7);
    bench.draw(0, &shade);
    bench.poll(INTERVAL, &shade);
    bench.draw(0, &shade);
    bench.now += INTERVAL;
    let (now, mut events) = (bench.now, Vec::new());
    bench.capture().poll(now, &mut events);
    bench.capture().supply(ScanoutId(0), None, Rect::of_size(8, 8));
    assert_eq!(bench.capture().deadline(), None);
    bench.capture().set_scanout(ScanoutId(0), None);
    assert_eq!(bench.poll(INTERVAL, &shade), 0);
    bench.end();
    assert_eq!(bench.read("screen.png").0, 8);
}

/// A head that goes off, a VM that ends: what was drawn since the last picture is in the file.
#[test]
fn the_last_thing_drawn_before_the_pixels_go_is_in_the_file() {
    let mut bench = Bench::new();
    bench.poll(Duration::ZERO, &Shade::new(8, 8, 0));
    let (first, last) = (Shade::new(8, 8, 1), Shade::new(8, 8, 2));
    bench.draw(0, &first);
    assert_eq!(bench.poll(INTERVAL, &first), 1);
    bench.draw(0, &last);
    assert_eq!(bench.poll(Duration::from_millis(1), &last), 0, "it is not due");
    bench.capture().catch_up(ScanoutId(0), &last.frame());
    bench.capture().set_scanout(ScanoutId(0), None);
    assert_eq!(bench.capture().deadline(), None);
    bench.end();
    assert_eq!(bench.read("screen.png").2[..3], [3, 2, 2]);
}

#[test]
fn a_head_of_which_nothing_changed_is_not_copied_again() {
    let mut bench = Bench::new();
    let shade = Shade::new(8, 8, 1);
    bench.capture().catch_up(ScanoutId(0), &shade.frame());
    bench.capture().catch_up(ScanoutId(99), &shade.frame());
    bench.draw(0, &shade);
    bench.poll(INTERVAL, &shade);
    bench.capture().catch_up(ScanoutId(0), &shade.frame());
    assert_eq!(bench.stats.bytes_copied.get(), 8 * 8 * 4);
}

/// A head that goes off and on a thousand times in a second costs as many pictures as one that is drawn on.
#[test]
fn switching_a_head_off_and_on_costs_no_more_than_drawing() {
    let mut bench = Bench::new();
    let shade = Shade::new(16, 16, 1);
    for _ in 0..1000 {
        bench.poll(Duration::from_millis(1), &shade);
        bench.draw(0, &shade);
        bench.capture().catch_up(ScanoutId(0), &shade.frame());
        bench.capture().set_scanout(ScanoutId(0), None);
    }
    assert_eq!(bench.stats.bytes_copied.get(), 5 * 16 * 16 * 4);
}

#[test]
fn each_head_has_a_file_of_its_own() {
    let mut bench = Bench::new();
    let (first, second) = (Shade::new(4, 4, 1), Shade::new(5, 5, 2));
    bench.draw(0, &first);
    bench.poll(INTERVAL, &first);
    bench.draw(15, &second);
    bench.poll(INTERVAL, &second);
    // Not a head.
    bench.draw(16, &second);
    assert_eq!(bench.poll(INTERVAL, &second), 0);
    bench.end();
    assert_eq!(bench.files(), ["screen.15.png", "screen.png"]);
    assert_eq!(bench.read("screen.15.png").0, 5);
    assert_eq!(file_of(Path::new("/a.b/plain"), ScanoutId(2)), Path::new("/a.b/plain.2"));
}

#[test]
fn a_folder_that_is_not_there_costs_a_line_in_the_log_and_nothing_else() {
    let mut bench = Bench::new();
    fs::remove_dir(bench.folder.path()).unwrap();
    let shade = Shade::new(4, 4, 1);
    for _ in 0..3 {
        bench.draw(0, &shade);
        assert_eq!(bench.poll(INTERVAL, &shade), 1);
    }
    bench.end();
}

/// CVE-2017-2633: no size that a guest says is trusted.
#[test]
fn a_head_of_a_gigabyte_is_not_copied() {
    let mut bench = Bench::new();
    let shade = Shade::new(1, 1, 1);
    let huge = Frame { width: 16384, height: 16384, ..shade.frame() };
    bench.capture().flush(ScanoutId(0), &huge, huge.rect());
    let (now, mut events) = (bench.now + INTERVAL, Vec::new());
    bench.capture().poll(now, &mut events);
    bench.capture().supply(ScanoutId(0), Some(&huge), huge.rect());
    assert_eq!(bench.stats.bytes_copied.get(), 0);
    bench.end();
    assert_eq!(bench.files(), [""; 0]);
}
