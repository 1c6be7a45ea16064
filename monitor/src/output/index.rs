//! A job's rows in memory, sorted for a gallery: what is asked, in the order that is asked for, page by page.
//!
//! Built by `indexing` from the parts, at most so many rows; never changed after that, but replaced by a longer one.
//! Pure: no request is made here, and a page costs a scan and no sort.

use std::{collections::HashMap, sync::Arc};
use trawl_common::{bits::Bits, results::part_brief::BriefRow};

/// Classes of a row that are kept.
pub const MAX_CLASSES: usize = 5;

/// Rows of one page.
pub const MAX_PAGE: usize = 200;

/// Failed rows that are kept besides those among the indexed ones.
pub const MAX_FAILURES: usize = 10_000;

/// A row and its place in the output.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its batch.
    pub batch: u64,
    /// Its place in the batch's part.
    pub row: u32,
    /// What the part says of it.
    pub brief: BriefRow,
}

impl Row {
    /// The probability of its best class.
    pub fn confidence(&self) -> Option<f32> {
        self.brief
            .classes
            .first()
            .map(|(_, confidence)| *confidence)
            .filter(|confidence| !confidence.is_nan())
    }

    /// Its best class.
    pub fn label(&self) -> Option<&str> {
        self.brief.classes.first().map(|(label, _)| label.as_str())
    }

    fn place(&self) -> (u64, u32) {
        (self.batch, self.row)
    }
}

/// In which order rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The least certain first; rows without a prediction last.
    #[default]
    Unsure,
    /// The most certain first; rows without a prediction last.
    Sure,
    /// As they were planned.
    Plan,
}

/// Which rows are wanted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter {
    /// Only those of this best class.
    pub label: Option<String>,
    /// Only those with this error code.
    pub code: Option<String>,
    /// Only those with a prediction, or without.
    pub ok: Option<bool>,
    /// Only those at least as certain.
    pub min: Option<f32>,
    /// Only those at most as certain.
    pub max: Option<f32>,
}

impl Filter {
    fn takes(&self, row: &Row) -> bool {
        self.ok.is_none_or(|ok| row.brief.ok == ok)
            && self.label.as_deref().is_none_or(|label| row.label() == Some(label))
            && self.code.as_deref().is_none_or(|code| row.brief.code.as_deref() == Some(code))
            && self.min.is_none_or(|min| row.confidence().is_some_and(|confidence| confidence >= min))
            && self.max.is_none_or(|max| row.confidence().is_some_and(|confidence| confidence <= max))
    }
}

/// Where a page ended: the last row's place in the order. It stays right when the index grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    rank: u64,
    batch: u64,
    row: u32,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}.{:x}.{:x}", self.rank, self.batch, self.row)
    }
}

impl std::str::FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut pieces = text.splitn(3, '.').map(|piece| u64::from_str_radix(piece, 16).map_err(|_| ()));
        let mut piece = || pieces.next().ok_or(())?;
        let (rank, batch, row) = (piece()?, piece()?, piece()?);
        Ok(Self { rank, batch, row: u32::try_from(row).map_err(|_| ())? })
    }
}

impl Order {
    fn cursor(self, row: &Row) -> Cursor {
        // What is not below zero keeps its order as bits.
        let bits = row.confidence().map(|confidence| confidence.max(0.0).to_bits());
        let rank = match (self, bits) {
            (Self::Plan, _) => 0,
            (_, None) => 1 << 32,
            (Self::Unsure, Some(bits)) => u64::from(bits),
            (Self::Sure, Some(bits)) => u64::from(u32::MAX - bits),
        };
        Cursor { rank, batch: row.batch, row: row.row }
    }
}

/// A page of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In the order asked for.
    pub rows: Vec<Arc<Row>>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
}

/// The rows, sorted.
#[derive(Debug, Default)]
pub struct Index {
    /// As planned.
    rows: Vec<Arc<Row>>,
    unsure: Vec<u32>,
    sure: Vec<u32>,
    failures: Vec<Arc<Row>>,
    /// The best classes with their counts, the most frequent first.
    labels: Vec<(String, u64)>,
    /// The parts that were looked at.
    pub parts: Bits,
}

impl Index {
    /// Sorts the rows; `more_failures` are those of parts whose rows are not indexed.
    pub fn new(
        mut rows: Vec<Arc<Row>>,
        more_failures: impl IntoIterator<Item = Arc<Row>>,
        parts: Bits,
    ) -> Self {
        rows.sort_unstable_by_key(|row| row.place());
        let sorted = |order: Order| {
            let mut places: Vec<u32> = (0..u32::try_from(rows.len()).unwrap_or(u32::MAX)).collect();
            places.sort_unstable_by_key(|&place| order.cursor(&rows[place as usize]));
            places
        };
        let (unsure, sure) = (sorted(Order::Unsure), sorted(Order::Sure));
        let of_rows = rows.iter().filter(|row| !row.brief.ok).cloned();
        let mut failures: Vec<Arc<Row>> = of_rows.chain(more_failures).collect();
        failures.sort_unstable_by_key(|row| row.place());
        failures.dedup_by_key(|row| row.place());
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for label in rows.iter().filter_map(|row| row.label()) {
            *counts.entry(label).or_default() += 1;
        }
        let mut labels: Vec<(String, u64)> =
            counts.into_iter().map(|(label, n)| (label.to_owned(), n)).collect();
        labels.sort_unstable_by(|a, b| (std::cmp::Reverse(a.1), &a.0).cmp(&(std::cmp::Reverse(b.1), &b.0)));
        Self { rows, unsure, sure, failures, labels, parts }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows, for a longer index.
    pub fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }

    /// The failed rows that are known.
    pub fn failures(&self) -> &[Arc<Row>] {
        &self.failures
    }

    /// The most frequent best classes.
    pub fn labels(&self, limit: usize) -> &[(String, u64)] {
        &self.labels[..self.labels.len().min(limit)]
    }

    /// The key of a row, if it is among those that are known.
    pub fn key(&self, batch: u64, row: u32) -> Option<&str> {
        let find = |rows: &[Arc<Row>]| rows.binary_search_by_key(&(batch, row), |row| row.place());
        let found = find(&self.rows).map(|place| &self.rows[place]);
        let found = found.or_else(|_| find(&self.failures).map(|place| &self.failures[place]));
        found.ok().map(|row| row.brief.key.as_str())
    }

    /// A page of the rows that `filter` takes.
    pub fn page(&self, order: Order, filter: &Filter, after: Option<Cursor>, limit: usize) -> Page {
        let row = |place: &u32| &self.rows[*place as usize];
        match order {
            Order::Plan => page(self.rows.iter(), order, filter, after, limit),
            Order::Unsure => page(self.unsure.iter().map(row), order, filter, after, limit),
            Order::Sure => page(self.sure.iter().map(row), order, filter, after, limit),
        }
    }

    /// A page of the failed rows, as they were planned.
    pub fn page_of_failures(&self, code: Option<&str>, after: Option<Cursor>, limit: usize) -> Page {
        let filter = Filter { code: code.map(str::to_owned), ..Filter::default() };
        page(self.failures.iter(), Order::Plan, &filter, after, limit)
    }
}

fn page<'a>(
    rows: impl Iterator<Item = &'a Arc<Row>>,
    order: Order,
    filter: &Filter,
    after: Option<Cursor>,
    limit: usize,
) -> Page {
    let limit = limit.clamp(1, MAX_PAGE);
    let mut wanted = rows
        .skip_while(|row| after.is_some_and(|after| order.cursor(row) <= after))
        .filter(|row| filter.takes(row))
        .take(limit + 1)
        .cloned()
        .collect::<Vec<_>>();
    let more = wanted.len() > limit;
    wanted.truncate(limit);
    let next = if more { wanted.last().map(|row| order.cursor(row)) } else { None };
    Page { rows: wanted, next }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(batch: u64, row: u32, class: Option<(&str, f32)>) -> Arc<Row> {
        let brief = BriefRow {
            key: format!("s3://b/{batch}-{row}"),
            width: Some(4),
            height: Some(3),
            ok: class.is_some(),
            code: class.is_none().then(|| "corrupt".to_owned()),
            message: None,
            classes: class.map(|(label, p)| vec![(label.to_owned(), p)]).unwrap_or_default(),
        };
        Arc::new(Row { batch, row, brief })
    }

    fn index() -> Index {
        let rows = vec![
            row(1, 0, Some(("cat", 0.9))),
            row(0, 1, Some(("dog", 0.5))),
            row(0, 0, Some(("cat", 0.5))),
            row(0, 2, None),
            row(1, 1, Some(("cat", f32::NAN))),
        ];
        Index::new(rows, [row(7, 3, None), row(0, 2, None)], [0, 1, 7].into_iter().collect())
    }

    fn places(page: &Page) -> Vec<(u64, u32)> {
        page.rows.iter().map(|row| row.place()).collect()
    }

    #[test]
    fn each_order_is_total_and_rows_without_a_prediction_are_last() {
        let index = index();
        let all = |order| places(&index.page(order, &Filter::default(), None, 99));
        assert_eq!(all(Order::Unsure), [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1)]);
        assert_eq!(all(Order::Sure), [(1, 0), (0, 0), (0, 1), (0, 2), (1, 1)]);
        assert_eq!(all(Order::Plan), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]);
        assert_eq!(index.labels(1), [("cat".to_owned(), 3)]);
    }

    #[test]
    fn pages_join_without_a_gap_and_survive_growth() {
        let index = index();
        for order in [Order::Unsure, Order::Sure, Order::Plan] {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = index.page(order, &Filter::default(), after, 2);
                found.extend(places(&page));
                // As it comes back from a page.
                let Some(next) = page.next else { break };
                after = Some(next.to_string().parse().unwrap());
            }
            assert_eq!(found, places(&index.page(order, &Filter::default(), None, 99)), "{order:?}");
        }
        let first = index.page(Order::Unsure, &Filter::default(), None, 2);
        let longer = index
            .rows()
            .iter()
            .cloned()
            .chain([row(9, 9, Some(("new", 0.1))), row(9, 8, Some(("new", 0.7)))]);
        let longer = Index::new(longer.collect(), [], Default::default());
        let second = longer.page(Order::Unsure, &Filter::default(), first.next, 2);
        assert_eq!(places(&second), [(9, 8), (1, 0)], "what was shown is not shown again");
        for bad in ["", "1.2", "x.1.1", "1.1.fffffffff", "1.1.1.1"] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad}");
        }
    }

    #[test]
    fn filters_are_and_and_pages_are_bounded() {
        let index = index();
        let taken = |filter: Filter| places(&index.page(Order::Plan, &filter, None, 99));
        let label = Some("cat".to_owned());
        assert_eq!(taken(Filter { label: label.clone(), ..Filter::default() }), [(0, 0), (1, 0), (1, 1)]);
        assert_eq!(taken(Filter { label, max: Some(0.6), ..Filter::default() }), [(0, 0)]);
        assert_eq!(taken(Filter { min: Some(0.5), max: Some(0.5), ..Filter::default() }), [(0, 0), (0, 1)]);
        assert_eq!(taken(Filter { ok: Some(false), ..Filter::default() }), [(0, 2)]);
        assert_eq!(taken(Filter { code: Some("empty".into()), ..Filter::default() }), []);
        let many: Vec<_> = (0..1000).map(|n| row(0, n, Some(("x", 0.5)))).collect();
        let many = Index::new(many, [], Default::default());
        assert_eq!(many.page(Order::Unsure, &Filter::default(), None, usize::MAX).rows.len(), MAX_PAGE);
        assert_eq!(many.page(Order::Unsure, &Filter::default(), None, 0).rows.len(), 1);
    }

    #[test]
    fn failures_are_known_beyond_the_rows_and_once() {
        let index = index();
        assert_eq!(places(&index.page_of_failures(None, None, 9)), [(0, 2), (7, 3)]);
        assert!(index.page_of_failures(Some("empty"), None, 9).rows.is_empty());
        assert_eq!(
            (index.key(7, 3), index.key(1, 0), index.key(7, 4)),
            (Some("s3://b/7-3"), Some("s3://b/1-0"), None)
        );
    }
}
