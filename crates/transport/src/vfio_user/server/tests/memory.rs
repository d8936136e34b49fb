//! The device asks its front-end for memory.

use super::*;
use crate::vfio_user::DmaPort;
use crate::vfio_user::port::CHUNK;
use crate::vfio_user::wire::parse_dma;

/// A conversation, and the device's way to memory.
fn asking(capabilities: &[u8]) -> (Served, Vmm, Arc<dyn DmaPort>) {
    let (served, mut vmm) = Served::connected(Dummy::default());
    vmm.ask(Request::Version { major: 0, minor: 0, capabilities });
    // What was said of the data's size is in force.
    vmm.ask(read(0, 4));
    let port = served.port.lock().unwrap().clone().unwrap();
    (served, vmm, port)
}

/// What the device asks for on a thread of its own.
fn reads(port: &Arc<dyn DmaPort>, address: u64, length: usize) -> JoinHandle<Option<Vec<u8>>> {
    let port = port.clone();
    thread::spawn(move || {
        let mut data = vec![0; length];
        port.read(address, &mut data).then_some(data)
    })
}

fn memory(address: u64, count: u64) -> Vec<u8> {
    (address..address + count).map(|address| (address / 7) as u8).collect()
}

impl Vmm {
    /// The next request of the device.
    fn asked(&mut self) -> (Header, u64, u64, Vec<u8>) {
        let (header, payload) = self.receive();
        assert_eq!(header.kind, Kind::Request { no_reply: false });
        let (address, count, data) = parse_dma(&payload).unwrap();
        (header, address, count, data.to_vec())
    }

    fn answer(&mut self, to: Header, kind: Kind, address: u64, count: u64, data: &[u8]) {
        let payload = match kind {
            Kind::Error(_) => Vec::new(),
            _ => [&address.to_le_bytes()[..], &count.to_le_bytes(), data].concat(),
        };
        let header = Header { size: payload.len(), kind, ..to };
        self.socket.write_all(&[&header.to_bytes()[..], &payload].concat()).unwrap();
    }

    fn give(&mut self) -> u64 {
        let (header, address, count, _) = self.asked();
        assert_eq!(header.command, command::DMA_READ);
        self.answer(header, Kind::Reply, address, count, &memory(address, count));
        count
    }
}

#[test]
fn memory_comes_in_chunks_one_after_the_other() {
    let (mut served, mut vmm, port) = asking(b"{}\0");
    let length = 3 * CHUNK + 5;
    let reader = reads(&port, 0x1234, length);
    let counts: Vec<_> = (0..4).map(|_| vmm.give()).collect();
    assert_eq!(counts, [CHUNK as u64, CHUNK as u64, CHUNK as u64, 5]);
    assert_eq!(reader.join().unwrap(), Some(memory(0x1234, length as u64)));
    drop(vmm);
    served.result().unwrap();
}

#[test]
fn a_front_end_that_takes_less_is_asked_for_less() {
    let (_served, mut vmm, port) = asking(b"{\"capabilities\":{\"max_data_xfer_size\":1000}}\0");
    let reader = reads(&port, 0, 2500);
    assert_eq!([vmm.give(), vmm.give(), vmm.give()], [1000, 1000, 500]);
    assert_eq!(reader.join().unwrap(), Some(memory(0, 2500)));
}

#[test]
fn memory_is_written() {
    let (_served, mut vmm, port) = asking(b"{}\0");
    let data = memory(99, 70_000);
    let sent = data.clone();
    let writer = thread::spawn(move || port.write(0x8000, &sent));
    let mut got = Vec::new();
    for _ in 0..2 {
        let (header, address, count, part) = vmm.asked();
        assert_eq!((header.command, address), (command::DMA_WRITE, 0x8000 + got.len() as u64));
        assert_eq!(count, part.len() as u64);
        got.extend(part);
        vmm.answer(header, Kind::Reply, address, count, &[]);
    }
    assert!(writer.join().unwrap());
    assert_eq!(got, data);
}

#[test]
fn accesses_are_answered_while_memory_is_waited_for() {
    let (_served, mut vmm, port) = asking(b"{}\0");
    let reader = reads(&port, 0x5000, 64);
    let (asked, address, count, _) = vmm.asked();
    // Its number may well be one that the front-end uses too.
    vmm.id = asked.id.wrapping_sub(1);
    for _ in 0..100 {
        vmm.ask(read(0, 4));
    }
    vmm.answer(asked, Kind::Reply, address, count, &memory(address, count));
    assert_eq!(reader.join().unwrap(), Some(memory(0x5000, 64)));
}

#[test]
fn wrong_answers_are_no_memory() {
    let (_served, mut vmm, port) = asking(b"{}\0");
    type Answer = fn(&mut Vmm, Header, u64, u64);
    let wrong: [Answer; 6] = [
        |vmm, header, address, count| vmm.answer(header, Kind::Error(19), address, count, &[]),
        |vmm, header, address, count| vmm.answer(header, Kind::Reply, address, count, &vec![0; count as usize - 1]),
        |vmm, header, address, count| vmm.answer(header, Kind::Reply, address, count, &vec![0; count as usize + 1]),
        |vmm, header, address, count| vmm.answer(header, Kind::Reply, address, count - 1, &vec![0; count as usize - 1]),
        |vmm, header, address, count| vmm.answer(header, Kind::Reply, address + 1, count, &vec![0; count as usize]),
        |vmm, header, address, count| {
            let header = Header { command: command::DMA_WRITE, ..header };
            vmm.answer(header, Kind::Reply, address, count, &vec![0; count as usize]);
        },
    ];
    for answer in wrong {
        let reader = reads(&port, 0x1000, 64);
        let (header, address, count, _) = vmm.asked();
        answer(&mut vmm, header, address, count);
        assert_eq!(reader.join().unwrap(), None);
        // The conversation is in step.
        vmm.ask(read(0, 4));
    }
    let reader = reads(&port, 0x1000, 64);
    vmm.give();
    assert!(reader.join().unwrap().is_some());
}

#[test]
fn answers_to_nothing_mean_nothing() {
    let (_served, mut vmm, port) = asking(b"{}\0");
    for (id, code) in [(0, command::DMA_READ), (1, command::DMA_WRITE), (0xffff, command::RESET), (3, 500)] {
        let header = Header { id, command: code, size: 0, kind: Kind::Reply };
        vmm.answer(header, Kind::Reply, 0x1000, 64, &memory(0x1000, 64));
        vmm.answer(header, Kind::Error(5), 0, 0, &[]);
    }
    vmm.ask(read(0, 4));
    let reader = reads(&port, 0x1000, 64);
    let (asked, address, count, _) = vmm.asked();
    let other = Header { id: asked.id.wrapping_add(1), ..asked };
    vmm.answer(other, Kind::Reply, address, count, &[0xee; 64]);
    vmm.answer(asked, Kind::Reply, address, count, &memory(address, count));
    // Twice.
    vmm.answer(asked, Kind::Reply, address, count, &[0xee; 64]);
    assert_eq!(reader.join().unwrap(), Some(memory(0x1000, 64)));
}

#[test]
fn who_waits_is_let_go_when_the_control_thread_is_about_to_wait() {
    let (_served, mut vmm, port) = asking(b"{}\0");
    let reader = reads(&port, 0x1000, 3 * CHUNK);
    let (asked, address, count, _) = vmm.asked();
    port.suspend();
    assert_eq!(reader.join().unwrap(), None);
    assert_eq!(reads(&port, 0x1000, 64).join().unwrap(), None);
    port.resume();
    // The answer to what was given up is late, and is not taken for the next one.
    let reader = reads(&port, 0x2000, 64);
    let (next, ..) = vmm.asked();
    assert_ne!(next.id, asked.id);
    vmm.answer(asked, Kind::Reply, address, count, &vec![0xee; count as usize]);
    vmm.answer(next, Kind::Reply, 0x2000, 64, &memory(0x2000, 64));
    assert_eq!(reader.join().unwrap(), Some(memory(0x2000, 64)));
    // Who waits notices even a wait that is over by then.
    let reader = reads(&port, 0x3000, 64);
    vmm.asked();
    port.suspend();
    port.resume();
    assert_eq!(reader.join().unwrap(), None);
}

#[test]
fn a_front_end_that_goes_lets_go_who_waits() {
    let (mut served, mut vmm, port) = asking(b"{}\0");
    let reader = reads(&port, 0x1000, 64);
    vmm.asked();
    drop(vmm);
    assert_eq!(reader.join().unwrap(), None);
    served.result().unwrap();
    // Nobody is asked any more.
    assert_eq!(reads(&port, 0x1000, 64).join().unwrap(), None);
    assert!(!port.write(0, &[0]));
}
