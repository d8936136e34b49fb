//! Words of a virgl context: commands of Gallium, each a header (code, object, number of words) and its words.

/// Code of each command that is used here, by its place in the protocol.
pub mod code {
    pub const CREATE_OBJECT: u32 = 1;
    pub const BIND_OBJECT: u32 = 2;
    pub const DESTROY_OBJECT: u32 = 3;
    pub const SET_VIEWPORT: u32 = 4;
    pub const SET_FRAMEBUFFER: u32 = 5;
    pub const SET_VERTEX_BUFFERS: u32 = 6;
    pub const CLEAR: u32 = 7;
    pub const DRAW: u32 = 8;
    pub const INLINE_WRITE: u32 = 9;
    pub const SET_SAMPLER_VIEWS: u32 = 10;
    pub const SET_INDEX_BUFFER: u32 = 11;
    pub const SET_CONSTANTS: u32 = 12;
    pub const SET_SCISSOR: u32 = 15;
    pub const BLIT: u32 = 16;
    pub const COPY_REGION: u32 = 17;
    pub const BIND_SAMPLERS: u32 = 18;
    pub const BEGIN_QUERY: u32 = 19;
    pub const END_QUERY: u32 = 20;
    pub const GET_QUERY_RESULT: u32 = 21;
    pub const SET_STREAMOUT: u32 = 25;
    pub const SET_RENDER_CONDITION: u32 = 26;
    pub const SET_UNIFORM_BUFFER: u32 = 27;
    pub const SET_SUB: u32 = 28;
    pub const CREATE_SUB: u32 = 29;
    pub const DESTROY_SUB: u32 = 30;
    pub const BIND_SHADER: u32 = 31;
    pub const SET_SHADER_BUFFERS: u32 = 34;
    pub const SET_SHADER_IMAGES: u32 = 35;
    pub const LAUNCH_GRID: u32 = 37;
    pub const SET_FRAMEBUFFER_NONE: u32 = 38;
    pub const SET_ATOMICS: u32 = 40;
    pub const SET_DEBUG_FLAGS: u32 = 41;
    pub const GET_QUERY_RESULT_INTO: u32 = 42;
    pub const TRANSFER: u32 = 43;
    pub const COPY_TRANSFER: u32 = 45;
    pub const SET_TWEAKS: u32 = 46;
    pub const CLEAR_TEXTURE: u32 = 47;
    pub const CREATE_RESOURCE: u32 = 48;
    pub const SET_TYPE: u32 = 49;
    pub const STRING_MARKER: u32 = 51;
    pub const LINK_SHADER: u32 = 52;
    /// One past the last that any version knows.
    pub const END: u32 = 64;
}

/// Kinds of objects.
pub mod object {
    pub const BLEND: u32 = 1;
    pub const RASTERIZER: u32 = 2;
    pub const DSA: u32 = 3;
    pub const SHADER: u32 = 4;
    pub const VERTEX_ELEMENTS: u32 = 5;
    pub const SAMPLER_VIEW: u32 = 6;
    pub const SAMPLER_STATE: u32 = 7;
    pub const SURFACE: u32 = 8;
    pub const QUERY: u32 = 9;
    pub const STREAMOUT: u32 = 10;
    pub const END: u32 = 12;
}

pub const VERTEX: u32 = 0;
pub const FRAGMENT: u32 = 1;
pub const COMPUTE: u32 = 5;

/// Commands, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Stream(pub Vec<u32>);

impl Stream {
    pub fn new() -> Self {
        Self::default()
    }

    /// A command without an object.
    pub fn does(self, code: u32, words: &[u32]) -> Self {
        self.on(code, 0, words)
    }

    /// A command on a kind of object.
    pub fn on(self, code: u32, object: u32, words: &[u32]) -> Self {
        self.says(code, object, words.len() as u32, words)
    }

    /// A command that says it has so many words.
    pub fn says(mut self, code: u32, object: u32, length: u32, words: &[u32]) -> Self {
        self.0.push(code | object << 8 | length << 16);
        self.0.extend(words);
        self
    }

    /// All of another stream.
    pub fn then(mut self, other: &Stream) -> Self {
        self.0.extend(&other.0);
        self
    }

    /// The same again.
    pub fn times(self, count: usize) -> Self {
        Self(self.0.repeat(count))
    }

    /// A shader's text in one piece.
    pub fn shader(self, handle: u32, stage: u32, text: &str) -> Self {
        let words = text_words(text);
        let head = [handle, stage, text.len() as u32 + 1, 300, 0];
        self.on(code::CREATE_OBJECT, object::SHADER, &[&head[..], &words].concat())
    }

    /// A colour over all of the surface `handle`, which shows the first level of `resource`.
    pub fn clear(self, handle: u32, resource: u32, colour: [f32; 4]) -> Self {
        self.on(code::CREATE_OBJECT, object::SURFACE, &[handle, resource, 1, 0, 0])
            .does(code::SET_FRAMEBUFFER, &[1, 0, handle])
            .fill(colour)
    }

    /// A colour over what the framebuffer is.
    pub fn fill(self, colour: [f32; 4]) -> Self {
        let [r, g, b, a] = colour.map(f32::to_bits);
        let [low, high] = halves(1.0f64.to_bits());
        self.does(code::CLEAR, &[4, r, g, b, a, low, high, 0])
    }
}

/// Text with a zero at its end, as words.
pub fn text_words(text: &str) -> Vec<u32> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize((bytes.len() / 4 + 1) * 4, 0);
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

pub fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}
