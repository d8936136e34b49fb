//! The in-process guest's shared memory regions: what the device shows in them is mapped for real.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::time::Instant;

use device::{HostMapping, MapRequest, Ticket, UnmapRequest, WindowRequest};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::window::{ANSWER_LIMIT, Mapper, ticket};

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
    /// By region and place.
    mapped: BTreeMap<(u8, u64), Shown>,
    /// Not sent yet.
    waiting: VecDeque<Asked>,
    /// Sent, not answered.
    sent: VecDeque<Asked>,
    answers: Vec<(Ticket, bool)>,
    happened: Vec<Happened>,
}

#[derive(Debug)]
struct Shown {
    memory: MmapRegion,
    mapping: HostMapping,
}

#[derive(Debug)]
struct Asked {
    request: WindowRequest,
    /// Whether somebody waits for the answer.
    awaited: bool,
    /// When it was answered at the latest; known from the next poll on.
    limit: Option<Instant>,
}

impl Window {
    /// Another VMM, as to its habits.
    pub fn set_habit(&mut self, habit: Habit) {
        self.habit = habit;
    }

    /// The oldest requests are carried out, at most `count` of them. Returns how many there were. The device hears of it
    /// when it runs next.
    pub fn answer(&mut self, count: usize) -> usize {
        let count = count.min(self.sent.len());
        for _ in 0..count {
            self.carry_out_next();
        }
        count
    }

    /// Requests that were sent and not answered.
    pub fn under_way(&self) -> usize {
        self.sent.len()
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

    /// Nothing is answered any more, and what was not sent is only sent if it takes something away.
    fn give_up(&mut self) {
        let Self { waiting, sent, answers, .. } = self;
        for asked in sent.iter_mut().filter(|asked| matches!(asked.request, WindowRequest::Map(_))) {
            asked.fail(answers);
        }
        waiting.retain_mut(|asked| {
            let map = matches!(asked.request, WindowRequest::Map(_));
            if map {
                asked.fail(answers);
            }
            !map
        });
    }

    fn send(&mut self, now: Instant) {
        while let Some(mut asked) = self.waiting.pop_front() {
            asked.limit.get_or_insert(now + ANSWER_LIMIT);
            self.sent.push_back(asked);
            if self.habit != Habit::Slow {
                self.carry_out_next();
            }
        }
    }

    fn carry_out_next(&mut self) {
        let Some(asked) = self.sent.pop_front() else { return };
        let done = match &asked.request {
            WindowRequest::Map(map) => self.map(map),
            WindowRequest::Unmap(unmap) => self.unmap(*unmap),
        };
        match asked.request {
            request if asked.awaited => self.answers.push((ticket(&request), done)),
            // It came too late: nobody knows of it.
            WindowRequest::Map(MapRequest { ticket, region, at, mapping: HostMapping { len, .. } }) if done => {
                let request = WindowRequest::Unmap(UnmapRequest { ticket, region, at, len });
                self.waiting.push_front(Asked { request, awaited: false, limit: None });
            }
            _ => {}
        }
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

impl Asked {
    fn fail(&mut self, answers: &mut Vec<(Ticket, bool)>) {
        if std::mem::take(&mut self.awaited) {
            answers.push((ticket(&self.request), false));
        }
    }
}

impl Mapper for Window {
    fn ask(&mut self, request: WindowRequest) {
        let asked = Asked { request, awaited: true, limit: None };
        match self.absent {
            true => self.answers.push((ticket(&asked.request), false)),
            false => self.waiting.push_back(asked),
        }
    }

    fn poll(&mut self, now: Instant, answers: &mut Vec<(Ticket, bool)>) {
        if self.shut {
            self.give_up();
        } else {
            for asked in self.sent.iter_mut().filter(|asked| asked.limit.is_some_and(|limit| limit <= now)) {
                asked.fail(&mut self.answers);
            }
            self.send(now);
        }
        answers.append(&mut self.answers);
    }

    fn deadline(&self) -> Option<Instant> {
        self.sent.iter().filter(|asked| asked.awaited).filter_map(|asked| asked.limit).min()
    }

    fn clear(&mut self, answers: &mut Vec<(Ticket, bool)>) {
        self.give_up();
        for asked in self.waiting.iter_mut().chain(&mut self.sent) {
            asked.fail(&mut self.answers);
        }
        for ((region, at), shown) in &self.mapped {
            let unmap = UnmapRequest { ticket: Ticket(0), region: *region, at: *at, len: shown.mapping.len };
            let asked = |asked: &Asked| matches!(&asked.request, WindowRequest::Unmap(other) if (other.region, other.at) == (*region, *at));
            if !self.waiting.iter().chain(&self.sent).any(asked) {
                self.waiting.push_back(Asked { request: WindowRequest::Unmap(unmap), awaited: false, limit: None });
            }
        }
        answers.append(&mut self.answers);
    }
}

/// The part of it that there is: a file need not end with a page.
fn map_file(mapping: &HostMapping) -> Option<MmapRegion> {
    let file = mapping.file.try_clone().ok()?;
    let len = file.metadata().ok()?.len().checked_sub(mapping.offset)?.min(mapping.len);
    MmapRegion::from_file(FileOffset::new(file, mapping.offset), usize::try_from(len).ok()?).ok()
}
