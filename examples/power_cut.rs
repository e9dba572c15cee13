// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Makes a filesystem in memory, fills it, cuts the power, and opens what is left.
//!
//!     cargo run --example power_cut

use vexfs::{Error, Ino, MkfsOptions, NewInode, OpenOptions, Time, Volume, check, mkfs};
use vexfs_crash::{CacheDevice, Image, Keep};

const BYTES: u64 = 16 << 20;
const NOW: Time = Time { seconds: 1_700_000_000, nanos: 0 };
const FILE: NewInode<'_> =
    NewInode { mode: 0o100_644, uid: 0, gid: 0, rdev: 0, target: b"", now: NOW };

fn write(volume: &mut Volume<CacheDevice>, name: &[u8], text: &[u8]) -> Result<(), Error> {
    let file = volume.run(NOW, |volume| volume.create(Ino::ROOT, name, &FILE))?;
    volume.write_at(file.ino, 0, text, NOW)
}

fn main() -> Result<(), Error> {
    let device = CacheDevice::new(Image::new(BYTES));
    mkfs(&device, &MkfsOptions::new(BYTES, [1; 16], [2; 16], NOW))?;
    let mut volume = Volume::open(device, &OpenOptions::default())?;

    write(&mut volume, b"promised", b"committed before the cut")?;
    let promised = volume.commit(NOW)?;
    write(&mut volume, b"late", b"never committed")?;
    println!("{} sectors are in the device's cache", volume.device().unflushed());

    // Each of them keeps what it had or what was written to it, independently of the others.
    for seed in 0..100 {
        let left = CacheDevice::new(volume.device().cut(Keep::Random(seed)));
        assert_eq!(check(&left, &mut |_| {})?.findings, 0);
        let mut after = Volume::open(left, &OpenOptions::default())?;
        assert_eq!(after.generation(), promised);
        let (ino, _) = after.resolve(|volume| volume.lookup(Ino::ROOT, b"promised"))?;
        let mut text = [0; 24];
        after.read_at(ino, 0, &mut text)?;
        assert_eq!(&text, b"committed before the cut");
        let late = after.resolve(|volume| volume.lookup(Ino::ROOT, b"late"));
        assert_eq!(late, Err(Error::NotFound));
    }
    println!("100 power cuts: generation {} came back whole each time", promised.0);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_promised_comes_back() {
        super::main().unwrap();
    }
}
