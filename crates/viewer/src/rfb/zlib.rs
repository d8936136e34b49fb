//! A zlib stream that lasts as long as the connection, as ZRLE and Tight have it.

use flate2::{Compress, Compression, FlushCompress, Status};

/// The way of one byte costs more than packing it better: level 1.
const LEVEL: u32 = 1;

/// One stream.
pub(crate) struct Stream(Compress);

impl Stream {
    pub(crate) fn new() -> Self {
        Self(Compress::new(Compression::new(LEVEL), true))
    }

    /// Appends the packed `bytes`, up to a byte boundary so that the client can unpack all of them.
    pub(crate) fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut taken = 0;
        loop {
            out.reserve(bytes.len() / 2 + 1024);
            let before = self.0.total_in();
            let status = self.0.compress_vec(&bytes[taken..], out, FlushCompress::Sync);
            taken += (self.0.total_in() - before) as usize;
            // Room left over means that everything is out. An error cannot come from a stream that is not finished.
            if taken == bytes.len() && out.len() < out.capacity()
                || !matches!(status, Ok(Status::Ok | Status::BufError))
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use flate2::{Decompress, FlushDecompress};

    #[test]
    fn every_piece_can_be_unpacked_as_soon_as_it_is_there() {
        let mut stream = Stream::new();
        let mut unpack = Decompress::new(true);
        for length in [0, 1, 1000, 70_000, 3] {
            let bytes: Vec<u8> = (0..length as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let mut packed = Vec::new();
            stream.append(&bytes, &mut packed);
            let mut unpacked = Vec::with_capacity(length + 1);
            unpack.decompress_vec(&packed, &mut unpacked, FlushDecompress::Sync).unwrap();
            assert!(unpacked == bytes, "{length} bytes");
        }
    }
}
