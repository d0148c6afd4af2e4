//! Builds a [`Network`] layer by layer and infers every shape.

use super::{Layer, Network, Op, PARAMETER_ALIGNMENT, Parameter, Role};
use crate::error::{Error, Result};
use crate::shape::Chw;

/// The half of torchvision's `VGG` module that a layer belongs to. Each numbers its modules from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Features,
    Classifier,
}

impl Section {
    fn name(self) -> &'static str {
        match self {
            Self::Features => "features",
            Self::Classifier => "classifier",
        }
    }
}

/// Appends layers; every method gives the layer its name and the input shape of what came before.
pub struct Builder {
    network: Network,
    section: Section,
    /// torchvision's index of the next module in the section.
    module: usize,
    shape: Chw,
}

impl Builder {
    /// An empty network over images of shape `input`.
    pub fn new(input: Chw) -> Self {
        let network = Network {
            layers: Vec::new(),
            parameters: Vec::new(),
            input,
            classes: 0,
        };
        Self {
            network,
            section: Section::Features,
            module: 0,
            shape: input,
        }
    }

    /// A convolution with a square kernel and `channels` outputs.
    pub fn conv(&mut self, name: String, kernel: usize, channels: usize) {
        let output = Chw {
            c: channels,
            ..self.shape
        };
        let weight = vec![channels, self.shape.c, kernel, kernel];
        self.push(
            name,
            Op::Conv { kernel },
            output,
            &[(Role::Weight, weight), (Role::Bias, vec![channels])],
        );
    }

    /// Batch normalisation of every channel.
    pub fn batch_norm(&mut self, name: String) {
        let channels = vec![self.shape.c];
        let arrays = [Role::Scale, Role::Shift, Role::RunningMean, Role::RunningVariance]
            .map(|role| (role, channels.clone()));
        self.push(name, Op::BatchNorm, self.shape, &arrays);
    }

    /// A rectifier.
    pub fn relu(&mut self, name: String) {
        self.push(name, Op::Relu, self.shape, &[]);
    }

    /// Local response normalisation.
    pub fn lrn(&mut self, name: String) {
        self.push(name, Op::Lrn, self.shape, &[]);
    }

    /// A 2x2 max-pooling of stride 2. Errors where nothing would be left.
    pub fn max_pool(&mut self, name: String) -> Result<()> {
        let output = Chw {
            h: self.shape.h / 2,
            w: self.shape.w / 2,
            ..self.shape
        };
        if output.is_empty() {
            return Err(Error::invalid_hint(
                format_args!("layer {name}"),
                "an input of at least 2x2 pixels",
                self.shape,
                "five poolings need a --crop of at least 32",
            ));
        }
        self.push(name, Op::MaxPool, output, &[]);
        Ok(())
    }

    /// Adaptive average pooling to `side` x `side` means.
    pub fn average_pool(&mut self, name: String, side: usize) {
        let output = Chw::new(self.shape.c, side, side);
        self.push(name, Op::AveragePool { side }, output, &[]);
    }

    /// A fully connected layer with `outputs` outputs. The first one starts torchvision's `classifier` section.
    pub fn linear(&mut self, name: String, outputs: usize) {
        if self.section == Section::Features {
            self.section = Section::Classifier;
            self.module = 0;
        }
        let weight = vec![outputs, self.shape.len()];
        let output = Chw::new(outputs, 1, 1);
        self.push(
            name,
            Op::Linear,
            output,
            &[(Role::Weight, weight), (Role::Bias, vec![outputs])],
        );
    }

    /// Dropout with probability `p`; stays in the network at `p = 0`, so that names do not depend on it.
    pub fn dropout(&mut self, name: String, p: f32) {
        self.push(name, Op::Dropout { p }, self.shape, &[]);
    }

    /// The network; its classes are the outputs of the last layer.
    pub fn finish(mut self) -> Network {
        self.network.classes = self.shape.len();
        self.network
    }

    fn push(&mut self, name: String, op: Op, output: Chw, arrays: &[(Role, Vec<usize>)]) {
        let first = self.network.parameters.len();
        for (role, dims) in arrays {
            let suffix = match role {
                Role::Weight | Role::Scale => "weight",
                Role::Bias | Role::Shift => "bias",
                Role::RunningMean => "running_mean",
                Role::RunningVariance => "running_var",
            };
            self.network.parameters.push(Parameter {
                name: format!("{}.{}.{suffix}", self.section.name(), self.module),
                layer: self.network.layers.len(),
                role: *role,
                dims: dims.clone(),
                offset: self.network.flat_len(),
            });
        }
        debug_assert!(self.network.flat_len().is_multiple_of(PARAMETER_ALIGNMENT));
        let parameters = first..self.network.parameters.len();
        self.network.layers.push(Layer {
            name,
            op,
            input: self.shape,
            output,
            parameters,
        });
        self.shape = output;
        self.module += 1;
    }
}
