//! The GPU as its transport serves it, with a mailbox beside the guest's queues: who asks over the control socket is
//! answered by the thread that owns the GPU, one question between two polls.

use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use device::gpu::Gpu;
use device::virtio::{Answer, ConfigSpace, Outbox, Request, Start, Ticket, VirtioDevice};
use device::{Memory, Meter, guest_log};
use protocol::ScanoutId;

use crate::control::mailbox::{self, Inbox, Question};

/// A GPU and who may ask about it.
pub struct Vgpu {
    gpu: Gpu,
    meter: Meter,
    inbox: Option<Inbox>,
}

impl Vgpu {
    /// Without an inbox nobody asks.
    pub fn new(gpu: Gpu, inbox: Option<Inbox>) -> Self {
        Vgpu { meter: Meter::new(gpu.stats().clone()), gpu, inbox }
    }

    fn answer(&mut self, memory: &Memory, question: Question, out: &mut Outbox) -> mailbox::Answer {
        use mailbox::Answer::{Done, Heads, Missing, Picture, Refused};
        match question {
            Question::Heads => Heads(self.gpu.modes()),
            Question::Screenshot { head } => match self.gpu.capture(memory, ScanoutId(head)) {
                Some(capture) => Picture(capture),
                None => Missing("This head shows nothing"),
            },
            Question::Resize { head, width, height } => match self.gpu.modes().get(head as usize) {
                None => Missing("There is no such head"),
                Some(mode) if (mode.width, mode.height) == (width, height) => Done,
                Some(_) if self.gpu.resize(ScanoutId(head), width, height) => {
                    out.config_changed = true;
                    Done
                }
                Some(_) => Refused("The VMM owns the sizes of its heads: resize its window"),
            },
        }
    }
}

impl VirtioDevice for Vgpu {
    fn device_id(&self) -> u32 {
        self.gpu.device_id()
    }

    fn queue_sizes(&self) -> &[u16] {
        self.gpu.queue_sizes()
    }

    fn features(&self) -> u64 {
        self.gpu.features()
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.gpu.config()
    }

    fn start(&mut self, features: u64, start: Start) {
        self.gpu.start(features, start);
    }

    fn catch_up(&mut self, memory: &Memory) {
        self.gpu.catch_up(memory);
    }

    fn stop(&mut self) {
        self.gpu.stop();
    }

    fn reset(&mut self) {
        self.meter.forget();
        self.gpu.reset();
    }

    fn request(&mut self, memory: &Memory, queue: u16, request: Request<'_>, reply: &mut Vec<u8>) -> Answer {
        let (bytes, errors) = (request.bytes, self.meter.errors());
        let answer = self.gpu.request(memory, queue, request, reply);
        self.meter.count(bytes, errors, answer, reply);
        answer
    }

    fn is_full(&self, queue: u16) -> bool {
        self.gpu.is_full(queue)
    }

    fn poll(&mut self, memory: &Memory, now: Instant, out: &mut Outbox) {
        self.meter.batch(now, Instant::now);
        self.gpu.poll(memory, now, out);
        self.meter.complete(&out.completions, Instant::now);
        let Some((token, question)) = self.inbox.as_ref().and_then(Inbox::question) else { return };
        let answer = catch_unwind(AssertUnwindSafe(|| self.answer(memory, question, out))).unwrap_or_else(|_| {
            guest_log!(error, "Caught a panic while answering {question:?}");
            mailbox::Answer::Missing("The device failed to answer")
        });
        if let Some(inbox) = &self.inbox {
            inbox.answer(token, answer);
        }
    }

    fn shared_memory(&self) -> Vec<u64> {
        self.gpu.shared_memory()
    }

    fn memory(&mut self, memory: &Memory) {
        self.gpu.memory(memory);
    }

    fn mapped(&mut self, ticket: Ticket, ok: bool) {
        self.gpu.mapped(ticket, ok);
    }

    fn abandon(&mut self, out: &mut Outbox) {
        self.gpu.abandon(out);
        self.meter.complete(&out.completions, Instant::now);
    }

    fn config_accessed(&mut self) {
        self.gpu.config_accessed();
    }

    fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = self.gpu.poll_fds();
        fds.extend(self.inbox.as_ref().map(Inbox::fd));
        fds
    }

    fn deadline(&self) -> Option<Instant> {
        self.gpu.deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::mailbox::{Answer as Said, Asker, mailbox};
    use device::gpu::GpuOptions;
    use device::stats::Stats;

    struct Quiet;

    impl device::Display for Quiet {
        fn set_scanout(&mut self, _: ScanoutId, _: Option<&device::Frame<'_>>) {}
        fn flush(&mut self, _: ScanoutId, _: &device::Frame<'_>, _: protocol::Rect) {}
        fn cursor(&mut self, _: &device::Cursor<'_>) {}
        fn move_cursor(&mut self, _: ScanoutId, _: u32, _: u32) {}
    }

    fn vgpu() -> (Vgpu, Asker) {
        let stats = Arc::new(Stats::default());
        let gpu = Gpu::new(GpuOptions::default(), Box::new(renderer::Null), Box::new(Quiet), stats);
        let (asker, inbox) = mailbox().unwrap();
        (Vgpu::new(gpu, Some(inbox)), asker)
    }

    /// The device's answer to one question, and whether the driver was told of new sizes.
    fn ask(vgpu: &mut Vgpu, asker: &Asker, question: Question) -> (Said, bool) {
        assert!(asker.ask(1, question));
        let mut out = Outbox::default();
        vgpu.poll(&Memory::empty(), Instant::now(), &mut out);
        (asker.answer().unwrap().1, out.config_changed)
    }

    #[test]
    fn a_resize_is_told_to_the_driver_once() {
        let (mut vgpu, asker) = vgpu();
        let resize = Question::Resize { head: 0, width: 1024, height: 768 };
        assert_eq!(ask(&mut vgpu, &asker, resize), (Said::Done, true));
        assert_eq!(ask(&mut vgpu, &asker, resize), (Said::Done, false));
        let (Said::Heads(heads), _) = ask(&mut vgpu, &asker, Question::Heads) else { panic!("no heads") };
        assert_eq!((heads.len(), heads[0].width, heads[0].height), (1, 1024, 768));
    }

    #[test]
    fn heads_that_are_dark_or_absent_are_missing() {
        let (mut vgpu, asker) = vgpu();
        for question in [
            Question::Screenshot { head: 0 },
            Question::Screenshot { head: 99 },
            Question::Resize { head: 1, width: 640, height: 480 },
        ] {
            assert!(matches!(ask(&mut vgpu, &asker, question), (Said::Missing(_), false)), "{question:?}");
        }
    }

    #[test]
    fn one_question_is_answered_between_two_polls() {
        let (mut vgpu, asker) = vgpu();
        assert!(asker.ask(1, Question::Heads) && asker.ask(2, Question::Heads));
        vgpu.poll(&Memory::empty(), Instant::now(), &mut Outbox::default());
        assert_eq!(asker.answer().map(|(token, _)| token), Some(1));
        assert_eq!(asker.answer(), None);
        vgpu.poll(&Memory::empty(), Instant::now(), &mut Outbox::default());
        assert_eq!(asker.answer().map(|(token, _)| token), Some(2));
    }

    #[test]
    fn a_conversation_is_counted_by_command_with_its_errors_and_its_times() {
        let (mut vgpu, _asker) = vgpu();
        let stats = vgpu.gpu.stats().clone();
        let (memory, began, mut out) = (Memory::empty(), Instant::now(), Outbox::default());
        // GET_DISPLAY_INFO with a fence, RESOURCE_CREATE_2D of nothing, RESOURCE_UNREF of what is not there, MOVE_CURSOR without
        // room for a reply on the queue of all others, and half a header.
        for (words, queue, writable) in [
            ([0x100, 1, 7, 0, 0, 0, 0, 0, 0, 0].as_slice(), 0, 4096),
            (&[0x101, 0, 0, 0, 0, 0, 0, 1, 64, 64], 0, 24),
            (&[0x102, 0, 0, 0, 0, 0, 9, 0], 0, 24),
            (&[0x301, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, 0),
            (&[0x100, 0, 0], 0, 24),
        ] {
            let bytes: Vec<u8> = words.iter().copied().flat_map(u32::to_le_bytes).collect();
            let request = Request { bytes: &bytes, carried: bytes.len() as u64, writable };
            assert_eq!(vgpu.request(&memory, queue, request, &mut Vec::new()), device::Answer::Done);
        }
        vgpu.poll(&memory, began, &mut out);
        vgpu.poll(&memory, began, &mut out);
        let some = |counts: &mut dyn Iterator<Item = (&'static str, u64)>| {
            counts.filter(|(_, count)| *count > 0).map(|(name, _)| name).collect::<Vec<_>>()
        };
        let failed = ["resource_create_2d", "resource_unref", "move_cursor", "unknown"];
        assert_eq!(some(&mut stats.traffic.commands()), [&["get_display_info"], &failed[..]].concat());
        assert_eq!(some(&mut stats.traffic.errors()), failed);
        assert_eq!(stats.traffic.errors().map(|(_, count)| count).sum::<u64>(), stats.errors.get());
        let count = |times: device::stats::Times| times.counts.iter().sum::<u64>();
        assert_eq!((count(stats.traffic.queue.times()), count(stats.traffic.fence.times())), (5, 1));
    }
}
