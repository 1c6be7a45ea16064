//! Sizing: how many images a micro-batch holds, found while real work is done.
//!
//! Part of the compute stage. With `--micro-batch auto` each model climbs from its first size by doubling for as
//! long as an image gets cheaper, looks once below where it began, and stays at the knee; so the search costs no
//! pass of its own, and a short job never pays for it. What does not fit into memory bounds the search and is
//! halved. It must never change a row: only how many images share a pass.

use super::infer::Fit;
use std::time::Duration;

/// Full micro-batches that are timed at each size; the first one there is not (fresh memory, a cold cache).
const TIMED: usize = 4;

/// Micro-batches in a row that were not full, and the search ends where it is: the work does not come in such sizes.
const RAGGED_AT_MOST: usize = 16;

/// Micro-batches that must fit before one that was halved for want of memory is doubled again: a neighbour on the
/// device may have left, and trying costs one failed pass.
const FITS_BEFORE_GROWTH: u32 = 64;

/// How the size of a micro-batch is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// The user's.
    Fixed(usize),
    /// Ours: beginning at `start`, up to `most`.
    Climb {
        /// The first size.
        start: usize,
        /// No size above it is tried.
        most: usize,
        /// The share by which an image must get cheaper for twice the size to be worth its memory and its wait.
        worth: f64,
    },
}

impl Rule {
    /// The share that twice a size must gain.
    pub fn worth(self) -> f64 {
        match self {
            Self::Fixed(_) => 0.0,
            Self::Climb { worth, .. } => worth,
        }
    }
}

/// The size of one model's micro-batches.
#[derive(Debug)]
pub struct Sizing {
    /// The size, as far as memory allows for it.
    wanted: usize,
    search: Option<Search>,
    /// A smaller size that memory forces.
    fits: Option<usize>,
    /// Micro-batches in a row that fitted.
    fitted: u32,
}

#[derive(Debug)]
struct Search {
    /// Seconds an image of the full passes at the size that is tried.
    passes: Vec<f64>,
    ragged: usize,
    /// The cheapest size so far, with its seconds an image.
    best: Option<(usize, f64)>,
    start: usize,
    most: usize,
    worth: f64,
}

/// What a pass showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing yet, or nothing new.
    Nothing,
    /// The size to keep, and to remember.
    Knee(usize),
}

impl Sizing {
    /// By `rule`; a size that an earlier process found is kept without a search.
    pub fn new(rule: Rule, remembered: Option<usize>) -> Self {
        let (wanted, search) = match (rule, remembered) {
            (Rule::Fixed(size), _) => (size, None),
            (Rule::Climb { most, .. }, Some(size)) => (size.clamp(1, most), None),
            (Rule::Climb { start, most, worth }, None) => {
                let search = Search { passes: Vec::new(), ragged: 0, best: None, start, most, worth };
                (start.min(most), Some(search))
            }
        };
        Self { wanted: wanted.max(1), search, fits: None, fitted: 0 }
    }

    /// Images in a full micro-batch now.
    pub fn full(&self) -> usize {
        self.fits.map_or(self.wanted, |fits| fits.min(self.wanted)).max(1)
    }

    /// Takes note of a pass over so many `images`.
    pub fn observe(&mut self, images: usize, took: Duration, fit: Fit) -> Found {
        match fit {
            Fit::Pieces(worked) => {
                self.fits = Some(worked.min(self.full()).max(1));
                self.fitted = 0;
                return self.settle();
            }
            Fit::Whole => self.grow_back(),
        }
        let Some(search) = &mut self.search else { return Found::Nothing };
        if images != self.wanted {
            search.ragged += 1;
            return if search.ragged > RAGGED_AT_MOST { self.settle() } else { Found::Nothing };
        }
        search.ragged = 0;
        search.passes.push(took.as_secs_f64() / images as f64);
        if search.passes.len() <= TIMED { Found::Nothing } else { self.step() }
    }

    /// Enough passes at this size: on to the next, or home to the best.
    fn step(&mut self) -> Found {
        let Some(search) = &mut self.search else { return Found::Nothing };
        let tried = self.wanted;
        // The least disturbed pass says what the size can do; a neighbour's noise only ever adds.
        let cost = search.passes.drain(..).skip(1).fold(f64::INFINITY, f64::min);
        let climbing = tried >= search.start;
        let better = match search.best {
            None => true,
            Some((_, best)) if climbing => cost < best * (1.0 - search.worth),
            // Below the start: as good is better, for it needs less memory and fills sooner.
            Some((_, best)) => cost <= best,
        };
        if better {
            search.best = Some((tried, cost));
        }
        let next = match (climbing, better) {
            (true, true) if tried < search.most => Some((tried * 2).min(search.most)),
            // The first step up was none: look below.
            (true, _) if search.best.is_none_or(|(best, _)| best == search.start) => Some(search.start / 2),
            (true, _) => None,
            (false, true) => Some(tried / 2),
            (false, false) => None,
        };
        match next.filter(|size| *size > 0) {
            Some(size) => {
                self.wanted = size;
                Found::Nothing
            }
            None => self.settle(),
        }
    }

    /// Ends the search at the best size that is known.
    fn settle(&mut self) -> Found {
        let Some(search) = self.search.take() else { return Found::Nothing };
        let forced = self.fits.is_some();
        self.wanted = search.best.map_or(if forced { self.full() } else { search.start }, |(size, _)| size);
        // What was too little to try, or too large for today's neighbours, is not worth remembering.
        if search.best.is_some() && !forced { Found::Knee(self.wanted) } else { Found::Nothing }
    }

    fn grow_back(&mut self) {
        let Some(fits) = self.fits else { return };
        self.fitted += 1;
        if self.fitted >= FITS_BEFORE_GROWTH {
            self.fits = Some(fits * 2).filter(|grown| *grown < self.wanted);
            self.fitted = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs full passes that cost by `cost` seconds an image, until the search ends; gives the sizes tried.
    fn climb(mut sizing: Sizing, cost: impl Fn(usize) -> f64) -> (Vec<usize>, Found, usize) {
        let mut tried = vec![sizing.full()];
        for _ in 0..1_000 {
            let size = sizing.full();
            if tried.last() != Some(&size) {
                tried.push(size);
            }
            let took = Duration::from_secs_f64(cost(size) * size as f64);
            if let found @ Found::Knee(_) = sizing.observe(size, took, Fit::Whole) {
                return (tried, found, sizing.full());
            }
        }
        (tried, Found::Nothing, sizing.full())
    }

    fn auto() -> Sizing {
        Sizing::new(Rule::Climb { start: 16, most: 256, worth: 0.04 }, None)
    }

    #[test]
    fn it_climbs_to_the_knee_and_stays() {
        // A fixed cost a pass, worth spreading over 64 images but not over 128.
        let (tried, found, size) = climb(auto(), |n| 1e-3 + 5e-3 / n as f64);
        assert_eq!((&tried[..], found, size), (&[16, 32, 64, 128][..], Found::Knee(64), 64));
    }

    #[test]
    fn where_nothing_is_gained_it_takes_the_smallest_as_good() {
        let (tried, _, size) = climb(auto(), |n| if n >= 8 { 1e-3 } else { 2e-3 });
        assert_eq!((&tried[..], size), (&[16, 32, 8, 4][..], 8));
    }

    #[test]
    fn a_size_is_taken_if_it_is_worth_what_the_rule_wants() {
        let climbing = |worth| {
            let sizing = Sizing::new(Rule::Climb { start: 8, most: 16, worth }, None);
            climb(sizing, |n| if n > 8 { 0.93e-3 } else { 1e-3 + 1e-4 / n as f64 }).2
        };
        assert_eq!((climbing(0.04), climbing(0.1)), (16, 8));
    }

    #[test]
    fn it_ends_at_the_most_and_at_one() {
        assert_eq!(climb(auto(), |n| 1.0 / n as f64).2, 256);
        assert_eq!(climb(auto(), |n| n as f64).2, 1);
    }

    #[test]
    fn given_and_remembered_sizes_are_kept() {
        for sizing in [
            Sizing::new(Rule::Fixed(24), Some(3)),
            Sizing::new(Rule::Climb { start: 16, most: 64, worth: 0.04 }, Some(24)),
        ] {
            assert_eq!(climb(sizing, |n| 1.0 / n as f64), (vec![24], Found::Nothing, 24));
        }
        assert_eq!(Sizing::new(Rule::Climb { start: 16, most: 64, worth: 0.04 }, Some(4096)).full(), 64);
    }

    #[test]
    fn work_that_does_not_fill_a_size_ends_the_search() {
        let mut sizing = auto();
        for _ in 0..100 {
            sizing.observe(5, Duration::from_millis(5), Fit::Whole);
        }
        assert_eq!((sizing.full(), sizing.search.is_none()), (16, true));
    }

    #[test]
    fn want_of_memory_halves_and_grows_back_and_is_not_remembered() {
        let mut sizing = auto();
        assert_eq!(sizing.observe(16, Duration::from_millis(1), Fit::Pieces(4)), Found::Nothing);
        assert_eq!(sizing.full(), 4);
        let mut sizing = Sizing::new(Rule::Fixed(16), None);
        sizing.observe(16, Duration::ZERO, Fit::Pieces(4));
        for expected in [8, 16] {
            for _ in 0..FITS_BEFORE_GROWTH {
                sizing.observe(sizing.full(), Duration::ZERO, Fit::Whole);
            }
            assert_eq!(sizing.full(), expected);
        }
    }
}
