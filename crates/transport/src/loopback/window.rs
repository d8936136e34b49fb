//! The in-process guest's shared memory regions: what the device shows in them is mapped for real.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Instant;

use device::{HostMapping, MapRequest, Ticket, UnmapRequest, WindowRequest};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::window::{Mapper, Requests};

/// How the guest's VMM answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Habit {
    /// At once.
    #[default]
    Prompt,
    /// When [`Window::answer`] says so.
    Slow,
    /// It maps nothing, and says so at once.
    Refuses,
}

/// What the VMM did, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Happened {
    Mapped {
        region: u8,
        at: u64,
        len: u64,
    },
    /// It would not, or could not: something is there already, or the file is too short.
    Refused {
        region: u8,
        at: u64,
        len: u64,
    },
    Unmapped {
        region: u8,
        at: u64,
        len: u64,
    },
    /// It was to unmap what is not mapped so.
    Missed {
        region: u8,
        at: u64,
        len: u64,
    },
}

/// The shared memory regions of an in-process guest, and its VMM, which maps into them.
#[derive(Debug, Default)]
pub struct Window {
    habit: Habit,
    /// There are none.
    absent: bool,
    /// The guest's rings have stopped: nothing is sent.
    shut: bool,
    requests: Requests,
    /// By region and place.
    mapped: BTreeMap<(u8, u64), Shown>,
    happened: Vec<Happened>,
}

#[derive(Debug)]
struct Shown {
    memory: MmapRegion,
    mapping: HostMapping,
}

impl Window {
    /// Another VMM, as to its habits.
    pub fn set_habit(&mut self, habit: Habit) {
        self.habit = habit;
    }

    /// The oldest requests are carried out, at most `count` of them. Returns how many there were. The device hears of it
    /// when it runs next.
    pub fn answer(&mut self, count: usize) -> usize {
        (0..count).take_while(|_| self.carry_out_next()).count()
    }

    /// Requests that were sent and not answered.
    pub fn under_way(&self) -> usize {
        self.requests.under_way()
    }

    /// What is mapped: region, place and length.
    pub fn mapped(&self) -> Vec<(u8, u64, u64)> {
        self.mapped.iter().map(|((region, at), shown)| (*region, *at, shown.mapping.len)).collect()
    }

    /// What the VMM did since the last call.
    pub fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    /// The file that is to be seen at this place.
    pub fn file(&self, region: u8, at: u64) -> Option<&File> {
        self.shown(region, at).map(|(_, shown)| &*shown.mapping.file)
    }

    /// The guest reads; `None` when that is not mapped, all in one piece.
    pub fn read(&self, region: u8, at: u64, len: usize) -> Option<Vec<u8>> {
        let (offset, shown) = self.shown(region, at)?;
        let mut bytes = vec![0; len];
        shown.memory.get_slice(offset, len).ok()?.copy_to(&mut bytes);
        Some(bytes)
    }

    /// The guest writes; `None` when that is not mapped, all in one piece.
    pub fn write(&self, region: u8, at: u64, bytes: &[u8]) -> Option<()> {
        let (offset, shown) = self.shown(region, at)?;
        shown.memory.get_slice(offset, bytes.len()).ok()?.copy_from(bytes);
        Some(())
    }

    /// What covers `at`, and where in it that is.
    fn shown(&self, region: u8, at: u64) -> Option<(usize, &Shown)> {
        let ((number, start), shown) = self.mapped.range(..=(region, at)).next_back()?;
        let offset = at - if *number == region { *start } else { return None };
        (offset < shown.mapping.len).then_some((offset as usize, shown))
    }

    pub(super) fn set_present(&mut self, present: bool) {
        self.absent = !present;
    }

    /// A stop begins.
    pub(super) fn shut(&mut self) {
        self.shut = true;
    }

    /// The rings run.
    pub(super) fn open(&mut self) {
        self.shut = false;
    }

    /// The VMM does what was asked of it first, if anything was.
    fn carry_out_next(&mut self) -> bool {
        let Some(request) = self.requests.oldest().cloned() else { return false };
        let done = match &request {
            WindowRequest::Map(map) => self.map(map),
            WindowRequest::Unmap(unmap) => self.unmap(*unmap),
        };
        self.requests.was_answered(done);
        true
    }

    fn map(&mut self, map: &MapRequest) -> bool {
        let MapRequest { region, at, mapping, .. } = map;
        let (region, at, len) = (*region, *at, mapping.len);
        let last = at.saturating_add(len.saturating_sub(1));
        let before = self.mapped.range(..=(region, last)).next_back();
        let free = before.is_none_or(|((number, start), shown)| *number != region || start + shown.mapping.len <= at);
        let memory = (free && self.habit != Habit::Refuses).then(|| map_file(mapping)).flatten();
        let done = memory.is_some();
        if let Some(memory) = memory {
            self.mapped.insert((region, at), Shown { memory, mapping: mapping.clone() });
        }
        self.happened.push(match done {
            true => Happened::Mapped { region, at, len },
            false => Happened::Refused { region, at, len },
        });
        done
    }

    fn unmap(&mut self, UnmapRequest { region, at, len, .. }: UnmapRequest) -> bool {
        let done = self.mapped.get(&(region, at)).is_some_and(|shown| shown.mapping.len == len);
        if done {
            self.mapped.remove(&(region, at));
        }
        self.happened.push(match done {
            true => Happened::Unmapped { region, at, len },
            false => Happened::Missed { region, at, len },
        });
        done
    }
}

impl Mapper for Window {
    fn ask(&mut self, request: WindowRequest) {
        match self.absent {
            true => self.requests.refuse(&request),
            false => self.requests.ask(request),
        }
    }

    fn poll(&mut self, now: Instant, answers: &mut Vec<(Ticket, bool)>) {
        if self.shut {
            self.requests.stop();
        } else {
            self.requests.expire(now);
            while self.requests.next().is_some() {
                self.requests.was_sent(now);
                if self.habit != Habit::Slow {
                    self.answer(usize::MAX);
                }
            }
        }
        self.requests.take_answers(answers);
    }

    fn deadline(&self) -> Option<Instant> {
        self.requests.deadline()
    }

    fn clear(&mut self, answers: &mut Vec<(Ticket, bool)>) {
        self.requests.clear();
        self.requests.take_answers(answers);
    }
}

/// The part of it that there is: a file need not end with a page.
fn map_file(mapping: &HostMapping) -> Option<MmapRegion> {
    let file = mapping.file.try_clone().ok()?;
    let len = file.metadata().ok()?.len().checked_sub(mapping.offset)?.min(mapping.len);
    MmapRegion::from_file(FileOffset::new(file, mapping.offset), usize::try_from(len).ok()?).ok()
}
