//! Convolutions: cuDNN on filters that are turned into its order.

use super::Run;
use crate::backend::cuda::Resources;
use crate::backend::cuda::dnn::{ConvPass, ConvShape, ConvTensors, DevicePtr};
use crate::backend::cuda::launch::{Element, Nhwc, Rows};
use crate::backend::cuda::lower::{aligned, filter_bytes, input_pitch, rows};
use crate::error::Result;
use crate::plan::{DataGradient, Epilogue, Mode, Part, Plan, Step, StepOp};

/// Every pass of every convolution of a plan, with its step.
pub(crate) fn convolutions(plan: &Plan) -> Vec<(&Step, ConvPass, ConvShape)> {
    let mut passes = Vec::new();
    for step in &plan.steps {
        let StepOp::Conv { kernel, epilogue } = step.op else {
            continue;
        };
        let shape = conv_shape(step, kernel);
        let relu = epilogue != Epilogue::None;
        passes.push((step, ConvPass::Forward { relu }, shape));
        if plan.mode == Mode::Training {
            passes.push((step, ConvPass::FilterGradient, shape));
            if step.data_gradient != DataGradient::None {
                passes.push((step, ConvPass::DataGradient, shape));
            }
        }
    }
    passes
}

/// Which plan computes one part of a convolution.
pub(super) fn conv_key(step: &Step, kernel: usize, epilogue: Epilogue, part: Part) -> (ConvPass, ConvShape) {
    let pass = match part {
        Part::Forward => ConvPass::Forward {
            relu: epilogue != Epilogue::None,
        },
        Part::DataGradient => ConvPass::DataGradient,
        Part::FilterGradient => ConvPass::FilterGradient,
    };
    (pass, conv_shape(step, kernel))
}

fn conv_shape(step: &Step, kernel: usize) -> ConvShape {
    ConvShape {
        n: step.batch,
        c: input_pitch(step),
        k: step.output.c,
        h: step.output.h,
        w: step.output.w,
        kernel,
    }
}

impl Run<'_> {
    /// The filter in cuDNN's order, in scratch.
    pub(super) fn filter(&self, kernel: usize) -> Result<DevicePtr> {
        let step = self.step;
        // (K, C, R * S) to (K, R * S, pitch)
        let filters = Nhwc {
            n: step.output.c,
            h: kernel,
            w: kernel,
            c: step.input.c,
        };
        let (from, to) = (self.at.factors[0], self.at.scratch);
        // SAFETY: the scratch begins with the filter's place.
        unsafe {
            self.resources
                .launcher
                .nhwc_from_nchw([self.element; 2], filters, input_pitch(step), from, to)?
        };
        Ok(to)
    }

    pub(super) fn conv_forward(&mut self, kernel: usize, epilogue: Epilogue) -> Result<()> {
        let w = self.filter(kernel)?;
        let tensors = ConvTensors {
            x: self.at.input,
            w,
            y: self.at.value,
            bias: self.at.factors[1],
        };
        let relu = epilogue != Epilogue::None;
        self.convolve(ConvPass::Forward { relu }, kernel, tensors)
    }

    pub(super) fn conv_backward(&mut self, kernel: usize) -> Result<()> {
        let (step, at) = (self.step, self.at);
        let filter = aligned(filter_bytes(step, self.element, kernel)) as u64;
        let dw = at.scratch + filter;
        let sums = dw + filter;
        let mut tensors = ConvTensors {
            x: at.input,
            w: dw,
            y: at.gradient,
            bias: 0,
        };
        self.convolve(ConvPass::FilterGradient, kernel, tensors)?;
        let filters = Nhwc {
            n: step.output.c,
            h: kernel,
            w: kernel,
            c: step.input.c,
        };
        let pixels = Rows {
            rows: rows(step),
            channels: step.output.c,
        };
        let launcher = &self.resources.launcher;
        let [weight, bias, ..] = at.weight_gradients;
        // SAFETY: the leaf holds the step's arrays; the scratch holds two filters and the sums.
        unsafe {
            let elements = [self.element, Element::F32];
            launcher.nchw_from_nhwc(elements, filters, input_pitch(step), dw, weight)?;
            launcher.bias_gradient(self.element, pixels, at.gradient, sums, bias)?;
        }
        if let Some(dx) = at.input_gradient {
            tensors.w = self.filter(kernel)?;
            tensors.x = dx;
            self.convolve(ConvPass::DataGradient, kernel, tensors)?;
        }
        Ok(())
    }

    pub(super) fn convolve(&mut self, pass: ConvPass, kernel: usize, tensors: ConvTensors) -> Result<()> {
        let plan = self.resources.convolution(pass, conv_shape(self.step, kernel))?;
        let Resources { dnn, workspace, .. } = &*self.resources;
        // SAFETY: the tensors come from the plan; the workspace is as large as any plan's.
        unsafe { plan.execute(dnn, tensors, workspace.at(0)) }
    }
}
