// Sixteen rounds of a mix of bits: each word depends on nothing but its place.

@group(0) @binding(0) var<storage, read_write> words: array<u32>;

@compute @workgroup_size(64)
fn mix(@builtin(global_invocation_id) id: vec3u) {
    var word = id.x;
    for (var round = 0u; round < 16u; round++) {
        word ^= word >> 16u;
        word *= 0x7feb352du;
        word ^= word >> 15u;
        word += round;
    }
    words[id.x] = word;
}

// The same for some milliseconds of a processor.
@compute @workgroup_size(64)
fn burn(@builtin(global_invocation_id) id: vec3u) {
    var word = id.x;
    for (var round = 0u; round < 256u; round++) {
        word ^= word >> 16u;
        word *= 0x7feb352du;
        word ^= word >> 15u;
        word += round;
    }
    words[id.x] = word;
}
