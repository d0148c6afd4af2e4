//! The recipe: every decision that makes a run. Its keys are the long flags' names.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::schedule::{PlateauRule, Schedule};
use crate::backend::Precision;
use crate::backend::cpu::ConvAlgorithm;
use crate::backend::cuda::plans::PlanFile;
use crate::data::augment::{ScaleRange, Views};
use crate::data::bad::MaxBad;
use crate::data::loader::OnBad;
use crate::data::manifest::Manifest;
use crate::data::preprocess::Exif;
use crate::data::shards::{Dataset, IoMode};
use crate::error::{Error, Result};
use crate::network::init::Init;
use crate::network::{Config, Extent, Spec};
use crate::plan::{Reduction, Tree, UpdateRule};

/// Every decision of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recipe {
    /// The shard folder.
    pub data: PathBuf,
    /// Column of table 1.
    #[serde(with = "crate::text")]
    pub config: Config,
    /// Batch normalisation after every convolution.
    pub batch_norm: bool,
    /// Side of the training crop.
    pub crop: usize,
    /// S.
    #[serde(with = "crate::text")]
    pub scale: ScaleRange,
    /// Factor of the convolutions' channels.
    pub width: f64,
    /// Outputs of fc6 and fc7.
    pub fc: usize,
    /// Dropout probability.
    pub dropout: f64,
    /// How random weights start.
    #[serde(with = "crate::text")]
    pub init: Init,
    /// Weights from which the layers of the paper's staging are taken by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
    /// Weights of the same network to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Global batch.
    pub batch: usize,
    /// Images per micro-batch.
    pub micro_batch: usize,
    /// Length in epochs, unless in iterations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Length in iterations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u64>,
    /// Initial learning rate.
    pub lr: f64,
    /// How it changes.
    #[serde(with = "crate::text")]
    pub schedule: Schedule,
    /// Validations without improvement before the plateau rule drops the rate.
    pub plateau_patience: u64,
    /// Most drops of the plateau rule.
    pub plateau_drops: u64,
    /// Momentum.
    pub momentum: f64,
    /// L2 multiplier.
    pub weight_decay: f64,
    /// Multiplier of the decay for biases.
    pub bias_decay: f64,
    /// Multiplier of the learning rate for biases.
    pub bias_lr: f64,
    /// Key of every random draw.
    pub seed: u64,
    /// Centre crop at Smin, no flip, no colour shift.
    pub no_augment: bool,
    /// The most samples of a split that may be unusable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bad: Option<MaxBad>,
    /// Whether files are turned as EXIF says.
    #[serde(default, skip_serializing_if = "Exif::is_ignored")]
    pub exif: Exif,
    /// Iterations between checkpoints; one per epoch where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<u64>,
    /// Iterations between validations; one per epoch where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_every: Option<u64>,
    /// Steps between two audits of the hardware; none where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_every: Option<u64>,
    /// Epochs at ln(classes) after which the run ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_if_stuck: Option<u64>,
    /// Log a fold of everything computed.
    pub folds: bool,
    /// What to do with a bad training image.
    pub on_bad: OnBad,
    /// Where to compute.
    pub device: String,
    /// Replicas that share the batch.
    #[serde(default = "one")]
    pub replicas: usize,
    /// How they add their gradients.
    #[serde(default, skip_serializing_if = "is_exact")]
    pub reduce: Reduction,
    /// Arithmetic of the forward and backward passes.
    #[serde(default)]
    pub precision: Precision,
    /// Algorithm of the CPU's convolutions.
    #[serde(default)]
    pub conv_algo: ConvAlgorithm,
    /// Threads of the CPU.
    pub threads: usize,
    /// How shards are read.
    pub io: IoMode,
    /// Which engines and algorithms of NVIDIA's libraries compute, where not the default rule's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plans: Option<PlanFile>,
}

impl Recipe {
    /// The network for a data set of `classes` classes.
    pub fn spec(&self, classes: usize) -> Spec {
        Spec {
            config: self.config,
            batch_norm: self.batch_norm,
            classes,
            crop: self.crop,
            width: self.width,
            fc: self.fc,
            dropout: self.dropout,
            extent: Extent::Whole,
        }
    }

    /// Checks every number that the types do not.
    pub fn check(&self) -> Result<()> {
        let positive = [
            ("--batch", self.batch as u64),
            ("--micro-batch", self.micro_batch as u64),
            ("--epochs", self.epochs.unwrap_or(1)),
            ("--iterations", self.iterations.unwrap_or(1)),
            ("--plateau-patience", self.plateau_patience),
            ("--checkpoint-every", self.checkpoint_every.unwrap_or(1)),
            ("--validate-every", self.validate_every.unwrap_or(1)),
            ("--audit-every", self.audit_every.unwrap_or(1)),
            ("--stop-if-stuck", self.stop_if_stuck.unwrap_or(1)),
            ("--threads", self.threads as u64),
        ];
        if let Some((flag, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::invalid(flag, "at least 1", 0));
        }
        if self.batch > MOST_IMAGES {
            return Err(Error::invalid(
                "--batch",
                format_args!("at most {MOST_IMAGES} images"),
                self.batch,
            ));
        }
        let ranges = [
            ("--lr", self.lr, 0.0..=1e6),
            ("--momentum", self.momentum, 0.0..=1.0),
            ("--weight-decay", self.weight_decay, 0.0..=1e3),
            ("--bias-decay", self.bias_decay, 0.0..=1e3),
            ("--bias-lr", self.bias_lr, 0.0..=1e3),
        ];
        if let Some((flag, value, range)) = ranges.iter().find(|(_, value, range)| !range.contains(value)) {
            return Err(Error::invalid(
                flag,
                format_args!("{} to {}", range.start(), range.end()),
                value,
            ));
        }
        if !self.batch.is_multiple_of(self.micro_batch) {
            let divisors: Vec<String> = (1..=self.batch)
                .filter(|m| self.batch.is_multiple_of(*m))
                .map(|m| m.to_string())
                .collect();
            return Err(Error::invalid(
                "--micro-batch",
                format_args!("a divisor of --batch {}: {}", self.batch, divisors.join(", ")),
                self.micro_batch,
            ));
        }
        check_replicas(self.replicas, self.batch, self.micro_batch)?;
        if self.init_from.is_some() && self.weights.is_some() {
            return Err(Error::Usage(
                "--init-from copies some layers, --weights all of them: say one of the two".into(),
            ));
        }
        Ok(())
    }

    /// Micro-batches per step.
    pub fn micro_batches(&self) -> usize {
        self.batch / self.micro_batch
    }

    /// Steps of the run over `samples` training images: `ceil(E * N / B)` for E epochs.
    pub fn total_steps(&self, samples: u64) -> u64 {
        match (self.iterations, self.epochs) {
            (Some(iterations), _) => iterations,
            (None, epochs) => {
                let images = u128::from(epochs.unwrap_or(PAPER_EPOCHS)) * u128::from(samples);
                images.div_ceil(self.batch as u128) as u64
            }
        }
    }

    /// How the training images are looked at.
    pub fn training_views(&self, manifest: &Manifest) -> Result<Views> {
        if self.no_augment {
            return Ok(Views::centred(self.crop, self.scale.min())?.with_exif(self.exif));
        }
        Ok(Views::augmented(self.seed, self.crop, self.scale, manifest.pca_rgb)?.with_exif(self.exif))
    }

    /// How the validation images are looked at: the middle crop at Q.
    pub fn test_views(&self) -> Result<Views> {
        Ok(Views::centred(self.crop, self.scale.middle())?.with_exif(self.exif))
    }

    /// The update rule's constants.
    pub fn update_rule(&self) -> UpdateRule {
        UpdateRule {
            momentum: self.momentum as f32,
            weight_decay: self.weight_decay as f32,
            bias_decay: self.bias_decay as f32,
            bias_lr: self.bias_lr as f32,
            batch: self.batch,
            micro_batches: self.micro_batches(),
        }
    }

    /// Refuses the plateau rule where there is nothing that it could watch.
    pub fn check_watched(&self, validation: Option<&Dataset>) -> Result<()> {
        if self.schedule != Schedule::Plateau || validation.is_some_and(|data| !data.is_empty()) {
            return Ok(());
        }
        Err(Error::invalid_hint(
            "--schedule plateau",
            "a validation split to watch",
            "a data set without validation images",
            "use --schedule cosine or step:E,F, or pack images under val/",
        ))
    }

    /// The plateau rule's constants.
    pub fn plateau_rule(&self) -> PlateauRule {
        PlateauRule {
            patience: self.plateau_patience,
            drops: self.plateau_drops,
        }
    }

    /// Hash of every decision that the bits of the weights depend on. Paths, threads, intervals that only write, and
    /// the run's length are left out: a longer run takes the same steps.
    pub fn sha256(&self) -> String {
        let mut decisions = json!(self);
        let table = decisions.as_object_mut().expect("a recipe is a table");
        for key in [
            "data",
            "init-from",
            "weights",
            "checkpoint-every",
            "audit-every",
            "stop-if-stuck",
            "max-bad",
            "folds",
            "device",
            "threads",
            "io",
            "seed",
        ] {
            table.shift_remove(key);
        }
        if self.reduce == Reduction::Exact {
            table.shift_remove("replicas");
        }
        if self.schedule != Schedule::Cosine {
            table.shift_remove("epochs");
            table.shift_remove("iterations");
        }
        if self.schedule != Schedule::Plateau {
            for key in ["plateau-patience", "plateau-drops", "validate-every"] {
                table.shift_remove(key);
            }
        }
        let digest = Sha256::digest(decisions.to_string().as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The TOML that `--recipe` reads back to the same recipe, plans included.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is a table")
    }

    /// Reads `recipe.toml` of a run folder.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::parse(&text, path)
    }

    /// Reads the text of a `recipe.toml`; `path` is for the errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let recipe: Self =
            toml::from_str(text).map_err(|e| Error::invalid(path.display(), "a decided recipe", e))?;
        if let Some(plans) = &recipe.plans {
            plans.check(&format!("{}, plans", path.display()))?;
        }
        Ok(recipe)
    }
}

fn one() -> usize {
    1
}

fn is_exact(reduce: &Reduction) -> bool {
    *reduce == Reduction::Exact
}

/// Refuses a number of replicas that cannot own a subtree of the reduction tree each; names those that can, and the
/// micro-batch with which this one could.
pub fn check_replicas(replicas: usize, batch: usize, micro_batch: usize) -> Result<()> {
    check_shares("--replicas", replicas, batch, micro_batch)
}

/// [`check_replicas`], where another flag says how many there are.
pub fn check_shares(flag: &str, replicas: usize, batch: usize, micro_batch: usize) -> Result<()> {
    let tree = Tree::new(batch / micro_batch);
    if tree.subtree(replicas).is_some() {
        return Ok(());
    }
    let shares: Vec<_> = tree.shares().map(|replicas| replicas.to_string()).collect();
    let smaller = (1..=micro_batch).rev().find(|smaller| {
        batch.is_multiple_of(*smaller) && Tree::new(batch / smaller).subtree(replicas).is_some()
    });
    let hint = match smaller {
        Some(smaller) => format!("--micro-batch {smaller} would allow {replicas}"),
        None => format!("no --micro-batch of --batch {batch} allows {replicas}: powers of two share a batch"),
    };
    Err(Error::invalid_hint(
        flag,
        format_args!(
            "{} for {} micro-batches of {micro_batch}",
            shares.join(", "),
            tree.leaves()
        ),
        replicas,
        hint,
    ))
}

/// Of a batch. Its divisors are tried one by one.
const MOST_IMAGES: usize = 1 << 20;

/// The paper trains for 74 epochs (section 3.1).
pub const PAPER_EPOCHS: u64 = 74;

/// What the bits of a run depend on (DESIGN section 3), field by field.
pub fn equivalence_class(
    recipe: &Recipe,
    data_sha256: &str,
    decoder: &str,
    start_sha256: &str,
    backend: &str,
) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "plans_sha256": recipe.plans.as_ref().map(PlanFile::sha256),
        "recipe_sha256": recipe.sha256(),
        "seed": recipe.seed,
        "data_sha256": data_sha256,
        "decoder": decoder,
        "initial_weights_sha256": start_sha256,
        "backend": backend,
    })
}

/// Compares a stored class with the present one; an error names the first field that differs.
pub fn compare_classes(stored: &Value, present: &Value) -> Result<()> {
    let fields = present.as_object().into_iter().flatten();
    for (field, found) in fields {
        let expected = stored.get(field).unwrap_or(&Value::Null);
        if expected != found {
            return Err(Error::invalid_hint(
                format_args!("the run's equivalence class, field {field}"),
                expected,
                found,
                "the weights would not be the same to the bit; --allow-drift goes on all the same",
            ));
        }
    }
    Ok(())
}
