//! Work on what others can make last for ever: a folder of a user's may be a file system that never answers, and who looks into it
//! sleeps in the kernel until it does.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// A place for one at a time who does such work, on a thread of its own. What never ends costs that one thread, however many come
/// after it.
#[derive(Debug, Clone)]
pub struct Aside(Arc<Semaphore>);

impl Default for Aside {
    fn default() -> Self {
        Aside(Arc::new(Semaphore::new(1)))
    }
}

impl Aside {
    /// Does it, where it is done in time and the place becomes free in time. Nobody waits longer, and what was begun goes on.
    pub async fn run<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let done = async {
            let place = self.0.clone().acquire_owned().await.ok()?;
            let work = move || {
                let _place = place;
                work()
            };
            spawn_blocking(work).await.ok()
        };
        timeout(patience, done).await.ok().flatten()
    }

    /// Whether nobody is there nor can come: this is the only one that knows of the place.
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn what_never_ends_costs_one_thread_and_nobody_waits_for_it() {
        let (aside, begun) = (Aside::default(), Arc::new(AtomicUsize::new(0)));
        let (end, ended) = channel::<()>();
        let count = begun.clone();
        let hang = move || {
            count.fetch_add(1, Ordering::SeqCst);
            ended.recv()
        };
        assert_eq!(aside.run(Duration::from_millis(1), hang).await, None);
        for _ in 0..100 {
            let count = begun.clone();
            let more = move || count.fetch_add(1, Ordering::SeqCst);
            assert_eq!(aside.run(Duration::from_millis(1), more).await, None);
        }
        assert!(begun.load(Ordering::SeqCst) <= 1 && !aside.is_unused());
        // Once that ends there is a place again.
        drop(end);
        assert_eq!(aside.run(Duration::from_secs(60), || 7).await, Some(7));
        // Who hung gives the place to the next one first, and then forgets it.
        let limit = std::time::Instant::now() + Duration::from_secs(60);
        while !aside.is_unused() {
            assert!(std::time::Instant::now() < limit, "Somebody keeps the place");
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn those_who_come_together_are_served_one_after_the_other() {
        let aside = Aside::default();
        let all = (0..20).map(|number| {
            let aside = aside.clone();
            tokio::spawn(async move { aside.run(Duration::from_secs(60), move || number).await })
        });
        for (number, done) in all.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(done.await.unwrap(), Some(number));
        }
    }
}
