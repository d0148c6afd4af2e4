//! The plan file: which engine of cuDNN's computes each convolution, which algorithm of cuBLASLt's each product.
//!
//! `bench tune` makes one by measuring; training follows it, and keeps it in its recipe. Choices are bits: another engine
//! adds in another order. So a file says what it was made for, and is refused elsewhere.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::blas::{Factor, Finish, Product};
use super::dnn::{ConvPass, ConvShape};
use super::launch::Element;
use crate::backend::Precision;
use crate::error::{Error, Result};

/// The version of the file's form.
const FORMAT: u32 = 1;

/// A plan file. Holds decisions only, no times: two tunings that decide the same are the same file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// Version of the form.
    format: u32,
    /// Over everything below.
    sha256: String,
    /// Where the choices hold.
    made_for: MadeFor,
    /// Choices for convolutions.
    convolutions: Vec<ConvChoice>,
    /// Choices for products.
    products: Vec<ProductChoice>,
}

/// What the choices of a file depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeFor {
    /// Version of this program.
    pub program: String,
    /// Version of cuDNN.
    pub cudnn: String,
    /// Version of cuBLASLt.
    pub cublaslt: String,
    /// Model of the device.
    pub device: String,
    /// Its streaming multiprocessors.
    pub multiprocessors: u32,
    /// Arithmetic.
    pub precision: Precision,
    /// Most bytes of workspace of a convolution.
    pub convolution_workspace: u64,
    /// Most bytes of workspace of a product.
    pub product_workspace: u64,
}

/// The pass of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PassName {
    Forward,
    ForwardRelu,
    DataGradient,
    FilterGradient,
}

/// The engine of one pass of one shape. Sizes are those in memory, padding included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConvChoice {
    pass: PassName,
    n: usize,
    c: usize,
    h: usize,
    w: usize,
    k: usize,
    kernel: usize,
    plan: EngineChoice,
}

/// An engine of cuDNN's and how it is set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EngineChoice {
    /// cuDNN's number of the engine.
    pub(super) engine: i64,
    /// cuDNN's number of each knob, and its value.
    pub(super) knobs: Vec<[i64; 2]>,
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "engine {}", self.engine)?;
        for (i, [knob, value]) in self.knobs.iter().enumerate() {
            write!(f, "{}{knob}={value}", if i == 0 { " with knobs " } else { ", " })?;
        }
        Ok(())
    }
}

/// The algorithm of one product, all matrices row-major.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProductChoice {
    factors: Element,
    result: Element,
    m: usize,
    n: usize,
    k: usize,
    a_is_transposed: bool,
    b_is_transposed: bool,
    adds_bias: bool,
    has_relu: bool,
    /// cublasLtMatmulAlgo_t, which its manual allows to be stored for use with the same version: 128 hexadecimal digits.
    algorithm: String,
}

/// cublasLtMatmulAlgo_t as it lies in memory.
pub(super) type AlgorithmWords = [u64; 8];

impl ConvChoice {
    pub(super) fn new(pass: ConvPass, shape: ConvShape, plan: EngineChoice) -> Self {
        let ConvShape {
            n,
            c,
            k,
            h,
            w,
            kernel,
        } = shape;
        let pass = match pass {
            ConvPass::Forward { relu: false } => PassName::Forward,
            ConvPass::Forward { relu: true } => PassName::ForwardRelu,
            ConvPass::DataGradient => PassName::DataGradient,
            ConvPass::FilterGradient => PassName::FilterGradient,
        };
        Self {
            pass,
            n,
            c,
            h,
            w,
            k,
            kernel,
            plan,
        }
    }

    fn key(&self) -> (ConvPass, ConvShape) {
        let &Self {
            n,
            c,
            h,
            w,
            k,
            kernel,
            ..
        } = self;
        let pass = match self.pass {
            PassName::Forward => ConvPass::Forward { relu: false },
            PassName::ForwardRelu => ConvPass::Forward { relu: true },
            PassName::DataGradient => ConvPass::DataGradient,
            PassName::FilterGradient => ConvPass::FilterGradient,
        };
        (
            pass,
            ConvShape {
                n,
                c,
                k,
                h,
                w,
                kernel,
            },
        )
    }
}

impl ProductChoice {
    pub(super) fn new(product: Product, algorithm: AlgorithmWords) -> Self {
        Self {
            factors: product.factors,
            result: product.result,
            m: product.m,
            n: product.n,
            k: product.k,
            a_is_transposed: product.a == Factor::Transposed,
            b_is_transposed: product.b == Factor::Transposed,
            adds_bias: product.finish != Finish::None,
            has_relu: product.finish == Finish::BiasRelu,
            algorithm: algorithm.iter().map(|word| format!("{word:016x}")).collect(),
        }
    }

    /// The product and its algorithm; an error where the digits are not those of one.
    fn decode(&self) -> Result<(Product, AlgorithmWords)> {
        let factor = |is_transposed| match is_transposed {
            true => Factor::Transposed,
            false => Factor::Plain,
        };
        let product = Product {
            factors: self.factors,
            result: self.result,
            m: self.m,
            n: self.n,
            k: self.k,
            a: factor(self.a_is_transposed),
            b: factor(self.b_is_transposed),
            finish: match (self.adds_bias, self.has_relu) {
                (false, _) => Finish::None,
                (true, false) => Finish::Bias,
                (true, true) => Finish::BiasRelu,
            },
        };
        let mut words = AlgorithmWords::default();
        let digits = self.algorithm.as_bytes();
        let malformed = || {
            let what = format!("the plan file, algorithm of {product:?}");
            Error::invalid(
                what,
                "128 hexadecimal digits",
                format_args!("'{}'", self.algorithm),
            )
        };
        if digits.len() != 16 * words.len() {
            return Err(malformed());
        }
        for (word, digits) in words.iter_mut().zip(digits.chunks(16)) {
            let text = std::str::from_utf8(digits).map_err(|_| malformed())?;
            *word = u64::from_str_radix(text, 16).map_err(|_| malformed())?;
        }
        Ok((product, words))
    }
}

impl PlanFile {
    pub(super) fn new(
        made_for: MadeFor,
        convolutions: Vec<ConvChoice>,
        products: Vec<ProductChoice>,
    ) -> Self {
        let mut file = Self {
            format: FORMAT,
            sha256: String::new(),
            made_for,
            convolutions,
            products,
        };
        file.sha256 = file.digest();
        file
    }

    /// SHA-256 of the decisions: part of the recipe of a run that follows them.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// How many passes of convolutions and how many products are decided.
    pub fn len(&self) -> [usize; 2] {
        [self.convolutions.len(), self.products.len()]
    }

    /// The file's text.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain data serialises");
        text.push('\n');
        text
    }

    /// Reads a file's text; `name` is for errors. Refuses what is torn, changed, or of another form.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let what = format!("plan file {name}");
        let again = "make it again with `verydeep bench tune`";
        let torn = |why: serde_json::Error| Error::invalid_hint(&what, "a whole plan file", why, again);
        let value: serde_json::Value = serde_json::from_str(text).map_err(torn)?;
        let format = value.get("format").unwrap_or(&serde_json::Value::Null);
        if *format != FORMAT {
            return Err(Error::invalid_hint(
                format!("{what}, field format"),
                FORMAT,
                format,
                again,
            ));
        }
        let file: Self = serde_json::from_value(value).map_err(torn)?;
        file.check(&what)?;
        Ok(file)
    }

    /// Whether the content is what was hashed.
    pub fn check(&self, what: &str) -> Result<()> {
        let found = self.digest();
        if self.sha256 == found {
            return Ok(());
        }
        Err(Error::invalid_hint(
            format_args!("{what}, field sha256"),
            &self.sha256,
            found,
            "the file was changed after it was made; make it again with `verydeep bench tune`",
        ))
    }

    fn digest(&self) -> String {
        let content = serde_json::json!([self.format, self.made_for, self.convolutions, self.products]);
        let digest = Sha256::digest(content.to_string().as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether the choices hold here; the error names the first field that differs.
    pub(super) fn holds_for(&self, here: &MadeFor) -> Result<()> {
        let fields = |made_for: &MadeFor| serde_json::json!(made_for);
        let (file, here) = (fields(&self.made_for), fields(here));
        for (field, found) in here.as_object().into_iter().flatten() {
            let expected = &file[field];
            if expected != found {
                return Err(Error::invalid_hint(
                    format_args!("the plan file, field {field}"),
                    expected,
                    found,
                    "plans hold where they were made: tune again here, or --allow-drift goes on with the default rule",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn convolutions(&self) -> impl Iterator<Item = ((ConvPass, ConvShape), EngineChoice)> {
        self.convolutions
            .iter()
            .map(|choice| (choice.key(), choice.plan.clone()))
    }

    pub(super) fn products(&self) -> impl Iterator<Item = Result<(Product, AlgorithmWords)>> {
        self.products.iter().map(ProductChoice::decode)
    }
}

#[cfg(test)]
mod tests;
