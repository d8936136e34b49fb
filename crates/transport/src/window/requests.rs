//! What was asked of a front-end and what it answered: the order, the limits, and what happens around a stop.
//!
//! It knows no wire: who has one sends what [`next`](Requests::next) allows and tells what was answered.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use device::{MapRequest, Ticket, UnmapRequest, WindowRequest};

use super::ANSWER_LIMIT;

/// Requests that a front-end may leave unanswered before it gets no more to map.
const MOST_SENT: usize = 1024;

/// Requests, from being asked to being answered.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Not sent yet.
    waiting: VecDeque<Asked>,
    /// Sent; answers come in this order.
    sent: VecDeque<Asked>,
    /// Lengths of what is mapped, by region and place.
    mapped: BTreeMap<(u8, u64), u64>,
    /// For the device.
    answers: Vec<(Ticket, bool)>,
}

#[derive(Debug)]
struct Asked {
    request: WindowRequest,
    /// Whether the device waits for the answer.
    awaited: bool,
    /// When it does no longer; known from the first poll on.
    limit: Option<Instant>,
}

impl Requests {
    /// Takes a request, after those before it.
    pub fn ask(&mut self, request: WindowRequest) {
        let nothing = match is_map(&request) {
            true => self.sent.len() >= MOST_SENT,
            false => !self.concerns(&request),
        };
        if nothing {
            return self.refuse(&request);
        }
        self.waiting.push_back(Asked { request, awaited: true, limit: None });
    }

    /// Whether there is anything that this would take away, or may be.
    fn concerns(&self, unmap: &WindowRequest) -> bool {
        let (region, at, _) = place(unmap);
        let asked = |asked: &Asked| is_map(&asked.request) && overlap(&asked.request, unmap);
        self.mapped.contains_key(&(region, at)) || self.waiting.iter().chain(&self.sent).any(asked)
    }

    /// Answers a request that nobody can carry out.
    pub fn refuse(&mut self, request: &WindowRequest) {
        self.answers.push((ticket(request), false));
    }

    /// Nobody waits for an answer longer than [`ANSWER_LIMIT`]. A map that was not sent by then is not sent at all.
    pub fn expire(&mut self, now: Instant) {
        for asked in &mut self.waiting {
            asked.limit.get_or_insert(now + ANSWER_LIMIT);
        }
        let late = |asked: &Asked| asked.limit.is_some_and(|limit| limit <= now);
        self.give_up(late);
    }

    /// A stop began: nobody waits for anything. Maps that were not sent are not sent at all.
    pub fn stop(&mut self) {
        self.give_up(|_| true);
    }

    fn give_up(&mut self, chosen: impl Fn(&Asked) -> bool) {
        let Self { waiting, sent, answers, .. } = self;
        for asked in sent.iter_mut().filter(|asked| chosen(asked)) {
            asked.give_up(answers);
        }
        waiting.retain_mut(|asked| {
            let chosen = chosen(asked);
            if chosen {
                asked.give_up(answers);
            }
            !chosen || !is_map(&asked.request)
        });
    }

    /// What is to be sent next, if it may be now: not where a map that nobody waits for may still succeed.
    pub fn next(&self) -> Option<&WindowRequest> {
        let next = &self.waiting.front()?.request;
        let taken = |sent: &Asked| !sent.awaited && is_map(&sent.request) && overlap(&sent.request, next);
        (!is_map(next) || !self.sent.iter().any(taken)).then_some(next)
    }

    /// What was [next](Self::next) is on its way.
    pub fn was_sent(&mut self, now: Instant) {
        if let Some(mut asked) = self.waiting.pop_front() {
            asked.limit.get_or_insert(now + ANSWER_LIMIT);
            self.sent.push_back(asked);
        }
    }

    /// What was [next](Self::next) cannot be carried out.
    pub fn was_refused(&mut self) {
        if let Some(mut asked) = self.waiting.pop_front() {
            asked.give_up(&mut self.answers);
        }
    }

    /// The oldest request that was sent.
    pub fn oldest(&self) -> Option<&WindowRequest> {
        self.sent.front().map(|asked| &asked.request)
    }

    /// Whether what was mapped there is there, as far as answers tell.
    pub fn is_mapped(&self, region: u8, at: u64) -> bool {
        self.mapped.contains_key(&(region, at))
    }

    /// How many were sent and not answered.
    pub fn under_way(&self) -> usize {
        self.sent.len()
    }

    /// The oldest request that was sent is answered.
    pub fn was_answered(&mut self, done: bool) {
        let Some(asked) = self.sent.pop_front() else { return };
        let (region, at, len) = place(&asked.request);
        match &asked.request {
            WindowRequest::Unmap(_) => drop(self.mapped.remove(&(region, at))),
            WindowRequest::Map(_) if done => {
                self.mapped.insert((region, at), len);
                if !asked.awaited {
                    self.take_away(region, at, len);
                }
            }
            WindowRequest::Map(_) => {}
        }
        if asked.awaited {
            self.answers.push((ticket(&asked.request), done));
        }
    }

    /// The request that was sent last was not after all.
    pub fn was_taken_back(&mut self) {
        let Some(mut asked) = self.sent.pop_back() else { return };
        if is_map(&asked.request) {
            asked.give_up(&mut self.answers);
        } else {
            self.waiting.push_front(Asked { limit: None, ..asked });
        }
    }

    /// Before anything else.
    fn take_away(&mut self, region: u8, at: u64, len: u64) {
        let request = WindowRequest::Unmap(UnmapRequest { ticket: Ticket(u64::MAX), region, at, len });
        self.waiting.push_front(Asked { request, awaited: false, limit: None });
    }

    /// The device forgets all of it: what is mapped is to be unmapped.
    pub fn clear(&mut self) {
        self.stop();
        for ((region, at), len) in std::mem::take(&mut self.mapped) {
            let gone = |asked: &Asked| !is_map(&asked.request) && place(&asked.request) == (region, at, len);
            if !self.waiting.iter().chain(&self.sent).any(gone) {
                self.take_away(region, at, len);
            }
            self.mapped.insert((region, at), len);
        }
    }

    /// The front-end is gone, and with it all that it had mapped.
    pub fn forget(&mut self) {
        self.stop();
        self.waiting.clear();
        self.sent.clear();
        self.mapped.clear();
    }

    /// Moves the answers to the device to the end of `answers`.
    pub fn take_answers(&mut self, answers: &mut Vec<(Ticket, bool)>) {
        answers.append(&mut self.answers);
    }

    /// Whether nothing is to be sent and no answer is to come.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty() && self.answers.is_empty()
    }

    /// When somebody has waited long enough.
    pub fn deadline(&self) -> Option<Instant> {
        let awaited = self.waiting.iter().chain(&self.sent).filter(|asked| asked.awaited);
        awaited.filter_map(|asked| asked.limit).min()
    }
}

impl Asked {
    fn give_up(&mut self, answers: &mut Vec<(Ticket, bool)>) {
        if std::mem::take(&mut self.awaited) {
            answers.push((ticket(&self.request), false));
        }
    }
}

fn is_map(request: &WindowRequest) -> bool {
    matches!(request, WindowRequest::Map(_))
}

/// Whom a request is of.
pub(crate) fn ticket(request: &WindowRequest) -> Ticket {
    match request {
        WindowRequest::Map(map) => map.ticket,
        WindowRequest::Unmap(unmap) => unmap.ticket,
    }
}

/// Region, place and length.
pub(crate) fn place(request: &WindowRequest) -> (u8, u64, u64) {
    match request {
        WindowRequest::Map(MapRequest { region, at, mapping, .. }) => (*region, *at, mapping.len),
        WindowRequest::Unmap(UnmapRequest { region, at, len, .. }) => (*region, *at, *len),
    }
}

fn overlap(one: &WindowRequest, other: &WindowRequest) -> bool {
    let ((one, from, len), (other, start, length)) = (place(one), place(other));
    one == other && from < start.saturating_add(length) && start < from.saturating_add(len)
}

#[cfg(test)]
mod tests;
