//! Interrupts of a PCI function: the pin, a message, or MSI-X, each told by an eventfd.
//!
//! The control thread changes the ways, the gpu thread takes them. Whatever becomes due while there is no way is told as soon
//! as there is one: a VMM takes eventfds away and brings them again whenever a vector is set up.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::interrupt::{Interrupt, never_blocking, signal};
use crate::worker::{Done, Wired};

/// MSI-X vectors: the configuration and two queues.
pub const VECTORS: u16 = 3;
/// VIRTIO_MSI_NO_VECTOR.
pub const NO_VECTOR: u16 = 0xffff;

/// Bits of the ISR status (virtio 1.3, section 4.1.4.5).
mod isr {
    pub const QUEUE: u8 = 1;
    /// The Windows driver takes a configuration change only when the queue bit comes with it.
    pub const CONFIG: u8 = 2 | QUEUE;
}

/// What the guest chose in the configuration space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enabled {
    /// Bit 10 of the command register is clear.
    pub intx: bool,
    /// Bit 0 of the MSI control.
    pub msi: bool,
    /// Bit 15 of the MSI-X control.
    pub msix: bool,
    /// Bit 14 of the MSI-X control: nothing is told, everything remembered.
    pub msix_masked: bool,
}

/// How a driver is told, shared by the control thread and the gpu thread.
#[derive(Debug)]
pub struct Irqs {
    state: Mutex<State>,
    halts: Done,
}

#[derive(Debug)]
struct State {
    enabled: Enabled,
    isr: u8,
    needs_reset: bool,
    generation: u8,
    pin: Option<OwnedFd>,
    /// Told and not yet unmasked; or masked by the VMM.
    masked: bool,
    message: Vector,
    vectors: [Vector; VECTORS as usize],
    config_vector: u16,
    queue_vectors: Vec<u16>,
    /// How many halts the gpu thread must have carried out before it speaks for the driver of now.
    halts: u64,
}

/// A message-signalled interrupt.
#[derive(Debug, Default)]
struct Vector {
    fd: Option<OwnedFd>,
    /// Due, and not told.
    missed: bool,
}

impl Vector {
    /// Tells what is due.
    fn catch_up(&mut self) {
        if self.missed
            && let Some(fd) = &self.fd
        {
            self.missed = false;
            signal(fd);
        }
    }
}

impl Irqs {
    /// For a device with so many queues. Nobody is told anything yet.
    pub fn new(queues: usize) -> Self {
        let state = State {
            enabled: Enabled::default(),
            isr: 0,
            needs_reset: false,
            generation: 0,
            pin: None,
            masked: false,
            message: Vector::default(),
            vectors: Default::default(),
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues],
            halts: 0,
        };
        Self { state: Mutex::new(state), halts: Done::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts the halts that the gpu thread carried out.
    pub fn halts(&self) -> &Done {
        &self.halts
    }

    /// The gpu thread is not heard until it carried out so many halts: until then it speaks for a driver that is gone.
    pub fn await_halts(&self, halts: u64) {
        self.state().halts = halts;
    }

    /// The driver reset the device: nothing is due, and no vector is set.
    pub fn reset_driver(&self) {
        let mut state = self.state();
        state.isr = 0;
        state.needs_reset = false;
        state.message.missed = false;
        for vector in &mut state.vectors {
            vector.missed = false;
        }
        state.config_vector = NO_VECTOR;
        state.queue_vectors.fill(NO_VECTOR);
    }

    /// What the guest chose changed.
    pub fn enable(&self, enabled: Enabled) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.enabled, enabled);
        if before.msix && !enabled.msix {
            for vector in &mut state.vectors {
                vector.missed = false;
            }
        }
        if before.msi && !enabled.msi {
            state.message.missed = false;
        }
        state.catch_up();
    }

    /// Reads the ISR status, which clears it.
    pub fn take_isr(&self) -> u8 {
        std::mem::take(&mut self.state().isr)
    }

    /// Whether the device cannot go on without a reset.
    pub fn needs_reset(&self) -> bool {
        self.state().needs_reset
    }

    /// Counts changes of the configuration.
    pub fn generation(&self) -> u8 {
        self.state().generation
    }

    /// The vectors that are due, a bit each.
    pub fn pending(&self) -> u64 {
        let state = self.state();
        state.vectors.iter().enumerate().map(|(index, vector)| u64::from(vector.missed) << index).sum()
    }

    /// The vector of configuration changes.
    pub fn config_vector(&self) -> u16 {
        self.state().config_vector
    }

    /// Sets it; a vector that is not there is none.
    pub fn set_config_vector(&self, vector: u16) {
        let mut state = self.state();
        state.config_vector = if vector < VECTORS { vector } else { NO_VECTOR };
    }

    /// The vector of a queue.
    pub fn queue_vector(&self, queue: u16) -> u16 {
        self.state().queue_vectors.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR)
    }

    /// Sets it; a vector that is not there is none.
    pub fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(place) = self.state().queue_vectors.get_mut(usize::from(queue)) {
            *place = if vector < VECTORS { vector } else { NO_VECTOR };
        }
    }

    /// Where the pin is told from now on; masked no more.
    pub fn set_pin(&self, fd: Option<OwnedFd>) {
        let mut state = self.state();
        state.pin = fd.map(never_blocking);
        state.masked = false;
        state.catch_up();
    }

    /// Nothing is told by the pin until it is unmasked.
    pub fn mask_pin(&self) {
        self.state().masked = true;
    }

    /// The VMM has seen what was told by the pin.
    pub fn unmask_pin(&self) {
        let mut state = self.state();
        state.masked = false;
        state.catch_up();
    }

    /// Where MSI is told from now on.
    pub fn set_message(&self, fd: Option<OwnedFd>) {
        let mut state = self.state();
        state.message.fd = fd.map(never_blocking);
        state.catch_up();
    }

    /// Where a vector of MSI-X is told from now on.
    pub fn set_vector(&self, vector: u32, fd: Option<OwnedFd>) {
        let mut state = self.state();
        if let Some(place) = state.vectors.get_mut(vector as usize) {
            place.fd = fd.map(never_blocking);
        }
        state.catch_up();
    }

    /// Tells the pin, whatever is due.
    pub fn trigger_pin(&self) {
        self.state().pin.iter().for_each(signal);
    }

    /// Tells MSI, whatever is due.
    pub fn trigger_message(&self) {
        self.state().message.fd.iter().for_each(signal);
    }

    /// Tells a vector of MSI-X, whatever is due.
    pub fn trigger_vector(&self, vector: u32) {
        self.state().vectors.get(vector as usize).and_then(|vector| vector.fd.as_ref()).into_iter().for_each(signal);
    }

    /// The front-end is gone, and its guest with it.
    pub fn hang_up(&self) {
        let mut state = self.state();
        let (queues, halts, generation) = (state.queue_vectors.len(), state.halts, state.generation);
        *state = Self::new(queues).state.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        (state.halts, state.generation) = (halts, generation);
    }

    /// Has the driver told, unless it is one that the gpu thread does not know yet.
    fn raise(&self, bits: u8, vector: impl Fn(&State) -> u16) {
        let mut state = self.state();
        if self.halts.count() < state.halts {
            return;
        }
        if bits == isr::CONFIG {
            state.generation = state.generation.wrapping_add(1);
        }
        if state.enabled.msix {
            let vector = vector(&state);
            if let Some(vector) = state.vectors.get_mut(usize::from(vector)) {
                vector.missed = true;
            }
        } else {
            state.isr |= bits;
            state.message.missed = state.enabled.msi;
        }
        state.catch_up();
    }
}

impl State {
    /// Tells all that is due and can be told.
    fn catch_up(&mut self) {
        if self.enabled.msix {
            if !self.enabled.msix_masked {
                self.vectors.iter_mut().for_each(Vector::catch_up);
            }
        } else if self.enabled.msi {
            self.message.catch_up();
        } else if self.isr != 0
            && self.enabled.intx
            && !self.masked
            && let Some(pin) = &self.pin
        {
            self.masked = true;
            signal(pin);
        }
    }
}

impl Interrupt for Arc<Irqs> {
    fn queue(&mut self, queue: u16) {
        self.raise(isr::QUEUE, |state| state.queue_vectors.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR));
    }

    fn config(&mut self) {
        self.raise(isr::CONFIG, |state| state.config_vector);
    }

    fn broken(&mut self, _queue: u16) {
        let mut state = self.state();
        if self.halts.count() < state.halts {
            return;
        }
        state.needs_reset = true;
        drop(state);
        self.config();
    }
}

impl Wired for Arc<Irqs> {
    type Change = std::convert::Infallible;

    fn change(&mut self, change: Self::Change) {
        match change {}
    }

    fn reset(&mut self) {
        self.hang_up();
    }
}

#[cfg(test)]
mod tests;
