//! Looking for the fastest plans: every engine and every algorithm that keeps our promises, timed on the device.

use std::collections::HashSet;

use super::blas::{MOST_OFFERED, Matrices, Product, ProductPlan, WORKSPACE_BYTES};
use super::dnn::{Candidates, ConvPass, ConvPlan, ConvShape, ConvTensors, WORKSPACE_CAP};
use super::memory::Buffer;
use super::plans::{ConvChoice, PlanFile, ProductChoice};
use super::rates::fill;
use super::run::{convolutions, products};
use super::{Cuda, Resources, timing};
use crate::error::Result;
use crate::plan::Plan;

/// What was found for one pass of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuned {
    /// Name of the first step that has it.
    pub layer: String,
    /// What is computed.
    pub what: String,
    /// Plans that were timed.
    pub tried: usize,
    /// The default rule's plan, and seconds.
    pub default: (String, f64),
    /// The fastest, and seconds.
    pub fastest: (String, f64),
}

impl Cuda {
    /// Times what can compute each pass of each convolution and product of some plans, each once, and decides for the
    /// fastest.
    pub fn tune(&self, plans: &[Plan]) -> Result<(PlanFile, Vec<Tuned>)> {
        let resources = &*self.lock();
        let stream = resources.launcher.stream();
        let tuner = Tuner {
            resources,
            workspace: Buffer::new(
                stream,
                "the workspace of plans that are timed",
                WORKSPACE_CAP.max(WORKSPACE_BYTES),
            )?,
        };
        let mut found = Vec::new();
        let (mut conv_choices, mut product_choices) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for (step, pass, shape) in plans.iter().flat_map(convolutions) {
            if seen.insert((pass, shape)) {
                let (choice, tuned) = tuner.convolution(&step.name, pass, shape)?;
                conv_choices.push(choice);
                found.push(tuned);
            }
        }
        let mut seen = HashSet::new();
        let element = self.lowering.element();
        for (step, product) in plans.iter().flat_map(|plan| products(plan, element)) {
            if seen.insert(product) {
                let (choice, tuned) = tuner.product(&step.name, product)?;
                product_choices.push(choice);
                found.push(tuned);
            }
        }
        let file = PlanFile::new(self.made_for.clone(), conv_choices, product_choices);
        Ok((file, found))
    }
}

/// The fastest of some plans with their names and seconds; the first is the default rule's.
fn fastest<P>(timed: Vec<(P, String, f64)>, layer: &str, what: String) -> (P, Tuned) {
    let tried = timed.len();
    let default = (timed[0].1.clone(), timed[0].2);
    let best = timed.into_iter().min_by(|a, b| a.2.total_cmp(&b.2));
    let (plan, name, seconds) = best.expect("the default rule's is one");
    let tuned = Tuned {
        layer: layer.into(),
        what,
        tried,
        default,
        fastest: (name, seconds),
    };
    (plan, tuned)
}

/// A device that is free to be measured.
struct Tuner<'a> {
    resources: &'a Resources,
    /// As large as any plan may ask for.
    workspace: Buffer,
}

impl Tuner<'_> {
    /// Random f32, as many as asked for.
    fn tensor(&self, elements: usize) -> Result<Buffer> {
        let launcher = &self.resources.launcher;
        let bytes = elements * size_of::<f32>();
        let buffer = Buffer::new(launcher.stream(), "a tensor of a plan that is timed", bytes)?;
        fill(launcher, &buffer)?;
        Ok(buffer)
    }

    /// The seconds of a plan; `None` where its execution was refused and the device is well: there are others. Not so of
    /// the first, which is the default rule's.
    fn unless_refused(&self, seconds: Result<f64>, is_first: bool) -> Result<Option<f64>> {
        match seconds {
            Ok(seconds) => Ok(Some(seconds)),
            Err(why) if is_first => Err(why),
            Err(_) => self.resources.launcher.synchronize().map(|()| None),
        }
    }

    fn convolution(&self, layer: &str, pass: ConvPass, shape: ConvShape) -> Result<(ConvChoice, Tuned)> {
        let Resources {
            dnn,
            launcher,
            precision,
            ..
        } = self.resources;
        let ConvShape {
            n,
            c,
            k,
            h,
            w,
            kernel,
        } = shape;
        let tensor = |elements: usize| self.tensor(elements);
        let (x, y) = (tensor(n * h * w * c)?, tensor(n * h * w * k)?);
        let (filter, bias) = (tensor(k * kernel * kernel * c)?, tensor(k)?);
        let tensors = ConvTensors {
            x: x.at(0),
            w: filter.at(0),
            y: y.at(0),
            bias: bias.at(0),
        };
        let candidates = Candidates::new(dnn, *precision, pass, shape)?;
        // Also says why, where there is none.
        ConvPlan::new(dnn, *precision, pass, shape)?;
        let mut timed = Vec::new();
        for (choice, accepted) in candidates.all(dnn)? {
            let plan = ConvPlan::of(pass, accepted);
            let seconds = timing::seconds(launcher, || {
                // SAFETY: tensors of the shape, as large as in any precision; a workspace as large as plans may ask for.
                unsafe { plan.execute(dnn, tensors, self.workspace.at(0)) }
            });
            if let Some(seconds) = self.unless_refused(seconds, timed.is_empty())? {
                timed.push((choice.clone(), choice.to_string(), seconds));
            }
        }
        let (choice, tuned) = fastest(timed, layer, pass.name().into());
        Ok((ConvChoice::new(pass, shape, choice), tuned))
    }

    fn product(&self, layer: &str, product: Product) -> Result<(ProductChoice, Tuned)> {
        let Resources {
            blas,
            launcher,
            precision,
            ..
        } = self.resources;
        let Product { m, n, k, .. } = product;
        let stream = launcher.stream();
        let tensor = |elements: usize| self.tensor(elements);
        let (a, b, c, bias) = (tensor(m * k)?, tensor(k * n)?, tensor(m * n)?, tensor(n)?);
        let matrices = Matrices {
            a: a.at(0),
            b: b.at(0),
            c: c.at(0),
            bias: bias.at(0),
        };
        let mut timed = Vec::new();
        for plan in ProductPlan::offered(blas, *precision, product, MOST_OFFERED)? {
            let seconds = timing::seconds(launcher, || {
                // SAFETY: matrices of the product, as large as in any precision, and the workspace that products may use.
                unsafe { plan.execute(blas, stream, matrices, self.workspace.at(0)) }
            });
            let Some(seconds) = self.unless_refused(seconds, timed.is_empty())? else {
                continue;
            };
            let name = plan
                .algorithm_id()
                .map_or("algorithm".into(), |id| format!("algorithm {id}"));
            timed.push((plan.words(), name, seconds));
        }
        let (words, tuned) = fastest(timed, layer, format!("product {m} x {n} x {k}"));
        Ok((ProductChoice::new(product, words), tuned))
    }
}
