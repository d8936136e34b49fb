//! Questions to the thread that owns the device, and its answers: two queues, each with an eventfd.
//!
//! Nobody waits for anybody. The device's thread sees the eventfd among the descriptors it waits on and takes one
//! question at a time, between its guest's requests.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};

use device::gpu::Capture;
use protocol::edid::Mode;
use rustix::event::{EventfdFlags, eventfd};

/// The most questions that wait for the device.
pub const QUESTIONS: usize = 16;

/// What only the thread of the device can say or do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// What each head is and shows.
    Heads,
    /// A copy of what a head shows.
    Screenshot {
        /// The head.
        head: u32,
    },
    /// Offer the guest another size.
    Resize {
        /// The head.
        head: u32,
        /// Pixels in a row.
        width: u32,
        /// Rows.
        height: u32,
    },
}

/// What the device's thread says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The size that the guest is offered for each head.
    Heads(Vec<Mode>),
    /// The copy.
    Picture(Capture),
    /// It is done.
    Done,
    /// The head does not exist, or shows nothing.
    Missing(&'static str),
    /// Somebody else decides that.
    Refused(&'static str),
}

/// Names a question, so that a late answer finds nobody rather than somebody else.
pub type Token = u64;

/// The end that asks.
#[derive(Debug)]
pub struct Asker {
    questions: SyncSender<(Token, Question)>,
    asked: Arc<OwnedFd>,
    answers: Receiver<(Token, Answer)>,
    answered: Arc<OwnedFd>,
}

/// The end that the device's thread holds.
#[derive(Debug)]
pub struct Inbox {
    questions: Receiver<(Token, Question)>,
    asked: Arc<OwnedFd>,
    answers: Sender<(Token, Answer)>,
    answered: Arc<OwnedFd>,
}

/// A mailbox: who asks, and who answers.
pub fn mailbox() -> std::io::Result<(Asker, Inbox)> {
    // As a semaphore, the eventfd stays readable until as many were taken as were put in.
    let bell = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE).map(Arc::new);
    let (asked, answered) = (bell()?, bell()?);
    let (ask, questions) = sync_channel(QUESTIONS);
    let (answer, answers) = channel();
    let asker = Asker { questions: ask, asked: asked.clone(), answers, answered: answered.clone() };
    Ok((asker, Inbox { questions, asked, answers: answer, answered }))
}

impl Asker {
    /// Puts a question in. False when too many wait already, or the device is gone.
    pub fn ask(&self, token: Token, question: Question) -> bool {
        let put = self.questions.try_send((token, question)).is_ok();
        if put {
            ring(&self.asked);
        }
        put
    }

    /// Takes the next answer, if there is one.
    pub fn answer(&self) -> Option<(Token, Answer)> {
        take(&self.answers, &self.answered)
    }

    /// Readable while there are answers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.answered.as_fd()
    }
}

impl Inbox {
    /// Takes the next question, if there is one.
    pub fn question(&self) -> Option<(Token, Question)> {
        take(&self.questions, &self.asked)
    }

    /// Gives an answer; nobody may be there any more to read it.
    pub fn answer(&self, token: Token, answer: Answer) {
        if self.answers.send((token, answer)).is_ok() {
            ring(&self.answered);
        }
    }

    /// Readable while there are questions.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.asked.as_fd()
    }
}

fn ring(bell: &OwnedFd) {
    // Fails only when 2^64 rings are pending, and then it is ringing.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

fn take<T>(queue: &Receiver<T>, bell: &OwnedFd) -> Option<T> {
    match queue.try_recv() {
        Ok(value) => {
            // One ring belongs to each value. A ring that is only about to come is taken by the next call, below.
            let _ = rustix::io::read(bell, &mut [0; 8]);
            Some(value)
        }
        Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
            let _ = rustix::io::read(bell, &mut [0; 8]);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn readable(fd: BorrowedFd<'_>) -> bool {
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn the_bell_rings_exactly_while_there_is_something() {
        let (asker, inbox) = mailbox().unwrap();
        assert!(!readable(inbox.fd()));
        assert!(asker.ask(1, Question::Heads) && asker.ask(2, Question::Screenshot { head: 0 }));
        assert_eq!(inbox.question(), Some((1, Question::Heads)));
        assert!(readable(inbox.fd()));
        assert_eq!(inbox.question(), Some((2, Question::Screenshot { head: 0 })));
        assert!(!readable(inbox.fd()));
        assert_eq!(inbox.question(), None);

        inbox.answer(1, Answer::Done);
        assert!(readable(asker.fd()));
        assert_eq!(asker.answer(), Some((1, Answer::Done)));
        assert!(!readable(asker.fd()));
    }

    #[test]
    fn no_more_questions_wait_than_there_is_room_for() {
        let (asker, inbox) = mailbox().unwrap();
        assert!((0..QUESTIONS as u64).all(|token| asker.ask(token, Question::Heads)));
        assert!(!asker.ask(99, Question::Heads));
        assert!(inbox.question().is_some());
        assert!(asker.ask(99, Question::Heads));
    }

    #[test]
    fn either_end_survives_the_other() {
        let (asker, inbox) = mailbox().unwrap();
        drop(inbox);
        assert!(!asker.ask(1, Question::Heads));
        assert_eq!(asker.answer(), None);
        let (asker, inbox) = mailbox().unwrap();
        drop(asker);
        inbox.answer(1, Answer::Done);
        assert_eq!(inbox.question(), None);
    }
}
