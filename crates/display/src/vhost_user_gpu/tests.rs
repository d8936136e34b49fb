mod conversations;
mod pictures;
mod pressure;
mod vmm;
