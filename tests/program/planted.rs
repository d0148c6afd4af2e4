//! A bit that flips in one gradient is found by `diff`, at the right step, micro-batch and layer.

use std::path::Path;
use std::sync::Arc;

use verydeep::backend::cpu::Cpu;
use verydeep::data::preprocess::Preprocess;
use verydeep::data::shards::{Dataset, IoMode, Split};
use verydeep::exec::{BitFlip, Flipped};
use verydeep::parallel::Replicas;
use verydeep::plan::WalkOrder;
use verydeep::train::event::{Event, Observer};
use verydeep::train::{Job, Recipe, Start, Stop, create_run, train};

use crate::images::shards;
use crate::tool::{command, run_json, run_ok, small};

pub(crate) struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: &Event) {}
}

/// What `verydeep train --recipe FILE --run RUN --walk fc-first` does, with a fault.
pub(crate) fn job(recipe: &Path, run: &Path, flip: Option<BitFlip>) -> Job {
    let recipe = Recipe::read(recipe).unwrap();
    let open = |split| Arc::new(Dataset::open(&recipe.data, split, IoMode::Mmap).unwrap());
    let training = open(Split::Train);
    let network = recipe.spec(training.manifest().classes.len()).build().unwrap();
    let start = Start::new_run(&recipe, &network).unwrap();
    Job {
        run: create_run(run, &recipe).unwrap(),
        preprocess: Preprocess::subtract_mean(training.manifest().mean_rgb),
        validation: Some(open(Split::Validation)),
        class: serde_json::Value::Null,
        stop: Stop::default(),
        recipe,
        network,
        training,
        start,
        walk: WalkOrder::FullyConnectedFirst,
        flip,
    }
}

fn train_with(recipe: &Path, run: &Path, flip: Option<BitFlip>) {
    let job = job(recipe, run, flip);
    let cpu = Cpu::new(2).unwrap();
    assert!(
        train(Replicas::one(&cpu), job, &mut Silent)
            .unwrap()
            .error
            .is_none()
    );
}

#[test]
fn a_planted_bit_is_found_where_it_was_planted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let clean = at("clean");
    let mut flags = small(shards(), &clean);
    flags.extend(["A", "--iterations", "5", "--folds"]);
    run_ok(flags);
    let again = at("again");
    train_with(&clean.join("recipe.toml"), &again, None);
    let equal = run_json(["diff", clean.to_str().unwrap(), again.to_str().unwrap()]);
    assert_eq!((&equal["equal"], &equal["steps"]), (&true.into(), &5.into()));

    let places = [
        ("features.6.weight", "conv3_1", 1, 2, 0),
        ("classifier.3.bias", "fc7", 3, 0, 31),
    ];
    for (parameter, layer, step, micro_batch, bit) in places {
        let faulty = at(parameter);
        let flip = BitFlip {
            step,
            flipped: Flipped::Leaf { micro_batch },
            parameter: parameter.into(),
            element: 3,
            bit,
        };
        train_with(&clean.join("recipe.toml"), &faulty, Some(flip));
        let output = command([
            "diff",
            clean.to_str().unwrap(),
            faulty.to_str().unwrap(),
            "--json",
        ])
        .output()
        .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let first = &found["first"];
        assert_eq!(first["layer"], layer, "{found}");
        assert_eq!(first["step"], step + 1);
        assert_eq!(first["micro_batch"], micro_batch);
        assert_eq!(first["pass"], "parameter_gradient");
    }
}
