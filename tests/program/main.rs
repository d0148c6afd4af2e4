//! The program as people and scripts use it, on images and shards made by the tests.

mod audits;
mod bad_data;
mod bench;
mod chain;
mod data_page;
mod doctor;
mod errors;
mod evaluation;
mod exactness;
mod exif;
mod forecast;
mod images;
mod interruption;
mod named;
mod plans;
mod planted;
mod protocols;
mod replicas;
mod reproduced;
mod simulated;
mod survival;
mod taken_away;
mod tool;
