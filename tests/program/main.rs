//! The program as people and scripts use it, on images and shards made by the tests.

mod bench;
mod chain;
mod doctor;
mod errors;
mod evaluation;
mod exactness;
mod forecast;
mod images;
mod interruption;
mod plans;
mod planted;
mod protocols;
mod replicas;
mod simulated;
mod taken_away;
mod tool;
