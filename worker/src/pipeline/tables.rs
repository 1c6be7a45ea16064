//! Tables: gets the image files out of the cells of Parquet files.
//!
//! Part of the fetch stage. A row group is read as a whole, or page by page where the file has an index of them; its
//! footer is read once for the batches that follow each other. Parsing and decompressing never run on a tokio thread.

use bytes::Bytes;
use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Mutex},
};
use trawl_common::{
    offload::offload,
    storage::{
        Storage, StorageError,
        reader::{ObjectReader, ReadError},
    },
    table::{self, Table, TableError},
};

/// Footers that are remembered: the batches in a worker's hands are of one or two files.
const REMEMBERED: usize = 8;

/// The open tables of a worker.
#[derive(Default)]
pub struct Tables {
    open: Mutex<VecDeque<(String, Table)>>,
}

/// The cells that are wanted.
pub struct Rows<'a> {
    /// The file's key in its store.
    pub key: &'a str,
    /// Its tag when it was planned.
    pub etag: Option<&'a str>,
    /// The row group.
    pub group: u32,
    /// Rows in it.
    pub rows: &'a Range<u32>,
    /// The column that the user named.
    pub column: Option<&'a str>,
}

/// Why a table gives no cells.
#[derive(Debug)]
pub enum UnreadTable {
    /// The store.
    Storage(StorageError),
    /// It is not the file that was planned.
    Changed(String),
    /// It is no table of images.
    Unusable(String),
}

impl Tables {
    /// The files in the cells of `wanted`, `None` where there is none. Cancel safe.
    ///
    /// # Errors
    /// [`UnreadTable`].
    pub async fn read(
        &self,
        store: &Arc<dyn Storage>,
        wanted: Rows<'_>,
    ) -> Result<Vec<Option<Bytes>>, UnreadTable> {
        let table = self.table(store, &wanted).await?;
        let (group, rows) = (wanted.group as usize, u64::from(wanted.rows.start)..u64::from(wanted.rows.end));
        let column = wanted.column.map(str::to_owned);
        let reader = ObjectReader::new(store.clone(), table.object().clone());
        let cells = offload(move || -> Result<Vec<Option<Bytes>>, TableError> {
            let table = table.read_by(reader);
            let column = table.image_column(column.as_deref())?;
            let batches = table.read(group, rows, &[&column])?;
            Ok(batches.iter().flat_map(|batch| table::files(batch, &column)).collect())
        });
        Ok(cells.await?)
    }

    /// The table, its footer read if it is not known.
    async fn table(&self, store: &Arc<dyn Storage>, wanted: &Rows<'_>) -> Result<Table, UnreadTable> {
        let name = format!("{}\n{}\n{}", store.name(), wanted.key, wanted.etag.unwrap_or_default());
        let known = |open: &VecDeque<(String, Table)>| {
            open.iter().find(|(known, _)| *known == name).map(|(_, table)| table.clone())
        };
        if let Some(table) = known(&self.open.lock().expect("no panic while it is held")) {
            return Ok(table);
        }
        let object = store.head(wanted.key).await.map_err(UnreadTable::Storage)?;
        if let (Some(planned), Some(found)) = (wanted.etag, &object.etag)
            && planned != found
        {
            return Err(UnreadTable::Changed(format!(
                "its table was listed with etag {planned} and has {found} now"
            )));
        }
        let reader = ObjectReader::new(store.clone(), object);
        let table = offload(move || Table::open(reader)).await?;
        let mut open = self.open.lock().expect("no panic while it is held");
        if known(&open).is_none() {
            open.truncate(REMEMBERED - 1);
            open.push_front((name, table.clone()));
        }
        Ok(table)
    }
}

impl From<TableError> for UnreadTable {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Read(ReadError::Storage(error)) => Self::Storage(error),
            TableError::Read(error @ ReadError::Changed(_)) => Self::Changed(error.to_string()),
            TableError::Parquet(reason) | TableError::Column(reason) => Self::Unusable(reason),
        }
    }
}
