// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Decides whether a state is right.
//!
//! [`ModelJudge`](super::model_judge::ModelJudge) knows everything, because it saw the workload's model
//! at every commit. [`RootJudge`](super::RootJudge) has only a recording, from any host.

use super::points::Point;
use super::state_device::StateDevice;
use vexfs::{Device, OpenOptions, Volume};

/// What the engine made of a state: the generation that it recovered, or what is wrong.
pub type Verdict = Result<u64, String>;

/// Gives verdicts.
pub trait Judge: Sync {
    /// The verdict on what a cut after `event` events left on the device. It follows from what is
    /// read of the device, and from nothing else.
    fn judge(&self, event: usize, device: &StateDevice<'_>) -> Verdict;
}

/// Judges one state by running the engine on it. Returns the verdict and the trace: which of the
/// point's choices were read, in that order.
pub fn evaluate(point: &Point, state: &[u16], judge: &dyn Judge) -> (Verdict, Vec<u32>) {
    let device = StateDevice::new(point, state);
    let verdict = judge.judge(point.event, &device);
    (verdict, device.into_trace())
}

/// How judges open volumes.
pub(super) const OPTIONS: OpenOptions = OpenOptions { read_only: false, cache_bytes: 0 };

pub(super) fn open<D: Device>(device: &D) -> Result<Volume<&D>, String> {
    Volume::open(device, &OPTIONS).map_err(|e| format!("the filesystem does not open: {e}"))
}
