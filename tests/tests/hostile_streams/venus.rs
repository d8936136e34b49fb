//! Words of a Venus context: Vulkan calls, each its number, flags and arguments, of which a pointer is a number of elements.

use crate::virgl::{Stream, halves};

/// Numbers of the calls that are used here.
const CREATE_INSTANCE: u32 = 0;
const SET_REPLY: u32 = 178;
const SEEK_REPLY: u32 = 179;
const EXECUTE: u32 = 180;
const CREATE_RING: u32 = 188;
const DESTROY_RING: u32 = 189;
const NOTIFY_RING: u32 = 190;
const WRITE_RING_EXTRA: u32 = 191;
/// `VK_STRUCTURE_TYPE_RING_CREATE_INFO_MESA`
const RING_INFO: u32 = 1_000_384_000;

/// A blob of 64 KiB that the context may use.
pub const RING: u32 = 200;
/// Bytes of it.
pub const RING_BYTES: u64 = 1 << 16;
/// Pages of the guest's, which the context may use as well.
pub const PAGES: u32 = 201;

fn call(number: u32, words: &[u64]) -> Stream {
    let words = words.iter().flat_map(|word| halves(*word));
    Stream([number, 0].into_iter().chain(words).collect())
}

/// A ring whose parts are at these places of a resource: head, tail, status, buffer, buffer's size, extra, extra's size.
fn ring(resource: u32, size: u64, parts: [u64; 7]) -> Stream {
    let mut stream = call(CREATE_RING, &[1, 1]);
    stream.0.push(RING_INFO);
    stream.0.extend([0, 0, 0, resource]);
    stream.0.extend([0, size, 50_000_000].into_iter().chain(parts).flat_map(halves));
    stream
}

/// A ring as Mesa makes it.
pub fn usual() -> Stream {
    ring(RING, RING_BYTES, [0, 64, 128, 4096, 32768, 40960, 4096])
}

fn notify(number: u32) -> Stream {
    let mut stream = call(NOTIFY_RING, &[1]);
    stream.0.extend([number, 0]);
    stream
}

fn execute(resource: u32, offset: u64, size: u64, count: u32) -> Stream {
    let mut stream = Stream(vec![EXECUTE, 0, count]);
    stream.0.extend(halves(u64::from(count)));
    stream.0.push(resource);
    stream.0.extend([offset, size, 0].into_iter().flat_map(halves));
    stream.0.extend([0, 0, 0, 0]);
    stream
}

/// Every case for a context of Vulkan. Bytes that are written into [`RING`] first come with each.
pub fn venus() -> Vec<(String, Vec<u8>, Vec<Stream>)> {
    let far = [u64::MAX, 1 << 63, RING_BYTES, RING_BYTES - 1, 0xffff_ffff, 1];
    let mut cases: Vec<(String, Vec<u8>, Vec<Stream>)> = Vec::new();
    let mut case = |name: &str, ring: Vec<u8>, streams: Vec<Stream>| cases.push((name.to_owned(), ring, streams));
    for (at, part) in ["head", "tail", "status", "buffer", "size", "extra", "extra_size"].into_iter().enumerate() {
        for place in far {
            let mut parts = [0, 64, 128, 4096, 32768, 40960, 4096];
            parts[at] = place;
            case(&format!("a_ring_whose_{part}_is_{place:#x}"), vec![], vec![ring(RING, RING_BYTES, parts), notify(1)]);
        }
    }
    for size in [0, 1, u64::MAX, 1 << 40] {
        let stream = ring(RING, size, [0, 64, 128, 4096, 32768, 40960, 4096]);
        case(&format!("a_ring_of_{size:#x}_bytes"), vec![], vec![stream]);
    }
    let all_at_once = ring(RING, RING_BYTES, [0; 7]);
    case("a_ring_whose_parts_are_one", vec![], vec![all_at_once, notify(1)]);
    case("a_ring_in_the_guest_s_pages", vec![], vec![ring(PAGES, 4096, [0, 64, 128, 1024, 1024, 2048, 1024])]);
    case(
        "a_ring_in_a_resource_that_is_not_there",
        vec![],
        vec![ring(9999, RING_BYTES, [0, 64, 128, 4096, 4096, 8192, 64])],
    );
    case("two_rings_of_one_name", vec![], vec![usual(), usual(), notify(1)]);
    case("rings_destroyed_that_are_not_there", vec![], vec![call(DESTROY_RING, &[7]), notify(1)]);
    case(
        "a_ring_destroyed_twice",
        vec![],
        vec![usual(), call(DESTROY_RING, &[1]), call(DESTROY_RING, &[1]), notify(2)],
    );
    case("extra_words_past_the_ring", vec![], vec![usual(), call(WRITE_RING_EXTRA, &[1, u64::MAX, 7]), notify(1)]);
    let mut running = vec![0; RING_BYTES as usize];
    running[64..68].copy_from_slice(&u32::MAX.to_le_bytes());
    case("a_tail_that_runs_ahead", running.clone(), vec![usual(), notify(u32::MAX)]);
    running[4096..36864].fill(0xff);
    case("a_ring_full_of_ones", running.clone(), vec![usual(), notify(u32::MAX)]);
    running[4096..36864].fill(0);
    running[64..68].copy_from_slice(&32768u32.to_le_bytes());
    case("a_ring_full_of_zeros", running, vec![usual(), notify(32768)]);

    for place in far {
        case(
            &format!("replies_to_{place:#x}"),
            vec![],
            vec![
                Stream(
                    [SET_REPLY, 0]
                        .into_iter()
                        .chain(halves(1))
                        .chain([RING])
                        .chain(halves(place))
                        .chain(halves(4096))
                        .collect(),
                ),
                call(SEEK_REPLY, &[place]),
                call(1, &[0]),
            ],
        );
        case(&format!("a_stream_in_memory_at_{place:#x}"), vec![], vec![execute(RING, place, 64, 1)]);
        case(&format!("a_stream_in_memory_of_{place:#x}_bytes"), vec![], vec![execute(RING, 0, place, 1)]);
    }
    case("streams_without_number", vec![], vec![execute(RING, 0, 64, u32::MAX), execute(9999, 0, 64, 1)]);
    // The stream in memory executes itself.
    let own: Vec<u8> = execute(RING, 0, 256, 1).0.iter().flat_map(|word| word.to_le_bytes()).collect();
    case("a_stream_that_executes_itself", own.clone(), vec![execute(RING, 0, own.len() as u64, 1)]);

    for (name, word) in [("zeros", 0u32), ("ones", u32::MAX), ("one_each", 1)] {
        for group in 0..16u32 {
            let of = (group * 20..(group + 1) * 20)
                .map(|number| Stream([number, 1].into_iter().chain([word; 64]).collect()));
            case(&format!("calls_from_{}_with_{name}", group * 20), vec![], of.collect());
        }
    }
    case("calls_that_are_cut_off", vec![], (0..8).map(|words| Stream(vec![CREATE_INSTANCE; words])).collect());
    // Counts of 2^31 where an array is announced.
    let counts =
        (0..200).map(|number| Stream([number, 0].into_iter().chain([0x8000_0000, 0, 1, 0].repeat(8)).collect()));
    case("arrays_of_two_thousand_million", vec![], counts.collect());
    cases
}
