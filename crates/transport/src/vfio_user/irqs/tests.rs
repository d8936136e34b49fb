use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::*;

const PIN: Enabled = Enabled { intx: true, msi: false, msix: false, msix_masked: false };
const MSIX: Enabled = Enabled { intx: false, msi: false, msix: true, msix_masked: false };

/// An eventfd for the device, and how often it was told since one looked.
struct Bell(OwnedFd);

impl Bell {
    fn new() -> Self {
        Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
    }

    fn fd(&self) -> Option<OwnedFd> {
        Some(self.0.try_clone().unwrap())
    }

    fn rung(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(error) => {
                assert_eq!(error, Errno::AGAIN);
                0
            }
        }
    }
}

fn irqs(enabled: Enabled) -> Arc<Irqs> {
    let irqs = Arc::new(Irqs::new(2));
    irqs.enable(enabled);
    irqs
}

fn with_pin() -> (Arc<Irqs>, Bell) {
    let (irqs, bell) = (irqs(PIN), Bell::new());
    irqs.set_pin(bell.fd());
    (irqs, bell)
}

/// Vector 0 for the configuration, 1 and 2 for the queues, as Linux and Windows have it.
fn with_vectors() -> (Arc<Irqs>, [Bell; 3]) {
    let (irqs, bells) = (irqs(MSIX), [Bell::new(), Bell::new(), Bell::new()]);
    irqs.set_config_vector(0);
    irqs.set_queue_vector(0, 1);
    irqs.set_queue_vector(1, 2);
    for (vector, bell) in (0..).zip(&bells) {
        irqs.set_vector(vector, bell.fd());
    }
    (irqs, bells)
}

#[test]
fn the_pin_is_told_once_until_the_vmm_unmasks_it() {
    let (irqs, bell) = with_pin();
    irqs.clone().queue(0);
    irqs.clone().queue(1);
    assert_eq!(bell.rung(), 1);
    assert_eq!(irqs.take_isr(), 1);
    irqs.unmask_pin();
    assert_eq!(bell.rung(), 0, "the driver has seen all");
    irqs.clone().queue(0);
    assert_eq!(bell.rung(), 1);
}

/// QEMU takes any access to a BAR for the end of an interrupt, so a kick unmasks what the driver has not looked at yet.
#[test]
fn an_interrupt_that_was_unmasked_before_the_driver_looked_is_told_again() {
    let (irqs, bell) = with_pin();
    irqs.clone().queue(0);
    assert_eq!(bell.rung(), 1);
    irqs.unmask_pin();
    assert_eq!(bell.rung(), 1);
    irqs.unmask_pin();
    assert_eq!(bell.rung(), 1);
    assert_eq!(irqs.take_isr(), 1);
    irqs.unmask_pin();
    assert_eq!(bell.rung(), 0);
}

#[test]
fn what_becomes_due_between_the_drivers_look_and_the_unmasking_is_told() {
    let (irqs, bell) = with_pin();
    irqs.clone().queue(0);
    assert_eq!((bell.rung(), irqs.take_isr()), (1, 1));
    irqs.clone().config();
    assert_eq!(bell.rung(), 0, "it is masked");
    irqs.unmask_pin();
    assert_eq!((bell.rung(), irqs.take_isr()), (1, 3));
}

#[test]
fn a_disabled_or_masked_pin_is_told_when_it_is_not_any_more() {
    let (irqs, bell) = with_pin();
    irqs.enable(Enabled { intx: false, ..PIN });
    irqs.clone().queue(0);
    assert_eq!(bell.rung(), 0);
    irqs.enable(PIN);
    assert_eq!(bell.rung(), 1);
    irqs.take_isr();
    irqs.unmask_pin();
    irqs.mask_pin();
    irqs.clone().queue(0);
    assert_eq!(bell.rung(), 0);
    irqs.unmask_pin();
    assert_eq!(bell.rung(), 1);
}

#[test]
fn a_pin_that_comes_late_is_told_what_is_due() {
    let irqs = irqs(PIN);
    irqs.clone().queue(0);
    let bell = Bell::new();
    irqs.set_pin(bell.fd());
    assert_eq!(bell.rung(), 1);
}

/// The Windows driver takes an ISR status of 1 or 3, and ignores 2.
#[test]
fn a_change_of_the_configuration_sets_both_bits() {
    let (irqs, bell) = with_pin();
    irqs.clone().config();
    assert_eq!((bell.rung(), irqs.take_isr(), irqs.take_isr()), (1, 3, 0));
    assert_eq!(irqs.generation(), 1);
}

#[test]
fn each_queue_and_the_configuration_have_their_vectors() {
    let (irqs, bells) = with_vectors();
    let rung = || bells.each_ref().map(Bell::rung);
    irqs.clone().queue(0);
    assert_eq!(rung(), [0, 1, 0]);
    irqs.clone().queue(1);
    assert_eq!(rung(), [0, 0, 1]);
    irqs.clone().config();
    assert_eq!(rung(), [1, 0, 0]);
    assert_eq!(irqs.take_isr(), 0, "the ISR status is of the pin");
}

/// QEMU takes all eventfds away and brings them again for each vector that is set up.
#[test]
fn a_vector_that_is_due_while_its_eventfd_is_away_is_told_when_it_comes_back() {
    let (irqs, bells) = with_vectors();
    for vector in 0..3 {
        irqs.set_vector(vector, None);
    }
    irqs.clone().queue(0);
    irqs.clone().queue(0);
    assert_eq!(irqs.pending(), 0b010);
    irqs.set_vector(0, bells[0].fd());
    assert_eq!(irqs.pending(), 0b010);
    irqs.set_vector(1, bells[1].fd());
    assert_eq!(bells.each_ref().map(Bell::rung), [0, 1, 0]);
    assert_eq!(irqs.pending(), 0);
}

#[test]
fn a_function_mask_holds_vectors_back_and_forgets_none() {
    let (irqs, bells) = with_vectors();
    irqs.enable(Enabled { msix_masked: true, ..MSIX });
    irqs.clone().queue(0);
    irqs.clone().config();
    assert_eq!((bells.each_ref().map(Bell::rung), irqs.pending()), ([0, 0, 0], 0b011));
    irqs.enable(MSIX);
    assert_eq!((bells.each_ref().map(Bell::rung), irqs.pending()), ([1, 1, 0], 0));
}

#[test]
fn what_has_no_vector_is_not_told() {
    let (irqs, bells) = with_vectors();
    irqs.set_queue_vector(0, NO_VECTOR);
    irqs.set_config_vector(VECTORS);
    assert_eq!(irqs.config_vector(), NO_VECTOR, "a vector that is not there reads back as none");
    irqs.clone().queue(0);
    irqs.clone().queue(77);
    irqs.clone().config();
    assert_eq!((bells.each_ref().map(Bell::rung), irqs.pending()), ([0, 0, 0], 0));
}

#[test]
fn vectors_that_are_switched_off_are_not_told_later() {
    let (irqs, bells) = with_vectors();
    irqs.enable(Enabled { msix_masked: true, ..MSIX });
    irqs.clone().queue(0);
    irqs.enable(PIN);
    irqs.enable(MSIX);
    assert_eq!(bells.each_ref().map(Bell::rung), [0, 0, 0]);
}

#[test]
fn one_message_serves_all_and_the_isr_status_says_what_it_was() {
    let (irqs, bell) = (irqs(Enabled { msi: true, ..PIN }), Bell::new());
    irqs.set_message(bell.fd());
    irqs.clone().queue(0);
    irqs.clone().queue(1);
    assert_eq!((bell.rung(), irqs.take_isr()), (2, 1));
    irqs.set_message(None);
    irqs.clone().config();
    irqs.set_message(bell.fd());
    assert_eq!((bell.rung(), irqs.take_isr()), (1, 3));
}

#[test]
fn a_broken_ring_asks_for_a_reset_and_tells_the_configuration_changed() {
    let (irqs, bell) = with_pin();
    irqs.clone().broken(0);
    assert!(irqs.needs_reset());
    assert_eq!((bell.rung(), irqs.take_isr()), (1, 3));
    irqs.reset_driver();
    assert!(!irqs.needs_reset());
}

#[test]
fn what_the_gpu_thread_says_for_a_driver_that_is_gone_is_not_told_to_the_next() {
    let (irqs, bell) = with_pin();
    irqs.await_halts(1);
    irqs.reset_driver();
    irqs.clone().queue(0);
    irqs.clone().config();
    irqs.clone().broken(1);
    assert_eq!((bell.rung(), irqs.take_isr(), irqs.generation()), (0, 0, 0));
    assert!(!irqs.needs_reset());
}

#[test]
fn a_front_end_that_is_gone_leaves_nothing_to_the_next() {
    let (irqs, bells) = with_vectors();
    irqs.enable(Enabled { msix_masked: true, ..MSIX });
    irqs.clone().queue(0);
    irqs.clone().broken(0);
    irqs.hang_up();
    irqs.enable(MSIX);
    for (vector, bell) in (0..).zip(&bells) {
        irqs.set_vector(vector, bell.fd());
    }
    irqs.clone().queue(0);
    assert_eq!(bells.each_ref().map(Bell::rung), [0, 0, 0], "no vector is set");
    assert!(!irqs.needs_reset());
}

#[test]
fn what_can_be_told_no_more_does_not_hold_the_device_up() {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    rustix::fs::fcntl_setfl(&theirs, OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&theirs, &[0; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&theirs, OFlags::empty()).unwrap();
    let (irqs, _) = with_vectors();
    irqs.set_vector(1, Some(theirs));
    irqs.clone().queue(0);
    drop(ours);
    irqs.clone().queue(0);
    irqs.set_vector(1, Some(std::fs::File::open("/dev/null").unwrap().into()));
    irqs.clone().queue(0);
    assert_eq!(irqs.pending(), 0);
}
