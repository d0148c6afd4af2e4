//! One pass of one step: which library call or which kernels, on which memory.

use super::Resources;
use super::blas::{Factor, Finish, Matrices, Product, ProductPlan, WORKSPACE_BYTES};
use super::dnn::{ConvPass, ConvPlan, ConvShape, ConvTensors, DevicePtr};
use super::launch::{BatchNorm, Nhwc, Rows};
use super::lower::{aligned, filter_bytes, flat_bytes, input_pitch, rows};
use super::memory::{Buffer, Places};
use super::staging::{BatchLayout, Inbox};
use crate::backend::Memory;
use crate::error::{Error, Result};
use crate::plan::{Batch, DataGradient, Epilogue, Mode, Pass, Plan, Step, StepOp, StepParams, ValueGradient};

/// Makes the library plans of every step, and the workspace and pinned memory that they need.
pub(super) fn prepare(resources: &mut Resources, plan: &Plan) -> Result<()> {
    resources.make_room_for(BatchLayout::of(plan))?;
    for (_, pass, shape) in convolutions(plan) {
        resources.plan_convolution(pass, shape)?;
    }
    for step in &plan.steps {
        match step.op {
            StepOp::Linear { epilogue } => {
                resources.plan_product(forward_product(step, epilogue))?;
                if plan.mode == Mode::Training {
                    resources.plan_product(weight_gradient_product(step))?;
                    if step.data_gradient != DataGradient::None {
                        resources.plan_product(data_gradient_product(step))?;
                    }
                }
            }
            StepOp::Input
            | StepOp::Conv { .. }
            | StepOp::BatchNorm { .. }
            | StepOp::Relu
            | StepOp::Lrn
            | StepOp::MaxPool
            | StepOp::Dropout { .. }
            | StepOp::Loss => {}
        }
    }
    Ok(())
}

/// Every pass of every convolution of a plan, with its step.
pub(super) fn convolutions(plan: &Plan) -> Vec<(&Step, ConvPass, ConvShape)> {
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

/// One pass of one step. What it needs of the micro-batch is received first.
pub(super) fn run(
    resources: &mut Resources,
    plan: &Plan,
    index: usize,
    pass: Pass,
    memory: &Memory<'_, Buffer>,
    params: &StepParams,
) -> Result<()> {
    let layout = BatchLayout::of(plan);
    match (plan.steps[index].op, pass) {
        (StepOp::Input, Pass::Forward) => {
            resources.receive(plan, &memory.batch)?;
        }
        (StepOp::Loss, Pass::Forward) => {
            check_labels(plan, &memory.batch)?;
            // They came with the images, unless the loss is all that is run.
            let inbox = resources.make_room_for(layout)?;
            if !inbox.has_labels_of(layout, &memory.batch) {
                resources.receive(plan, &memory.batch)?;
            }
        }
        _ => {}
    }
    run_received(resources, plan, index, pass, memory, params)
}

/// Whether every label names a class.
pub(super) fn check_labels(plan: &Plan, batch: &Batch<'_>) -> Result<()> {
    let labels = &batch.labels[..plan.batch];
    let wrong = (0..)
        .zip(labels)
        .find(|(_, label)| **label as usize >= plan.classes);
    let Some((n, label)) = wrong else {
        return Ok(());
    };
    Err(Error::invalid_hint(
        format_args!("label of sample {n} of the micro-batch"),
        format_args!("a class below {}", plan.classes),
        label,
        "the network has fewer classes than the data set; see --classes",
    ))
}

/// One pass of one step of the micro-batch that was received last.
pub(super) fn run_received(
    resources: &mut Resources,
    plan: &Plan,
    index: usize,
    pass: Pass,
    memory: &Memory<'_, Buffer>,
    params: &StepParams,
) -> Result<()> {
    let step = &plan.steps[index];
    let at = Places::new(plan, index, pass, memory);
    let mut run = Run { resources, step, at };
    // A ReLU in the step whose gradient nobody has masked yet.
    let relu_left = |epilogue| epilogue == Epilogue::Relu && step.value_gradient == ValueGradient::Raw;
    match (step.op, pass) {
        (StepOp::Input, Pass::Forward) => run.input(plan),
        (StepOp::Input, Pass::Backward) => Ok(()),
        (StepOp::Conv { kernel, epilogue }, Pass::Forward) => run.conv_forward(kernel, epilogue),
        (StepOp::Conv { kernel, epilogue }, Pass::Backward) => {
            run.mask(relu_left(epilogue))?;
            run.conv_backward(kernel)
        }
        (StepOp::Linear { epilogue }, Pass::Forward) => run.linear_forward(epilogue),
        (StepOp::Linear { epilogue }, Pass::Backward) => {
            run.mask(relu_left(epilogue))?;
            run.linear_backward()
        }
        (StepOp::BatchNorm { epilogue }, Pass::Forward) => {
            run.batch_norm_forward(plan.mode, epilogue != Epilogue::None)
        }
        (StepOp::BatchNorm { epilogue }, Pass::Backward) => {
            run.mask(relu_left(epilogue))?;
            run.batch_norm_backward()
        }
        (StepOp::Relu | StepOp::Lrn | StepOp::MaxPool, Pass::Forward) => run.kernel_forward(),
        (StepOp::Relu | StepOp::Lrn | StepOp::MaxPool, Pass::Backward) => run.kernel_backward(),
        (StepOp::Dropout { p, layer }, Pass::Forward) => {
            run.resources.send_params(params)?;
            run.dropout_forward(p, layer)
        }
        (StepOp::Dropout { p, layer }, Pass::Backward) => {
            run.resources.send_params(params)?;
            run.dropout_backward(p, layer)
        }
        (StepOp::Loss, Pass::Forward) => run.loss_forward(),
        (StepOp::Loss, Pass::Backward) => run.loss_backward(),
    }
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

/// y (N, out) = x (N, in) w^T, w as it is stored: (out, in).
fn forward_product(step: &Step, epilogue: Epilogue) -> Product {
    Product {
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

/// dw (out, in) = dy^T (out, N) x (N, in).
fn weight_gradient_product(step: &Step) -> Product {
    Product {
        m: step.output.len(),
        n: step.input.len(),
        k: step.batch,
        a: Factor::Transposed,
        b: Factor::Plain,
        finish: Finish::None,
    }
}

/// dx (N, in) = dy (N, out) w (out, in).
fn data_gradient_product(step: &Step) -> Product {
    Product {
        m: step.batch,
        n: step.input.len(),
        k: step.output.len(),
        a: Factor::Plain,
        b: Factor::Plain,
        finish: Finish::None,
    }
}

fn input_shape(step: &Step) -> Nhwc {
    Nhwc {
        n: step.batch,
        h: step.input.h,
        w: step.input.w,
        c: step.input.c,
    }
}

/// One pass under way. Every address in it comes from the plan, whose regions hold what the footprint asked for.
struct Run<'a> {
    resources: &'a mut Resources,
    step: &'a Step,
    at: Places,
}

impl Run<'_> {
    fn input(&self, plan: &Plan) -> Result<()> {
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
                .finish_input(shape, &plan.preprocess, images, self.at.value)
        }
    }

    /// dy = y > 0 ? dy : 0, where it is left to this step.
    fn mask(&self, left: bool) -> Result<()> {
        if !left {
            return Ok(());
        }
        let elements = self.step.batch * self.step.output.len();
        let Places { value, gradient, .. } = self.at;
        // SAFETY: both have the shape of the value.
        unsafe {
            self.resources
                .launcher
                .relu_backward(value, gradient, gradient, elements)
        }
    }

    /// The filter in cuDNN's order, in scratch.
    fn filter(&self, kernel: usize) -> Result<DevicePtr> {
        let step = self.step;
        // (K, C, R * S) to (K, R * S, pitch)
        let filters = Nhwc {
            n: step.output.c,
            h: kernel,
            w: kernel,
            c: step.input.c,
        };
        let (from, to) = (self.at.weights[0], self.at.scratch);
        // SAFETY: the scratch begins with the filter's place.
        unsafe {
            self.resources
                .launcher
                .nhwc_from_nchw(filters, input_pitch(step), from, to)?
        };
        Ok(to)
    }

    fn conv_forward(&mut self, kernel: usize, epilogue: Epilogue) -> Result<()> {
        let w = self.filter(kernel)?;
        let tensors = ConvTensors {
            x: self.at.input,
            w,
            y: self.at.value,
            bias: self.at.weights[1],
        };
        let relu = epilogue != Epilogue::None;
        self.convolve(ConvPass::Forward { relu }, kernel, tensors)
    }

    fn conv_backward(&mut self, kernel: usize) -> Result<()> {
        let (step, at) = (self.step, self.at);
        let filter = aligned(filter_bytes(step, kernel)) as u64;
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
        let launcher = &self.resources.launcher;
        let [weight, bias, ..] = at.weight_gradients;
        // SAFETY: the leaf holds the step's arrays; the scratch holds two filters and the sums.
        unsafe {
            launcher.nchw_from_nhwc(filters, input_pitch(step), dw, weight)?;
            launcher.bias_gradient(at.gradient, rows(step), step.output.c, sums, bias)?;
        }
        if let Some(dx) = at.input_gradient {
            tensors.w = self.filter(kernel)?;
            tensors.x = dx;
            self.convolve(ConvPass::DataGradient, kernel, tensors)?;
        }
        Ok(())
    }

    fn convolve(&mut self, pass: ConvPass, kernel: usize, tensors: ConvTensors) -> Result<()> {
        let shape = conv_shape(self.step, kernel);
        self.resources.plan_convolution(pass, shape)?;
        let Resources {
            convolutions,
            dnn,
            workspace,
            ..
        } = &*self.resources;
        // SAFETY: the tensors come from the plan; the workspace is as large as any plan's.
        unsafe { convolutions[&(pass, shape)].execute(dnn, tensors, workspace.at(0)) }
    }

    fn linear_forward(&mut self, epilogue: Epilogue) -> Result<()> {
        let x = self.flat_input(self.at.scratch)?;
        let matrices = Matrices {
            a: x,
            b: self.at.weights[0],
            c: self.at.value,
            bias: self.at.weights[1],
        };
        self.multiply(forward_product(self.step, epilogue), matrices)
    }

    /// x in logical order, (N, C * H * W); turned into `scratch` where it must be.
    fn flat_input(&self, scratch: DevicePtr) -> Result<DevicePtr> {
        if flat_bytes(self.step) == 0 {
            return Ok(self.at.input);
        }
        let shape = input_shape(self.step);
        // SAFETY: the scratch begins with a place for it.
        unsafe {
            self.resources
                .launcher
                .nchw_from_nhwc(shape, shape.c, self.at.input, scratch)?
        };
        Ok(scratch)
    }

    fn linear_backward(&mut self) -> Result<()> {
        let (step, at) = (self.step, self.at);
        let flat = aligned(flat_bytes(step)) as u64;
        let (flat_dx, sums) = (at.scratch + flat, at.scratch + 2 * flat);
        let x = self.flat_input(at.scratch)?;
        let [weight, bias, ..] = at.weight_gradients;
        let product = |a, b, c| Matrices { a, b, c, bias: 0 };
        self.multiply(weight_gradient_product(step), product(at.gradient, x, weight))?;
        // SAFETY: the scratch ends with a place for the sums.
        unsafe {
            let launcher = &self.resources.launcher;
            launcher.bias_gradient(at.gradient, step.batch, step.output.len(), sums, bias)?;
        }
        let Some(dx) = at.input_gradient else {
            return Ok(());
        };
        let to = if flat == 0 { dx } else { flat_dx };
        self.multiply(
            data_gradient_product(step),
            product(at.gradient, at.weights[0], to),
        )?;
        if flat == 0 {
            return Ok(());
        }
        let shape = input_shape(step);
        // SAFETY: both have the shape of the input.
        unsafe {
            self.resources
                .launcher
                .nhwc_from_nchw(shape, shape.c, flat_dx, dx)
        }
    }

    fn multiply(&mut self, product: Product, matrices: Matrices) -> Result<()> {
        self.resources.plan_product(product)?;
        let Resources {
            products,
            blas,
            workspace,
            launcher,
            ..
        } = &*self.resources;
        // SAFETY: the matrices come from the plan; the workspace is at least as large as products may ask for.
        unsafe { products[&product].execute(blas, launcher.stream(), matrices, workspace.at(0)) }
    }

    fn norm(&self) -> (Rows, BatchNorm) {
        let (step, at) = (self.step, self.at);
        let channels = step.output.c;
        let [mean, rest, inverse] = [0, 1, 2].map(|i| at.saved + (i * channels * size_of::<f32>()) as u64);
        let norm = BatchNorm {
            x: at.input,
            mean,
            rest,
            inverse,
            gamma: at.weights[0],
            beta: at.weights[1],
            y: at.value,
        };
        (
            Rows {
                rows: rows(step),
                channels,
            },
            norm,
        )
    }

    fn batch_norm_forward(&self, mode: Mode, relu: bool) -> Result<()> {
        let (shape, norm) = self.norm();
        let launcher = &self.resources.launcher;
        let [_, _, mean, variance] = self.at.weights;
        let [_, _, mean_out, variance_out] = self.at.weight_gradients;
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

    fn batch_norm_backward(&self) -> Result<()> {
        let (shape, norm) = self.norm();
        let Places {
            gradient,
            input_gradient,
            scratch,
            ..
        } = self.at;
        let [dgamma, dbeta, ..] = self.at.weight_gradients;
        // SAFETY: as for the forward pass.
        unsafe {
            let launcher = &self.resources.launcher;
            launcher.batch_norm_backward(shape, norm, gradient, [dgamma, dbeta], input_gradient, scratch)
        }
    }

    fn kernel_forward(&self) -> Result<()> {
        let (step, at) = (self.step, self.at);
        let launcher = &self.resources.launcher;
        // SAFETY: input, value and saved state have the step's shapes.
        unsafe {
            match step.op {
                StepOp::Lrn => launcher.lrn_forward(at.input, at.value, rows(step), step.output.c),
                StepOp::MaxPool => launcher.max_pool_forward(input_shape(step), at.input, at.value, at.saved),
                _ => launcher.relu_forward(at.input, at.value, step.batch * step.output.len()),
            }
        }
    }

    fn kernel_backward(&self) -> Result<()> {
        let (step, at) = (self.step, self.at);
        let launcher = &self.resources.launcher;
        let Some(dx) = at.input_gradient else {
            return Ok(());
        };
        let masked = step.data_gradient == DataGradient::Masked;
        // SAFETY: gradients, value and saved state have the step's shapes.
        unsafe {
            match step.op {
                StepOp::Lrn => {
                    launcher.lrn_backward(at.input, at.gradient, dx, rows(step), step.output.c, masked)
                }
                StepOp::MaxPool => {
                    let mask = masked.then_some(at.value);
                    launcher.max_pool_backward(input_shape(step), at.gradient, at.saved, mask, dx)
                }
                _ => launcher.relu_backward(at.value, at.gradient, dx, step.batch * step.output.len()),
            }
        }
    }

    fn dropout_forward(&self, p: f32, layer: u16) -> Result<()> {
        let params = self.resources.block.at(0);
        // SAFETY: input and value have one shape; the block holds the parameters.
        unsafe {
            let launcher = &self.resources.launcher;
            launcher.dropout_forward(
                input_shape(self.step),
                p,
                layer,
                params,
                self.at.input,
                self.at.value,
            )
        }
    }

    fn dropout_backward(&self, p: f32, layer: u16) -> Result<()> {
        let (step, at) = (self.step, self.at);
        let launcher = &self.resources.launcher;
        let Some(dx) = at.input_gradient else {
            return Ok(());
        };
        let params = self.resources.block.at(0);
        // SAFETY: gradients and value have one shape; the block holds the parameters.
        unsafe {
            if step.data_gradient == DataGradient::Masked {
                let elements = step.batch * step.output.len();
                launcher.dropout_backward_masked(p, at.value, at.gradient, dx, elements)
            } else {
                launcher.dropout_backward(input_shape(step), p, layer, params, at.gradient, dx)
            }
        }
    }

    fn loss_forward(&self) -> Result<()> {
        let (samples, classes) = (self.step.batch, self.step.output.len());
        let losses = self.at.saved;
        let ranks = losses + (samples * size_of::<f32>()) as u64;
        let input = self.flat_input(self.at.scratch)?;
        let value = self.at.value;
        let labels = self.resources.inbox()?.labels();
        // SAFETY: the saved state holds a loss and a rank per sample.
        unsafe {
            let launcher = &self.resources.launcher;
            launcher.softmax_cross_entropy_forward(samples, classes, input, labels, [value, losses, ranks])
        }
    }

    fn loss_backward(&self) -> Result<()> {
        let Some(dx) = self.at.input_gradient else {
            return Ok(());
        };
        let labels = self.resources.inbox()?.labels();
        let (samples, classes) = (self.step.batch, self.step.output.len());
        let is_flat = flat_bytes(self.step) == 0;
        let to = if is_flat { dx } else { self.at.scratch };
        let shape = input_shape(self.step);
        let launcher = &self.resources.launcher;
        // SAFETY: value and gradient are (N, classes); the scratch has a place for a gradient that must be turned.
        unsafe {
            launcher.softmax_cross_entropy_backward(samples, classes, self.at.value, labels, to)?;
            if is_flat {
                Ok(())
            } else {
                launcher.nhwc_from_nchw(shape, shape.c, to, dx)
            }
        }
    }
}

impl Resources {
    fn plan_convolution(&mut self, pass: ConvPass, shape: ConvShape) -> Result<()> {
        if self.convolutions.contains_key(&(pass, shape)) {
            return Ok(());
        }
        let plan = ConvPlan::new(&self.dnn, self.precision, pass, shape)?;
        if plan.workspace() > self.workspace.bytes() {
            // The stream frees the old one when it is done with it; graphs are not.
            self.graphs.clear();
            self.workspace = Buffer::new(self.launcher.stream(), "the workspace of cuDNN", plan.workspace())?;
        }
        self.convolutions.insert((pass, shape), plan);
        Ok(())
    }

    fn plan_product(&mut self, product: Product) -> Result<()> {
        if !self.products.contains_key(&product) {
            let plan = ProductPlan::new(&self.blas, self.precision, product)?;
            self.products.insert(product, plan);
        }
        debug_assert!(
            self.workspace.bytes() >= WORKSPACE_BYTES,
            "allocated with the device"
        );
        Ok(())
    }

    /// The inbox, with room for micro-batches of a layout.
    pub(super) fn make_room_for(&mut self, layout: BatchLayout) -> Result<&mut Inbox> {
        let has_room = |inbox: &Inbox| inbox.has_room_for(layout);
        if !self.inbox.as_ref().is_some_and(has_room) {
            self.graphs.clear();
            // The old one ends before the new one begins.
            self.inbox = None;
            self.inbox = Some(Inbox::new(&self.launcher, &self.copy, layout)?);
        }
        Ok(self.inbox.as_mut().expect("it has just been made"))
    }

    /// Puts a micro-batch into the inbox.
    pub(super) fn receive(&mut self, plan: &Plan, batch: &Batch<'_>) -> Result<&Inbox> {
        let layout = BatchLayout::of(plan);
        self.make_room_for(layout)?;
        let inbox = self.inbox.as_mut().expect("there is room in it");
        inbox.put(&self.launcher, layout, batch)?;
        Ok(inbox)
    }

    fn inbox(&self) -> Result<&Inbox> {
        self.inbox.as_ref().ok_or_else(|| {
            let found = "a step that reads it before any input was finished";
            Error::invalid("micro-batch", "one that was received", found)
        })
    }
}
