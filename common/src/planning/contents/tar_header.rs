//! One header of a tar archive: what it says of its member, and where the next one is.
//!
//! Read by [`super::tar`] out of a few bytes of an archive that may be of terabytes. POSIX (ustar), PAX and GNU
//! archives, as `tar`, Python's tarfile and WebDataset write them: the format is that of the pax page of POSIX.1-2017
//! and of GNU tar's manual, "Basic Tar Format". What stands in a header is never trusted further than its checksum.

/// Headers and contents begin at multiples of it.
pub const BLOCK: u64 = 512;

/// The longest extended header that is read: names of some thousand bytes and a few times; more is a damaged archive.
pub const MAX_EXTENDED_BYTES: u64 = 1 << 20;

/// A block that is a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the member is.
    pub kind: Kind,
    /// The member's name, as far as this header has it; `None` if it is not text.
    pub name: Option<String>,
    /// Bytes of content behind the header.
    pub size: u64,
}

/// What a header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// The name of the next member (GNU).
    LongName,
    /// Records about the next member (PAX).
    Extended,
    /// Anything else: a folder, a link, a device, records about all members.
    Other,
}

/// What a block is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// A header whose checksum holds.
    Header(Header),
    /// Nothing but zeros: the archive ends.
    End,
    /// Neither.
    Other,
}

/// Bytes up to the next block.
pub fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK).saturating_mul(BLOCK)
}

/// Reads a block.
///
/// # Panics
/// If `block` is shorter than [`BLOCK`].
pub fn read(block: &[u8]) -> Block {
    let block: &[u8; 512] = block[..512].try_into().expect("512 bytes");
    if block.iter().all(|byte| *byte == 0) {
        return Block::End;
    }
    let Some(size) = number(&block[124..136]).filter(|_| checksum_holds(block)) else { return Block::Other };
    let kind = match block[156] {
        b'0' | 0 | b'7' => Kind::File,
        b'L' => Kind::LongName,
        b'x' => Kind::Extended,
        _ => Kind::Other,
    };
    // Links and folders have no content, whatever their size says.
    let size = if matches!(block[156], b'1'..=b'6') { 0 } else { size };
    Block::Header(Header { kind, name: name(block), size })
}

fn checksum_holds(block: &[u8; 512]) -> bool {
    let unsigned: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) })
        .sum();
    number(&block[148..156]) == Some(unsigned)
}

/// Octal digits with spaces or zeros around them, or GNU's big-endian bytes behind a set first bit.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = field.split_first()?;
        return rest.iter().try_fold(u64::from(first & 0x7f), |value, byte| {
            value.checked_mul(256)?.checked_add(u64::from(*byte))
        });
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn name(block: &[u8; 512]) -> Option<String> {
    let name = text(&block[..100])?;
    // GNU's own magic has other things where POSIX has the prefix.
    if &block[257..263] != b"ustar\0" {
        return Some(name.to_owned());
    }
    match text(&block[345..500])? {
        "" => Some(name.to_owned()),
        prefix => Some(format!("{prefix}/{name}")),
    }
}

/// Bytes up to the first NUL.
fn text(field: &[u8]) -> Option<&str> {
    std::str::from_utf8(field.split(|byte| *byte == 0).next().unwrap_or_default()).ok()
}

/// What PAX records say that matters here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// `path`; `Some(None)` if it is not text.
    pub path: Option<Option<String>>,
    /// `size`.
    pub size: Option<u64>,
}

/// Reads the records of an extended header: `LENGTH KEY=VALUE\n`, where the length counts the whole record.
pub fn records(mut bytes: &[u8]) -> Records {
    let mut records = Records::default();
    while let Some(space) = bytes.iter().position(|byte| *byte == b' ') {
        let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse::<usize>().ok());
        let Some(record) = length.filter(|length| *length > space + 1).and_then(|length| bytes.get(..length))
        else {
            break;
        };
        bytes = &bytes[record.len()..];
        let record = &record[space + 1..];
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        let Some(equals) = record.iter().position(|byte| *byte == b'=') else { continue };
        let value = std::str::from_utf8(&record[equals + 1..]).ok();
        match &record[..equals] {
            b"path" => records.path = Some(value.map(str::to_owned)),
            b"size" => records.size = value.and_then(|text| text.parse().ok()),
            _ => {}
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::{
        super::packing::{header, seal},
        *,
    };

    #[test]
    fn headers_of_each_kind() {
        let file = |name: &str, size| Header { kind: Kind::File, name: Some(name.into()), size };
        assert_eq!(read(&header("a/b.jpg", b'0', 1000)), Block::Header(file("a/b.jpg", 1000)));
        let mut prefixed = header("b.jpg", 0, 1);
        prefixed[345..348].copy_from_slice(b"x/y");
        seal(&mut prefixed);
        assert_eq!(read(&prefixed), Block::Header(file("x/y/b.jpg", 1)));
        let mut large = header("large", b'0', 0);
        large[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1]);
        seal(&mut large);
        assert_eq!(read(&large), Block::Header(file("large", (3 << 32) + 1)));
        let Block::Header(folder) = read(&header("d/", b'5', 77)) else { panic!("a header") };
        assert_eq!((folder.kind, folder.size), (Kind::Other, 0));
        let mut bytes = header("x", b'0', 1);
        bytes[0] = 0xff;
        seal(&mut bytes);
        let Block::Header(unnamed) = read(&bytes) else { panic!("a header") };
        assert_eq!(unnamed.name, None, "a name that is not text");
    }

    #[test]
    fn what_is_no_header_is_told() {
        assert_eq!(read(&[0; 512]), Block::End);
        assert_eq!(read(&[7; 512]), Block::Other);
        let mut spoiled = header("a", b'0', 1);
        spoiled[3] = b'x';
        assert_eq!(read(&spoiled), Block::Other);
    }

    #[test]
    fn records_are_read_up_to_what_is_broken() {
        let read =
            records(b"30 mtime=1700000000.123456789\n18 path=ordner/\xc3\xa4\n21 size=123456789012\nx");
        assert_eq!(read.path, Some(Some("ordner/ä".into())));
        assert_eq!(read.size, Some(123_456_789_012));
        assert_eq!(records(b"9 path=\xff\n").path, Some(None));
        for broken in [&b"99 path=a\n"[..], b"0 path=a\n", b"path=a\n", b"", b" ", b"5 ab\n"] {
            assert_eq!(records(broken), Records::default(), "{broken:?}");
        }
    }
}
