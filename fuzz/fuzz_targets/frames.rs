#![no_main]

medley_fuzz::target!(medley_fuzz::frames::check);
