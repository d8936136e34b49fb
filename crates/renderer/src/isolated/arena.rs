//! Which parts of the arena are in use. They are given back in the order in which they were taken.

use std::collections::VecDeque;

use super::wire::{ARENA_BYTES, Span};

/// Spans start at multiples of it.
const ALIGN: u32 = 64;

/// The parts in use, oldest first, each with the request that has it.
#[derive(Debug, Default)]
pub struct Arena {
    used: VecDeque<(u32, Span)>,
    next: u32,
}

impl Arena {
    /// Room for `len` bytes of the request that will be the `index`th, if there is any.
    pub fn take(&mut self, index: u32, len: usize) -> Option<Span> {
        let len = u32::try_from(len).ok()?;
        let room = len.checked_next_multiple_of(ALIGN)?;
        let offset = match self.used.front() {
            // What is used again soon is in the cache, and what never is takes no memory.
            None => (room <= ARENA_BYTES).then_some(0)?,
            Some((_, first)) if self.next > first.offset => {
                let end = self.next.checked_add(room)?;
                if end <= ARENA_BYTES { self.next } else { (room < first.offset).then_some(0)? }
            }
            Some((_, first)) => (self.next.checked_add(room)? < first.offset).then_some(self.next)?,
        };
        self.next = offset + room;
        let span = Span { offset, len };
        self.used.push_back((index, span));
        Some(span)
    }

    /// All requests before the `head`th have what they need. `tail` is the next one to be put in.
    pub fn give_back(&mut self, head: u32, tail: u32) {
        let open = tail.wrapping_sub(head);
        while let Some((index, _)) = self.used.front()
            && tail.wrapping_sub(*index) > open
        {
            self.used.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spans_in_use_do_not_overlap(steps in prop::collection::vec((0usize..3 << 20, 0u32..4), 1..200)) {
            let mut arena = Arena::default();
            let (mut head, mut tail) = (u32::MAX - 20, u32::MAX - 20);
            let mut open: VecDeque<(u32, Span)> = VecDeque::new();
            for (len, taken) in steps {
                if let Some(span) = arena.take(tail, len) {
                    prop_assert_eq!(span.len as usize, len);
                    prop_assert!(span.offset + span.len <= ARENA_BYTES);
                    for (_, other) in &open {
                        let apart = span.offset + span.len <= other.offset || other.offset + other.len <= span.offset;
                        prop_assert!(apart, "{:?} and {:?}", span, other);
                    }
                    open.push_back((tail, span));
                    tail = tail.wrapping_add(1);
                } else {
                    prop_assert!(!open.is_empty(), "an empty arena has room for {}", len);
                }
                for _ in 0..taken.min(tail.wrapping_sub(head)) {
                    head = head.wrapping_add(1);
                    open.pop_front();
                }
                arena.give_back(head, tail);
            }
        }
    }
}
