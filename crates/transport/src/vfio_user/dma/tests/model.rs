//! What a table must be, page by page.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;

use super::*;

/// What the device sees at a page: a page of a file, or what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    File(usize, u64),
    Far,
}

/// A run of pages: address, length, and what the first of them is.
type Run = (u64, u64, Page);

#[derive(Clone, Copy, Debug)]
struct Opened {
    size: u64,
    first: Option<Page>,
    writable: bool,
}

/// A table and its model.
pub struct Checked {
    table: DmaTable,
    files: Vec<File>,
    windows: BTreeMap<u64, Opened>,
    own: Option<(u64, u64)>,
    taken: Vec<Run>,
    protected: Vec<(u64, u64)>,
}

impl Checked {
    /// With a file of each length.
    pub fn new(files: &[u64]) -> Self {
        let files = files.iter().map(|len| memfd(*len)).collect();
        Self { table: table(), files, windows: BTreeMap::new(), own: None, taken: Vec::new(), protected: Vec::new() }
    }

    pub fn own(&mut self, bar: (u64, u64)) {
        self.table.set_own_bars(&[bar]);
        self.own = Some(bar);
    }

    pub fn map(&mut self, iova: u64, size: u64, offset: u64, writable: bool, file: Option<usize>) -> Result<(), Errno> {
        let fd = file.and_then(|file| copy(&self.files[file]));
        let done = self.table.map(Window { writable, ..window(iova, size, offset) }, fd).map_err(|why| why.errno);
        let overlaps = self.windows.iter().any(|(start, held)| *start < iova + size && iova < start + held.size);
        let short = file.is_some_and(|file| self.files[file].metadata().unwrap().len() < offset + size);
        let expected = match (overlaps, short && writable) {
            (true, _) => Err(Errno::EXIST),
            (_, true) => Err(Errno::INVAL),
            _ => Ok(()),
        };
        assert_eq!(done, expected);
        if done.is_ok() {
            // What can only be read is memory when it has a file, and a ROM otherwise.
            let first = match file {
                Some(file) => (!short).then_some(Page::File(file, offset)),
                None => writable.then_some(Page::Far),
            };
            self.windows.insert(iova, Opened { size, first, writable });
        }
        done
    }

    pub fn unmap(&mut self, iova: u64, size: u64) -> Result<(), Errno> {
        let done = self.table.unmap(Some((iova, size))).map_err(|why| why.errno);
        let end = iova + size;
        let is_cut = |(start, held): (&u64, &Opened)| {
            let (before, after) = (*start < iova, start + held.size > end);
            *start < end && iova < start + held.size && (before || after)
        };
        let cuts = self.windows.iter().any(is_cut);
        assert_eq!(done, if cuts { Err(Errno::INVAL) } else { Ok(()) });
        if !cuts {
            self.windows.retain(|start, _| *start < iova || *start >= end);
        }
        done
    }

    /// The longest runs that there are.
    fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (&iova, Opened { size, first, .. }) in &self.windows {
            let own = self.own.is_some_and(|(start, len)| start <= iova && iova + size <= start + len);
            let (Some(first), false) = (*first, own) else { continue };
            match runs.last_mut() {
                Some((start, len, before)) if *start + *len == iova && after(*before, *len) == first => *len += size,
                _ => runs.push((iova, *size, first)),
            }
        }
        runs
    }

    /// What can only be read.
    fn read_only(&self) -> Vec<(u64, u64)> {
        let own = |start, size| self.own.is_some_and(|(bar, len)| bar <= start && start + size <= bar + len);
        let windows = self.windows.iter().filter(|(start, held)| !own(**start, held.size));
        let windows = windows.filter(|(_, held)| !held.writable && held.first.is_some());
        windows.map(|(start, held)| (*start, start + held.size)).collect()
    }

    /// Takes the table and compares it with what it must be; it is another one only if it must be.
    pub fn take(&mut self) -> Option<Arc<Memory>> {
        let taken = self.table.take_table();
        let (runs, read_only) = (self.runs(), self.read_only());
        assert_eq!(taken.is_some(), (&runs, &read_only) != (&self.taken, &self.protected));
        if let Some(memory) = &taken {
            let found: Vec<Run> = memory.regions().iter().map(|region| self.run(memory, region)).collect();
            assert_eq!((&*found, memory.read_only()), (&*runs, &*read_only));
            (self.taken, self.protected) = (runs, read_only);
        }
        taken
    }

    fn run(&self, memory: &Memory, region: &Region) -> Run {
        let far = memory.far().is_some_and(|far| Arc::ptr_eq(far.mirror(), &region.mapping));
        if far {
            return (region.start, region.len, Page::Far);
        }
        let file = region.mapping.file_offset().unwrap();
        let inode = |file: &File| file.metadata().unwrap().ino();
        let number = self.files.iter().position(|known| inode(known) == inode(file.file())).unwrap();
        (region.start, region.len, Page::File(number, file.start() + region.offset as u64))
    }
}

fn after(page: Page, len: u64) -> Page {
    match page {
        Page::File(file, offset) => Page::File(file, offset + len),
        Page::Far => Page::Far,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Map {
        at: u64,
        pages: u64,
        offset: u64,
        writable: bool,
        file: Option<usize>,
    },
    Unmap {
        at: u64,
        pages: u64,
    },
    /// One of those that are open.
    Close(prop::sample::Index),
    Own {
        at: u64,
        pages: u64,
    },
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    let (at, pages) = (0..32u64, 1..9u64);
    prop_oneof![
        6 => (at.clone(), pages.clone(), 0..10u64, prop::bool::weighted(0.8), prop::option::of(0..2usize))
            .prop_map(|(at, pages, offset, writable, file)| Step::Map { at, pages, offset, writable, file }),
        1 => (at.clone(), pages.clone()).prop_map(|(at, pages)| Step::Unmap { at, pages }),
        3 => any::<prop::sample::Index>().prop_map(Step::Close),
        1 => (at, pages).prop_map(|(at, pages)| Step::Own { at, pages }),
        3 => Just(Step::Take),
    ]
}

proptest! {
    #[test]
    fn a_table_is_what_its_windows_say(steps in prop::collection::vec(step(), 1..60)) {
        let mut checked = Checked::new(&[16 * PAGE, 12 * PAGE]);
        for step in steps {
            match step {
                Step::Map { at, pages, offset, writable, file } => {
                    // Neighbours of one file often go on where the last one ended.
                    let offset = if offset < 5 { at % 16 } else { offset };
                    let _ = checked.map(at * PAGE, pages * PAGE, offset * PAGE, writable, file);
                }
                Step::Unmap { at, pages } => {
                    let _ = checked.unmap(at * PAGE, pages * PAGE);
                }
                Step::Close(index) => {
                    if !checked.windows.is_empty() {
                        let (iova, held) = checked.windows.iter().nth(index.index(checked.windows.len())).unwrap();
                        let (iova, size) = (*iova, held.size);
                        checked.unmap(iova, size).unwrap();
                    }
                }
                Step::Own { at, pages } => checked.own((at * PAGE, pages * PAGE)),
                Step::Take => {
                    checked.take();
                }
            }
        }
        checked.take();
    }
}
