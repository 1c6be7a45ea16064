//! The members of a tar archive, found by reading little more than its headers.
//!
//! Between the listing, which finds archives, and the batches, whose workers read the members by their ranges. A header
//! says where the next one is, so that the headers of an archive are a chain, and a chain over a network is slow: so
//! the archive is walked from many places at once. Each walk looks for the first header behind its place, which may be
//! wrong (an archive can hold archives); so what it finds counts only from where the chain that began at the archive's
//! first byte arrives there too. What is found is therefore always what one walk would find. Contents are not read,
//! whatever they claim to be.

use super::{
    ContentsError,
    tar_header::{self, BLOCK, Block, Header, Kind, MAX_EXTENDED_BYTES, padded},
};
use crate::storage::{ObjectMeta, Storage};
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};
use std::collections::VecDeque;

/// What one walk covers: at 10 ms a request and 100 kB a member, three seconds.
const WALK_BYTES: u64 = 32 << 20;

/// Walks at once: as many requests are under way.
const WALKS: usize = 32;

/// What is read to look for a header: most members are smaller.
const SEARCH_BYTES: u64 = 64 << 10;

/// Headers this near to each other are read together, with the contents between them.
const NEAR_BYTES: u64 = 2 << 10;

/// The first read of a walk: an extended header, its records, a header, a small content, the same again.
const FIRST_READ_BYTES: u64 = 4 << 10;

/// The least and the most that is read at once.
const READ_BYTES: std::ops::RangeInclusive<u64> = BLOCK..=SEARCH_BYTES;

/// Stretches of headers that the size of a read is chosen by.
const REMEMBERED: usize = 8;

/// A regular file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name; `None` if that is not text.
    pub name: Option<String>,
    /// The first byte of its content.
    pub offset: u64,
    /// Bytes of its content.
    pub size: u64,
    /// The first byte of the next member's headers.
    pub next: u64,
}

/// The regular files of the archive `object`, in its order, from the member whose headers begin at byte `from`.
/// Memory: the members of [`WALK_BYTES`] times [`WALKS`].
///
/// # Errors
/// [`ContentsError::Damaged`] with the first byte that is no header where one should be, or what the store says.
pub fn members<'a>(
    store: &'a dyn Storage,
    object: &'a ObjectMeta,
    from: u64,
) -> BoxStream<'a, Result<Vec<Member>, ContentsError>> {
    let archive = Archive { store, object };
    stream::unfold(Some(from), move |at| async move {
        let at = at.filter(|at| *at < object.size)?;
        match archive.stride(at).await {
            Ok((members, next)) => Some((Ok(members), next)),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

#[derive(Clone, Copy)]
struct Archive<'a> {
    store: &'a dyn Storage,
    object: &'a ObjectMeta,
}

/// What a walk found: its members, and the first byte behind them where the chain goes on, if it does.
struct Walked {
    /// With the first byte of each member's headers.
    members: Vec<(u64, Member)>,
    next: Option<u64>,
}

impl<'a> Archive<'a> {
    /// The members of the next stretch of the archive, and where the one behind it begins.
    async fn stride(self, from: u64) -> Result<(Vec<Member>, Option<u64>), ContentsError> {
        let end = self.object.size;
        let begins = (0..WALKS as u64).map(|walk| from + walk * WALK_BYTES).take_while(|at| *at < end);
        let walks: Vec<_> = begins.map(|at| (at, (at + WALK_BYTES).min(end))).collect();
        let walks = stream::iter(walks.into_iter().enumerate())
            .map(|(n, (begin, to))| async move {
                let begin = if n == 0 { Some(begin) } else { self.search(begin, to).await? };
                match begin {
                    // What a walk says that began at a wrong place counts only as far as it is confirmed.
                    Some(begin) => self.walk(begin, to, n > 0).await.map(|walked| (to, walked)),
                    None => Ok((to, Walked { members: Vec::new(), next: None })),
                }
            })
            .buffered(WALKS);
        let mut walks = std::pin::pin!(walks);
        let (mut members, mut at) = (Vec::new(), Some(from));
        while let (Some(walked), Some(reached)) = (walks.next().await, at) {
            let (to, walked) = walked?;
            at = self.join(&mut members, reached, to, walked).await?;
        }
        Ok((members, at))
    }

    /// Adds what the chain that has come to `at` goes through up to `to`, by what a walk found there.
    async fn join(
        self,
        members: &mut Vec<Member>,
        at: u64,
        to: u64,
        walked: Walked,
    ) -> Result<Option<u64>, ContentsError> {
        let (mut at, mut walk) = (at, Walk::new(self));
        loop {
            if at >= to {
                return Ok(Some(at));
            }
            if let Ok(found) = walked.members.binary_search_by_key(&at, |(begin, _)| *begin) {
                members.extend(walked.members.into_iter().skip(found).map(|(_, member)| member));
                return Ok(walked.next);
            }
            match walk.step(at).await? {
                Some((member, next)) => {
                    members.extend(member);
                    at = next;
                }
                None => return Ok(None),
            }
        }
    }

    /// The first block in `from..to` that looks like a header.
    async fn search(self, from: u64, to: u64) -> Result<Option<u64>, ContentsError> {
        let mut at = from.next_multiple_of(BLOCK);
        while at < to {
            let bytes = self.read(at, SEARCH_BYTES).await?;
            let is_header = |block: &[u8]| matches!(tar_header::read(block), Block::Header(_));
            if let Some(n) = bytes.chunks_exact(BLOCK as usize).position(is_header) {
                return Ok(Some(at + n as u64 * BLOCK).filter(|at| *at < to));
            }
            at += SEARCH_BYTES;
        }
        Ok(None)
    }

    /// Goes from header to header, from `begin` up to `to`. A walk on trial ends without a word where one on the
    /// chain would say that the archive is damaged.
    async fn walk(self, begin: u64, to: u64, trial: bool) -> Result<Walked, ContentsError> {
        let (mut members, mut at, mut walk) = (Vec::new(), begin, Walk::new(self));
        while at < to {
            match walk.step(at).await {
                Ok(Some((member, next))) => {
                    members.extend(member.map(|member| (at, member)));
                    at = next;
                }
                Ok(None) => return Ok(Walked { members, next: None }),
                Err(ContentsError::Damaged { .. }) if trial => {
                    // Nothing of it is confirmed beyond doubt where the end is wrong: the chain finds out.
                    return Ok(Walked { members: Vec::new(), next: None });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Walked { members, next: Some(at) })
    }

    async fn read(self, offset: u64, len: u64) -> Result<Bytes, ContentsError> {
        let object = self.store.get_range(&self.object.key, offset, len).await?;
        if object.etag != self.object.etag {
            return Err(ContentsError::Changed { key: self.object.key.clone() });
        }
        Ok(object.bytes)
    }
}

/// A way along the headers, with what was read ahead of them.
struct Walk<'a> {
    archive: Archive<'a>,
    window: Bytes,
    begin: u64,
    /// The stretch of headers that are near each other: its first byte, and the first behind it.
    stretch: (u64, u64),
    /// The lengths of the stretches before.
    stretches: VecDeque<u64>,
}

impl<'a> Walk<'a> {
    fn new(archive: Archive<'a>) -> Self {
        let (window, stretches) = (Bytes::new(), VecDeque::with_capacity(REMEMBERED));
        Self { archive, window, begin: 0, stretch: (0, 0), stretches }
    }

    /// What begins at `at`, if it is a regular file, and where the next member begins. `None` at the archive's end.
    async fn step(&mut self, at: u64) -> Result<Option<(Option<Member>, u64)>, ContentsError> {
        let (mut header_at, mut name, mut size) = (at, None, None);
        loop {
            let bytes = self.bytes(header_at, BLOCK).await?;
            if bytes.len() < BLOCK as usize {
                // An archive may lack the blocks that end it.
                return Ok(None);
            }
            let Header { kind, name: own, size: length } = match tar_header::read(&bytes) {
                Block::Header(header) => header,
                Block::End => return Ok(None),
                Block::Other => {
                    let key = self.archive.object.key.clone();
                    return Err(ContentsError::Damaged { key, at: header_at, what: "a tar header" });
                }
            };
            let content = header_at + BLOCK;
            let next = |size| content.saturating_add(padded(size));
            match kind {
                Kind::Other => return Ok(Some((None, next(length)))),
                Kind::File => {
                    let size = size.unwrap_or(length);
                    let name = name.unwrap_or(own);
                    let next = next(size);
                    return Ok(Some((Some(Member { name, offset: content, size, next }), next)));
                }
                Kind::LongName | Kind::Extended if length > MAX_EXTENDED_BYTES => {
                    let key = self.archive.object.key.clone();
                    return Err(ContentsError::Damaged { key, at: header_at, what: "a header of sane size" });
                }
                Kind::LongName => {
                    let bytes = self.bytes(content, length).await?;
                    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
                    name = Some(std::str::from_utf8(&bytes[..end]).ok().map(str::to_owned));
                }
                Kind::Extended => {
                    let records = tar_header::records(&self.bytes(content, length).await?);
                    name = records.path.or(name);
                    size = records.size.or(size);
                }
            }
            header_at = next(length);
        }
    }

    /// `len` bytes from `at`, or as many as there are.
    async fn bytes(&mut self, at: u64, len: u64) -> Result<Bytes, ContentsError> {
        let (from, to) = self.stretch;
        if at > to + NEAR_BYTES || at < from {
            if to > from {
                self.stretches.truncate(REMEMBERED - 1);
                self.stretches.push_front(to - from);
            }
            self.stretch = (at, at);
        }
        self.stretch.1 = self.stretch.1.max(at + len);
        let window = self.begin..self.begin + self.window.len() as u64;
        if !(window.contains(&at) && at + len <= window.end) {
            let known = self.stretches.iter().copied().max().unwrap_or(FIRST_READ_BYTES);
            let ahead =
                known.max(self.stretch.1 - self.stretch.0).clamp(*READ_BYTES.start(), *READ_BYTES.end());
            self.window = self.archive.read(at, ahead.max(len)).await?;
            self.begin = at;
        }
        let begin = usize::try_from(at - self.begin).unwrap_or(usize::MAX).min(self.window.len());
        let end = begin.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(self.window.len());
        Ok(self.window.slice(begin..end))
    }
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
