// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What a simulation is asked for, and what it did.

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything that is random.
    pub seed: u64,
    /// Operations.
    pub steps: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Bytes of the engine's cache of nodes (it keeps at least 64 nodes).
    pub cache_bytes: usize,
    /// One cut in about so many operations; 0 for none.
    pub cut_every: u64,
    /// How many random images of each cut are judged, beside the one that keeps nothing and the one
    /// that keeps all of the cache; below 2 only one random image is.
    pub images_per_cut: u64,
    /// Longest write in bytes.
    pub write_bytes: u64,
    /// Inodes above which nothing is created.
    pub inodes: usize,
    /// The device ignores every flush. The simulator then has to find something wrong.
    pub ignore_flushes: bool,
    /// Devices also fail, and have silent faults.
    pub faults: bool,
}

impl Options {
    /// A small image, cut often.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            steps: 1000,
            image_bytes: 1 << 20,
            cache_bytes: 0,
            cut_every: 20,
            images_per_cut: 3,
            write_bytes: 40_000,
            inodes: 60,
            ignore_flushes: false,
            faults: true,
        }
    }

    /// A small or large image, crowded or roomy, as the seed decides.
    #[must_use]
    pub const fn of_seed(seed: u64, steps: u64) -> Self {
        let (image_bytes, inodes) = match seed % 6 {
            0 => (1 << 20, 60),
            1 | 2 => (4 << 20, 60),
            3 => (64 << 20, 2000),
            4 => (1 << 20, 15),
            _ => (1 << 30, 100),
        };
        Self { steps, image_bytes, inodes, ..Self::new(seed) }
    }
}

/// What was simulated.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Operations.
    pub steps: u64,
    /// Cuts.
    pub cuts: u64,
    /// States judged.
    pub states: u64,
    /// Operations that were refused for want of space.
    pub full: u64,
    /// States for which the engine was run. The others agree with one of them in all that it read.
    pub evaluations: u64,
    /// Commits begun.
    pub generations: u64,
    /// Faults planned, and silent faults made.
    pub faults: u64,
    /// Silent faults that the engine detected. The others did no harm.
    pub detected: u64,
}

impl Outcome {
    /// Adds what another run did.
    pub const fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.cuts += other.cuts;
        self.states += other.states;
        self.full += other.full;
        self.evaluations += other.evaluations;
        self.generations += other.generations;
        self.faults += other.faults;
        self.detected += other.detected;
    }
}
