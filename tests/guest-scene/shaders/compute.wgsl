// Rounds of a mix of bits: each word depends on nothing but its place.

@group(0) @binding(0) var<storage, read_write> words: array<u32>;

fn mixed(place: u32, rounds: u32) -> u32 {
    var word = place;
    for (var round = 0u; round < rounds; round++) {
        word ^= word >> 16u;
        word *= 0x7feb352du;
        word ^= word >> 15u;
        word += round;
    }
    return word;
}

@compute @workgroup_size(64)
fn mix(@builtin(global_invocation_id) id: vec3u) {
    words[id.x] = mixed(id.x, 16u);
}

// Some milliseconds of a processor.
@compute @workgroup_size(64)
fn burn(@builtin(global_invocation_id) id: vec3u) {
    words[id.x] = mixed(id.x, 256u);
}
