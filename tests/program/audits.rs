//! Bits that flip in weights, momentum and gradients end an audited run before anything wrong is saved.

use std::path::Path;

use verydeep::backend::cpu::Cpu;
use verydeep::backend::cuda::libraries::Libraries;
use verydeep::backend::cuda::{Cuda, Options};
use verydeep::error::{Corruption, Error};
use verydeep::exec::{BitFlip, Flipped};
use verydeep::parallel::Replicas;
use verydeep::rng::{Purpose, Stream};
use verydeep::train::{Ended, train, train_on_devices};

use crate::images::shards;
use crate::planted::{Silent, job};
use crate::tool::{events, hashes, run_ok, said, small, test_seed};

const STEPS: u32 = 3;
/// Of [`small`].
const MICRO_BATCHES: u32 = 4;

/// A run that audits itself in every step, and is well.
fn well(run: &Path) {
    let mut flags = small(shards(), run);
    flags.extend([
        "A",
        "--iterations",
        "3",
        "--checkpoint-every",
        "1",
        "--audit-every",
        "1",
    ]);
    run_ok(flags);
}

fn corruption(ended: Ended) -> Corruption {
    let event = ended.event.expect("the first replica has a log");
    assert!(format!("{event:?}").contains("exit: 4"), "{event:?}");
    match ended.error {
        Some(Error::Corrupted(corruption)) => *corruption,
        other => panic!("expected a corruption, found {other:?}"),
    }
}

/// Nothing wrong was saved: the run goes on from before, to the same end.
fn goes_on(run: &Path, flip: &BitFlip, well: &Path) {
    let saved = events(run, "checkpoint")
        .last()
        .map_or(0, |event| event["step"].as_u64().unwrap());
    assert_eq!(saved, flip.step, "{flip:?}");
    if saved > 0 {
        run_ok([
            "train",
            "--resume",
            run.to_str().unwrap(),
            "--device",
            "cpu",
            "--allow-drift",
            "--quiet",
        ]);
        assert_eq!(hashes(run), hashes(well), "{flip:?}");
    }
}

#[test]
fn a_replica_alone_finds_its_own_flips() {
    let folder = tempfile::tempdir().unwrap();
    let clean = folder.path().join("clean");
    well(&clean);
    let places = [
        (Flipped::Weights { replica: 0 }, 1, "weights changed"),
        (Flipped::Momentum { replica: 0 }, 2, "momentum changed"),
        // In the third step it is the third micro-batch's turn.
        (
            Flipped::Leaf { micro_batch: 2 },
            2,
            "micro-batch 2 differ, first in the gradient of conv3_1",
        ),
    ];
    for (flipped, step, what) in places {
        let flip = BitFlip {
            step,
            flipped,
            parameter: "features.6.weight".into(),
            element: 3,
            bit: 0,
        };
        let run = folder.path().join(what);
        let job = job(&clean.join("recipe.toml"), &run, Some(flip.clone()));
        let ended = train(Replicas::one(&Cpu::new(2).unwrap()), job, &mut Silent).unwrap();
        let found = corruption(ended);
        assert!(found.what.contains(what), "{found}");
        assert_eq!(
            (found.step, found.suspects[0].rank, found.suspects.len()),
            (step, 0, 1)
        );
        goes_on(&run, &flip, &clean);
    }
}

/// VERYDEEP_TEST_FLIPS makes a nightly run of it.
#[test]
fn flips_on_one_of_four_simulated_devices_are_found_in_their_step() {
    // SAFETY: nothing else runs in this process yet that reads the environment.
    unsafe { std::env::set_var("VERYDEEP_SIMULATE_CUDA", "4") };
    let libraries = Libraries::load(&[]).unwrap();
    let devices: Vec<Cuda> = (0..4)
        .map(|ordinal| Cuda::open(ordinal, libraries, Options::default()).unwrap())
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let clean = folder.path().join("clean");
    well(&clean);
    let seed = test_seed();
    for number in 0..said("VERYDEEP_TEST_FLIPS", 3) {
        let mut draw = Stream::new(seed, number, Purpose::Synthetic, 0);
        let mut below = |end: u32| draw.next_u32() % end;
        let replica = below(MICRO_BATCHES) as usize;
        let flip = BitFlip {
            step: below(STEPS).into(),
            // Each replica has one micro-batch of a step.
            flipped: match number % 3 {
                0 => Flipped::Weights { replica },
                1 => Flipped::Momentum { replica },
                _ => Flipped::Leaf { micro_batch: replica },
            },
            parameter: ["features.6.weight", "classifier.3.bias", "classifier.0.weight"][below(3) as usize]
                .into(),
            element: below(16) as usize,
            bit: below(32),
        };
        let run = folder.path().join(number.to_string());
        let job = job(&clean.join("recipe.toml"), &run, Some(flip.clone()));
        let found = corruption(train_on_devices(&devices, libraries, None, job, &mut Silent).unwrap());
        let suspects: Vec<usize> = found.suspects.iter().map(|suspect| suspect.rank).collect();
        let expected = match flip.flipped {
            Flipped::Leaf { .. } => [replica, (replica + 3) % 4].to_vec(),
            _ => vec![replica],
        };
        assert_eq!(found.step, flip.step, "{flip:?}");
        assert!(
            expected.iter().all(|rank| suspects.contains(rank)),
            "{flip:?}: {found}"
        );
        assert_eq!(suspects.len(), expected.len(), "{flip:?}: {found}");
        assert_eq!(events(&run, "end").pop().unwrap()["exit"], 4);
    }
}
