//! One pass of one step: which library call or which kernels, on which memory.

mod conv;
mod kernels;
mod linear;

use std::sync::Arc;

pub(super) use self::conv::convolutions;
pub(super) use self::linear::products;
use super::Resources;
use super::blas::{Product, WORKSPACE_BYTES};
use super::dnn::{ConvPass, ConvPlan, ConvShape};
use super::launch::{Element, Nhwc};
use super::memory::{Buffer, Places};
use super::staging::{BatchLayout, Inbox};
use crate::backend::Memory;
use crate::error::{Error, Result};
use crate::plan::{Batch, Epilogue, Part, Pass, Plan, Step, StepOp, StepParams, ValueGradient};

/// Makes the library plans of every step, and the workspace and the inbox that they need. Gives the convolutions' plans,
/// for whoever goes on using them.
pub(super) fn prepare(resources: &mut Resources, plan: &Plan) -> Result<Vec<Arc<ConvPlan>>> {
    resources.make_room_for(BatchLayout::of(plan))?;
    for (_, product) in products(plan, Element::of(resources.precision)) {
        resources.plan_product(product)?;
    }
    let passes = convolutions(plan).into_iter();
    passes
        .map(|(_, pass, shape)| resources.convolution(pass, shape))
        .collect()
}

/// What computes one part of a step, for people.
pub(super) fn algorithm(resources: &Resources, step: &Step, part: Part) -> String {
    let described = match step.op {
        StepOp::Conv { kernel, epilogue } => {
            let key = conv::conv_key(step, kernel, epilogue, part);
            let plan = resources.convolutions.peek(&key);
            plan.map(|plan| format!("cuDNN engine {}", plan.engine()))
        }
        StepOp::Linear { epilogue } => {
            let product = linear::product_of(step, Element::of(resources.precision), epilogue, part);
            let plan = resources.products.peek(&product);
            plan.map(|plan| match plan.algorithm_id() {
                Some(id) => format!("cuBLASLt algorithm {id}"),
                None => "cuBLASLt".into(),
            })
        }
        StepOp::Input
        | StepOp::Windows { .. }
        | StepOp::AveragePool { .. }
        | StepOp::BatchNorm { .. }
        | StepOp::Relu
        | StepOp::Lrn
        | StepOp::MaxPool
        | StepOp::Dropout { .. }
        | StepOp::Loss => Some("kernel of verydeep".into()),
    };
    described.unwrap_or_else(|| "not planned".into())
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
            resources.receive(plan, &memory.batch, params)?;
        }
        (StepOp::Loss, Pass::Forward) => {
            check_labels(plan, &memory.batch)?;
            // They came with the images, unless the loss is all that is run.
            let inbox = resources.make_room_for(layout)?;
            if !inbox.has_labels_of(layout, &memory.batch) {
                resources.receive(plan, &memory.batch, params)?;
            }
        }
        (StepOp::Dropout { .. }, _) if !resources.make_room_for(layout)?.has_params(params) => {
            // As above.
            resources.receive(plan, &memory.batch, params)?;
        }
        _ => {}
    }
    run_received(resources, plan, index, pass, memory)
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
) -> Result<()> {
    let step = &plan.steps[index];
    let element = Element::of(resources.precision);
    let at = Places::new(plan, index, pass, element, memory)?;
    let mut run = Run {
        resources,
        step,
        element,
        at,
    };
    // A ReLU in the step whose gradient nobody has masked yet.
    let relu_left = |epilogue| epilogue == Epilogue::Relu && step.value_gradient == ValueGradient::Raw;
    match (step.op, pass) {
        (StepOp::Input, Pass::Forward) => run.input(plan),
        (StepOp::Input | StepOp::Windows { .. } | StepOp::AveragePool { .. }, Pass::Backward) => Ok(()),
        (StepOp::Windows { side }, Pass::Forward) => run.windows_forward(side),
        (StepOp::AveragePool { side }, Pass::Forward) => run.average_pool_forward(side),
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
        (StepOp::Dropout { p, layer }, Pass::Forward) => run.dropout_forward(p, layer),
        (StepOp::Dropout { p, layer }, Pass::Backward) => run.dropout_backward(p, layer),
        (StepOp::Loss, Pass::Forward) => run.loss_forward(),
        (StepOp::Loss, Pass::Backward) => run.loss_backward(),
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
    /// Type of activations, of their gradients, and of what is multiplied.
    element: Element,
    at: Places,
}

impl Resources {
    /// The plan of one pass of a convolution: the one that is kept, or one that is made now and has the same bits.
    fn convolution(&mut self, pass: ConvPass, shape: ConvShape) -> Result<Arc<ConvPlan>> {
        if let Some(plan) = self.convolutions.get(&(pass, shape)) {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(self.convolution_plan(pass, shape)?);
        if plan.workspace() > self.workspace.bytes() {
            // The stream frees the old one when it is done with it; graphs are not.
            self.graphs.clear();
            self.workspace = Buffer::new(self.launcher.stream(), "the workspace of cuDNN", plan.workspace())?;
        }
        self.convolutions.put((pass, shape), Arc::clone(&plan));
        Ok(plan)
    }

    fn plan_product(&mut self, product: Product) -> Result<()> {
        if self.products.get(&product).is_none() {
            let plan = self.product_plan(product)?;
            self.products.put(product, plan);
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
    pub(super) fn receive(&mut self, plan: &Plan, batch: &Batch<'_>, params: &StepParams) -> Result<&Inbox> {
        let layout = BatchLayout::of(plan);
        self.make_room_for(layout)?;
        let inbox = self.inbox.as_mut().expect("there is room in it");
        inbox.put(&self.launcher, layout, batch, params)?;
        Ok(inbox)
    }

    pub(super) fn inbox(&self) -> Result<&Inbox> {
        self.inbox.as_ref().ok_or_else(|| {
            let found = "a step that reads it before any input was finished";
            Error::invalid("micro-batch", "one that was received", found)
        })
    }
}
