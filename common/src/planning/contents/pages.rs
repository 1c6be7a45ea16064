//! Entries that a blocking reader finds, as a stream of pages.
//!
//! A few pages wait at most; the reader stops soon after the stream is dropped.

use super::{Contents, ContentsError, Entry, Opening};
use crate::storage::reader::ObjectReader;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

/// Entries of a page: as many as S3 gives in some.
const PAGE_ENTRIES: usize = 4096;

/// Pages that wait.
const PAGES_AHEAD: usize = 2;

/// Where a reader puts what it finds.
pub(super) struct Pages {
    page: Vec<Entry>,
    send: mpsc::Sender<Result<Vec<Entry>, ContentsError>>,
}

impl Pages {
    /// Adds an entry; `false` when nobody wants more. Blocks while enough pages wait.
    pub fn push(&mut self, entry: Entry) -> bool {
        self.page.push(entry);
        self.page.len() < PAGE_ENTRIES || self.send()
    }

    /// Whether nobody wants more.
    pub fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    fn send(&mut self) -> bool {
        let page = std::mem::take(&mut self.page);
        page.is_empty() || self.send.blocking_send(Ok(page)).is_ok()
    }
}

/// What `read` finds in the object of `opening`.
pub(super) fn read(
    opening: Opening,
    reader: ObjectReader,
    read: fn(&Opening, &ObjectReader, &mut Pages) -> Result<(), ContentsError>,
) -> Contents<'static> {
    let (send, found) = mpsc::channel(PAGES_AHEAD);
    let task = tokio::task::spawn_blocking(move || {
        let mut pages = Pages { page: Vec::new(), send };
        let read = read(&opening, &reader, &mut pages);
        if pages.send()
            && let Err(error) = read
        {
            // Nobody takes any more: then nobody wants to know.
            let _ = pages.send.blocking_send(Err(error));
        }
    });
    stream::unfold((found, Some(task)), |(mut found, task)| async move {
        if let Some(page) = found.recv().await {
            return Some((page, (found, task)));
        }
        // The reader has ended; if it panicked, half a list must not look like a whole one.
        if let Err(error) = task?.await
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
        None
    })
    .boxed()
}
