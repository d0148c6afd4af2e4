//! On the simulated device (`tools/cudasim`), which counts and forbids what no GPU does.

mod faults;
mod graphs;
mod memory;
mod plans;
mod precision;
mod simulator;
mod training;
