//! Writes the place of libtorch into the run path of the worker's binaries, tests and benchmarks, so that they
//! start without LD_LIBRARY_PATH.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if let Some(libtorch) = std::env::var_os("LIBTORCH") {
        let lib = std::path::Path::new(&libtorch).join("lib");
        let lib = lib.canonicalize().unwrap_or(lib);
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
        // libtorch_cpu.so of the wheel also links two small CUDA libraries that lie beside torch.
        if let Some(site) = lib.parent().and_then(std::path::Path::parent) {
            println!("cargo::rustc-link-arg=-Wl,-rpath-link,{}", site.join("nvidia/cu13/lib").display());
        }
    }
}
