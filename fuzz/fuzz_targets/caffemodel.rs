#![no_main]
verydeep_fuzz::fuzz!(caffemodel);
