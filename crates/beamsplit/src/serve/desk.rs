//! The way to the keeper's thread: commands, news, looks.

use std::sync::mpsc::Sender;

use manager::machine::Outcome;
use manager::{Event, Refusal};
use tokio::sync::{oneshot, watch};

use super::keeper::Keeper;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The disk did not take it; everything is as it was.
    #[error("Cannot write it down: {0}")]
    NotSaved(String),
    /// The manager ends.
    #[error("The manager ends")]
    Ending,
}

/// What the thread is told.
pub enum Order {
    /// A command, and who waits for what becomes of it.
    Command(Event, oneshot::Sender<Result<Outcome, Failure>>),
    /// What became of something.
    Happened(Event),
    /// A look at what the thread owns.
    Look(Box<dyn FnOnce(&Keeper) + Send>),
    /// A change of it.
    Change(Box<dyn FnOnce(&mut Keeper) + Send>),
    /// Nothing more.
    End,
}

/// The way to the thread.
#[derive(Clone)]
pub struct Desk {
    orders: Sender<Order>,
    changes: watch::Receiver<u64>,
}

impl Desk {
    /// The way to a thread that hears these orders and counts what happened.
    pub fn new(orders: Sender<Order>, changes: watch::Receiver<u64>) -> Self {
        Desk { orders, changes }
    }

    /// Gives a command. The answer comes when all that it asks of the disk is done; what it starts goes on after that.
    pub async fn command(&self, event: Event) -> Result<Outcome, Failure> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Command(event, answer)).map_err(|_| Failure::Ending)?;
        answered.await.map_err(|_| Failure::Ending)?
    }

    /// Tells what happened.
    pub fn happened(&self, event: Event) {
        // When the manager ends, nobody wants to know.
        let _ = self.orders.send(Order::Happened(event));
    }

    /// Looks at what the thread owns.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Keeper) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (answer, answered) = oneshot::channel();
        let look = Box::new(for_asker(answer, look));
        self.orders.send(Order::Look(look)).map_err(|_| Failure::Ending)?;
        answered.await.map_err(|_| Failure::Ending)
    }

    /// Changes something of it.
    pub async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Keeper) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (answer, answered) = oneshot::channel();
        let change = Box::new(move |keeper: &mut Keeper| drop(answer.send(change(keeper))));
        self.orders.send(Order::Change(change)).map_err(|_| Failure::Ending)?;
        answered.await.map_err(|_| Failure::Ending)
    }

    /// Counts what happened; a change of the count says that it is worth another look.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Ends the thread. Devices go on.
    pub fn end(&self) {
        let _ = self.orders.send(Order::End);
    }
}

/// Looks for one who asked, if that is still there: many may ask and hang up at once, and each look takes its time.
fn for_asker<Seen, T>(answer: oneshot::Sender<T>, look: impl FnOnce(&Seen) -> T) -> impl FnOnce(&Seen) {
    move |seen: &Seen| {
        if !answer.is_closed() {
            // It may go just now.
            let _ = answer.send(look(seen));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn nothing_is_looked_at_for_one_who_has_gone() {
        let looks = Cell::new(0);
        let ask = || {
            let (answer, answered) = oneshot::channel();
            let look = |seen: &u8| {
                looks.set(looks.get() + 1);
                seen + 1
            };
            (for_asker(answer, look), answered)
        };
        let (look, mut answered) = ask();
        look(&6);
        assert_eq!((answered.try_recv(), looks.get()), (Ok(7), 1));
        let (look, answered) = ask();
        drop(answered);
        look(&6);
        assert_eq!(looks.get(), 1);
    }
}
