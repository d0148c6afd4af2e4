//! Fully connected layers: cuBLASLt, and the logical order of their input.

use super::{Run, input_shape};
use crate::backend::cuda::Resources;
use crate::backend::cuda::blas::{Factor, Finish, Matrices, Product};
use crate::backend::cuda::dnn::DevicePtr;
use crate::backend::cuda::launch::{Element, Rows};
use crate::backend::cuda::lower::{aligned, flat_bytes};
use crate::error::Result;
use crate::plan::{DataGradient, Epilogue, Mode, Part, Plan, Step, StepOp};

/// Every product of a plan's fully connected layers, with its step. Activations are of type `element`.
pub(crate) fn products(plan: &Plan, element: Element) -> Vec<(&Step, Product)> {
    let mut products = Vec::new();
    for step in &plan.steps {
        let StepOp::Linear { epilogue } = step.op else {
            continue;
        };
        products.push((step, forward_product(step, element, epilogue)));
        if plan.mode == Mode::Training {
            products.push((step, weight_gradient_product(step, element)));
            if step.data_gradient != DataGradient::None {
                products.push((step, data_gradient_product(step, element)));
            }
        }
    }
    products
}

/// The product that computes one part of a fully connected layer.
pub(super) fn product_of(step: &Step, element: Element, epilogue: Epilogue, part: Part) -> Product {
    match part {
        Part::Forward => forward_product(step, element, epilogue),
        Part::DataGradient => data_gradient_product(step, element),
        Part::FilterGradient => weight_gradient_product(step, element),
    }
}

/// y (N, out) = x (N, in) w^T, w as it is stored: (out, in).
fn forward_product(step: &Step, element: Element, epilogue: Epilogue) -> Product {
    Product {
        factors: element,
        result: element,
        m: step.batch,
        n: step.output.len(),
        k: step.input.len(),
        a: Factor::Plain,
        b: Factor::Transposed,
        finish: if epilogue == Epilogue::None {
            Finish::Bias
        } else {
            Finish::BiasRelu
        },
    }
}

/// dw (out, in) = dy^T (out, N) x (N, in): f32, as the leaf is.
fn weight_gradient_product(step: &Step, element: Element) -> Product {
    Product {
        factors: element,
        result: Element::F32,
        m: step.output.len(),
        n: step.input.len(),
        k: step.batch,
        a: Factor::Transposed,
        b: Factor::Plain,
        finish: Finish::None,
    }
}

/// dx (N, in) = dy (N, out) w (out, in).
fn data_gradient_product(step: &Step, element: Element) -> Product {
    Product {
        factors: element,
        result: element,
        m: step.batch,
        n: step.input.len(),
        k: step.output.len(),
        a: Factor::Plain,
        b: Factor::Plain,
        finish: Finish::None,
    }
}

impl Run<'_> {
    pub(super) fn linear_forward(&mut self, epilogue: Epilogue) -> Result<()> {
        let x = self.flat_input(self.at.scratch)?;
        let matrices = Matrices {
            a: x,
            b: self.at.factors[0],
            c: self.at.value,
            bias: self.at.factors[1],
        };
        self.multiply(forward_product(self.step, self.element, epilogue), matrices)
    }

    /// x in logical order, (N, C * H * W); turned into `scratch` where it must be.
    pub(super) fn flat_input(&self, scratch: DevicePtr) -> Result<DevicePtr> {
        if flat_bytes(self.step, self.element) == 0 {
            return Ok(self.at.input);
        }
        let shape = input_shape(self.step);
        // SAFETY: the scratch begins with a place for it.
        unsafe {
            self.resources.launcher.nchw_from_nhwc(
                [self.element; 2],
                shape,
                shape.c,
                self.at.input,
                scratch,
            )?
        };
        Ok(scratch)
    }

    pub(super) fn linear_backward(&mut self) -> Result<()> {
        let (step, at) = (self.step, self.at);
        let flat = aligned(flat_bytes(step, self.element)) as u64;
        let (flat_dx, sums) = (at.scratch + flat, at.scratch + 2 * flat);
        let x = self.flat_input(at.scratch)?;
        let [weight, bias, ..] = at.weight_gradients;
        let product = |a, b, c| Matrices { a, b, c, bias: 0 };
        let of_weights = weight_gradient_product(step, self.element);
        self.multiply(of_weights, product(at.gradient, x, weight))?;
        let samples = Rows {
            rows: step.batch,
            channels: step.output.len(),
        };
        // SAFETY: the scratch ends with a place for the sums.
        unsafe {
            let launcher = &self.resources.launcher;
            launcher.bias_gradient(self.element, samples, at.gradient, sums, bias)?;
        }
        let Some(dx) = at.input_gradient else {
            return Ok(());
        };
        let to = if flat == 0 { dx } else { flat_dx };
        self.multiply(
            data_gradient_product(step, self.element),
            product(at.gradient, at.factors[0], to),
        )?;
        if flat == 0 {
            return Ok(());
        }
        let shape = input_shape(step);
        // SAFETY: both have the shape of the input.
        unsafe {
            self.resources
                .launcher
                .nhwc_from_nchw([self.element; 2], shape, shape.c, flat_dx, dx)
        }
    }

    pub(super) fn multiply(&mut self, product: Product, matrices: Matrices) -> Result<()> {
        self.resources.plan_product(product)?;
        let Resources {
            products,
            blas,
            workspace,
            launcher,
            ..
        } = &*self.resources;
        let plan = products.peek(&product).expect("it has just been planned");
        // SAFETY: the matrices come from the plan; the workspace is at least as large as products may ask for.
        unsafe { plan.execute(blas, launcher.stream(), matrices, workspace.at(0)) }
    }
}
