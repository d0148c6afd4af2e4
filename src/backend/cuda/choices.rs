//! Which plan computes what: the plan file's where one is followed and has it, else the default rule's.

use std::collections::HashMap;

use super::blas::{MOST_OFFERED, Product, ProductPlan, WORKSPACE_BYTES};
use super::device::DeviceFacts;
use super::dnn::{Candidates, ConvPass, ConvPlan, ConvShape, WORKSPACE_CAP};
use super::libraries::{Libraries, Library};
use super::plans::{AlgorithmWords, EngineChoice, MadeFor, PlanFile};
use super::{Cuda, Resources};
use crate::backend::Precision;
use crate::error::{Error, Result};

/// What to do where a plan file does not hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Drift {
    /// End with an error that says why.
    #[default]
    Refuse,
    /// Take the default rule's plan instead.
    Allow,
}

/// The choices of a plan file.
#[derive(Default)]
pub(super) struct Choices {
    convolutions: HashMap<(ConvPass, ConvShape), EngineChoice>,
    products: HashMap<Product, AlgorithmWords>,
    drift: Drift,
}

impl Cuda {
    /// Computes as a plan file says from now on; what it does not say, the default rule does. A file that was made for
    /// anything else than this device, these libraries and this precision is refused, or left alone where drift is
    /// allowed: then the reason is returned. Say it before anything is prepared.
    pub fn follow(&self, file: &PlanFile, drift: Drift) -> Result<Option<Error>> {
        let mut choices = Choices {
            drift,
            ..Choices::default()
        };
        let left_alone = match (file.holds_for(&self.made_for), drift) {
            (Ok(()), _) => {
                choices.convolutions = file.convolutions().collect();
                choices.products = file.products().collect::<Result<_>>()?;
                None
            }
            (Err(why), Drift::Allow) => Some(why),
            (Err(why), Drift::Refuse) => return Err(why),
        };
        let resources = &mut *self.lock();
        resources.convolutions.clear();
        resources.products.clear();
        resources.choices = choices;
        Ok(left_alone)
    }
}

/// What a plan file that is made here holds for.
pub(super) fn made_for(facts: &DeviceFacts, libraries: &Libraries, precision: Precision) -> Result<MadeFor> {
    let version = |library: Library| libraries.need(library).map(|found| found.version.to_string());
    Ok(MadeFor {
        program: env!("CARGO_PKG_VERSION").into(),
        cudnn: version(Library::Cudnn)?,
        cublaslt: version(Library::CublasLt)?,
        device: facts.name.clone(),
        multiprocessors: facts.multiprocessors,
        precision,
        convolution_workspace: WORKSPACE_CAP as u64,
        product_workspace: WORKSPACE_BYTES as u64,
    })
}

/// The error of a choice that the installed library does not offer.
fn not_offered(what: String, choice: String, library: &str) -> Error {
    Error::invalid_hint(
        format_args!("the plan file, {what}"),
        choice,
        format_args!("it is not among what the installed {library} offers"),
        "tune again, or --allow-drift goes on with the default rule",
    )
}

impl Resources {
    /// The plan of one pass of one convolution.
    pub(super) fn convolution_plan(&self, pass: ConvPass, shape: ConvShape) -> Result<ConvPlan> {
        let (target, precision) = (&self.dnn, self.precision);
        if let Some(choice) = self.choices.convolutions.get(&(pass, shape)) {
            let candidates = Candidates::new(target, precision, pass, shape)?;
            if let Some(accepted) = candidates.find(target, choice)? {
                return Ok(ConvPlan::of(pass, accepted));
            }
            if self.choices.drift == Drift::Refuse {
                let what = format!("{pass:?} of {shape:?}");
                return Err(not_offered(what, choice.to_string(), "cuDNN"));
            }
        }
        ConvPlan::new(target, precision, pass, shape)
    }

    /// The plan of a product.
    pub(super) fn product_plan(&self, product: Product) -> Result<ProductPlan> {
        if let Some(words) = self.choices.products.get(&product) {
            let offered = ProductPlan::offered(&self.blas, self.precision, product, MOST_OFFERED)?;
            if let Some(plan) = offered.into_iter().find(|plan| plan.words() == *words) {
                return Ok(plan);
            }
            if self.choices.drift == Drift::Refuse {
                let words: Vec<String> = words.iter().map(|word| format!("{word:x}")).collect();
                let choice = format!("algorithm {}", words.join(" "));
                return Err(not_offered(format!("{product:?}"), choice, "cuBLASLt"));
            }
        }
        ProductPlan::new(&self.blas, self.precision, product)
    }
}
