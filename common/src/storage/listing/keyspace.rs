//! Guesses which key lies so many pages ahead in a listing, from the keys that were seen.
//!
//! Names of images are numbers in disguise: `img_00001000.jpg`, a digest in hex, a folder of a class and a number within.
//! So a key is read as a number whose digit at each place is the rank of its character among those that the place may
//! have, the keys per step are taken from what was listed, and the sum is written as a key again. A guess need not be a
//! key that exists. A bad one costs requests and never a key: see [`super::segments`].

/// Places that are looked at: what lies behind makes no difference between pages.
const PLACES: usize = 96;

/// Numbers stay below this, so that a hundred steps more do not overflow.
const LARGEST: u128 = 1 << 110;

/// Places before the first difference that are counted in too, for what carries over: 10^8 pages of numbers.
const CARRY_PLACES: usize = 8;

/// A place that had so many may have all.
const MANY_LETTERS: u32 = 3;

/// Of a page only so many keys are read for their characters.
const KEYS_READ: usize = 64;

/// Which characters each place of the names has had, as bits of ASCII. Names are read up to their first other byte.
#[derive(Debug, Default)]
pub(super) struct Keyspace {
    places: Vec<u128>,
    /// The digits that each place may have, in order.
    digits: Vec<Vec<u8>>,
}

impl Keyspace {
    /// Learns from the keys of a page, whose first `skip` bytes all keys have.
    pub(super) fn learn<'a>(&mut self, keys: impl ExactSizeIterator<Item = &'a str>, skip: usize) {
        let step = keys.len().div_ceil(KEYS_READ).max(1);
        let mut news = false;
        for key in keys.step_by(step) {
            for (place, byte) in key.bytes().skip(skip).take(PLACES).take_while(u8::is_ascii).enumerate() {
                if self.places.len() == place {
                    self.places.push(0);
                }
                news |= self.places[place] >> byte & 1 == 0;
                self.places[place] |= 1 << byte;
            }
        }
        if news {
            self.digits = digits(&self.places);
        }
    }

    fn digits(&self, place: usize) -> &[u8] {
        self.digits.get(place).map_or(&[], Vec::as_slice)
    }

    /// A name that lies as far behind `from` as `steps` times the way from `begin` to `end`. `None` if the names tell
    /// nothing, or the guess is not behind `from`. None of the names has the prefix that all keys have.
    pub(super) fn ahead(&self, begin: &str, end: &str, steps: f64, from: &str) -> Option<String> {
        let window = self.window([begin, end, from])?;
        let span = self.number(end, &window).checked_sub(self.number(begin, &window))?;
        // Precision is lost, and does not matter: it is a guess.
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let way = (span as f64 * steps).min(LARGEST as f64) as u128;
        let name = self.name(from, self.number(from, &window).checked_add(way)?, &window);
        (way > 0 && *name > *from).then_some(name)
    }

    /// The places from the first at which the names differ, as many as fit into a number.
    fn window(&self, names: [&str; 3]) -> Option<std::ops::Range<usize>> {
        let [a, b, c] = names.map(str::as_bytes);
        let same = |place: &usize| a.get(*place) == b.get(*place) && b.get(*place) == c.get(*place);
        let first = (0..self.places.len()).find(|place| !same(place))?;
        let mut largest = 1_u128;
        let fits = |place: &usize| {
            largest = largest.saturating_mul(self.digits(*place).len() as u128);
            largest < LARGEST
        };
        let first = first.saturating_sub(CARRY_PLACES);
        let last = (first..self.places.len()).take_while(fits).last()?;
        Some(first..last + 1)
    }

    fn number(&self, name: &str, window: &std::ops::Range<usize>) -> u128 {
        window.clone().fold(0, |number, place| {
            let digits = self.digits(place);
            let rank = name.as_bytes().get(place).map_or(0, |byte| digits.partition_point(|d| d < byte));
            number * digits.len() as u128 + rank.min(digits.len() - 1) as u128
        })
    }

    /// `number` as a name that begins as `like` does.
    fn name(&self, like: &str, mut number: u128, window: &std::ops::Range<usize>) -> String {
        let mut bytes = Vec::with_capacity(window.len());
        for place in window.clone().rev() {
            let digits = self.digits(place);
            let base = digits.len() as u128;
            bytes.push(digits[usize::try_from(number % base).unwrap_or_default()]);
            number /= base;
        }
        if number > 0 {
            // Beyond the last name of these places: behind all of them.
            bytes = window.clone().rev().filter_map(|place| self.digits(place).last().copied()).collect();
        }
        bytes.reverse();
        let mut name: Vec<u8> = like.bytes().take(window.start).collect();
        name.extend(bytes);
        // Its own bytes are ASCII; those of `like` are cut at a place that was ASCII in the names seen.
        String::from_utf8_lossy(&name).into_owned()
    }
}

/// The characters that each place may have: whoever counts in some digits counts in all of them, and in hex wherever
/// the places beside do.
fn digits(places: &[u128]) -> Vec<Vec<u8>> {
    const TEN: u128 = range(b'0', b'9');
    const CASES: [[u128; 2]; 2] =
        [[range(b'a', b'f'), range(b'a', b'z')], [range(b'A', b'F'), range(b'A', b'Z')]];
    let mut all = places.to_vec();
    for [hex, letters] in CASES {
        for run in all.chunk_by_mut(|a, b| (a | b) & !(TEN | hex) == 0) {
            if run.iter().any(|bits| bits & TEN != 0 && bits & hex != 0) {
                run.iter_mut().for_each(|bits| *bits |= TEN | hex);
            }
        }
        // Words may go on with any letter; a letter among digits, as of `9.jpg` beside `10.jpg`, is no digit.
        for bits in &mut all {
            if *bits & TEN == 0 && (*bits & letters).count_ones() >= MANY_LETTERS {
                *bits |= letters;
            }
        }
    }
    let digits = |bits: u128| (0..128).filter(|byte| bits >> byte & 1 == 1).collect();
    all.into_iter().map(|bits| digits(if bits & TEN == 0 { bits } else { bits | TEN })).collect()
}

const fn range(first: u8, last: u8) -> u128 {
    ((1 << (last - first + 1)) - 1) << first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(keys: &[String]) -> Keyspace {
        let mut space = Keyspace::default();
        space.learn(keys.iter().map(String::as_str), 0);
        space
    }

    fn ahead(keys: &[String], pages: f64) -> Option<String> {
        let (begin, end) = (keys.first().unwrap(), keys.last().unwrap());
        learned(keys).ahead(begin, end, pages, end)
    }

    #[test]
    fn numbers_are_counted_on_in_their_own_digits() {
        let keys: Vec<_> = (0..1000).map(|n| format!("img_{n:08}.jpg")).collect();
        for (pages, wanted) in [(1.0, 1998.0), (100.0, 100_899.0), (20_000.0, 19_980_999.0)] {
            let guess = ahead(&keys, pages).unwrap();
            let number: f64 = guess[4..12].parse().unwrap();
            assert!((number - wanted).abs() <= wanted * 0.01 + 1.0, "{guess} is not {wanted}");
        }
    }

    #[test]
    fn digests_are_counted_on_in_hex() {
        let keys: Vec<_> = (0..1000_u64).map(|n| format!("{:016x}", n << 40)).collect();
        let guess = ahead(&keys, 50.0).unwrap();
        let number = u64::from_str_radix(&guess[..16], 16).unwrap() >> 40;
        assert!((50_800..51_200).contains(&number), "{guess}");
    }

    #[test]
    fn what_is_full_ends_behind_its_last_name() {
        let keys: Vec<_> = (0..1000).map(|n| format!("n01/img_{n:03}.jpg")).collect();
        let guess = ahead(&keys, 5.0).unwrap();
        assert!(guess.as_str() > "n01/img_999.jpg", "{guess}");
    }

    #[test]
    fn equal_names_and_foreign_ones_tell_nothing() {
        let space = learned(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(space.ahead("a", "a", 8.0, "a"), None);
        assert_eq!(space.ahead("b", "a", 8.0, "a"), None);
        assert_eq!(Keyspace::default().ahead("a", "b", 8.0, "b"), None);
        let foreign = learned(&["ä1".to_owned(), "ä2".to_owned()]);
        assert_eq!(foreign.ahead("ä1", "ä2", 8.0, "ä2"), None);
    }
}
