// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Power cuts: the image that is left is opened, checked and compared with the commit it came back as.

use super::{Lockstep, open};
use crate::cache::Keep;
use crate::device::{CacheDevice, Effect, Fault, On};
use crate::halt::{Halt, ensure, mismatch};
use crate::image::Image;
use crate::model::Model;
use crate::oracle::{assert_clean, compare};
use std::collections::BTreeMap;
use vexfs::Volume;

impl Lockstep {
    /// Plans the power to go in the midst of the `nth` request from here on.
    pub(crate) fn plan_power_off(&self, nth: u64) {
        self.volume.device().fault(Fault::nth(On::Any, nth, Effect::PowerOff));
    }

    /// Cuts the power, judges the image that each of `keeps` leaves, and goes on with the last one.
    pub(crate) fn cut(&mut self, keeps: &[Keep]) -> Result<(), Halt> {
        for (index, keep) in keeps.iter().enumerate() {
            let image = self.volume.device().cut(*keep);
            let (volume, model) = self.recover(image).map_err(|halt| {
                Halt::Mismatch(format!("after a cut with {keep:?}: {}", halt.text()))
            })?;
            if index + 1 == keeps.len() {
                self.volume = volume;
                self.model = model;
            }
        }
        self.in_flight = None;
        self.versions.clear();
        self.promised = self.volume.generation().0;
        self.committed = BTreeMap::from([(self.promised, self.snapshot())]);
        if self.history.is_some() {
            self.begin_history();
        }
        Ok(())
    }

    /// Opens what a cut left, and does what a mount does first.
    fn recover(&self, image: Image) -> Result<(Volume<CacheDevice>, Model), Halt> {
        assert_clean(&image)?;
        let mut volume = open(image, self.setup)?;
        let generation = volume.generation().0;
        ensure!(
            generation >= self.promised,
            "generation {generation} came back, {} was promised",
            self.promised
        );
        let Some(committed) = self.committed.get(&generation) else {
            return mismatch(format!("generation {generation} was never committed"));
        };
        let mut model = committed.model.clone();
        compare(&mut volume, &mut model, &|found| {
            self.versions.may_hold(found, committed.writes, usize::MAX)
        })?;
        let now = self.now();
        volume.evict_orphans(now).map_err(|e| Halt::Mismatch(format!("evicting orphans: {e}")))?;
        model.finish_removals();
        compare(&mut volume, &mut model, &|_| false)?;
        volume.commit(now).map_err(|e| Halt::Mismatch(format!("the first commit: {e}")))?;
        assert_clean(&volume.device().cut(Keep::None))?;
        Ok((volume, model))
    }
}
