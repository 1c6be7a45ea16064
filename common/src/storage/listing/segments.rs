//! A listing in pieces that are listed at once and given out in order: which pieces there are, and what to ask next.
//!
//! Plain state, no requests. The first piece is where the listing stands; each other one begins behind a guessed key,
//! and is joined to the one before it at the first key that it found: the piece before goes on until it meets that very
//! key in its own pages. So nothing is compared but equality, and what is given out is what the store would have given
//! page after page, whatever its order is and however bad the guess was. What must never happen: a key left out or given
//! twice because of a guess. A piece that is passed by, or that found nothing new, is thrown away.

use super::keyspace::Keyspace;
use crate::storage::ListPage;
use std::collections::VecDeque;

/// The most pieces: S3 gives one prefix 5,500 reads a second, and 16 pages at once are 160 at its 100 ms a page.
pub(super) const MAX_PIECES: usize = 16;

/// Pages that a piece is meant to have.
const PIECE_PAGES: usize = 8;

/// Pages that a piece reads before its turn; more than it should have, for a guess that fell short.
const PAGES_HELD: usize = 12;

/// Pages that wait for their turn before another piece is begun: 25 MB of names.
const MAX_PAGES_HELD: usize = 128;

/// Pages given out by which the next guess is measured.
const PAGES_MEASURED: usize = 32;

/// A piece that has so many pages is measured by them instead.
const OWN_PAGES_MEASURED: usize = 4;

/// So many pieces may be passed by before it is taken that the store has an order in which guesses do not help.
const MAX_MISSES: u32 = 4;

/// One piece.
#[derive(Debug)]
struct Piece {
    id: u64,
    /// Behind this key nothing comes before the first one that it found.
    bound: String,
    /// Behind which key the next page begins.
    after: String,
    /// The first key that it found.
    first: Option<String>,
    /// What waits for its turn.
    pages: VecDeque<ListPage>,
    /// Pages that it brought.
    brought: usize,
    asking: bool,
    /// Its last page is there.
    ended: bool,
}

/// A listing in pieces.
#[derive(Debug)]
pub(super) struct Segments {
    /// What all keys begin with, which no guess looks at.
    prefix: String,
    keys: Keyspace,
    pieces: VecDeque<Piece>,
    next_id: u64,
    /// The last keys of the pages given out, for the way that a page goes.
    given: VecDeque<String>,
    /// Pieces that pay at the moment.
    worth: usize,
    misses: u32,
    /// Whether guesses are made at all.
    guessing: bool,
    /// Behind this key there is nothing.
    nothing_after: Option<String>,
    /// Behind this key pages are to be read one after the other.
    rest: Option<String>,
}

/// The next page to ask for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ask {
    /// The piece that it is for.
    pub id: u64,
    /// The key behind which it begins.
    pub after: String,
}

impl Segments {
    /// Goes on behind `pages`, which were given out; `None` if no key is in them.
    pub(super) fn behind(prefix: &str, pages: &[ListPage]) -> Option<Self> {
        let first = &pages.first()?.objects.first()?.key;
        let lasts = pages.iter().filter_map(|page| page.objects.last()).map(|object| &object.key);
        let given: VecDeque<String> = [first].into_iter().chain(lasts).cloned().collect();
        let last = given.back()?.clone();
        let mut segments = Self {
            prefix: prefix.to_owned(),
            keys: Keyspace::default(),
            pieces: VecDeque::new(),
            next_id: 0,
            given,
            worth: 2,
            misses: 0,
            guessing: true,
            nothing_after: None,
            rest: None,
        };
        pages.iter().for_each(|page| segments.learn(page));
        segments.insert(0, last);
        Some(segments)
    }

    fn learn(&mut self, page: &ListPage) {
        self.keys.learn(page.objects.iter().map(|object| object.key.as_str()), self.prefix.len());
    }

    fn insert(&mut self, place: usize, after: String) {
        let id = self.next_id;
        self.next_id += 1;
        let pages = VecDeque::new();
        let bound = after.clone();
        let piece = Piece { id, bound, after, first: None, pages, brought: 0, asking: false, ended: false };
        self.pieces.insert(place, piece);
    }

    /// Whether all was given out, but for [`Segments::rest`].
    pub(super) fn is_done(&self) -> bool {
        self.pieces.iter().all(|piece| piece.ended && piece.pages.is_empty())
    }

    /// The key behind which the listing is to be read page after page, if it cannot be read in pieces.
    pub(super) fn rest(self) -> Option<String> {
        self.rest
    }

    /// The next page in order, if it is there.
    pub(super) fn take(&mut self) -> Option<ListPage> {
        loop {
            let front = self.pieces.front_mut()?;
            if let Some(page) = front.pages.pop_front() {
                if let Some(last) = page.objects.last() {
                    self.given.push_back(last.key.clone());
                    if self.given.len() > PAGES_MEASURED {
                        self.given.pop_front();
                    }
                }
                return Some(page);
            }
            if !front.ended {
                return None;
            }
            self.pieces.pop_front();
        }
    }

    /// Whether [`Segments::take`] would give a page.
    pub(super) fn has_page(&self) -> bool {
        let front = self.pieces.iter().find(|piece| !piece.ended || !piece.pages.is_empty());
        front.is_some_and(|piece| !piece.pages.is_empty())
    }

    /// What to ask for now, the earliest first, if `room` more requests may be under way.
    pub(super) fn ask(&mut self, room: usize) -> Option<Ask> {
        if room == 0 {
            return None;
        }
        let wanting = |piece: &&mut Piece| !piece.asking && !piece.ended && piece.pages.len() < PAGES_HELD;
        if let Some(piece) = self.pieces.iter_mut().find(wanting) {
            piece.asking = true;
            return Some(Ask { id: piece.id, after: piece.after.clone() });
        }
        let (place, after) = self.guess()?;
        self.insert(place, after.clone());
        let piece = &mut self.pieces[place];
        piece.asking = true;
        Some(Ask { id: piece.id, after })
    }

    /// Where another piece may begin: in the first one that seems to be as long as two, or behind the last.
    fn guess(&self) -> Option<(usize, String)> {
        let open = self.pieces.iter().filter(|piece| !piece.ended).count();
        let held: usize = self.pieces.iter().map(|piece| piece.pages.len()).sum();
        if !self.guessing || open >= self.worth || held >= MAX_PAGES_HELD {
            return None;
        }
        (0..self.pieces.len()).filter(|place| !self.pieces[*place].ended).find_map(|place| {
            let bound = match self.pieces.get(place + 1) {
                Some(next) => Some(&next.bound),
                None => self.nothing_after.as_ref(),
            };
            let far = self.ahead(place, 2 * PIECE_PAGES)?;
            let within = bound.is_none_or(|bound| far < *bound);
            let after = if within { self.ahead(place, PIECE_PAGES)? } else { return None };
            Some((place + 1, after))
        })
    }

    /// A key that may lie so many pages behind what piece `place` has come to.
    fn ahead(&self, place: usize, pages: usize) -> Option<String> {
        let piece = &self.pieces[place];
        let (begin, end, measured) = match &piece.first {
            Some(first) if piece.brought >= OWN_PAGES_MEASURED => (first, &piece.after, piece.brought),
            _ => (self.given.front()?, self.given.back()?, self.given.len() - 1),
        };
        #[allow(clippy::cast_precision_loss)]
        let steps = pages as f64 / measured.max(1) as f64;
        let name = |key: &'_ String| key.get(self.prefix.len()..).map(str::to_owned);
        let name = self.keys.ahead(&name(begin)?, &name(end)?, steps, &name(&piece.after)?)?;
        Some(self.prefix.clone() + &name)
    }

    /// Takes what a request brought: a page, or that nothing is behind.
    pub(super) fn answer(&mut self, id: u64, page: Option<ListPage>) {
        // Of a piece that was thrown away, or ended where the next one begins while this was under way.
        let Some(place) = self.pieces.iter().position(|piece| piece.id == id && !piece.ended) else { return };
        self.pieces[place].asking = false;
        match page {
            None => self.ends(place),
            Some(page) if page.unlistable > 0 => self.stop_guessing(),
            Some(page) => self.goes_on(place, page),
        }
    }

    /// Nothing is behind piece `place`. What another one found there is no part of the listing: this one saw its end.
    fn ends(&mut self, place: usize) {
        let piece = &mut self.pieces[place];
        self.nothing_after = Some(piece.after.clone());
        piece.ended = true;
        self.pieces.truncate(place + 1);
        // One that found nothing at all was put behind the end, which the one before it has yet to see.
        if place > 0 && self.pieces[place].first.is_none() {
            self.drop_from(place);
        }
    }

    /// Names that cannot be used have no place among the keys, so that two pieces might count the same one: from the
    /// first place where something is open, pages are read one after the other.
    fn stop_guessing(&mut self) {
        self.guessing = false;
        if let Some(open) = self.pieces.iter().position(|piece| !piece.ended) {
            self.pieces.truncate(open + 1);
            self.pieces[open].ended = true;
            self.rest = Some(self.pieces[open].after.clone());
        }
    }

    fn goes_on(&mut self, place: usize, page: ListPage) {
        self.learn(&page);
        let piece = &mut self.pieces[place];
        let is_first = piece.first.is_none();
        if let (Some(first), Some(last)) = (page.objects.first(), page.objects.last()) {
            piece.after.clone_from(&last.key);
            piece.first.get_or_insert_with(|| first.key.clone());
        }
        piece.brought += 1;
        piece.pages.push_back(page);
        if is_first && place > 0 && self.is_known(place) {
            let gone = self.pieces.remove(place);
            if let (Some(gone), Some(next)) = (gone, self.pieces.get_mut(place))
                && gone.first == next.first
            {
                next.bound = gone.bound;
            }
            self.worth = (self.worth / 2).max(2);
        } else if place > 0 {
            self.worth = (self.worth + 1).min(MAX_PIECES);
        }
        self.join(place);
        if place > 0 {
            self.join(place - 1);
        }
    }

    /// Whether another piece found, or will find, what piece `place` begins with.
    fn is_known(&self, place: usize) -> bool {
        let first = &self.pieces[place].first;
        let before = &self.pieces[place - 1];
        let same = |other: usize| self.pieces.get(other).is_some_and(|other| other.first == *first);
        let passed = |first: &String| *first <= before.after && !holds(before, first);
        same(place - 1) || same(place + 1) || first.as_ref().is_none_or(passed)
    }

    /// Ends piece `place` where the next one begins, if it has come there.
    fn join(&mut self, place: usize) {
        let Some(next) = self.pieces.get(place + 1) else { return };
        let Some(first) = next.first.clone() else { return };
        let piece = &mut self.pieces[place];
        if piece.ended {
            return;
        }
        let met = piece.pages.iter().enumerate().find_map(|(page, listed)| {
            listed.objects.iter().position(|object| object.key == first).map(|object| (page, object))
        });
        match met {
            Some((page, object)) => {
                piece.pages.truncate(page + 1);
                piece.pages[page].objects.truncate(object);
                if piece.pages[page] == ListPage::default() {
                    piece.pages.pop_back();
                }
                piece.ended = true;
            }
            // The key was removed meanwhile, or the order is not that of the bytes.
            None if piece.after >= first => {
                self.drop_from(place + 1);
                self.misses += 1;
                self.guessing &= self.misses < MAX_MISSES;
            }
            None => {}
        }
    }

    fn drop_from(&mut self, place: usize) {
        self.pieces.truncate(place);
        self.worth = (self.worth / 2).max(2);
    }
}

fn holds(piece: &Piece, key: &str) -> bool {
    piece.pages.iter().any(|page| page.objects.iter().any(|object| object.key == key))
}
