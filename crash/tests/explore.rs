// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The explorer itself: the memo changes no verdict, a failure is found, made small and shown again,
//! and a recording is judged without its model.

use vexfs_crash::explore::{
    Chosen, Explored, Judge, Limits, RootJudge, StateDevice, Verdict, explore, replay,
};
use vexfs_crash::workload::{Fixture, Script, pairs, triple};

fn fixture() -> Fixture {
    Fixture::new(4 << 20).unwrap()
}

#[test]
fn the_memo_gives_the_verdicts_of_the_engine() {
    let fixture = fixture();
    let limits = Limits { torn: 16, ..Limits::default() };
    for script in pairs().step_by(4001) {
        let (mut quick, mut slow) = (Explored::default(), Explored::default());
        let (mut a, mut b) = (Vec::new(), Vec::new());
        fixture
            .explore(&script, &limits, &mut quick, &mut |p| {
                a.push((p.event, p.states, p.failed, p.generations.clone()));
                true
            })
            .unwrap();
        // With no_memo every verdict is compared with the memo's, and counted as failed if it differs.
        let all = Limits { no_memo: true, ..limits };
        fixture
            .explore(&script, &all, &mut slow, &mut |p| {
                b.push((p.event, p.states, p.failed, p.generations.clone()));
                true
            })
            .unwrap();
        assert_eq!(a, b, "{script}");
        assert_eq!((slow.failed, slow.evaluations), (0, slow.states), "{script}");
        assert!(quick.evaluations <= slow.evaluations);
    }
}

#[test]
fn small_workloads_lose_nothing() {
    let fixture = fixture();
    let mut explored = Explored::default();
    let scripts = pairs().step_by(499).chain((0..60).map(triple));
    for script in scripts {
        fixture.explore(&script, &Limits::default(), &mut explored, &mut |_| true).unwrap();
        assert_eq!(explored.failures, [], "{script}");
    }
    assert!(explored.distinct.len() > 2000, "{} states", explored.distinct.len());
}

/// Says that a state is wrong if it keeps a certain write.
struct RefuseOneWrite;

impl Judge for RefuseOneWrite {
    fn judge(&self, _: usize, device: &StateDevice<'_>) -> Verdict {
        let mut block = [0; 4096];
        vexfs::Device::read(device, 8192, &mut block).map_err(|e| format!("{e:?}"))?;
        if block[512] == 2 { Err("sector 17 holds a 2".into()) } else { Ok(1) }
    }
}

#[test]
fn a_failure_is_made_small_and_can_be_shown_again() {
    use vexfs_crash::{Event, Image, Recording, Request};
    let write = |id: u64, at: u64, byte: u8| Event::Submit {
        id,
        request: Request::Write { at, data: vec![byte; 4096].into(), fua: false },
    };
    let events = vec![write(0, 0, 1), write(1, 8192, 2), write(2, 12_288, 3), write(3, 8192, 2)];
    let recording = Recording { base: Image::new(1 << 20), events };
    let mut explored = Explored::default();
    explore(&recording, &RefuseOneWrite, &Limits::default(), &mut explored, &mut |_| true);
    let failure = explored.failures.first().expect("it is found");
    assert_eq!((failure.event, failure.chosen.to_string().as_str()), (4, "1"));
    let shown = replay(&recording, &RefuseOneWrite, 4, &failure.chosen);
    assert_eq!(shown, Some(Err("sector 17 holds a 2".into())));
    assert_eq!(replay(&recording, &RefuseOneWrite, 4, &Chosen::default()), Some(Ok(1)));
    assert_eq!(replay(&recording, &RefuseOneWrite, 3, &Chosen::default()), None, "no such point");
}

#[test]
fn a_recording_is_judged_without_its_model_too() {
    let fixture = fixture();
    let script: Script =
        "write f 700 100; fsync; rename f g; append v/x 3072; fsync".parse().unwrap();
    let ran = fixture.run(&script).unwrap();
    let judge = RootJudge::new(ran.recording());
    assert_eq!(judge.generations(), 3);
    let mut explored = Explored::default();
    explore(ran.recording(), &judge, &Limits::default(), &mut explored, &mut |_| true);
    assert_eq!(explored.failures, []);
    assert!(explored.states > 100);
    // Without its flushes what was promised can be lost, and that is found.
    let mut lying = ran.recording().clone();
    let flushes: Vec<u64> = lying
        .events
        .iter()
        .filter_map(|event| match event {
            vexfs_crash::Event::Submit { id, request: vexfs_crash::Request::Flush } => Some(*id),
            _ => None,
        })
        .collect();
    lying.events.retain(|event| match event {
        vexfs_crash::Event::Submit { id, .. } | vexfs_crash::Event::Complete { id, .. } => {
            !flushes.contains(id)
        }
        vexfs_crash::Event::Mark(_) => true,
    });
    let mut explored = Explored::default();
    let judge = RootJudge::new(&lying);
    explore(&lying, &judge, &Limits::default(), &mut explored, &mut |_| true);
    assert!(explored.failed > 0);
}
