//! Random numbers from a seed that a failing test prints.

#![allow(dead_code, unreachable_pub, missing_docs)]

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True one time in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).map(|_| self.next().to_le_bytes());
        words.flatten().take(len).collect()
    }

    /// A damaged copy of what is not empty, nor is the copy: in one to four places it is overwritten, cut, repeated or
    /// has something `hostile` put in.
    pub fn damaged(&mut self, valid: &[u8], hostile: &[&[u8]]) -> Vec<u8> {
        let mut bytes = valid.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() as u64) as usize;
            let end = (at + 1 + self.below(24) as usize).min(bytes.len());
            match self.below(4) {
                0 => bytes[at] = self.below(256) as u8,
                1 if end - at < bytes.len() => drop(bytes.drain(at..end)),
                2 => bytes.extend_from_within(at..end),
                _ => {
                    let new = hostile[self.below(hostile.len() as u64) as usize];
                    drop(bytes.splice(at..at, new.iter().copied()));
                }
            }
        }
        bytes
    }
}

/// The number in an environment variable, if there is one.
pub fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// The seed in an environment variable, or a new one.
pub fn seed_from(variable: &str) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    number_from(variable).unwrap_or_else(|| RandomState::new().hash_one(0))
}
