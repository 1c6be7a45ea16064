//! The objects that readers of `OUT/*.parquet` take up, page by page.
//!
//! A bucket lists whole trees. Folders below the output (`_trawl/`, or whatever else a user keeps there) are stepped
//! over, so that a million objects in one of them cost a page and not a thousand.

use crate::{
    results::OutputLayout,
    storage::{ListPage, ObjectMeta, Storage, StorageError},
};
use futures::{TryStreamExt, stream::BoxStream};

/// A listing of the top level of an output.
pub(super) struct TopLevel<'a> {
    store: &'a dyn Storage,
    layout: &'a OutputLayout,
    pages: BoxStream<'a, Result<ListPage, StorageError>>,
}

impl<'a> TopLevel<'a> {
    pub(super) fn new(store: &'a dyn Storage, layout: &'a OutputLayout) -> Self {
        Self { store, layout, pages: store.list(&layout.prefix(), None) }
    }

    /// The Parquet files of the next page; `None` at the end.
    pub(super) async fn next_page(&mut self) -> Result<Option<Vec<ObjectMeta>>, StorageError> {
        let Some(page) = self.pages.try_next().await? else { return Ok(None) };
        let prefix = self.layout.prefix();
        if let Some(last) = page.objects.last()
            && let Some((folder, _)) = last.key.strip_prefix(&prefix).and_then(|rest| rest.split_once('/'))
        {
            // `0` comes right after `/`, and no Parquet file is called that.
            self.pages = self.store.list(&prefix, Some(&format!("{prefix}{folder}0")));
        }
        let top = |object: &ObjectMeta| {
            self.layout.top_level_name(&object.key).is_some_and(|name| name.ends_with(".parquet"))
        };
        Ok(Some(page.objects.into_iter().filter(top).collect()))
    }
}
