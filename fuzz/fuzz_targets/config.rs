#![no_main]

medley_fuzz::target!(medley_fuzz::config::check);
