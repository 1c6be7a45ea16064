//! Writes tar archives, for tests of what reads them.

use bytes::Bytes;

/// An archive that is being written.
#[derive(Debug, Default)]
pub struct Packing(pub Vec<u8>);

impl Packing {
    /// Adds a regular file.
    pub fn add(&mut self, name: &str, content: &[u8]) {
        self.member(name, b'0', content);
    }

    /// Adds a member of any kind; `name` has at most 100 bytes.
    pub fn member(&mut self, name: &str, kind: u8, content: &[u8]) {
        self.0.extend(header(name, kind, content.len() as u64));
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// The archive.
    pub fn end(mut self) -> Bytes {
        self.0.extend([0; 1024]);
        self.0.into()
    }
}

/// A header as tar writes it.
pub fn header(name: &str, kind: u8, size: u64) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

/// Puts the checksum in.
pub fn seal(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
