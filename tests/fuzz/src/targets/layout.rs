//! From an input's bytes to the memory in which a guest's answer lies, laid out as the component model has it.
//!
//! An even first byte: the bytes are the memory. An odd one: the bytes choose fields of an answer with the right shape,
//! since random memory hardly ever holds a pointer that leads somewhere.

/// Where the answer lies in the guest's memory.
pub const BASE: u32 = 4096;

/// Words of the answer.
pub const WORDS: usize = 1000;

/// Words before those that an answer points to.
const HEAD: usize = 32;

/// What all targets of this kind start from: each shape, empty and full, and plain memory.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![], vec![0], vec![1], vec![0; 64], vec![1; 64], vec![0xff; 64]];
    seeds.extend((0_u8..16).map(|n| (0_u8..96).map(|i| if i == 0 { 1 } else { i.wrapping_mul(n) % 23 }).collect()));
    // A result with a list of two at word 32, and two with other cases.
    for words in [[0, 0, BASE + 128, 2], [0, 1, BASE + 128, 3], [1, 2, BASE + 128, 5], [0, BASE + 128, 2, BASE + 192]] {
        let mut seed = vec![0_u8];
        seed.extend(words.iter().flat_map(|word: &u32| word.to_le_bytes()));
        seed.resize(1 + 4 * HEAD, 0);
        seed.extend((0_u32..32).flat_map(|n| (n % 5).to_le_bytes()));
        seeds.push(seed);
    }
    seeds
}

/// A `result<step, error>`.
pub fn step(data: &[u8]) -> [u32; WORDS] {
    build(data, |bytes, memory| {
        let case = u32::from(bytes.next() % 8 == 7);
        if case == 1 {
            let text = memory.text(bytes);
            return memory.head(&[0, 1, text.0, text.1]);
        }
        let list = memory.rows(bytes, |bytes, row| {
            let [low, high] = bytes.float();
            row.extend([bytes.number(), bytes.number(), bytes.number(), bytes.number(), low, high, bytes.number(), 0]);
        });
        memory.head(&[0, 0, list.0, list.1]);
    })
}

/// A `result<selection, error>`.
pub fn selection(data: &[u8]) -> [u32; WORDS] {
    build(data, |bytes, memory| {
        let mut lists = [(0, 0); 2];
        for list in &mut lists {
            let texts = [memory.text(bytes), memory.text(bytes)];
            *list = memory.rows(bytes, |bytes, row| {
                let [low, high] = bytes.float();
                row.extend([bytes.number(), bytes.number(), u32::from(bytes.next() % 2), 0, low, high]);
                row.extend(texts.iter().flat_map(|text| [text.0, text.1]));
            });
        }
        let notes = memory.texts(bytes);
        let [prefill, decode] = lists;
        memory.head(&[0, prefill.0, prefill.1, decode.0, decode.1, notes.0, notes.1]);
    })
}

/// A `result<deployment-plan, error>`.
pub fn plan(data: &[u8]) -> [u32; WORDS] {
    build(data, |bytes, memory| {
        let mut words = vec![0, 0, bytes.number(), bytes.number()];
        (0..3).for_each(|_| words.extend(bytes.float()));
        words.extend([bytes.number(), 0]);
        (0..2).for_each(|_| words.extend(bytes.float()));
        let assumptions = memory.texts(bytes);
        words.extend([u32::from(bytes.next() % 2) * 0x0101, assumptions.0, assumptions.1, 0, 0, 0]);
        memory.head(&words);
    })
}

fn build(data: &[u8], shape: impl FnOnce(&mut Bytes<'_>, &mut Memory)) -> [u32; WORDS] {
    let (mode, rest) = data.split_first().unwrap_or((&0, &[]));
    let mut memory = Memory { words: [0; WORDS], free: HEAD };
    if mode % 2 == 0 {
        for (word, bytes) in memory.words.iter_mut().zip(rest.chunks(4)) {
            *word = bytes.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte));
        }
    } else {
        let mut bytes = Bytes(rest);
        shape(&mut bytes, &mut memory);
        // What else may stand there: an error, an unknown case, one wrong word.
        match bytes.next() {
            250 => memory.head(&[1]),
            251 => memory.head(&[2]),
            252..=255 => {
                let (place, value) = (bytes.next(), bytes.number());
                if let Some(word) = memory.words.get_mut(usize::from(place)) {
                    *word = value;
                }
            }
            _ => {}
        }
    }
    memory.words
}

/// The input, byte by byte; zeros when it is over.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Mostly small; now and then at an edge, or anything.
    fn number(&mut self) -> u32 {
        const EDGES: [u32; 11] = [100, 3000, 8191, 8192, 10_000, 10_001, 1_000_000, 1_000_001, 1 << 31, BASE, u32::MAX];
        match self.next() {
            small @ 0..=199 => u32::from(small % 10),
            edge @ 200..=247 => EDGES.get(usize::from(edge) % EDGES.len()).copied().unwrap_or_default(),
            _ => u32::from_le_bytes([self.next(), self.next(), self.next(), self.next()]),
        }
    }

    /// Likewise, as two words.
    fn float(&mut self) -> [u32; 2] {
        const EDGES: [f64; 9] =
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, -1.0, f64::MAX, f64::MIN_POSITIVE, 5e-324, 0.05];
        let value = match self.next() {
            small @ 0..=199 => f64::from(small) / 8.0,
            edge @ 200..=247 => EDGES.get(usize::from(edge) % EDGES.len()).copied().unwrap_or_default(),
            _ => f64::from_bits(std::iter::repeat_with(|| self.next()).take(8).fold(0, |b, n| (b << 8) | u64::from(n))),
        };
        let bits = value.to_bits();
        [bits as u32, (bits >> 32) as u32]
    }
}

/// The answer's memory, filled from its end of the head on.
struct Memory {
    words: [u32; WORDS],
    free: usize,
}

impl Memory {
    fn head(&mut self, words: &[u32]) {
        self.put(0, words);
    }

    fn put(&mut self, at: usize, words: &[u32]) {
        self.words.iter_mut().skip(at).zip(words).for_each(|(place, word)| *place = *word);
    }

    /// Puts words at the next place that suits rows with numbers of 8 bytes; where there is no room, none.
    fn add(&mut self, words: &[u32]) -> u32 {
        let at = self.free.next_multiple_of(2);
        self.put(at, words);
        self.free = (at + words.len()).min(WORDS);
        BASE + 4 * at as u32
    }

    /// Up to 15 rows: pointer and length.
    fn rows(&mut self, bytes: &mut Bytes<'_>, row: impl Fn(&mut Bytes<'_>, &mut Vec<u32>)) -> (u32, u32) {
        let count = bytes.next() % 16;
        let mut words = Vec::new();
        (0..count).for_each(|_| row(bytes, &mut words));
        (self.add(&words), u32::from(count))
    }

    /// A text of up to 31 bytes; rarely one that is much longer than its memory.
    fn text(&mut self, bytes: &mut Bytes<'_>) -> (u32, u32) {
        let length = bytes.next();
        let content: Vec<u8> = (0..length % 32).map(|_| bytes.next()).collect();
        let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte));
        let words: Vec<u32> = content.chunks(4).map(word).collect();
        let length = if length >= 240 { 700 * u32::from(length - 239) } else { u32::from(length % 32) };
        (self.add(&words), length)
    }

    /// Up to seven texts; rarely one of them a hundred times.
    fn texts(&mut self, bytes: &mut Bytes<'_>) -> (u32, u32) {
        let count = bytes.next();
        let times = if count >= 240 { 101 } else { count % 8 };
        let text = self.text(bytes);
        let words: Vec<u32> = (0..times).flat_map(|_| [text.0, text.1]).collect();
        (self.add(&words), u32::from(times))
    }
}
