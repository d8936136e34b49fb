//! Which fences of which contexts the library has not told of.

use std::collections::{HashMap, HashSet};

/// Fences by their context. Each is known by its own number, which no other ever has: names of contexts are given again.
#[derive(Debug, Default)]
pub(super) struct Fences(HashMap<u32, HashSet<u64>>);

impl Fences {
    /// The library is asked for one.
    pub fn asked(&mut self, context: u32, fence: u64) {
        self.0.entry(context).or_default().insert(fence);
    }

    /// The library told of one, or will not.
    pub fn told(&mut self, context: u32, fence: u64) {
        let Some(open) = self.0.get_mut(&context) else { return };
        open.remove(&fence);
        if open.is_empty() {
            self.0.remove(&context);
        }
    }

    /// The context is gone: nobody waits for its fences any more.
    pub fn forget(&mut self, context: u32) {
        self.0.remove(&context);
    }

    /// Whether a context has any.
    pub fn has(&self, context: u32) -> bool {
        self.0.contains_key(&context)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_fence_of_a_context_that_is_gone_is_none_of_the_next_one_s() {
        let mut fences = Fences::default();
        fences.asked(7, 1);
        fences.asked(7, 2);
        fences.told(7, 1);
        assert!(fences.has(7) && !fences.has(8));
        fences.forget(7);
        assert!(fences.is_empty(), "nobody looks for what may never be told");
        fences.asked(7, 3);
        fences.told(7, 2);
        assert!(fences.has(7), "its own fence is open");
        fences.told(7, 3);
        fences.told(7, 3);
        assert!(fences.is_empty());
    }
}
