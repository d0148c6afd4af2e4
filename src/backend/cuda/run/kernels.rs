//! What our kernels do alone: input finishing, masks, batch norm, ReLU, LRN, pooling, dropout, the loss.

use super::{Run, input_shape};
use crate::backend::cuda::dnn::DevicePtr;
use crate::backend::cuda::launch::{BatchNorm, Dropout, Nhwc, Rows};
use crate::backend::cuda::lower::{NORM_SAVED, flat_bytes, rows};
use crate::backend::cuda::memory::Places;
use crate::error::Result;
use crate::plan::{DataGradient, Mode, Plan, Step, StepOp};

impl Run<'_> {
    pub(super) fn input(&self, plan: &Plan) -> Result<()> {
        let step = self.step;
        let shape = Nhwc {
            n: step.batch,
            h: step.output.h,
            w: step.output.w,
            c: step.output.c,
        };
        let images = self.resources.inbox()?.images();
        // SAFETY: the inbox holds the images, the value has room for the padded image.
        unsafe {
            self.resources
                .launcher
                .finish_input(self.element, shape, &plan.preprocess, images, self.at.value)
        }
    }

    /// Every window of the map as a row.
    pub(super) fn windows_forward(&self, side: usize) -> Result<()> {
        let (rows, columns) = self.step.windows(side);
        let shape = Nhwc {
            n: self.step.batch / (rows * columns),
            ..input_shape(self.step)
        };
        let (x, y) = (self.at.input, self.at.value);
        // SAFETY: the input has that shape, the value a row for each of its windows.
        unsafe { self.resources.launcher.windows(self.element, shape, side, x, y) }
    }

    /// Means over the parts of the map.
    pub(super) fn average_pool_forward(&self, side: usize) -> Result<()> {
        let (x, y) = (self.at.input, self.at.value);
        let shape = input_shape(self.step);
        // SAFETY: the input has that shape, the value side x side pixels of as many channels for each image.
        unsafe {
            self.resources
                .launcher
                .average_pool(self.element, shape, side, x, y)
        }
    }

    /// dy = y > 0 ? dy : 0, where it is left to this step.
    pub(super) fn mask(&self, left: bool) -> Result<()> {
        if !left {
            return Ok(());
        }
        let elements = self.step.batch * self.step.output.len();
        let Places { value, gradient, .. } = self.at;
        // SAFETY: both have the shape of the value.
        unsafe {
            self.resources
                .launcher
                .relu_backward(self.element, value, gradient, gradient, elements)
        }
    }

    /// What batch norm saves, an array of the channels each.
    fn norm_saved(&self) -> [DevicePtr; NORM_SAVED] {
        let bytes = self.step.output.c * size_of::<f32>();
        std::array::from_fn(|i| self.at.saved + (i * bytes) as u64)
    }

    pub(super) fn norm(&self) -> (Rows, BatchNorm) {
        let (step, at) = (self.step, self.at);
        let [mean, rest, inverse, ..] = self.norm_saved();
        let norm = BatchNorm {
            element: self.element,
            x: at.input,
            mean,
            rest,
            inverse,
            gamma: at.weights[0],
            beta: at.weights[1],
            y: at.value,
        };
        (pixels(step), norm)
    }

    pub(super) fn batch_norm_forward(&self, mode: Mode, relu: bool) -> Result<()> {
        let (shape, norm) = self.norm();
        let launcher = &self.resources.launcher;
        let [_, _, mean, variance] = self.at.weights;
        let [.., mean_out, variance_out] = self.norm_saved();
        // SAFETY: the addresses come from the plan, the scratch is as large as the footprint asked for.
        unsafe {
            match mode {
                Mode::Training => {
                    launcher.batch_norm_forward(shape, norm, [mean_out, variance_out], self.at.scratch, relu)
                }
                Mode::Evaluation => launcher.batch_norm_evaluation(shape, norm, [mean, variance], relu),
            }
        }
    }

    pub(super) fn batch_norm_backward(&self) -> Result<()> {
        let (shape, norm) = self.norm();
        let Places {
            gradient,
            input_gradient,
            scratch,
            ..
        } = self.at;
        let [dgamma, dbeta, leaf_mean, leaf_variance] = self.at.weight_gradients;
        let [.., saved_mean, saved_variance] = self.norm_saved();
        let bytes = shape.channels * size_of::<f32>();
        // SAFETY: as for the forward pass.
        unsafe {
            let launcher = &self.resources.launcher;
            launcher.copy(leaf_mean, saved_mean, bytes)?;
            launcher.copy(leaf_variance, saved_variance, bytes)?;
            launcher.batch_norm_backward(shape, norm, gradient, [dgamma, dbeta], input_gradient, scratch)
        }
    }

    pub(super) fn kernel_forward(&self) -> Result<()> {
        let (step, at) = (self.step, self.at);
        let (launcher, element) = (&self.resources.launcher, self.element);
        // SAFETY: input, value and saved state have the step's shapes.
        unsafe {
            match step.op {
                StepOp::Lrn => launcher.lrn_forward(element, pixels(step), at.input, at.value),
                StepOp::MaxPool => {
                    launcher.max_pool_forward(element, input_shape(step), at.input, at.value, at.saved)
                }
                _ => launcher.relu_forward(element, at.input, at.value, step.batch * step.output.len()),
            }
        }
    }

    pub(super) fn kernel_backward(&self) -> Result<()> {
        let (step, at) = (self.step, self.at);
        let launcher = &self.resources.launcher;
        let Some(dx) = at.input_gradient else {
            return Ok(());
        };
        let (element, masked) = (self.element, step.data_gradient == DataGradient::Masked);
        // SAFETY: gradients, value and saved state have the step's shapes.
        unsafe {
            match step.op {
                StepOp::Lrn => {
                    launcher.lrn_backward(element, pixels(step), at.input, at.gradient, dx, masked)
                }
                StepOp::MaxPool => {
                    let mask = masked.then_some(at.value);
                    launcher.max_pool_backward(element, input_shape(step), at.gradient, at.saved, mask, dx)
                }
                _ => {
                    let elements = step.batch * step.output.len();
                    launcher.relu_backward(element, at.value, at.gradient, dx, elements)
                }
            }
        }
    }

    pub(super) fn dropout_forward(&self, p: f32, layer: u16) -> Result<()> {
        let params = self.resources.inbox()?.params();
        let (shape, dropout) = (input_shape(self.step), Dropout { p, layer, params });
        // SAFETY: input and value have one shape; the inbox holds the parameters.
        unsafe {
            let launcher = &self.resources.launcher;
            launcher.dropout_forward(self.element, shape, dropout, self.at.input, self.at.value)
        }
    }

    pub(super) fn dropout_backward(&self, p: f32, layer: u16) -> Result<()> {
        let (step, at) = (self.step, self.at);
        let launcher = &self.resources.launcher;
        let Some(dx) = at.input_gradient else {
            return Ok(());
        };
        let params = self.resources.inbox()?.params();
        let (element, dropout) = (self.element, Dropout { p, layer, params });
        // SAFETY: gradients and value have one shape; the inbox holds the parameters.
        unsafe {
            if step.data_gradient == DataGradient::Masked {
                let elements = step.batch * step.output.len();
                launcher.dropout_backward_masked(element, p, at.value, at.gradient, dx, elements)
            } else {
                launcher.dropout_backward(element, input_shape(step), dropout, at.gradient, dx)
            }
        }
    }

    pub(super) fn loss_forward(&self) -> Result<()> {
        let (samples, classes) = (self.step.batch, self.step.output.len());
        let losses = self.at.saved;
        let ranks = losses + (samples * size_of::<f32>()) as u64;
        let input = self.flat_input(self.at.scratch)?;
        let value = self.at.value;
        let labels = self.resources.inbox()?.labels();
        // SAFETY: the saved state holds a loss and a rank per sample.
        unsafe {
            let launcher = &self.resources.launcher;
            let outputs = [value, losses, ranks];
            launcher.softmax_cross_entropy_forward(self.element, samples, classes, input, labels, outputs)
        }
    }

    pub(super) fn loss_backward(&self) -> Result<()> {
        let Some(dx) = self.at.input_gradient else {
            return Ok(());
        };
        let labels = self.resources.inbox()?.labels();
        let (samples, classes) = (self.step.batch, self.step.output.len());
        let is_flat = flat_bytes(self.step, self.element) == 0;
        let to = if is_flat { dx } else { self.at.scratch };
        let shape = input_shape(self.step);
        let launcher = &self.resources.launcher;
        // SAFETY: value and gradient are (N, classes); the scratch has a place for a gradient that must be turned.
        unsafe {
            launcher.softmax_cross_entropy_backward(
                self.element,
                samples,
                classes,
                self.at.value,
                labels,
                to,
            )?;
            if is_flat {
                Ok(())
            } else {
                launcher.nhwc_from_nchw([self.element; 2], shape, shape.c, to, dx)
            }
        }
    }
}

/// The pixels of all images of a step's value.
fn pixels(step: &Step) -> Rows {
    Rows {
        rows: rows(step),
        channels: step.output.c,
    }
}
