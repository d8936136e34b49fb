//! How often processes may start, and those that are on their way out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time over which starts are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// How long one that was ended may take to be told of, before it is spoken of without.
const NEWS: Duration = Duration::from_secs(2);
/// How long one that was asked to end may take.
const LEAVE: Duration = Duration::from_secs(5);

/// The starts of one kind.
#[derive(Debug)]
pub struct Starts {
    restarts: u32,
    times: VecDeque<Instant>,
}

impl Starts {
    /// One may start, and start again so many times within a minute.
    pub fn new(restarts: u32) -> Self {
        Self { restarts, times: VecDeque::new() }
    }

    /// Whether one may start now; it does then.
    pub fn permit(&mut self, now: Instant) -> bool {
        while self.times.front().is_some_and(|time| now.saturating_duration_since(*time) >= WINDOW) {
            self.times.pop_front();
        }
        let permitted = self.times.len() <= self.restarts as usize;
        if permitted {
            self.times.push_back(now);
        }
        permitted
    }

    /// How many of the restarts within a minute were used, and how many there are.
    pub fn used(&self) -> (usize, u32) {
        (self.times.len().saturating_sub(1), self.restarts)
    }
}

/// A process that is on its way out.
#[derive(Debug)]
struct Leaving {
    id: u32,
    until: Instant,
    /// What is to be said when it is known how it ended; without, it was asked to end.
    obituary: Option<String>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Departures(Vec<Leaving>);

/// What is to be done about one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It was asked to end and did not: it is to be ended.
    Kill(u32),
    /// Nothing more will be known.
    Say(String),
}

impl Departures {
    /// One was ended; `obituary` is said once it is known how it ended.
    pub fn ended(&mut self, id: u32, now: Instant, obituary: String) {
        self.0.push(Leaving { id, until: now + NEWS, obituary: Some(obituary) });
    }

    /// One was asked to end.
    pub fn asked(&mut self, id: u32, now: Instant) {
        self.0.push(Leaving { id, until: now + LEAVE, obituary: None });
    }

    /// One has ended: what is to be said about it. `None`: it is not one of these.
    pub fn gone(&mut self, id: u32, how: &str) -> Option<Option<String>> {
        let at = self.0.iter().position(|leaving| leaving.id == id)?;
        Some(self.0.remove(at).obituary.map(|obituary| format!("{obituary} ({how})")))
    }

    /// Those whose time is over.
    pub fn overdue(&mut self, now: Instant) -> Vec<Departure> {
        let over = self.0.extract_if(.., |leaving| leaving.until <= now);
        over.map(|leaving| leaving.obituary.map_or(Departure::Kill(leaving.id), Departure::Say)).collect()
    }

    /// When the time of one is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.iter().map(|leaving| leaving.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_dies_at_once_is_started_so_many_times_a_minute() {
        let start = Instant::now();
        let mut starts = Starts::new(2);
        let mut started = Vec::new();
        for second in 0..121 {
            if starts.permit(start + Duration::from_secs(second)) {
                started.push(second);
            }
        }
        assert_eq!(started, [0, 1, 2, 60, 61, 62, 120]);
        assert_eq!(starts.used(), (2, 2));
    }

    #[test]
    fn how_one_ended_is_said_with_its_obituary_or_not_at_all() {
        let now = Instant::now();
        let mut departures = Departures::default();
        departures.ended(1, now, "It died".into());
        departures.ended(2, now, "It hung".into());
        departures.asked(3, now);
        departures.asked(4, now);
        assert_eq!(departures.gone(1, "signal 11"), Some(Some("It died (signal 11)".into())));
        assert_eq!(departures.gone(1, "signal 11"), None);
        assert_eq!(departures.gone(3, "exit code 0"), Some(None));
        assert_eq!(departures.deadline(), Some(now + NEWS));
        assert_eq!(departures.overdue(now), []);
        assert_eq!(departures.overdue(now + LEAVE), [Departure::Say("It hung".into()), Departure::Kill(4)]);
        assert_eq!(departures.deadline(), None);
    }
}
