// A triangle of three colours, at a place and an angle that its number says: nothing else goes in.

struct Corner {
    @builtin(position) position: vec4f,
    @location(0) color: vec3f,
}

@vertex
fn vertex(@builtin(vertex_index) corner: u32, @builtin(instance_index) number: u32) -> Corner {
    let frame = number / 64u;
    let place = number % 64u;
    let angle = f32(corner) * 2.0943951 + f32(frame) * 0.05 + f32(place) * 0.3;
    let center = vec2f(f32(place % 8u), f32(place / 8u)) * 0.25 - 0.875;
    var out: Corner;
    out.position = vec4f(center + 0.2 * vec2f(cos(angle), sin(angle)), 0.0, 1.0);
    out.color = vec3f(f32(corner == 0u), f32(corner == 1u), f32(corner == 2u));
    return out;
}

@fragment
fn fragment(in: Corner) -> @location(0) vec4f {
    return vec4f(in.color, 1.0);
}
