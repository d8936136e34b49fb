//! Windows that nobody should ask for.

use std::os::unix::net::UnixStream;

use super::*;

#[test]
fn vfio_user_impossible_windows_are_refused_and_change_nothing() {
    let (mut table, ram) = (table(), memfd(RAM));
    table.map(window(0x1000_0000, 0x10_0000, 0), copy(&ram)).unwrap();
    table.map(window(0x2000_0000, 0x10_0000, 0), None).unwrap();
    let generation = table.take_table().unwrap().generation();
    let (pipe, _writer) = rustix::pipe::pipe().unwrap();
    let short = memfd(RAM);
    short.set_len(0x1800).unwrap();
    let fd = |file: OwnedFd| Some(file);
    let (invalid, exists) = (Errno::INVAL, Errno::EXIST);
    let none = Window { readable: false, writable: false, ..window(0, 4096, 0) };
    let cases = [
        ("empty", window(0, 0, 0), copy(&ram), invalid),
        ("empty and far", window(0, 0, 0), None, invalid),
        ("wraps", window(u64::MAX - 4095, 8192, 0), copy(&ram), invalid),
        ("ends at 2^64", window(u64::MAX - 4095, 4096, 0), None, invalid),
        ("as large as it gets", window(4096, u64::MAX - 4095, 0), None, invalid),
        ("an offset that wraps", window(0, 8192, u64::MAX - 4095), copy(&ram), invalid),
        ("not aligned", window(1, 4096, 0), copy(&ram), invalid),
        ("not aligned at its end", window(0, 4097, 0), copy(&ram), invalid),
        ("not aligned in its file", window(0, 4096, 512), copy(&ram), invalid),
        ("for nothing", none, copy(&ram), invalid),
        ("past its file", window(0, 4096, RAM), copy(&ram), invalid),
        ("longer than its file", window(1 << 40, RAM + 4096, 0), copy(&ram), invalid),
        ("2^63 of a file", window(1 << 40, 1 << 63, 0), copy(&ram), invalid),
        ("of a file that was cut", window(0, 0x2000, 0), copy(&short), invalid),
        ("of a pipe", window(0, 4096, 0), fd(pipe), Errno::NOTSUP),
        ("of a socket", window(0, 4096, 0), fd(UnixStream::pair().unwrap().0.into()), Errno::NOTSUP),
        ("of a directory", window(0, 4096, 0), fd(File::open("/").unwrap().into()), Errno::NOTSUP),
        ("of a file to read", window(0, 4096, 0), fd(File::open("/proc/self/exe").unwrap().into()), Errno::NOTSUP),
        ("twice", window(0x1000_0000, 0x10_0000, 0), copy(&ram), exists),
        ("over the start", window(0x0fff_f000, 0x2000, 0), copy(&ram), exists),
        ("over the end", window(0x100f_f000, 0x2000, 0), None, exists),
        ("inside", window(0x1000_1000, 0x1000, 0), Some(memfd(4096).into()), exists),
        ("around", window(0x0fff_f000, 0x20_0000, 0), None, exists),
        ("around everything", window(0, 1 << 62, 0), None, exists),
        ("over a far one", window(0x2000_0000, 0x1000, 0), copy(&ram), exists),
    ];
    for (name, window, file, errno) in cases {
        assert_eq!(table.map(window, file).map_err(|why| why.errno), Err(errno), "{name}");
    }
    for range in [(0x1000_0000, 0x1000), (0x100f_f000, 0x1000), (0x1000_0000, 0), (0, 0), (u64::MAX, u64::MAX)] {
        assert_eq!(table.unmap(Some(range)).map_err(|why| why.errno), Err(invalid), "{range:x?}");
    }
    // Nothing is open there.
    for range in [(0, 4096), (1 << 63, 1 << 63)] {
        assert_eq!(table.unmap(Some(range)).map_err(|why| why.errno), Ok(()), "{range:x?}");
    }
    assert!(table.take_table().is_none());
    assert_eq!(table.taken.generation(), generation);
    table.unmap(Some((0x1000_0000, 0x10_0000))).unwrap();
    table.unmap(Some((0x1000_0000, 0x10_0000))).unwrap();
    table.unmap(None).unwrap();
    table.unmap(None).unwrap();
    assert!(table.take_table().unwrap().regions().is_empty());
}

#[test]
fn vfio_user_as_many_windows_as_were_promised_and_no_more() {
    let (mut table, ram) = (table(), memfd(4 * PAGE));
    for at in 0..MAX_WINDOWS as u64 {
        // No two go on where the other ends.
        table.map(window(2 * at * PAGE, PAGE, at % 4 * PAGE), copy(&ram)).unwrap();
    }
    let more = window(1 << 40, PAGE, 0);
    assert_eq!(table.map(more, copy(&ram)).unwrap_err().errno, Errno::NOSPC);
    let memory = table.take_table().unwrap();
    assert_eq!(memory.regions().len(), MAX_WINDOWS);
    assert!(memory.regions().iter().all(|region| Arc::ptr_eq(&region.mapping, &memory.regions()[0].mapping)));
    table.unmap(Some((0, PAGE))).unwrap();
    table.map(more, copy(&ram)).unwrap();
    // The same without a file, which costs one descriptor and one mapping.
    table.unmap(None).unwrap();
    for at in 0..MAX_WINDOWS as u64 {
        table.map(window(2 * at * PAGE, PAGE, 0), None).unwrap();
    }
    let memory = table.take_table().unwrap();
    assert!(memory.regions().iter().all(|region| Arc::ptr_eq(&region.mapping, &memory.regions()[0].mapping)));
}

#[test]
fn vfio_user_huge_windows_of_nothing_cost_nothing_and_the_others_are_there() {
    let (mut table, ram) = (table(), memfd(RAM));
    table.map(window(0, RAM, 0), copy(&ram)).unwrap();
    table.map(window(1 << 62, 1 << 62, 0), None).unwrap();
    let memory = table.take_table().unwrap();
    assert!(memory.target(0, 1).is_some() && memory.target(1 << 62, 1).is_none());
    table.unmap(Some((1 << 62, 1 << 62))).unwrap();
    table.map(window(1 << 42, 1 << 42, 0), None).unwrap();
    assert!(table.take_table().unwrap().target(1 << 42, 1).is_some(), "what fits our address space is there");
}

#[test]
fn vfio_user_a_file_that_no_address_space_holds_is_mapped_in_pieces() {
    let (mut table, huge) = (table(), memfd(1 << 60));
    for at in [0, 1u64 << 50, (1 << 60) - PAGE] {
        rustix::io::pwrite(&huge, &[at.count_ones() as u8 + 7], at).unwrap();
        table.map(window(at, PAGE, at), copy(&huge)).unwrap();
        assert_eq!(read(&table.take_table().unwrap(), at), Some(at.count_ones() as u8 + 7));
    }
}

#[test]
fn a_file_that_grows_is_mapped_anew() {
    let (mut table, ram) = (table(), memfd(PAGE));
    table.map(window(0, PAGE, 0), copy(&ram)).unwrap();
    let page = table.take_table().unwrap().regions()[0].mapping.size() as u64;
    ram.set_len(4 * page).unwrap();
    rustix::io::pwrite(&ram, &[9], 2 * page).unwrap();
    table.map(window(1 << 30, page, 2 * page), copy(&ram)).unwrap();
    let memory = table.take_table().unwrap();
    assert_eq!((read(&memory, 0), read(&memory, 1 << 30)), (Some(0), Some(9)));
}

#[test]
fn vfio_user_memory_that_is_cut_short_reads_as_zeros() {
    crate::sigbus::install().unwrap();
    let (mut table, ram) = (table(), memfd(4 * PAGE));
    rustix::io::pwrite(&ram, &[9; 8192], 0).unwrap();
    table.map(window(0, 4 * PAGE, 0), copy(&ram)).unwrap();
    let memory = table.take_table().unwrap();
    ram.set_len(PAGE).unwrap();
    assert_eq!([0, PAGE, 3 * PAGE].map(|at| read(&memory, at)), [Some(9), Some(0), Some(0)]);
    assert!(crate::sigbus::faults_here() > 0);
    // It does not come back, and neither does another window on what is gone.
    assert_eq!(table.map(window(1 << 30, PAGE, PAGE), copy(&ram)).unwrap_err().errno, Errno::INVAL);
}
