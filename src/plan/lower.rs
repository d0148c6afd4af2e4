//! From layers to steps: which layers become one step, and who applies a ReLU's mask on the way back.

use super::{DataGradient, Epilogue, Lowering, Mode, Regions, Step, StepOp, ValueGradient};
use crate::network::{Layer, Network, Op};
use crate::shape::Chw;

pub(super) fn lower(network: &Network, batch: usize, mode: Mode, lowering: &dyn Lowering) -> Vec<Step> {
    let mut steps = vec![step(
        "input",
        StepOp::Input,
        0..0,
        batch,
        network.input,
        network.input,
    )];
    let mut index = 0;
    // Windows of one image, once the map has been cut into them.
    let mut windows = None;
    while index < network.layers.len() {
        let layer = &network.layers[index];
        if let (Op::Windowed { side }, None) = (layer.op, windows) {
            windows = Some(layer.output.plane());
            steps.push(cut(layer, side, index, batch));
        }
        let (op, taken) = fuse(&network.layers[index..], index, lowering);
        let layers = index..index + taken;
        index += taken;
        if mode == Mode::Evaluation && matches!(op, StepOp::Dropout { .. }) {
            continue; // the identity
        }
        let (first, last) = (&network.layers[layers.start], &network.layers[layers.end - 1]);
        let mut step = match windows {
            None => step(&first.name, op, layers.clone(), batch, first.input, last.output),
            Some(windows) => {
                let (input, output) = (steps[steps.len() - 1].output, Chw::new(last.output.c, 1, 1));
                step(&first.name, op, layers.clone(), batch * windows, input, output)
            }
        };
        step.parameters = first.parameters.clone();
        step.macs = network.layers[layers].iter().map(Layer::macs).sum::<u64>() * batch as u64;
        steps.push(step);
    }
    if network.only_scores() {
        return steps; // whoever wants a loss averages the scores, or the posteriors, of the views first
    }
    let scores = Chw::new(network.classes, 1, 1);
    let end = network.layers.len();
    let last = steps[steps.len() - 1].output;
    steps.push(step("loss", StepOp::Loss, end..end, batch, last, scores));
    if mode == Mode::Training {
        plan_gradients(&mut steps, lowering);
    }
    steps
}

/// The step that cuts the input of the first fully connected layer into windows.
fn cut(layer: &Layer, side: usize, index: usize, batch: usize) -> Step {
    let row = Chw::new(layer.input.c * side * side, 1, 1);
    let rows = batch * layer.output.plane();
    let op = StepOp::Windows { side };
    step("windows", op, index..index, rows, layer.input, row)
}

fn step(
    name: &str,
    op: StepOp,
    layers: std::ops::Range<usize>,
    batch: usize,
    input: Chw,
    output: Chw,
) -> Step {
    Step {
        name: name.into(),
        op,
        layers,
        batch,
        input,
        output,
        parameters: 0..0,
        data_gradient: DataGradient::None,
        value_gradient: ValueGradient::Raw,
        macs: 0,
        memory: Regions::default(),
    }
}

/// The longest step that starts with the first of `layers` and that the back end takes, and how many layers it is.
fn fuse(layers: &[Layer], index: usize, lowering: &dyn Lowering) -> (StepOp, usize) {
    let followed_by = |ops: &[Op]| {
        layers[1..]
            .iter()
            .map(|l| l.op)
            .take(ops.len())
            .eq(ops.iter().copied())
    };
    let candidates = [
        (Epilogue::ReluPool, followed_by(&[Op::Relu, Op::MaxPool]), 3),
        (Epilogue::Relu, followed_by(&[Op::Relu]), 2),
    ];
    let longest = |make: &dyn Fn(Epilogue) -> StepOp| {
        let fused = candidates
            .iter()
            .find(|(epilogue, fits, _)| *fits && lowering.accepts(make(*epilogue)));
        fused.map_or((make(Epilogue::None), 1), |(epilogue, _, taken)| {
            (make(*epilogue), *taken)
        })
    };
    match layers[0].op {
        Op::Conv { kernel } => longest(&|epilogue| StepOp::Conv { kernel, epilogue }),
        Op::Linear | Op::Windowed { .. } => longest(&|epilogue| StepOp::Linear { epilogue }),
        Op::BatchNorm => longest(&|epilogue| StepOp::BatchNorm { epilogue }),
        Op::Relu => (StepOp::Relu, 1),
        Op::Lrn => (StepOp::Lrn, 1),
        Op::MaxPool => (StepOp::MaxPool, 1),
        Op::AveragePool { side } => (StepOp::AveragePool { side }, 1),
        Op::Dropout { p } => (
            StepOp::Dropout {
                p,
                layer: index as u16,
            },
            1,
        ),
    }
}

/// Decides which steps compute a data gradient (all but the first after the input) and moves the mask of a ReLU
/// epilogue into the data gradient of the step that reads it, where the back end can do that.
fn plan_gradients(steps: &mut [Step], lowering: &dyn Lowering) {
    for i in 2..steps.len() {
        let after_relu = ends_in_relu(steps[i - 1].op);
        if after_relu && lowering.masks(steps[i].op) {
            steps[i].data_gradient = DataGradient::Masked;
            steps[i - 1].value_gradient = ValueGradient::Masked;
        } else {
            steps[i].data_gradient = DataGradient::Plain;
        }
    }
}

/// Whether a value is the output of a ReLU epilogue, element by element.
fn ends_in_relu(op: StepOp) -> bool {
    match op {
        StepOp::Conv { epilogue, .. } | StepOp::Linear { epilogue } | StepOp::BatchNorm { epilogue } => {
            epilogue == Epilogue::Relu
        }
        // A ReLU of its own masks its own gradient; after a fused pooling the mask belongs to what was pooled.
        StepOp::Input
        | StepOp::Windows { .. }
        | StepOp::AveragePool { .. }
        | StepOp::Relu
        | StepOp::Lrn
        | StepOp::MaxPool
        | StepOp::Dropout { .. }
        | StepOp::Loss => false,
    }
}
