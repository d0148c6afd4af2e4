//! How GPUs reach one another, by the data sheets of the machines that they are built into.

/// Assumed, not fitted: exchanges of slices reach about this part of the data sheet's bandwidth of a link, inside a node
/// and between nodes.
pub const LINK_EFFICIENCY: f64 = 0.8;

/// A machine with several GPUs of one kind. Rates are the vendor's, in one direction; both directions at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    /// The product.
    pub model: &'static str,
    /// Where its figures are from.
    pub source: &'static str,
    /// GPUs in it.
    pub gpus: usize,
    /// Bytes/s that one GPU sends to others of its node.
    pub inside: f64,
    /// What carries them.
    pub link: &'static str,
    /// Network adapters for this purpose.
    pub adapters: usize,
    /// Bytes/s that one of them sends to other nodes.
    pub adapter: f64,
    /// What they are.
    pub network: &'static str,
}

impl Node {
    /// Bytes/s that so many of its GPUs send to other nodes together, each through the adapter that is nearest.
    pub fn network_of(&self, gpus: usize) -> f64 {
        gpus.min(self.adapters) as f64 * self.adapter
    }
}

/// 10^9 bytes/s.
const GIGABYTE: f64 = 1e9;
/// 10^9 bits/s.
const GIGABIT: f64 = 1e9 / 8.0;
/// 8 GT/s on 16 lanes, 128 of 130 bits are data.
const PCIE_3_X16: f64 = 16.0 * 8.0 * GIGABIT * 128.0 / 130.0;

/// 18 NVLinks of 25 GB/s in each direction; 900 GB/s are both directions.
pub(super) const DGX_H200: Node = Node {
    model: "DGX H200",
    source: "NVIDIA DGX H200 data sheet",
    gpus: 8,
    inside: 450.0 * GIGABYTE,
    link: "NVLink 4 through NVSwitch",
    adapters: 8,
    adapter: 400.0 * GIGABIT,
    network: "NDR, ConnectX-7",
};

/// As the DGX H200.
pub(super) const DGX_H100: Node = Node {
    model: "DGX H100",
    source: "NVIDIA DGX H100 data sheet",
    ..DGX_H200
};

/// 12 NVLinks of 25 GB/s in each direction; 600 GB/s are both directions.
pub(super) const DGX_A100: Node = Node {
    model: "DGX A100",
    source: "NVIDIA DGX A100 data sheet",
    gpus: 8,
    inside: 300.0 * GIGABYTE,
    link: "NVLink 3 through NVSwitch",
    adapters: 8,
    adapter: 200.0 * GIGABIT,
    network: "HDR, ConnectX-6",
};

/// 6 NVLinks of 25 GB/s in each direction. No switch: a GPU has links to 4 of the 7 others.
pub(super) const DGX_1_V100: Node = Node {
    model: "DGX-1 (V100)",
    source: "NVIDIA DGX-1 with Tesla V100 System Architecture, white paper",
    gpus: 8,
    inside: 150.0 * GIGABYTE,
    link: "NVLink 2 as a hybrid cube mesh, counted as if it joined all pairs",
    adapters: 4,
    adapter: 100.0 * GIGABIT,
    network: "EDR, ConnectX-4",
};

/// 4 NVLinks of 20 GB/s in each direction. No switch: a GPU has links to 4 of the 7 others.
pub(super) const DGX_1_P100: Node = Node {
    model: "DGX-1 (P100)",
    source: "NVIDIA DGX-1 data sheet (Tesla P100)",
    gpus: 8,
    inside: 80.0 * GIGABYTE,
    link: "NVLink 1 as a hybrid cube mesh, counted as if it joined all pairs",
    adapters: 4,
    adapter: 100.0 * GIGABIT,
    network: "EDR, ConnectX-4",
};

/// NVIDIA sold none with the RTX 3090: its own PCI Express, and a network that is assumed.
pub(super) const BOX_OF_RTX_3090: Node = Node {
    model: "a server of PCI Express cards",
    source: "NVIDIA Ampere GA102 GPU Architecture, white paper v2.0: PCI Express 4.0 x16; the network is assumed",
    gpus: 8,
    inside: 2.0 * PCIE_3_X16,
    link: "PCI Express 4.0 x16 for each GPU, counted as if nothing behind it were shared",
    adapters: 1,
    adapter: 100.0 * GIGABIT,
    network: "an assumption",
};

/// Four cards in slots of 16 lanes each.
pub(super) const DIGITS_DEVBOX: Node = Node {
    model: "DIGITS DevBox",
    source: "NVIDIA DIGITS DevBox, product page; the network is assumed",
    gpus: 4,
    inside: PCIE_3_X16,
    link: "PCI Express 3.0 x16 for each GPU, counted as if nothing behind it were shared",
    adapters: 1,
    adapter: 10.0 * GIGABIT,
    network: "an assumption",
};

/// The paper does not say which machine it was.
pub(super) const THE_PAPERS_SYSTEM: Node = Node {
    model: "the paper's \"off-the-shelf 4-GPU system\"",
    source: "section 3.3 of the paper; links and network are assumed",
    ..DIGITS_DEVBOX
};
