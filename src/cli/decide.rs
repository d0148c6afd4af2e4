//! From flags to a recipe.

use super::args::TrainArgs;
use super::plan::micro_batch;
use super::plans;
use super::processes::Placement;
use crate::error::{Error, Result};
use crate::network::init::Init;
use crate::network::{Config, Spec};
use crate::train::Recipe;
use crate::train::schedule::Schedule;

/// A resumed run keeps its recipe: what would change it is refused.
pub(super) fn refuse_new_decisions(args: &TrainArgs) -> Result<()> {
    let network = &args.network;
    let said = [
        ("--data", args.data.is_some()),
        ("--recipe", args.recipe.is_some()),
        ("--config", args.config.is_some()),
        ("--batch-norm", network.batch_norm.is_some()),
        ("--crop", network.crop.is_some()),
        ("--width", network.width.is_some()),
        ("--fc", network.fc.is_some()),
        ("--dropout", args.dropout.is_some()),
        ("--init", args.init.is_some()),
        ("--init-from", args.init_from.is_some()),
        ("--weights", args.weights.is_some()),
        ("--scale", args.scale.is_some()),
        ("--no-augment", args.no_augment.is_some()),
        ("--exif", args.exif.is_some()),
        ("--on-bad", args.on_bad.is_some()),
        ("--io", args.io.is_some()),
        ("--batch", args.batch.is_some()),
        ("--micro-batch", args.micro_batch.is_some()),
        ("--lr", args.lr.is_some()),
        ("--schedule", args.schedule.is_some()),
        ("--plateau-patience", args.plateau_patience.is_some()),
        ("--plateau-drops", args.plateau_drops.is_some()),
        ("--momentum", args.momentum.is_some()),
        ("--weight-decay", args.weight_decay.is_some()),
        ("--bias-decay", args.bias_decay.is_some()),
        ("--bias-lr", args.bias_lr.is_some()),
        ("--seed", args.seed.is_some()),
        ("--checkpoint-every", args.checkpoint_every.is_some()),
        ("--validate-every", args.validate_every.is_some()),
        ("--stop-if-stuck", args.stop_if_stuck.is_some()),
        ("--folds", args.folds.is_some()),
        ("--precision", args.compute.precision.is_some()),
        ("--reduce", args.compute.reduce.is_some()),
        ("--plans", args.plans.is_some()),
        ("--conv-algo", args.compute.conv_algo.is_some()),
        ("--dry-run", args.dry_run),
    ];
    match said.iter().find(|(_, said)| *said) {
        None => Ok(()),
        Some((flag, _)) => Err(Error::Usage(format!(
            "{flag}: a resumed run keeps its recipe; with --resume only --epochs, --iterations, --max-bad, --device, \
             --replicas, --cuda-graph, --walk, --audit-every and --threads can be said (to fine-tune, start a new run \
             with --weights)"
        ))),
    }
}

/// Every decision, with the paper's number where nothing was said.
pub(super) fn decide(args: &TrainArgs, place: &Placement) -> Result<Recipe> {
    let needed = |flag: &str| Error::Usage(format!("train: expected {flag}"));
    let config: Config = args.config.ok_or_else(|| needed("--config"))?;
    let spec: Spec = args.network.spec(config, 1, args.dropout);
    let batch = args.batch.unwrap_or(256);
    let recipe = Recipe {
        data: args.data.clone().ok_or_else(|| needed("--data SHARDS"))?,
        config,
        batch_norm: spec.batch_norm,
        crop: spec.crop,
        scale: args.scale.unwrap_or("256".parse()?),
        width: spec.width,
        fc: spec.fc,
        dropout: spec.dropout,
        init: args.init.unwrap_or(Init::Glorot),
        init_from: args.init_from.clone(),
        weights: args.weights.clone(),
        batch,
        micro_batch: micro_batch(args.micro_batch, batch),
        epochs: match (args.epochs, args.iterations) {
            (None, None) => Some(crate::train::PAPER_EPOCHS),
            (epochs, _) => epochs,
        },
        iterations: args.iterations,
        lr: args.lr.unwrap_or(0.01),
        schedule: args.schedule.unwrap_or(Schedule::Plateau),
        plateau_patience: args.plateau_patience.unwrap_or(5),
        plateau_drops: args.plateau_drops.unwrap_or(3),
        momentum: args.momentum.unwrap_or(0.9),
        weight_decay: args.weight_decay.unwrap_or(5e-4),
        bias_decay: args.bias_decay.unwrap_or(1.0),
        bias_lr: args.bias_lr.unwrap_or(1.0),
        seed: args.seed.unwrap_or(1),
        no_augment: args.no_augment.unwrap_or(false),
        exif: args.exif.unwrap_or_default(),
        max_bad: args.max_bad,
        checkpoint_every: args.checkpoint_every,
        validate_every: args.validate_every,
        audit_every: args.audit_every,
        stop_if_stuck: args.stop_if_stuck,
        folds: args.folds.unwrap_or(false),
        on_bad: args.on_bad.unwrap_or(crate::data::loader::OnBad::Skip),
        device: args.compute.device().into(),
        replicas: place.replicas,
        reduce: args.compute.reduction(),
        precision: args.compute.precision(),
        conv_algo: args.compute.convolution(),
        threads: args.compute.threads()?,
        io: args.io.unwrap_or_default(),
        plans: args.plans.as_deref().map(plans::read).transpose()?,
    };
    for (flag, path) in [
        ("--data", Some(&recipe.data)),
        ("--init-from", recipe.init_from.as_ref()),
        ("--weights", recipe.weights.as_ref()),
    ] {
        if let Some(path) = path.filter(|path| path.to_str().is_none()) {
            let expected = "a path in UTF-8: it stands in recipe.toml and in the log";
            return Err(Error::invalid(flag, expected, path.display()));
        }
    }
    place.check(recipe.reduce)?;
    recipe.check()?;
    Ok(recipe)
}
